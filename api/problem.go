package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// Problem is a problem document (RFC 9457).
type Problem struct {
	Type   string            `json:"type" doc:"Always about:blank: title says what status says."`
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail,omitempty" doc:"What happened, and what to do."`
	Code   string            `json:"code,omitempty" doc:"A stable name of the error, where it has one."`
	Errors []auth.FieldError `json:"errors,omitempty" doc:"Everything that is wrong with the request, by JSON pointer."`

	retryAfter int // seconds
}

// Error implements error.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="embercast"`)
	}
	return h
}

func problem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

func unprocessable(pointer, message string) *Problem {
	p := problem(http.StatusUnprocessableEntity, "invalid", "The request is well-formed, but not valid.")
	p.Errors = []auth.FieldError{{Pointer: pointer, Message: message}}
	return p
}

// fromHuma makes problem documents of what huma finds wrong with a request.
func fromHuma(status int, message string, errs ...error) huma.StatusError {
	p := problem(status, "", message)
	switch status {
	case http.StatusUnprocessableEntity:
		p.Code, p.Detail = "invalid", "The request is well-formed, but not valid."
	case http.StatusBadRequest:
		p.Code = "malformed"
	}
	for _, err := range errs {
		if err == nil {
			continue
		}
		e := problemOf(err, "")
		// A body that is no JSON at all is malformed, not invalid.
		if strings.HasPrefix(e.Message, "invalid character") || strings.HasPrefix(e.Message, "unexpected end of JSON") || e.Message == "unexpected EOF" {
			p.Status, p.Title, p.Code, p.Detail = http.StatusBadRequest, http.StatusText(http.StatusBadRequest), "malformed", "The body is not JSON: "+e.Message
		}
		p.Errors = append(p.Errors, e)
	}
	return p
}

// problemOf makes a problem of what huma found wrong at a place below at.
func problemOf(err error, at string) auth.FieldError {
	var d huma.ErrorDetailer
	if errors.As(err, &d) {
		detail := d.ErrorDetail()
		return auth.FieldError{Pointer: at + pointer(detail.Location), Message: detail.Message}
	}
	return auth.FieldError{Pointer: at, Message: err.Error()}
}

// pointer makes a JSON pointer of a location such as body.items[3].tags; what is not in the body keeps its name.
func pointer(location string) string {
	rest, inBody := strings.CutPrefix(location, "body")
	if !inBody {
		return location
	}
	r := strings.NewReplacer(".", "/", "[", "/", "]", "")
	return r.Replace(rest)
}

// tell makes a problem document of an error of the control plane or the broker.
func (s *service) tell(ctx context.Context, err error) *Problem {
	var told *Problem
	var invalid *auth.ValidationError
	switch {
	case errors.As(err, &told):
		return told
	case errors.As(err, &invalid):
		p := problem(http.StatusUnprocessableEntity, "invalid", "The request is well-formed, but not valid.")
		p.Errors = invalid.Fields
		return p
	case errors.Is(err, auth.ErrUnavailable):
		p := problem(http.StatusServiceUnavailable, "store_unavailable", "The database is away. Try again in a moment.")
		p.retryAfter = 1
		return p
	case errors.Is(err, auth.ErrNotFound):
		return problem(http.StatusNotFound, "not_found", "There is no such thing.")
	case errors.Is(err, auth.ErrConflict):
		return problem(http.StatusPreconditionFailed, "changed", "It has changed in the meantime: read it again, and send its new ETag in If-Match.")
	case errors.Is(err, auth.ErrTaken):
		return problem(http.StatusConflict, "taken", "This id is taken.")
	case errors.Is(err, auth.ErrNoSigningKey):
		return problem(http.StatusConflict, "no_signing_key", "The app has no key that can sign tokens. Create one of kind signing.")
	}
	o := broker.OutcomeOf(err)
	p := problem(o.Status, o.Code, "")
	if o.Status == http.StatusInternalServerError {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "request failed", slog.String("error", err.Error()))
		p.Detail = "Something went wrong in the server. Its log says what."
		return p
	}
	p.Detail = sentence(o.Err.Error())
	if o.Status == http.StatusServiceUnavailable || o.Status == http.StatusTooManyRequests {
		p.retryAfter = 1
	}
	return p
}

func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] + "." }

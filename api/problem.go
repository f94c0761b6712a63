package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

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
	Errors []auth.FieldError `json:"errors,omitempty" doc:"Everything that is wrong with the request: JSON pointers into the body, or query.name, header.name."`

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
		h.Set("WWW-Authenticate", challenge(p.Code))
	}
	return h
}

// challenge is what RFC 6750 section 3 asks for.
func challenge(code string) string {
	if code == "no_credentials" {
		return `Bearer realm="embercast"`
	}
	return `Bearer realm="embercast", error="invalid_token"`
}

func problem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

func malformed(detail string) *Problem { return problem(http.StatusBadRequest, "malformed", detail) }

// invalid tells what is wrong with a request that can be read.
func invalid(errs []auth.FieldError) *Problem {
	p := problem(http.StatusUnprocessableEntity, "invalid", "The request is well-formed, but not valid.")
	p.Errors = errs
	return p
}

func unprocessable(pointer, message string) *Problem {
	return invalid([]auth.FieldError{{Pointer: pointer, Message: message}})
}

// tooMany tells how long to wait.
func tooMany(wait time.Duration, detail string) *Problem {
	p := problem(http.StatusTooManyRequests, "rate_exceeded", detail)
	p.retryAfter = int((wait + time.Second - 1) / time.Second)
	return p
}

func unavailable(code, detail string) *Problem {
	return retried(problem(http.StatusServiceUnavailable, code, detail))
}

// fromHuma makes problem documents of what huma finds wrong with a request.
func fromHuma(status int, message string, errs ...error) huma.StatusError {
	if status != http.StatusUnprocessableEntity && status != http.StatusBadRequest {
		return problem(status, "", message)
	}
	return invalid(fieldErrors(errs, ""))
}

// fieldErrors makes of what huma found below a place of the body what a person can act on, in order.
func fieldErrors(errs []error, at string) []auth.FieldError {
	var all []auth.FieldError
	for _, err := range errs {
		var d huma.ErrorDetailer
		if !errors.As(err, &d) {
			all = append(all, auth.FieldError{Pointer: at, Message: "is not valid"})
			continue
		}
		detail := d.ErrorDetail()
		where, message := explain(detail.Message)
		all = append(all, auth.FieldError{Pointer: at + pointer(detail.Location) + where, Message: message})
	}
	slices.SortStableFunc(all, func(x, y auth.FieldError) int { return cmp.Compare(x.Pointer, y.Pointer) })
	return slices.Compact(all)
}

// pointer makes a JSON pointer of a location such as body.items[3].tags; what is not in the body keeps its name.
func pointer(location string) string {
	rest, inBody := strings.CutPrefix(location, "body")
	if !inBody {
		return location
	}
	return strings.NewReplacer("~", "~0", "/", "~1", ".", "/", "[", "/", "]", "").Replace(rest)
}

// explanations are huma's beginnings of messages and ours.
var explanations = []struct{ huma, ours string }{ //nolint:gochecknoglobals // a table
	{"unexpected property", "is not known here"},
	{"expected string to be RFC 3339 date-time", "must be a time such as 2027-01-01T00:00:00Z"},
	{"expected string", "must be text"},
	{"expected boolean", "must be true or false"},
	{"invalid boolean", "must be true or false"},
	{"expected integer", "must be a whole number"},
	{"invalid integer", "must be a whole number"},
	{"expected number >= ", "must be at least "},
	{"expected number <= ", "must be at most "},
	{"expected array length >= ", "must hold at least "},
	{"expected array length <= ", "must hold at most "},
	{"expected length >= ", "must be longer, its characters at least "},
	{"expected length <= ", "must be shorter, its characters at most "},
	{"expected number", "must be a number"},
	{"expected array", "must be a list"},
	{"expected object", "must be an object"},
	{"expected value to be one of ", "must be one of "},
	{"required query parameter is missing", "is missing"},
	{"required path parameter is missing", "is missing"},
}

// explain says a message of huma's in our words; where names a member of the place that it is about.
func explain(message string) (where, ours string) {
	if name, ok := strings.CutPrefix(message, "expected required property "); ok {
		return "/" + strings.TrimSuffix(name, " to be present"), "is missing"
	}
	for _, e := range explanations {
		if rest, ok := strings.CutPrefix(message, e.huma); ok {
			if strings.HasSuffix(e.huma, " ") {
				return "", e.ours + strings.Trim(rest, `"`)
			}
			return "", e.ours
		}
	}
	return explainDecoding(message)
}

// explainDecoding is for what passed the schema and is still no value of its kind, such as 1e3 for a whole number.
// encoding/json says where: "json: cannot unmarshal number 1e3 into Go struct field token.ttl of type int64".
func explainDecoding(message string) (where, ours string) {
	_, rest, _ := strings.Cut(message, " Go struct field ")
	place, kind, _ := strings.Cut(rest, " of type ")
	if _, path, ok := strings.Cut(place, "."); ok {
		where = "/" + strings.ReplaceAll(path, ".", "/")
	}
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return where, "must be a whole number, written as digits alone, within its bounds"
	case kind == "string":
		return where, "must be text"
	}
	return where, "is not valid"
}

func decodingErrors(err error, at string) []auth.FieldError {
	where, message := explainDecoding(err.Error())
	return []auth.FieldError{{Pointer: at + where, Message: message}}
}

// outcomes is how the errors of the control plane are told, as the broker's table (broker/errors.go) says it of the
// engine's. Whatever else names a status in this package is about HTTP itself: credentials, paths, headers and bodies.
var outcomes = []struct {
	err    error
	status int
	code   string
	detail string
}{ //nolint:gochecknoglobals // a table
	{auth.ErrUnavailable, http.StatusServiceUnavailable, "store_unavailable", "The database is away. Try again in a moment."},
	{auth.ErrNotFound, http.StatusNotFound, "not_found", "There is no such thing."},
	{auth.ErrConflict, http.StatusPreconditionFailed, "changed", "It has changed in the meantime: read it again, and send its new ETag in If-Match."},
	{auth.ErrTaken, http.StatusConflict, "taken", "This id is taken."},
	{auth.ErrNoSigningKey, http.StatusConflict, "no_signing_key", "The app has no key that can sign tokens. Create one of kind signing."},
	{auth.ErrBadCredentials, http.StatusUnauthorized, "bad_credentials", "The credential is not valid here: unknown, expired or deleted."},
}

// tell makes a problem document of an error of the control plane or the broker.
func (s *service) tell(ctx context.Context, err error) *Problem {
	var told *Problem
	var wrong *auth.ValidationError
	var limit *auth.LimitError
	switch {
	case errors.As(err, &told):
		return told
	case errors.As(err, &wrong):
		return invalid(wrong.Fields)
	case errors.As(err, &limit):
		return problem(http.StatusConflict, "limit_reached", limit.Sentence)
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return retried(problem(o.status, o.code, o.detail))
		}
	}
	o := broker.OutcomeOf(err)
	if o.Status == http.StatusInternalServerError {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "request failed", slog.String("error", err.Error()))
	}
	return retried(problem(o.Status, o.Code, o.Sentence))
}

// retried says when to try again, where that may help.
func retried(p *Problem) *Problem {
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		p.retryAfter = 1
	}
	return p
}

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"

	"github.com/embercast/embercast/auth"
)

// bodyBytesMax bounds the body of an operation that names no other bound (chosen: 10,000 rules of 100 bytes fit).
const bodyBytesMax = 1 << 20

// bodyLimit is how many bytes the body of an operation may have, when it is not bodyBytesMax.
type bodyLimit func(app auth.App) int

const bodyLimitKey = "body_limit"

// readBody reads the body of a call that was let through, so that nobody unknown makes the server hold more than a
// request's head; it bounds it, and sees that it is JSON.
func (s *service) readBody(ctx huma.Context, next func(huma.Context)) {
	limit := bodyBytesMax
	if of, ok := ctx.Operation().Metadata[bodyLimitKey].(bodyLimit); ok {
		limit = of(calling(ctx.Context()).who.App)
	}
	var body []byte
	if r := ctx.BodyReader(); r != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(r, int64(limit)+1))
		if err != nil {
			writeProblem(ctx, malformed("The body did not arrive whole."))
			return
		}
	}
	if len(body) > limit {
		writeProblem(ctx, problem(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("The body may have at most %d bytes.", limit)))
		return
	}
	if wrong := judgeBody(ctx, body); wrong != nil {
		writeProblem(ctx, wrong)
		return
	}
	next(&bodyContext{humaContext: ctx, body: body})
}

// judgeBody says what is wrong with a body before its members are looked at.
func judgeBody(ctx huma.Context, body []byte) *Problem {
	wanted := ctx.Operation().RequestBody
	switch {
	case wanted == nil, len(body) == 0 && !wanted.Required:
		return nil
	case len(body) == 0:
		return malformed("The body is empty: it must be JSON.")
	case !isJSON(ctx.Header("Content-Type")):
		return problem(http.StatusUnsupportedMediaType, "not_json", "Send JSON, with Content-Type: application/json (curl does so with --json).")
	case ctx.Header("Content-Encoding") != "" && !strings.EqualFold(ctx.Header("Content-Encoding"), "identity"):
		return problem(http.StatusUnsupportedMediaType, "encoded", "Send the body as it is, without a Content-Encoding.")
	case !utf8.Valid(body):
		return malformed("The body is not UTF-8 text.")
	case json.Valid(body):
		return nil
	}
	var whole json.RawMessage
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(body, &whole)); ok {
		return malformed(fmt.Sprintf("The body is not JSON: %s, at byte %d.", syntax, syntax.Offset))
	}
	return malformed("The body is not JSON.")
}

// isJSON reports whether a Content-Type says JSON, or says nothing.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
}

// bodyDiscardMax is how much of a body that nobody wants is taken in and thrown away (chosen: above what a publish call
// may hold). A client that is still sending when the connection is closed never sees why it was refused.
const bodyDiscardMax = 32 << 20

// discardBody takes in the rest of the body, after the call, when it is not too large for that.
func (s *service) discardBody(ctx huma.Context, next func(huma.Context)) {
	next(ctx)
	r := humafiber.Unwrap(ctx).Request()
	if rest := r.BodyStream(); rest != nil && r.Header.ContentLength() <= bodyDiscardMax {
		_, _ = io.CopyN(io.Discard, rest, bodyDiscardMax) //nolint:errcheck // the answer stands
	}
}

type humaContext = huma.Context

// bodyContext is a context whose body was read, and is JSON.
type bodyContext struct {
	humaContext
	body []byte
}

// BodyReader implements huma.Context.
func (c *bodyContext) BodyReader() io.Reader { return bytes.NewReader(c.body) }

// Header implements huma.Context. The body is JSON, in whatever words that was said.
func (c *bodyContext) Header(name string) string {
	if strings.EqualFold(name, "Content-Type") {
		return "application/json"
	}
	return c.humaContext.Header(name)
}

// Unwrap lets humafiber find its own context.
func (c *bodyContext) Unwrap() huma.Context { return c.humaContext }

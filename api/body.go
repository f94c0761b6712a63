package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

// bodyBytesMax bounds the body of an operation that names no other bound (chosen: 10,000 rules of 100 bytes fit).
const bodyBytesMax = 1 << 20

// bodyLimit is how many bytes the body of an operation may have, when it depends on the app.
type bodyLimit func(app auth.App) int

const bodyLimitKey = "body_limit"

// readBody reads the body of a call that was let through, so that nobody unknown makes the server hold more than a
// request's head, and bounds it.
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
			writeProblem(ctx, problem(http.StatusBadRequest, "malformed", "The body did not arrive whole."))
			return
		}
	}
	if len(body) > limit {
		writeProblem(ctx, problem(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("The body may have at most %d bytes.", limit)))
		return
	}
	next(&bodyContext{humaContext: ctx, body: body})
}

type humaContext = huma.Context

// bodyContext is a context whose body was read.
type bodyContext struct {
	humaContext
	body []byte
}

// BodyReader implements huma.Context.
func (c *bodyContext) BodyReader() io.Reader { return bytes.NewReader(c.body) }

// Unwrap lets humafiber find its own context.
func (c *bodyContext) Unwrap() huma.Context { return c.humaContext }

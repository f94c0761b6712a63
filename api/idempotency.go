package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"

	"github.com/embercast/embercast/auth"
)

const idempotencyKeyMax = 255 // characters (chosen; what other APIs take)

// idempotent makes a POST with an Idempotency-Key happen once: a repetition gets the first answer again, for 24 h. The
// answers are sealed in the store, since some hold a key's value.
func (s *service) idempotent(ctx huma.Context, next func(huma.Context)) {
	key := ctx.Header("Idempotency-Key")
	if ctx.Method() != http.MethodPost || key == "" || accessOf(ctx.Operation()).Open {
		next(ctx)
		return
	}
	if len(key) > idempotencyKeyMax {
		writeProblem(ctx, unprocessable("header.Idempotency-Key", fmt.Sprintf("must have at most %d characters", idempotencyKeyMax)))
		return
	}
	body, ok := ctx.(*bodyContext)
	if !ok {
		panic("api: idempotent runs before readBody")
	}
	name := idempotencyName(calling(ctx.Context()), key)
	stored, found, err := s.cfg.Directory.ClaimAnswer(ctx.Context(), name, requestOf(ctx, body.body))
	switch {
	case errors.Is(err, auth.ErrOtherRequest):
		writeProblem(ctx, unprocessable("header.Idempotency-Key", "was used for another request: use a fresh key for each"))
	case err != nil:
		writeProblem(ctx, s.tell(ctx.Context(), err))
	case found && stored.Status == 0:
		p := problem(http.StatusConflict, "in_progress", "The first request with this Idempotency-Key has not been answered: it is under way, or the server stopped in it. Look whether it took effect before you use a fresh key.")
		p.retryAfter = 1
		writeProblem(ctx, p)
	case found:
		answerAgain(ctx, stored)
	default:
		s.answerOnce(ctx, name, next)
	}
}

// idempotencyName gives each caller keys of its own. Those who share a credential, or have none, are told apart by
// their address.
func idempotencyName(c *call, key string) string {
	caller := []string{c.who.Kind, fmt.Sprint(c.who.App.UID), c.who.KeyID, ""}
	switch c.who.Kind {
	case auth.PrincipalClient:
		caller[3] = c.who.Grant.Subject()
	case auth.PrincipalPublishable, auth.PrincipalNone:
		caller[3] = c.remote
	}
	n := sha256.Sum256([]byte(strings.Join(append(caller, key), "\x00")))
	return hex.EncodeToString(n[:])
}

// requestOf is what makes two requests the same: all but the credentials, which may be renewed in between.
func requestOf(ctx huma.Context, body []byte) []byte {
	u := ctx.URL()
	q := u.Query()
	q.Del("auth")
	q.Del("token")
	return append([]byte(ctx.Method()+" "+u.EscapedPath()+"?"+q.Encode()+"\x00"), body...)
}

// answerOnce lets the call happen, and keeps its answer. One that may turn out otherwise next time (the server's own
// failures, too many requests) gives the key back, and so does a call that panics.
func (s *service) answerOnce(ctx huma.Context, name string, next func(huma.Context)) {
	keep := s.cfg.Directory.ReleaseAnswer
	defer func() {
		// A caller that has gone does not undo what was done.
		if err := keep(context.WithoutCancel(ctx.Context()), name); err != nil {
			s.cfg.Logger.LogAttrs(ctx.Context(), slog.LevelWarn, "answer of an idempotent request not kept", slog.String("error", err.Error()))
		}
	}()
	next(ctx)
	r := humafiber.Unwrap(ctx).Response()
	if status := r.StatusCode(); status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		return
	}
	location := bytes.ReplaceAll(r.Header.Peek("Location"), []byte("\n"), nil)
	a := auth.Answer{
		Status: r.StatusCode(), ContentType: string(r.Header.ContentType()),
		Body: bytes.Join([][]byte{location, r.Body()}, []byte("\n")),
	}
	keep = func(ctx context.Context, name string) error { return s.cfg.Directory.KeepAnswer(ctx, name, a) }
}

func answerAgain(ctx huma.Context, a auth.Answer) {
	location, body, _ := bytes.Cut(a.Body, []byte("\n"))
	if len(location) > 0 {
		ctx.SetHeader("Location", string(location))
	}
	ctx.SetHeader("Content-Type", a.ContentType)
	ctx.SetHeader("Idempotency-Replayed", "true")
	ctx.SetStatus(a.Status)
	_, _ = ctx.BodyWriter().Write(body) //nolint:errcheck // a buffer
}

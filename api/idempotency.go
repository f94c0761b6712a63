package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
		writeProblem(ctx, unprocessable("header.Idempotency-Key", "must have at most 255 characters"))
		return
	}
	body, ok := ctx.(*bodyContext)
	if !ok {
		panic("api: idempotent runs before readBody")
	}
	name, fingerprint := idempotencyNames(calling(ctx.Context()), key, ctx, body.body)
	stored, found, err := s.cfg.Directory.ClaimAnswer(ctx.Context(), name, fingerprint)
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
		ctx.SetHeader("Content-Type", stored.ContentType)
		ctx.SetHeader("Idempotency-Replayed", "true")
		ctx.SetStatus(stored.Status)
		_, _ = ctx.BodyWriter().Write(stored.Body) //nolint:errcheck // a buffer
	default:
		next(ctx)
		s.keepAnswer(ctx, name, fingerprint)
	}
}

// idempotencyNames gives each caller keys of its own, and tells requests apart.
func idempotencyNames(c *call, key string, ctx huma.Context, body []byte) (name string, fingerprint []byte) {
	caller := []string{c.who.Kind, c.who.App.ID, c.who.KeyID, c.who.Actor}
	if c.who.Kind == auth.PrincipalPublishable {
		// All visitors of a page share its key.
		caller = append(caller, c.remote)
	}
	n := sha256.Sum256([]byte(strings.Join(caller, "\x00") + "\x00" + key))
	u := ctx.URL()
	f := sha256.New()
	f.Write([]byte(ctx.Method() + "\x00" + u.RequestURI() + "\x00"))
	f.Write(body)
	return hex.EncodeToString(n[:]), f.Sum(nil)
}

// keepAnswer remembers an answer; one that may turn out otherwise next time (the server's own failures, too many
// requests) gives the key back.
func (s *service) keepAnswer(ctx huma.Context, name string, fingerprint []byte) {
	r := humafiber.Unwrap(ctx).Response()
	status := r.StatusCode()
	var err error
	if status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		err = s.cfg.Directory.ReleaseAnswer(ctx.Context(), name)
	} else {
		err = s.cfg.Directory.KeepAnswer(ctx.Context(), name, auth.Answer{
			Fingerprint: fingerprint, Status: status, ContentType: string(r.Header.ContentType()), Body: r.Body(),
		})
	}
	if err != nil {
		s.cfg.Logger.LogAttrs(ctx.Context(), slog.LevelWarn, "answer of an idempotent request not kept", slog.String("error", err.Error()))
	}
}

package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"

	"github.com/embercast/embercast/auth"
)

const (
	idempotencyKeyMax = 255            // characters (chosen; what other APIs take)
	keptFor           = 24 * time.Hour // CONTRACT section 3
)

// KeptAnswers bounds how many answers of calls with an Idempotency-Key are kept at a time, for each app. Zero takes the
// default (chosen: an answer takes some 300 bytes). The count begins anew with the server.
type KeptAnswers struct {
	OfServers int // of its secret keys and its admin, together; default 10,000,000
	OfOthers  int // of all who stand under the rules, and of visitors, together; default 1,000,000
	OfEach    int // of each of those; default 10,000
}

func (k KeptAnswers) withDefaults() KeptAnswers {
	return KeptAnswers{cmp.Or(k.OfServers, 10_000_000), cmp.Or(k.OfOthers, 1_000_000), cmp.Or(k.OfEach, 10_000)}
}

// room is what an answer takes of a bound: no more than that many at once, and as many again in the time they are kept.
func room(name string, most int) debt {
	one := keptFor / time.Duration(most)
	return debt{name, one, keptFor - one}
}

func (k KeptAnswers) rooms(c *call) []debt {
	app := fmt.Sprint(c.who.App.UID)
	switch c.who.Kind {
	case auth.PrincipalAdmin, auth.PrincipalSecret:
		return []debt{room(app+" servers", k.OfServers)}
	}
	return []debt{room(app+" others", k.OfOthers), room(strings.Join(callerOf(c, c.network()), " "), k.OfEach)}
}

// once is a call with an Idempotency-Key, which it claims when it is about to take effect.
type once struct {
	name    string
	request []byte
	rooms   []debt
	claimed bool         // and to be given back or answered
	stored  *auth.Answer // of the call that claimed the key before
}

type onceKey struct{}

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
	c := calling(ctx.Context())
	o := &once{name: idempotencyName(c, key), request: requestOf(ctx, body.body), rooms: s.cfg.KeptAnswers.rooms(c)}
	s.answerOnce(ctx, o, next)
	if o.stored != nil {
		humafiber.Unwrap(ctx).Response().ResetBody()
		answerAgain(ctx, *o.stored)
	}
}

// lateClaim marks an operation that claims the Idempotency-Key itself, when it knows that the call is allowed: others
// have claimed it when their handler begins.
const lateClaim = "late_claim"

// claim takes the Idempotency-Key of a call, if it has one. What is refused before writes nothing: whoever may do
// nothing cannot fill the database with answers. An error ends the call.
func (s *service) claim(ctx context.Context) error {
	o, ok := ctx.Value(onceKey{}).(*once)
	if !ok {
		return nil
	}
	if wait := s.answers.take(o.rooms...); wait > 0 {
		return tooMany(wait, "Too many calls with an Idempotency-Key: answers are kept for 24 h, and there is no room for another now.")
	}
	stored, found, err := s.cfg.Directory.ClaimAnswer(ctx, o.name, o.request)
	if found || err != nil {
		s.answers.giveBack(o.rooms...)
	}
	switch {
	case errors.Is(err, auth.ErrOtherRequest):
		return unprocessable("header.Idempotency-Key", "was used for another request: use a fresh key for each")
	case err != nil:
		return err //nolint:wrapcheck // told by register
	case found && stored.Status == 0:
		p := problem(http.StatusConflict, "in_progress", "The first request with this Idempotency-Key has not been answered: it is under way, or the server stopped in it. Look whether it took effect before you use a fresh key.")
		p.retryAfter = 1
		return p
	case found:
		o.stored = &stored
		return problem(http.StatusConflict, "", "") // idempotent puts the first answer in its place
	}
	o.claimed = true
	return nil
}

// leaveOpen keeps the Idempotency-Key of a call that may have taken effect: nobody knows what to answer, and a
// repetition must not happen again.
func leaveOpen(ctx context.Context) {
	if o, ok := ctx.Value(onceKey{}).(*once); ok {
		o.claimed = false
	}
}

// idempotencyName gives each caller keys of its own. Those who share a credential, or have none, are told apart by
// their address.
func idempotencyName(c *call, key string) string {
	n := sha256.Sum256([]byte(strings.Join(append(callerOf(c, c.remote), key), "\x00")))
	return hex.EncodeToString(n[:])
}

func callerOf(c *call, address string) []string {
	caller := []string{c.who.Kind, fmt.Sprint(c.who.App.UID), c.who.KeyID, ""}
	switch c.who.Kind {
	case auth.PrincipalClient:
		caller[3] = c.who.Grant.Subject()
	case auth.PrincipalPublishable, auth.PrincipalNone:
		caller[3] = address
	}
	return caller
}

// requestOf is what makes two requests the same: all but the credentials, which may be renewed in between.
func requestOf(ctx huma.Context, body []byte) []byte {
	u := ctx.URL()
	q := u.Query()
	q.Del("auth")
	q.Del("token")
	return append([]byte(ctx.Method()+" "+u.EscapedPath()+"?"+q.Encode()+"\x00"), body...)
}

// answerOnce lets the call happen, and keeps the answer of one that did what it was asked to. Any other has changed
// nothing, may turn out otherwise next time, and gives the key back; so does a call that panics.
func (s *service) answerOnce(ctx huma.Context, o *once, next func(huma.Context)) {
	keep := s.cfg.Directory.ReleaseAnswer
	defer func() {
		if !o.claimed {
			return
		}
		// A caller that has gone does not undo what was done.
		if err := keep(context.WithoutCancel(ctx.Context()), o.name); err != nil {
			s.cfg.Logger.LogAttrs(ctx.Context(), slog.LevelWarn, "answer of an idempotent request not kept", slog.String("error", err.Error()))
		}
	}()
	next(huma.WithValue(ctx, onceKey{}, o))
	r := humafiber.Unwrap(ctx).Response()
	if r.StatusCode() >= http.StatusMultipleChoices {
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

package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"

	"github.com/embercast/embercast/auth"
)

// call is who calls, from where, and how.
type call struct {
	who    auth.Principal
	remote string // the caller's address
	origin string // of the page that calls, or empty
}

type callKey struct{}

// calling returns the call that authorize has let through.
func calling(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		panic("api: an operation that is not open was reached without authorize")
	}
	return c
}

// actor names the caller for the audit.
func actor(ctx context.Context) string { return calling(ctx).who.Actor }

// authorize tells who calls, and holds them to the table of access: 401 without a valid credential, 404 for another
// tenant's things, 403 for what a known credential may not.
func (s *service) authorize(ctx huma.Context, next func(huma.Context)) {
	a := accessOf(ctx.Operation())
	if a.Open {
		next(ctx)
		return
	}
	credential, refused := credentialOf(ctx)
	if refused != nil {
		writeProblem(ctx, refused)
		return
	}
	app, ofApp := ctx.Param("app"), strings.HasPrefix(ctx.Operation().Path, "/v1/apps/{app}")
	who, err := s.cfg.Directory.AuthenticateBearer(ctx.Context(), app, credential)
	switch {
	case err != nil:
		writeProblem(ctx, problem(http.StatusUnauthorized, "bad_credentials", "The credential is not valid here: unknown, expired or deleted."))
	case ofApp && who.App.ID != app:
		// An admin of no such app, or somebody else's key: both are told alike.
		writeProblem(ctx, problem(http.StatusNotFound, "not_found", "There is no such app."))
	case !a.admits(&who):
		writeProblem(ctx, problem(http.StatusForbidden, "not_allowed", "This credential does not reach this call; it takes: "+strings.Join(a.names(), ", ")+"."))
	default:
		c := &call{who: who, remote: s.cfg.Remote(humafiber.Unwrap(ctx)), origin: strings.Clone(ctx.Header("Origin"))}
		next(huma.WithValue(ctx, callKey{}, c))
	}
}

// credentialOf reads the credential: Authorization: Bearer, or a client token in the URL for pages that cannot set a
// header. Keys in a URL are refused: URLs end in logs.
func credentialOf(ctx huma.Context) (string, *Problem) {
	if header := ctx.Header("Authorization"); header != "" {
		scheme, credential, ok := strings.Cut(header, " ")
		if !ok || !strings.EqualFold(scheme, "bearer") {
			return "", problem(http.StatusUnauthorized, "bad_credentials", "Authorization must be: Bearer, a space, and the credential.")
		}
		return strings.TrimSpace(credential), nil
	}
	credential := ctx.Query("auth")
	if credential == "" {
		credential = ctx.Query("token")
	}
	switch {
	case credential == "":
		return "", problem(http.StatusUnauthorized, "no_credentials", "This call needs Authorization: Bearer and a credential.")
	case !strings.HasPrefix(credential, "eyJ"):
		return "", problem(http.StatusUnauthorized, "key_in_url", "Only client tokens may come in the URL. Send keys as Authorization: Bearer, and replace this one: URLs end in logs.")
	}
	return credential, nil
}

// writeProblem answers from a middleware.
func writeProblem(ctx huma.Context, p *Problem) {
	for name, values := range p.GetHeaders() {
		ctx.SetHeader(name, values[0])
	}
	ctx.SetHeader("Content-Type", p.ContentType(""))
	ctx.SetStatus(p.Status)
	if err := compactJSON.Marshal(ctx.BodyWriter(), p); err != nil {
		ctx.SetStatus(http.StatusInternalServerError)
	}
}

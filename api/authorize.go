package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

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

// network is what counts as one caller among those without a name: an address, or the /64 that one line has in IPv6.
func (c *call) network() string {
	addr, err := netip.ParseAddr(c.remote)
	if err != nil || !addr.Is6() {
		return c.remote
	}
	network, err := addr.WithZone("").Prefix(64)
	if err != nil {
		return c.remote
	}
	return network.String()
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
	who, refused := s.identify(ctx, a, credential)
	if refused != nil {
		writeProblem(ctx, refused)
		return
	}
	c := &call{who: who, remote: s.cfg.Remote(humafiber.Unwrap(ctx)), origin: strings.Clone(ctx.Header("Origin"))}
	if wait := s.tooMany(a, c); wait > 0 {
		writeProblem(ctx, tooMany(wait, "Too many tokens from this address. Keep the one you have until it expires."))
		return
	}
	next(huma.WithValue(ctx, callKey{}, c))
}

func (s *service) identify(ctx huma.Context, a access, credential string) (auth.Principal, *Problem) {
	app, ofApp := ctx.Param("app"), strings.HasPrefix(ctx.Operation().Path, "/v1/apps/{app}")
	if credential == "" {
		if who, err := s.cfg.Directory.AuthenticateAnonymous(app); err == nil && a.admits(&who) {
			return who, nil
		}
		return auth.Principal{}, problem(http.StatusUnauthorized, "no_credentials", "This call needs Authorization: Bearer and a credential; it takes: "+strings.Join(a.names(), ", ")+".")
	}
	who, err := s.cfg.Directory.AuthenticateBearer(ctx.Context(), app, credential)
	switch {
	case err != nil:
		return who, problem(http.StatusUnauthorized, "bad_credentials", "The credential is not valid here: unknown, expired or deleted.")
	case ofApp && who.App.ID != app:
		// An admin of no such app, or somebody else's key: both are told alike.
		return who, problem(http.StatusNotFound, "not_found", "There is no such app.")
	case !a.admits(&who):
		return who, problem(http.StatusForbidden, "not_allowed", "This credential does not reach this call; it takes: "+strings.Join(a.names(), ", ")+".")
	}
	return who, nil
}

// tooMany holds those who share a key that stands in a page to a rate, each address by itself. It returns 0, or how
// long to wait.
func (s *service) tooMany(a access, c *call) time.Duration {
	if !a.Publishable {
		return 0
	}
	return s.visitors.take(debt{c.who.KeyID + " " + c.network(), visitorEvery, (visitorBurst - 1) * visitorEvery})
}

// credentialOf reads the credential: Authorization: Bearer, or a client token in the URL for pages that cannot set a
// header; "" where there is none. Keys in a URL are refused: URLs end in logs.
func credentialOf(ctx huma.Context) (string, *Problem) {
	u := ctx.URL()
	query := u.Query()
	inURL := slices.DeleteFunc(slices.Concat(query["auth"], query["token"]), func(v string) bool { return v == "" })
	if slices.ContainsFunc(inURL, func(v string) bool { return !auth.HasTokenForm(v) }) {
		return "", problem(http.StatusUnauthorized, "key_in_url", "Only client tokens may come in the URL. Send keys as Authorization: Bearer, and replace this one: URLs end in logs.")
	}
	header := ctx.Header("Authorization")
	if header == "" && len(inURL) > 0 {
		return inURL[0], nil
	}
	if header == "" {
		return "", nil
	}
	if credential := bearer(header); credential != "" {
		return credential, nil
	}
	return "", problem(http.StatusUnauthorized, "bad_credentials", "Authorization must be: Bearer, a space, and the credential.")
}

// bearer returns the credential in an Authorization header, or "".
func bearer(header string) string {
	scheme, credential, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(credential)
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

package auth

import (
	"context"
	"strings"
)

// Credentials are what an MQTT client shows at CONNECT.
type Credentials struct {
	PathApp     string // the app in the WebSocket path
	QueryToken  string // ?token= of the WebSocket URL
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte
	ClientID    string // as sent
}

// Authenticate tells who an MQTT client is (CONTRACT section 4). An unknown app and bad credentials are told alike.
func (d *Directory) Authenticate(_ context.Context, c Credentials) (*Grant, error) {
	if c.ClientID == "." || c.ClientID == ".." {
		return nil, ErrClientID
	}
	a, ok := d.appOf(c)
	if !ok {
		return nil, ErrBadCredentials
	}
	password := string(c.Password)
	if password == "" {
		// URLs end in logs: only a client token may come in one.
		if password = c.QueryToken; hasKeyForm(password) {
			return nil, ErrBadCredentials
		}
	}
	g, err := d.grant(a, password)
	if err != nil {
		return nil, err
	}
	if g.bound != "" && g.bound != c.ClientID || g.bound == "" && a.reserved(c.ClientID) {
		return nil, ErrClientID
	}
	g.clientID = c.ClientID
	a.watch(g.own, d.now(), g.expires)
	return g, nil
}

// appOf names the app: the path's, else the user name's, else the default. With a default app a user name that names
// no app counts as naming none.
func (d *Directory) appOf(c Credentials) (*appState, bool) {
	if c.PathApp != "" {
		return d.state(c.PathApp)
	}
	if c.HasUsername && c.Username != "" {
		name, _, _ := strings.Cut(c.Username, "/")
		if a, ok := d.state(name); ok || d.cfg.DefaultApp == "" {
			return a, ok
		}
	}
	return d.state(d.cfg.DefaultApp)
}

// grant verifies a password: a client token, a device key, a secret key, or none where the app allows that.
func (d *Directory) grant(a *appState, password string) (*Grant, error) {
	switch {
	case hasKeyForm(password):
		k, ok := a.credential(password)
		if !ok || k.Kind == KindPublishable {
			return nil, ErrBadCredentials
		}
		k.used(d.now())
		return d.keyGrant(a, k), nil
	case HasTokenForm(password):
		id, err := d.verify(a, password)
		if err != nil {
			return nil, ErrBadCredentials
		}
		return d.tokenGrant(a, id), nil
	case a.snapshot().Settings.Anonymous:
		return d.anonymousGrant(a), nil
	}
	return nil, ErrBadCredentials
}

// hasKeyForm recognises what begins as our keys and admin tokens do: it must be valid, and is never ignored.
func hasKeyForm(s string) bool {
	return strings.HasPrefix(s, valuePrefix) || strings.HasPrefix(s, AdminTokenPrefix)
}

// HasTokenForm recognises a JWS in compact form: three parts, the first an object in base64url (what begins with {"
// or, where it is spaced out, with { and a space or a line end).
func HasTokenForm(s string) bool {
	return (strings.HasPrefix(s, "ey") || strings.HasPrefix(s, "ew")) && strings.Count(s, ".") == 2
}

func (d *Directory) anonymousGrant(a *appState) *Grant {
	return &Grant{dir: d, app: a, sub: anonymousSubject}
}

// keyGrant and tokenGrant name the client id that the credential does, which is all that a caller by REST has.
func (d *Directory) keyGrant(a *appState, k *keyState) *Grant {
	g := &Grant{dir: d, app: a, keyID: k.ID}
	if k.Kind == KindSecret {
		g.sub, g.bypass, g.scopes = keySubject+k.Name, true, k.Scopes
		return g
	}
	g.sub, g.bound, g.clientID, g.own = k.Sub, k.ClientID, k.ClientID, k.own
	return g
}

func (d *Directory) tokenGrant(a *appState, id *identity) *Grant {
	g := &Grant{
		dir: d, app: a, sub: id.sub, keyID: id.key.ID, pageKey: id.pageKey, bound: id.clientID, clientID: id.clientID, claims: id.claims,
		expires: id.expires, bypass: id.bypass,
	}
	if len(id.acl) > 0 {
		g.own = newRuleSet(0, id.acl)
	}
	return g
}

// Renew verifies a new token for a live grant: same app, sub and client id (CONTRACT section 4). ErrBadCredentials for
// one that is not valid, ErrNotAllowed for one of somebody else.
func (d *Directory) Renew(_ context.Context, g *Grant, token string) (*Grant, error) {
	if g.app.deleted.Load() {
		return nil, ErrBadCredentials
	}
	id, err := d.verify(g.app, token)
	if err != nil {
		return nil, ErrBadCredentials
	}
	if id.sub != g.sub || id.clientID != g.bound {
		return nil, ErrNotAllowed
	}
	n := d.tokenGrant(g.app, id)
	n.clientID = g.clientID
	g.app.watch(n.own, d.now(), n.expires)
	return n, nil
}

// Principal is who calls by REST.
type Principal struct {
	Kind   string // PrincipalAdmin … PrincipalNone
	App    App    // zero for an admin on routes of no app
	KeyID  string // "" for an admin and for nobody
	Actor  string // for the audit: "admin", "key:{name} ({id})", or the sub
	Scopes []string
	Grant  *Grant // of secret and device keys, client tokens, and callers without credentials
}

// The kinds of principals.
const (
	PrincipalNone        = "none"
	PrincipalAdmin       = "admin"
	PrincipalSecret      = "secret"
	PrincipalDevice      = "device"
	PrincipalClient      = "client"
	PrincipalPublishable = "publishable"
)

// AuthenticateBearer tells who calls a route of an app (appID "" for routes of no app) with a bearer credential.
// ErrBadCredentials for what is not known there; it does not tell whether the app exists. The principal's App is
// another than asked for where the credential is another app's: it is known, and sees nothing here.
func (d *Directory) AuthenticateBearer(_ context.Context, appID, credential string) (Principal, error) {
	a, ok := d.state(appID)
	if d.IsAdmin(credential) {
		p := Principal{Kind: PrincipalAdmin, Actor: "admin"}
		if ok {
			p.App = *a.snapshot()
		}
		return p, nil
	}
	if ok {
		if p, err := d.principal(a, credential); err == nil {
			return p, nil
		}
	}
	if other, ok := d.owner(credential); ok && other != a {
		return d.principal(other, credential)
	}
	return Principal{}, ErrBadCredentials
}

// AuthenticateAnonymous tells who calls a route of an app without a credential. ErrBadCredentials unless the app
// allows that.
func (d *Directory) AuthenticateAnonymous(appID string) (Principal, error) {
	a, ok := d.state(appID)
	if !ok || !a.snapshot().Settings.Anonymous {
		return Principal{}, ErrBadCredentials
	}
	return Principal{Kind: PrincipalNone, App: *a.snapshot(), Actor: anonymousSubject, Grant: d.anonymousGrant(a)}, nil
}

// owner finds the app of the key whose id a credential names, which has not been verified.
func (d *Directory) owner(credential string) (*appState, bool) {
	id, ok := splitValue(credential)
	if !ok && HasTokenForm(credential) {
		if t, err := parseUnverified(credential); err == nil {
			id = t.kid
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	a, ok := d.owners[id]
	return a, ok
}

func (d *Directory) principal(a *appState, credential string) (Principal, error) {
	if k, ok := a.credential(credential); ok {
		k.used(d.now())
		p := Principal{Kind: k.Kind, App: *a.snapshot(), KeyID: k.ID, Actor: keySubject + k.Name + " (" + k.ID + ")", Scopes: k.Scopes}
		if k.Kind != KindPublishable {
			p.Grant = d.keyGrant(a, k)
		}
		return p, nil
	}
	if !HasTokenForm(credential) {
		return Principal{}, ErrBadCredentials
	}
	id, err := d.verify(a, credential)
	if err != nil {
		return Principal{}, ErrBadCredentials
	}
	return Principal{Kind: PrincipalClient, App: *a.snapshot(), KeyID: id.key.ID, Actor: id.sub, Grant: d.tokenGrant(a, id)}, nil
}

// credential finds the key whose value this is.
func (a *appState) credential(value string) (*keyState, bool) {
	id, ok := splitValue(value)
	if !ok {
		return nil, false
	}
	k, ok := a.key(id)
	if !ok || k.Kind == KindSigning || !k.matches(value) {
		return nil, false
	}
	return k, true
}

// The beginnings of subs that are the server's to give.
const (
	anonymousSubject = "anonymous"
	keySubject       = "key:"
	deviceSubject    = "device:"
	visitorSubject   = "anon:"
)

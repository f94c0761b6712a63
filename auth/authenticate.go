package auth

import (
	"context"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
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
	password := c.QueryToken
	if c.HasPassword && len(c.Password) > 0 {
		password = string(c.Password)
	}
	g, err := d.grant(a, password)
	if err != nil {
		return nil, err
	}
	if g.bound != "" && g.bound != c.ClientID {
		return nil, ErrClientID
	}
	if g.bound == "" && a.reserved(c.ClientID, g.keyID) {
		return nil, ErrClientID
	}
	g.clientID = c.ClientID
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

// reserved reports whether a client id is named by a device key of another credential.
func (a *appState) reserved(clientID, keyID string) bool {
	if clientID == "" {
		return false
	}
	for _, k := range a.keysOf(KindDevice) {
		if k.ClientID == clientID && k.ID != keyID {
			return true
		}
	}
	return false
}

// grant verifies a password: a client token, a device key, a secret key, or none where the app allows that.
func (d *Directory) grant(a *appState, password string) (*Grant, error) {
	switch {
	case strings.HasPrefix(password, valuePrefix):
		k, ok := a.credential(password)
		if !ok || k.Kind == KindPublishable {
			return nil, ErrBadCredentials
		}
		k.used(d.now())
		return d.keyGrant(a, k), nil
	case looksLikeToken(password):
		id, err := d.verify(a, password)
		if err != nil {
			return nil, ErrBadCredentials
		}
		return d.tokenGrant(a, id), nil
	case a.snapshot().Settings.Anonymous:
		return &Grant{dir: d, app: a, sub: "anonymous"}, nil
	}
	return nil, ErrBadCredentials
}

// looksLikeToken recognises a JWS in compact form: three parts, the first a JSON object in base64url.
func looksLikeToken(s string) bool { return strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2 }

func (d *Directory) keyGrant(a *appState, k *keyState) *Grant {
	g := &Grant{dir: d, app: a, keyID: k.ID}
	if k.Kind == KindSecret {
		g.sub, g.bypass = "key:"+k.Name, true
		return g
	}
	g.sub, g.bound, g.own = k.Sub, k.ClientID, k.Rules
	return g
}

func (d *Directory) tokenGrant(a *appState, id *identity) *Grant {
	return &Grant{
		dir: d, app: a, sub: id.sub, keyID: id.key.ID, bound: id.clientID, claims: id.claims, expires: id.expires,
		bypass: id.bypass, own: id.acl,
	}
}

// Renew verifies a new token for a live grant: same app, sub and client id (CONTRACT section 4).
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
	return n, nil
}

// Principal is who calls by REST.
type Principal struct {
	Kind   string // PrincipalAdmin … PrincipalNone
	App    App    // zero for an admin on routes of no app
	KeyID  string
	Actor  string // for the audit: "admin", "key:{name}", or the sub
	Scopes []string
	Grant  *Grant // of secret and device keys and client tokens
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
// ErrBadCredentials for what is not known there; it does not tell whether the app exists.
func (d *Directory) AuthenticateBearer(_ context.Context, appID, credential string) (Principal, error) {
	if d.IsAdmin(credential) {
		p := Principal{Kind: PrincipalAdmin, Actor: "admin"}
		if a, ok := d.state(appID); ok {
			p.App = *a.snapshot()
		}
		return p, nil
	}
	a, ok := d.state(appID)
	if !ok {
		a, ok = d.owner(credential)
		if !ok {
			return Principal{}, ErrBadCredentials
		}
		return d.principal(a, credential)
	}
	p, err := d.principal(a, credential)
	if err == nil {
		return p, nil
	}
	// A credential of another app is known, and sees nothing here.
	if other, ok := d.owner(credential); ok && other != a {
		return d.principal(other, credential)
	}
	return Principal{}, err
}

// owner finds the app whose credential this is, by the key id in it.
func (d *Directory) owner(credential string) (*appState, bool) {
	id, ok := splitValue(credential)
	if !ok {
		id, ok = keyIDOf(credential)
	}
	if !ok {
		return nil, false
	}
	for _, a := range d.states() {
		if _, there := a.key(id); !there {
			continue
		}
		_, err := d.principal(a, credential)
		return a, err == nil
	}
	return nil, false
}

// keyIDOf reads kid from a token that has not been verified.
func keyIDOf(token string) (string, bool) {
	if !looksLikeToken(token) || len(token) > tokenBytesMax {
		return "", false
	}
	unverified, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		return "", false
	}
	kid, ok := unverified.Header["kid"].(string)
	return kid, ok
}

func (d *Directory) principal(a *appState, credential string) (Principal, error) {
	if k, ok := a.credential(credential); ok {
		k.used(d.now())
		p := Principal{Kind: k.Kind, App: *a.snapshot(), KeyID: k.ID, Actor: fmt.Sprintf("%s:%s", k.Kind, k.Name), Scopes: k.Scopes}
		if k.Kind != KindPublishable {
			p.Grant = d.keyGrant(a, k)
			p.Actor = p.Grant.sub
		}
		return p, nil
	}
	if !looksLikeToken(credential) {
		return Principal{}, ErrBadCredentials
	}
	id, err := d.verify(a, credential)
	if err != nil {
		return Principal{}, ErrBadCredentials
	}
	return Principal{Kind: PrincipalClient, App: *a.snapshot(), KeyID: id.key.ID, Actor: id.sub, Grant: d.tokenGrant(a, id)}, nil
}

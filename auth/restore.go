package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/golang-jwt/jwt/v5"
)

// storedGrant is a grant as Encode writes it: by what credential it is, and what that credential said. What the key says
// is left out: Restore reads it from the key.
type storedGrant struct {
	Version  int            `json:"v"`
	KeyID    string         `json:"key,omitempty"`       // empty: anonymous
	ClientID string         `json:"client_id,omitempty"` // the connection's
	Claims   map[string]any `json:"claims,omitempty"`    // of a token; without the proof that it is above the rules
	Bypass   bool           `json:"bypass,omitempty"`    // of a token
}

const (
	storedGrantVersion = 1
	// storedGrantMax bounds what Restore reads. A token and a client id have come in a CONNECT of 16 KiB, the token perhaps
	// renewed since by one of tokenBytesMax; in JSON a byte takes six at most.
	storedGrantMax = 256 << 10
)

// Encode returns what Restore needs to make the same grant again. It holds no secret and no credential.
func (g *Grant) Encode() []byte {
	s := storedGrant{Version: storedGrantVersion, KeyID: g.keyID, ClientID: g.clientID}
	if g.claims != nil {
		s.Bypass = g.bypass
		s.Claims = g.claims
		if g.bypass {
			s.Claims = cloneWithout(g.claims, bypassClaim)
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic("auth: claims that were decoded cannot be encoded: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func cloneWithout(claims map[string]any, name string) map[string]any {
	rest := make(map[string]any, len(claims))
	for n, v := range claims {
		if n != name {
			rest[n] = v
		}
	}
	return rest
}

// Restore makes a grant again of what Encode returned, without its credential: a session's will outlives the connection
// and the server, and is judged when it is sent. What hangs on a key follows the key as it is now. A token's grant comes
// back after the token has expired, with the same Expires. ErrNotAllowed when the app, the key or the leave for anonymous
// clients is gone, or when encoded is damaged.
func (d *Directory) Restore(appUID int64, encoded []byte) (*Grant, error) {
	d.mu.RLock()
	a, ok := d.uids[appUID]
	d.mu.RUnlock()
	s, err := parseStoredGrant(encoded)
	if !ok || err != nil {
		return nil, ErrNotAllowed
	}
	g, err := d.restored(a, s)
	if err != nil || g.bound != "" && g.bound != s.ClientID || !g.Alive() {
		return nil, ErrNotAllowed
	}
	g.clientID = s.ClientID
	return g, nil
}

func (d *Directory) restored(a *appState, s *storedGrant) (*Grant, error) {
	isToken := s.Claims != nil
	if s.KeyID == "" {
		if isToken || s.Bypass {
			return nil, ErrNotAllowed
		}
		return d.anonymousGrant(a), nil
	}
	k, ok := a.key(s.KeyID)
	switch {
	case !ok, k.Kind == KindPublishable, isToken != (k.Kind == KindSigning), s.Bypass && (!isToken || k.Imported):
		return nil, ErrNotAllowed
	case !isToken:
		return d.keyGrant(a, k), nil
	}
	id, err := identify(k, s.Claims)
	if err != nil {
		return nil, err
	}
	if !k.Imported {
		if id.pageKey, err = pageKeyOf(a, jwt.MapClaims(s.Claims)); err != nil {
			return nil, err
		}
	}
	id.bypass = s.Bypass
	return d.tokenGrant(a, id), nil
}

// parseStoredGrant reads what Encode wrote, and nothing else.
func parseStoredGrant(encoded []byte) (*storedGrant, error) {
	if len(encoded) > storedGrantMax {
		return nil, ErrNotAllowed
	}
	in := json.NewDecoder(bytes.NewReader(encoded))
	in.UseNumber()
	in.DisallowUnknownFields()
	var s storedGrant
	if err := in.Decode(&s); err != nil {
		return nil, ErrNotAllowed
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) || s.Version != storedGrantVersion {
		return nil, ErrNotAllowed
	}
	return &s, nil
}

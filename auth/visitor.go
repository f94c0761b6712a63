package auth

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MintAnonymous makes a short token for a visitor of a page that has shown the publishable key keyID. origin is the
// page's, or empty where there is none; ErrNotAllowed when it is not one of the key's. Without before the sub is fresh
// and random. before is a token that this made by the same key and that is still valid: its sub is kept, until
// token_ttl_max_seconds after it began.
func (d *Directory) MintAnonymous(appID, keyID, origin, before string) (string, time.Time, error) {
	a, ok := d.state(appID)
	if !ok {
		return "", time.Time{}, ErrBadCredentials
	}
	k, ok := a.key(keyID)
	if !ok || k.Kind != KindPublishable {
		return "", time.Time{}, ErrBadCredentials
	}
	if origin != "" && len(k.Origins) > 0 && !originIn(k.Origins, origin) {
		return "", time.Time{}, ErrNotAllowed
	}
	now, most := d.now(), time.Duration(a.snapshot().Settings.TokenTTLMax)*time.Second
	in := TokenRequest{Sub: visitorSubject + newKeyID(), TTL: min(visitorTTL, most)}
	since := now.Unix()
	if before != "" {
		id, err := d.verify(a, before)
		if err != nil {
			return "", time.Time{}, invalid("/token", "is not valid, or no longer: leave it out to become a new visitor")
		}
		began, ok := visitorSince(id, keyID)
		if !ok {
			return "", time.Time{}, invalid("/token", "was not made here by this publishable key: leave it out to become a new visitor")
		}
		left := time.Unix(began, 0).Add(most).Sub(now)
		if left < time.Second {
			return "", time.Time{}, invalid("/token", "cannot be renewed any longer: leave it out to become a new visitor")
		}
		in.Sub, in.TTL, since = id.sub, min(in.TTL, left.Truncate(time.Second)), began
	}
	return d.mint(a, in, map[string]any{visitorClaim: map[string]any{"key": keyID, "since": since}})
}

// visitorSince returns when a visitor's sub began, if the publishable key made the token.
func visitorSince(id *identity, keyID string) (began int64, ok bool) {
	v, ok := id.claims[visitorClaim].(map[string]any)
	if !ok || v["key"] != keyID || !strings.HasPrefix(id.sub, visitorSubject) {
		return 0, false
	}
	n, ok := v["since"].(json.Number)
	if !ok {
		return 0, false
	}
	began, err := n.Int64()
	return began, err == nil && began > 0 && began < expiryMax
}

// pageKeyOf returns the publishable key that a visitor's token was made by: the token ends with it.
func pageKeyOf(a *appState, claims jwt.MapClaims) (string, error) {
	claim, there := claims[visitorClaim]
	if !there {
		return "", nil
	}
	v, _ := claim.(map[string]any) //nolint:errcheck // checked next
	keyID, _ := v["key"].(string)  //nolint:errcheck // as above
	if _, there := a.key(keyID); !there {
		return "", errToken
	}
	return keyID, nil
}

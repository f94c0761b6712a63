package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

func claimsOf(t *testing.T, token string) jwt.MapClaims {
	t.Helper()
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, claims)
	require.NoError(t, err)
	return claims
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a := s.post("/v1/apps/shop/tokens", `{"sub":"alice","ttl":60,"client_id":"phone","claims":{"id":9007199254740993,"big":12345678901234567890,"f":1.10,"o":{"n":[0.1e2]}},
		"acl":[{"effect":"allow","actions":["publish"],"topic":"a/${sub}"}]}`, showing).want(http.StatusCreated)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	claims := claimsOf(t, a.text("token"))
	require.Equal(t, "alice", claims["sub"])
	require.Equal(t, "phone", claims["client_id"])
	require.Equal(t, "shop", claims["aud"])
	require.Equal(t, json.Number("9007199254740993"), claims["id"], "numbers keep their digits")
	require.Equal(t, json.Number("12345678901234567890"), claims["big"])
	require.Equal(t, json.Number("1.10"), claims["f"])
	require.Equal(t, map[string]any{"n": []any{json.Number("0.1e2")}}, claims["o"])
	expires, err := time.Parse(time.RFC3339, a.text("expires_at"))
	require.NoError(t, err)
	exp, ok := claims["exp"].(json.Number)
	require.True(t, ok)
	require.Equal(t, fmt.Sprint(expires.Unix()), exp.String())
	require.WithinDuration(t, s.now().Add(time.Minute), expires, 30*time.Second)

	// The claims keep their digits in the rules too.
	s.rules("shop", allow("users/${token.id}", "publish"))
	s.post("/v1/apps/shop/publish", object{"topic": "users/9007199254740993"}, as(a.text("token"))).want(http.StatusOK)
	s.post("/v1/apps/shop/publish", object{"topic": "users/9007199254740992"}, as(a.text("token"))).want(http.StatusForbidden)
	s.post("/v1/apps/shop/publish", object{"topic": "a/alice"}, as(a.text("token"))).want(http.StatusOK)
	s.pass(2 * time.Minute)
	s.post("/v1/apps/shop/publish", object{"topic": "a/alice"}, as(a.text("token"))).refused(http.StatusUnauthorized, "bad_credentials")
}

func TestTokensRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, c := range map[string]struct {
		body any
		want []string
	}{
		"nothing":        {object{}, []string{"/sub", "/ttl"}},
		"no_ttl":         {object{"sub": "a"}, []string{"/ttl"}},
		"zero":           {object{"sub": "a", "ttl": 0}, []string{"/ttl"}},
		"negative":       {object{"sub": "a", "ttl": -1}, []string{"/ttl"}},
		"very_negative":  {`{"sub":"a","ttl":-9223372036854775808}`, []string{"/ttl"}},
		"overflow":       {`{"sub":"a","ttl":9223372036854775807}`, []string{"/ttl"}},
		"wraps_around":   {`{"sub":"a","ttl":18446744074}`, []string{"/ttl"}},
		"31_days":        {object{"sub": "a", "ttl": 31 * 24 * 3600}, []string{"/ttl"}},
		"fraction":       {object{"sub": "a", "ttl": 1.5}, []string{"/ttl"}},
		"text":           {object{"sub": "a", "ttl": "60"}, []string{"/ttl"}},
		"reserved_sub":   {object{"sub": "key:x", "ttl": 60}, []string{"/sub"}},
		"sub_of_a_kind":  {object{"sub": 5, "ttl": 60}, []string{"/sub"}},
		"reserved_claim": {object{"sub": "a", "ttl": 60, "claims": object{"exp": 5, "x": 1}}, []string{"/claims/exp"}},
		"claims_no_list": {object{"sub": "a", "ttl": 60, "claims": []int{1}}, []string{"/claims"}},
		"acl":            {object{"sub": "a", "ttl": 60, "acl": []object{{"effect": "allow", "actions": []string{"publish"}, "topic": "a", "when": "x"}}}, []string{"/acl/0/when"}},
		"acl_when_empty": {object{"sub": "a", "ttl": 60, "acl": []object{{"effect": "allow", "actions": []string{"publish"}, "topic": "a", "when": ""}}}, []string{"/acl/0/when"}},
		"unknown_member": {object{"sub": "a", "ttl": 60, "admin": true}, []string{"/admin"}},
		"bypass_ttl":     {object{"sub": "a", "ttl": 901, "bypass_rules": true}, []string{"/ttl"}},
		"client_id":      {object{"sub": "a", "ttl": 60, "client_id": ".."}, []string{"/client_id"}},
		"too_large":      {object{"sub": "a", "ttl": 60, "claims": object{"x": strings.Repeat("x", 20_000)}}, []string{"/claims"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.post("/v1/apps/shop/tokens", c.body).invalid(c.want...)
		})
	}
	s.post("/v1/apps/shop/tokens", `{"sub":"a","ttl":1e3}`).want(http.StatusUnprocessableEntity)
	s.patch("/v1/apps/shop", object{"settings": object{"token_ttl_max_seconds": 60}}).want(http.StatusOK)
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 61}).invalid("/ttl")

	_, value := s.key("shop", object{"kind": "secret", "scopes": []string{"tokens", "manage"}})
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60, "bypass_rules": true}, as(value)).refused(http.StatusForbidden, "not_allowed")
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60, "bypass_rules": false}, as(value)).want(http.StatusCreated)

	var keys struct{ Items []struct{ ID, Kind string } }
	s.get("/v1/apps/shop/keys").into(&keys)
	for _, k := range keys.Items {
		if k.Kind == "signing" {
			s.del("/v1/apps/shop/keys/" + k.ID).want(http.StatusNoContent)
		}
	}
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60}).refused(http.StatusConflict, "no_signing_key")
}

func TestAnonymousTokens(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const path = "/v1/apps/shop/tokens/anonymous"
	_, key := s.key("shop", object{"kind": "publishable", "origins": []string{"https://shop.example"}})
	a := s.post(path, nil, as(key), header("Origin", "https://shop.example")).want(http.StatusCreated)
	first := claimsOf(t, a.text("token"))
	require.Regexp(t, "^anon:[a-z2-7]{16}$", first["sub"])
	s.post(path, nil, as(key)).want(http.StatusCreated)
	s.post(path, object{}, as(key)).want(http.StatusCreated)
	s.post(path, nil, as(key), header("Origin", "https://evil.example")).refused(http.StatusForbidden, "origin")

	// The visitor keeps its sub by its token.
	s.pass(50 * time.Minute)
	renewed := s.post(path, object{"token": a.text("token")}, as(key)).want(http.StatusCreated)
	require.Equal(t, first["sub"], claimsOf(t, renewed.text("token"))["sub"])
	s.post(path, object{"token": s.token("shop", object{"sub": "alice"})}, as(key)).invalid("/token")
	s.post(path, object{"token": "garbage"}, as(key)).invalid("/token")
	s.post(path, object{"token": 5}, as(key)).invalid("/token")
	s.post(path, object{"sub": "anon:chosen"}, as(key)).invalid("/sub")
	_, another := s.key("shop", object{"kind": "publishable"})
	s.post(path, object{"token": renewed.text("token")}, as(another)).invalid("/token")
	s.pass(time.Hour + 2*time.Second)
	s.post(path, object{"token": renewed.text("token")}, as(key)).invalid("/token")
	s.post(path, `{"token":"`+strings.Repeat("x", 20_000)+`"}`, as(key)).want(http.StatusRequestEntityTooLarge)
}

// TestAnonymousTokensAreLimited per key and address; a line has a /64 in IPv6.
func TestAnonymousTokensAreLimited(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.freeze()
	const path = "/v1/apps/shop/tokens/anonymous"
	_, key := s.key("shop", object{"kind": "publishable"})
	_, another := s.key("shop", object{"kind": "publishable"})
	remote := func(address string) option { return header("X-Test-Remote", address) }
	for range 30 {
		s.post(path, nil, as(key), remote("198.51.100.7")).want(http.StatusCreated)
	}
	a := s.post(path, nil, as(key), remote("198.51.100.7"), header("Idempotency-Key", "x")).refused(http.StatusTooManyRequests, "rate_exceeded")
	require.Equal(t, "1", a.header.Get("Retry-After"))
	s.post(path, nil, as(key), remote("198.51.100.8")).want(http.StatusCreated)
	s.post(path, nil, as(another), remote("198.51.100.7")).want(http.StatusCreated)
	s.pass(time.Second)
	s.post(path, nil, as(key), remote("198.51.100.7")).want(http.StatusCreated)
	s.post(path, nil, as(key), remote("198.51.100.7")).refused(http.StatusTooManyRequests, "rate_exceeded")
	for i := range 30 {
		s.post(path, nil, as(key), remote(fmt.Sprintf("2001:db8::%x", i))).want(http.StatusCreated)
	}
	s.post(path, nil, as(key), remote("2001:db8::ffff")).refused(http.StatusTooManyRequests, "rate_exceeded")
	s.post(path, nil, as(key), remote("2001:db8:0:1::1")).want(http.StatusCreated)
}

package api_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	created := s.post("/v1/apps/shop/keys", object{"kind": "secret", "name": "ci"}, showing).want(http.StatusCreated)
	o := created.object()
	value := s.hide(created.text("value"))
	require.Equal(t, "/v1/apps/shop/keys/"+created.text("id"), created.header.Get("Location"))
	require.Regexp(t, `^ek_[a-z2-7]{16}_[A-Za-z0-9_-]{43}$`, value)
	require.Equal(t, []any{"publish", "data", "tokens", "clients", "read"}, o["scopes"])
	require.Nil(t, o["last_used_at"])
	require.Contains(t, string(created.body), `"last_used_at":null`)

	list := s.get("/v1/apps/shop/keys").want(http.StatusOK)
	require.NotContains(t, string(list.body), `"value"`)
	require.NotContains(t, string(list.body), `"secret"`+":", "no hash, no sealed secret")
	s.get("/v1/apps/shop/stats", as(value)).want(http.StatusOK)
	list = s.get("/v1/apps/shop/keys").want(http.StatusOK)
	require.Regexp(t, `"name":"ci".*"last_used_at":"\d`, string(list.body))

	require.Empty(t, s.del("/v1/apps/shop/keys/"+created.text("id")).want(http.StatusNoContent).body)
	s.del("/v1/apps/shop/keys/"+created.text("id")).refused(http.StatusNotFound, "not_found")
	s.get("/v1/apps/shop/stats", as(value)).refused(http.StatusUnauthorized, "bad_credentials")
}

// TestManageKeys: a key with the scope manage makes keys and rules in its own app.
func TestManageKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id, value := s.key("shop", object{"kind": "secret", "name": "manager", "scopes": []string{"manage"}})
	a := s.post("/v1/apps/shop/keys", object{"kind": "device", "name": "lamp"}, as(value), showing).want(http.StatusCreated)
	s.hide(a.text("value"))
	s.put("/v1/apps/shop/rules", []object{allow("a", "publish")}, as(value)).want(http.StatusOK)
	require.Contains(t, string(s.get("/v1/apps/shop/rules/versions").body), `"actor":"key:manager (`+id+`)"`)
	s.del("/v1/apps/shop/keys/"+a.text("id"), as(value)).want(http.StatusNoContent)
	audit := string(s.get("/v1/apps/shop/audit").body)
	require.Equal(t, 3, strings.Count(audit, `"actor":"key:manager (`+id+`)"`), audit)
}

// TestDeletingAKey cuts off at once those connected by it, or by tokens that it signed.
func TestDeletingAKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	device, deviceValue := s.key("shop", object{"kind": "device"})
	signing, _ := s.key("shop", object{"kind": "signing"})
	token := s.token("shop", object{"sub": "alice"})
	byDevice, byToken := s.client("shop", "c1", deviceValue), s.client("shop", "c2", token)
	s.del("/v1/apps/shop/keys/" + device).want(http.StatusNoContent)
	byDevice.ExpectEnd(packet.NotAuthorized)
	byToken.ExpectNothing()
	s.del("/v1/apps/shop/keys/" + signing).want(http.StatusNoContent)
	byToken.ExpectEnd(packet.NotAuthorized)
}

func TestKeysRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, c := range map[string]struct {
		body any
		want []string
	}{
		"nothing":          {object{}, []string{"/kind", "/name"}},
		"kind":             {object{"kind": "master", "name": "x"}, []string{"/kind"}},
		"not_built_yet":    {object{"kind": "jwks", "name": "x"}, []string{"/kind"}},
		"unknown_member":   {object{"kind": "secret", "name": "x", "admin": true, "imported": true}, []string{"/admin", "/imported"}},
		"name":             {object{"kind": "secret", "name": ""}, []string{"/name"}},
		"of_another_kind":  {object{"kind": "secret", "name": "x", "client_id": "y", "origins": []string{"*"}}, []string{"/client_id", "/origins"}},
		"scopes":           {object{"kind": "secret", "name": "x", "scopes": []string{"all"}}, []string{"/scopes/0"}},
		"scopes_of_a_kind": {object{"kind": "secret", "name": "x", "scopes": "all"}, []string{"/scopes"}},
		"rules":            {object{"kind": "device", "name": "x", "rules": []object{{"effect": "allow", "actions": []string{"publish"}, "topic": "a/#/b"}}}, []string{"/rules/0/topic"}},
		"rules_when":       {object{"kind": "device", "name": "x", "rules": []object{{"effect": "allow", "actions": []string{"publish"}, "topic": "a", "when": "x"}}}, []string{"/rules/0/when"}},
		"rules_form":       {object{"kind": "device", "name": "x", "rules": []object{{"effect": "permit", "topic": 5, "who": 1}}}, []string{"/rules/0/actions", "/rules/0/effect", "/rules/0/topic", "/rules/0/who"}},
		"public_key":       {object{"kind": "signing", "name": "x", "alg": "RS256", "public_key": "x"}, []string{"/public_key"}},
		"short_secret":     {object{"kind": "signing", "name": "x", "secret": "short"}, []string{"/secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.post("/v1/apps/shop/keys", c.body).invalid(c.want...)
		})
	}
	a := s.post("/v1/apps/shop/keys", object{"kind": "signing", "name": "x", "secret": "a-short-secret"})
	require.NotContains(t, string(a.body), "a-short-secret", "what was sent is not said again")
}

// TestImportedKeys: a secret of one's own is not said again, a public key is shown, and tokens made elsewhere are taken.
func TestImportedKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const own = "a secret of one's own that is long enough"
	s.hide(own)
	a := s.post("/v1/apps/shop/keys", object{"kind": "signing", "name": "own", "secret": own, "issuer": "https://me.example"}).want(http.StatusCreated)
	require.Nil(t, a.object()["value"])
	require.Equal(t, true, a.object()["imported"])
	claims := jwt.MapClaims{"sub": "alice", "exp": s.now().Add(1e12).Unix(), "iss": "https://me.example"}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(own))
	require.NoError(t, err)
	s.rules("shop", allow("a", "publish"))
	s.post("/v1/apps/shop/publish", object{"topic": "a"}, as(text)).want(http.StatusOK)

	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	pemText := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	a = s.post("/v1/apps/shop/keys", object{"kind": "signing", "name": "public", "alg": "EdDSA", "public_key": pemText}).want(http.StatusCreated)
	require.Nil(t, a.object()["value"])
	require.Equal(t, pemText, a.text("public_key"))
	delete(claims, "iss")
	text, err = jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(private)
	require.NoError(t, err)
	s.post("/v1/apps/shop/publish", object{"topic": "a"}, as(text)).want(http.StatusOK)
}

func TestListKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	want := []any{"default"}
	ids := map[string]string{}
	for i := range 10 {
		name := fmt.Sprintf("k%d", i)
		ids[name], _ = s.key("shop", object{"kind": "device", "name": name})
		want = append(want, name)
	}
	for _, limit := range []int{1, 3, 10, 11, 12} {
		require.Equal(t, want, s.items("/v1/apps/shop/keys", limit, "name"), "limit %d", limit)
	}
	// A cursor stays good when the key that it names is deleted.
	cursor := s.get("/v1/apps/shop/keys?limit=3").want(http.StatusOK).text("next_cursor")
	s.del("/v1/apps/shop/keys/" + ids["k1"]).want(http.StatusNoContent)
	require.Contains(t, string(s.get("/v1/apps/shop/keys?limit=1&cursor="+cursor).want(http.StatusOK).body), `"name":"k2"`)
}

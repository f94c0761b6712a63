package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

const ownSecret = "a secret of one's own, with 32 bytes or more"

// pair is a key pair of an issuer that signs tokens elsewhere.
type pair struct {
	private crypto.Signer
	public  string // PEM
}

func newPair(tb testing.TB, private crypto.Signer) pair {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	require.NoError(tb, err)
	return pair{private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// rsaPair is made once: RSA keys are dear.
var rsaPair = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func ecPair(tb testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(tb, err)
	return key
}

func edPair(tb testing.TB) ed25519.PrivateKey {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(tb, err)
	return key
}

// claimsOf are the least that a token must hold.
func claimsOf(sub string) jwt.MapClaims {
	return jwt.MapClaims{"sub": sub, "exp": time.Now().Add(time.Hour).Unix()}
}

func with(claims jwt.MapClaims, name string, value any) jwt.MapClaims {
	c := maps.Clone(claims)
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

func TestEveryAlgorithm(t *testing.T) {
	t.Parallel()
	rsaKey, ecKey, edKey := rsaPair(), ecPair(t, elliptic.P256()), edPair(t)
	for alg, public := range map[string]pair{
		"RS256": newPair(t, rsaKey), "PS256": newPair(t, rsaKey), "ES256": newPair(t, ecKey), "EdDSA": newPair(t, edKey),
	} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			k, value := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{Alg: alg, Public: public.public}})
			require.Empty(t, value, "a public key has no value to show")
			require.True(t, k.Imported)
			for _, kid := range []string{"", k.ID, "the issuer's own"} {
				g, err := w.connect(sign(t, jwt.GetSigningMethod(alg), public.private, kid, claimsOf("alice")), "c1")
				require.NoError(t, err, "kid %q", kid)
				require.Equal(t, "alice", g.Subject())
				require.True(t, g.HangsOn(k.ID))
			}
			w.open()
			_, err := w.connect(sign(t, jwt.GetSigningMethod(alg), public.private, "", claimsOf("alice")), "c1")
			require.NoError(t, err, "after a restart")
		})
	}
	for alg, hashBytes := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			imported, value := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret, KeyAttributes: auth.KeyAttributes{Alg: alg}})
			require.Equal(t, ownSecret, value)
			require.True(t, imported.Imported)
			_, err := w.connect(sign(t, jwt.GetSigningMethod(alg), []byte(ownSecret), "", claimsOf("alice")), "c1")
			require.NoError(t, err)

			generated, value := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{Alg: alg}})
			require.False(t, generated.Imported)
			// RFC 7518 section 3.2: as many bytes as the hash has.
			require.GreaterOrEqual(t, len(value), hashBytes)
			g, err := w.connect(sign(t, jwt.GetSigningMethod(alg), []byte(value), "", claimsOf("alice")), "c1")
			require.NoError(t, err, "signed elsewhere with the generated value")
			require.True(t, g.HangsOn(generated.ID))
			minted := w.token("shop", auth.TokenRequest{Sub: "bob"})
			require.Equal(t, alg, headerOf(t, minted)["alg"])
			w.open()
			_, err = w.connect(minted, "c1")
			require.NoError(t, err, "after a restart")
		})
	}
	t.Run("without_alg_a_secret_is_HS256", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		k, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
		require.Equal(t, "HS256", k.Alg)
	})
}

func headerOf(tb testing.TB, token string) map[string]any {
	tb.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	require.NoError(tb, err)
	return parsed.Header
}

func claimsIn(tb testing.TB, token string) jwt.MapClaims {
	tb.Helper()
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, claims)
	require.NoError(tb, err)
	return claims
}

// TestTokensRefused: what is wrong with a token is not told, by MQTT or by REST.
func TestTokensRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("other")
	signing := w.signing("shop")
	_, generated := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Name: "generated"})
	rsaKey, edKey := rsaPair(), edPair(t)
	rs := newPair(t, rsaKey)
	imported, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{Alg: "RS256", Public: rs.public}})
	ed, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{
		Alg: "EdDSA", Public: newPair(t, edKey).public, Issuer: "https://issuer.example", Audience: "my-audience",
	}})
	generatedKey := generated
	good := claimsOf("alice")
	hs := func(claims jwt.MapClaims) string {
		return sign(t, jwt.SigningMethodHS256, []byte(generatedKey), "", claims)
	}
	rsa := func(claims jwt.MapClaims) string { return sign(t, jwt.SigningMethodRS256, rsaKey, "", claims) }
	eddsa := func(claims jwt.MapClaims) string {
		return sign(t, jwt.SigningMethodEdDSA, edKey, "", with(claims, "iss", "https://issuer.example"))
	}
	for _, text := range []string{hs(good), rsa(good), eddsa(good), eddsa(with(good, "aud", []string{"x", "my-audience"})), rsa(with(good, "aud", "shop"))} {
		_, err := w.connect(text, "c1")
		require.NoError(t, err, "the good ones must be good")
	}
	unsigned := func(alg string) string {
		h := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + alg + `","typ":"JWT"}`))
		body, err := json.Marshal(good)
		require.NoError(t, err)
		return h + "." + base64.RawURLEncoding.EncodeToString(body) + "."
	}
	der, _ := pem.Decode([]byte(rs.public))
	expired := with(good, "exp", time.Now().Add(-time.Second).Unix())
	minted := w.token("shop", auth.TokenRequest{Sub: "alice"})
	withHeader := func(name string, value any) string {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, good)
		token.Header[name] = value
		text, err := token.SignedString([]byte(generatedKey))
		require.NoError(t, err)
		return text
	}
	for name, text := range map[string]string{
		"none":                              unsigned("none"),
		"None":                              unsigned("None"),
		"no_algorithm":                      unsigned(""),
		"HS256_with_the_RSA_public_key":     sign(t, jwt.SigningMethodHS256, []byte(rs.public), "", good),
		"HS256_with_it_and_its_kid":         sign(t, jwt.SigningMethodHS256, []byte(rs.public), imported.ID, good),
		"HS256_with_the_RSA_key_in_DER":     sign(t, jwt.SigningMethodHS256, der.Bytes, imported.ID, good),
		"RS256_on_a_key_for_HS256":          sign(t, jwt.SigningMethodRS256, rsaKey, signing.ID, good),
		"PS256_on_a_key_for_RS256":          sign(t, jwt.SigningMethodPS256, rsaKey, "", good),
		"HS512_on_a_key_for_HS256":          sign(t, jwt.SigningMethodHS512, []byte(generatedKey), "", good),
		"kid_of_another_key":                sign(t, jwt.SigningMethodHS256, []byte(generatedKey), signing.ID, good),
		"unknown_kid_on_a_generated_key":    sign(t, jwt.SigningMethodHS256, []byte(generatedKey), "unknown", good),
		"kid_of_another_app":                w.token("other", auth.TokenRequest{Sub: "alice"}),
		"another_secret":                    sign(t, jwt.SigningMethodHS256, []byte("guessed guessed guessed guessed!"), "", good),
		"wrong_audience":                    hs(with(good, "aud", "other")),
		"audiences_without_ours":            hs(with(good, "aud", []string{"other", "another"})),
		"no_audience_in_a_list":             hs(with(good, "aud", []string{})),
		"audience_of_a_kind":                hs(with(good, "aud", 5)),
		"wrong_audience_of_an_imported_key": eddsa(with(good, "aud", "shop")),
		"no_issuer":                         sign(t, jwt.SigningMethodEdDSA, edKey, ed.ID, good),
		"wrong_issuer":                      sign(t, jwt.SigningMethodEdDSA, edKey, ed.ID, with(good, "iss", "https://issuer.example/")),
		"issuer_of_a_kind":                  sign(t, jwt.SigningMethodEdDSA, edKey, ed.ID, with(good, "iss", 5)),
		"no_exp":                            hs(with(good, "exp", nil)),
		"exp_of_a_kind":                     hs(with(good, "exp", "tomorrow")),
		"exp_beyond_all_bounds":             hs(with(good, "exp", 1e300)),
		"exp_in_milliseconds":               hs(with(good, "exp", time.Now().UnixMilli())),
		"expired":                           hs(expired),
		"expired_at_an_imported_key":        rsa(with(good, "exp", time.Now().Add(-31*time.Second).Unix())),
		"not_yet":                           hs(with(good, "nbf", time.Now().Add(time.Minute).Unix())),
		"issued_in_the_future":              hs(with(good, "iat", time.Now().Add(time.Minute).Unix())),
		"no_sub":                            hs(with(good, "sub", nil)),
		"empty_sub":                         hs(with(good, "sub", "")),
		"sub_of_a_kind":                     hs(with(good, "sub", 7)),
		"sub_anonymous":                     hs(with(good, "sub", "anonymous")),
		"sub_of_a_key":                      hs(with(good, "sub", "key:ci")),
		"sub_of_a_device":                   hs(with(good, "sub", "device:lamp")),
		"sub_with_NUL":                      hs(with(good, "sub", "a\x00")),
		"sub_too_long":                      hs(with(good, "sub", strings.Repeat("a", 513))),
		"client_id_of_a_kind":               hs(with(good, "client_id", 7)),
		"client_id_empty":                   hs(with(good, "client_id", "")),
		"acl_no_list":                       hs(with(good, "acl", "all")),
		"acl_with_when":                     hs(with(good, "acl", []any{map[string]any{"effect": "allow", "actions": []string{"publish"}, "topic": "a", "when": "true"}})),
		"acl_with_an_unknown_member":        hs(with(good, "acl", []any{map[string]any{"effect": "allow", "actions": []string{"publish"}, "topic": "a", "x": 1}})),
		"acl_too_long":                      hs(with(good, "acl", rulesOf(51))),
		"critical_extension":                withHeader("crit", []string{"exp"}),
		"oversized":                         hs(with(good, "x", strings.Repeat("x", 17<<10))),
		"cut_off":                           minted[:len(minted)-1],
		"with_stray_bits":                   strayBits(t, minted),
		"changed":                           strings.Replace(minted, ".", ".e", 1),
		"with_trailing_space":               minted + " ",
		"with_Bearer":                       "Bearer " + minted,
		"two_parts":                         minted[:strings.LastIndex(minted, ".")],
		"four_parts":                        minted + ".x",
		"garbage":                           "garbage",
		"garbage_of_the_form":               "eyJ.eyJ.x",
		"dots":                              "..",
		"header_no_object":                  base64.RawURLEncoding.EncodeToString([]byte(`{"`)) + ".e30.e30",
		"empty":                             "",
		"a_key_value_that_signs":            generatedKey,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := w.connect(text, "c1")
			require.ErrorIs(t, err, auth.ErrBadCredentials)
			_, err = w.Authenticate(t.Context(), auth.Credentials{PathApp: "shop", QueryToken: text, ClientID: "c1"})
			require.ErrorIs(t, err, auth.ErrBadCredentials)
			p, err := w.AuthenticateBearer(t.Context(), "shop", text)
			if name == "kid_of_another_app" {
				require.NoError(t, err)
				require.Equal(t, "other", p.App.ID, "known, in an app of its own")
				return
			}
			require.ErrorIs(t, err, auth.ErrBadCredentials)
		})
	}
}

// strayBits changes the last character so that it stands for the same bytes to who does not look at the bits beyond them.
func strayBits(t *testing.T, token string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	changed := token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])^1])
	same, err := base64.RawURLEncoding.DecodeString(changed[strings.LastIndex(changed, ".")+1:])
	require.NoError(t, err)
	want, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndex(token, ".")+1:])
	require.NoError(t, err)
	require.Equal(t, want, same)
	return changed
}

func rulesOf(n int) []any {
	rules := make([]any, n)
	for i := range rules {
		rules[i] = map[string]any{"effect": "allow", "actions": []string{"publish"}, "topic": "a"}
	}
	return rules
}

func TestTokensAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, value := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{Audience: "aud", Issuer: "iss"}})
	good := with(claimsOf("alice"), "iss", "iss")
	for name, claims := range map[string]jwt.MapClaims{
		"no_audience":          good,
		"the_audience":         with(good, "aud", "aud"),
		"among_audiences":      with(good, "aud", []string{"x", "aud"}),
		"fractional_exp":       with(good, "exp", json.Number("4102444800.5")),
		"any_other_sub":        with(good, "sub", "anon:x"),
		"sub_like_a_reserved":  with(good, "sub", "anonymous2"),
		"acl_of_null":          with(with(good, "acl", 0), "acl", json.RawMessage("null")),
		"as_many_acl_as_there": with(good, "acl", rulesOf(50)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := w.connect(sign(t, jwt.SigningMethodHS256, []byte(value), "", claims), "c1")
			require.NoError(t, err)
		})
	}
	t.Run("header_with_white_space", func(t *testing.T) {
		t.Parallel()
		body, err := json.Marshal(good)
		require.NoError(t, err)
		text := base64.RawURLEncoding.EncodeToString([]byte("{\n \"alg\": \"HS256\" }")) + "." + base64.RawURLEncoding.EncodeToString(body)
		sig, err := jwt.SigningMethodHS256.Sign(text, []byte(value))
		require.NoError(t, err)
		_, err = w.connect(text+"."+base64.RawURLEncoding.EncodeToString(sig), "c1")
		require.NoError(t, err)
	})
}

// TestLeeway: a token lives to its exp, and 30 s longer where the key was not generated here.
func TestLeeway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		text, expires, err := w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "alice", TTL: time.Minute})
		require.NoError(t, err)
		g, err := w.connect(text, "c1")
		require.NoError(t, err)
		require.Equal(t, expires, g.Expires())
		pass(time.Until(expires) - time.Microsecond)
		_, err = w.connect(text, "c1")
		require.NoError(t, err)
		pass(time.Microsecond)
		_, err = w.connect(text, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials)

		w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
		exp := time.Now().Add(time.Minute).Truncate(time.Second)
		text = sign(t, jwt.SigningMethodHS256, []byte(ownSecret), "", jwt.MapClaims{
			"sub": "alice", "exp": exp.Unix(), "nbf": time.Now().Add(29 * time.Second).Unix(), "iat": time.Now().Add(29 * time.Second).Unix(),
		})
		g, err = w.connect(text, "c1")
		require.NoError(t, err, "the issuer's clock may be 30 s ahead")
		require.Equal(t, exp.Add(30*time.Second).UTC(), g.Expires())
		pass(time.Until(exp) + 30*time.Second - time.Microsecond)
		_, err = w.connect(text, "c1")
		require.NoError(t, err)
		pass(time.Microsecond)
		_, err = w.connect(text, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	})
}

func TestMintedTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		pass(300 * time.Millisecond)
		text, expires, err := w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{
			Sub: "alice", TTL: time.Second, ClientID: "c1",
			Claims: map[string]any{"org": "acme", "id": json.Number("12345678901234567890"), "f": json.Number("0.10")},
		})
		require.NoError(t, err)
		now := time.Now()
		require.Equal(t, expires, expires.Truncate(time.Second))
		require.GreaterOrEqual(t, expires.Sub(now), time.Second, "it lives as long as was asked for")
		require.Less(t, expires.Sub(now), 2*time.Second)
		claims := claimsIn(t, text)
		require.Equal(t, jwt.MapClaims{
			"sub": "alice", "aud": "shop", "client_id": "c1", "org": "acme", "iat": number(now.Unix()), "exp": number(expires.Unix()),
			"id": json.Number("12345678901234567890"), "f": json.Number("0.10"),
		}, claims, "numbers keep their digits")
		require.Equal(t, w.signing("shop").ID, headerOf(t, text)["kid"])
	})
}

func number(n int64) json.Number {
	b, _ := json.Marshal(n) //nolint:errcheck,errchkjson // a number
	return json.Number(b)
}

func TestTokenRequestsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set("shop", `{"token_ttl_max_seconds":3600}`)
	for name, c := range map[string]struct {
		in   auth.TokenRequest
		want []string
	}{
		"empty":           {auth.TokenRequest{}, []string{"/sub", "/ttl"}},
		"short":           {auth.TokenRequest{Sub: "a", TTL: time.Second - 1}, []string{"/ttl"}},
		"negative":        {auth.TokenRequest{Sub: "a", TTL: -time.Hour}, []string{"/ttl"}},
		"above_setting":   {auth.TokenRequest{Sub: "a", TTL: time.Hour + time.Second}, []string{"/ttl"}},
		"bypass_too_long": {auth.TokenRequest{Sub: "a", TTL: 15*time.Minute + 1, BypassRules: true}, []string{"/ttl"}},
		"anonymous":       {auth.TokenRequest{Sub: "anonymous", TTL: time.Minute}, []string{"/sub"}},
		"key":             {auth.TokenRequest{Sub: "key:x", TTL: time.Minute}, []string{"/sub"}},
		"device":          {auth.TokenRequest{Sub: "device:", TTL: time.Minute}, []string{"/sub"}},
		"dot":             {auth.TokenRequest{Sub: "a", TTL: time.Minute, ClientID: "."}, []string{"/client_id"}},
		"dots":            {auth.TokenRequest{Sub: "a", TTL: time.Minute, ClientID: ".."}, []string{"/client_id"}},
		"claims_of_ours": {auth.TokenRequest{Sub: "a", TTL: time.Minute, Claims: map[string]any{
			"exp": 1, "iat": 1, "nbf": 1, "aud": 1, "iss": 1, "sub": 1, "jti": 1, "client_id": 1, "acl": 1, "bypass_rules": true, "visitor": 1, "fine": 1,
		}}, []string{"/claims/acl", "/claims/aud", "/claims/bypass_rules", "/claims/client_id", "/claims/exp", "/claims/iat", "/claims/iss", "/claims/jti", "/claims/nbf", "/claims/sub", "/claims/visitor"}},
		"acl":          {auth.TokenRequest{Sub: "a", TTL: time.Minute, ACL: []auth.Rule{{Effect: "allow", Actions: []string{"publish"}, Topic: "a"}, {When: new("x")}}}, []string{"/acl/1/effect", "/acl/1/actions", "/acl/1/when", "/acl/1/topic"}},
		"acl_too_long": {auth.TokenRequest{Sub: "a", TTL: time.Minute, ACL: make([]auth.Rule, 51)}, []string{"/acl"}},
		"too_large":    {auth.TokenRequest{Sub: "a", TTL: time.Minute, Claims: map[string]any{"x": strings.Repeat("x", 16<<10)}}, []string{"/claims"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := w.MintToken(t.Context(), "admin", "shop", c.in)
			require.Equal(t, c.want, pointers(t, err))
		})
	}
	_, _, err := w.MintToken(t.Context(), "admin", "nowhere", auth.TokenRequest{Sub: "a", TTL: time.Minute})
	require.ErrorIs(t, err, auth.ErrNotFound)
}

// TestRotation: the newest key that can sign signs, older ones verify, and deleting one ends its tokens.
func TestRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.signing("shop")
		old := w.token("shop", auth.TokenRequest{Sub: "alice"})
		pass(time.Second)
		second, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Name: "second"})
		pass(time.Second)
		w.key("shop", auth.NewKey{Kind: auth.KindSigning, Name: "verifies only", KeyAttributes: auth.KeyAttributes{Alg: "EdDSA", Public: newPair(t, edPair(t)).public}})
		fresh := w.token("shop", auth.TokenRequest{Sub: "alice"})
		require.Equal(t, first.ID, headerOf(t, old)["kid"])
		require.Equal(t, second.ID, headerOf(t, fresh)["kid"])
		for range 2 {
			for _, text := range []string{old, fresh} {
				_, err := w.connect(text, "c1")
				require.NoError(t, err)
			}
			w.open() // the order is the same after a restart
			require.Equal(t, second.ID, headerOf(t, w.token("shop", auth.TokenRequest{Sub: "alice"}))["kid"])
		}
		live, err := w.connect(old, "c1")
		require.NoError(t, err)
		require.True(t, live.Alive())
		w.heard.take()
		require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", first.ID))
		require.Equal(t, []string{"key " + first.ID}, w.heard.take())
		require.False(t, live.Alive(), "who is connected by it is cut off")
		_, err = w.connect(old, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		_, err = w.connect(fresh, "c1")
		require.NoError(t, err)

		require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", second.ID))
		_, _, err = w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "alice", TTL: time.Minute})
		require.ErrorIs(t, err, auth.ErrNoSigningKey, "a public key cannot sign")
	})
}

func TestClientIDClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "phone"})
	g, err := w.connect(text, "phone")
	require.NoError(t, err)
	require.Equal(t, "phone", g.BoundClientID())
	for _, id := range []string{"", "tablet", "Phone"} {
		_, err = w.connect(text, id)
		require.ErrorIs(t, err, auth.ErrClientID, "client id %q", id)
	}
	for _, id := range []string{".", ".."} {
		_, err = w.connect(w.token("shop", auth.TokenRequest{Sub: "alice"}), id)
		require.ErrorIs(t, err, auth.ErrClientID, "client id %q", id)
	}
	// A caller by REST has the client id that its credential names.
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"from/${client_id}"}]`)
	p, err := w.AuthenticateBearer(t.Context(), "shop", text)
	require.NoError(t, err)
	require.True(t, p.Grant.MayPublish("from/phone"))
}

func TestACL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"app/#"}]`)
	acl := parse(t, `[{"effect":"allow","actions":["publish","subscribe"],"topic":"own/${sub}/#"},{"effect":"deny","actions":["publish","subscribe"],"topic":"app/no"},
		{"effect":"deny","actions":["subscribe"],"topic":"own/alice/no"}]`)
	honoured := func(g *auth.Grant) {
		t.Helper()
		require.True(t, g.MayPublish("app/x"))
		require.False(t, g.MayPublish("app/no"), "a deny of the acl counts over the app's allow")
		require.True(t, g.MayPublish("own/alice/x"))
		require.False(t, g.MayPublish("own/bob/x"))
		require.True(t, g.MaySubscribe("own/alice/#", false))
		require.False(t, g.ReceiveFilter("own/alice/#")("own/alice/no"))
		require.Nil(t, g.ReceiveFilter("own/alice/yes"))
	}
	g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ACL: acl}), "c1")
	require.NoError(t, err)
	honoured(g)

	elsewhere := with(claimsOf("alice"), "acl", acl)
	plain, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
	g, err = w.connect(sign(t, jwt.SigningMethodHS256, []byte(ownSecret), "", elsewhere), "c1")
	require.NoError(t, err)
	require.True(t, g.MayPublish("app/no"), "not honoured for a key that was not generated here")
	require.False(t, g.MayPublish("own/alice/x"))
	_, _, err = w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "alice", TTL: time.Minute, ACL: acl})
	require.NoError(t, err, "the newest key that is honoured for it signs")

	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", plain.ID))
	w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret, KeyAttributes: auth.KeyAttributes{AllowACL: true}})
	g, err = w.connect(sign(t, jwt.SigningMethodHS256, []byte(ownSecret), "", elsewhere), "c1")
	require.NoError(t, err)
	honoured(g)
}

// TestUnhonouredIsRefused: a token that would not be honoured for what it says is not made.
func TestUnhonouredIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", w.signing("shop").ID))
	w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
	acl := []auth.Rule{{Effect: "deny", Actions: []string{"publish"}, Topic: "a"}}
	_, _, err := w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "a", TTL: time.Minute, ACL: acl})
	require.Equal(t, []string{"/acl"}, pointers(t, err))
	_, _, err = w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "a", TTL: time.Minute, BypassRules: true})
	require.Equal(t, []string{"/bypass_rules"}, pointers(t, err))
	w.token("shop", auth.TokenRequest{Sub: "a"})
}

func TestBypassRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := len(w.store.audit())
	g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "tool", TTL: 15 * time.Minute, BypassRules: true}), "c1")
	require.NoError(t, err)
	require.True(t, g.Bypass())
	require.True(t, g.MayPublish("anything"))
	require.True(t, g.MaySubscribe("#", true))
	require.Nil(t, g.ReceiveFilter("#"))
	audit := w.store.audit()[before:]
	require.Len(t, audit, 1)
	require.Equal(t, "token.bypass", audit[0].Action)
	require.Equal(t, "tool", audit[0].Target)
	require.JSONEq(t, `{"ttl":900}`, string(audit[0].After))

	w.store.failWith(auth.ErrUnavailable)
	_, _, err = w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "tool", TTL: time.Minute, BypassRules: true})
	require.ErrorIs(t, err, auth.ErrUnavailable, "none without an audit")
	w.store.failWith(nil)

	for name, value := range map[string]any{"true": true, "text": "true", "number": 1, "false": false} {
		_, secret := w.key("shop", auth.NewKey{Kind: auth.KindSigning})
		g, err = w.connect(sign(t, jwt.SigningMethodHS256, []byte(secret), "", with(claimsOf("tool"), "bypass_rules", value)), "c1")
		require.NoError(t, err, name)
		require.False(t, g.Bypass(), name)
	}
	w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret, KeyAttributes: auth.KeyAttributes{AllowACL: true}})
	g, err = w.connect(sign(t, jwt.SigningMethodHS256, []byte(ownSecret), "", with(claimsOf("tool"), "bypass_rules", true)), "c1")
	require.NoError(t, err)
	require.False(t, g.Bypass(), "keys that were not generated here do not reach above the rules")
}

// TestBypassIsMinted: whoever has the value of a generated signing key can sign tokens, and not reach above the rules.
func TestBypassIsMinted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("other")
	k, secret := w.key("shop", auth.NewKey{Kind: auth.KindSigning})
	minted := w.token("shop", auth.TokenRequest{Sub: "tool", ClientID: "c1", TTL: time.Minute, BypassRules: true})
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(minted, claims)
	require.NoError(t, err)
	require.Equal(t, k.ID, token.Header["kid"])
	bypasses := func(kid, secret string, change map[string]any) bool {
		t.Helper()
		altered := maps.Clone(claims)
		for name, value := range change {
			if value == nil {
				delete(altered, name)
				continue
			}
			altered[name] = value
		}
		g, err := w.connect(sign(t, jwt.SigningMethodHS256, []byte(secret), kid, altered), "c1")
		require.NoError(t, err)
		return g.Bypass()
	}
	require.True(t, bypasses(k.ID, secret, nil), "as it was made")
	for name, change := range map[string]map[string]any{
		"longer":           {"exp": time.Now().Add(time.Hour).Unix()},
		"later":            {"iat": time.Now().Add(-time.Minute).Unix()},
		"no_iat":           {"iat": nil},
		"somebody_else":    {"sub": "mallory"},
		"any_client_id":    {"client_id": nil},
		"plain":            {"bypass_rules": true},
		"of_another_token": {"bypass_rules": "AAAA"},
	} {
		require.False(t, bypasses(k.ID, secret, change), name)
	}
	another, anotherSecret := w.key("shop", auth.NewKey{Kind: auth.KindSigning})
	require.False(t, bypasses(another.ID, anotherSecret, nil), "by another key")
}

func TestRenew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("other")
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"${token.room}/${client_id}"}]`)
	old, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", TTL: time.Minute, Claims: map[string]any{"room": "a"}}), "c1")
	require.NoError(t, err)
	renewed, err := w.Renew(t.Context(), old, w.token("shop", auth.TokenRequest{Sub: "alice", TTL: 2 * time.Minute, Claims: map[string]any{"room": "b"}}))
	require.NoError(t, err)
	require.True(t, renewed.Expires().After(old.Expires()))
	require.True(t, renewed.MayPublish("b/c1"), "the new token's claims, the connection's client id")
	require.False(t, renewed.MayPublish("a/c1"))
	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"another_sub":       {w.token("shop", auth.TokenRequest{Sub: "bob"}), auth.ErrNotAllowed},
		"another_app":       {w.token("other", auth.TokenRequest{Sub: "alice"}), auth.ErrBadCredentials},
		"another_client_id": {w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "c2"}), auth.ErrNotAllowed},
		"more_bound":        {w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "c1"}), auth.ErrNotAllowed},
		"garbage":           {"garbage", auth.ErrBadCredentials},
		"empty":             {"", auth.ErrBadCredentials},
	} {
		_, err := w.Renew(t.Context(), old, c.token)
		require.ErrorIs(t, err, c.want, name)
	}
	bound, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "c1"}), "c1")
	require.NoError(t, err)
	_, err = w.Renew(t.Context(), bound, w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "c1"}))
	require.NoError(t, err)
	_, err = w.Renew(t.Context(), bound, w.token("shop", auth.TokenRequest{Sub: "alice"}))
	require.ErrorIs(t, err, auth.ErrNotAllowed)

	fresh := w.token("shop", auth.TokenRequest{Sub: "alice"})
	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))
	_, err = w.Renew(t.Context(), old, fresh)
	require.ErrorIs(t, err, auth.ErrBadCredentials)
}

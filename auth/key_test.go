package auth_test

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

func TestKeyValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := map[string]bool{}
	for _, kind := range []string{auth.KindSecret, auth.KindSigning, auth.KindDevice, auth.KindPublishable} {
		k, value := w.key("shop", auth.NewKey{Kind: kind, Name: kind})
		// ek_{id}_{32 random bytes}
		require.Regexp(t, `^ek_[a-z2-7]{16}_[A-Za-z0-9_-]{43}$`, value)
		require.Equal(t, k.ID, value[3:19])
		require.False(t, seen[value])
		seen[value] = true
		require.True(t, k.LastUsedAt.IsZero())
	}
	keys, err := w.Keys("shop")
	require.NoError(t, err)
	require.Len(t, keys, 5, "with the generated one")
	require.Equal(t, []string{"publish", "data", "tokens", "clients", "read"}, keys[1].Scopes, "all but manage")
}

func TestKeysRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rsaKey := rsaPair()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	p384 := newPair(t, ecPair(t, elliptic.P384()))
	private := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	rs, ed := newPair(t, rsaKey).public, newPair(t, edPair(t)).public
	attributes := func(change func(*auth.KeyAttributes)) auth.KeyAttributes {
		var a auth.KeyAttributes
		change(&a)
		return a
	}
	public := func(alg, text string) auth.KeyAttributes {
		return attributes(func(a *auth.KeyAttributes) { a.Alg, a.Public = alg, text })
	}
	for name, c := range map[string]struct {
		in   auth.NewKey
		want []string
	}{
		"nothing":             {auth.NewKey{}, []string{"/name", "/kind"}},
		"kind":                {auth.NewKey{Kind: "master", Name: "x"}, []string{"/kind"}},
		"jwks":                {auth.NewKey{Kind: "jwks", Name: "x"}, []string{"/kind"}},
		"ca":                  {auth.NewKey{Kind: "ca", Name: "x"}, []string{"/kind"}},
		"long_name":           {auth.NewKey{Kind: "secret", Name: strings.Repeat("é", 129)}, []string{"/name"}},
		"control_in_name":     {auth.NewKey{Kind: "secret", Name: "a\nb"}, []string{"/name"}},
		"scope":               {auth.NewKey{Kind: "secret", Name: "x", KeyAttributes: auth.KeyAttributes{Scopes: []string{"read", "admin", "read"}}}, []string{"/scopes/1", "/scopes/2"}},
		"no_scope":            {auth.NewKey{Kind: "secret", Name: "x", KeyAttributes: auth.KeyAttributes{Scopes: []string{}}}, []string{"/scopes"}},
		"secret_with_others":  {auth.NewKey{Kind: "secret", Name: "x", Secret: ownSecret, KeyAttributes: auth.KeyAttributes{Sub: "x", ClientID: "x", Rules: []auth.Rule{}, Origins: []string{}, Alg: "HS256", Audience: "x", Issuer: "x", AllowACL: true, Public: "x"}}, []string{"/alg", "/allow_acl", "/audience", "/client_id", "/issuer", "/origins", "/public_key", "/rules", "/secret", "/sub"}},
		"device_with_others":  {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Scopes: []string{"read"}, Origins: []string{"*"}}}, []string{"/origins", "/scopes"}},
		"device_sub_key":      {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Sub: "key:x"}}, []string{"/sub"}},
		"device_sub_anon":     {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Sub: "anonymous"}}, []string{"/sub"}},
		"device_sub_nul":      {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Sub: "device:\x00"}}, []string{"/sub"}},
		"device_sub_long":     {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Sub: "device:" + strings.Repeat("x", 512)}}, []string{"/sub"}},
		"device_client_id":    {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{ClientID: ".."}}, []string{"/client_id"}},
		"device_rules":        {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Rules: []auth.Rule{{Effect: "allow", Actions: []string{"publish"}, Topic: "a", When: new("true")}, {}}}}, []string{"/rules/0/when", "/rules/1/actions", "/rules/1/effect", "/rules/1/topic"}},
		"device_many_rules":   {auth.NewKey{Kind: "device", Name: "x", KeyAttributes: auth.KeyAttributes{Rules: make([]auth.Rule, 51)}}, []string{"/rules"}},
		"origins":             {auth.NewKey{Kind: "publishable", Name: "x", KeyAttributes: auth.KeyAttributes{Origins: []string{"https://ok.example", "https://a.example/", "example.com", "HTTPS://a.example", "https://*.example", "https://a.example:443", "null", ""}}}, []string{"/origins/1", "/origins/2", "/origins/3", "/origins/4", "/origins/5", "/origins/6", "/origins/7"}},
		"many_origins":        {auth.NewKey{Kind: "publishable", Name: "x", KeyAttributes: auth.KeyAttributes{Origins: slices.Repeat([]string{"*"}, 101)}}, []string{"/origins"}},
		"alg":                 {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: auth.KeyAttributes{Alg: "none"}}, []string{"/alg"}},
		"public_without_alg":  {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: auth.KeyAttributes{Public: rs}}, []string{"/alg"}},
		"alg_without_public":  {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: auth.KeyAttributes{Alg: "RS256"}}, []string{"/public_key"}},
		"short_secret":        {auth.NewKey{Kind: "signing", Name: "x", Secret: strings.Repeat("x", 31)}, []string{"/secret"}},
		"secret_for_public":   {auth.NewKey{Kind: "signing", Name: "x", Secret: ownSecret, KeyAttributes: public("RS256", rs)}, []string{"/secret"}},
		"public_for_secret":   {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("HS256", rs)}, []string{"/public_key"}},
		"public_garbage":      {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("RS256", "garbage")}, []string{"/public_key"}},
		"public_garbage_pem":  {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("RS256", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")}, []string{"/public_key"}},
		"private_key":         {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("RS256", private)}, []string{"/public_key"}},
		"small_RSA":           {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("RS256", newPair(t, small).public)}, []string{"/public_key"}},
		"P384_for_ES256":      {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("ES256", p384.public)}, []string{"/public_key"}},
		"Ed25519_for_RS256":   {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("RS256", ed)}, []string{"/public_key"}},
		"RSA_for_EdDSA":       {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: public("EdDSA", rs)}, []string{"/public_key"}},
		"signing_with_others": {auth.NewKey{Kind: "signing", Name: "x", KeyAttributes: auth.KeyAttributes{Scopes: []string{"read"}, ClientID: "x"}}, []string{"/client_id", "/scopes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := w.CreateKey(t.Context(), "admin", "shop", c.in)
			require.Equal(t, c.want, pointers(t, err), "%v", err)
			require.NotContains(t, err.Error(), "BEGIN RSA")
		})
	}
	_, _, err = w.CreateKey(t.Context(), "admin", "nowhere", auth.NewKey{Kind: "secret", Name: "x"})
	require.ErrorIs(t, err, auth.ErrNotFound)
	require.ErrorIs(t, w.DeleteKey(t.Context(), "admin", "shop", "nothing"), auth.ErrNotFound)
	require.ErrorIs(t, w.DeleteKey(t.Context(), "admin", "nowhere", "nothing"), auth.ErrNotFound)
	_, err = w.Keys("nowhere")
	require.ErrorIs(t, err, auth.ErrNotFound)
	require.Len(t, w.store.audit(), 1, "nothing but the app was made")
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, o := range []string{"*", "https://a.example", "http://localhost:5173", "capacitor://localhost", "http://[::1]:8080", "chrome-extension://abcdef"} {
		w.key("shop", auth.NewKey{Kind: auth.KindPublishable, KeyAttributes: auth.KeyAttributes{Origins: []string{o}}})
	}
}

// TestOnlyThePublicKeyIsKept: a private key that stood beside it in what was sent goes nowhere.
func TestOnlyThePublicKeyIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaPair())}))
	rs := newPair(t, rsaPair()).public
	k, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, KeyAttributes: auth.KeyAttributes{Alg: "RS256", Public: "my key:\n" + rs + private}})
	require.Equal(t, rs, k.Public)
	w.requireNowhere("PRIVATE", private[100:150])
}

// TestSecretsAreSealedOrHashed looks at everything that was stored.
func TestSecretsAreSealedOrHashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var values []string
	hashes := map[string]string{}
	for _, kind := range []string{auth.KindSecret, auth.KindSigning, auth.KindDevice, auth.KindPublishable} {
		_, value := w.key("shop", auth.NewKey{Kind: kind})
		values = append(values, value)
		hashes[kind] = string(hash(value))
	}
	w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
	values = append(values, ownSecret, w.token("shop", auth.TokenRequest{Sub: "alice", TTL: time.Minute, BypassRules: true}), "ea_the-admin")
	_, _, err := w.ClaimAnswer(t.Context(), "name", []byte(`POST /v1/keys {"secret":"`+ownSecret+`"}`))
	require.NoError(t, err)
	require.NoError(t, w.KeepAnswer(t.Context(), "name", auth.Answer{Status: 201, Body: []byte(values[0])}))
	w.requireNowhere(values...)
	text := w.store.text()
	require.NotContains(t, text, string(hash(`POST /v1/keys {"secret":"`+ownSecret+`"}`)), "whoever has the database could try secrets")
	require.NotContains(t, text, hashes[auth.KindSigning])
	for _, kind := range []string{auth.KindSecret, auth.KindDevice, auth.KindPublishable} {
		require.Contains(t, text, hashes[kind], "they are random: stored as SHA-256")
	}
}

func TestSealedTwiceIsNotAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 2 {
		w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
	}
	records, err := w.store.LoadApps(t.Context())
	require.NoError(t, err)
	keys := records[0].Keys
	require.NotEqual(t, keys[1].Secret, keys[2].Secret)

	// A row moved to another key does not open.
	w.store.apps[1].Keys[1].Secret = keys[2].Secret
	_, err = auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: secretKey})
	require.ErrorContains(t, err, "EMBERCAST_SECRET_KEY")
	w.store.apps[1].Keys[1].Secret = []byte("short")
	_, err = auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: secretKey})
	require.ErrorContains(t, err, "EMBERCAST_SECRET_KEY")
}

func TestAWrongSecretKeyTellsWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: make([]byte, 32)})
	require.ErrorContains(t, err, "app shop: key "+w.signing("shop").ID)
	require.ErrorContains(t, err, "start with the EMBERCAST_SECRET_KEY")
	for _, n := range []int{0, 16, 31, 33} {
		_, err = auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: make([]byte, n)})
		require.ErrorContains(t, err, fmt.Sprintf("must have 32 bytes, and has %d", n))
	}
}

// TestLastUse: kept in memory at once, written now and then, and on the way out.
func TestLastUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		k, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
		lastUse := func(id string) time.Time {
			keys, err := w.Keys("shop")
			require.NoError(t, err)
			return keys[slices.IndexFunc(keys, func(k auth.Key) bool { return k.ID == id })].LastUsedAt
		}
		stored := func() time.Time {
			records, err := w.store.LoadApps(t.Context())
			require.NoError(t, err)
			return records[0].Keys[1].LastUsedAt
		}
		pass(time.Minute)
		_, err := w.connect(value+"x", "c1")
		require.Error(t, err)
		require.Zero(t, lastUse(k.ID), "a failure is no use")
		used := time.Now().UTC()
		_, err = w.connect(value, "c1")
		require.NoError(t, err)
		require.Equal(t, used, lastUse(k.ID))
		require.Zero(t, stored())
		w.store.failWith(auth.ErrUnavailable)
		pass(time.Minute)
		w.store.failWith(nil)
		require.Zero(t, stored())
		pass(time.Minute)
		require.Equal(t, used, stored(), "tried again")

		pass(time.Second)
		used = time.Now().UTC()
		_, err = w.AuthenticateBearer(t.Context(), "shop", value)
		require.NoError(t, err)
		require.Equal(t, used, lastUse(k.ID))
		text := w.token("shop", auth.TokenRequest{Sub: "alice"})
		require.Equal(t, used, lastUse(w.signing("shop").ID), "signing is a use")
		pass(time.Second)
		_, err = w.connect(text, "c1")
		require.NoError(t, err)
		require.Equal(t, used.Add(time.Second), lastUse(w.signing("shop").ID), "verifying too")
		pass(time.Minute)
		w.open()
		require.Equal(t, used, lastUse(k.ID), "found after a restart")
	})
}

func TestLastUseIsWrittenOnTheWayOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
		ctx, stop := contextWithStop(t)
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		_, err := w.connect(value, "c1")
		require.NoError(t, err)
		stop()
		require.NoError(t, <-done)
		records, err := w.store.LoadApps(t.Context())
		require.NoError(t, err)
		require.False(t, records[0].Keys[1].LastUsedAt.IsZero())
	})
}

// TestKeyLimits: an app has room for so many keys, and for fewer that every token may be tried with.
func TestKeyLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 99 {
		w.key("shop", auth.NewKey{Kind: auth.KindSigning, Name: fmt.Sprint(i)})
	}
	var limit *auth.LimitError
	_, _, err := w.CreateKey(t.Context(), "admin", "shop", auth.NewKey{Kind: auth.KindSigning, Name: "one more"})
	require.ErrorAs(t, err, &limit)
	require.Contains(t, limit.Sentence, "100 signing keys")
	var last auth.Key
	for i := range 9_900 {
		last, _ = w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: fmt.Sprint(i)})
	}
	_, _, err = w.CreateKey(t.Context(), "admin", "shop", auth.NewKey{Kind: auth.KindDevice, Name: "one more"})
	require.ErrorAs(t, err, &limit)
	require.Contains(t, limit.Sentence, "10000 keys")
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", last.ID))
	w.key("shop", auth.NewKey{Kind: auth.KindDevice})
}

func TestKeysAreListedOldestFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 10 {
			w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: fmt.Sprint(i)})
			if i%2 == 0 {
				pass(time.Second)
			}
		}
		before, err := w.Keys("shop")
		require.NoError(t, err)
		require.True(t, slices.IsSortedFunc(before, func(x, y auth.Key) int { return x.CreatedAt.Compare(y.CreatedAt) }))
		w.open()
		after, err := w.Keys("shop")
		require.NoError(t, err)
		require.Equal(t, before, after, "the same after a restart")
	})
}

package auth_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

func withDefault(t *testing.T, w *world, app string) *auth.Directory {
	t.Helper()
	d, err := auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: secretKey, DefaultApp: app, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return d
}

// TestWhichApp: the path's, else the user name's, else the default one (CONTRACT section 4).
func TestWhichApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("home")
	for _, app := range []string{"shop", "home"} {
		w.set(app, `{"anonymous":true}`)
	}
	const refused = ""
	for name, c := range map[string]struct {
		path, user       string
		without, defHome string // the app, without a default and with home as the default
	}{
		"path":                      {"shop", "", "shop", "shop"},
		"path_wins":                 {"shop", "home", "shop", "shop"},
		"path_of_no_app":            {"nowhere", "shop", refused, refused},
		"user":                      {"", "shop", "shop", "shop"},
		"user_with_more":            {"", "shop/anything", "shop", "shop"},
		"user_with_more_and_more":   {"", "shop/a/b", "shop", "shop"},
		"user_with_nothing_more":    {"", "shop/", "shop", "shop"},
		"user_of_no_app":            {"", "bob", refused, "home"},
		"user_of_no_app_with_more":  {"", "bob/shop", refused, "home"},
		"user_that_only_looks_like": {"", "Shop", refused, "home"},
		"slash":                     {"", "/shop", refused, "home"},
		"nothing":                   {"", "", refused, "home"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for def, want := range map[string]string{"": c.without, "home": c.defHome} {
				g, err := withDefault(t, w, def).Authenticate(t.Context(), auth.Credentials{PathApp: c.path, HasUsername: c.user != "", Username: c.user, ClientID: "c"})
				if want == refused {
					require.ErrorIs(t, err, auth.ErrBadCredentials, "default %q", def)
					continue
				}
				require.NoError(t, err, "default %q", def)
				require.Equal(t, want, g.AppID(), "default %q", def)
			}
		})
	}
	_, err := withDefault(t, w, "gone").Authenticate(t.Context(), auth.Credentials{ClientID: "c"})
	require.ErrorIs(t, err, auth.ErrBadCredentials, "a default app that does not exist")
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, secret := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	token := w.token("shop", auth.TokenRequest{Sub: "alice"})
	_, err := w.connect("", "c1")
	require.ErrorIs(t, err, auth.ErrBadCredentials, "off by default")
	_, err = w.AuthenticateAnonymous("shop")
	require.ErrorIs(t, err, auth.ErrBadCredentials)

	w.set("shop", `{"anonymous":true}`)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"open/${sub}"}]`)
	for name, password := range map[string]string{"none": "", "any_other": "hunter2", "not_quite_a_token": "eyJx.y", "binary": "\x00\xff"} {
		g, err := w.connect(password, "c1")
		require.NoError(t, err, name)
		require.Equal(t, "anonymous", g.Subject(), name)
		require.False(t, g.HangsOn(""), name)
		require.True(t, g.Expires().IsZero(), name)
		require.True(t, g.MayPublish("open/anonymous"), "under the rules")
		require.False(t, g.MayPublish("closed"))
	}
	// What has the form of one of our credentials must be valid, and is not ignored.
	for name, password := range map[string]string{
		"key": "ek_abcdefghijklmnop_xxxxxxxx", "key_of_a_kind": "ek_", "token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "admin": "ea_xxxxxxxx", "cut_off": token[:len(token)-2],
	} {
		_, err := w.connect(password, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials, name)
		_, err = w.Authenticate(t.Context(), auth.Credentials{PathApp: "shop", QueryToken: password, ClientID: "c1"})
		require.ErrorIs(t, err, auth.ErrBadCredentials, "%s in the URL", name)
	}
	g, err := w.connect(token, "c1")
	require.NoError(t, err)
	require.Equal(t, "alice", g.Subject())
	g, err = w.connect(secret, "c1")
	require.NoError(t, err)
	require.Equal(t, "key:test", g.Subject())

	p, err := w.AuthenticateAnonymous("shop")
	require.NoError(t, err)
	require.Equal(t, auth.PrincipalNone, p.Kind)
	require.True(t, p.Grant.MayPublish("open/anonymous"))
	_, err = w.AuthenticateAnonymous("nowhere")
	require.ErrorIs(t, err, auth.ErrBadCredentials)

	anonymous, err := w.connect("", "c1")
	require.NoError(t, err)
	require.True(t, anonymous.Alive())
	w.set("shop", `{"anonymous":null}`)
	require.False(t, anonymous.Alive(), "the leave is gone")
}

// A secret key is above the rules, not above its scopes.
func TestScopesOfASecretKeyHoldOverMQTT(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for scope, may := range map[string]struct{ publish, subscribe bool }{
		auth.ScopePublish: {publish: true}, auth.ScopeRead: {subscribe: true}, auth.ScopeTokens: {},
	} {
		_, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret, KeyAttributes: auth.KeyAttributes{Scopes: []string{scope}}})
		g, err := w.connect(value, "c1")
		require.NoError(t, err)
		require.Equal(t, may.publish, g.MayPublish("a"), scope)
		require.Equal(t, may.subscribe, g.MaySubscribe("#", false), scope)
	}
	_, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	g, err := w.connect(value, "c1")
	require.NoError(t, err)
	require.True(t, g.MayPublish("a") && g.MaySubscribe("#", true), "the scopes that a key has without asking")
}

// TestPasswordAndURL: a token may come in the URL, a key never; if both come, the password wins.
func TestPasswordAndURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, secret := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	_, device := w.key("shop", auth.NewKey{Kind: auth.KindDevice})
	alice, bob := w.token("shop", auth.TokenRequest{Sub: "alice"}), w.token("shop", auth.TokenRequest{Sub: "bob"})
	for name, c := range map[string]struct {
		query, password string
		want            string // the sub
	}{
		"url":                       {alice, "", "alice"},
		"both":                      {alice, bob, "bob"},
		"both_and_a_bad_password":   {alice, "wrong", ""},
		"secret_key_in_the_url":     {secret, "", ""},
		"device_key_in_the_url":     {device, "", ""},
		"password_beside_it_counts": {secret, bob, "bob"},
		"admin_token":               {"", "ea_the-admin", ""},
		"admin_token_in_the_url":    {"ea_the-admin", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := w.Authenticate(t.Context(), auth.Credentials{
				PathApp: "shop", QueryToken: c.query, HasPassword: c.password != "", Password: []byte(c.password), ClientID: "c1",
			})
			if c.want == "" {
				require.ErrorIs(t, err, auth.ErrBadCredentials)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, g.Subject())
		})
	}
}

func TestSecretKeysConnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("other")
	k, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret, Name: "backend"})
	g, err := w.connect(value, "c1")
	require.NoError(t, err)
	require.Equal(t, "key:backend", g.Subject())
	require.True(t, g.HangsOn(k.ID))
	require.True(t, g.Bypass())
	require.True(t, g.MayPublish("anything"), "above the rules")
	require.True(t, g.MaySubscribe("#", true))
	require.Nil(t, g.ReceiveFilter("#"))

	for name, wrong := range map[string]string{
		"another_secret": value[:len(value)-1] + "x", "without_secret": "ek_" + k.ID + "_", "unknown_id": "ek_aaaaaaaaaaaaaaaa_" + value[20:], "longer": value + "x",
	} {
		_, err := w.connect(wrong, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials, name)
	}
	_, err = w.Authenticate(t.Context(), auth.Credentials{PathApp: "other", HasPassword: true, Password: []byte(value), ClientID: "c1"})
	require.ErrorIs(t, err, auth.ErrBadCredentials, "in another app")
	w.open()
	g, err = w.connect(value, "c1")
	require.NoError(t, err, "after a restart")
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID))
	require.False(t, g.Alive())
	_, err = w.connect(value, "c1")
	require.ErrorIs(t, err, auth.ErrBadCredentials)
}

func TestDeviceKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"devices/${sub}/#"},{"effect":"deny","actions":["publish"],"topic":"devices/+/config"}]`)
	k, value := w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: "lamp", KeyAttributes: auth.KeyAttributes{
		ClientID: "lamp-1", Rules: parse(t, `[{"effect":"allow","actions":["subscribe"],"topic":"commands/${client_id}"},{"effect":"deny","actions":["publish"],"topic":"devices/+/secret"}]`),
	}})
	require.Equal(t, "device:lamp", k.Sub)
	for range 2 {
		g, err := w.connect(value, "lamp-1")
		require.NoError(t, err)
		require.Equal(t, "device:lamp", g.Subject())
		require.False(t, g.Bypass())
		require.True(t, g.MayPublish("devices/device:lamp/state"), "the app's rules")
		require.False(t, g.MayPublish("devices/device:lamp/config"), "the app's denies")
		require.False(t, g.MayPublish("devices/device:lamp/secret"), "the key's own denies")
		require.True(t, g.MaySubscribe("commands/lamp-1", false), "the key's own rules add to them")
		require.False(t, g.MaySubscribe("commands/lamp-2", false))
		p, err := w.AuthenticateBearer(t.Context(), "shop", value)
		require.NoError(t, err)
		require.Equal(t, auth.PrincipalDevice, p.Kind)
		require.True(t, p.Grant.MaySubscribe("commands/lamp-1", false), "by REST it has the client id that it names")
		w.open()
	}

	// Its client id is reserved for it.
	_, err := w.connect(value, "lamp-2")
	require.ErrorIs(t, err, auth.ErrClientID)
	_, err = w.connect(w.token("shop", auth.TokenRequest{Sub: "alice"}), "lamp-1")
	require.ErrorIs(t, err, auth.ErrClientID)
	_, secret := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	_, err = w.connect(secret, "lamp-1")
	require.ErrorIs(t, err, auth.ErrClientID)
	w.set("shop", `{"anonymous":true}`)
	_, err = w.connect("", "lamp-1")
	require.ErrorIs(t, err, auth.ErrClientID)
	_, err = w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "lamp-1"}), "lamp-1")
	require.NoError(t, err, "a token made for that client id names it too")

	// Rotation: a second key of the same name has the same sub and may have the same client id.
	second, newValue := w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: "lamp", KeyAttributes: auth.KeyAttributes{ClientID: "lamp-1"}})
	require.Equal(t, k.Sub, second.Sub)
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID))
	_, err = w.connect(value, "lamp-1")
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	_, err = w.connect(newValue, "lamp-1")
	require.NoError(t, err)
	_, err = w.connect("", "lamp-1")
	require.ErrorIs(t, err, auth.ErrClientID, "still reserved, for the second key")
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", second.ID))
	_, err = w.connect("", "lamp-1")
	require.NoError(t, err, "reserved no longer")

	own, ownValue := w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: "x", KeyAttributes: auth.KeyAttributes{Sub: "sensor-7"}})
	require.Equal(t, "sensor-7", own.Sub)
	g, err := w.connect(ownValue, "any")
	require.NoError(t, err)
	require.Equal(t, "sensor-7", g.Subject())
}

func TestBearer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.app("other")
	secret, secretValue := w.key("shop", auth.NewKey{Kind: auth.KindSecret, Name: "ci", KeyAttributes: auth.KeyAttributes{Scopes: []string{"read"}}})
	device, deviceValue := w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: "lamp"})
	page, pageValue := w.key("shop", auth.NewKey{Kind: auth.KindPublishable, Name: "page"})
	_, signingValue := w.key("shop", auth.NewKey{Kind: auth.KindSigning})
	token := w.token("shop", auth.TokenRequest{Sub: "alice"})
	for name, c := range map[string]struct {
		credential, kind, keyID, actor string
		grant                          bool
	}{
		"secret":      {secretValue, auth.PrincipalSecret, secret.ID, "key:ci (" + secret.ID + ")", true},
		"device":      {deviceValue, auth.PrincipalDevice, device.ID, "key:lamp (" + device.ID + ")", true},
		"publishable": {pageValue, auth.PrincipalPublishable, page.ID, "key:page (" + page.ID + ")", false},
		"client":      {token, auth.PrincipalClient, fmt.Sprint(headerOf(t, token)["kid"]), "alice", true},
	} {
		// Asked in another app, or in none, it is known as what it is in its own.
		for _, app := range []string{"shop", "other", "nowhere", ""} {
			p, err := w.AuthenticateBearer(t.Context(), app, c.credential)
			require.NoError(t, err, "%s in %q", name, app)
			require.Equal(t, c.kind, p.Kind, name)
			require.Equal(t, "shop", p.App.ID, name)
			require.Equal(t, c.keyID, p.KeyID, name)
			require.Equal(t, c.actor, p.Actor, name)
			require.Equal(t, c.grant, p.Grant != nil, name)
		}
	}
	p, err := w.AuthenticateBearer(t.Context(), "shop", secretValue)
	require.NoError(t, err)
	require.Equal(t, []string{"read"}, p.Scopes)

	p, err = w.AuthenticateBearer(t.Context(), "shop", "ea_the-admin")
	require.NoError(t, err)
	require.Equal(t, auth.PrincipalAdmin, p.Kind)
	require.Equal(t, "admin", p.Actor)
	require.Equal(t, "shop", p.App.ID)
	p, err = w.AuthenticateBearer(t.Context(), "nowhere", "ea_the-admin")
	require.NoError(t, err)
	require.Empty(t, p.App.ID)

	for name, wrong := range map[string]string{
		"empty": "", "garbage": "garbage", "unknown_key": "ek_aaaaaaaaaaaaaaaa_xxxx", "signing_key": signingValue, "almost_admin": "ea_the-admi",
		"another_secret": secretValue + "x", "a_hash": string(hash(secretValue)),
	} {
		for _, app := range []string{"shop", "other", "nowhere", ""} {
			_, err := w.AuthenticateBearer(t.Context(), app, wrong)
			require.ErrorIs(t, err, auth.ErrBadCredentials, "%s in %q", name, app)
		}
	}
	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))
	for _, credential := range []string{secretValue, deviceValue, pageValue, token} {
		_, err := w.AuthenticateBearer(t.Context(), "other", credential)
		require.ErrorIs(t, err, auth.ErrBadCredentials, "of an app that is gone")
	}
}

func TestNobodyIsAdminWithoutAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, err := auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: secretKey})
	require.NoError(t, err)
	require.False(t, d.IsAdmin(""))
	require.False(t, d.IsAdmin("ea_the-admin"))
	d.SetAdminToken("")
	require.False(t, d.IsAdmin(""))
	d.SetAdminToken("x")
	require.True(t, d.IsAdmin("x"))
	require.False(t, d.IsAdmin(""))
}

// TestAlive: a grant goes with its app.
func TestAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.grant(nil)
	uid := g.AppUID()
	require.True(t, g.Alive())
	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))
	require.False(t, g.Alive())
	w.app("shop")
	require.False(t, g.Alive(), "an app made again under the same id is another one")
	a, ok := w.App("shop")
	require.True(t, ok)
	require.NotEqual(t, uid, a.UID)
	_, ok = w.AppByUID(uid)
	require.False(t, ok)
}

// TestGrantFollowsRules: what is live is judged by the rules of now.
func TestGrantFollowsRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.grant(nil)
	require.False(t, g.MayPublish("a"))
	w.rules(`[{"effect":"allow","actions":["publish","subscribe"],"topic":"a"}]`)
	require.Equal(t, []string{"rules"}, w.heard.take())
	require.True(t, g.MayPublish("a"))
	w.rules(`[{"effect":"allow","actions":["subscribe"],"topic":"#"},{"effect":"deny","actions":["subscribe"],"topic":"b"}]`)
	require.False(t, g.MayPublish("a"))
	require.False(t, g.ReceiveFilter("#")("b"))
	w.set("shop", `{"limits":{"receive_maximum":7}}`)
	require.Equal(t, 7, g.Settings().Limits.ReceiveMaximum)
	require.True(t, g.Expires().After(time.Now()))
}

package auth_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// restore makes a grant again after a restart, of what it is encoded as.
func (w *world) restore(g *auth.Grant) (*auth.Grant, error) {
	w.t.Helper()
	w.open()
	return w.Restore(g.AppUID(), g.Encode())
}

// restored is the same for a grant that must come back. What is to be seen of both must be alike.
func (w *world) restored(g *auth.Grant) *auth.Grant {
	w.t.Helper()
	r, err := w.restore(g)
	require.NoError(w.t, err)
	require.Equal(w.t, g.AppUID(), r.AppUID())
	require.Equal(w.t, g.AppID(), r.AppID())
	require.Equal(w.t, g.Subject(), r.Subject())
	require.Equal(w.t, g.Expires(), r.Expires())
	require.Equal(w.t, g.BoundClientID(), r.BoundClientID())
	require.Equal(w.t, g.Bypass(), r.Bypass())
	require.True(w.t, r.Alive())
	require.Equal(w.t, string(g.Encode()), string(r.Encode()))
	return r
}

func TestRestoredTokenGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rules(`[
		{"effect":"allow","actions":["publish"],"topic":"of/${sub}/${client_id}"},
		{"effect":"allow","actions":["publish"],"topic":"rooms/${token.room.number}/${token.on}"},
		{"effect":"allow","actions":["publish","subscribe"],"topic":"app/#"}]`)
	acl := parse(t, `[{"effect":"allow","actions":["publish"],"topic":"own/${sub}/#"},{"effect":"deny","actions":["publish","subscribe"],"topic":"app/no"}]`)
	g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ACL: acl, Claims: map[string]any{
		"room": map[string]any{"number": json.Number("12345678901234567890")}, "on": true, "text": "<&>\u2028 \"é\x01",
	}}), "c1")
	require.NoError(t, err)
	r := w.restored(g)
	require.True(t, r.HangsOn(w.signing("shop").ID))
	require.True(t, r.MayPublish("of/alice/c1"))
	require.False(t, r.MayPublish("of/alice/c2"))
	require.True(t, r.MayPublish("rooms/12345678901234567890/true"), "a number keeps all its digits")
	require.True(t, r.MayPublish("own/alice/x"), "the token's acl")
	require.True(t, r.MayPublish("app/yes"))
	require.False(t, r.MayPublish("app/no"), "a deny of the acl")
	require.False(t, r.ReceiveFilter("app/#")("app/no"))
	w.rules(`[]`)
	require.False(t, r.MayPublish("app/yes"), "it follows the rules of the app")

	assigned := w.restored(g.WithClientID("assigned"))
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"of/${client_id}"}]`)
	require.True(t, assigned.MayPublish("of/assigned"))

	bound, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ClientID: "phone"}), "phone")
	require.NoError(t, err)
	last := w.restored(bound)
	require.Equal(t, "phone", last.BoundClientID())

	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", w.signing("shop").ID))
	require.False(t, last.Alive())
	_, err = w.restore(g)
	require.ErrorIs(t, err, auth.ErrNotAllowed, "the key is gone")
}

// TestRestoredAfterItsEnd: a will is sent after its token has expired (CONTRACT section 4).
func TestRestoredAfterItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.rules(`[{"effect":"allow","actions":["publish"],"topic":"will/${sub}"}]`)
		w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
		imported, err := w.connect(sign(t, jwt.SigningMethodHS256, []byte(ownSecret), "", with(claimsOf("alice"), "bypass_rules", true)), "c1")
		require.NoError(t, err)
		require.Equal(t, time.Hour+30*time.Second, time.Until(imported.Expires()).Round(time.Second), "with its leeway")
		for _, g := range []*auth.Grant{w.grant(nil), imported} {
			at := g.Expires()
			pass(2 * time.Hour)
			r := w.restored(g)
			require.Equal(t, at, r.Expires())
			require.True(t, r.Expires().Before(time.Now()))
			require.True(t, r.MayPublish("will/alice"))
			require.False(t, r.MayPublish("will/bob"))
		}
	})
}

func TestRestoredKeyGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, secret := w.key("shop", auth.NewKey{Kind: auth.KindSecret, Name: "backend", KeyAttributes: auth.KeyAttributes{Scopes: []string{auth.ScopePublish}}})
	own := parse(t, `[{"effect":"allow","actions":["publish"],"topic":"devices/${client_id}/#"},{"effect":"deny","actions":["publish"],"topic":"devices/+/no"}]`)
	device, deviceValue := w.key("shop", auth.NewKey{Kind: auth.KindDevice, Name: "lamp", KeyAttributes: auth.KeyAttributes{ClientID: "lamp-1", Rules: own}})

	g, err := w.connect(secret, "c1")
	require.NoError(t, err)
	r := w.restored(g)
	require.True(t, r.MayPublish("anything"))
	require.False(t, r.MaySubscribe("anything", false), "its scopes hold")
	require.NotContains(t, string(g.Encode()), secret)

	g, err = w.connect(deviceValue, "lamp-1")
	require.NoError(t, err)
	r = w.restored(g)
	require.Equal(t, "device:lamp", r.Subject())
	require.True(t, r.HangsOn(device.ID))
	require.True(t, r.MayPublish("devices/lamp-1/x"))
	require.False(t, r.MayPublish("devices/lamp-1/no"))
	require.False(t, r.MayPublish("devices/lamp-2/x"))
	_, random, ok := strings.Cut(strings.TrimPrefix(deviceValue, "ek_"), "_")
	require.True(t, ok)
	require.NotContains(t, string(g.Encode()), random)

	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", device.ID))
	_, err = w.restore(g)
	require.ErrorIs(t, err, auth.ErrNotAllowed, "the key is gone")
}

func TestRestoredBypass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.token("shop", auth.TokenRequest{Sub: "tool", TTL: time.Minute, BypassRules: true})
	g, err := w.connect(text, "c1")
	require.NoError(t, err)
	r := w.restored(g)
	require.True(t, r.MayPublish("anything"))
	require.True(t, r.MaySubscribe("#", true))
	proof, ok := claimsIn(t, text)["bypass_rules"].(string)
	require.True(t, ok)
	require.NotContains(t, string(g.Encode()), proof, "with it and the signing key's value anybody could make the token again")
}

func TestRestoredVisitor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, _ := w.key("shop", auth.NewKey{Kind: auth.KindPublishable})
	text, _, err := w.MintAnonymous("shop", k.ID, "", "")
	require.NoError(t, err)
	g, err := w.connect(text, "c1")
	require.NoError(t, err)
	r := w.restored(g)
	require.True(t, r.HangsOn(k.ID))
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID))
	require.False(t, w.restoredAs(r), "the page's key is gone")
}

// restoredAs reports whether a grant comes back.
func (w *world) restoredAs(g *auth.Grant) bool {
	w.t.Helper()
	_, err := w.restore(g)
	if err != nil {
		require.ErrorIs(w.t, err, auth.ErrNotAllowed)
	}
	return err == nil
}

func TestRestoredAnonymous(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set("shop", `{"anonymous":true}`)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"${sub}/${client_id}"}]`)
	g, err := w.connect("", "c1")
	require.NoError(t, err)
	require.True(t, w.restored(g).MayPublish("anonymous/c1"))
	w.set("shop", `{"anonymous":null}`)
	require.False(t, w.restoredAs(g), "the leave is gone")
	w.set("shop", `{"anonymous":true}`)
	require.True(t, w.restoredAs(g))

	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))
	require.False(t, w.restoredAs(g), "the app is gone")
	w.app("shop")
	w.set("shop", `{"anonymous":true}`)
	require.False(t, w.restoredAs(g), "another app under the same id is another app")
}

func TestRestoreRefusesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.set("shop", `{"anonymous":true}`)
	signing := w.signing("shop").ID
	secret, _ := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	device, _ := w.key("shop", auth.NewKey{Kind: auth.KindDevice, KeyAttributes: auth.KeyAttributes{ClientID: "lamp-1"}})
	page, _ := w.key("shop", auth.NewKey{Kind: auth.KindPublishable})
	imported, _ := w.key("shop", auth.NewKey{Kind: auth.KindSigning, Secret: ownSecret})
	uid := w.grant(nil).AppUID()
	const claims = `"claims":{"sub":"alice","exp":4102444800}`
	for name, s := range map[string]string{
		"anonymous": `{"v":1}`,
		"secret":    `{"v":1,"key":"` + secret.ID + `"}`,
		"device":    `{"v":1,"key":"` + device.ID + `","client_id":"lamp-1"}`,
		"token":     `{"v":1,"key":"` + signing + `","client_id":"c1",` + claims + `}`,
		"bypass":    `{"v":1,"key":"` + signing + `","bypass":true,` + claims + `}`,
	} {
		_, err := w.Restore(uid, []byte(s))
		require.NoError(t, err, name)
	}
	for name, s := range map[string]string{
		"nothing":                ``,
		"cut_off":                `{"v":1`,
		"null":                   `null`,
		"no_version":             `{}`,
		"a_later_version":        `{"v":2}`,
		"more_members":           `{"v":1,"sub":"root"}`,
		"more_behind_it":         `{"v":1}{}`,
		"no_key_and_claims":      `{"v":1,` + claims + `}`,
		"no_key_and_bypass":      `{"v":1,"bypass":true}`,
		"unknown_key":            `{"v":1,"key":"abcdefghijklmnop"}`,
		"publishable_key":        `{"v":1,"key":"` + page.ID + `"}`,
		"secret_key_with_claims": `{"v":1,"key":"` + secret.ID + `",` + claims + `}`,
		"device_key_bypassing":   `{"v":1,"key":"` + device.ID + `","client_id":"lamp-1","bypass":true}`,
		"device_key_elsewhere":   `{"v":1,"key":"` + device.ID + `","client_id":"lamp-2"}`,
		"signing_key_alone":      `{"v":1,"key":"` + signing + `"}`,
		"imported_key_bypassing": `{"v":1,"key":"` + imported.ID + `","bypass":true,` + claims + `}`,
		"no_sub":                 `{"v":1,"key":"` + signing + `","claims":{"exp":4102444800}}`,
		"no_exp":                 `{"v":1,"key":"` + signing + `","claims":{"sub":"alice"}}`,
		"a_sub_of_the_server's":  `{"v":1,"key":"` + signing + `","claims":{"sub":"key:x","exp":4102444800}}`,
		"an_acl_that_is_none":    `{"v":1,"key":"` + signing + `","claims":{"sub":"alice","exp":4102444800,"acl":[{}]}}`,
		"another's_client_id":    `{"v":1,"key":"` + signing + `","client_id":"c2","claims":{"sub":"alice","exp":4102444800,"client_id":"c1"}}`,
		"a_visitor_of_no_key":    `{"v":1,"key":"` + signing + `","claims":{"sub":"anon:x","exp":4102444800,"visitor":{"key":"x"}}}`,
		"longer_than_any_can_be": `{"v":1,"client_id":"` + strings.Repeat("x", 256<<10) + `"}`,
		"deeper_than_any_can_be": `{"v":1,"claims":` + strings.Repeat(`{"a":`, 20_000) + `1` + strings.Repeat(`}`, 20_001),
		"a_number_with_no_end":   `{"v":1,"key":"` + signing + `","claims":{"sub":"alice","exp":1e400}}`,
	} {
		_, err := w.Restore(uid, []byte(s))
		require.ErrorIs(t, err, auth.ErrNotAllowed, name)
	}
	_, err := w.Restore(uid+1, []byte(`{"v":1}`))
	require.ErrorIs(t, err, auth.ErrNotAllowed, "an app that is not there")
}

// FuzzRestore reads any bytes. What comes back as a grant is written, and comes back the same from that.
func FuzzRestore(f *testing.F) {
	w := newWorld(f)
	w.set("shop", `{"anonymous":true}`)
	signing := w.signing("shop").ID
	device, _ := w.key("shop", auth.NewKey{Kind: auth.KindDevice})
	uid := w.grant(nil).AppUID()
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":1,"key":"KEY","client_id":"c1","claims":{"sub":"alice","exp":4102444800,"acl":[{"effect":"deny","actions":["publish"],"topic":"a/${sub}"}]}}`))
	f.Add([]byte(`{"v":1,"key":"KEY","bypass":true,"claims":{"sub":"<","exp":1e9,"x":[1.50,null,{"y":"\u2028"}]}}`))
	f.Add([]byte(`{"v":1,"key":"DEVICE","client_id":"c1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return // written, it may be longer than what is read
		}
		text := strings.NewReplacer("KEY", signing, "DEVICE", device.ID).Replace(string(b))
		g, err := w.Restore(uid, []byte(text))
		if err != nil {
			require.ErrorIs(t, err, auth.ErrNotAllowed)
			return
		}
		g.MayPublish("a/alice")
		again, err := w.Restore(uid, g.Encode())
		require.NoError(t, err)
		require.Equal(t, string(g.Encode()), string(again.Encode()))
		require.Equal(t, g.Expires(), again.Expires())
		require.Equal(t, g.Subject(), again.Subject())
	})
}

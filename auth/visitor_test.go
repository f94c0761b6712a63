package auth_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

func TestVisitors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k, value := w.key("shop", auth.NewKey{Kind: auth.KindPublishable, KeyAttributes: auth.KeyAttributes{Origins: []string{"https://shop.example"}}})
		open, _ := w.key("shop", auth.NewKey{Kind: auth.KindPublishable})
		_, signing := w.key("shop", auth.NewKey{Kind: auth.KindSigning})
		text, expires, err := w.MintAnonymous("shop", k.ID, "https://shop.example", "")
		require.NoError(t, err)
		require.Equal(t, time.Hour, time.Until(expires))
		first, err := w.connect(text, "c1")
		require.NoError(t, err)
		require.Regexp(t, "^anon:[a-z2-7]{16}$", first.Subject())
		other, _, err := w.MintAnonymous("shop", k.ID, "", "")
		require.NoError(t, err, "what is no page has no Origin")
		require.NotEqual(t, first.Subject(), claimsIn(t, other)["sub"])

		_, _, err = w.MintAnonymous("shop", k.ID, "https://evil.example", "")
		require.ErrorIs(t, err, auth.ErrNotAllowed)
		_, _, err = w.MintAnonymous("shop", open.ID, "https://anywhere.example", "")
		require.NoError(t, err)
		for _, wrong := range []string{"", "nothing", w.signing("shop").ID} {
			_, _, err = w.MintAnonymous("shop", wrong, "", "")
			require.ErrorIs(t, err, auth.ErrBadCredentials)
		}
		_, err = w.connect(value, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials, "the key itself is no password")

		// Kept by renewing in time, with the same sub, so that the connection can be renewed by it too.
		pass(59 * time.Minute)
		text, expires, err = w.MintAnonymous("shop", k.ID, "", text)
		require.NoError(t, err)
		require.Equal(t, time.Hour, time.Until(expires))
		second, err := w.Renew(t.Context(), first, text)
		require.NoError(t, err)
		require.Equal(t, first.Subject(), second.Subject())

		for name, before := range map[string]string{
			"garbage":            "garbage",
			"a_user's_token":     w.token("shop", auth.TokenRequest{Sub: "alice"}),
			"a_forged_visitor's": w.token("shop", auth.TokenRequest{Sub: "anon:chosen"}),
			"of_no_visitor": sign(t, jwt.SigningMethodHS256, []byte(signing), "", with(claimsOf("alice"), "visitor", map[string]any{
				"key": k.ID, "since": time.Now().Unix(),
			})),
			"of_no_time":     sign(t, jwt.SigningMethodHS256, []byte(signing), "", with(claimsOf("anon:x"), "visitor", map[string]any{"key": k.ID, "since": "x"})),
			"by_another_key": visitor(w, open.ID),
		} {
			_, _, err = w.MintAnonymous("shop", k.ID, "", before)
			require.Equal(t, []string{"/token"}, pointers(t, err), name)
		}
		pass(time.Hour)
		_, _, err = w.MintAnonymous("shop", k.ID, "", text)
		require.Equal(t, []string{"/token"}, pointers(t, err), "it has expired")

		// A visitor's token ends with the publishable key, as what a key has signed ends with that.
		text = visitor(w, open.ID)
		last, err := w.connect(text, "c1")
		require.NoError(t, err)
		require.True(t, last.Alive())
		require.True(t, last.HangsOn(open.ID))
		require.False(t, last.HangsOn(k.ID))
		require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", open.ID))
		require.False(t, last.Alive())
		_, err = w.connect(text, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	})
}

func visitor(w *world, keyID string) string {
	w.t.Helper()
	text, _, err := w.MintAnonymous("shop", keyID, "", "")
	require.NoError(w.t, err)
	return text
}

// TestVisitorsEnd: a sub is kept for as long as a token may live, from when it began.
func TestVisitorsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set("shop", `{"token_ttl_max_seconds":9000}`)
		k, _ := w.key("shop", auth.NewKey{Kind: auth.KindPublishable})
		began := time.Now()
		text := visitor(w, k.ID)
		for _, want := range []time.Duration{time.Hour, time.Hour, 30 * time.Minute} {
			pass(50 * time.Minute)
			renewed, expires, err := w.MintAnonymous("shop", k.ID, "", text)
			if time.Since(began) >= 9000*time.Second {
				require.Equal(t, []string{"/token"}, pointers(t, err))
				return
			}
			require.NoError(t, err)
			require.LessOrEqual(t, expires.Sub(began), 9000*time.Second)
			require.LessOrEqual(t, time.Until(expires), want)
			text = renewed
		}
		t.Fatal("it went on for ever")
	})
}

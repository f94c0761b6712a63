package auth_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// errLost is what a change ends with whose connection is lost in COMMIT.
var errLost = fmt.Errorf("%w: connection lost", auth.ErrUnavailable)

const mayPublishA = `[{"effect":"allow","actions":["publish"],"topic":"a"}]`

// TestUnknownOutcome: a change that was committed although it failed is in force before the next change of its app.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	t.Run("put_rules", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		g := w.grant(nil)
		w.store.loseNext(errLost)
		_, err := w.PutRules(t.Context(), "admin", "shop", parse(t, mayPublishA), 1)
		require.ErrorIs(t, err, auth.ErrUnavailable)
		_, err = w.PutRules(t.Context(), "admin", "shop", nil, 1)
		require.ErrorIs(t, err, auth.ErrConflict, "version 2 is there")
		require.Equal(t, []string{"rules"}, w.heard.take(), "live connections are judged anew")
		require.True(t, g.MayPublish("a"))
		version, err := w.PutRules(t.Context(), "admin", "shop", nil, 2)
		require.NoError(t, err)
		require.Equal(t, int64(3), version)
	})
	t.Run("update_app", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.store.loseNext(errLost)
		name := "The Shop"
		_, err := w.UpdateApp(t.Context(), "admin", "shop", &name, json.RawMessage(`{"anonymous":true}`))
		require.ErrorIs(t, err, auth.ErrUnavailable)
		a, err := w.UpdateApp(t.Context(), "admin", "shop", nil, json.RawMessage(`{"history_seconds":5}`))
		require.NoError(t, err)
		require.Equal(t, []string{"changed shop", "changed shop"}, w.heard.take())
		require.Equal(t, name, a.Name)
		require.True(t, a.Settings.Anonymous, "nothing that was committed is overwritten")
	})
	t.Run("create_key", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.store.loseNext(errLost)
		_, _, err := w.CreateKey(t.Context(), "admin", "shop", auth.NewKey{Kind: auth.KindDevice, Name: "lost", KeyAttributes: auth.KeyAttributes{ClientID: "c9"}})
		require.ErrorIs(t, err, auth.ErrUnavailable)
		w.key("shop", auth.NewKey{Kind: auth.KindSecret})
		keys, err := w.Keys("shop")
		require.NoError(t, err)
		require.Len(t, keys, 3, "it is listed, and can be deleted")
		_, err = w.connect(w.token("shop", auth.TokenRequest{Sub: "alice"}), "c9")
		require.ErrorIs(t, err, auth.ErrClientID, "the client id is the key's")
		for _, k := range keys {
			if k.Name == "lost" {
				require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID))
			}
		}
	})
	t.Run("delete_key", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		k, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
		g, err := w.connect(value, "c1")
		require.NoError(t, err)
		w.store.loseNext(errLost)
		require.ErrorIs(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID), auth.ErrUnavailable)
		require.ErrorIs(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID), auth.ErrNotFound)
		require.Equal(t, []string{"key " + k.ID}, w.heard.take())
		require.False(t, g.Alive())
		_, err = w.connect(value, "c1")
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	})
	t.Run("create_app", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.store.loseNext(errLost)
		_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "new"})
		require.ErrorIs(t, err, auth.ErrUnavailable)
		_, err = w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "new"})
		require.ErrorIs(t, err, auth.ErrTaken)
		require.Equal(t, []string{"created new"}, w.heard.take())
		w.token("new", auth.TokenRequest{Sub: "alice"})
	})
	t.Run("delete_app", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.store.loseNext(errLost)
		require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrUnavailable)
		require.Equal(t, []string{"deleted", "created shop"}, w.heard.take())
		require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrNotFound)
		require.Equal(t, []string{"deleted"}, w.heard.take())
		_, there := w.App("shop")
		require.False(t, there)
		w.app("shop")
	})
}

// TestUnknownOutcomeInTheBackground: what was committed takes force without anybody asking, as soon as the store is back.
func TestUnknownOutcomeInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		k, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
		secret, err := w.connect(value, "c1")
		require.NoError(t, err)
		alice := w.grant(nil)
		lose := func(change func() error) {
			t.Helper()
			w.store.loseNext(errLost)
			require.ErrorIs(t, change(), auth.ErrUnavailable)
		}
		lose(func() error { return w.DeleteKey(t.Context(), "admin", "shop", k.ID) })
		w.store.failWith(errLost)
		pass(time.Minute)
		require.True(t, secret.Alive(), "nobody knows yet")
		w.store.failWith(nil)
		pass(time.Second)
		require.False(t, secret.Alive())
		require.Equal(t, []string{"key " + k.ID}, w.heard.take())

		lose(func() error { return second(w.PutRules(t.Context(), "admin", "shop", parse(t, mayPublishA), 0)) })
		lose(func() error { return second(w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "new"})) })
		pass(time.Second)
		require.True(t, alice.MayPublish("a"))
		require.ElementsMatch(t, []string{"rules", "created new"}, w.heard.take())
		lose(func() error { return w.DeleteApp(t.Context(), "admin", "new") })
		w.heard.take()
		pass(time.Second)
		_, there := w.App("new")
		require.False(t, there)
		require.Equal(t, []string{"deleted"}, w.heard.take())

		// What was not committed stays as it was.
		pass(time.Minute)
		w.store.failWith(errLost)
		require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrUnavailable)
		require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrUnavailable, "and cuts nobody off again")
		require.ErrorIs(t, second(w.PutRules(t.Context(), "admin", "shop", nil, 0)), auth.ErrUnavailable)
		w.store.failWith(nil)
		pass(time.Minute)
		require.Equal(t, []string{"deleted", "created shop"}, w.heard.take())
		require.True(t, w.grant(nil).MayPublish("a"))
	})
}

// TestLateCommit: a COMMIT may arrive after the app was read anew.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		g := w.grant(nil)
		w.store.failWith(errLost)
		require.ErrorIs(t, second(w.PutRules(t.Context(), "admin", "shop", parse(t, mayPublishA), 0)), auth.ErrUnavailable)
		w.store.failWith(nil)
		pass(time.Second)
		uid := g.AppUID()
		require.NoError(t, w.store.PutRules(t.Context(), uid, auth.RulesRow{Version: 2, Rules: []byte(mayPublishA)}, auth.Audit{}))
		pass(time.Second)
		require.True(t, g.MayPublish("a"))
	})
}

// TestMissingRow: a delete of what is not there any more drops what memory holds of it.
func TestMissingRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	app, _ := w.App("shop")
	k, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	require.NoError(t, w.store.DeleteKey(t.Context(), app.UID, k.ID, auth.Audit{}))
	require.ErrorIs(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID), auth.ErrNotFound)
	require.Equal(t, []string{"key " + k.ID}, w.heard.take())
	_, err := w.connect(value, "c1")
	require.ErrorIs(t, err, auth.ErrBadCredentials)

	// A version that is there already tells that memory is behind.
	require.NoError(t, w.store.PutRules(t.Context(), app.UID, auth.RulesRow{Version: 2, Rules: []byte(mayPublishA)}, auth.Audit{}))
	require.ErrorIs(t, second(w.PutRules(t.Context(), "admin", "shop", nil, 0)), auth.ErrConflict)
	version, err := w.PutRules(t.Context(), "admin", "shop", nil, 0)
	require.NoError(t, err)
	require.Equal(t, int64(3), version)
	w.heard.take()

	require.NoError(t, w.store.DeleteApp(t.Context(), app.UID, auth.Audit{}))
	require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrNotFound)
	require.Equal(t, []string{"deleted"}, w.heard.take())
	_, there := w.App("shop")
	require.False(t, there)
}

// TestAppNotOpened: an app that the engine could not open is opened later.
func TestAppNotOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		w.heard.failWith(errDisk)
		w.app("new")
		pass(2 * time.Second)
		w.heard.failWith(nil)
		w.heard.take()
		pass(time.Second)
		require.Equal(t, []string{"created new"}, w.heard.take())
		pass(time.Minute)
		require.Empty(t, w.heard.take(), "once")
	})
}

// TestDoubtsAreSettledEachByItself: an app that cannot be opened keeps no other from being changed.
func TestDoubtsAreSettledEachByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.heard.failWith(errDisk)
	w.app("new")
	w.store.loseNext(errLost)
	require.ErrorIs(t, second(w.PutRules(t.Context(), "admin", "shop", nil, 0)), auth.ErrUnavailable)
	version, err := w.PutRules(t.Context(), "admin", "shop", nil, 0)
	require.NoError(t, err)
	require.Equal(t, int64(3), version)
	require.ErrorIs(t, second(w.PutRules(t.Context(), "admin", "new", nil, 0)), errDisk)
	w.heard.failWith(nil)
	require.NoError(t, second(w.PutRules(t.Context(), "admin", "new", nil, 0)))
}

package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

func TestCreateApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "chat", Name: "Chat", Settings: json.RawMessage(`{"anonymous":true}`)})
	require.NoError(t, err)
	require.Equal(t, []string{"created chat"}, w.heard.take())
	require.Equal(t, "Chat", a.Name)
	require.True(t, a.Settings.Anonymous)
	got, ok := w.AppByUID(a.UID)
	require.True(t, ok)
	require.Equal(t, a, got)

	keys, err := w.Keys("chat")
	require.NoError(t, err)
	require.Len(t, keys, 1, "one generated signing key")
	require.Equal(t, auth.KindSigning, keys[0].Kind)
	rules, version, err := w.Rules("chat")
	require.NoError(t, err)
	require.Empty(t, rules, "it denies everything")
	require.Equal(t, int64(1), version)

	_, err = w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "chat"})
	require.ErrorIs(t, err, auth.ErrTaken)
	a, err = w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "nameless"})
	require.NoError(t, err)
	require.Equal(t, "nameless", a.Name, "the id where there is no name")

	var ids []string
	for _, a := range w.Apps() {
		ids = append(ids, a.ID)
	}
	require.Equal(t, []string{"chat", "nameless", "shop"}, ids)
	before := w.Apps()
	w.open()
	require.Equal(t, before, w.Apps(), "the same after a restart")
}

func TestAppIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, id := range []string{"a", "0", "a-b", "a-", "0123456789", strings.Repeat("a", 63)} {
		_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: id})
		require.NoError(t, err, "id %q", id)
	}
	for _, id := range []string{"", "-a", "A", "a_b", "a.b", "a/b", "a b", "é", "a\n", "a\x00", "..", strings.Repeat("a", 64)} {
		_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: id, Name: "x"})
		require.Equal(t, []string{"/id"}, pointers(t, err), "id %q", id)
	}
	_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "Bad", Name: "a\tb", Settings: json.RawMessage(`{"x":1}`)})
	require.Equal(t, []string{"/id", "/name", "/settings/x"}, pointers(t, err), "all problems together")
}

func TestUpdateApp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		created, _ := w.App("shop")
		pass(time.Second)
		name := "The Shop"
		a, err := w.UpdateApp(t.Context(), "admin", "shop", &name, json.RawMessage(`{"anonymous":true}`))
		require.NoError(t, err)
		require.Equal(t, []string{"changed shop"}, w.heard.take())
		require.Equal(t, name, a.Name)
		require.Equal(t, created.CreatedAt, a.CreatedAt)
		require.Equal(t, created.UpdatedAt.Add(time.Second), a.UpdatedAt)
		a, err = w.UpdateApp(t.Context(), "admin", "shop", nil, nil)
		require.NoError(t, err)
		require.Equal(t, name, a.Name)
		require.True(t, a.Settings.Anonymous)

		empty := ""
		_, err = w.UpdateApp(t.Context(), "admin", "shop", &empty, json.RawMessage(`{"x":1}`))
		require.Equal(t, []string{"/name", "/settings/x"}, pointers(t, err))
		_, err = w.UpdateApp(t.Context(), "admin", "nowhere", &name, nil)
		require.ErrorIs(t, err, auth.ErrNotFound)
	})
}

func TestDeleteApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))
	require.Equal(t, []string{"deleted"}, w.heard.take())
	_, there := w.App("shop")
	require.False(t, there)
	require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrNotFound)
	_, err := w.connect("", "c1")
	require.ErrorIs(t, err, auth.ErrBadCredentials)
}

// TestStoreAway: a change that cannot be written is not in force, and says why.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret, value := w.key("shop", auth.NewKey{Kind: auth.KindSecret})
	g := w.grant(nil)
	w.heard.take()
	failure := fmt.Errorf("%w: %w", auth.ErrUnavailable, errDisk)
	w.store.failWith(failure)
	// Deleting an app begins with its clients: they come back when it could not be deleted.
	require.ErrorIs(t, w.DeleteApp(t.Context(), "admin", "shop"), auth.ErrUnavailable)
	require.Equal(t, []string{"deleted", "created shop"}, w.heard.take())
	_, err := w.connect(value, "c1")
	require.NoError(t, err)
	_, err = w.AuthenticateBearer(t.Context(), "", value)
	require.NoError(t, err)

	name := "x"
	for what, err := range map[string]error{
		"create app": second(w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "new"})),
		"update app": second(w.UpdateApp(t.Context(), "admin", "shop", &name, json.RawMessage(`{"anonymous":true}`))),
		"create key": third(w.CreateKey(t.Context(), "admin", "shop", auth.NewKey{Kind: auth.KindSecret, Name: "x"})),
		"delete key": w.DeleteKey(t.Context(), "admin", "shop", secret.ID),
		"put rules":  second(w.PutRules(t.Context(), "admin", "shop", parse(t, `[{"effect":"allow","actions":["publish"],"topic":"a"}]`), 0)),
		"versions":   second(w.RulesVersions(t.Context(), "shop", 0, 10)),
		"audits":     second(w.Audits(t.Context(), "", 0, 10)),
		"claim":      third(w.ClaimAnswer(t.Context(), "n", nil)),
		"keep":       w.KeepAnswer(t.Context(), "n", auth.Answer{}),
		"release":    w.ReleaseAnswer(t.Context(), "n"),
	} {
		require.ErrorIs(t, err, auth.ErrUnavailable, what)
	}
	require.Empty(t, w.heard.take(), "nobody was told of a change")
	_, there := w.App("new")
	require.False(t, there)
	a, _ := w.App("shop")
	require.Equal(t, "shop", a.Name)
	require.False(t, a.Settings.Anonymous)
	require.False(t, g.MayPublish("a"))
	_, err = w.connect(value, "c1")
	require.NoError(t, err, "who is known is let in without the database")

	_, err = auth.Open(t.Context(), auth.Config{Store: w.store, SecretKey: secretKey})
	require.ErrorIs(t, err, auth.ErrUnavailable)
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestPutRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := parse(t, `[{"effect":"allow","actions":["publish"],"topic":"a"}]`)
	version, err := w.PutRules(t.Context(), "admin", "shop", one, 1)
	require.NoError(t, err)
	require.Equal(t, int64(2), version)
	_, err = w.PutRules(t.Context(), "admin", "shop", nil, 1)
	require.ErrorIs(t, err, auth.ErrConflict)
	_, err = w.PutRules(t.Context(), "admin", "shop", nil, 3)
	require.ErrorIs(t, err, auth.ErrConflict)
	got, version, err := w.Rules("shop")
	require.NoError(t, err)
	require.Equal(t, one, got)
	require.Equal(t, int64(2), version)
	version, err = w.PutRules(t.Context(), "key:ci (x)", "shop", nil, 0)
	require.NoError(t, err)
	require.Equal(t, int64(3), version)
	got, _, err = w.Rules("shop")
	require.NoError(t, err)
	require.NotNil(t, got)
	require.Empty(t, got)

	rows, err := w.RulesVersions(t.Context(), "shop", 0, 10)
	require.NoError(t, err)
	require.Len(t, rows, 3)
	require.Equal(t, int64(3), rows[0].Version)
	require.Equal(t, "key:ci (x)", rows[0].Actor)
	require.JSONEq(t, `[]`, string(rows[0].Rules))
	require.JSONEq(t, `[{"effect":"allow","actions":["publish"],"topic":"a"}]`, string(rows[1].Rules))
	rows, err = w.RulesVersions(t.Context(), "shop", 3, 1)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, int64(2), rows[0].Version)

	w.open()
	_, version, err = w.Rules("shop")
	require.NoError(t, err)
	require.Equal(t, int64(3), version)
	for _, err := range []error{
		second(w.PutRules(t.Context(), "admin", "nowhere", nil, 0)), third(w.Rules("nowhere")), second(w.RulesVersions(t.Context(), "nowhere", 0, 1)),
	} {
		require.ErrorIs(t, err, auth.ErrNotFound)
	}
}

// TestWhatIsReturnedIsACopy: a caller cannot change what is in force.
func TestWhatIsReturnedIsACopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"a"}]`)
	got, _, err := w.Rules("shop")
	require.NoError(t, err)
	got[0].Topic = "changed"
	again, _, err := w.Rules("shop")
	require.NoError(t, err)
	require.Equal(t, "a", again[0].Topic)
}

func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name := "Shop"
	_, err := w.UpdateApp(t.Context(), "admin", "shop", &name, json.RawMessage(`{"anonymous":true}`))
	require.NoError(t, err)
	k, value, err := w.CreateKey(t.Context(), "key:ci (x)", "shop", auth.NewKey{Kind: auth.KindSecret, Name: "second"})
	require.NoError(t, err)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"a"}]`)
	require.NoError(t, w.DeleteKey(t.Context(), "admin", "shop", k.ID))
	w.app("other")
	require.NoError(t, w.DeleteApp(t.Context(), "admin", "shop"))

	all, err := w.Audits(t.Context(), "", 0, 100)
	require.NoError(t, err)
	require.Len(t, all, 7)
	var actions []string
	for _, a := range all {
		actions = append(actions, a.Action+" "+a.Target)
		require.WithinDuration(t, time.Now(), a.At, time.Minute)
	}
	require.Equal(t, []string{"app.delete shop", "app.create other", "key.delete " + k.ID, "rules.put 2", "key.create " + k.ID, "app.update shop", "app.create shop"}, actions)
	mine, err := w.Audits(t.Context(), "shop", 0, 100)
	require.NoError(t, err)
	require.Len(t, mine, 6, "an app's audit outlives it")
	w.app("shop")
	again, err := w.Audits(t.Context(), "shop", 0, 100)
	require.NoError(t, err)
	require.Len(t, again, 1, "and is not that of another app of its id")
	require.Equal(t, "key:ci (x)", all[4].Actor)
	require.JSONEq(t, `{"kind":"secret","name":"second","scopes":["publish","data","tokens","clients","read"]}`, string(all[4].After))
	require.Nil(t, all[4].Before)
	require.JSONEq(t, string(all[4].After), string(all[2].Before))
	require.JSONEq(t, `{"name":"shop","settings":{}}`, string(all[5].Before))
	require.JSONEq(t, `{"name":"Shop","settings":{"anonymous":true}}`, string(all[5].After))
	require.JSONEq(t, `[]`, string(all[3].Before))
	w.requireNowhere(value)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		request := []byte("POST /v1/apps\x00{}")
		_, found, err := w.ClaimAnswer(t.Context(), "n", request)
		require.NoError(t, err)
		require.False(t, found, "claimed")
		stored, found, err := w.ClaimAnswer(t.Context(), "n", request)
		require.NoError(t, err)
		require.True(t, found)
		require.Zero(t, stored.Status, "under way")
		_, _, err = w.ClaimAnswer(t.Context(), "n", []byte("another"))
		require.ErrorIs(t, err, auth.ErrOtherRequest)
		require.NoError(t, w.ReleaseAnswer(t.Context(), "n"))
		_, found, err = w.ClaimAnswer(t.Context(), "n", []byte("another"))
		require.NoError(t, err)
		require.False(t, found, "given back")

		require.NoError(t, w.KeepAnswer(t.Context(), "n", auth.Answer{Status: 201, ContentType: "application/json", Body: []byte("the value is ek_secret")}))
		w.requireNowhere("ek_secret")
		stored, found, err = w.ClaimAnswer(t.Context(), "n", []byte("another"))
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, 201, stored.Status)
		require.Equal(t, "application/json", stored.ContentType)
		require.Equal(t, []byte("the value is ek_secret"), stored.Body)
		require.NoError(t, w.ReleaseAnswer(t.Context(), "n"))
		_, found, err = w.ClaimAnswer(t.Context(), "n", []byte("another"))
		require.NoError(t, err)
		require.True(t, found, "what was answered is not given back")

		pass(24 * time.Hour)
		_, found, err = w.ClaimAnswer(t.Context(), "n", []byte("another"))
		require.NoError(t, err)
		require.True(t, found, "kept for 24 h")
		pass(time.Minute)
		_, found, err = w.ClaimAnswer(t.Context(), "n", []byte("a third"))
		require.NoError(t, err)
		require.False(t, found, "and then forgotten")
	})
}

// TestAppLimit: a server holds so many apps.
func TestAppLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 9_999 {
		_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: fmt.Sprintf("app-%d", i)})
		if err != nil {
			require.NoError(t, err)
		}
	}
	var limit *auth.LimitError
	_, err := w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "one-more"})
	require.ErrorAs(t, err, &limit)
	require.Contains(t, limit.Error(), "10000 apps")
}

// TestConcurrently changes everything at once; the race detector looks on.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.grant(map[string]any{"room": "r"})
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 50 {
				k, value, err := w.CreateKey(t.Context(), "admin", "shop", auth.NewKey{Kind: []string{auth.KindDevice, auth.KindSigning}[i%2], Name: fmt.Sprint(n, i)})
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = w.connect(value, "c")                                                                                                          //nolint:errcheck // signing keys are no passwords
				_, _, _ = w.MintToken(t.Context(), "admin", "shop", auth.TokenRequest{Sub: "a", TTL: time.Minute})                                    //nolint:errcheck // the key may be gone
				_, _ = w.PutRules(t.Context(), "admin", "shop", parse(t, `[{"effect":"deny","actions":["subscribe"],"topic":"a/${token.room}"}]`), 0) //nolint:errcheck // all may change them
				_, _ = w.UpdateApp(t.Context(), "admin", "shop", nil, json.RawMessage(`{"anonymous":true}`))                                          //nolint:errcheck // likewise
				g.MayPublish("a/r")
				g.MaySubscribe("a/+", true)
				if may := g.ReceiveFilter("#"); may != nil {
					may("a/r")
				}
				g.Alive()
				if err := w.DeleteKey(t.Context(), "admin", "shop", k.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	keys, err := w.Keys("shop")
	require.NoError(t, err)
	require.Len(t, keys, 1)
}

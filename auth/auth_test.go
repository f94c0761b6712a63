package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// secretKey seals what the tests' directories store.
var secretKey = bytes.Repeat([]byte{7}, 32)

// world is a directory over a store in memory, with an app "shop" of which each test knows all.
type world struct {
	*auth.Directory
	t     testing.TB
	store *memory
	heard *heard
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{t: tb, store: newMemory(), heard: &heard{}}
	w.open()
	_, err := w.CreateApp(tb.Context(), "admin", auth.NewApp{ID: "shop"})
	require.NoError(tb, err)
	w.heard.take()
	return w
}

// open makes the directory anew over the same store, as a restart does.
func (w *world) open() {
	w.t.Helper()
	d, err := auth.Open(w.t.Context(), auth.Config{Store: w.store, SecretKey: secretKey, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(w.t, err)
	w.Directory = d
	d.Listen(w.heard)
	d.SetAdminToken("ea_the-admin")
}

func (w *world) app(id string) {
	w.t.Helper()
	_, err := w.CreateApp(w.t.Context(), "admin", auth.NewApp{ID: id})
	require.NoError(w.t, err)
}

func (w *world) set(app, settings string) {
	w.t.Helper()
	_, err := w.UpdateApp(w.t.Context(), "admin", app, nil, json.RawMessage(settings))
	require.NoError(w.t, err)
}

// rules puts a rule list in force in the app shop.
func (w *world) rules(rules string) {
	w.t.Helper()
	parsed, err := auth.ParseRules([]byte(rules))
	require.NoError(w.t, err)
	_, err = w.PutRules(w.t.Context(), "admin", "shop", parsed, 0)
	require.NoError(w.t, err)
}

func (w *world) key(app string, in auth.NewKey) (auth.Key, string) {
	w.t.Helper()
	if in.Name == "" {
		in.Name = "test"
	}
	k, value, err := w.CreateKey(w.t.Context(), "admin", app, in)
	require.NoError(w.t, err)
	return k, value
}

// token makes a token of an hour.
func (w *world) token(app string, in auth.TokenRequest) string {
	w.t.Helper()
	if in.TTL == 0 {
		in.TTL = time.Hour
	}
	text, _, err := w.MintToken(w.t.Context(), "admin", app, in)
	require.NoError(w.t, err)
	return text
}

// connect authenticates an MQTT client of the app shop.
func (w *world) connect(password, clientID string) (*auth.Grant, error) {
	return w.Authenticate(w.t.Context(), auth.Credentials{
		PathApp: "shop", HasPassword: password != "", Password: []byte(password), ClientID: clientID,
	})
}

// grant connects alice by a token with claims, as the client c1.
func (w *world) grant(claims map[string]any) *auth.Grant {
	w.t.Helper()
	g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", Claims: claims}), "c1")
	require.NoError(w.t, err)
	return g
}

// signing returns the generated signing key of an app that has only that.
func (w *world) signing(app string) auth.Key {
	w.t.Helper()
	keys, err := w.Keys(app)
	require.NoError(w.t, err)
	for _, k := range keys {
		if k.Kind == auth.KindSigning {
			return k
		}
	}
	w.t.Fatal("no signing key")
	return auth.Key{}
}

// sign makes a token of any kind.
func sign(tb testing.TB, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	tb.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	require.NoError(tb, err)
	return text
}

// pointers returns where an error finds the request wrong, in order.
func pointers(tb testing.TB, err error) (all []string) {
	tb.Helper()
	var v *auth.ValidationError
	require.ErrorAs(tb, err, &v)
	for _, f := range v.Fields {
		require.NotEmpty(tb, f.Message)
		all = append(all, f.Pointer)
	}
	return all
}

// message returns what an error says of one place.
func message(tb testing.TB, err error, pointer string) string {
	tb.Helper()
	var v *auth.ValidationError
	require.ErrorAs(tb, err, &v)
	for _, f := range v.Fields {
		if f.Pointer == pointer {
			return f.Message
		}
	}
	tb.Fatalf("nothing is said of %q in: %v", pointer, err)
	return ""
}

// requireNowhere looks for secrets in what was stored, as they are and without the id that they begin with.
func (w *world) requireNowhere(secrets ...string) {
	w.t.Helper()
	text := w.store.text()
	for _, s := range secrets {
		require.NotEmpty(w.t, s)
		require.NotContains(w.t, text, s)
		if rest, ours := strings.CutPrefix(s, "ek_"); ours {
			if _, random, ok := strings.Cut(rest, "_"); ok {
				require.NotContains(w.t, text, random)
			}
		}
	}
}

func hash(value string) []byte {
	h := sha256.Sum256([]byte(value))
	return h[:]
}

var errDisk = errors.New("disk: sector 7")

// pass lets time pass in a synctest bubble, and what it brings about happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func contextWithStop(tb testing.TB) (context.Context, context.CancelFunc) {
	tb.Helper()
	return context.WithCancel(tb.Context())
}

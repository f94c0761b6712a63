package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/api"
	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/tcp"
	"github.com/embercast/embercast/server/httpd"
	"github.com/embercast/embercast/server/identity"
	"github.com/embercast/embercast/server/store/sqlite"
)

const (
	adminToken   = "ea_the-admin-token-of-the-tests"
	metricsToken = "the-metrics-token-of-the-tests"
	storeText    = "dial tcp 10.1.2.3:5432: password of embercast" // what no answer may show of the database
)

// server is the API over a real store, control plane and engine, on a real HTTP server and an MQTT listener, with an
// app "shop" and an app "other".
type server struct {
	t *testing.T
	*running
}

type running struct {
	base   string
	mqtt   string
	dir    *auth.Directory
	store  *store
	path   string // of the database
	ahead  atomic.Int64
	frozen atomic.Pointer[time.Time]
	log    *logs

	mu      sync.Mutex // guards secrets
	secrets []string   // what no answer may show
}

// logs keeps what was logged.
type logs struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p) //nolint:wrapcheck // never fails
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newServer starts a server, which ends with the test.
func newServer(t *testing.T, change ...func(*api.Config)) *server {
	t.Helper()
	s := &server{t, &running{path: filepath.Join(t.TempDir(), "embercast.db"), log: &logs{}, secrets: []string{adminToken, metricsToken}}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: s.path, Logger: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s.store = &store{Store: db}
	s.dir, err = auth.Open(t.Context(), auth.Config{Store: s.store, SecretKey: bytes.Repeat([]byte{9}, 32), Logger: log, Now: s.now})
	require.NoError(t, err)
	s.dir.SetAdminToken(adminToken)
	b := broker.New(broker.Config{
		Store: s.store, Authenticator: identity.Authenticator{Directory: s.dir}, Observer: &brokertest.Observer{}, Logger: log,
		StoreWait: 3 * time.Second, // it bounds a commit too, which may be slow where all tests run at once
	})
	s.dir.Listen(identity.Listener{Broker: b, Logger: log})
	s.run(b, log, change)
	for _, id := range []string{"shop", "other"} {
		s.post("/v1/apps", object{"id": id}).want(http.StatusCreated)
	}
	return s
}

// in is the server as a subtest sees it.
func (s *server) in(t *testing.T) *server {
	t.Helper()
	return &server{t, s.running}
}

// run serves until the test ends.
func (s *server) run(b *broker.Broker, log *slog.Logger, change []func(*api.Config)) {
	s.t.Helper()
	web := httpd.New(httpd.Config{Logger: log})
	cfg := api.Config{
		Directory: s.dir, Engine: b, Grant: identity.Grant, Limits: identity.Limits,
		Remote: func(c *fiber.Ctx) string { return c.Get("X-Test-Remote", "192.0.2.1") },
		Ready:  func(ctx context.Context) error { return s.store.ready(ctx) },
		Server: func(context.Context) api.ServerInfo {
			return api.ServerInfo{Version: "test", Store: api.StoreInfo{Kind: "sqlite", Version: "3"}, Listeners: map[string]string{"http": s.base}, Healthy: true}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "embercast_up 1\n") //nolint:errcheck // the client is gone
		}),
		MetricsToken: metricsToken, Logger: log, Now: s.now,
	}
	for _, c := range change {
		c(&cfg)
	}
	require.NoError(s.t, api.Mount(web.App(), cfg))
	web.Finish()
	mqtt := tcp.New(conn.Config{Broker: b, Observer: &brokertest.Observer{}, Logger: log})
	lc := &net.ListenConfig{}
	webListener, err := lc.Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	mqttListener, err := lc.Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(s.t, err)
	s.base, s.mqtt = "http://"+webListener.Addr().String(), mqttListener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, f := range []func() error{
		func() error { return web.Serve(webListener, nil) },
		func() error { return mqtt.Serve(mqttListener, nil) },
		func() error { b.Run(ctx); return nil },
		func() error { return s.dir.Run(ctx) },
	} {
		all.Go(func() {
			if err := f(); err != nil {
				s.t.Error(err)
			}
		})
	}
	s.t.Cleanup(func() {
		bound, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = mqttListener.Close() //nolint:errcheck // it accepts no more
		b.Drain()
		require.NoError(s.t, web.Shutdown(bound))
		mqtt.Close(bound)
		stop()
		all.Wait()
	})
}

// now is the server's clock, which pass sets ahead. After freeze nothing else does.
func (s *server) now() time.Time {
	at := time.Now()
	if frozen := s.frozen.Load(); frozen != nil {
		at = *frozen
	}
	return at.Add(time.Duration(s.ahead.Load()))
}

func (s *server) freeze() {
	at := time.Now()
	s.frozen.Store(&at)
}

func (s *server) pass(d time.Duration) { s.ahead.Add(int64(d)) }

// store is the real store, which can be away, and can lose its connection while a delete is committed.
type store struct {
	*sqlite.Store
	away, losing atomic.Bool
	claims       atomic.Int64 // of Idempotency-Keys
}

func (s *store) err(err error) error {
	if s.away.Load() {
		return fmt.Errorf("%s: %w", storeText, err)
	}
	return nil
}

func (s *store) ready(ctx context.Context) error {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return err
	}
	return s.Ping(ctx) //nolint:wrapcheck // of a test
}

type object map[string]any

// answer is what came back.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// option changes a request.
type option func(*http.Request)

func as(credential string) option {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+credential) }
}

func nobody(r *http.Request) { r.Header.Del("Authorization") }

func header(name, value string) option {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// showing lets an answer show secrets: the one that makes a key does.
func showing(r *http.Request) { r.Header.Set("X-Test-Showing", "1") }

func (s *server) get(path string, options ...option) *answer {
	s.t.Helper()
	return s.do(http.MethodGet, path, nil, options...)
}

func (s *server) post(path string, body any, options ...option) *answer {
	s.t.Helper()
	return s.do(http.MethodPost, path, body, options...)
}

func (s *server) put(path string, body any, options ...option) *answer {
	s.t.Helper()
	return s.do(http.MethodPut, path, body, options...)
}

func (s *server) patch(path string, body any, options ...option) *answer {
	s.t.Helper()
	return s.do(http.MethodPatch, path, body, options...)
}

func (s *server) del(path string, options ...option) *answer {
	s.t.Helper()
	return s.do(http.MethodDelete, path, nil, options...)
}

// do sends a request, as the admin where no option says otherwise, and holds the answer to what every answer must be.
// A body of bytes or text goes as it is, any other as JSON.
func (s *server) do(method, path string, body any, options ...option) *answer {
	s.t.Helper()
	var text []byte
	switch body := body.(type) {
	case nil:
	case string:
		text = []byte(body)
	case []byte:
		text = body
	default:
		var err error
		text, err = json.Marshal(body)
		require.NoError(s.t, err)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.base, bytes.NewReader(text))
	require.NoError(s.t, err)
	// The path goes as it is written.
	r.URL.Opaque, r.URL.RawQuery, _ = strings.Cut(path, "?")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	for _, o := range options {
		o(r)
	}
	shows := r.Header.Get("X-Test-Showing") != ""
	r.Header.Del("X-Test-Showing")
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(s.t, err)
	defer res.Body.Close() //nolint:errcheck // read to its end
	a := &answer{t: s.t, what: method + " " + path, status: res.StatusCode, header: res.Header}
	a.body, err = io.ReadAll(res.Body)
	require.NoError(s.t, err)
	if len(a.body) > 1<<20 {
		return a // it is about its size
	}
	a.keepToContract(method)
	a.keepToDocument(documented(), r)
	if !shows {
		s.requireNoSecrets(a.what+": the answer", string(a.body)+fmt.Sprint(a.header))
	}
	if credential, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && a.status >= 400 && len(credential) > 8 {
		require.NotContains(s.t, string(a.body), credential, a.what)
	}
	return a
}

// keepToContract checks what holds for every answer: errors are problem documents (RFC 9457) with their headers.
func (a *answer) keepToContract(method string) {
	a.t.Helper()
	require.NotContains(a.t, string(a.body), "10.1.2.3", "%s: no database text", a.what)
	if a.status < 400 || method == http.MethodHead {
		return
	}
	require.Equal(a.t, "application/problem+json", a.header.Get("Content-Type"), "%s: %d %s", a.what, a.status, a.body)
	var p api.Problem
	a.into(&p)
	require.Equal(a.t, a.status, p.Status, a.what)
	require.Equal(a.t, http.StatusText(a.status), p.Title, a.what)
	require.Equal(a.t, "about:blank", p.Type, a.what)
	require.NotEqual(a.t, http.StatusInternalServerError, a.status, "%s: %s", a.what, a.body)
	switch a.status {
	case http.StatusUnauthorized:
		require.Contains(a.t, a.header.Get("WWW-Authenticate"), `Bearer realm="embercast"`, a.what)
	case http.StatusMethodNotAllowed:
		require.NotEmpty(a.t, a.header.Get("Allow"), a.what)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		require.NotEmpty(a.t, a.header.Get("Retry-After"), a.what)
	case http.StatusUnprocessableEntity:
		if p.Code == "invalid" {
			require.NotEmpty(a.t, p.Errors, "%s: %s", a.what, a.body)
		}
	}
	for _, e := range p.Errors {
		require.NotEmpty(a.t, e.Message, a.what)
		require.NotContains(a.t, e.Message, "expected ", "%s: a person must understand it", a.what)
		require.NotContains(a.t, e.Message, "json: ", "%s: a person must understand it", a.what)
		named := strings.HasPrefix(e.Pointer, "query.") || strings.HasPrefix(e.Pointer, "header.")
		require.True(a.t, e.Pointer == "" || e.Pointer[0] == '/' || named, "%s: pointer %q", a.what, e.Pointer)
	}
}

// want requires a status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s: %s", a.what, a.body)
	return a
}

// refused requires a status and a code.
func (a *answer) refused(status int, code string) *answer {
	a.t.Helper()
	a.want(status)
	require.Equal(a.t, code, a.problem().Code, "%s: %s", a.what, a.body)
	return a
}

// invalid requires 422, at these places.
func (a *answer) invalid(pointers ...string) *answer {
	a.t.Helper()
	a.refused(http.StatusUnprocessableEntity, "invalid")
	var got []string
	for _, e := range a.problem().Errors {
		got = append(got, e.Pointer)
	}
	require.Equal(a.t, pointers, got, "%s: %s", a.what, a.body)
	return a
}

func (a *answer) problem() api.Problem {
	a.t.Helper()
	var p api.Problem
	a.into(&p)
	return p
}

func (a *answer) into(v any) {
	a.t.Helper()
	require.NoError(a.t, json.Unmarshal(a.body, v), "%s: %s", a.what, a.body)
}

func (a *answer) object() object {
	a.t.Helper()
	var o object
	a.into(&o)
	return o
}

// text returns a member that is text.
func (a *answer) text(member string) string {
	a.t.Helper()
	v, ok := a.object()[member].(string)
	require.True(a.t, ok, "%s: %s", a.what, a.body)
	return v
}

// hide has every answer from now on looked at for a secret, and for its hash.
func (s *server) hide(secret string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := sha256.Sum256([]byte(secret))
	s.secrets = append(s.secrets, secret, hex.EncodeToString(h[:]), base64.StdEncoding.EncodeToString(h[:]), base64.RawURLEncoding.EncodeToString(h[:]))
	return secret
}

func (s *server) requireNoSecrets(what, text string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.secrets {
		require.NotContains(s.t, text, secret, what)
	}
}

// key makes a key and returns its id and value.
func (s *server) key(app string, body object) (id, value string) {
	s.t.Helper()
	if body["name"] == nil {
		body["name"] = "test"
	}
	a := s.post("/v1/apps/"+app+"/keys", body, showing).want(http.StatusCreated)
	if a.object()["value"] == nil {
		return a.text("id"), ""
	}
	return a.text("id"), s.hide(a.text("value"))
}

// token makes a client token.
func (s *server) token(app string, body object) string {
	s.t.Helper()
	if body["ttl"] == nil {
		body["ttl"] = 3600
	}
	return s.hide(s.post("/v1/apps/"+app+"/tokens", body, showing).want(http.StatusCreated).text("token"))
}

func (s *server) rules(app string, rules ...object) {
	s.t.Helper()
	s.put("/v1/apps/"+app+"/rules", rules).want(http.StatusOK)
}

func allow(topic string, actions ...string) object {
	return object{"effect": "allow", "actions": actions, "topic": topic}
}

func deny(topic string, actions ...string) object {
	return object{"effect": "deny", "actions": actions, "topic": topic}
}

// client connects an MQTT 5.0 client to an app.
func (s *server) client(app, clientID, password string) *brokertest.Client {
	s.t.Helper()
	c, err := (&net.Dialer{}).DialContext(s.t.Context(), "tcp", s.mqtt)
	require.NoError(s.t, err)
	client := brokertest.NewClient(s.t, c, packet.V5)
	client.Connect(clientID, func(p *packet.Connect) {
		p.HasUsername, p.Username, p.HasPassword, p.Password = true, app, true, []byte(password)
	})
	return client
}

// items walks through all pages of a list and returns what a member of each item holds.
func (s *server) items(path string, limit int, member string) (all []any) {
	s.t.Helper()
	cursor := ""
	join := "?"
	if strings.Contains(path, "?") {
		join = "&"
	}
	for {
		a := s.get(fmt.Sprintf("%s%slimit=%d&cursor=%s", path, join, limit, url.QueryEscape(cursor))).want(http.StatusOK)
		var page struct {
			Items      []object `json:"items"`
			NextCursor string   `json:"next_cursor"`
		}
		a.into(&page)
		require.NotNil(s.t, page.Items, a.what)
		require.LessOrEqual(s.t, len(page.Items), limit, a.what)
		for _, item := range page.Items {
			all = append(all, item[member])
		}
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
		require.NotEmpty(s.t, page.Items, a.what)
	}
}

// eventually waits for a condition.
func (s *server) eventually(condition func() bool, what string) {
	s.t.Helper()
	require.Eventually(s.t, condition, 20*time.Second, 5*time.Millisecond, what)
}

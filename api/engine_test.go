package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/api"
	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/httpd"
	"github.com/embercast/embercast/server/identity"
	"github.com/embercast/embercast/server/store/sqlite"
)

// engine is an api.Engine that answers what a test has it answer.
type engine struct {
	api.Engine
	publish  func() (uint64, error)
	client   broker.ClientInfo
	stats    broker.Stats
	retained []*message.Message
}

func (e *engine) Retained(_ broker.AppUID, _, _ string, limit int) ([]*message.Message, error) {
	return e.retained[:min(limit, len(e.retained))], nil
}

func (e *engine) Publish(context.Context, broker.Publication) (uint64, error) { return e.publish() }
func (e *engine) Client(broker.AppUID, string) (broker.ClientInfo, error)     { return e.client, nil }

func (e *engine) Stats(broker.AppUID) (broker.Stats, error) { return e.stats, nil }

// engineServer is the API over a real control plane and an engine of the test's.
type engineServer struct {
	app *fiber.App
	log *logs
}

func newEngineServer(t *testing.T, e *engine, now time.Time) *engineServer {
	t.Helper()
	s := &engineServer{log: &logs{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "embercast.db"), Logger: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	d, err := auth.Open(t.Context(), auth.Config{Store: db, SecretKey: bytes.Repeat([]byte{9}, 32), Logger: log})
	require.NoError(t, err)
	d.SetAdminToken(adminToken)
	_, err = d.CreateApp(t.Context(), "admin", auth.NewApp{ID: "shop"})
	require.NoError(t, err)
	web := httpd.New(httpd.Config{Logger: log})
	s.app = web.App()
	require.NoError(t, api.Mount(s.app, api.Config{
		Directory: d, Engine: e, Grant: identity.Grant, Limits: identity.Limits,
		Remote: func(*fiber.Ctx) string { return "" }, Logger: log, Now: func() time.Time { return now },
	}))
	web.Finish()
	return s
}

func (s *engineServer) do(t *testing.T, method, path, body string, options ...option) *answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://embercast"+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	for _, o := range options {
		o(r)
	}
	res, err := s.app.Test(r, -1)
	require.NoError(t, err)
	defer res.Body.Close() //nolint:errcheck // in memory
	a := &answer{t: t, what: method + " " + path, status: res.StatusCode, header: res.Header}
	a.body, err = io.ReadAll(res.Body)
	require.NoError(t, err)
	return a
}

// TestOutcomes: each error of the engine and of the control plane has its status, code and sentence; what is in no
// table is told to the log alone.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	e := &engine{}
	s := newEngineServer(t, e, time.Now())
	for err, want := range map[error]struct {
		status int
		code   string
	}{
		broker.ErrNotAuthorized:    {403, "not_authorized"},
		broker.ErrStoreUnavailable: {503, "store_unavailable"},
		broker.ErrStoreRefused:     {507, "store_refused"},
		broker.ErrOutcomeUnknown:   {503, "outcome_unknown"},
		broker.ErrQuotaExceeded:    {429, "quota_exceeded"},
		broker.ErrTopicNameInvalid: {422, "topic_name_invalid"},
		broker.ErrTopicTooLong:     {400, "topic_too_long"},
		broker.ErrPacketTooLarge:   {413, "packet_too_large"},
		broker.ErrNoSuchApp:        {404, "no_such_app"},
		broker.ErrDraining:         {503, "draining"},
		auth.ErrUnavailable:        {503, "store_unavailable"},
		auth.ErrNotFound:           {404, "not_found"},
		auth.ErrConflict:           {412, "changed"},
		auth.ErrTaken:              {409, "taken"},
		auth.ErrNoSigningKey:       {409, "no_signing_key"},
		auth.ErrBadCredentials:     {401, "bad_credentials"}, // its key was deleted while it was under way
	} {
		e.publish = func() (uint64, error) { return 0, fmt.Errorf("at 10.1.2.3: %w", err) }
		a := s.do(t, http.MethodPost, publishPath, `{"topic":"a"}`).refused(want.status, want.code)
		a.keepToContract(http.MethodPost)
		require.Regexp(t, `^[A-Z].*\.$`, a.problem().Detail)
	}
	e.publish = func() (uint64, error) { return 0, errors.New("at 10.1.2.3: sector 7") }
	a := s.do(t, http.MethodPost, publishPath, `{"topic":"a"}`).refused(http.StatusInternalServerError, "internal")
	require.NotContains(t, string(a.body), "sector")
	require.Contains(t, s.log.String(), "sector 7")
}

// TestIdempotencyInProgress: a repetition while the first request is under way is told so; a call that fails for the
// server's own reasons, or panics, gives the key back.
func TestIdempotencyInProgress(t *testing.T) {
	t.Parallel()
	e := &engine{}
	s := newEngineServer(t, e, time.Now())
	post := func(key string) *answer {
		return s.do(t, http.MethodPost, publishPath, `{"topic":"a"}`, header("Idempotency-Key", key))
	}
	begun, end, done := make(chan bool), make(chan bool), make(chan *answer)
	e.publish = func() (uint64, error) {
		close(begun)
		<-end
		return 7, nil
	}
	go func() { done <- post("k") }()
	<-begun
	a := post("k").refused(http.StatusConflict, "in_progress")
	require.Equal(t, "1", a.header.Get("Retry-After"))
	close(end)
	require.JSONEq(t, `{"seq":7}`, string((<-done).want(http.StatusOK).body))
	require.Equal(t, "true", post("k").want(http.StatusOK).header.Get("Idempotency-Replayed"))

	for name, fails := range map[string]func() (uint64, error){
		"error": func() (uint64, error) { return 0, errors.New("broken") },
		"panic": func() (uint64, error) { panic("broken") },
		"away":  func() (uint64, error) { return 0, broker.ErrStoreUnavailable },
	} {
		e.publish = fails
		require.GreaterOrEqual(t, post(name).status, 500)
		e.publish = func() (uint64, error) { return 8, nil }
		a := post(name).want(http.StatusOK)
		require.Empty(t, a.header.Get("Idempotency-Replayed"), name)
	}
}

// TestIdempotencyOfAnUnknownOutcome: what may have been committed does not happen again.
func TestIdempotencyOfAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	e := &engine{publish: func() (uint64, error) { return 0, broker.ErrOutcomeUnknown }}
	s := newEngineServer(t, e, time.Now())
	post := func() *answer {
		return s.do(t, http.MethodPost, publishPath, `{"topic":"a"}`, header("Idempotency-Key", "k"))
	}
	post().refused(http.StatusServiceUnavailable, "outcome_unknown")
	post().refused(http.StatusConflict, "in_progress")
}

// TestStatsWindow: the window holds the minutes that it covers, and their sum.
func TestStatsWindow(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 30, 0, time.UTC)
	e := &engine{stats: broker.Stats{Connections: 3, Head: 9, Total: broker.Counters{MessagesIn: 100}}}
	for i := range 60 {
		at := now.Truncate(time.Minute).Add(time.Duration(i-59) * time.Minute)
		e.stats.Minutes = append(e.stats.Minutes, broker.MinuteStats{At: at, Connections: i, Counters: broker.Counters{MessagesIn: 1, BytesOut: 10, Denied: 2}})
	}
	s := newEngineServer(t, e, now)
	for window, minutes := range map[int]int{60: 1, 120: 2, 600: 10, 3600: 60} {
		var st api.Stats
		s.do(t, http.MethodGet, fmt.Sprintf("/v1/apps/shop/stats?window=%d", window), "").want(http.StatusOK).into(&st)
		require.Len(t, st.Minutes, minutes, "window %d", window)
		require.Equal(t, api.Counters{MessagesIn: int64(minutes), BytesOut: int64(10 * minutes), Denied: int64(2 * minutes)}, st.Window)
		require.Equal(t, 59, st.Minutes[minutes-1].Connections, "oldest first")
		require.Equal(t, int64(100), st.Total.MessagesIn)
		require.Equal(t, uint64(9), st.Seq)
	}
}

// TestEndedClients: one whose session is stored shows when its connection ended.
func TestEndedClients(t *testing.T) {
	t.Parallel()
	ended := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	e := &engine{client: broker.ClientInfo{ClientID: "c", Version: packet.V31, Transport: "wss", EndedAt: ended, KeepAlive: time.Minute, SessionExpiry: time.Hour, FallenOut: 4}}
	o := newEngineServer(t, e, time.Now()).do(t, http.MethodGet, "/v1/apps/shop/clients/c", "").want(http.StatusOK).object()
	require.Equal(t, "2026-01-01T12:00:00Z", o["ended_at"])
	require.Equal(t, false, o["connected"])
	require.Equal(t, "3.1", o["protocol"])
	require.EqualValues(t, 60, o["keep_alive_seconds"])
	require.EqualValues(t, 3600, o["session_expiry_seconds"])
	require.EqualValues(t, 4, o["fallen_out"])
}

// TestRetainedPages hold at most 8 MiB of payloads, and at least one message.
func TestRetainedPages(t *testing.T) {
	t.Parallel()
	e := &engine{}
	s := newEngineServer(t, e, time.Now())
	const mib = 1 << 20
	for _, c := range []struct{ sizes, want []int }{
		{[]int{9 * mib, 1}, []int{9 * mib}}, {[]int{4 * mib, 4 * mib, 1}, []int{4 * mib, 4 * mib}}, {[]int{mib, 9 * mib}, []int{mib}},
	} {
		e.retained = nil
		for i, size := range c.sizes {
			e.retained = append(e.retained, &message.Message{Topic: fmt.Sprint(i), Payload: make([]byte, size), Retain: true})
		}
		var page struct {
			Items []api.RetainedMessage
			Next  string `json:"next_cursor"`
		}
		s.do(t, http.MethodGet, "/v1/apps/shop/retained?limit=10", "").want(http.StatusOK).into(&page)
		var got []int
		for _, m := range page.Items {
			payload, err := base64.StdEncoding.DecodeString(m.PayloadBase64)
			require.NoError(t, err)
			got = append(got, len(payload))
		}
		require.Equal(t, c.want, got)
		require.NotEmpty(t, page.Next)
	}
}

package postgres_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store/pgtest"
)

// network is a way to the database that can swallow everything: no byte comes through, no connection ends.
type network struct {
	url     string
	swallow atomic.Bool
}

func newNetwork(t *testing.T, database string) *network {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n, to := &network{}, u.Host
	u.Host = ln.Addr().String()
	n.url = u.String()
	var mu sync.Mutex // guards open
	var open []net.Conn
	var running sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close() //nolint:errcheck // of a test
		mu.Lock()
		for _, c := range open {
			_ = c.Close() //nolint:errcheck // of a test
		}
		mu.Unlock()
		running.Wait()
	})
	running.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", to)
			if err != nil {
				_ = near.Close() //nolint:errcheck // of a test
				continue
			}
			mu.Lock()
			open = append(open, near, far)
			mu.Unlock()
			running.Go(func() { n.carry(near, far) })
			running.Go(func() { n.carry(far, near) })
		}
	})
	return n
}

func (n *network) carry(from, to net.Conn) {
	b := make([]byte, 64<<10)
	for {
		got, err := from.Read(b)
		if n.swallow.Load() {
			if err != nil {
				return // its end is swallowed too
			}
			continue
		}
		if _, failed := to.Write(b[:got]); failed != nil || err != nil {
			_ = to.Close()                   //nolint:errcheck // of a test
			_, _ = io.Copy(io.Discard, from) //nolint:errcheck // as above
			return
		}
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	t.Run("swallows everything: a commit ends in time, and the lock is taken from the connection that is left behind", func(t *testing.T) {
		t.Parallel()
		direct := pgtest.URL(t)
		way := newNetwork(t, direct)
		s, lost := open(t, way.url)
		app := newApp(t, s, "shop")
		b := broker.New(broker.Config{
			Store: s, Authenticator: brokertest.NewWorld(), Observer: &brokertest.Observer{}, Logger: slog.New(slog.DiscardHandler),
			StoreWait: 2 * time.Second,
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		defer running.Wait()
		defer cancel()
		require.NoError(t, b.OpenApp(ctx, broker.AppConfig{UID: app, ID: "shop"}))
		publish := func(topic string) error {
			_, err := b.Publish(ctx, broker.Publication{App: app, Messages: []*message.Message{
				{Topic: topic, Payload: []byte("p"), Retain: true, Arrived: time.Now()},
			}})
			return err //nolint:wrapcheck // of a test
		}
		require.NoError(t, publish("before"))
		way.swallow.Store(true)
		began := time.Now()
		require.ErrorIs(t, publish("swallowed"), broker.ErrStoreUnavailable)
		require.Less(t, time.Since(began), 12*time.Second)
		way.swallow.Store(false)
		began = time.Now()
		require.Eventually(t, func() bool { return publish("after") == nil }, 30*time.Second, 10*time.Millisecond)
		require.Less(t, time.Since(began), 18*time.Second, "not as long as Postgres takes to miss a client")
		require.Empty(t, lost)
		require.Equal(t, []string{"before", "after"}, topics(t, s, app))
	})
	t.Run("is watched by Postgres: a holder that is gone frees the lock", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, _ := open(t, url)
		for name, want := range map[string]string{
			"tcp_keepalives_idle": "10", "tcp_user_timeout": "20000", "client_connection_check_interval": "10s", "idle_in_transaction_session_timeout": "20s",
		} {
			var got string
			require.NoError(t, s.Read.QueryRowContext(t.Context(), "SHOW "+name).Scan(&got))
			require.Equal(t, want, got, name)
		}
	})
}

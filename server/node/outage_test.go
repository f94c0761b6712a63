package node_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/node"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/pgtest"
	"github.com/embercast/embercast/server/store/postgres"
)

// openApp makes an app in which everybody may do everything.
func openApp(t *testing.T, n *node.Node) {
	t.Helper()
	status, body := call(t, n, http.MethodPost, "/v1/apps", `{"id":"one","settings":{"anonymous":true}}`, adminToken)
	require.Equal(t, http.StatusCreated, status, body)
	status, body = call(t, n, http.MethodPut, "/v1/apps/one/rules", `[{"effect":"allow","actions":["publish","subscribe"],"topic":"#"}]`, adminToken)
	require.Equal(t, http.StatusOK, status, body)
}

// client connects to the app, and waits longer than the server holds what needs a commit.
func client(t *testing.T, n *node.Node, id string, change ...func(*packet.Connect)) *brokertest.Client {
	t.Helper()
	c := brokertest.WithPatience(mqtt(t, n), 20*time.Second)
	c.Connect(id, append(change, func(p *packet.Connect) { p.HasUsername, p.Username = true, "one" })...)
	return c
}

// publish publishes a retained message by REST and returns the status; 0: there was no answer. For any goroutine.
func publish(ctx context.Context, n *node.Node, topic string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.Addrs()["http"]+"/v1/apps/one/publish",
		strings.NewReader(`{"topic":"`+topic+`","payload":"p","retain":true}`))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+adminToken)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close() //nolint:errcheck // of a test
	return answer.StatusCode
}

func TestOutage(t *testing.T) {
	t.Parallel()
	t.Run("what needs the database is held and refused while it is away, the rest goes on, and all is well afterwards", func(t *testing.T) {
		t.Parallel()
		cluster, url := pgtest.Own(t)
		cfg := config(t)
		cfg.DatabaseURL = url
		n := start(t, cfg)
		openApp(t, n)
		before, held, live := client(t, n, "before"), client(t, n, "held"), client(t, n, "live")
		require.Equal(t, packet.Success, live.Subscribe("live", 0))
		before.Publish("kept/before", "p", brokertest.Retained, brokertest.QoS(1, 1))
		before.ExpectAck(packet.TypePuback, 1, packet.Success)
		require.NoError(t, cluster.Stop())
		began := time.Now()
		held.Publish("kept/held", "p", brokertest.Retained, brokertest.QoS(1, 1))
		rest := make(chan int, 1)
		go func() {
			rest <- publish(t.Context(), n, "kept/rest")
		}()
		before.Publish("live", "goes on")
		live.ExpectMessage("live", "goes on")
		require.Less(t, time.Since(began), 5*time.Second, "nobody who needs no commit waits for one")
		held.ExpectEnd(packet.ServerBusy)
		took := time.Since(began)
		require.Greater(t, took, 9*time.Second)
		require.Less(t, took, 15*time.Second)
		require.Equal(t, http.StatusServiceUnavailable, <-rest)
		require.NoError(t, cluster.Up())
		require.Eventually(t, func() bool {
			return publish(t.Context(), n, "kept/after") == http.StatusOK
		}, 20*time.Second, 100*time.Millisecond)
		before.Publish("kept/again", "p", brokertest.Retained, brokertest.QoS(1, 2))
		before.ExpectAck(packet.TypePuback, 2, packet.Success)
		stop(t, n)
		n = start(t, cfg)
		defer stop(t, n)
		_, body := call(t, n, http.MethodGet, "/v1/apps/one/retained", "", adminToken)
		for _, topic := range []string{"kept/before", "kept/after", "kept/again"} {
			require.Contains(t, body, topic)
		}
		require.NotContains(t, body, "kept/held", "it was refused")
	})
	t.Run("a node stops in time though its database is away and wills and publishers wait for it", func(t *testing.T) {
		t.Parallel()
		cluster, url := pgtest.Own(t)
		cfg := config(t)
		cfg.DatabaseURL = url
		n := start(t, cfg)
		openApp(t, n)
		c := client(t, n, "c", func(p *packet.Connect) {
			p.Will = &packet.Will{Topic: "will", Payload: []byte("w"), Retain: true, QoS: 1}
		})
		require.NoError(t, cluster.Stop())
		c.Publish("kept", "p", brokertest.Retained, brokertest.QoS(1, 1))
		stop(t, n)
	})
	t.Run("a node whose database was taken over by another ends", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		cfg.DatabaseURL = pgtest.URL(t)
		n := start(t, cfg)
		admin, err := pgx.Connect(t.Context(), cfg.DatabaseURL)
		require.NoError(t, err)
		defer admin.Close(context.Background()) //nolint:errcheck // of a test
		for {
			_, err = admin.Exec(t.Context(), `SELECT pg_terminate_backend(l.pid, 10000) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
				WHERE l.locktype = 'advisory' AND a.datname = current_database()`)
			require.NoError(t, err)
			var other *postgres.Store
			if other, err = postgres.Open(t.Context(), postgres.Config{URL: cfg.DatabaseURL, Logger: slog.New(slog.DiscardHandler)}); err == nil {
				require.NoError(t, other.Close())
				break
			}
			require.ErrorIs(t, err, store.ErrLocked) // it was quicker to take its lock again
		}
		require.ErrorIs(t, <-n.Failed(), store.ErrTakenOver)
		stop(t, n)
	})
}

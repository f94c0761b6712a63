package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/node"
	"github.com/embercast/embercast/server/store/pgtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { os.Exit(pgtest.End(code)) }),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const adminToken = "admin-token-of-the-tests"

func config(t *testing.T) node.Config {
	t.Helper()
	return node.Config{
		Version: "test", HTTPAddr: "127.0.0.1:0", MQTTAddr: "127.0.0.1:0", DataDir: filepath.Join(t.TempDir(), "data"), AdminToken: adminToken,
	}
}

func start(t *testing.T, cfg node.Config) *node.Node {
	t.Helper()
	n, err := node.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return n
}

func stop(t *testing.T, n *node.Node) {
	t.Helper()
	began := time.Now()
	require.NoError(t, n.Stop(context.Background()))
	require.Less(t, time.Since(began), 10*time.Second)
}

// call makes a REST call and returns the answer's status and body.
func call(t *testing.T, n *node.Node, method, path, body, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.Addrs()["http"]+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

func mqtt(t *testing.T, n *node.Node) *brokertest.Client {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", n.Addrs()["mqtt"])
	require.NoError(t, err)
	return brokertest.NewClient(t, c, packet.V5)
}

func TestNode(t *testing.T) {
	t.Parallel()
	t.Run("what was committed is there after a restart, and nothing of another app", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		n := start(t, cfg)
		for _, app := range []string{"one", "two"} {
			status, body := call(t, n, http.MethodPost, "/v1/apps", `{"id":"`+app+`","settings":{"anonymous":true}}`, adminToken)
			require.Equal(t, http.StatusCreated, status, body)
		}
		status, body := call(t, n, http.MethodPut, "/v1/apps/one/rules", `[{"effect":"allow","actions":["publish","subscribe"],"topic":"#"}]`, adminToken)
		require.Equal(t, http.StatusOK, status, body)
		c := mqtt(t, n)
		c.Connect("c", func(p *packet.Connect) { p.HasUsername, p.Username = true, "one" })
		c.Publish("a/b", "kept", brokertest.Retained, brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		stop(t, n)
		c.ExpectEnd(packet.ServerShuttingDown)
		n = start(t, cfg)
		defer stop(t, n)
		_, body = call(t, n, http.MethodGet, "/v1/apps/one/retained", "", adminToken)
		require.Contains(t, body, `"payload_base64":"a2VwdA=="`)
		_, body = call(t, n, http.MethodGet, "/v1/apps/two/retained", "", adminToken)
		require.JSONEq(t, `{"items":[]}`, body)
	})
	t.Run("the ready file names the listeners while it serves", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		cfg.ReadyFile = filepath.Join(t.TempDir(), "ready")
		cfg.MetricsAddr = "127.0.0.1:0"
		n := start(t, cfg)
		text, err := os.ReadFile(cfg.ReadyFile)
		require.NoError(t, err)
		var ready struct {
			PID       int
			Listeners map[string]string
		}
		require.NoError(t, json.Unmarshal(text, &ready))
		require.Equal(t, os.Getpid(), ready.PID)
		require.Equal(t, n.Addrs(), ready.Listeners)
		require.Len(t, ready.Listeners, 3)
		stop(t, n)
		require.NoFileExists(t, cfg.ReadyFile)
	})
	t.Run("a second node on the same data directory is refused, and leaves the first alone", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		n := start(t, cfg)
		defer stop(t, n)
		_, err := node.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, "another Embercast server")
		status, _ := call(t, n, http.MethodGet, "/readyz", "", "")
		require.Equal(t, http.StatusOK, status)
	})
	t.Run("a taken port is named with what to do, and nothing is left open", func(t *testing.T) {
		t.Parallel()
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close() //nolint:errcheck // of a test
		cfg := config(t)
		cfg.MQTTAddr = ln.Addr().String()
		_, err = node.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, cfg.MQTTAddr)
		require.ErrorContains(t, err, "EMBERCAST_MQTT_ADDR")
		cfg.MQTTAddr = "127.0.0.1:0"
		stop(t, start(t, cfg))
	})
	t.Run("metrics have a listener of their own, and need the token there too", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		cfg.MetricsAddr, cfg.MetricsToken = "127.0.0.1:0", "metrics-token-of-the-tests"
		n := start(t, cfg)
		defer stop(t, n)
		for token, want := range map[string]int{"": 401, "wrong": 401, cfg.MetricsToken: 200, adminToken: 200} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Addrs()["metrics"]+"/metrics", http.NoBody)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			answer, err := client.Do(req)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, want, answer.StatusCode)
		}
	})
	t.Run("the server tells about itself", func(t *testing.T) {
		t.Parallel()
		n := start(t, config(t))
		defer stop(t, n)
		status, body := call(t, n, http.MethodGet, "/v1/server", "", adminToken)
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, body, `"kind":"sqlite"`)
		require.Contains(t, body, `"healthy":true`)
		status, _ = call(t, n, http.MethodGet, "/v1/server", "", "")
		require.Equal(t, http.StatusUnauthorized, status)
	})
	t.Run("rules know the client id that the server has assigned", func(t *testing.T) {
		t.Parallel()
		n := start(t, config(t))
		defer stop(t, n)
		call(t, n, http.MethodPost, "/v1/apps", `{"id":"one","settings":{"anonymous":true}}`, adminToken)
		status, body := call(t, n, http.MethodPut, "/v1/apps/one/rules", `[{"effect":"allow","actions":["publish"],"topic":"own/${client_id}"}]`, adminToken)
		require.Equal(t, http.StatusOK, status, body)
		c := mqtt(t, n)
		id := c.Connect("", func(p *packet.Connect) { p.HasUsername, p.Username = true, "one" }).Properties.AssignedClientID
		c.Publish("own/"+id, "p", brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.Publish("own/other", "p", brokertest.QoS(1, 2))
		c.ExpectAck(packet.TypePuback, 2, packet.NotAuthorized)
	})
	t.Run("a page of an origin that the app does not allow gets in by no path", func(t *testing.T) {
		t.Parallel()
		cfg := config(t)
		cfg.DefaultApp = "one"
		n := start(t, cfg)
		defer stop(t, n)
		_, body := call(t, n, http.MethodPost, "/v1/apps", `{"id":"one","settings":{"anonymous":true,"cors_origins":["https://good.example"]}}`, adminToken)
		require.Contains(t, body, "good.example")
		for origin, want := range map[string]int{"https://good.example": 101, "https://evil.example": 403} {
			for _, path := range []string{"/mqtt", "/mqtt/one"} {
				require.Equal(t, want, handshake(t, n, path, origin), "%s %s", origin, path)
			}
		}
	})
}

func handshake(t *testing.T, n *node.Node, path, origin string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Addrs()["http"]+path, http.NoBody)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol": "mqtt", "Origin": origin,
	} {
		req.Header.Set(name, value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode
}

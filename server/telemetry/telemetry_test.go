package telemetry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/telemetry"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("1.2.3")
	m.Connected("ws", packet.V5)
	m.Connected("tcp", packet.V311)
	m.Disconnected(packet.KeepAliveTimeout)
	m.Refused("auth_failed")
	m.Received(1, 100)
	m.Delivered([3]int{5, 2, 0}, 700)
	m.Dropped("queue_full", 3)
	m.Denied("publish")
	m.Committed(7, 3*time.Millisecond, nil)
	m.Committed(7, time.Millisecond, broker.ErrStoreUnavailable)
	m.Committed(7, time.Millisecond, errors.New("x"))
	m.Compacted(4, 9)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	text := w.Body.String()
	for _, line := range []string{
		`embercast_build_info{version="1.2.3"} 1`, `embercast_connections 1`,
		`embercast_connections_total{transport="ws",version="5"} 1`, `embercast_disconnections_total{reason="Keep Alive timeout"} 1`,
		`embercast_refusals_total{cause="auth_failed"} 1`, `embercast_messages_received_total{qos="1"} 1`,
		`embercast_messages_delivered_total{qos="0"} 5`, `embercast_messages_delivered_total{qos="1"} 2`,
		`embercast_payload_delivered_bytes_total 700`, `embercast_messages_dropped_total{cause="queue_full"} 3`,
		`embercast_denials_total{action="publish"} 1`, `embercast_commit_messages_total 7`,
		`embercast_commits_total{outcome="unavailable"} 1`, `embercast_commits_total{outcome="error"} 1`,
		`embercast_compacted_messages_total 4`, `embercast_compaction_lag_writes 9`,
	} {
		require.Contains(t, text, line+"\n")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems, "names follow Prometheus' rules")
}

func TestLogger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log, err := telemetry.NewLogger(&b, "warn", "json")
	require.NoError(t, err)
	log.LogAttrs(t.Context(), slog.LevelInfo, "not shown")
	log.LogAttrs(t.Context(), slog.LevelWarn, "shown", slog.String("app", "a"))
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), `"msg":"shown","app":"a"`)
	_, err = telemetry.NewLogger(&b, "loud", "json")
	require.ErrorContains(t, err, "EMBERCAST_LOG_LEVEL")
	_, err = telemetry.NewLogger(&b, "info", "xml")
	require.ErrorContains(t, err, "EMBERCAST_LOG_FORMAT")
}

package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/server/store/pgtest"
	"github.com/embercast/embercast/server/store/postgres"
)

// TestPostgresIsAskedToSync: a commit is told when it is on the disk, though the server's owner prefers otherwise. It counts
// how often Postgres syncs its log, on a server that nobody else uses.
func TestPostgresIsAskedToSync(t *testing.T) {
	t.Parallel()
	_, url := pgtest.Own(t)
	admin, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer admin.Close(context.Background()) //nolint:errcheck // of a test
	for _, text := range []string{
		"ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM SET wal_writer_delay = '10s'", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()",
	} {
		_, err := admin.Exec(t.Context(), text)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return show(t, admin, "synchronous_commit") == "off" }, 10*time.Second, 10*time.Millisecond)

	var log bytes.Buffer
	cfg := config(url)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, err := postgres.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.Contains(t, log.String(), "setting=full_page_writes")
	require.NotContains(t, log.String(), "setting=fsync")
	app := newApp(t, s, "shop")
	syncs := func() (n int) {
		require.NoError(t, admin.QueryRow(t.Context(), "SELECT wal_sync FROM pg_stat_wal").Scan(&n))
		return n
	}
	const commits = 30
	before := syncs()
	for i := range commits {
		_, err := s.Commit(t.Context(), batch(app, fmt.Sprint("t/", i)))
		require.NoError(t, err)
	}
	for i := range commits { // the control plane's connections too
		require.NoError(t, putRules(t, s, app, int64(i+2)))
	}
	require.Eventually(t, func() bool { return syncs() >= before+2*commits }, 30*time.Second, 100*time.Millisecond)
}

func show(t *testing.T, c *pgx.Conn, setting string) (value string) {
	t.Helper()
	require.NoError(t, c.QueryRow(t.Context(), "SHOW "+setting).Scan(&value))
	return value
}

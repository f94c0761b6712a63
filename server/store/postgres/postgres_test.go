package postgres_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/pgtest"
	"github.com/embercast/embercast/server/store/postgres"
	"github.com/embercast/embercast/server/store/storetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func config(url string) postgres.Config {
	return postgres.Config{URL: url, Logger: slog.New(slog.DiscardHandler)}
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openEmpty)
}

func openEmpty(tb testing.TB) storetest.Store {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), config(pgtest.URL(tb)))
	require.NoError(tb, err)
	return s
}

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, openEmpty) }

func TestOpen(t *testing.T) {
	t.Parallel()
	t.Run("refuses a second server on the same database", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		first, err := postgres.Open(t.Context(), config(url))
		require.NoError(t, err)
		_, err = postgres.Open(t.Context(), config(url))
		require.ErrorIs(t, err, store.ErrLocked)
		require.NoError(t, first.Close())
		again, err := postgres.Open(t.Context(), config(url))
		require.NoError(t, err)
		require.NoError(t, again.Close())
	})
	t.Run("names a database that cannot be reached, without its password", func(t *testing.T) {
		t.Parallel()
		_, err := postgres.Open(t.Context(), config("postgres://u:topsecret@127.0.0.1:1/x?sslmode=disable"))
		require.ErrorContains(t, err, "127.0.0.1:1")
		require.NotContains(t, err.Error(), "topsecret")
	})
}

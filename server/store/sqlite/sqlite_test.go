package sqlite_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlite"
	"github.com/embercast/embercast/server/store/storetest"
)

func config(path string) sqlite.Config {
	return sqlite.Config{Path: path, Logger: slog.New(slog.DiscardHandler)}
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, open)
}

func open(tb testing.TB) storetest.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), config(filepath.Join(tb.TempDir(), "embercast.db")))
	require.NoError(tb, err)
	return s
}

func TestDeleteApp(t *testing.T) {
	t.Parallel()
	t.Run("leaves no row behind", func(t *testing.T) {
		t.Parallel()
		s, err := sqlite.Open(t.Context(), config(filepath.Join(t.TempDir(), "embercast.db")))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		storetest.Delete(t, s, s.Read)
	})
}

func BenchmarkStore(b *testing.B) { storetest.Benchmark(b, open) }

func TestOpen(t *testing.T) {
	t.Parallel()
	t.Run("refuses a second server on the same file", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "a?b #%.db")
		first, err := sqlite.Open(t.Context(), config(path))
		require.NoError(t, err)
		_, err = sqlite.Open(t.Context(), config(path))
		require.ErrorIs(t, err, store.ErrLocked)
		require.NoError(t, first.Close())
		again, err := sqlite.Open(t.Context(), config(path))
		require.NoError(t, err)
		require.NoError(t, again.Close())
	})
	t.Run("refuses a damaged file and leaves it as it is", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "embercast.db")
		require.NoError(t, os.WriteFile(path, []byte("this is no database, whatever its name says; nothing may change it"), 0o600))
		_, err := sqlite.Open(t.Context(), config(path))
		require.ErrorContains(t, err, "damaged")
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "this is no database, whatever its name says; nothing may change it", string(after))
	})
	t.Run("refuses a schema that is newer than it knows", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "embercast.db")
		s, err := sqlite.Open(t.Context(), config(path))
		require.NoError(t, err)
		_, err = s.Write.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = sqlite.Open(t.Context(), config(path))
		require.ErrorContains(t, err, "newer Embercast")
	})
}

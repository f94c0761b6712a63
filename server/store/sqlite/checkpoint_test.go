package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Between two passive checkpoints there is always something new under lasting writes, so that they alone let the log
// grow for ever.
func TestTheWriteAheadLogBeginsAnewUnderLastingWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "embercast.db")
	s, err := Open(t.Context(), Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	write := func() {
		_, err := s.control.ExecContext(context.Background(), `INSERT INTO audit (at, actor, app_id, action, target, before) VALUES (1, 'a', 'a', 'a', 'a', zeroblob(8388608))`)
		require.NoError(t, err)
	}
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		return size(info)
	}
	var written int64
	for written < 2*restartBytes {
		write()
		written += 8 << 20
		require.NoError(t, s.checkpointOnce(t.Context()))
		require.LessOrEqual(t, size(), int64(restartBytes+(16<<20)))
	}
	// A reader in the way holds up the log alone.
	rows, err := s.read.QueryContext(t.Context(), `SELECT id FROM audit`)
	require.NoError(t, err)
	defer rows.Close() //nolint:errcheck // it is closed below, unless the test fails
	require.True(t, rows.Next())
	for size() < restartBytes {
		write()
	}
	require.NoError(t, s.checkpointOnce(t.Context()))
	require.GreaterOrEqual(t, size(), int64(restartBytes))
	require.NoError(t, errors.Join(rows.Err(), rows.Close()))
	require.NoError(t, s.checkpointOnce(t.Context()))
	require.Zero(t, size())
}

func size(info fs.FileInfo) int64 {
	if info == nil {
		return 0
	}
	return info.Size()
}

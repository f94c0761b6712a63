package sqlite

import (
	"context"
	"log/slog"
	"os"
	"time"
)

// How the write-ahead log is kept short (https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files). A passive
// checkpoint copies beside the writer's way, but under lasting writes it never comes to the log's end, and then the log
// only grows. So from a length on, the rest is copied with the writer kept waiting, and the log begins anew.
const (
	checkpointEvery = time.Second
	// restartBytes is the log's length from which it is to begin anew (chosen: some seconds of full load; the rest that
	// the passive checkpoint leaves is then small).
	restartBytes = 64 << 20
	// restartPatience is how long the writer may be kept waiting for readers; the next checkpoint tries again.
	restartPatience = 200 * time.Millisecond
)

func (s *Store) checkpoints() {
	defer s.stopped.Done()
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if err := s.checkpointOnce(context.Background()); err != nil {
			s.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "checkpoint failed", slog.String("error", err.Error()))
		}
	}
}

// checkpointOnce moves the write-ahead log into the database, on a handle of its own.
func (s *Store) checkpointOnce(ctx context.Context) error {
	mode := "PASSIVE"
	for {
		// The row says whether a reader or the writer was in the way; then the next checkpoint goes on.
		if _, err := s.checkpoint.ExecContext(ctx, "PRAGMA wal_checkpoint("+mode+")"); err != nil {
			return err //nolint:wrapcheck // the caller's log line says it all
		}
		info, err := os.Stat(s.cfg.Path + "-wal")
		if mode != "PASSIVE" || err != nil || info.Size() < restartBytes {
			return nil //nolint:nilerr // there is no log to be shortened
		}
		mode = "TRUNCATE"
	}
}

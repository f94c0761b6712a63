package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/postgres"
	"github.com/embercast/embercast/server/store/sqlite"
)

// database is what a node asks of its store.
type database interface {
	broker.Store
	auth.Store
	Ping(ctx context.Context) error
	Info(ctx context.Context) (kind, version string)
	Close() error
}

// openStore opens the configured database, migrated. lost is called when it must not be written to any more.
func (c *Config) openStore(ctx context.Context, log *slog.Logger, lost func(error)) (database, error) {
	if isPostgres(c.DatabaseURL) {
		s, err := postgres.Open(ctx, postgres.Config{URL: c.DatabaseURL, Logger: log, Lost: lost})
		if err != nil {
			return nil, explainPostgres(err)
		}
		return s, nil
	}
	path, err := c.sqlitePath()
	if err != nil {
		return nil, err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path, Logger: log})
	if err != nil {
		return nil, explainLocked(err)
	}
	return s, nil
}

func explainPostgres(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return explainLocked(err)
	}
	return fmt.Errorf("%w; check EMBERCAST_DATABASE_URL (--database-url), and that Postgres is up and takes this user", err)
}

func explainLocked(err error) error {
	if !errors.Is(err, store.ErrLocked) {
		return err
	}
	return fmt.Errorf("%w; stop that one first, or give this one another database and --data-dir", err)
}

// explainDamaged says what to do where the damage was met by who reads what is stored.
func explainDamaged(err error) error {
	if !errors.Is(err, store.ErrDamaged) {
		return err
	}
	return fmt.Errorf("the database is damaged; restore it from a backup, nothing was changed: %w", err)
}

const lockFile = "server.lock"

// lockDataDir keeps a second server off the data directory, whatever its database. The lock goes with the process.
func (c *Config) lockDataDir() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.DataDir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() //nolint:errcheck // nothing was written
		return nil, explainLocked(fmt.Errorf("%w: data directory %s", store.ErrLocked, c.DataDir))
	}
	return f, nil
}

// Migrate brings the schema of the configured database up to date, and returns which database that is.
func Migrate(ctx context.Context, cfg Config, log *slog.Logger) (kind string, err error) {
	if err := cfg.Validate(); err != nil {
		return "", err
	}
	if err := cfg.makeDataDir(); err != nil {
		return "", err
	}
	s, err := cfg.openStore(ctx, log, func(error) {})
	if err != nil {
		return "", err
	}
	kind, _ = s.Info(ctx)
	return kind, s.Close()
}

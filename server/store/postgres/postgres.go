// Package postgres keeps everything in a Postgres database. One connection holds the advisory lock of the server and
// commits the batches: whoever has lost the lock has lost the way to write.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// Config says where the database is.
type Config struct {
	URL    string
	Logger *slog.Logger
}

// Store is the Postgres store. Safe for concurrent use; Commit by one goroutine at a time.
type Store struct {
	*sqlstore.Store
	cfg    Config
	pool   *pgxpool.Pool
	db     *sql.DB
	locked atomic.Bool

	mu     sync.Mutex // guards writer
	writer *pgx.Conn
	stop   chan struct{}
	ended  sync.WaitGroup
}

// lockID names the server's advisory lock in a database ("ember").
const lockID = 0x656d626572

const (
	connectTimeout = 5 * time.Second
	watchEvery     = 2 * time.Second
)

// Open connects, locks and migrates the database. store.ErrLocked when another server holds it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errors.New("database URL cannot be read; it looks like postgres://user:password@host:5432/name")
	}
	pc.ConnConfig.ConnectTimeout = connectTimeout
	pc.MaxConns = max(pc.MaxConns, 8)
	s := &Store{cfg: cfg, stop: make(chan struct{})}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, fmt.Errorf("open database: %w", redact(err))
	}
	s.db = stdlib.OpenDBFromPool(s.pool)
	s.Store = &sqlstore.Store{Read: s.db, Write: s.db, Dollar: true, Classify: classify, MayWrite: s.mayWrite}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.ended.Add(1)
	go s.watch() //nolint:gosec // it lives as long as the store, not as the call
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.connectWriter(ctx); err != nil {
		return err
	}
	if err := sqlstore.Migrate(ctx, s.db, goose.DialectPostgres, "postgres"); err != nil {
		return fmt.Errorf("migrate: %w", redact(err))
	}
	return nil
}

// connectWriter opens the writing connection and takes the lock on it.
func (s *Store) connectWriter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", redact(err))
	}
	var got bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lockID)).Scan(&got); err != nil {
		_ = conn.Close(ctx) //nolint:errcheck // the first error counts
		return fmt.Errorf("connect to Postgres: %w", classify(err))
	}
	if !got {
		_ = conn.Close(ctx) //nolint:errcheck // nothing was written
		return fmt.Errorf("%w: Postgres database %s", store.ErrLocked, conn.Config().Database)
	}
	s.writer = conn
	s.locked.Store(true)
	return nil
}

// watch notices a lost connection while nothing is committed, and takes the lock again as soon as it can be had.
func (s *Store) watch() {
	defer s.ended.Done()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		ctx, cancel := context.WithTimeout(context.Background(), watchEvery)
		if s.writer != nil && s.writer.Ping(ctx) != nil {
			s.dropWriter()
		}
		cancel()
		if s.writer == nil {
			if err := s.connectWriter(context.Background()); err != nil {
				s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "database is away: nothing is written until it is back",
					slog.String("error", err.Error()))
			} else {
				s.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, "database is back")
			}
		}
		s.mu.Unlock()
	}
}

// dropWriter lets go of a broken connection. mu is held.
func (s *Store) dropWriter() {
	s.locked.Store(false)
	if s.writer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.writer.Close(ctx) //nolint:errcheck // it is broken
	s.writer = nil
}

func (s *Store) mayWrite() error {
	if !s.locked.Load() {
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable)
	}
	return nil
}

// Close gives up the lock and closes all connections.
func (s *Store) Close() error {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.ended.Wait()
	s.mu.Lock()
	s.dropWriter()
	s.mu.Unlock()
	err := s.db.Close()
	s.pool.Close()
	return err //nolint:wrapcheck // closing has no more to say
}

// Ping reports whether the database answers and the lock is held.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.mayWrite(); err != nil {
		return err
	}
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("postgres: %w", classify(err))
	}
	return nil
}

// Info returns the kind and the version of the database.
func (s *Store) Info(ctx context.Context) (kind, version string) {
	if err := s.pool.QueryRow(ctx, `SHOW server_version`).Scan(&version); err != nil {
		return "postgres", ""
	}
	return "postgres", version
}

// redact keeps connection strings, which hold passwords, out of errors.
func redact(err error) error {
	if c, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return fmt.Errorf("%s:%d does not take the connection (%s)", c.Config.Host, c.Config.Port, reason(c.Unwrap()))
	}
	return err
}

func reason(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Message
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// classify makes of Postgres' errors those of broker and auth.
func classify(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "23505":
			return errors.Join(auth.ErrTaken, err)
		case pg.Code == "53100", pg.Code == "25006":
			return errors.Join(broker.ErrStoreRefused, err)
		case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57"), strings.HasPrefix(pg.Code, "53"), strings.HasPrefix(pg.Code, "40"):
			return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, err)
		}
		return err
	}
	if errors.Is(err, sql.ErrNoRows) || errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	// What is not Postgres' own word is the network's.
	return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, redact(err))
}

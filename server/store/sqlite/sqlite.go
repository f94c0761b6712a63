// Package sqlite keeps everything in one embedded SQLite database: WAL, every commit fsynced, one writer.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// Config says where the database is.
type Config struct {
	Path   string // of the database file; its directory must exist
	Logger *slog.Logger
}

// Store is the SQLite store. Safe for concurrent use; Commit by one goroutine at a time.
type Store struct {
	*sqlstore.Store
	cfg        Config
	lock       *os.File
	read       *sql.DB
	reader     *reader
	control    *sql.DB // the control plane's writes and migrations
	checkpoint *sql.DB
	guard      *sql.DB // see Close
	damaged    atomic.Bool
	stop       chan struct{}
	stopped    sync.WaitGroup

	mu     sync.Mutex // guards writer: Commit reopens it
	writer *writer
}

// busyTimeout is how long a handle waits for another one's lock.
const busyTimeout = 10 * time.Second

// Open locks, opens and migrates the database. store.ErrLocked when another server holds it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	lock, err := lockFile(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, lock: lock, stop: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.stopped.Add(1)
	go s.checkpoints() //nolint:gosec // it lives as long as the store, not as the call
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := s.ensureFile(ctx); err != nil {
		return err
	}
	if s.guard, err = s.handle(ctx, s.cfg.Path, readOnly, 1, busyTimeout); err != nil {
		return err
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	if s.control, err = s.handle(ctx, s.cfg.Path, readWrite, 1, busyTimeout); err != nil {
		return err
	}
	if err := sqlstore.Migrate(ctx, s.control, goose.DialectSQLite3, "sqlite"); err != nil {
		return fmt.Errorf("migrate: %w", s.explain(err))
	}
	if s.read, err = s.handle(ctx, s.cfg.Path, readWrite, 4, busyTimeout); err != nil {
		return err
	}
	if s.reader, err = newReader(ctx, s.read); err != nil {
		return err
	}
	if s.checkpoint, err = s.handle(ctx, s.cfg.Path, readWrite, 1, restartPatience); err != nil {
		return err
	}
	s.Store = &sqlstore.Store{Read: s.read, Write: s.control, Classify: s.classify}
	return nil
}

// lockFile keeps a second server off the same data directory. The lock goes with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() //nolint:errcheck // nothing was written
		return nil, fmt.Errorf("%w: %s", store.ErrLocked, filepath.Dir(path))
	}
	return f, nil
}

// The modes of a handle.
const (
	readOnly  = "ro"
	readWrite = "rw"
)

// handle opens connections of their own. synchronous=FULL stands in every one: an acknowledged commit is on the disk.
func (s *Store) handle(ctx context.Context, path, mode string, connections int, busy time.Duration) (*sql.DB, error) {
	q := url.Values{"mode": {mode}}
	for _, p := range []string{"journal_mode(WAL)", "synchronous(FULL)", fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "wal_autocheckpoint(0)", "temp_store(MEMORY)", "cache_size(-16000)"} {
		q.Add("_pragma", p)
	}
	q.Set("_txlock", "immediate")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close() //nolint:errcheck // the first error counts
		return nil, fmt.Errorf("open database %s: %w", path, s.explain(err))
	}
	return db, nil
}

// Close closes the database and gives up the lock. The last handle that is closed copies the write-ahead log into the
// database. Where that is damaged, the last one is the guard, which may only read: the files stay as they are.
func (s *Store) Close() error {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.stopped.Wait()
	var errs []error
	s.mu.Lock()
	if s.writer != nil {
		errs = append(errs, s.writer.close())
		s.writer = nil
	}
	s.mu.Unlock()
	handles := []*sql.DB{s.guard, s.read, s.checkpoint, s.control}
	if s.damaged.Load() {
		handles = []*sql.DB{s.read, s.checkpoint, s.control, s.guard}
	}
	for _, db := range handles {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.read.PingContext(ctx); err != nil {
		return fmt.Errorf("sqlite: %w", s.classify(err))
	}
	return nil
}

// Info returns the kind and the version of the database.
func (s *Store) Info(ctx context.Context) (kind, version string) {
	if err := s.read.QueryRowContext(ctx, `SELECT sqlite_version()`).Scan(&version); err != nil {
		return "sqlite", ""
	}
	return "sqlite", version
}

// classify makes of SQLite's errors those of broker and auth.
func (s *Store) classify(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		// ErrTxDone: the context ended, and database/sql has rolled back before the commit.
		for _, ended := range []error{sql.ErrConnDone, sql.ErrTxDone, context.DeadlineExceeded, context.Canceled} {
			if errors.Is(err, ended) {
				return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, err)
			}
		}
		return err
	}
	if isDamage(e) {
		s.damaged.Store(true)
		return errors.Join(broker.ErrStoreRefused, store.ErrDamaged, err)
	}
	switch e.Code() & 0xFF {
	case lib.SQLITE_FULL, lib.SQLITE_READONLY:
		return errors.Join(broker.ErrStoreRefused, err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED, lib.SQLITE_IOERR, lib.SQLITE_CANTOPEN, lib.SQLITE_INTERRUPT:
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, err)
	case lib.SQLITE_CONSTRAINT:
		return errors.Join(auth.ErrTaken, err)
	}
	return err
}

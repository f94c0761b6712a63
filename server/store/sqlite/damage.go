package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// ensureFile makes the database where there is none, whole or not at all: a file that is there and empty has lost what it
// held, and SQLite would take it for a new one.
func (s *Store) ensureFile(ctx context.Context) error {
	info, err := os.Stat(s.cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if log, err := os.Stat(s.cfg.Path + "-wal"); err == nil && log.Size() > 0 {
			return fmt.Errorf("open database: %s is not there, but its log %s-wal is: %w; nothing was changed: put the file back, or move the log away to begin anew",
				s.cfg.Path, s.cfg.Path, store.ErrDamaged)
		}
		return s.create(ctx)
	case err != nil:
		return fmt.Errorf("open database: %w", err)
	case info.Size() == 0:
		return fmt.Errorf("open database: %s is empty: %w; nothing was changed: restore it from a backup, or move it away to begin anew", s.cfg.Path, store.ErrDamaged)
	}
	// SQLite would open for reading what it may not write, and refuse every write only then.
	f, err := os.OpenFile(s.cfg.Path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open database: the file cannot be written; check owner and permissions: %w", err)
	}
	return f.Close() //nolint:wrapcheck // nothing was written
}

// create makes a new database beside its place, which its owner alone can read, and puts it there when it is whole.
// SQLite's other files follow its mode.
func (s *Store) create(ctx context.Context) error {
	path := s.cfg.Path + ".new"
	for _, leftOver := range []string{path, path + "-wal", path + "-shm", path + "-journal"} {
		if err := os.Remove(leftOver); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make database: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600) //nolint:gosec // the operator's own path
	if err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	db, err := s.handle(ctx, path, readWrite, 1, busyTimeout)
	if err != nil {
		return err
	}
	err = sqlstore.Migrate(ctx, db, goose.DialectSQLite3, "sqlite")
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("make database %s: %w", s.cfg.Path, s.explain(err))
	}
	if err := os.Rename(path, s.cfg.Path); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	return syncDir(filepath.Dir(s.cfg.Path))
}

// syncDir has a directory's new entries outlive a loss of power.
func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // the operator's own path
	if err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	return nil
}

// look reads the beginning of every table before anything is written: a migration must not be what meets the damage. The
// rest is met where it is read, most of it before the server is up.
func (s *Store) look(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open database %s: %w", s.cfg.Path, s.explain(err))
		}
	}()
	rows, err := s.guard.QueryContext(ctx, `SELECT name FROM sqlite_master WHERE type = 'table'`)
	if err != nil {
		return err //nolint:wrapcheck // wrapped above
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err //nolint:wrapcheck // wrapped above
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err //nolint:wrapcheck // wrapped above
	}
	for _, name := range tables {
		if _, err := s.guard.ExecContext(ctx, `SELECT 1 FROM "`+name+`" LIMIT 1`); err != nil { //nolint:gosec // a name from the schema
			return err //nolint:wrapcheck // wrapped above
		}
	}
	return nil
}

// explain says what to do about a database that cannot be opened.
func (s *Store) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	if isDamage(e) {
		s.damaged.Store(true)
		return fmt.Errorf("the file is damaged or no SQLite database; restore it from a backup, nothing was changed: %w: %w", store.ErrDamaged, err)
	}
	switch e.Code() & 0xFF {
	case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN:
		return fmt.Errorf("the file or its directory cannot be written; check owner and permissions: %w", err)
	case lib.SQLITE_FULL:
		return fmt.Errorf("the disk is full; make room and start again, nothing is lost: %w", err)
	case lib.SQLITE_IOERR:
		return fmt.Errorf("the disk refuses; is it full, or does the system's log tell of errors? Nothing was changed: %w", err)
	}
	return err
}

// isDamage reports whether an error says that the files are not what they must be; a short read is of a file that was cut.
func isDamage(e *sqlite.Error) bool {
	primary := e.Code() & 0xFF
	return primary == lib.SQLITE_CORRUPT || primary == lib.SQLITE_NOTADB ||
		e.Code() == lib.SQLITE_IOERR_SHORT_READ || e.Code() == lib.SQLITE_IOERR_CORRUPTFS
}

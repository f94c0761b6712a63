// Package sqlstore is what both dialects say alike, over database/sql: the control plane, sessions, and the reading of
// the log. How a batch is committed is each dialect's own.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// Store reads and writes over two handles; on Postgres they are the same.
type Store struct {
	Read  *sql.DB
	Write *sql.DB
	// Dollar numbers the parameters ($1) instead of leaving them ?.
	Dollar bool
	// Classify makes of a driver's error one of broker's or auth's, wrapping it.
	Classify func(error) error
	// MayWrite refuses writes while the node does not hold its lock; nil is always.
	MayWrite func() error
	// Fence refuses, within a transaction, to write for a node that another has taken over from; nil lets all pass.
	Fence func(context.Context, *sql.Tx) error
	// Timeout bounds a transaction, but the deletion of an app; 0 does not.
	Timeout time.Duration
}

// sql writes the parameters as the dialect does. Texts hold no other question marks.
func (s *Store) sql(text string) string {
	if !s.Dollar {
		return text
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(text, "?") {
		if n > 0 {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

// Fail says what failed, with the error as broker or auth knows it; nil stays nil.
func (s *Store) Fail(doing string, err error) error { return s.fail(doing, err) }

func (s *Store) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, s.Classify(err))
}

// tx runs do in one transaction, within Timeout.
func (s *Store) tx(ctx context.Context, doing string, do func(context.Context, *sql.Tx) error) error {
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	return s.longTx(ctx, doing, do)
}

// longTx runs do in one transaction that may take its time.
func (s *Store) longTx(ctx context.Context, doing string, do func(context.Context, *sql.Tx) error) error {
	if s.MayWrite != nil {
		if err := s.MayWrite(); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	tx, err := s.Write.BeginTx(ctx, nil)
	if err != nil {
		return s.fail(doing, err)
	}
	if s.Fence != nil {
		err = s.Fence(ctx, tx)
	}
	if err == nil {
		err = do(ctx, tx)
	}
	if err != nil {
		_ = tx.Rollback() //nolint:errcheck // the first error counts
		if errors.Is(err, auth.ErrNotFound) || errors.Is(err, auth.ErrConflict) || errors.Is(err, broker.ErrNoSuchApp) {
			return err
		}
		return s.fail(doing, err)
	}
	return s.fail(doing, tx.Commit())
}

// exec runs one statement.
func (s *Store) exec(ctx context.Context, tx *sql.Tx, text string, args ...any) error {
	_, err := tx.ExecContext(ctx, s.sql(text), args...)
	return err //nolint:wrapcheck // wrapped by tx
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func nullMicros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// Time makes a time of microseconds.
func Time(us int64) time.Time { return time.UnixMicro(us).UTC() }

// NullTime makes a time of microseconds that may be null, which is the zero time.
func NullTime(us sql.NullInt64) time.Time {
	if !us.Valid {
		return time.Time{}
	}
	return Time(us.Int64)
}

// blob keeps NULL out of columns that are NOT NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

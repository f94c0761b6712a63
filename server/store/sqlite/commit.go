package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// writer is the one handle that commits batches, with its statements prepared.
type writer struct {
	db       *sql.DB
	head     *sql.Stmt
	batchID  *sql.Stmt
	messages map[int]*sql.Stmt // by rows of one statement
	pending  map[int]*sql.Stmt
}

// rowSteps are how many rows one INSERT takes (measured: 64 rows cost a fifth of 64 statements; more gain little).
var rowSteps = []int{64, 8, 1}

const (
	messageColumns = 11
	insertMessages = `INSERT INTO messages (app_uid, seq, part, topic, payload, properties, qos, retain, publisher, arrived_at, expires_at) VALUES `
	insertPending  = `INSERT INTO pending (filter_id, seq, part) VALUES `
)

func (s *Store) openWriter(ctx context.Context) (*writer, error) {
	db, err := s.handle(ctx, 1, busyTimeout)
	if err != nil {
		return nil, err
	}
	w := &writer{db: db, messages: map[int]*sql.Stmt{}, pending: map[int]*sql.Stmt{}}
	prepare := func(text string) *sql.Stmt {
		if err != nil {
			return nil
		}
		var stmt *sql.Stmt
		stmt, err = db.PrepareContext(ctx, text)
		return stmt
	}
	w.head = prepare(`UPDATE app_head SET seq = seq + ? WHERE app_uid = ? RETURNING seq`)
	w.batchID = prepare(`INSERT INTO node_batch (node, batch_id) VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET batch_id = excluded.batch_id`)
	for _, n := range rowSteps {
		w.messages[n] = prepare(insertMessages + values(messageColumns, n))
		w.pending[n] = prepare(insertPending + values(3, n))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare: %w", err), db.Close())
	}
	return w, nil
}

func values(columns, rows int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?, ", columns), ", ") + ")"
	return strings.TrimSuffix(strings.Repeat(row+", ", rows), ", ")
}

func (w *writer) close() error { return w.db.Close() } //nolint:wrapcheck // joined by the caller

// Commit implements broker.Store.
func (s *Store) Commit(ctx context.Context, batch broker.Batch) (seqs []uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer == nil {
		if s.writer, err = s.openWriter(ctx); err != nil {
			return nil, fmt.Errorf("commit: %w", classify(err))
		}
	}
	seqs, committing, err := s.writer.commit(ctx, s.Store, batch)
	if err == nil {
		return seqs, nil
	}
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code()&0xFF == lib.SQLITE_IOERR {
		// After a failed fsync nothing that this handle believes is true any more.
		_ = s.writer.close() //nolint:errcheck // it failed already
		s.writer = nil
		if committing {
			return nil, fmt.Errorf("commit: %w", errors.Join(broker.ErrOutcomeUnknown, err))
		}
	}
	return nil, fmt.Errorf("commit: %w", classify(err))
}

// commit writes the batch in one transaction; committing tells that the failure came from the commit itself.
func (w *writer) commit(ctx context.Context, s *sqlstore.Store, batch broker.Batch) (seqs []uint64, committing bool, err error) {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, false, err //nolint:wrapcheck // wrapped by Commit
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if seqs, err = w.numbers(ctx, tx, batch.Writes); err != nil {
		return nil, false, err
	}
	if err = w.insert(ctx, tx, batch.Writes, seqs); err != nil {
		return nil, false, err
	}
	for i := range batch.Writes {
		for _, c := range batch.Writes[i].Sessions {
			for _, st := range s.SessionStatements(c) {
				if _, err = tx.ExecContext(ctx, st.Text, st.Args...); err != nil {
					return nil, false, err //nolint:wrapcheck // wrapped by Commit
				}
			}
		}
	}
	batchID := tx.StmtContext(ctx, w.batchID) //nolint:sqlclosecheck // closed with the transaction
	if _, err = batchID.ExecContext(ctx, sqlstore.Node, batch.ID[:]); err != nil {
		return nil, false, err //nolint:wrapcheck // wrapped by Commit
	}
	if err = tx.Commit(); err != nil {
		return nil, true, err //nolint:wrapcheck // wrapped by Commit
	}
	return seqs, false, nil
}

// numbers takes the seqs of the batch from the apps' heads.
func (w *writer) numbers(ctx context.Context, tx *sql.Tx, writes []broker.Write) ([]uint64, error) {
	head := tx.StmtContext(ctx, w.head)
	return sqlstore.Number(writes, func(app broker.AppUID, n uint64) (last uint64, err error) {
		err = head.QueryRowContext(ctx, n, app).Scan(&last)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, sqlstore.ErrAppGone
		}
		return last, err //nolint:wrapcheck // wrapped by Commit
	})
}

func (w *writer) insert(ctx context.Context, tx *sql.Tx, writes []broker.Write, seqs []uint64) error {
	var rows, pending []any
	for i := range writes {
		if seqs[i] == 0 {
			continue
		}
		for part := range writes[i].Parts {
			p := &writes[i].Parts[part]
			m := p.Message
			var expires any
			if !m.Expires.IsZero() {
				expires = m.Expires.UnixMicro()
			}
			rows = append(rows, int64(writes[i].App), int64(seqs[i]), int64(part), m.Topic, notNil(m.Payload), notNil(m.Properties), //nolint:gosec // a seq fits
				int64(m.QoS), m.Retain, m.Publisher, m.Arrived.UnixMicro(), expires)
			for _, f := range p.Filters {
				pending = append(pending, f, int64(seqs[i]), int64(part)) //nolint:gosec // a seq fits
			}
		}
	}
	if err := execRows(ctx, tx, w.messages, messageColumns, rows); err != nil {
		return err
	}
	return execRows(ctx, tx, w.pending, 3, pending)
}

func execRows(ctx context.Context, tx *sql.Tx, by map[int]*sql.Stmt, columns int, args []any) error {
	for _, n := range rowSteps {
		stmt := tx.StmtContext(ctx, by[n]) //nolint:sqlclosecheck // closed with the transaction
		for len(args) >= n*columns {
			if _, err := stmt.ExecContext(ctx, args[:n*columns]...); err != nil {
				return err //nolint:wrapcheck // wrapped by Commit
			}
			args = args[n*columns:]
		}
	}
	return nil
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

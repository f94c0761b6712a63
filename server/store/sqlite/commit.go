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
	db      *sql.DB
	head    *sql.Stmt
	batchID *sql.Stmt
	// By rows of one statement.
	messages, pending, sessions, subscriptions map[int]*sql.Stmt
	dropped, emptied, unsubscribed, settled    map[int]*sql.Stmt
}

// rowSteps are how many rows one INSERT takes (measured: 64 rows cost a fifth of 64 statements; more gain little).
var rowSteps = []int{64, 8, 1}

const (
	insertMessages = `INSERT INTO messages (app_uid, seq, part, topic, payload, properties, qos, retain, publisher, arrived_at, expires_at) VALUES `
	insertPending  = `INSERT INTO pending (filter_id, seq, part) VALUES `
	insertSessions = `INSERT INTO sessions (app_uid, client_id, subject, expiry, ended_at, will, cursor_seq, cursor_part,
		"window", inbound, next_packet_id, fallen_out) VALUES `
	onSession = ` ON CONFLICT (app_uid, client_id) DO UPDATE SET subject = excluded.subject, expiry = excluded.expiry,
		ended_at = excluded.ended_at, will = excluded.will, cursor_seq = excluded.cursor_seq, cursor_part = excluded.cursor_part,
		"window" = excluded."window", inbound = excluded.inbound, next_packet_id = excluded.next_packet_id, fallen_out = excluded.fallen_out`
	insertSubscriptions = `INSERT INTO subscriptions (app_uid, client_id, filter, filter_id, options, subscription_id,
		begins_seq, begins_part, retained_after) VALUES `
	onSubscription = ` ON CONFLICT (app_uid, client_id, filter) DO UPDATE SET filter_id = excluded.filter_id,
		options = excluded.options, subscription_id = excluded.subscription_id, begins_seq = excluded.begins_seq,
		begins_part = excluded.begins_part, retained_after = excluded.retained_after`
)

// How many columns the rows above have.
const (
	messageColumns      = 11
	pendingColumns      = 3
	sessionColumns      = 12
	subscriptionColumns = 9
)

func (s *Store) openWriter(ctx context.Context) (*writer, error) {
	db, err := s.handle(ctx, s.cfg.Path, readWrite, 1, busyTimeout)
	if err != nil {
		return nil, err
	}
	w := &writer{db: db}
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
	steps := func(columns int, before, after string) map[int]*sql.Stmt {
		by := map[int]*sql.Stmt{}
		for _, n := range rowSteps {
			by[n] = prepare(before + values(columns, n) + after)
		}
		return by
	}
	w.messages = steps(messageColumns, insertMessages, "")
	w.pending = steps(pendingColumns, insertPending, "")
	w.sessions = steps(sessionColumns, insertSessions, onSession)
	w.subscriptions = steps(subscriptionColumns, insertSubscriptions, onSubscription)
	w.dropped = steps(2, `DELETE FROM sessions WHERE (app_uid, client_id) IN (VALUES `, ")")
	w.emptied = steps(2, `DELETE FROM subscriptions WHERE (app_uid, client_id) IN (VALUES `, ")")
	w.unsubscribed = steps(3, `DELETE FROM subscriptions WHERE (app_uid, client_id, filter) IN (VALUES `, ")")
	w.settled = steps(4, `DELETE FROM pending WHERE (filter_id, seq, part) IN (WITH gone (app, filter, s, p) AS (VALUES `,
		`) SELECT f.filter_id, gone.s, gone.p FROM gone CROSS JOIN filters AS f WHERE f.filter_id = gone.filter AND f.app_uid = gone.app)`)
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
			return nil, fmt.Errorf("commit: %w", s.classify(err))
		}
	}
	seqs, committing, err := s.writer.commit(ctx, batch)
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
	return nil, fmt.Errorf("commit: %w", s.classify(err))
}

// commit writes the batch in one transaction; committing tells that the failure came from the commit itself.
func (w *writer) commit(ctx context.Context, batch broker.Batch) (seqs []uint64, committing bool, err error) {
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, false, err //nolint:wrapcheck // wrapped by Commit
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	numbers, err := w.numbers(ctx, tx, batch.Writes)
	if err != nil {
		return nil, false, err
	}
	if err = w.insert(ctx, tx, batch.Writes, numbers.Seqs); err != nil {
		return nil, false, err
	}
	if err = w.change(ctx, tx, sqlstore.Fold(batch.Writes, numbers)); err != nil {
		return nil, false, err
	}
	batchID := tx.StmtContext(ctx, w.batchID) //nolint:sqlclosecheck // closed with the transaction
	if _, err = batchID.ExecContext(ctx, sqlstore.Node, batch.ID[:]); err != nil {
		return nil, false, err //nolint:wrapcheck // wrapped by Commit
	}
	if err = tx.Commit(); err != nil {
		return nil, true, err //nolint:wrapcheck // wrapped by Commit
	}
	return numbers.Seqs, false, nil
}

// numbers takes the seqs of the batch from the apps' heads.
func (w *writer) numbers(ctx context.Context, tx *sql.Tx, writes []broker.Write) (sqlstore.Numbers, error) {
	head := tx.StmtContext(ctx, w.head)
	return sqlstore.Number(writes, func(wanted sqlstore.Heads) (map[broker.AppUID]uint64, error) {
		heads := map[broker.AppUID]uint64{}
		for i, app := range wanted.Apps {
			var last uint64
			err := head.QueryRowContext(ctx, wanted.By[i], app).Scan(&last)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return nil, err //nolint:wrapcheck // wrapped by Commit
			}
			heads[app] = last
		}
		return heads, nil
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
	return execRows(ctx, tx, w.pending, pendingColumns, pending)
}

// change writes what the session changes of the batch come to.
func (w *writer) change(ctx context.Context, tx *sql.Tx, c *sqlstore.Changes) error {
	var dropped, emptied, unsubscribed, sessions, subscriptions, settled []any
	for _, k := range c.Dropped {
		dropped = append(dropped, int64(k.App), k.ClientID)
	}
	for _, k := range c.Emptied {
		emptied = append(emptied, int64(k.App), k.ClientID)
	}
	for _, k := range c.Unsubscribed {
		unsubscribed = append(unsubscribed, int64(k.App), k.ClientID, k.Filter)
	}
	for _, o := range c.Rows {
		r := o.Row
		var ended any
		if !r.EndedAt.IsZero() {
			ended = r.EndedAt.UnixMicro()
		}
		seq, part := sqlstore.Signed(r.Cursor)
		sessions = append(sessions, int64(o.App), o.ClientID, r.Subject, int64(r.Expiry), ended, r.Will, seq, part,
			notNil(r.Window), notNil(r.Inbound), int64(r.NextPacketID), r.FallenOut)
	}
	for _, o := range c.Subscriptions {
		r := &o.Row
		seq, part := sqlstore.Signed(r.Begins)
		subscriptions = append(subscriptions, int64(o.App), o.ClientID, r.Filter, r.FilterID, int64(r.Options), int64(r.ID), seq, part, r.RetainedAfter)
	}
	for _, o := range c.Settled {
		seq, part := sqlstore.Signed(o.Position)
		settled = append(settled, int64(o.App), o.FilterID, seq, part)
	}
	for _, rows := range []struct {
		by      map[int]*sql.Stmt
		columns int
		args    []any
	}{
		{w.dropped, 2, dropped},
		{w.emptied, 2, emptied},
		{w.unsubscribed, 3, unsubscribed},
		{w.sessions, sessionColumns, sessions},
		{w.subscriptions, subscriptionColumns, subscriptions},
		{w.settled, 4, settled},
	} {
		if err := execRows(ctx, tx, rows.by, rows.columns, rows.args); err != nil {
			return err
		}
	}
	return nil
}

func execRows(ctx context.Context, tx *sql.Tx, by map[int]*sql.Stmt, columns int, args []any) error {
	for _, n := range rowSteps {
		if len(args) < n*columns {
			continue
		}
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

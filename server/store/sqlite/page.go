package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// reader holds the prepared statements of the handle that reads the log.
type reader struct {
	db       *sql.DB
	newer    *sql.Stmt
	older    *sql.Stmt
	messages map[int]*sql.Stmt // by positions of one statement
}

// positionSteps are how many messages one statement reads.
var positionSteps = []int{100, 10, 1}

const (
	// pendingOf are the pending rows of one filter behind a position, up to another; of a filter of another app, none.
	pendingOf = `pending AS p WHERE p.filter_id = (SELECT filter_id FROM filters WHERE filter_id = ?1 AND app_uid = ?2)
	AND (p.seq, p.part) > (?3, ?4) AND (p.seq, p.part) <= (?5, ?6)`
	newer = `SELECT p.seq, p.part, 0 FROM ` + pendingOf + ` ORDER BY p.seq, p.part LIMIT ?7`
	older = `SELECT p.seq, p.part, coalesce((SELECT octet_length(m.topic) + octet_length(m.payload) + octet_length(m.properties)
		FROM messages AS m WHERE m.app_uid = ?2 AND m.seq = p.seq AND m.part = p.part), 0) FROM ` + pendingOf + ` ORDER BY p.seq DESC, p.part DESC LIMIT ?7`
)

func newReader(ctx context.Context, db *sql.DB) (*reader, error) {
	r := &reader{db: db, messages: map[int]*sql.Stmt{}}
	var errs []error
	prepare := func(text string) *sql.Stmt {
		stmt, err := db.PrepareContext(ctx, text)
		errs = append(errs, err)
		return stmt
	}
	r.newer, r.older = prepare(newer), prepare(older)
	for _, n := range positionSteps {
		r.messages[n] = prepare(`WITH at (s, p) AS (VALUES ` + values(2, n) + `) SELECT ` + sqlstore.MessageColumns +
			` FROM at CROSS JOIN messages WHERE app_uid = ? AND seq = at.s AND part = at.p`)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	return r, nil
}

// within runs do on one state of the database.
func (r *reader) within(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err //nolint:wrapcheck // wrapped by the caller
	}
	defer tx.Rollback() //nolint:errcheck // it has only read
	return do(tx)
}

// waiting is a pending message and the filters that it is pending for.
type waiting struct {
	sqlstore.Sized
	filters []int64
}

// Page implements broker.Store: of each filter as much as may come on the page, merged.
func (s *Store) Page(ctx context.Context, app broker.AppUID, from []broker.FilterFrom, limit int) (page []broker.PageEntry, err error) {
	if len(from) == 0 || limit <= 0 {
		return nil, nil
	}
	err = s.reader.within(ctx, func(tx *sql.Tx) error {
		found, err := s.reader.merge(ctx, tx, app, from, sqlstore.Newest, limit, false)
		if err != nil {
			return err
		}
		positions := make([]message.Position, len(found))
		for i := range found {
			positions[i] = found[i].Position
		}
		messages, err := s.reader.read(ctx, tx, app, positions)
		if err != nil {
			return err
		}
		i := 0
		for _, m := range messages {
			for found[i].Position != m.Position {
				i++
			}
			page = append(page, broker.PageEntry{Message: m, Filters: found[i].filters})
		}
		return nil
	})
	return page, s.Fail("page", err)
}

// Messages implements broker.Store.
func (s *Store) Messages(ctx context.Context, app broker.AppUID, positions []message.Position) (found []*message.Message, err error) {
	positions = slices.Compact(slices.SortedFunc(slices.Values(positions), message.Position.Compare))
	err = s.reader.within(ctx, func(tx *sql.Tx) error {
		found, err = s.reader.read(ctx, tx, app, positions)
		return err
	})
	return found, s.Fail("messages", err)
}

// Backlog implements broker.Store.
func (s *Store) Backlog(ctx context.Context, app broker.AppUID, from []broker.FilterFrom, keepMessages int, keepBytes int64) (b broker.Backlog, err error) {
	if len(from) == 0 {
		return broker.Backlog{}, nil
	}
	err = s.reader.within(ctx, func(tx *sql.Tx) error {
		b, err = sqlstore.MeasureBacklog(keepMessages, keepBytes, func(upTo message.Position, n int) ([]sqlstore.Sized, error) {
			found, err := s.reader.merge(ctx, tx, app, from, upTo, n, true)
			sized := make([]sqlstore.Sized, len(found))
			for i := range found {
				sized[i] = found[i].Sized
			}
			return sized, err
		}, func(upTo message.Position) (int, error) {
			return s.reader.count(ctx, tx, app, from, upTo)
		})
		return err
	})
	return b, s.Fail("backlog", err)
}

// merge returns the first limit pending messages of the filters up to a position: the oldest, in order, or the newest,
// newest first and with their sizes. What the filters before have filled the page with bounds what is read of the next.
func (r *reader) merge(ctx context.Context, tx *sql.Tx, app broker.AppUID, from []broker.FilterFrom, upTo message.Position, limit int, newest bool) ([]waiting, error) {
	query, compare := r.newer, message.Position.Compare
	if newest {
		query = r.older
		compare = func(p, q message.Position) int { return q.Compare(p) }
	}
	stmt := tx.StmtContext(ctx, query)
	from = slices.SortedFunc(slices.Values(from), func(x, y broker.FilterFrom) int { return cmp.Compare(x.ID, y.ID) })
	var page []waiting
	for _, f := range from {
		after, last := f.After, upTo
		if len(page) == limit {
			// The last of the page may be pending for this filter too.
			if end := page[limit-1].Position; !newest {
				last = end
			} else if end = sqlstore.Previous(end); end.Compare(after) > 0 {
				after = end
			}
		}
		rows, err := pending(ctx, stmt, app, f.ID, after, last, limit)
		if err != nil {
			return nil, err
		}
		page = merged(page, rows, f.ID, limit, compare)
	}
	return page, nil
}

func pending(ctx context.Context, stmt *sql.Stmt, app broker.AppUID, filter int64, after, upTo message.Position, limit int) (all []sqlstore.Sized, err error) {
	seq, part := sqlstore.Signed(after)
	upToSeq, upToPart := sqlstore.Signed(upTo)
	rows, err := stmt.QueryContext(ctx, filter, int64(app), seq, part, upToSeq, upToPart, limit)
	if err != nil {
		return nil, err //nolint:wrapcheck // wrapped by the caller
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var m sqlstore.Sized
		if err := rows.Scan(&m.Position.Seq, &m.Position.Part, &m.Bytes); err != nil {
			return nil, err //nolint:wrapcheck // wrapped by the caller
		}
		all = append(all, m)
	}
	return all, rows.Err() //nolint:wrapcheck // wrapped by the caller
}

// merged merges the pending rows of one more filter into a page of at most limit messages.
func merged(page []waiting, rows []sqlstore.Sized, filter int64, limit int, compare func(p, q message.Position) int) []waiting {
	if len(page) == 0 {
		page = make([]waiting, len(rows))
		for i := range rows {
			page[i] = waiting{rows[i], []int64{filter}}
		}
		return page
	}
	all := make([]waiting, 0, min(limit, len(page)+len(rows)))
	for len(all) < limit && len(page)+len(rows) > 0 {
		order := -1
		switch {
		case len(page) == 0:
			order = 1
		case len(rows) > 0:
			order = compare(page[0].Position, rows[0].Position)
		}
		if order > 0 {
			all = append(all, waiting{rows[0], []int64{filter}})
		} else {
			all, page = append(all, page[0]), page[1:]
		}
		if order == 0 {
			last := &all[len(all)-1]
			last.filters = append(last.filters, filter)
		}
		if order >= 0 {
			rows = rows[1:]
		}
	}
	return all
}

// read reads the messages at the given positions, which are in order: CROSS JOIN goes through them as they stand.
func (r *reader) read(ctx context.Context, tx *sql.Tx, app broker.AppUID, positions []message.Position) (all []*message.Message, err error) {
	for _, n := range positionSteps {
		stmt := tx.StmtContext(ctx, r.messages[n])
		for len(positions) >= n {
			if all, err = readSome(ctx, stmt, app, positions[:n], all); err != nil {
				return nil, err
			}
			positions = positions[n:]
		}
	}
	return all, nil
}

func readSome(ctx context.Context, stmt *sql.Stmt, app broker.AppUID, positions []message.Position, all []*message.Message) ([]*message.Message, error) {
	args := make([]any, 0, 2*len(positions)+1)
	for _, p := range positions {
		seq, part := sqlstore.Signed(p)
		args = append(args, seq, part)
	}
	rows, err := stmt.QueryContext(ctx, append(args, int64(app))...)
	if err != nil {
		return nil, err //nolint:wrapcheck // wrapped by the caller
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		m, err := sqlstore.ScanMessage(rows)
		if err != nil {
			return nil, err //nolint:wrapcheck // wrapped by the caller
		}
		all = append(all, m)
	}
	return all, rows.Err() //nolint:wrapcheck // wrapped by the caller
}

// countStep is how many filters one statement of count names (chosen, below SQLite's 32,766 parameters).
const countStep = 8_000

// count counts the messages that are pending for the filters, each once, up to a position.
func (r *reader) count(ctx context.Context, tx *sql.Tx, app broker.AppUID, from []broker.FilterFrom, upTo message.Position) (n int, err error) {
	from = from[:min(len(from), countStep)]
	args := make([]any, 0, 3*len(from)+3)
	for _, f := range from {
		seq, part := sqlstore.Signed(f.After)
		args = append(args, f.ID, seq, part)
	}
	distinct := "DISTINCT "
	if len(from) == 1 {
		distinct = "" // they are, and need not be sorted
	}
	seq, part := sqlstore.Signed(upTo)
	err = tx.QueryRowContext(ctx, `WITH w (id, s, p) AS (VALUES `+values(3, len(from))+`)
		SELECT count(*) FROM (SELECT `+distinct+`p.seq, p.part FROM w CROSS JOIN filters AS f CROSS JOIN pending AS p
		WHERE f.filter_id = w.id AND f.app_uid = ? AND p.filter_id = f.filter_id AND (p.seq, p.part) > (w.s, w.p) AND (p.seq, p.part) <= (?, ?))`,
		append(args, int64(app), seq, part)...).Scan(&n)
	return n, err //nolint:wrapcheck // wrapped by the caller
}

package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// Of each filter no more than a page is read, in the order of pending's primary key (see readPlans), and of the log no
// more than what comes on the page.
const (
	// pendingOf are the pending rows of the filter w.id behind its position; of a filter of another app, none.
	pendingOf = `pending AS p WHERE p.filter_id = (SELECT f.filter_id FROM filters AS f WHERE f.filter_id = w.id AND f.app_uid = $1)
		AND (p.seq, p.part) > (w.seq, w.part)`
	// pendingNewer are the first $5 messages behind the filters' positions, with the filters that they are pending for.
	pendingNewer = `SELECT q.seq, q.part, array_agg(q.filter_id ORDER BY q.filter_id) AS ids
		FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS w (id, seq, part)
		CROSS JOIN LATERAL (SELECT p.filter_id, p.seq, p.part FROM ` + pendingOf + ` ORDER BY p.seq, p.part LIMIT $5) AS q
		GROUP BY q.seq, q.part ORDER BY q.seq, q.part LIMIT $5`
	// pendingOlder are the last $7 up to the position ($5, $6), newest first.
	pendingOlder = `SELECT DISTINCT q.seq, q.part
		FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS w (id, seq, part)
		CROSS JOIN LATERAL (SELECT p.seq, p.part FROM ` + pendingOf + ` AND (p.seq, p.part) <= ($5, $6)
			ORDER BY p.seq DESC, p.part DESC LIMIT $7) AS q
		ORDER BY q.seq DESC, q.part DESC LIMIT $7`
	page = `SELECT m.*, q.ids FROM (` + pendingNewer + `) AS q
		CROSS JOIN LATERAL (SELECT ` + sqlstore.MessageColumns + ` FROM messages AS m
			WHERE m.app_uid = $1 AND m.seq = q.seq AND m.part = q.part LIMIT 1) AS m
		ORDER BY q.seq, q.part`
	sizes = `SELECT q.seq, q.part, coalesce(m.size, 0) FROM (` + pendingOlder + `) AS q
		LEFT JOIN LATERAL (SELECT octet_length(m.topic)::bigint + octet_length(m.payload) + octet_length(m.properties) AS size
			FROM messages AS m WHERE m.app_uid = $1 AND m.seq = q.seq AND m.part = q.part LIMIT 1) AS m ON true
		ORDER BY q.seq DESC, q.part DESC`
	count = `SELECT count(*) FROM (SELECT DISTINCT q.seq, q.part
		FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) AS w (id, seq, part)
		CROSS JOIN LATERAL (SELECT p.seq, p.part FROM ` + pendingOf + ` AND (p.seq, p.part) <= ($5, $6) OFFSET 0) AS q) AS q`
)

// Page implements broker.Store.
func (s *Store) Page(ctx context.Context, app broker.AppUID, from []broker.FilterFrom, limit int) ([]broker.PageEntry, error) {
	if len(from) == 0 || limit <= 0 {
		return nil, nil
	}
	ids, seqs, parts := columns(from)
	rows, err := s.pool.Query(ctx, page, int64(app), ids, seqs, parts, limit)
	if err != nil {
		return nil, s.Fail("page", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e broker.PageEntry, err error) {
		e.Message, err = scanMessage(row, &e.Filters)
		return e, err
	})
	return entries, s.Fail("page", err)
}

func columns(from []broker.FilterFrom) (ids, seqs, parts []int64) {
	for _, f := range from {
		seq, part := sqlstore.Signed(f.After)
		ids, seqs, parts = append(ids, f.ID), append(seqs, seq), append(parts, part)
	}
	return ids, seqs, parts
}

func scanMessage(row pgx.Row, more ...any) (*message.Message, error) {
	m := &message.Message{}
	var seq, part, qos, arrived int64
	var expires *int64
	into := []any{&seq, &part, &m.Topic, &m.Payload, &m.Properties, &qos, &m.Retain, &m.Publisher, &arrived, &expires}
	if err := row.Scan(append(into, more...)...); err != nil {
		return nil, err //nolint:wrapcheck // wrapped by the caller
	}
	m.Position, m.QoS, m.Arrived = message.Position{Seq: uint64(seq), Part: uint32(part)}, byte(qos), sqlstore.Time(arrived) //nolint:gosec // as they were written
	if expires != nil {
		m.Expires = sqlstore.Time(*expires)
	}
	return m, nil
}

// Messages implements broker.Store.
func (s *Store) Messages(ctx context.Context, app broker.AppUID, positions []message.Position) ([]*message.Message, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	var seqs, parts []int64
	for _, p := range slices.Compact(slices.SortedFunc(slices.Values(positions), message.Position.Compare)) {
		seq, part := sqlstore.Signed(p)
		seqs, parts = append(seqs, seq), append(parts, part)
	}
	rows, err := s.pool.Query(ctx, `SELECT m.* FROM unnest($2::bigint[], $3::bigint[]) AS q (seq, part)
		CROSS JOIN LATERAL (SELECT `+sqlstore.MessageColumns+` FROM messages AS m
			WHERE m.app_uid = $1 AND m.seq = q.seq AND m.part = q.part LIMIT 1) AS m
		ORDER BY m.seq, m.part`, int64(app), seqs, parts)
	if err != nil {
		return nil, s.Fail("messages", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*message.Message, error) { return scanMessage(row) })
	return found, s.Fail("messages", err)
}

// Backlog implements broker.Store. Between its rounds what is newer may come, and what is older may be settled; neither
// changes what was read.
func (s *Store) Backlog(ctx context.Context, app broker.AppUID, from []broker.FilterFrom, keepMessages int, keepBytes int64) (broker.Backlog, error) {
	if len(from) == 0 {
		return broker.Backlog{}, nil
	}
	ids, seqs, parts := columns(from)
	b, err := sqlstore.MeasureBacklog(keepMessages, keepBytes, func(upTo message.Position, n int) ([]sqlstore.Sized, error) {
		seq, part := sqlstore.Signed(upTo)
		rows, err := s.pool.Query(ctx, sizes, int64(app), ids, seqs, parts, seq, part, n)
		if err != nil {
			return nil, err //nolint:wrapcheck // wrapped below
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (m sqlstore.Sized, err error) {
			var seq, part int64
			err = row.Scan(&seq, &part, &m.Bytes)
			m.Position = message.Position{Seq: uint64(seq), Part: uint32(part)} //nolint:gosec // as they were written
			return m, err                                                       //nolint:wrapcheck // wrapped below
		})
	}, func(upTo message.Position) (n int, err error) {
		seq, part := sqlstore.Signed(upTo)
		text := count
		if len(from) == 1 {
			text = strings.Replace(count, "DISTINCT ", "", 1) // they are
		}
		err = s.pool.QueryRow(ctx, text, int64(app), ids, seqs, parts, seq, part).Scan(&n)
		return n, err //nolint:wrapcheck // wrapped below
	})
	return b, s.Fail("backlog", err)
}

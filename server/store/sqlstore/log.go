package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Node is the name under which this node writes its batches, until there are several.
const Node = "1"

// Head implements broker.Store.
func (s *Store) Head(ctx context.Context, app broker.AppUID) (seq uint64, epoch string, err error) {
	row := s.Read.QueryRowContext(ctx, s.sql(`SELECT seq, epoch FROM app_head WHERE app_uid = ?`), app)
	if err = row.Scan(&seq, &epoch); errors.Is(err, sql.ErrNoRows) {
		return 0, "", broker.ErrNoSuchApp
	}
	return seq, epoch, s.fail("head", err)
}

// Committed implements broker.Store.
func (s *Store) Committed(ctx context.Context, id [16]byte) (bool, error) {
	var last []byte
	err := s.Write.QueryRowContext(ctx, s.sql(`SELECT batch_id FROM node_batch WHERE node = ?`), Node).Scan(&last)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return string(last) == string(id[:]), s.fail("last batch", err)
}

// MessageColumns are what ScanMessage reads.
const MessageColumns = `seq, part, topic, payload, properties, qos, retain, publisher, arrived_at, expires_at`

// ScanMessage reads a message, and what the query selects more.
func ScanMessage(rows interface{ Scan(...any) error }, more ...any) (*message.Message, error) {
	m := &message.Message{}
	var arrived int64
	var expires sql.NullInt64
	into := []any{&m.Position.Seq, &m.Position.Part, &m.Topic, &m.Payload, &m.Properties, &m.QoS, &m.Retain, &m.Publisher, &arrived, &expires}
	if err := rows.Scan(append(into, more...)...); err != nil {
		return nil, err //nolint:wrapcheck // wrapped by the caller
	}
	m.Arrived, m.Expires = Time(arrived), NullTime(expires)
	return m, nil
}

// Retained implements broker.Store. It reads the log once, in order, and keeps no more than the live topics.
func (s *Store) Retained(ctx context.Context, app broker.AppUID, yield func(*message.Message) error) error {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT `+MessageColumns+` FROM messages WHERE app_uid = ? ORDER BY seq, part`), app)
	if err != nil {
		return s.fail("retained", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	live := map[string]*message.Message{}
	for rows.Next() {
		m, err := ScanMessage(rows)
		if err != nil {
			return s.fail("retained", err)
		}
		switch {
		case m.Clears():
			delete(live, m.Topic)
		case m.Retain:
			live[m.Topic] = m
		}
	}
	if err := rows.Err(); err != nil {
		return s.fail("retained", err)
	}
	ordered := make([]*message.Message, 0, len(live))
	for _, m := range live {
		ordered = append(ordered, m)
	}
	slices.SortFunc(ordered, func(x, y *message.Message) int { return x.Position.Compare(y.Position) })
	for _, m := range ordered {
		if err := yield(m); err != nil {
			return err
		}
	}
	return nil
}

// Settle implements broker.Store.
func (s *Store) Settle(ctx context.Context, app broker.AppUID, filterID int64, upTo message.Position) (n int64, err error) {
	err = s.tx(ctx, "settle", func(ctx context.Context, tx *sql.Tx) error {
		seq, part := Signed(upTo)
		r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM pending WHERE filter_id = (SELECT filter_id FROM filters WHERE filter_id = ? AND app_uid = ?)
			AND (seq, part) <= (?, ?)`), filterID, app, seq, part)
		if err != nil {
			return err //nolint:wrapcheck // wrapped by tx
		}
		n, err = r.RowsAffected()
		return err //nolint:wrapcheck // wrapped by tx
	})
	return n, err
}

// Compact implements broker.Store. It reads one step of the log, asks what is still needed, and deletes the rest.
func (s *Store) Compact(ctx context.Context, app broker.AppUID, c broker.Compaction) (looked message.Position, deleted int, err error) {
	looked, doomed, err := s.doomed(ctx, app, c)
	if err != nil || len(doomed) == 0 {
		return looked, 0, err
	}
	err = s.tx(ctx, "compact", func(ctx context.Context, tx *sql.Tx) error {
		for _, p := range doomed {
			// No answer of doomed's can have changed: what is no longer live, or not pending when it is written, stays so.
			r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM messages WHERE app_uid = ? AND seq = ? AND part = ?`), app, p.Seq, p.Part)
			if err != nil {
				return err //nolint:wrapcheck // wrapped by tx
			}
			n, err := r.RowsAffected()
			if err != nil {
				return err //nolint:wrapcheck // wrapped by tx
			}
			deleted += int(n)
		}
		return nil
	})
	return looked, deleted, err
}

// doomed reads at most c.Limit entries and returns how far it looked and which of them can go.
func (s *Store) doomed(ctx context.Context, app broker.AppUID, c broker.Compaction) (looked message.Position, gone []message.Position, err error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT m.seq, m.part, m.topic, m.retain, length(m.payload), m.arrived_at,
		EXISTS (SELECT 1 FROM filters AS f JOIN pending AS p ON p.filter_id = f.filter_id AND p.seq = m.seq AND p.part = m.part WHERE f.app_uid = m.app_uid)
		FROM messages AS m WHERE m.app_uid = ? AND (m.seq > ? OR m.seq = ? AND m.part > ?) AND (m.seq < ? OR m.seq = ? AND m.part <= ?)
		ORDER BY m.seq, m.part LIMIT ?`), app, c.After.Seq, c.After.Seq, c.After.Part, c.UpTo.Seq, c.UpTo.Seq, c.UpTo.Part, c.Limit)
	if err != nil {
		return c.After, nil, s.fail("compact", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	read := 0
	for rows.Next() {
		var p message.Position
		var topic string
		var retain, pending bool
		var size, arrived int64
		if err := rows.Scan(&p.Seq, &p.Part, &topic, &retain, &size, &arrived, &pending); err != nil {
			return c.After, nil, s.fail("compact", err)
		}
		read++
		looked = p
		live, clears := retain && size > 0 && c.Live(topic, p), retain && size == 0
		switch {
		case live:
		case pending || !Time(arrived).Before(c.KeepSince) || c.Held(p):
			if retain && !clears {
				c.Remains(topic)
			}
		case clears && !c.ClearMayGo(topic):
		default:
			gone = append(gone, p)
		}
	}
	if err := rows.Err(); err != nil {
		return c.After, nil, s.fail("compact", err)
	}
	if read < c.Limit {
		looked = c.UpTo
	}
	return looked, gone, nil
}

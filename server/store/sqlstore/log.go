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

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/embercast/embercast/realtime/broker"
)

// FilterIDs implements broker.Store.
func (s *Store) FilterIDs(ctx context.Context, app broker.AppUID, filters []string) (ids []int64, err error) {
	err = s.tx(ctx, "filters", func(ctx context.Context, tx *sql.Tx) error {
		ids = make([]int64, len(filters))
		for i, f := range filters {
			find := func() error {
				row := tx.QueryRowContext(ctx, s.sql(`SELECT filter_id FROM filters WHERE app_uid = ? AND filter = ?`), app, f)
				return row.Scan(&ids[i]) //nolint:wrapcheck // wrapped by tx
			}
			if err := find(); !errors.Is(err, sql.ErrNoRows) {
				if err != nil {
					return err
				}
				continue
			}
			if err := s.exec(ctx, tx, `INSERT INTO filters (app_uid, filter) VALUES (?, ?) ON CONFLICT (app_uid, filter) DO NOTHING`, app, f); err != nil {
				return err
			}
			if err := find(); err != nil {
				return err
			}
		}
		return nil
	})
	return ids, err
}

// Filters implements broker.Store.
func (s *Store) Filters(ctx context.Context, app broker.AppUID) (map[int64]string, error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT filter_id, filter FROM filters WHERE app_uid = ?`), app)
	if err != nil {
		return nil, s.fail("filters", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	all := map[int64]string{}
	for rows.Next() {
		var id int64
		var filter string
		if err := rows.Scan(&id, &filter); err != nil {
			return nil, s.fail("filters", err)
		}
		all[id] = filter
	}
	return all, s.fail("filters", rows.Err())
}

// DropFilter implements broker.Store.
func (s *Store) DropFilter(ctx context.Context, app broker.AppUID, filterID int64) error {
	return s.tx(ctx, "drop filter", func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM filters WHERE app_uid = ? AND filter_id = ?
			AND NOT EXISTS (SELECT 1 FROM subscriptions WHERE subscriptions.filter_id = filters.filter_id)`), app, filterID)
		if err := oneRow(r, err); err != nil {
			return err
		}
		if err := s.exec(ctx, tx, `DELETE FROM shared WHERE filter_id = ?`, filterID); err != nil {
			return err
		}
		return s.exec(ctx, tx, `DELETE FROM pending WHERE filter_id = ?`, filterID)
	})
}

// Sessions implements broker.Store.
func (s *Store) Sessions(ctx context.Context, app broker.AppUID, yield func(broker.StoredSession) error) error {
	subs, err := s.subscriptions(ctx, app)
	if err != nil {
		return err
	}
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT client_id, subject, expiry, ended_at, will, cursor_seq, cursor_part,
		"window", inbound, next_packet_id, fallen_out FROM sessions WHERE app_uid = ? ORDER BY client_id`), app)
	if err != nil {
		return s.fail("sessions", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var all []broker.StoredSession
	for rows.Next() {
		var r broker.SessionRow
		var expiry int64
		var ended sql.NullInt64
		if err := rows.Scan(&r.ClientID, &r.Subject, &expiry, &ended, &r.Will, &r.Cursor.Seq, &r.Cursor.Part,
			&r.Window, &r.Inbound, &r.NextPacketID, &r.FallenOut); err != nil {
			return s.fail("sessions", err)
		}
		r.Expiry, r.EndedAt = time.Duration(expiry), NullTime(ended)
		all = append(all, broker.StoredSession{Row: r, Subscriptions: subs[r.ClientID]})
	}
	if err := rows.Err(); err != nil {
		return s.fail("sessions", err)
	}
	for _, one := range all {
		if err := yield(one); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) subscriptions(ctx context.Context, app broker.AppUID) (map[string][]broker.SubscriptionRow, error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT client_id, filter, filter_id, options, subscription_id, begins_seq,
		begins_part, retained_after FROM subscriptions WHERE app_uid = ? ORDER BY client_id, filter`), app)
	if err != nil {
		return nil, s.fail("subscriptions", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	all := map[string][]broker.SubscriptionRow{}
	for rows.Next() {
		var client string
		var r broker.SubscriptionRow
		if err := rows.Scan(&client, &r.Filter, &r.FilterID, &r.Options, &r.ID, &r.Begins.Seq, &r.Begins.Part, &r.RetainedAfter); err != nil {
			return nil, s.fail("subscriptions", err)
		}
		all[client] = append(all[client], r)
	}
	return all, s.fail("subscriptions", rows.Err())
}

// Statement is one statement of a batch.
type Statement struct {
	Text string
	Args []any
}

// SessionStatements are what a session change writes, in order, for the dialects' Commit.
func (s *Store) SessionStatements(c broker.SessionChange) []Statement {
	id := c.State.ClientID
	if c.Delete {
		return []Statement{
			{s.sql(`DELETE FROM subscriptions WHERE app_uid = ? AND client_id = ?`), []any{int64(c.App), id}},
			{s.sql(`DELETE FROM sessions WHERE app_uid = ? AND client_id = ?`), []any{int64(c.App), id}},
		}
	}
	r := &c.State
	all := []Statement{{s.sql(`INSERT INTO sessions (app_uid, client_id, subject, expiry, ended_at, will, cursor_seq, cursor_part,
		"window", inbound, next_packet_id, fallen_out) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (app_uid, client_id) DO UPDATE SET subject = excluded.subject, expiry = excluded.expiry,
		ended_at = excluded.ended_at, will = excluded.will, cursor_seq = excluded.cursor_seq, cursor_part = excluded.cursor_part,
		"window" = excluded."window", inbound = excluded.inbound, next_packet_id = excluded.next_packet_id,
		fallen_out = excluded.fallen_out`), []any{
		int64(c.App), id, r.Subject, int64(r.Expiry), nullMicros(r.EndedAt), r.Will, int64(r.Cursor.Seq), int64(r.Cursor.Part), //nolint:gosec // a seq fits
		blob(r.Window), blob(r.Inbound), int64(r.NextPacketID), r.FallenOut,
	}}}
	for _, f := range c.Unsubscribe {
		all = append(all, Statement{s.sql(`DELETE FROM subscriptions WHERE app_uid = ? AND client_id = ? AND filter = ?`), []any{int64(c.App), id, f}})
	}
	for _, u := range c.Subscribe {
		all = append(all, Statement{s.sql(`INSERT INTO subscriptions (app_uid, client_id, filter, filter_id, options, subscription_id,
			begins_seq, begins_part, retained_after) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (app_uid, client_id, filter) DO UPDATE SET filter_id = excluded.filter_id, options = excluded.options,
			subscription_id = excluded.subscription_id, begins_seq = excluded.begins_seq, begins_part = excluded.begins_part,
			retained_after = excluded.retained_after`), []any{
			int64(c.App), id, u.Filter, u.FilterID, int64(u.Options), int64(u.ID), int64(u.Begins.Seq), int64(u.Begins.Part), u.RetainedAfter, //nolint:gosec // a seq fits
		}})
	}
	return all
}

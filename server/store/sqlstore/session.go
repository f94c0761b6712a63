package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/broker"
)

// filterStep is how many filters one statement names (chosen).
const filterStep = 200

// FilterIDs implements broker.Store. Mostly all are there, and then nothing is written. Those that are missing are made
// in a transaction that holds the app's head, so that none is made for an app that is being deleted.
func (s *Store) FilterIDs(ctx context.Context, app broker.AppUID, filters []string) ([]int64, error) {
	distinct := slices.Compact(slices.Sorted(slices.Values(filters)))
	known := map[string]int64{}
	if _, _, err := s.Head(ctx, app); err != nil {
		return nil, err
	}
	if err := s.findFilters(ctx, s.Read, app, distinct, known); err != nil {
		return nil, s.fail("filters", err)
	}
	missing := slices.DeleteFunc(distinct, func(f string) bool { _, there := known[f]; return there })
	if len(missing) > 0 {
		err := s.tx(ctx, "filters", func(ctx context.Context, tx *sql.Tx) error {
			if err := s.holdApp(ctx, tx, app); err != nil {
				return err
			}
			for some := range slices.Chunk(missing, filterStep) {
				args := make([]any, 0, 2*len(some))
				for _, f := range some {
					args = append(args, int64(app), f)
				}
				if err := s.exec(ctx, tx, `INSERT INTO filters (app_uid, filter) VALUES (?, ?)`+strings.Repeat(", (?, ?)", len(some)-1)+
					` ON CONFLICT (app_uid, filter) DO NOTHING`, args...); err != nil {
					return err
				}
			}
			return s.findFilters(ctx, tx, app, missing, known)
		})
		if err != nil {
			return nil, err
		}
	}
	ids := make([]int64, len(filters))
	for i, f := range filters {
		ids[i] = known[f]
	}
	return ids, nil
}

// holdApp keeps an app from being deleted until tx ends; commits of its batches go on.
func (s *Store) holdApp(ctx context.Context, tx *sql.Tx, app broker.AppUID) error {
	text := `SELECT 1 FROM app_head WHERE app_uid = ?`
	if s.Dollar {
		text += ` FOR KEY SHARE`
	}
	var one int
	err := tx.QueryRowContext(ctx, s.sql(text), app).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return broker.ErrNoSuchApp
	}
	return err //nolint:wrapcheck // wrapped by tx
}

// findFilters adds those filters that are there to known.
func (s *Store) findFilters(ctx context.Context, db querier, app broker.AppUID, filters []string, known map[string]int64) error {
	for some := range slices.Chunk(filters, filterStep) {
		args := []any{int64(app)}
		for _, f := range some {
			args = append(args, f)
		}
		if err := s.scanFilters(ctx, db, known, `SELECT filter_id, filter FROM filters WHERE app_uid = ? AND filter IN (?`+
			strings.Repeat(", ?", len(some)-1)+`)`, args...); err != nil {
			return err
		}
	}
	return nil
}

type querier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

func (s *Store) scanFilters(ctx context.Context, db querier, known map[string]int64, text string, args ...any) error {
	rows, err := db.QueryContext(ctx, s.sql(text), args...)
	if err != nil {
		return err //nolint:wrapcheck // wrapped by FilterIDs
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var id int64
		var filter string
		if err := rows.Scan(&id, &filter); err != nil {
			return err //nolint:wrapcheck // wrapped by FilterIDs
		}
		known[filter] = id
	}
	return rows.Err() //nolint:wrapcheck // wrapped by FilterIDs
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

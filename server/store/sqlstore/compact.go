package sqlstore

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// deleteStep is how many entries of the log one statement deletes (chosen).
const deleteStep = 200

// entry is what the compactor looks at of a message.
type entry struct {
	at                          message.Position
	topic                       string
	retain, clears, live, young bool
}

// Compact implements broker.Store. It reads one step of the log, asks what is still needed, and deletes the rest.
func (s *Store) Compact(ctx context.Context, app broker.AppUID, c broker.Compaction) (looked message.Position, deleted int, err error) {
	looked, doomed, err := s.doomed(ctx, app, c)
	if err != nil || len(doomed) == 0 {
		return looked, 0, err
	}
	rows := "(VALUES (?, ?)"
	if s.Dollar {
		rows = "((?, ?)"
	}
	err = s.tx(ctx, "compact", func(ctx context.Context, tx *sql.Tx) error {
		// No answer of doomed's can have changed: what is no longer live, or not pending when it is written, stays so.
		for some := range slices.Chunk(doomed, deleteStep) {
			args := []any{int64(app)}
			for _, p := range some {
				seq, part := Signed(p)
				args = append(args, seq, part)
			}
			r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM messages WHERE app_uid = ? AND (seq, part) IN `+rows+
				strings.Repeat(", (?, ?)", len(some)-1)+`)`), args...)
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
	step, err := s.step(ctx, app, c)
	if err != nil {
		return c.After, nil, s.fail("compact", err)
	}
	pending := map[message.Position]struct{}{}
	if slices.ContainsFunc(step, func(e entry) bool { return !e.live && !e.young }) {
		if pending, err = s.pendingWithin(ctx, app, c.After, step[len(step)-1].at); err != nil {
			return c.After, nil, s.fail("compact", err)
		}
	}
	for _, e := range step {
		looked = e.at
		_, waits := pending[e.at]
		switch {
		case e.live:
		// Held is asked last: what a session takes into its window was pending until then.
		case e.young || waits || c.Held(e.at):
			if e.retain && !e.clears {
				c.Remains(e.topic)
			}
		case e.clears && !c.ClearMayGo(e.topic):
		default:
			gone = append(gone, e.at)
		}
	}
	if len(step) < c.Limit {
		looked = c.UpTo
	}
	return looked, gone, nil
}

// step reads at most c.Limit entries.
func (s *Store) step(ctx context.Context, app broker.AppUID, c broker.Compaction) (step []entry, err error) {
	afterSeq, afterPart := Signed(c.After)
	upToSeq, upToPart := Signed(c.UpTo)
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT seq, part, topic, retain, length(payload), arrived_at FROM messages
		WHERE app_uid = ? AND (seq, part) > (?, ?) AND (seq, part) <= (?, ?) ORDER BY seq, part LIMIT ?`),
		app, afterSeq, afterPart, upToSeq, upToPart, c.Limit)
	if err != nil {
		return nil, err //nolint:wrapcheck // wrapped by doomed
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var e entry
		var size, arrived int64
		if err := rows.Scan(&e.at.Seq, &e.at.Part, &e.topic, &e.retain, &size, &arrived); err != nil {
			return nil, err //nolint:wrapcheck // wrapped by doomed
		}
		e.clears = e.retain && size == 0
		e.live = e.retain && size > 0 && c.Live(e.topic, e.at)
		e.young = !Time(arrived).Before(c.KeepSince)
		step = append(step, e)
	}
	return step, rows.Err() //nolint:wrapcheck // wrapped by doomed
}

// pendingWithin returns the positions behind one and up to another that are pending for any filter of the app. It costs
// a look for each filter, not one for each filter and message. Rows of pending are written with their messages, so that
// none can have come since those were read.
func (s *Store) pendingWithin(ctx context.Context, app broker.AppUID, after, upTo message.Position) (map[message.Position]struct{}, error) {
	afterSeq, afterPart := Signed(after)
	upToSeq, upToPart := Signed(upTo)
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT DISTINCT p.seq, p.part FROM filters AS f CROSS JOIN pending AS p
		WHERE f.app_uid = ? AND p.filter_id = f.filter_id AND (p.seq, p.part) > (?, ?) AND (p.seq, p.part) <= (?, ?)`),
		app, afterSeq, afterPart, upToSeq, upToPart)
	if err != nil {
		return nil, err //nolint:wrapcheck // wrapped by doomed
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	all := map[message.Position]struct{}{}
	for rows.Next() {
		var p message.Position
		if err := rows.Scan(&p.Seq, &p.Part); err != nil {
			return nil, err //nolint:wrapcheck // wrapped by doomed
		}
		all[p] = struct{}{}
	}
	return all, rows.Err() //nolint:wrapcheck // wrapped by doomed
}

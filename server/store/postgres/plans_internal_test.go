package postgres

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store/pgtest"
	"github.com/embercast/embercast/server/store/sqlstore"
)

type queries interface {
	Query(ctx context.Context, text string, args ...any) (pgx.Rows, error)
}

// planOf returns the plan of a statement.
func planOf(t *testing.T, db queries, text string, args ...any) string {
	t.Helper()
	rows, err := db.Query(t.Context(), "EXPLAIN (COSTS OFF) "+text, args...)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

func TestPlans(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{URL: pgtest.URL(t), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	t.Run("of a batch go by keys, even while the tables are empty", func(t *testing.T) {
		require.NoError(t, s.takeTurn(t.Context()))
		defer s.leaveTurn()
		b := &pgx.Batch{}
		key := sqlstore.SessionKey{App: 1, ClientID: "c"}
		queueSessions(b, &sqlstore.Changes{
			Dropped: []sqlstore.SessionKey{key}, Emptied: []sqlstore.SessionKey{key},
			Unsubscribed: []sqlstore.SubscriptionKey{{SessionKey: key, Filter: "f"}},
			Settled:      []sqlstore.SettledOf{{App: 1, PendingRow: broker.PendingRow{FilterID: 1, Position: message.Position{Seq: 1}}}},
		})
		require.Len(t, b.QueuedQueries, 4)
		for _, q := range b.QueuedQueries {
			plan := planOf(t, s.writer, q.SQL, q.Arguments...)
			require.Contains(t, plan, "Index Scan using", plan)
			require.NotContains(t, plan, "Seq Scan", plan)
			require.NotContains(t, plan, "Hash", plan)
		}
	})
	fill := func(text string) {
		_, err := s.pool.Exec(t.Context(), text)
		require.NoError(t, err)
	}
	fill(`INSERT INTO filters (app_uid, filter) SELECT 1, f::text FROM generate_series(1, 3) AS f`)
	fill(`INSERT INTO pending SELECT f, n, 0 FROM generate_series(1, 3) AS f, generate_series(1, 20000) AS n`)
	fill(`INSERT INTO messages SELECT 1, n, 0, 't', '', '', 1, false, '', 0, NULL FROM generate_series(1, 20000) AS n`)
	for _, when := range []string{"before there are statistics", "after"} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			t.Run("of pages are read in the order of the key, nothing of a backlog is sorted: "+when+", "+mode, func(t *testing.T) {
				conn, err := s.pool.Acquire(t.Context())
				require.NoError(t, err)
				defer conn.Release()
				_, err = conn.Exec(t.Context(), `SELECT set_config('plan_cache_mode', $1, false)`, mode)
				require.NoError(t, err)
				for text, args := range map[string]string{
					page:  `1, '{1,2,3}', '{10,10,10}', '{0,0,0}', 100`,
					sizes: `1, '{1,2,3}', '{10,10,10}', '{0,0,0}', 30000, 0, 16000`,
				} {
					_, err := conn.Exec(t.Context(), `PREPARE q AS `+text)
					require.NoError(t, err)
					plan := planOf(t, conn, `EXECUTE q (`+args+`)`)
					_, err = conn.Exec(t.Context(), `DEALLOCATE q`)
					require.NoError(t, err)
					require.Contains(t, plan, "using pending_pkey on pending", plan)
					require.Contains(t, plan, "using messages_pkey on messages", plan)
					_, below, _ := strings.Cut(plan, "Function Scan on w") // what is done for each filter
					require.NotContains(t, below, "Sort", plan)
					require.NotContains(t, plan, "Bitmap Heap Scan", plan)
					require.NotContains(t, plan, "Seq Scan on pending", plan)
					require.NotContains(t, plan, "Seq Scan on messages", plan)
				}
			})
		}
		fill(`ANALYZE`)
	}
}

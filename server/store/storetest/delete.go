package storetest

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// Delete makes an app that has a row in every table of the engine that is in use, deletes it, and looks into the tables
// through db: a row that nothing asks for any more would stay for ever.
func Delete(t *testing.T, s Store, db *sql.DB) {
	app := newApp(t, s, "a")
	ids := filterIDs(t, s, app, "f", "g")
	commit(t, s, broker.Write{
		App: app, Parts: []broker.Part{{Message: msg("x", "p", true), Filters: ids}},
		Sessions: []broker.SessionChange{{App: app, ClientID: "c", Keep: kept("c", ""), Subscribe: here("f", "g")}},
	})
	tables := map[string]string{
		"apps":          `SELECT count(*) FROM apps`,
		"keys":          `SELECT count(*) FROM keys`,
		"rules":         `SELECT count(*) FROM rules`,
		"app_head":      `SELECT count(*) FROM app_head`,
		"messages":      `SELECT count(*) FROM messages`,
		"filters":       `SELECT count(*) FROM filters`,
		"pending":       `SELECT count(*) FROM pending`,
		"sessions":      `SELECT count(*) FROM sessions`,
		"subscriptions": `SELECT count(*) FROM subscriptions`,
	}
	count := func(text string) (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), text).Scan(&n))
		return n
	}
	for table, text := range tables {
		require.NotZero(t, count(text), table)
	}
	require.NoError(t, s.DeleteApp(t.Context(), int64(app), auth.Audit{At: at}))
	for table, text := range tables {
		require.Zero(t, count(text), table)
	}
}

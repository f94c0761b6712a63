package sqlite

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlans(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "embercast.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for name, text := range map[string]string{"a page": newer, "a backlog": older} {
		t.Run("of "+name+" are read in the order of the key, nothing is sorted", func(t *testing.T) {
			t.Parallel()
			plan := planOf(t, s, text, 1, 1, 1, 1, 1, 1, 1)
			require.Contains(t, plan, "SEARCH p USING PRIMARY KEY (filter_id=? AND (seq,part)>(?,?) AND (seq,part)<(?,?))")
			require.NotContains(t, plan, "SCAN")
			require.NotContains(t, plan, "TEMP B-TREE")
		})
	}
}

func planOf(t *testing.T, s *Store, text string, args ...any) (plan string) {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	require.NoError(t, err)
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var id, parent, unused int
		var line string
		require.NoError(t, rows.Scan(&id, &parent, &unused, &line))
		plan += line + "\n"
	}
	require.NoError(t, rows.Err())
	return plan
}

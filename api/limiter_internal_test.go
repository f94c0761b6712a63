package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(func() time.Time { return now })
	second := func(name string, credit time.Duration) debt { return debt{name, time.Second, credit} }
	require.Zero(t, l.take(second("a", 0)))
	require.Equal(t, time.Second, l.take(second("a", 0)))
	require.Zero(t, l.take(second("b", 0)), "each name by itself")
	require.Zero(t, l.take(second("a", time.Second)), "with a second's credit")
	require.Equal(t, time.Second, l.take(second("a", time.Second)))

	// All debts or none.
	require.Equal(t, 2*time.Second, l.take(second("c", 0), second("a", 0)))
	require.Zero(t, l.take(second("c", 0)), "it took nothing on")
	now = now.Add(2 * time.Second)
	require.Zero(t, l.take(second("a", 0)), "what was owed is paid")
}

// TestLimiterIsBounded: names that owe nothing make room, and without room nobody new is let through.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(func() time.Time { return now })
	for i := range limiterEntries {
		require.Zero(t, l.take(debt{fmt.Sprint(i), time.Minute, 0}))
	}
	require.Equal(t, limiterSweep, l.take(debt{"new", time.Second, 0}))
	require.Len(t, l.paid, limiterEntries)
	require.Zero(t, l.take(debt{"7", time.Second, time.Hour}), "who is known goes on")
	now = now.Add(time.Minute)
	require.Zero(t, l.take(debt{"new", time.Second, 0}))
	require.Len(t, l.paid, 2, "those who still owe, and the new one")
}

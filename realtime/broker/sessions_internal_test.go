package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
)

// TestEach_sees_every_session_that_stays has sessions come and go while all are walked through.
func TestEach_sees_every_session_that_stays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 0))
		_, a := many(t, 3*walkStep+random.IntN(walkStep), 0)
		stay := map[*persistentSession]bool{}
		for _, p := range a.sessions {
			stay[p] = false
		}
		made := 0
		a.each(func(p *persistentSession) {
			if _, asked := stay[p]; asked {
				stay[p] = true
			}
			if random.IntN(4) == 0 {
				gone := a.all[random.IntN(len(a.all))]
				a.removeSessionLocked(gone)
				delete(stay, gone)
			}
			if random.IntN(4) == 0 {
				made++
				a.addSessionLocked(&persistentSession{app: a, clientID: fmt.Sprint("new ", made), state: session.New()})
			}
		})
		for p, seen := range stay {
			require.True(t, seen, "seed %d: %s", seed, p.clientID)
		}
		require.Len(t, a.all, len(a.sessions))
		for i, p := range a.all {
			require.Equal(t, i, p.place)
			require.Same(t, p, a.sessions[p.clientID])
		}
	}
}

// TestWindows_hold_what_enters_them_while_the_compactor_runs: the sessions are looked at once a run.
func TestWindows_hold_what_enters_them_while_the_compactor_runs(t *testing.T) {
	t.Parallel()
	_, a := many(t, 3, 1)
	p := a.sessions["client-0000001"]
	c := &Client{app: a, session: p}
	send := func(seq uint64) {
		p.state.Send(session.Entry{QoS: 1, Position: message.Position{Seq: seq}})
		c.Touch()
	}
	send(1)
	w := a.inWindows()
	require.True(t, w.holds(message.Position{Seq: 1}))
	require.False(t, w.holds(message.Position{Seq: 2}))
	send(2)
	send(3)
	require.True(t, w.holds(message.Position{Seq: 2}))
	require.True(t, w.holds(message.Position{Seq: 3}))
	send(4)
	require.True(t, w.holds(message.Position{Seq: 4}), "told more than once in a run")
	require.True(t, a.inWindows().holds(message.Position{Seq: 4}))
}

// TestSettleFilters_names_connected_sessions_whose_cursors_keep_rows that they do not take: nothing else has them saved,
// and nothing behind their cursors could go.
func TestSettleFilters_names_connected_sessions_whose_cursors_keep_rows(t *testing.T) {
	t.Parallel()
	b, a := many(t, 3, 1)
	away, back, idle := a.sessions["client-0000000"], a.sessions["client-0000001"], a.sessions["client-0000002"]
	for _, p := range []*persistentSession{back, idle} {
		p.attach(&Client{app: a, id: p.clientID, out: &sink{}, session: p}, time.Hour, nil)
	}
	for _, f := range a.durable.used() {
		f.last.Store(1)
		f.settled = 2
	}
	for id := int64(1); id <= 2; id++ { // of away and of back
		m := retainedIn("a topic", "p")
		m.Position.Seq = 1_001
		a.durable.committed(&Part{Message: m, Filters: []int64{id}})
	}
	a.head.Store(1_001)
	b.cfg.Store = &settling{Store: b.cfg.Store}
	require.NoError(t, b.settleFilters(t.Context(), a))
	require.True(t, back.lagging.Load())
	require.False(t, idle.lagging.Load(), "nothing waits for it")
	require.False(t, away.lagging.Load(), "its rows are still to be read")

	b.keepSessions(t.Context(), a, time.Now())
	require.False(t, back.lagging.Load())
	require.True(t, back.saving)
	require.False(t, idle.saving)
	require.False(t, away.saving)
}

// settling is a store that settles.
type settling struct{ Store }

func (settling) Settle(context.Context, AppUID, int64, message.Position) (int64, error) {
	return 0, nil
}

// TestLagging_sessions_are_saved_a_few_at_a_time: they are named all at once.
func TestLagging_sessions_are_saved_a_few_at_a_time(t *testing.T) {
	t.Parallel()
	b, a := many(t, 3*laggingMin, 0)
	for _, p := range a.sessions {
		p.attach(&Client{app: a, id: p.clientID, out: &sink{}, session: p}, time.Hour, nil)
		p.lagging.Store(true)
	}
	for round := 1; round <= 3; round++ {
		b.keepSessions(t.Context(), a, time.Now())
		require.Len(t, a.commits.writes, round*laggingMin)
	}
	b.keepSessions(t.Context(), a, time.Now())
	require.Len(t, a.commits.writes, 3*laggingMin)
}

// TestBacklogs_are_looked_at_when_they_may_be_beyond_the_limits and not before.
func TestBacklogs_are_looked_at_when_they_may_be_beyond_the_limits(t *testing.T) {
	t.Parallel()
	b, a := many(t, 2, 1)
	due := func() int {
		d := a.dueBacklogs()
		a.each(d.look)
		require.NoError(t, b.cutBacklogs(t.Context(), a, d))
		return len(d.sessions)
	}
	part := &Part{Message: retainedIn("t", "p"), Filters: []int64{1}}
	part.Message.QoS = 1
	commit := func(n int) {
		for range n {
			a.durable.committed(part)
		}
	}
	require.Equal(t, 2, due(), "after a start")
	require.Zero(t, due())
	commit(1_000)
	require.Zero(t, due(), "as many as may wait")
	commit(1)
	require.Equal(t, 2, due())
	require.Zero(t, due(), "the one was measured, and the other's share estimated")
	limits := *a.limits.Load()
	limits.QueuedMessagesMax = 10
	a.configure(AppConfig{Limits: limits})
	require.Equal(t, 2, due(), "the limits have changed")
}

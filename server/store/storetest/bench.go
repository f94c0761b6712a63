package storetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Benchmark measures what durable sessions ask of a store: how long a backlog is must not tell in a page of it.
func Benchmark(b *testing.B, open func(tb testing.TB) Store) {
	for _, waiting := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("Backlog%d", waiting), func(b *testing.B) {
			s := open(b)
			app, ids := backlog(b, s, waiting)
			from := behind(message.Position{Seq: 10}, ids...)
			b.Run("Page100", func(b *testing.B) {
				for b.Loop() {
					page, err := s.Page(b.Context(), app, from, 100)
					require.NoError(b, err)
					require.Len(b, page, 100)
				}
			})
			b.Run("Keep1000", func(b *testing.B) {
				for b.Loop() {
					_, err := s.Backlog(b.Context(), app, from, 1_000, 1<<40)
					require.NoError(b, err)
				}
			})
			b.Run("KeepAll", func(b *testing.B) {
				for b.Loop() {
					_, err := s.Backlog(b.Context(), app, from, waiting, 1<<40)
					require.NoError(b, err)
				}
			})
			require.NoError(b, s.Close())
		})
	}
	b.Run("Start100000", func(b *testing.B) {
		s := open(b)
		benchmarkSessions(b, s)
		require.NoError(b, s.Close())
	})
	b.Run("Commit1000", func(b *testing.B) {
		s := open(b)
		app := newApp(b, s, "a")
		for name, change := range map[string]broker.SessionChange{
			"rows":          {Keep: &broker.SessionRow{Subject: "u", Window: make([]byte, 40)}},
			"new sessions":  {Delete: true, Keep: &broker.SessionRow{Subject: "u"}},
			"subscriptions": {Subscribe: []broker.SubscriptionRow{{Filter: "a/+/b", FilterID: 1, BeginsHere: true}}},
			"settled":       {Settle: []broker.PendingRow{{FilterID: 1, Position: message.Position{Seq: 1}}}},
		} {
			b.Run(name, func(b *testing.B) {
				var writes []broker.Write
				for i := range 1_000 {
					change.ClientID = fmt.Sprintf("client-%d", i)
					writes = append(writes, changed(app, change))
				}
				for b.Loop() {
					commit(b, s, writes...)
				}
			})
		}
		b.Run("messages", func(b *testing.B) {
			var writes []broker.Write
			for range 1_000 {
				writes = append(writes, write(app, msg("a/b/c", "a payload of some length, as they are", false)))
			}
			for b.Loop() {
				commit(b, s, writes...)
			}
		})
		require.NoError(b, s.Close())
	})
}

// benchmarkSessions measures what a start reads: 100,000 sessions with ten subscriptions each.
func benchmarkSessions(b *testing.B, s Store) {
	b.Helper()
	const n, step, each = 100_000, 1_000, 10
	app := newApp(b, s, "a")
	for from := 0; from < n; from += step {
		var filters []string
		for i := range step * each {
			filters = append(filters, fmt.Sprintf("sites/%d/devices/%d/%d", from/step, from+i/each, i%each))
		}
		ids := filterIDs(b, s, app, filters...)
		var writes []broker.Write
		for i := range step {
			client := fmt.Sprintf("client-%d", from+i)
			change := broker.SessionChange{ClientID: client, Keep: &broker.SessionRow{Subject: "u", Window: make([]byte, 40)}}
			for j := i * each; j < (i+1)*each; j++ {
				change.Subscribe = append(change.Subscribe, broker.SubscriptionRow{Filter: filters[j], FilterID: ids[j], Options: 1})
			}
			writes = append(writes, changed(app, change))
		}
		commit(b, s, writes...)
	}
	b.Run("Filters", func(b *testing.B) {
		for b.Loop() {
			all, err := s.Filters(b.Context(), app)
			require.NoError(b, err)
			require.Len(b, all, n*each)
		}
	})
	b.Run("Sessions", func(b *testing.B) {
		for b.Loop() {
			found := 0
			require.NoError(b, s.Sessions(b.Context(), app, func(broker.StoredSession) error { found++; return nil }))
			require.Equal(b, n, found)
		}
	})
}

// backlog makes an app of n messages; of ten filters each is pending for two.
func backlog(tb testing.TB, s Store, n int) (broker.AppUID, []int64) {
	tb.Helper()
	app := newApp(tb, s, "a")
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprint(i))
	}
	ids := filterIDs(tb, s, app, names...)
	for done := 0; done < n; done += 1_000 {
		var batch []broker.Write
		for i := range 1_000 {
			to := []int64{ids[i%10], ids[(i+done/1_000)%9]}
			if to[0] == to[1] {
				to = to[:1]
			}
			batch = append(batch, filtered(app, to, msg("a/b/c", "a payload of some length, as they are", false)))
		}
		commit(tb, s, batch...)
	}
	return app, ids
}

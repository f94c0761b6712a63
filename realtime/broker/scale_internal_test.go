package broker

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
)

// storedMany is a store in which an app has many sessions of clients that are away.
type storedMany struct {
	Store
	sessions, each int // subscriptions to a session
}

func (s *storedMany) Head(context.Context, AppUID) (uint64, string, error) { return 1_000, "e", nil }

func (s *storedMany) Retained(context.Context, AppUID, func(*message.Message) error) error {
	return nil
}

func (s *storedMany) filter(i, j int) string {
	return fmt.Sprintf("sites/%d/devices/%d/%d", i%100, i, j)
}

func (s *storedMany) Filters(context.Context, AppUID) (map[int64]string, error) {
	all := make(map[int64]string, s.sessions*s.each)
	for i := range s.sessions {
		for j := range s.each {
			all[int64(i*s.each+j+1)] = s.filter(i, j)
		}
	}
	return all, nil
}

func (s *storedMany) Sessions(_ context.Context, _ AppUID, yield func(StoredSession) error) error {
	for i := range s.sessions {
		st := StoredSession{Row: SessionRow{
			ClientID: fmt.Sprintf("client-%07d", i), Subject: "subject", Expiry: time.Hour, EndedAt: time.Now().UTC(),
			Cursor: endOfSeq(1_000),
		}}
		for j := range s.each {
			st.Subscriptions = append(st.Subscriptions, SubscriptionRow{
				Filter: s.filter(i, j), FilterID: int64(i*s.each + j + 1), Options: 1, Begins: endOfSeq(10),
			})
		}
		if err := yield(st); err != nil {
			return err
		}
	}
	return nil
}

func (s *storedMany) Backlog(context.Context, AppUID, []FilterFrom, int, int64) (Backlog, error) {
	return Backlog{}, nil
}

// many opens an app with so many stored sessions.
func many(tb testing.TB, sessions, each int) (*Broker, *app) {
	tb.Helper()
	b := New(Config{Store: &storedMany{sessions: sessions, each: each}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(tb, b.OpenApp(tb.Context(), AppConfig{
		UID: 1, Limits: Limits{QueuedMessagesMax: 1_000, QueuedBytesMax: math.MaxInt64},
	}))
	return b, b.app(1)
}

// measureAll measures every backlog, as the first minutes after a start do.
func measureAll(tb testing.TB, b *Broker, a *app) {
	tb.Helper()
	for _, p := range a.sessions {
		_, err := b.cutBacklog(tb.Context(), p, a.limits.Load())
		require.NoError(tb, err)
		p.dirty.Store(false)
	}
}

const manySessions = 100_000

// BenchmarkKeepSessions is the work of each second for sessions that are idle.
func BenchmarkKeepSessions(b *testing.B) {
	for _, each := range []int{1, 10} {
		b.Run(fmt.Sprintf("%d_subscriptions", each), func(b *testing.B) {
			broker, a := many(b, manySessions, each)
			measureAll(b, broker, a)
			for b.Loop() {
				broker.keepSessions(b.Context(), a, time.Now())
			}
		})
	}
}

// BenchmarkKeepSessionsBusy is the same while messages are committed for others.
func BenchmarkKeepSessionsBusy(b *testing.B) {
	broker, a := many(b, manySessions, 10)
	measureAll(b, broker, a)
	part := &Part{Message: retainedIn("sites/0/devices/0/0", "payload"), Filters: []int64{1}}
	for b.Loop() {
		for range 10_000 {
			a.durable.committed(part)
		}
		broker.keepSessions(b.Context(), a, time.Now())
	}
}

// BenchmarkKeepSessionsWait tells how long clients wait for the app's lock at most meanwhile.
func BenchmarkKeepSessionsWait(b *testing.B) {
	broker, a := many(b, manySessions, 1)
	measureAll(b, broker, a)
	stop, done := make(chan struct{}), make(chan time.Duration)
	go func() {
		longest := time.Duration(0)
		for {
			select {
			case <-stop:
				done <- longest
				return
			default:
			}
			began := time.Now()
			a.mu.Lock()
			a.mu.Unlock() //nolint:staticcheck // the wait is all
			longest = max(longest, time.Since(began))
			runtime.Gosched()
		}
	}()
	for b.Loop() {
		broker.keepSessions(b.Context(), a, time.Now())
	}
	close(stop)
	b.ReportMetric(float64((<-done).Microseconds()), "longest-wait-us")
}

// BenchmarkInWindows is what a step of the compactor asks of the sessions; a hundredth of them has messages under way.
func BenchmarkInWindows(b *testing.B) {
	_, a := many(b, manySessions, 1)
	for i := range manySessions / 100 {
		p := a.sessions[fmt.Sprintf("client-%07d", i*100)]
		p.state.Send(session.Entry{QoS: 1, Position: message.Position{Seq: uint64(i)}})
	}
	for b.Loop() {
		if len(a.inWindows().held) != manySessions/100 {
			b.Fatal("not what is under way")
		}
	}
}

// BenchmarkSettleFilters looks for what may be deleted, once a minute.
func BenchmarkSettleFilters(b *testing.B) {
	broker, a := many(b, manySessions, 10)
	for _, f := range a.durable.used() {
		f.settled = 1_000
	}
	for b.Loop() {
		require.NoError(b, broker.settleFilters(b.Context(), a))
	}
}

// BenchmarkOpenApp is a start with stored sessions, without what the store takes.
func BenchmarkOpenApp(b *testing.B) {
	for b.Loop() {
		many(b, manySessions, 10)
	}
}

// BenchmarkSessionBytes tells the memory of a stored session whose client is away, with its subscriptions, and without
// the durable filters and their tree, which sessions share.
func BenchmarkSessionBytes(b *testing.B) {
	const n = 20_000
	for _, each := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("%d_subscriptions", each), func(b *testing.B) {
			s := &storedMany{sessions: n, each: each}
			a := newApp(AppConfig{UID: 1})
			var all []*persistentSession
			for b.Loop() {
				all = make([]*persistentSession, 0, n)
				before := heapBytes()
				err := s.Sessions(b.Context(), 1, func(st StoredSession) error {
					p, err := restoreSession(a, st, time.Now())
					all = append(all, p)
					return err
				})
				require.NoError(b, err)
				b.ReportMetric(float64(heapBytes()-before)/n, "B/session")
			}
			runtime.KeepAlive(all)
		})
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

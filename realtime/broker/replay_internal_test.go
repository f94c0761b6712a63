package broker

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/session"
)

// replayOf is an app with n retained messages, and what a new subscription to all of them gets.
func replayOf(n int) *Replay {
	a := newApp(AppConfig{})
	for i := range n {
		m := retainedIn(fmt.Sprintf("sites/%d/devices/%d", i/100, i%100), "p")
		m.Position.Seq = 1
		a.setRetained(m)
	}
	s := &subscriber{client: &Client{app: a, id: "c", out: &sink{}}, inner: "#", sub: session.Subscription{Filter: "#", QoS: 1}}
	return &Replay{sub: s, upTo: 1}
}

func (r *Replay) count() (found int) {
	for !r.Over() {
		if _, ok := r.Next(); ok {
			found++
		}
	}
	return found
}

func TestReplayAllocatesNothing(t *testing.T) {
	r := replayOf(1_000)
	require.Zero(t, testing.AllocsPerRun(500, func() { r.Next() }))
}

func BenchmarkReplay(b *testing.B) {
	const n = 20_000
	r := replayOf(n)
	b.ReportAllocs()
	for b.Loop() {
		again := *r
		if got := again.count(); got != n {
			b.Fatalf("%d messages, want %d", got, n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
}

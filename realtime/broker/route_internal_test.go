package broker

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

// sink is a connection that takes everything and keeps nothing.
type sink struct{ marked bool }

func (s *sink) Deliver(Delivery) (Verdict, bool) {
	marked := !s.marked
	s.marked = true
	return Queued, marked
}
func (s *sink) Flush()                                              { s.marked = false }
func (*sink) Committed(uint64, error) bool                          { return false }
func (*sink) Disconnect(packet.ReasonCode, string)                  {}
func (*sink) Notify([]byte)                                         {}
func (*sink) GrantChanged()                                         {}
func (*sink) Offer(Delivery, int64) OfferVerdict                    { return Leaving }
func (*sink) Saving(message.Position) uint64                        { return 0 }
func (*sink) Saved(uint64, error) bool                              { return false }
func (*sink) HearOut() <-chan struct{}                              { return nil }
func (*sink) Taken() message.Position                               { return message.Position{} }
func (*sink) Feed([]Delivery, message.Position, uint64) FeedVerdict { return Over }
func (*sink) Narrowed() uint64                                      { return 0 }
func (*sink) Narrow(func(*message.Message) bool)                    {}
func (*sink) Join()                                                 {}
func (*sink) Live() bool                                            { return true }
func (*sink) Queue() (n int, bytes int64, flights int)              { return 0, 0, 0 }

// crowd is an app in which n clients are subscribed to each of the filters.
func crowd(n int, filters ...string) *app {
	a := newApp(AppConfig{})
	for i := range n {
		c := &Client{app: a, id: fmt.Sprint(i), out: &sink{}}
		for _, f := range filters {
			s := &subscriber{client: c, inner: f, sub: session.Subscription{Filter: f, QoS: 1}}
			a.insertLocked(s)
		}
	}
	return a
}

func TestRouteAllocatesNothing(t *testing.T) {
	for name, a := range map[string]*app{"one filter": crowd(1_000, "a/+"), "overlapping filters": crowd(1_000, "a/+", "a/#")} {
		k := NewMarks()
		m := &message.Message{Topic: "a/b", QoS: 1}
		a.route(m, k) // its scratch space grows once
		k.Flush()
		allocs := testing.AllocsPerRun(100, func() {
			a.route(m, k)
			k.Flush()
		})
		require.Zero(t, allocs, name)
	}
}

func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 1_000} {
		for name, filters := range map[string][]string{"one": {"a/+"}, "overlapping": {"a/+", "a/#"}} {
			b.Run(fmt.Sprintf("%d_clients_%s", n, name), func(b *testing.B) {
				a := crowd(n, filters...)
				k := NewMarks()
				m := &message.Message{Topic: "a/b", QoS: 1}
				b.ReportAllocs()
				for b.Loop() {
					a.route(m, k)
					k.Flush()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/delivery")
			})
		}
	}
}

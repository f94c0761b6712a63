package conn_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

const group = "$share/g/jobs/#"

// publishJobs publishes n messages to jobs/1 at a QoS and awaits their acknowledgement.
func publishJobs(w *world, qos byte, payloads ...string) {
	w.tb.Helper()
	p := w.dial(packet.V5)
	p.Connect("")
	for i, payload := range payloads {
		id := uint16(i + 1)
		p.Publish("jobs/1", payload, brokertest.QoS(qos, id))
		brokertest.Expect[*packet.Ack](p)
		if qos == 2 {
			p.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: id})
			p.ExpectAck(packet.TypePubcomp, id, 0)
		}
	}
	p.Close()
}

// take acknowledges the next n messages wholly and returns their payloads in the order in which they came.
func take(c *brokertest.Client, n int) (payloads []string) {
	for done := 0; done < n; {
		p, err := c.Next()
		if err != nil {
			return payloads
		}
		switch p := p.(type) {
		case *packet.Publish:
			payloads = append(payloads, string(p.Payload))
			kind := packet.TypePubrec
			if p.QoS == 1 {
				kind = packet.TypePuback
				done++
			}
			c.Send(&packet.Ack{Kind: kind, PacketID: p.PacketID})
		case *packet.Ack:
			c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: p.PacketID})
			done++
		default:
			return payloads
		}
	}
	return payloads
}

func TestDurableSharedSubscription(t *testing.T) {
	t.Parallel()
	t.Run("what comes while nobody is there waits for the next member, in order", func(t *testing.T) {
		t.Parallel()
		for _, restart := range []bool{false, true} {
			for _, qos := range []byte{1, 2} {
				t.Run(fmt.Sprintf("restart %v, QoS %d", restart, qos), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					c, _ := w.resume(packet.V5, "one")
					c.Subscribe(group, 2)
					gone(t, w, c, "one")
					publishJobs(w, qos, "a", "b", "c")
					if restart {
						w.crash()
					}
					c, _ = w.resume(packet.V5, "one")
					require.Equal(t, []string{"a", "b", "c"}, take(c, 3))
					c.ExpectNothing()
					publishJobs(w, qos, "d")
					require.Equal(t, []string{"d"}, take(c, 1))
					c.ExpectNothing()
					gone(t, w, c, "one")
					require.Eventually(t, func() bool {
						s, _ := w.store.Session(1, "one")
						return len(s.Row.Window) == 0 && s.Row.EndedAt != (time.Time{})
					}, brokertest.Patience, time.Millisecond)
					w.crash()
					c, _ = w.resume(packet.V5, "one")
					c.ExpectNothing()
				})
			}
		}
	})
	t.Run("each message goes to one member [MQTT5-4.8.2-3]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, _ := w.resume(packet.V5, "one")
		one.Subscribe(group, 1)
		two := w.client(packet.V5, "two")
		two.Subscribe(group, 2)
		publishJobs(w, 1, "a", "b", "c", "d")
		require.ElementsMatch(t, []string{"a", "b", "c", "d"}, append(take(one, 2), take(two, 2)...))
		one.ExpectNothing()
		two.ExpectNothing()
	})
	t.Run("at QoS 1 others get what a member that is gone has not acknowledged", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, _ := w.resume(packet.V5, "one")
		one.Subscribe(group, 1)
		gone(t, w, one, "one")
		two := w.client(packet.V5, "two")
		two.Subscribe(group, 1)
		publishJobs(w, 1, "a", "b")
		two.ExpectMessage("jobs/1", "a")
		two.ExpectMessage("jobs/1", "b")
		gone(t, w, two, "two")
		one, _ = w.resume(packet.V5, "one")
		require.Equal(t, []string{"a", "b"}, take(one, 2))
		one.ExpectNothing()
	})
	t.Run("at QoS 2 nobody else gets what is in flight to a member [MQTT5-4.8.2-4] [MQTT5-4.8.2-5]", func(t *testing.T) {
		t.Parallel()
		for _, end := range []string{"resumes", "ends"} {
			t.Run(end, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				one, _ := w.resume(packet.V5, "one")
				one.Subscribe(group, 2)
				publishJobs(w, 2, "a")
				first := one.ExpectMessage("jobs/1", "a")
				two, _ := w.resume(packet.V5, "two")
				two.Subscribe(group, 2)
				gone(t, w, one, "one")
				two.ExpectNothing()
				if end == "ends" {
					one = w.client(packet.V5, "one")
					gone(t, w, one, "one")
					two.ExpectNothing()
					w.crash()
					two, _ = w.resume(packet.V5, "two")
					two.ExpectNothing()
					return
				}
				w.crash()
				two, _ = w.resume(packet.V5, "two")
				two.ExpectNothing()
				one, _ = w.resume(packet.V5, "one")
				again := one.ExpectMessage("jobs/1", "a")
				require.True(t, again.Dup)
				require.Equal(t, first.PacketID, again.PacketID)
			})
		}
	})
	t.Run("at QoS 1 others get what a session that ends has not acknowledged", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, _ := w.resume(packet.V5, "one")
		one.Subscribe(group, 1)
		publishJobs(w, 1, "a")
		one.ExpectMessage("jobs/1", "a")
		two, _ := w.resume(packet.V5, "two")
		two.Subscribe(group, 1)
		gone(t, w, one, "one")
		two.ExpectNothing()
		one = w.client(packet.V5, "one") // a clean start
		require.Equal(t, []string{"a"}, take(two, 1))
		two.ExpectNothing()
		one.ExpectNothing()
	})
	t.Run("an error discards the message [MQTT5-4.8.2-6]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, _ := w.resume(packet.V5, "one")
		one.Subscribe(group, 2)
		publishJobs(w, 2, "a")
		m := one.ExpectMessage("jobs/1", "a")
		one.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID, Reason: packet.UnspecifiedError})
		one.ExpectNothing()
		two, _ := w.resume(packet.V5, "two")
		two.Subscribe(group, 2)
		gone(t, w, one, "one")
		w.crash()
		two, _ = w.resume(packet.V5, "two")
		two.ExpectNothing()
	})
	t.Run("a member has no more under way than its Receive Maximum, and the rest goes to others", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, _ := w.resume(packet.V5, "one", func(p *packet.Connect) {
			p.Properties.Has |= packet.PropReceiveMaximum
			p.Properties.ReceiveMaximum = 1
		})
		one.Subscribe(group, 1)
		publishJobs(w, 1, "a", "b", "c")
		one.ExpectMessage("jobs/1", "a")
		one.ExpectNothing()
		two := w.client(packet.V311, "two")
		two.Subscribe(group, 1)
		require.Equal(t, []string{"b", "c"}, take(two, 2))
		one.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: 1})
		one.ExpectNothing()
	})
}

func TestDurableSharedSubscription_whose_last_stored_session_ends_goes_on_for_its_members(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"a clean start", "UNSUBSCRIBE"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			one, _ := w.resume(packet.V5, "one", func(p *packet.Connect) {
				p.Properties.Has |= packet.PropReceiveMaximum
				p.Properties.ReceiveMaximum = 1
			})
			one.Subscribe(group, 1)
			publishJobs(w, 1, "a", "b", "c")
			one.ExpectMessage("jobs/1", "a")
			one.ExpectNothing()
			two := w.dial(packet.V5)
			two.Connect("two", properties(packet.Properties{Has: packet.PropReceiveMaximum, ReceiveMaximum: 1}))
			two.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: group, QoS: 1}}})
			var b *packet.Publish
			for range 2 { // the message may come before SUBACK
				next, err := two.Next()
				require.NoError(t, err)
				if m, is := next.(*packet.Publish); is {
					b = m
				}
			}
			require.NotNil(t, b)
			require.Equal(t, "b", string(b.Payload))
			two.ExpectNothing()
			want := []string{"c"}
			if how == "UNSUBSCRIBE" { // what has been sent is the session's
				one.Send(&packet.Unsubscribe{PacketID: 2, Filters: []string{group}})
				brokertest.Expect[*packet.Unsuback](one)
			} else {
				gone(t, w, one, "one")
				w.client(packet.V5, "one")
				want = []string{"a", "c"}
			}
			two.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: b.PacketID})
			require.ElementsMatch(t, want, take(two, len(want)))
			publishJobs(w, 1, "d")
			require.Equal(t, []string{"d"}, take(two, 1))
		})
	}
}

func TestDurableSharedSubscription_keeps_what_waits_when_the_first_of_its_sessions_ends(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, _ := w.resume(packet.V5, "one")
	one.Subscribe(group, 1)
	gone(t, w, one, "one")
	publishJobs(w, 1, "a", "b", "c")
	slow := func(p *packet.Connect) {
		p.Properties.Has |= packet.PropReceiveMaximum
		p.Properties.ReceiveMaximum = 1
	}
	two, _ := w.resume(packet.V5, "two", slow)
	two.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: group, QoS: 1}}})
	for range 2 { // SUBACK and the first of them
		_, err := two.Next()
		require.NoError(t, err)
	}
	gone(t, w, two, "two")
	w.client(packet.V5, "one") // begins anew
	w.crash()
	two, _ = w.resume(packet.V5, "two")
	require.Equal(t, []string{"a", "b", "c"}, take(two, 3))
	two.ExpectNothing()
}

func TestDurableSharedSubscription_that_is_begun_anew_gets_nothing_of_before(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, _ := w.resume(packet.V5, "one")
	one.Subscribe(group, 1)
	gone(t, w, one, "one")
	publishJobs(w, 1, "before")
	w.client(packet.V5, "one").Close() // begins anew, and has nothing
	two, _ := w.resume(packet.V5, "two")
	two.Subscribe(group, 1)
	two.ExpectNothing()
	gone(t, w, two, "two")
	publishJobs(w, 1, "after")
	w.crash()
	two, _ = w.resume(packet.V5, "two")
	require.Equal(t, []string{"after"}, take(two, 1))
	two.ExpectNothing()
}

package conn_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// durable asks for a session that outlives its connection.
func durable(p *packet.Connect) {
	p.CleanStart = false
	if p.Version == packet.V5 {
		p.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 3600}
	}
}

// resume connects a client with its session.
func (w *world) resume(v packet.Version, id string, change ...func(*packet.Connect)) (*brokertest.Client, bool) {
	w.tb.Helper()
	c := w.dial(v)
	ack := c.Connect(id, append([]func(*packet.Connect){durable}, change...)...)
	return c, ack.SessionPresent
}

// gone ends a connection as the network does, and waits until the broker knows.
func gone(t *testing.T, w *world, c *brokertest.Client, id string) {
	t.Helper()
	c.Close()
	require.Eventually(t, func() bool {
		i, err := w.broker.Client(1, id)
		return err != nil || !i.Connected
	}, brokertest.Patience, time.Millisecond)
}

func TestDurableSession(t *testing.T) {
	t.Parallel()
	for name, v := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("is there again, and has what came meanwhile in order [MQTT5-3.1.2-5][MQTT311-3.1.2-4]", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c, present := w.resume(v, "c")
				require.False(t, present)
				require.Equal(t, packet.ReasonCode(2), c.Subscribe("a/#", 2))
				gone(t, w, c, "c")
				p := w.client(v, "p")
				for i := range 10 {
					qos := byte(1 + i%2)
					p.Publish("a/b", fmt.Sprint(i), brokertest.QoS(qos, uint16(i+1)))
					brokertest.Expect[*packet.Ack](p)
				}
				p.Publish("a/b", "not kept")
				p.ExpectNothing()
				c, present = w.resume(v, "c")
				require.True(t, present)
				for i := range 10 {
					m := c.ExpectMessage("a/b", fmt.Sprint(i))
					require.Equal(t, byte(1+i%2), m.QoS)
					require.False(t, m.Dup)
				}
				c.ExpectNothing()
			})
			t.Run("gets what was not acknowledged again, with DUP and its identifier [MQTT5-4.4.0-1][MQTT311-4.4.0-1]", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c, _ := w.resume(v, "c")
				c.Subscribe("a", 2)
				p := w.client(v, "p")
				p.Publish("a", "1", brokertest.QoS(1, 1))
				p.Publish("a", "2", brokertest.QoS(2, 2))
				p.Publish("a", "3", brokertest.QoS(2, 3))
				first, second, third := c.ExpectMessage("a", "1"), c.ExpectMessage("a", "2"), c.ExpectMessage("a", "3")
				c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: second.PacketID})
				c.ExpectAck(packet.TypePubrel, second.PacketID, 0)
				gone(t, w, c, "c")
				c, _ = w.resume(v, "c")
				again := c.ExpectMessage("a", "1")
				require.True(t, again.Dup)
				require.Equal(t, first.PacketID, again.PacketID)
				c.ExpectAck(packet.TypePubrel, second.PacketID, 0)
				again = c.ExpectMessage("a", "3")
				require.True(t, again.Dup)
				require.Equal(t, third.PacketID, again.PacketID)
				c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: first.PacketID})
				c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: second.PacketID})
				c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: third.PacketID})
				c.ExpectAck(packet.TypePubrel, third.PacketID, 0)
				c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: third.PacketID})
				c.ExpectNothing()
				gone(t, w, c, "c")
				c, _ = w.resume(v, "c")
				c.ExpectNothing()
			})
			t.Run("knows a QoS 2 message that came before [MQTT5-4.3.3-10][MQTT311-4.3.3-2]", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				s, _ := w.resume(v, "s")
				s.Subscribe("a", 2)
				c, _ := w.resume(v, "c")
				c.Publish("a", "once", brokertest.QoS(2, 7))
				c.ExpectAck(packet.TypePubrec, 7, 0)
				gone(t, w, c, "c")
				c, _ = w.resume(v, "c")
				c.Publish("a", "once", brokertest.QoS(2, 7), func(p *packet.Publish) { p.Dup = true })
				c.ExpectAck(packet.TypePubrec, 7, 0)
				c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 7})
				c.ExpectAck(packet.TypePubcomp, 7, 0)
				c.Publish("a", "another", brokertest.QoS(2, 7))
				c.ExpectAck(packet.TypePubrec, 7, 0)
				s.ExpectMessage("a", "once")
				s.ExpectMessage("a", "another")
				s.ExpectNothing()
			})
			t.Run("ends with a clean start [MQTT5-3.1.2-4][MQTT311-3.1.2-6]", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c, _ := w.resume(v, "c")
				c.Subscribe("a", 1)
				gone(t, w, c, "c")
				c = w.client(v, "c")
				gone(t, w, c, "c")
				c, present := w.resume(v, "c")
				require.False(t, present)
				p := w.client(v, "p")
				p.Publish("a", "nobody's", brokertest.QoS(1, 1))
				brokertest.Expect[*packet.Ack](p)
				c.ExpectNothing()
			})
			t.Run("forgets what it has unsubscribed from [MQTT5-3.10.4-2]", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c, _ := w.resume(v, "c")
				c.Subscribe("a", 1)
				c.Send(&packet.Unsubscribe{PacketID: 9, Filters: []string{"a"}})
				brokertest.Expect[*packet.Unsuback](c)
				gone(t, w, c, "c")
				p := w.client(v, "p")
				p.Publish("a", "nobody's", brokertest.QoS(1, 1))
				brokertest.Expect[*packet.Ack](p)
				c, present := w.resume(v, "c")
				require.True(t, present)
				c.ExpectNothing()
			})
			t.Run("is there after a restart, with all of that", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c, _ := w.resume(v, "c")
				c.Subscribe("a", 2)
				p, _ := w.resume(v, "p")
				p.Publish("a", "1", brokertest.QoS(2, 1))
				first := c.ExpectMessage("a", "1")
				c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: first.PacketID})
				c.ExpectAck(packet.TypePubrel, first.PacketID, 0)
				p.ExpectAck(packet.TypePubrec, 1, 0)
				p.Publish("a", "2", brokertest.QoS(2, 2))
				p.ExpectAck(packet.TypePubrec, 2, 0)
				second := c.ExpectMessage("a", "2")
				w.crash()
				p, present := w.resume(v, "p")
				require.True(t, present)
				p.Publish("a", "2", brokertest.QoS(2, 2))
				p.ExpectAck(packet.TypePubrec, 2, 0)
				p.Publish("a", "3", brokertest.QoS(1, 3))
				p.ExpectAck(packet.TypePuback, 3, 0)
				c, present = w.resume(v, "c")
				require.True(t, present)
				c.ExpectAck(packet.TypePubrel, first.PacketID, 0)
				again := c.ExpectMessage("a", "2")
				require.True(t, again.Dup)
				require.Equal(t, second.PacketID, again.PacketID)
				c.ExpectMessage("a", "3")
				c.ExpectNothing()
			})
			for qos, publish := range []func(*packet.Will){
				func(*packet.Will) {}, func(w *packet.Will) { w.QoS, w.Retain = 1, true },
			} {
				t.Run(fmt.Sprintf("sends its will once when a clean start takes its place, QoS %d [MQTT5-3.1.2-8][MQTT311-3.1.2-8]", qos), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					watcher := w.client(v, "watcher")
					watcher.Subscribe("wills/c", 1)
					first, _ := w.resume(v, "c", will("wills/c", "taken over"), func(p *packet.Connect) { publish(p.Will) })
					release := w.holdCommits()
					other := w.client(v, "other")
					other.Publish("other", "what is being committed", brokertest.Retained)
					second := w.dial(v)
					second.Send(&packet.Connect{Version: v, ClientID: "c", CleanStart: true})
					require.Eventually(t, func() bool {
						i, err := w.broker.Client(1, "c")
						return err == nil && i.CleanStart
					}, brokertest.Patience, time.Millisecond)
					release()
					first.ExpectEnd(packet.SessionTakenOver)
					require.False(t, brokertest.Expect[*packet.Connack](second).SessionPresent)
					second.ExpectNothing()
					var got []string
					for _, m := range watcher.Drain() {
						got = append(got, string(m.Payload))
					}
					require.Equal(t, []string{"taken over"}, got)
				})
			}
			t.Run("takes what does not fit into memory from the log", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.patience = time.Minute
				c, _ := w.resume(v, "c")
				c.Subscribe("a", 1)
				p := w.client(v, "p")
				const n = 5_000 // more than waits in memory
				published := make(chan struct{})
				go func() {
					defer close(published)
					for i := range n {
						p.Publish("a", fmt.Sprint(i), brokertest.QoS(1, uint16(i+1)))
						if i%50 == 49 { // the Receive Maximum
							for range 50 {
								brokertest.Expect[*packet.Ack](p)
							}
						}
					}
				}()
				<-published
				for i := range n {
					m := c.ExpectMessage("a", fmt.Sprint(i))
					c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
				}
				c.ExpectNothing()
			})
		})
	}
	t.Run("ends when its time has passed [MQTT5-3.1.2-23]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(packet.V5)
			c.Connect("c", properties(packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 5}))
			c.Close()
			time.Sleep(4 * time.Second) //nolint:forbidigo // virtual time
			c, present := w.resume(packet.V5, "c")
			require.True(t, present)
			c.Send(&packet.Disconnect{Properties: &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 2}})
			time.Sleep(3 * time.Second) //nolint:forbidigo // virtual time
			_, err := w.broker.Client(1, "c")
			require.Error(t, err)
			_, present = w.resume(packet.V5, "c")
			require.False(t, present)
		})
	})
}

// TestSubscribingAgain: a subscription that had begun in an empty log was taken for one that had not, and began anew.
func TestSubscribingAgain_keeps_what_waits_for_the_session(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V311, "c")
	c.Subscribe("a", 1)
	gone(t, w, c, "c")
	p := w.client(packet.V5, "p")
	for i := range 3 {
		p.Publish("a", fmt.Sprint(i), brokertest.QoS(1, uint16(i+1)))
		brokertest.Expect[*packet.Ack](p)
	}
	c, _ = w.resume(packet.V311, "c", func(p *packet.Connect) { p.KeepAlive = 60 })
	c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a", QoS: 1}}})
	var got []string
	for len(got) < 3 {
		next, err := c.Next()
		require.NoError(t, err)
		if m, ok := next.(*packet.Publish); ok {
			got = append(got, string(m.Payload))
		}
	}
	require.Equal(t, []string{"0", "1", "2"}, got)
	stored, _ := w.store.Session(1, "c")
	require.Zero(t, stored.Subscriptions[0].Begins.Seq)
}

func TestDurableSession_names_all_subscriptions_that_match_with_a_message_from_the_log(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V5, "c")
	for i, s := range []packet.Subscription{
		{Filter: "a/b", QoS: 1}, {Filter: "a/+", QoS: 0}, {Filter: "a/#", QoS: 0, NoLocal: true}, {Filter: "b", QoS: 0},
	} {
		c.Send(&packet.Subscribe{
			PacketID: uint16(i + 1), Subscriptions: []packet.Subscription{s},
			Properties: &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{uint32(i + 1)}},
		})
		brokertest.Expect[*packet.Suback](c)
	}
	gone(t, w, c, "c")
	p := w.client(packet.V5, "p")
	p.Publish("a/b", "m", brokertest.QoS(1, 1))
	p.ExpectAck(packet.TypePuback, 1, 0)
	c, _ = w.resume(packet.V5, "c")
	m := c.ExpectMessage("a/b", "m")
	require.ElementsMatch(t, []uint32{1, 2, 3}, m.Properties.SubscriptionIDs, "[MQTT5-3.3.4-4]")
	c.ExpectNothing()
}

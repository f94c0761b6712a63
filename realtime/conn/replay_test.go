package conn_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// retain retains n messages in one write: a/0000, a/0001 …
func (w *world) retain(n int) {
	w.tb.Helper()
	all := make([]*message.Message, n)
	for i := range all {
		all[i] = &message.Message{Topic: nth(i), Payload: []byte("p"), Retain: true, QoS: 1}
	}
	_, err := w.broker.Publish(context.Background(), broker.Publication{App: 1, Messages: all})
	require.NoError(w.tb, err)
}

func nth(i int) string { return fmt.Sprintf("a/%04d", i) }

// one is a client that takes one QoS 1 message at a time.
func (w *world) one(id string) *brokertest.Client {
	c := w.dial(packet.V5)
	c.Connect(id, properties(packet.Properties{Has: packet.PropReceiveMaximum, ReceiveMaximum: 1}))
	return c
}

// expectRetained wants the retained messages from first to last, and acknowledges them.
func expectRetained(c *brokertest.Client, first, last int) {
	for i := first; i <= last; i++ {
		acknowledge(c, c.ExpectMessage(nth(i), "p"))
	}
}

func again(c *brokertest.Client, handling byte) {
	c.Subscribe("a/#", 1, func(s *packet.Subscription) { s.RetainHandling = handling })
}

func TestReplay(t *testing.T) {
	t.Parallel()
	t.Run("subscribing again sends the retained messages anew, in the place of those not sent yet [MQTT5-3.8.4-4]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 0)
		expectRetained(c, 0, 4)
		m := c.ExpectMessage(nth(5), "p")
		again(c, 0)
		again(c, 0)
		acknowledge(c, m)
		expectRetained(c, 0, 19)
		c.ExpectNothing()
	})
	t.Run("subscribing again with Retain Handling 1 lets what is under way go on", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 1)
		m := c.ExpectMessage(nth(0), "p")
		for range 3 {
			again(c, 1)
		}
		acknowledge(c, m)
		expectRetained(c, 1, 19)
		c.ExpectNothing()
	})
	for name, v := range versions {
		t.Run("what the client has published before is retained when its subscription begins, "+name+
			" [MQTT5-3.3.1-9][MQTT311-3.3.1-8]", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.client(v, "c")
				release := w.holdCommits()
				c.Publish("a", "kept", brokertest.Retained)
				c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a"}}})
				synctest.Wait()
				release()
				brokertest.Expect[*packet.Suback](c)
				require.True(t, c.ExpectMessage("a", "kept").Retain)
				c.ExpectNothing()
			})
		})
	}
	t.Run("nothing more comes after UNSUBSCRIBE", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 0)
		m := c.ExpectMessage(nth(0), "p")
		c.Send(&packet.Unsubscribe{PacketID: 2, Filters: []string{"a/#"}})
		brokertest.Expect[*packet.Unsuback](c)
		acknowledge(c, m)
		c.ExpectNothing()
	})
	t.Run("nothing more comes when the rules take the subscription away", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 0)
		m := c.ExpectMessage(nth(0), "p")
		w.SetRules(brokertest.Rules{Subscribe: func(string, string) bool { return false }})
		w.broker.Reauthorize(1)
		acknowledge(c, m)
		c.ExpectNothing()
	})
	t.Run("nothing more comes of what a new rule denies", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 0)
		m := c.ExpectMessage(nth(0), "p")
		w.SetRules(brokertest.Rules{Receive: func(_, topic string) bool { return topic >= nth(17) }})
		w.broker.Reauthorize(1)
		acknowledge(c, m)
		expectRetained(c, 17, 19)
		c.ExpectNothing()
	})
	t.Run("a message that changes meanwhile comes live alone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(20)
		c := w.one("c")
		again(c, 0)
		m := c.ExpectMessage(nth(0), "p")
		_, err := w.broker.Publish(t.Context(), broker.Publication{App: 1, Messages: []*message.Message{
			{Topic: nth(1), Payload: []byte("new"), Retain: true}, {Topic: nth(2), Retain: true}, {Topic: "a/0001x", Payload: []byte("new"), Retain: true},
		}})
		require.NoError(t, err)
		c.ExpectMessage(nth(1), "new")
		c.ExpectMessage(nth(2), "")
		c.ExpectMessage("a/0001x", "new")
		acknowledge(c, m)
		expectRetained(c, 3, 19)
		c.ExpectNothing()
	})
	t.Run("one message among many that the filter does not match is found", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.retain(9_000)
		_, err := w.broker.Publish(t.Context(), broker.Publication{App: 1, Messages: []*message.Message{
			{Topic: "z/x", Payload: []byte("p"), Retain: true},
		}})
		require.NoError(t, err)
		c := w.client(packet.V5, "c")
		c.Subscribe("+/+/none", 0)
		c.Subscribe("+/x", 0)
		c.ExpectMessage("z/x", "p")
		c.ExpectNothing()
	})
}

// TestSubscribing_again_and_again_costs_no_memory: each SUBSCRIBE kept a snapshot of its own until it was sent, which
// who acknowledges nothing puts off for ever.
func TestSubscribing_again_and_again_costs_no_memory(t *testing.T) {
	w := newWorld(t)
	w.retain(10_000)
	c := w.one("c")
	again(c, 0)
	c.ExpectMessage(nth(0), "p")
	before := heapInUse()
	for range 500 {
		again(c, 0)
		c.Subscribe("a/+", 1)
	}
	require.Less(t, heapInUse()-before, int64(4<<20), "500 snapshots of 10,000 pointers are 40 MB")
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

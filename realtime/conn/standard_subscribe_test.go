package conn_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// subscribeAs subscribes with a Subscription Identifier.
func subscribeAs(c *brokertest.Client, id uint32, s packet.Subscription) packet.ReasonCode {
	c.Send(&packet.Subscribe{
		PacketID: 1, Subscriptions: []packet.Subscription{s},
		Properties: &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{id}},
	})
	return brokertest.Expect[*packet.Suback](c).Reasons[0]
}

// unsubscribe says UNSUBSCRIBE and returns the answer to it.
func unsubscribe(c *brokertest.Client, id uint16, filters ...string) *packet.Unsuback {
	c.Send(&packet.Unsubscribe{PacketID: id, Filters: filters})
	return brokertest.Expect[*packet.Unsuback](c)
}

func TestSuback(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "answers each SUBSCRIBE under its identifier, and several filters as if they had come one by one "+
		"[MQTT5-3.8.4-1] [MQTT5-3.8.4-2] [MQTT5-3.8.4-5] [MQTT5-2.2.1-6] "+
		"[MQTT311-3.8.4-1] [MQTT311-3.8.4-2] [MQTT311-3.8.4-4] [MQTT311-2.3.1-7]", func(t told, w *world, v packet.Version) {
		w.publish(&message.Message{Topic: "a", Payload: []byte("kept"), QoS: 2, Retain: true})
		c := w.client(v, "c")
		for _, id := range []uint16{1, 300, 65_535} {
			// The last of two that are the same counts, and each brings the retained message.
			c.Send(&packet.Subscribe{PacketID: id, Subscriptions: []packet.Subscription{{Filter: "b"}, {Filter: "a", QoS: 2}, {Filter: "a", QoS: 1}}})
			ack := brokertest.Expect[*packet.Suback](c)
			require.Equal(t, id, ack.PacketID)
			require.Equal(t, []packet.ReasonCode{0, 2, 1}, ack.Reasons)
			for _, m := range c.Drain() {
				require.Equal(t, "a kept", string(m.Topic)+" "+string(m.Payload))
				acknowledge(c, m)
			}
			w.publish(&message.Message{Topic: "a", Payload: []byte("live"), QoS: 2})
			m := c.ExpectMessage("a", "live")
			require.EqualValues(t, 1, m.QoS)
			acknowledge(c, m)
			w.publish(&message.Message{Topic: "b", Payload: []byte("live"), QoS: 2})
			require.Zero(t, c.ExpectMessage("b", "live").QoS)
			c.ExpectNothing()
		}
	})
	inEachVersion(t, "grants the QoS that was asked for, and a message comes at the lower of that and its own "+
		"[MQTT5-3.8.4-7] [MQTT5-3.8.4-8] [MQTT311-3.8.4-5] [MQTT311-3.8.4-6]", func(t told, w *world, v packet.Version) {
		for granted := range byte(3) {
			w.publish(&message.Message{Topic: "kept", Payload: []byte("p"), QoS: 2, Retain: true})
			c := w.client(v, "c")
			require.Equal(t, packet.ReasonCode(granted), c.Subscribe("+", granted))
			m := c.ExpectMessage("kept", "p")
			require.Equal(t, granted, m.QoS)
			acknowledge(c, m)
			for qos := range byte(3) {
				w.publish(&message.Message{Topic: "a", QoS: qos})
				m := c.ExpectMessage("a", "")
				require.Equal(t, min(qos, granted), m.QoS)
				acknowledge(c, m)
			}
		}
	})
}

func TestSubscribingAgain(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "with the same filter replaces the subscription, and brings the retained messages anew "+
		"[MQTT5-3.8.4-3] [MQTT5-3.8.4-4] [MQTT311-3.8.4-3]", func(t told, w *world, v packet.Version) {
		w.publish(&message.Message{Topic: "a", Payload: []byte("kept"), QoS: 2, Retain: true})
		c := w.client(v, "c")
		for _, qos := range []byte{0, 2, 1, 0} {
			c.Subscribe("a", qos)
			acknowledge(c, c.ExpectMessage("a", "kept"))
			w.publish(&message.Message{Topic: "a", Payload: []byte("live"), QoS: 2})
			m := c.ExpectMessage("a", "live")
			require.Equal(t, qos, m.QoS)
			acknowledge(c, m)
			c.ExpectNothing() // one copy, however often it was subscribed
		}
	})
	inEachVersion(t, "loses no message [MQTT5-3.8.4-4] [MQTT311-3.8.4-3]", func(t told, w *world, v packet.Version) {
		const n = 500
		c := w.client(v, "c")
		c.Subscribe("a", 1)
		published := make(chan struct{})
		publisher := w.client(v, "publisher")
		go func() {
			defer close(published)
			for i := range n {
				publisher.Publish("a", fmt.Sprintf("%04d", i), brokertest.QoS(1, uint16(i+1)))
				publisher.ExpectAck(packet.TypePuback, uint16(i+1), packet.Success)
			}
		}()
		for i := 0; i < n; {
			if i%10 == 0 {
				c.Send(&packet.Subscribe{PacketID: 7, Subscriptions: []packet.Subscription{{Filter: "a", QoS: 1}}})
			}
			p, err := c.Next()
			require.NoError(t, err)
			if m, ok := p.(*packet.Publish); ok {
				require.Equal(t, fmt.Sprintf("%04d", i), string(m.Payload))
				acknowledge(c, *m)
				i++
			}
		}
		<-published
	})
}

func TestOverlappingSubscriptions(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "bring a message once, at the highest QoS among them [MQTT5-3.3.4-2] [MQTT311-3.3.5-1]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for filter, qos := range map[string]byte{"a/#": 0, "a/+": 2, "+/b": 1, "a/b": 0} {
			c.Subscribe(filter, qos)
		}
		for qos := range byte(3) {
			w.publish(&message.Message{Topic: "a/b", QoS: qos})
			m := c.ExpectMessage("a/b", "")
			require.Equal(t, qos, m.QoS)
			acknowledge(c, m)
		}
		c.ExpectNothing()
	})
	t.Run("bring the identifiers of those that have one [MQTT5-3.3.4-3] [MQTT5-3.3.4-4]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		c.Subscribe("#", 1)
		subscribeAs(c, 5, packet.Subscription{Filter: "a/+"})
		subscribeAs(c, 268_435_455, packet.Subscription{Filter: "+/b"})
		subscribeAs(c, 9, packet.Subscription{Filter: "other"})
		w.publish(&message.Message{Topic: "a/b", QoS: 1})
		m := c.ExpectMessage("a/b", "")
		require.ElementsMatch(t, []uint32{5, 268_435_455}, m.Properties.SubscriptionIDs)
		acknowledge(c, m)
		w.publish(&message.Message{Topic: "c"})
		require.Nil(t, c.ExpectMessage("c", "").Properties)
		c.ExpectNothing()
	})
	t.Run("one of which is shared bring a copy each, with the identifier of its own [MQTT5-3.3.4-5]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		subscribeAs(c, 1, packet.Subscription{Filter: "a/+"})
		subscribeAs(c, 2, packet.Subscription{Filter: "$share/g/a/+"})
		w.publish(&message.Message{Topic: "a/b"})
		var got [][]uint32
		for range 2 {
			got = append(got, c.ExpectMessage("a/b", "").Properties.SubscriptionIDs)
		}
		require.ElementsMatch(t, [][]uint32{{1}, {2}}, got)
		c.ExpectNothing()
	})
	t.Run("a publisher's own Subscription Identifier goes to nobody [MQTT5-3.3.4-6]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		c.Subscribe("a", 0)
		c.Publish("a", "p", func(p *packet.Publish) {
			p.Properties = &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{7}}
		})
		require.Nil(t, c.ExpectMessage("a", "p").Properties)
	})
}

func TestUnsuback(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "answers each UNSUBSCRIBE under its identifier, also where nothing was there, and several filters as if they had come one by one "+
		"[MQTT5-3.10.4-4] [MQTT5-3.10.4-5] [MQTT5-3.10.4-6] [MQTT5-3.11.3-1] [MQTT5-3.11.3-2] [MQTT5-2.2.1-6] "+
		"[MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6] [MQTT311-2.3.1-7]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 0)
		c.Subscribe("b", 0)
		for _, step := range []struct {
			id      uint16
			filters []string
			want    []packet.ReasonCode
		}{
			{65_535, []string{"never"}, []packet.ReasonCode{packet.NoSubscriptionExisted}},
			{2, []string{"never", "a", "a", "b"}, []packet.ReasonCode{packet.NoSubscriptionExisted, 0, packet.NoSubscriptionExisted, 0}},
			{3, []string{"a", "b"}, []packet.ReasonCode{packet.NoSubscriptionExisted, packet.NoSubscriptionExisted}},
		} {
			ack := unsubscribe(c, step.id, step.filters...)
			require.Equal(t, step.id, ack.PacketID)
			if v == packet.V5 {
				require.Equal(t, step.want, ack.Reasons)
			}
		}
		w.publish(&message.Message{Topic: "a"}, &message.Message{Topic: "b"})
		c.ExpectNothing()
	})
	inEachVersion(t, "compares filters byte by byte, and removes the one that is the same: no new message is added for it "+
		"[MQTT5-3.10.4-1] [MQTT5-3.10.4-2] [MQTT311-3.10.4-1] [MQTT311-3.10.4-2]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		filters := []string{"a/+", "a/#", "a/b", "A/b", "#"}
		for _, f := range filters {
			c.Subscribe(f, 0)
		}
		for i, f := range filters {
			longer := f + "/"
			if strings.HasSuffix(f, "#") {
				longer = "/" + f
			}
			unsubscribe(c, 2, longer, "/"+f, "a/c", "+/b")
			info, err := w.broker.Client(1, "c")
			require.NoError(t, err)
			require.Len(t, info.Subscriptions, len(filters)-i)
			unsubscribe(c, 2, f)
			w.publish(&message.Message{Topic: "a/b"})
			if i < len(filters)-1 { // "#" is the last
				c.ExpectMessage("a/b", "")
			}
			c.ExpectNothing()
		}
	})
	inEachVersion(t, "leaves what is under way, which is completed [MQTT5-3.10.4-3] [MQTT311-3.10.4-3]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 2)
		w.publish(&message.Message{Topic: "a", Payload: []byte("1"), QoS: 1}, &message.Message{Topic: "a", Payload: []byte("2"), QoS: 2})
		one, two := c.ExpectMessage("a", "1"), c.ExpectMessage("a", "2")
		unsubscribe(c, 3, "a")
		w.publish(&message.Message{Topic: "a", Payload: []byte("3"), QoS: 2})
		c.ExpectNothing()
		require.Equal(t, 2, w.inflight("c"))
		acknowledge(c, two)
		acknowledge(c, one)
		c.ExpectNothing()
		require.Zero(t, w.inflight("c"))
	})
}

func TestSharedSubscription(t *testing.T) {
	t.Parallel()
	t.Run("brings each member its messages at the QoS granted to that member [MQTT5-4.8.2-3]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		members := []*brokertest.Client{w.client(packet.V5, "0"), w.client(packet.V5, "1"), w.client(packet.V5, "2")}
		for qos, c := range members {
			require.Equal(t, packet.ReasonCode(qos), c.Subscribe("$share/g/a", byte(qos)))
		}
		for range 9 {
			w.publish(&message.Message{Topic: "a", QoS: 2})
		}
		total := 0
		for qos, c := range members {
			for _, m := range c.Drain() {
				require.EqualValues(t, qos, m.QoS)
				total++
			}
		}
		require.Equal(t, 9, total)
	})
	t.Run("gives a message that one member refuses to no other [MQTT5-4.8.2-6]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		members := map[string]*brokertest.Client{"one": w.client(packet.V5, "one"), "two": w.client(packet.V5, "two")}
		for _, c := range members {
			c.Subscribe("$share/g/a", 2)
		}
		for i := range 8 {
			w.publish(&message.Message{Topic: "a", QoS: 1 + byte(i%2)})
		}
		total := 0
		for id, c := range members {
			all := c.Drain()
			total += len(all)
			for _, m := range all {
				kind := []packet.Type{packet.TypePuback, packet.TypePubrec}[m.QoS-1]
				c.Send(&packet.Ack{Kind: kind, PacketID: m.PacketID, Reason: packet.ImplementationSpecificError})
			}
			c.ExpectNothing()
			require.Zero(t, w.inflight(id))
		}
		require.Equal(t, 8, total)
		for _, c := range members {
			c.ExpectNothing()
		}
	})
}

// TestStandardAlone speaks 3.1.1 in the bytes of the standard, without anything that is ours.
func TestStandardAlone(t *testing.T) {
	t.Parallel()
	t.Run("is enough to be served: no user name, no password, no topic of ours [MQTT311-7.0.0-2]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V311)
		c.SendBytes([]byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 'c'})
		require.Equal(t, packet.Success, brokertest.Expect[*packet.Connack](c).Reason)
		c.SendBytes([]byte{0x82, 8, 0, 1, 0, 3, 'a', '/', '#', 1})
		require.Equal(t, []packet.ReasonCode{1}, brokertest.Expect[*packet.Suback](c).Reasons)
		c.SendBytes([]byte{0x32, 9, 0, 3, 'a', '/', 'b', 0, 2, 'h', 'i'})
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
		c.ExpectMessage("a/b", "hi")
		c.SendBytes([]byte{0x40, 2, 0, 1, 0xC0, 0})
		brokertest.Expect[*packet.Ping](c)
		c.SendBytes([]byte{0xE0, 0})
		wantClosed(t, c)
	})
}

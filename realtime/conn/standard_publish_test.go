package conn_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func dup(p *packet.Publish) { p.Dup = true }

// receiveMaximum is a CONNECT's, where the version has it.
func receiveMaximum(n uint16) func(*packet.Connect) {
	return func(p *packet.Connect) {
		if p.Version == packet.V5 {
			p.Properties = &packet.Properties{Has: packet.PropReceiveMaximum, ReceiveMaximum: n}
		}
	}
}

// topicAlias gives a PUBLISH an alias.
func topicAlias(n uint16) func(*packet.Publish) {
	return func(p *packet.Publish) {
		p.Properties = &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: n}
	}
}

// inflight is how many messages to a client are under way.
func (w *world) inflight(id string) int {
	w.tb.Helper()
	info, err := w.broker.Client(1, id)
	require.NoError(w.tb, err)
	return info.Inflight
}

func TestReceiving(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "each QoS is answered in its way, under the identifier that came "+
		"[MQTT5-3.3.4-1] [MQTT5-2.2.1-5] [MQTT5-4.3.2-4] [MQTT5-4.3.3-8] [MQTT5-4.3.3-11] "+
		"[MQTT311-3.3.4-1] [MQTT311-2.3.1-6] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Publish("a", "0")
		c.ExpectNothing()
		for _, id := range []uint16{1, 77, 65_535} {
			c.Publish("a", "1", brokertest.QoS(1, id))
			c.ExpectAck(packet.TypePuback, id, packet.Success)
			c.Publish("a", "2", brokertest.QoS(2, id))
			c.ExpectAck(packet.TypePubrec, id, packet.Success)
			c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: id})
			c.ExpectAck(packet.TypePubcomp, id, packet.Success)
		}
		c.ExpectNothing()
	})
	inEachVersion(t, "after PUBACK the identifier is that of a new message, whatever DUP says "+
		"[MQTT5-4.3.2-5] [MQTT311-4.3.2-2]", func(t told, w *world, v packet.Version) {
		watcher, c := w.client(v, "watcher"), w.client(v, "c")
		watcher.Subscribe("a", 0)
		for _, change := range []func(*packet.Publish){func(*packet.Publish) {}, dup, dup} {
			c.Publish("a", "p", brokertest.QoS(1, 5), change)
			c.ExpectAck(packet.TypePuback, 5, packet.Success)
			watcher.ExpectMessage("a", "p")
		}
		watcher.ExpectNothing()
	})
	inEachVersion(t, "before PUBREL a QoS 2 identifier is that of the same message, which is known by it; after PUBCOMP of a new one "+
		"[MQTT5-4.3.3-10] [MQTT5-4.3.3-12] [MQTT311-4.3.3-2] [MQTT311-2.3.1-3]", func(t told, w *world, v packet.Version) {
		watcher, c := w.client(v, "watcher"), w.client(v, "c")
		watcher.Subscribe("a", 0)
		for round := range 2 {
			for _, change := range []func(*packet.Publish){func(*packet.Publish) {}, dup, dup} {
				c.Publish("a", fmt.Sprint(round), brokertest.QoS(2, 5), change)
				c.ExpectAck(packet.TypePubrec, 5, packet.Success)
			}
			watcher.ExpectMessage("a", fmt.Sprint(round))
			watcher.ExpectNothing()
			for range 2 { // the second is answered as well
				c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 5})
				c.ExpectAck(packet.TypePubcomp, 5, packet.Success)
			}
		}
	})
	t.Run("after a PUBREC that refuses the identifier is that of a new message [MQTT5-4.3.3-9]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(brokertest.Rules{Publish: func(_, topic string) bool { return topic != "secret" }})
		c := w.client(packet.V5, "c")
		c.Subscribe("#", 0)
		c.Publish("secret", "p", brokertest.QoS(2, 5))
		c.ExpectAck(packet.TypePubrec, 5, packet.NotAuthorized)
		c.Publish("a", "p", brokertest.QoS(2, 5))
		c.ExpectAck(packet.TypePubrec, 5, packet.Success)
		c.ExpectMessage("a", "p")
	})
	t.Run("the handshake of QoS 2 goes on after the message has expired [MQTT5-4.3.3-13]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.client(packet.V5, "c")
			expires := func(p *packet.Publish) {
				p.Properties = &packet.Properties{Has: packet.PropMessageExpiry, MessageExpiry: 1}
			}
			c.Publish("a", "p", brokertest.QoS(2, 5), brokertest.Retained, expires)
			c.ExpectAck(packet.TypePubrec, 5, packet.Success)
			time.Sleep(time.Hour) //nolint:forbidigo // virtual time
			c.Publish("a", "p", brokertest.QoS(2, 5), dup, expires)
			c.ExpectAck(packet.TypePubrec, 5, packet.Success)
			c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 5})
			c.ExpectAck(packet.TypePubcomp, 5, packet.Success)
		})
	})
	inEachVersion(t, "what has to be stored is acknowledged once it is, and not before [MQTT5-4.3.2-4] [MQTT5-4.3.3-8] [MQTT311-4.3.2-2] [MQTT311-4.3.3-2]",
		func(t told, w *world, v packet.Version) {
			release := w.holdCommits()
			c := w.client(v, "c")
			c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
			c.Publish("a", "p", brokertest.QoS(2, 2), brokertest.Retained)
			c.ExpectNothing()
			require.Empty(t, w.store.Log(1))
			release()
			c.ExpectAck(packet.TypePuback, 1, packet.Success)
			c.ExpectAck(packet.TypePubrec, 2, packet.Success)
			require.Len(t, w.store.Log(1), 2)
		})
	inEachVersion(t, "PUBREC and PUBACK leave in the order of the messages, committed or not "+
		"[MQTT5-4.6.0-2] [MQTT5-4.6.0-3] [MQTT311-4.6.0-2] [MQTT311-4.6.0-3]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for id := range uint16(60) {
			change := []func(*packet.Publish){brokertest.QoS(1+byte(id%2), id+1)}
			if id%3 == 0 {
				change = append(change, brokertest.Retained)
			}
			c.Publish(fmt.Sprint("t/", id), "p", change...)
		}
		for id := range uint16(60) {
			c.ExpectAck([]packet.Type{packet.TypePuback, packet.TypePubrec}[id%2], id+1, packet.Success)
		}
	})
}

func TestSending(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "QoS 0 goes out without DUP and identifier; DUP of the publisher is not passed on "+
		"[MQTT5-4.3.1-1] [MQTT5-3.3.1-2] [MQTT5-3.3.1-3] [MQTT5-2.2.1-2] "+
		"[MQTT311-4.3.1-1] [MQTT311-3.3.1-2] [MQTT311-3.3.1-3] [MQTT311-2.3.1-5]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for max := range byte(3) {
			subscriber := w.client(v, fmt.Sprint("subscriber", max))
			subscriber.Subscribe("a", max)
			c.Publish("a", "p", brokertest.QoS(1, 1), dup)
			c.ExpectAck(packet.TypePuback, 1, packet.Success)
			c.Publish("a", "p", brokertest.QoS(2, 2), dup)
			c.ExpectAck(packet.TypePubrec, 2, packet.Success)
			c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 2})
			c.ExpectAck(packet.TypePubcomp, 2, packet.Success)
			for qos := range byte(2) {
				m := subscriber.ExpectMessage("a", "p")
				require.False(t, m.Dup)
				require.Equal(t, min(max, qos+1), m.QoS)
				require.Equal(t, m.QoS == 0, m.PacketID == 0)
			}
		}
	})
	inEachVersion(t, "QoS 1 goes out once, without DUP, under an unused identifier, and counts until its PUBACK "+
		"[MQTT5-4.3.2-1] [MQTT5-4.3.2-2] [MQTT5-4.3.2-3] [MQTT5-2.2.1-4] "+
		"[MQTT311-4.3.2-1] [MQTT311-2.3.1-4]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 1)
		used := map[uint16]bool{0: true}
		var under []packet.Publish
		for i := range 20 {
			w.publish(&message.Message{Topic: "a", Payload: []byte("p"), QoS: 1})
			m := c.ExpectMessage("a", "p")
			require.EqualValues(t, 1, m.QoS)
			require.False(t, m.Dup)
			require.False(t, used[m.PacketID], "identifier %d", m.PacketID)
			used[m.PacketID] = true
			under = append(under, m)
			if i%2 == 1 { // every other message is acknowledged, in any order
				acknowledge(c, m)
				c.ExpectNothing()
				under = under[:len(under)-1]
			}
			require.Equal(t, len(under), w.inflight("c"))
		}
		for _, m := range under {
			acknowledge(c, m)
		}
		c.ExpectNothing()
		require.Zero(t, w.inflight("c"))
	})
	inEachVersion(t, "QoS 2 goes out once, without DUP, under an unused identifier; PUBREC brings PUBREL, again where it comes again, "+
		"and it counts until its PUBCOMP "+
		"[MQTT5-4.3.3-1] [MQTT5-4.3.3-2] [MQTT5-4.3.3-3] [MQTT5-4.3.3-4] [MQTT5-4.3.3-5] [MQTT5-4.3.3-6] [MQTT311-4.3.3-1]",
		func(t told, w *world, v packet.Version) {
			c := w.client(v, "c")
			c.Subscribe("a", 2)
			used := map[uint16]bool{0: true}
			for range 5 {
				w.publish(&message.Message{Topic: "a", Payload: []byte("p"), QoS: 2})
				m := c.ExpectMessage("a", "p")
				require.EqualValues(t, 2, m.QoS)
				require.False(t, m.Dup)
				require.False(t, used[m.PacketID], "identifier %d", m.PacketID)
				used[m.PacketID] = true
				require.Equal(t, 1, w.inflight("c"))
				for range 2 {
					c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
					c.ExpectAck(packet.TypePubrel, m.PacketID, packet.Success)
					c.ExpectNothing()
				}
				require.Equal(t, 1, w.inflight("c"))
				c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: m.PacketID})
				c.ExpectNothing()
				require.Zero(t, w.inflight("c"))
			}
		})
	inEachVersion(t, "PUBRELs leave in the order of the PUBRECs [MQTT5-4.6.0-4] [MQTT311-4.6.0-4]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 2)
		var ids []uint16
		for range 5 {
			w.publish(&message.Message{Topic: "a", QoS: 2})
			ids = append(ids, c.ExpectMessage("a", "").PacketID)
		}
		for _, i := range []int{3, 0, 4, 1, 2} {
			c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: ids[i]})
		}
		for _, i := range []int{3, 0, 4, 1, 2} {
			c.ExpectAck(packet.TypePubrel, ids[i], packet.Success)
		}
	})
	inEachVersionsTime(t, "nothing is sent again while the connection lasts [~MQTT5-4.4.0-1]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 2)
		w.publish(&message.Message{Topic: "a", Payload: []byte("1"), QoS: 1}, &message.Message{Topic: "a", Payload: []byte("2"), QoS: 2})
		c.ExpectMessage("a", "1")
		m := c.ExpectMessage("a", "2")
		time.Sleep(24 * time.Hour) //nolint:forbidigo // virtual time
		c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
		c.ExpectAck(packet.TypePubrel, m.PacketID, packet.Success)
		time.Sleep(24 * time.Hour) //nolint:forbidigo // virtual time
		c.ExpectNothing()
	})
	inEachVersionsTime(t, "a QoS 2 message that expires on its way is carried to its end [MQTT5-4.3.3-7]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		c.Subscribe("a", 2)
		w.publish(&message.Message{Topic: "a", QoS: 2, Expires: time.Now().Add(time.Second)})
		m := c.ExpectMessage("a", "")
		time.Sleep(time.Hour) //nolint:forbidigo // virtual time
		acknowledge(c, m)
		c.ExpectNothing()
		require.Zero(t, w.inflight("c"))
	})
	t.Run("a message that waits for quota says what is left of its time, and is dropped when nothing is "+
		"[MQTT5-3.3.2-5] [MQTT5-3.3.2-6]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(packet.V5)
			c.Connect("c", receiveMaximum(1))
			c.Subscribe("a", 1)
			for i, lifetime := range []time.Duration{time.Hour, 10 * time.Second, 100 * time.Second} {
				w.publish(&message.Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 1, Expires: time.Now().Add(lifetime)})
			}
			m := c.ExpectMessage("a", "0")
			require.EqualValues(t, 3600, m.Properties.MessageExpiry)
			time.Sleep(30 * time.Second) //nolint:forbidigo // virtual time
			acknowledge(c, m)
			m = c.ExpectMessage("a", "2")
			require.EqualValues(t, 70, m.Properties.MessageExpiry)
			acknowledge(c, m)
			c.ExpectNothing()
			require.Equal(t, 1, w.observer.Count("dropped expired"))
		})
	})
	inEachVersion(t, "messages of one client come in the order they were published, for each topic and QoS "+
		"[MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]", func(t told, w *world, v packet.Version) {
		const n = 200
		subscribers := []*brokertest.Client{w.client(v, "exact"), w.client(v, "wild"), w.client(v, "both")}
		for i, filters := range [][]string{{"a/0", "a/1"}, {"a/+"}, {"a/#", "+/0", "+/1"}} {
			for _, f := range filters {
				subscribers[i].Subscribe(f, 2)
			}
		}
		for _, name := range []string{"first", "second"} {
			c := w.client(v, name)
			go func() {
				for i := range n {
					if c.TrySend((&packet.Publish{
						Topic: fmt.Append(nil, "a/", i%2), Payload: fmt.Appendf(nil, "%s %04d", name, i), QoS: byte(i / 2 % 3),
						PacketID: uint16(i/2%3) * (uint16(i) + 1), Retain: i%5 == 0,
					}).Append(nil, v)); i/2%3 != 2 {
						continue
					}
					c.TrySend((&packet.Ack{Kind: packet.TypePubrel, PacketID: 2 * (uint16(i) + 1)}).Append(nil, v))
				}
			}()
			go func() { // the answers are read by who wants none of them
				for {
					if _, err := c.Next(); err != nil {
						return
					}
				}
			}()
		}
		for _, c := range subscribers {
			last := map[string]string{}
			for range 2 * n {
				m := nextMessage(t, c)
				key := fmt.Sprint(string(m.Topic), m.QoS, string(m.Payload[:5]))
				require.Greater(t, string(m.Payload), last[key])
				last[key] = string(m.Payload)
			}
		}
	})
}

// complete publishes, and goes through the handshake that the QoS asks for.
func complete(c *brokertest.Client, topic, payload string, qos byte, change ...func(*packet.Publish)) {
	var id uint16
	if qos > 0 {
		id = 9
	}
	c.Publish(topic, payload, append(change, brokertest.QoS(qos, id))...)
	switch qos {
	case 1:
		c.ExpectAck(packet.TypePuback, id, packet.Success)
	case 2:
		c.ExpectAck(packet.TypePubrec, id, packet.Success)
		c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: id})
		c.ExpectAck(packet.TypePubcomp, id, packet.Success)
	}
}

// nextMessage takes the next PUBLISH and acknowledges it; PUBRELs are answered on the way.
func nextMessage(tb testing.TB, c *brokertest.Client) packet.Publish {
	tb.Helper()
	for {
		p, err := c.Next()
		require.NoError(tb, err)
		switch p := p.(type) {
		case *packet.Ack:
			c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: p.PacketID})
		case *packet.Publish:
			m := *p
			switch m.QoS {
			case 1:
				c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
			case 2:
				c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
			}
			return m
		}
	}
}

func TestRetaining(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "a retained message takes the place of the one before, at whatever QoS, and one without RETAIN leaves it alone "+
		"[MQTT5-3.3.1-5] [MQTT5-3.3.1-8] [MQTT311-3.3.1-5] [MQTT311-3.3.1-7] [MQTT311-3.3.1-12]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for i, retained := range []struct{ before, qos byte }{{1, 0}, {0, 2}, {2, 1}, {1, 0}} {
			complete(c, "a", "before", retained.before, brokertest.Retained)
			complete(c, "a", "kept", retained.qos, brokertest.Retained)
			complete(c, "a", "passing", 1)
			complete(c, "b", "passing", 2)
			complete(c, "a", "", 0)
			require.Eventually(t, func() bool { return len(w.store.Log(1)) == 2*i+2 }, brokertest.Patience, tick)
			late := w.client(v, "late")
			late.Subscribe("#", 2)
			m := late.ExpectMessage("a", "kept")
			require.Equal(t, retained.qos, m.QoS)
			require.True(t, m.Retain)
			acknowledge(late, m)
			late.ExpectNothing()
		}
	})
	inEachVersion(t, "an empty one goes to who is subscribed without RETAIN, removes what was retained and is not itself retained "+
		"[MQTT5-3.3.1-6] [MQTT5-3.3.1-7] [MQTT5-3.3.1-12] [MQTT311-3.3.1-9] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11]",
		func(t told, w *world, v packet.Version) {
			watcher, c := w.client(v, "watcher"), w.client(v, "c")
			watcher.Subscribe("a", 0)
			for _, payload := range []string{"kept", "", ""} {
				c.Publish("a", payload, brokertest.Retained)
				require.False(t, watcher.ExpectMessage("a", payload).Retain)
			}
			late := w.client(v, "late")
			late.Subscribe("#", 0)
			late.ExpectNothing()
			kept, err := w.broker.Retained(1, "#", "", 0)
			require.NoError(t, err)
			require.Empty(t, kept)
		})
	inEachVersion(t, "a new subscription brings the last retained message of each topic that matches, with RETAIN; live ones come without "+
		"[MQTT5-3.3.1-9] [MQTT5-3.3.1-12] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8] [MQTT311-3.3.1-9]", func(t told, w *world, v packet.Version) {
		w.retain(5)
		w.publish(&message.Message{Topic: "b", Retain: true, Payload: []byte("p")})
		w.publish(&message.Message{Topic: nth(0), Retain: true, Payload: []byte("newer")})
		c := w.client(v, "c")
		c.Subscribe("a/+", 0)
		got := map[string]string{}
		for range 5 {
			m := *brokertest.Expect[*packet.Publish](c)
			require.True(t, m.Retain)
			got[string(m.Topic)] = string(m.Payload)
		}
		require.Equal(t, map[string]string{nth(0): "newer", nth(1): "p", nth(2): "p", nth(3): "p", nth(4): "p"}, got)
		for _, retain := range []bool{true, false} {
			w.publish(&message.Message{Topic: nth(0), Retain: retain, Payload: []byte("live")})
			require.False(t, c.ExpectMessage(nth(0), "live").Retain)
		}
		c.ExpectNothing()
	})
}

func TestTopicName(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "is the one that was published to, and the subscription matches it "+
		"[MQTT5-3.3.2-3] [MQTT5-4.5.0-1] [MQTT311-3.3.2-3] [MQTT311-4.5.0-1]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for filter, names := range map[string][]string{
			"+/b": {"a/b", "/b"}, "a/#": {"a", "a/", "a/b", "a/b/c"}, "/": {"/"}, "ü/+": {"ü/雪"},
		} {
			subscriber := w.client(v, "to "+filter)
			subscriber.Subscribe(filter, 0)
			for _, name := range names {
				c.Publish(name, "p")
				subscriber.ExpectMessage(name, "p")
			}
			for _, name := range []string{"c", "b/a", "ab", "U/雪"} {
				c.Publish(name, "p")
			}
			c.ExpectNothing()
			subscriber.ExpectNothing()
		}
	})
	inEachVersion(t, "that begins with $ is not reached by a wildcard [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for _, filter := range []string{"#", "+/result", "$auth/result"} {
			c.Subscribe(filter, 0)
		}
		c.Publish("$auth/token", "user ttl:1h")
		c.ExpectMessage("$auth/result", `{"event":"token_renewed"}`)
		c.ExpectNothing()
	})
}

func TestAlias(t *testing.T) {
	t.Parallel()
	t.Run("every one from 1 to the announced maximum is taken [MQTT5-3.3.2-12]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher, c := w.client(packet.V5, "watcher"), w.client(packet.V5, "c")
		watcher.Subscribe("#", 0)
		for _, named := range []bool{true, false} {
			for alias := range brokertest.Limits().TopicAliasMaximum {
				topic := fmt.Sprint("t/", alias)
				if named {
					c.Publish(topic, "p", topicAlias(alias+1))
				} else {
					c.Publish("", "p", topicAlias(alias+1))
				}
				watcher.ExpectMessage(topic, "p")
			}
		}
	})
	t.Run("none is taken where the server has turned them off [MQTT5-3.2.2-18]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.TopicAliasMaximum = 0
		w.SetLimits(l)
		c := w.dial(packet.V5)
		require.Zero(t, c.Connect("c").Properties.TopicAliasMaximum)
		c.Publish("a", "p", topicAlias(1))
		c.ExpectEnd(packet.TopicAliasInvalid)
	})
	t.Run("none is sent to who has no Topic Alias Maximum, or 0 [MQTT5-3.1.2-27]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, p := range []packet.Properties{{}, {Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 0}} {
			c := w.dial(packet.V5)
			c.Connect("c", properties(p))
			c.Subscribe("a", 0)
			for range 3 {
				w.publish(&message.Message{Topic: "a"})
				require.Nil(t, c.ExpectMessage("a", "").Properties)
			}
		}
	})
	t.Run("none outlives its connection, either way [MQTT5-3.3.2-7]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		connect := func() *brokertest.Client {
			c := w.dial(packet.V5)
			c.Connect("c", properties(packet.Properties{Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 5}))
			c.Subscribe("a", 0)
			return c
		}
		c := connect()
		c.Publish("a", "1", topicAlias(1))
		require.EqualValues(t, 1, c.ExpectMessage("a", "1").Properties.TopicAlias)
		c.Publish("", "2", topicAlias(1))
		require.EqualValues(t, 1, c.ExpectMessage("", "2").Properties.TopicAlias)
		again := connect()
		c.ExpectEnd(packet.SessionTakenOver)
		w.publish(&message.Message{Topic: "a", Payload: []byte("3")})
		again.ExpectMessage("a", "3")
		again.Publish("", "4", topicAlias(1))
		again.ExpectEnd(packet.ProtocolError)
	})
	t.Run("one of the server's is never 0, never above the client's maximum, and stands for one topic [MQTT5-3.1.2-26] [MQTT5-3.3.2-8] [MQTT5-3.3.2-11]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 3}))
		c.Subscribe("#", 0)
		topics := map[uint16]string{}
		for i := range 30 {
			topic := fmt.Sprint("t/", i%6)
			w.publish(&message.Message{Topic: topic})
			m := *brokertest.Expect[*packet.Publish](c)
			if m.Properties == nil {
				require.Equal(t, topic, string(m.Topic))
				continue
			}
			alias := m.Properties.TopicAlias
			require.True(t, alias >= 1 && alias <= 3, "alias %d", alias)
			if len(m.Topic) > 0 {
				topics[alias] = string(m.Topic)
			}
			require.Equal(t, topic, topics[alias])
		}
		require.Len(t, topics, 3)
	})
}

func TestMaximumPacketSize(t *testing.T) {
	t.Parallel()
	limited := func(max uint32) func(*packet.Connect) {
		return properties(packet.Properties{Has: packet.PropMaximumPacketSize, MaximumPacketSize: max})
	}
	t.Run("a message above it is dropped for that client alone, uses up nothing, and the next ones follow "+
		"[MQTT5-3.1.2-24] [MQTT5-3.1.2-25]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		other, c := w.client(packet.V5, "other"), w.dial(packet.V5)
		c.Connect("c", func(p *packet.Connect) {
			p.Properties = &packet.Properties{
				Has: packet.PropMaximumPacketSize | packet.PropReceiveMaximum, MaximumPacketSize: 50, ReceiveMaximum: 1,
			}
		})
		for _, one := range []*brokertest.Client{other, c} {
			one.Subscribe("a", 2)
		}
		for qos := range byte(3) {
			for _, payload := range []string{string(make([]byte, 100)), "fits"} {
				w.publish(&message.Message{Topic: "a", Payload: []byte(payload), QoS: qos})
				acknowledge(other, other.ExpectMessage("a", payload))
			}
			acknowledge(c, c.ExpectMessage("a", "fits"))
		}
		c.ExpectNothing()
		require.Equal(t, 3, w.observer.Count("dropped packet_too_large"))
		require.Zero(t, w.inflight("c"))
	})
	t.Run("no answer is made larger than it by a Reason String or User Properties "+
		"[MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2] [MQTT5-3.5.2-3] [MQTT5-3.6.2-2] "+
		"[MQTT5-3.6.2-3] [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1] [MQTT5-3.9.2-2] [MQTT5-3.11.2-1] [MQTT5-3.11.2-2] "+
		"[MQTT5-3.14.2-3] [MQTT5-3.14.2-4]", func(t *testing.T) {
		t.Parallel()
		const max = 20 // of CONNACK, and more than any other answer needs
		w := newWorld(t)
		answersToTroubles(t, w, limited(max), func(p packet.Packet) {
			require.LessOrEqual(t, len(p.Append(nil, packet.V5)), max, "%T %+v", p, p)
		})
	})
	t.Run("who wants no problem information gets no Reason String or User Properties [MQTT5-3.1.2-29]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		none := properties(packet.Properties{Has: packet.PropRequestProblemInfo, RequestProblemInfo: 0})
		answersToTroubles(t, w, none, func(p packet.Packet) {
			var props *packet.Properties
			switch p := p.(type) {
			case *packet.Ack:
				props = p.Properties
			case *packet.Suback:
				props = p.Properties
			case *packet.Unsuback:
				props = p.Properties
			}
			require.Nil(t, props, "%T %+v", p, p)
		})
	})
}

// answersToTroubles shows every kind of answer to a client that is refused all there is.
func answersToTroubles(t *testing.T, w *world, connect func(*packet.Connect), show func(packet.Packet)) {
	t.Helper()
	w.SetRules(brokertest.Rules{
		Publish:   func(_, topic string) bool { return topic != "secret/from/everybody" },
		Subscribe: func(_, filter string) bool { return filter != "secret/from/everybody" },
	})
	refused := w.dial(packet.V5)
	refused.Send(connectOf(packet.V5, "c", connect, password("wrong")))
	show(brokertest.Expect[*packet.Connack](refused))
	c := w.dial(packet.V5)
	show(c.Connect("c", connect))
	c.Send(
		&packet.Publish{Topic: []byte("secret/from/everybody"), QoS: 1, PacketID: 1},
		&packet.Publish{Topic: []byte("secret/from/everybody"), QoS: 2, PacketID: 2},
		&packet.Ack{Kind: packet.TypePubrel, PacketID: 3}, // which is not under way
		&packet.Ack{Kind: packet.TypePubrec, PacketID: 4},
		&packet.Subscribe{PacketID: 5, Subscriptions: []packet.Subscription{{Filter: "secret/from/everybody"}, {Filter: strings.Repeat("a/", 40)}}},
		&packet.Unsubscribe{PacketID: 6, Filters: []string{"never/subscribed"}},
	)
	kinds := map[packet.Type]bool{}
	for range 6 {
		p, err := c.Next()
		require.NoError(t, err)
		show(p)
		kinds[p.Type()] = true
	}
	require.Len(t, kinds, 6)
	c.SendBytes([]byte{0xC1, 0})
	show(brokertest.Expect[*packet.Disconnect](c))
	wantClosed(t, c)
}

func TestReceiveMaximum(t *testing.T) {
	t.Parallel()
	t.Run("is what may be under way to a client from the beginning; QoS 0 and all answers go on when it is used up "+
		"[MQTT5-3.3.4-9] [MQTT5-3.3.4-10] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] [MQTT5-4.9.0-3]", func(t *testing.T) {
		t.Parallel()
		for _, max := range []uint16{1, 2, 7} {
			w := newWorld(t)
			c := w.dial(packet.V5)
			c.Connect("c", receiveMaximum(max))
			c.Subscribe("a", 2)
			for i := range 20 {
				w.publish(&message.Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 1 + byte(i%2)})
			}
			var under []packet.Publish
			for i := range int(max) {
				under = append(under, c.ExpectMessage("a", fmt.Sprint(i)))
			}
			c.ExpectNothing()
			// All else is handled and answered.
			w.publish(&message.Message{Topic: "a", Payload: []byte("QoS 0")})
			c.ExpectMessage("a", "QoS 0")
			require.Equal(t, packet.GrantedQoS1, c.Subscribe("b", 1))
			c.Send(&packet.Unsubscribe{PacketID: 9, Filters: []string{"b"}})
			require.EqualValues(t, 9, brokertest.Expect[*packet.Unsuback](c).PacketID)
			publishEachQoS(c)
			for _, m := range under { // each that is acknowledged lets one more through
				acknowledge(c, m)
				c.ExpectMessage("a", fmt.Sprint(max))
				c.ExpectNothing()
				max++
			}
		}
	})
}

package conn_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	t.Run("QoS 0, 1 and 2 reach a subscriber of each QoS at the lower of both [MQTT5-3.8.4-8]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				publisher := w.client(v, "publisher")
				var subscribers []*brokertest.Client
				for qos := range byte(3) {
					c := w.client(v, fmt.Sprint("subscriber", qos))
					require.Equal(t, packet.ReasonCode(qos), c.Subscribe("a/+", qos))
					subscribers = append(subscribers, c)
				}
				publishEachQoS(publisher)
				for max, c := range subscribers {
					for qos := range 3 {
						m := c.ExpectMessage(fmt.Sprint("a/", qos), "p")
						require.EqualValues(t, min(qos, max), m.QoS)
						acknowledge(c, m)
					}
					c.ExpectNothing()
				}
			})
		}
	})
	t.Run("a QoS 2 message that comes twice is published once [MQTT5-4.3.3-10]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c := w.client(v, "c")
				c.Subscribe("a", 0)
				c.Publish("a", "first", brokertest.QoS(2, 7))
				c.ExpectAck(packet.TypePubrec, 7, packet.Success)
				c.ExpectMessage("a", "first")
				c.Publish("a", "first", brokertest.QoS(2, 7), func(p *packet.Publish) { p.Dup = true })
				c.ExpectAck(packet.TypePubrec, 7, packet.Success)
				c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 7})
				c.ExpectAck(packet.TypePubcomp, 7, packet.Success)
				c.Publish("a", "second", brokertest.QoS(2, 7))
				c.ExpectAck(packet.TypePubrec, 7, packet.Success)
				c.ExpectMessage("a", "second")
			})
		}
	})
	t.Run("a denied publish is told to 5.0 and acknowledged to 3.1.1, and seen by nobody [MQTT311-3.3.5-2]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.SetRules(brokertest.Rules{Publish: func(_, topic string) bool { return topic != "secret" }})
				want := packet.Success
				if v == packet.V5 {
					want = packet.NotAuthorized
				}
				c := w.client(v, "c")
				c.Subscribe("#", 0)
				c.Publish("secret", "x")
				c.Publish("secret", "x", brokertest.QoS(1, 1), brokertest.Retained)
				c.ExpectAck(packet.TypePuback, 1, want)
				c.Publish("secret", "x", brokertest.QoS(2, 2))
				c.ExpectAck(packet.TypePubrec, 2, want)
				c.ExpectNothing()
				require.Equal(t, 3, w.observer.Count("denied publish"))
				require.Empty(t, w.store.Log(1))
			})
		}
	})
	t.Run("the setting denied_publish disconnects 3.1.1", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(brokertest.Rules{Publish: func(string, string) bool { return false }})
		w.SetSettings(broker.Settings{DeniedPublishDisconnects: true})
		c := w.client(packet.V311, "c")
		c.Publish("secret", "x", brokertest.QoS(1, 1))
		c.ExpectEnd(0)
	})
	t.Run("what is over a limit is counted, and closes 3.1.1 where it closes denied publishes", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.RetainedCountMax, l.TopicBytesMax = 0, 10
		w.SetLimits(l)
		c := w.client(packet.V311, "c")
		c.Publish("a", "x", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, 0)
		c.Publish("a/topic/too/long", "x", brokertest.QoS(1, 2))
		c.ExpectAck(packet.TypePuback, 2, 0)
		require.Equal(t, 2, w.observer.Count("dropped refused"))
		require.Empty(t, w.store.Log(1))
		w.SetSettings(broker.Settings{DeniedPublishDisconnects: true})
		c = w.client(packet.V311, "d")
		c.Publish("a", "x", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectEnd(0)
	})
	t.Run("a packet by alias is as large as it is, not as its topic would make it", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.PacketBytesMax = 200
		w.SetLimits(l)
		c := w.client(packet.V5, "c")
		alias := func(p *packet.Publish) {
			p.Properties = &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: 1}
		}
		c.Publish(strings.Repeat("t", 100), "x", brokertest.QoS(1, 1), alias)
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.Publish("", strings.Repeat("x", 150), brokertest.QoS(1, 2), alias)
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
	})
	t.Run("acknowledgements leave in the order of arrival [MQTT5-4.6.0-2]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		for id := range uint16(60) {
			change := []func(*packet.Publish){brokertest.QoS(1, id+1)}
			if id%3 == 0 {
				change = append(change, brokertest.Retained)
			}
			c.Publish(fmt.Sprint("t/", id), "p", change...)
		}
		for id := range uint16(60) {
			c.ExpectAck(packet.TypePuback, id+1, packet.Success)
		}
	})
	t.Run("$ topics are not for clients", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Publish("$SYS/x", "x", brokertest.QoS(1, 1))
		require.Equal(t, []byte{0x40, 3, 0, 1, 0x87}, brokertest.Expect[*packet.Ack](c).Append(nil, packet.V5))
	})
	t.Run("a payload that is not the text it promises is refused", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Publish("a", "\xff", brokertest.QoS(1, 1), func(p *packet.Publish) {
			p.Properties = &packet.Properties{Has: packet.PropPayloadFormat, PayloadFormat: 1}
		})
		c.ExpectAck(packet.TypePuback, 1, packet.PayloadFormatInvalid)
	})
	t.Run("properties reach subscribers unaltered and in order "+
		"[MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18] [MQTT5-3.3.2-20]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		c.Subscribe("a", 0)
		sent := packet.Properties{
			Has: packet.PropPayloadFormat | packet.PropContentType | packet.PropResponseTopic | packet.PropCorrelationData |
				packet.PropUser | packet.PropMessageExpiry,
			PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{0, 1}, MessageExpiry: 60,
			User: []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
		}
		c.Publish("a", "p", func(p *packet.Publish) { p.Properties = &sent })
		m := c.ExpectMessage("a", "p")
		require.Equal(t, sent, *m.Properties)
		old := w.client(packet.V311, "old")
		old.Subscribe("a", 0)
		c.Publish("a", "p", func(p *packet.Publish) { p.Properties = &sent })
		old.ExpectMessage("a", "p")
	})
	t.Run("an expired message is not delivered, one that waited says what is left [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.client(packet.V5, "c")
			c.Publish("a", "p", brokertest.Retained, func(p *packet.Publish) {
				p.Properties = &packet.Properties{Has: packet.PropMessageExpiry, MessageExpiry: 10}
			})
			c.ExpectNothing()
			time.Sleep(4500 * time.Millisecond) //nolint:forbidigo // virtual time
			c.Subscribe("a", 0)
			require.EqualValues(t, 6, c.ExpectMessage("a", "p").Properties.MessageExpiry)
			time.Sleep(6 * time.Second) //nolint:forbidigo // virtual time
			c.Subscribe("a", 0)
			c.ExpectNothing()
			log := w.store.Log(1)
			require.Len(t, log, 2, "the end of a retained message is an entry of the log")
			require.True(t, log[1].Clears())
		})
	})
}

func TestAcknowledge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		qos  byte
		acks []packet.Type
	}{
		"a PUBREC for QoS 1":                {1, []packet.Type{packet.TypePubrec}},
		"a PUBCOMP for QoS 1":               {1, []packet.Type{packet.TypePubcomp}},
		"a PUBACK for QoS 2":                {2, []packet.Type{packet.TypePuback}},
		"a PUBCOMP before the PUBREC":       {2, []packet.Type{packet.TypePubcomp}},
		"a PUBACK after the PUBREC (QoS 2)": {2, []packet.Type{packet.TypePubrec, packet.TypePuback}},
	} {
		t.Run(name+" is a protocol error", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.client(packet.V5, "c")
			c.Subscribe("a", 2)
			_, err := w.broker.Publish(t.Context(), broker.Publication{App: 1, Messages: []*message.Message{{Topic: "a", QoS: test.qos}}})
			require.NoError(t, err)
			m := c.ExpectMessage("a", "")
			for i, kind := range test.acks {
				c.Send(&packet.Ack{Kind: kind, PacketID: m.PacketID})
				if i < len(test.acks)-1 {
					c.ExpectAck(packet.TypePubrel, m.PacketID, packet.Success)
				}
			}
			c.ExpectEnd(packet.ProtocolError)
		})
	}
	t.Run("what is not under way is released once more", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := newWorld(t).client(v, "c")
				c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: 5}, &packet.Ack{Kind: packet.TypePubcomp, PacketID: 6},
					&packet.Ack{Kind: packet.TypePubrec, PacketID: 7}, &packet.Ack{Kind: packet.TypePubrel, PacketID: 8})
				c.ExpectAck(packet.TypePubrel, 7, packet.Success)
				c.ExpectAck(packet.TypePubcomp, 8, packet.Success)
				c.ExpectNothing()
			})
		}
	})
}

func publishEachQoS(c *brokertest.Client) {
	c.Publish("a/0", "p")
	c.Publish("a/1", "p", brokertest.QoS(1, 1))
	c.Publish("a/2", "p", brokertest.QoS(2, 2))
	c.ExpectAck(packet.TypePuback, 1, packet.Success)
	c.ExpectAck(packet.TypePubrec, 2, packet.Success)
	c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 2})
	c.ExpectAck(packet.TypePubcomp, 2, packet.Success)
}

// acknowledge answers a message as a client has to.
func acknowledge(c *brokertest.Client, m packet.Publish) {
	switch m.QoS {
	case 1:
		c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
	case 2:
		c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
		c.ExpectAck(packet.TypePubrel, m.PacketID, packet.Success)
		c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: m.PacketID})
	}
}

func TestFlowControl(t *testing.T) {
	t.Parallel()
	t.Run("no more than the client's Receive Maximum is in flight [MQTT5-3.3.4-9]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{Has: packet.PropReceiveMaximum, ReceiveMaximum: 2}))
		c.Subscribe("a", 1)
		publisher := w.client(packet.V5, "publisher")
		for i := range 5 {
			publisher.Publish("a", fmt.Sprint(i), brokertest.QoS(1, 1))
			publisher.ExpectAck(packet.TypePuback, 1, packet.Success)
		}
		publisher.Publish("a", "not counted")
		first, second := c.ExpectMessage("a", "0"), c.ExpectMessage("a", "1")
		c.ExpectMessage("a", "not counted")
		c.ExpectNothing()
		acknowledge(c, second)
		acknowledge(c, c.ExpectMessage("a", "2"))
		acknowledge(c, c.ExpectMessage("a", "3"))
		acknowledge(c, first)
		acknowledge(c, c.ExpectMessage("a", "4"))
	})
	t.Run("more than the server's Receive Maximum ends a 5.0 connection [MQTT5-3.3.4-7]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := w.holdCommits()
		c := w.client(packet.V5, "c")
		for id := range uint16(101) {
			c.Publish("a", "p", brokertest.QoS(1, id+1), brokertest.Retained)
		}
		c.ExpectEnd(packet.ReceiveMaximumExceeded)
		release()
	})
	t.Run("a 3.1.1 client with more is held, not ended", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := w.holdCommits()
		c := w.client(packet.V311, "c")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for id := range uint16(300) {
				c.Publish("a", "p", brokertest.QoS(1, id+1), brokertest.Retained)
			}
		}()
		release()
		for id := range uint16(300) {
			c.ExpectAck(packet.TypePuback, id+1, packet.Success)
		}
		<-sent
	})
	t.Run("a rate above the limit is slowed down, not lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.PublishRateMax = 10
			w.SetLimits(l)
			c := w.client(packet.V5, "c")
			began := time.Now()
			for id := range uint16(30) {
				c.Publish("a", "p", brokertest.QoS(1, id+1))
				c.ExpectAck(packet.TypePuback, id+1, packet.Success)
			}
			require.InDelta(t, 2, time.Since(began).Seconds(), 0.2)
		})
	})
}

// holdCommits makes commits wait until release is called.
func (w *world) holdCommits() (release func()) {
	open := make(chan struct{})
	w.store.BeforeCommit = func(broker.Batch) error {
		<-open
		return nil
	}
	return func() { close(open) }
}

func TestTopicAlias(t *testing.T) {
	t.Parallel()
	alias := func(n uint16) func(*packet.Publish) {
		return func(p *packet.Publish) {
			p.Properties = &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: n}
		}
	}
	t.Run("an alias of the client's stands for its topic, and is its own [MQTT5-3.3.2-7]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		c.Subscribe("#", 0)
		c.Publish("a", "1", alias(3))
		c.Publish("", "2", alias(3))
		c.Publish("b", "3", alias(3))
		c.Publish("", "4", alias(3))
		for i, topic := range []string{"a", "a", "b", "b"} {
			m := c.ExpectMessage(topic, fmt.Sprint(i+1))
			require.Nil(t, m.Properties, "the client asked for no aliases [MQTT5-3.1.2-26]")
		}
	})
	for name, test := range map[string]struct {
		topic  string
		alias  uint16
		reason packet.ReasonCode
	}{
		"an unknown alias is a protocol error":                                            {"", 5, packet.ProtocolError},
		"an alias above the server's maximum is invalid [MQTT5-3.2.2-17] [MQTT5-3.3.2-9]": {"a", 101, packet.TopicAliasInvalid},
		"an alias of 0 is invalid [MQTT5-3.3.2-8]":                                        {"a", 0, packet.TopicAliasInvalid},
		"the largest alias that is allowed is not yet known":                              {"", 100, packet.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newWorld(t).client(packet.V5, "c")
			c.Publish(test.topic, "x", alias(test.alias))
			c.ExpectEnd(test.reason)
		})
	}
	t.Run("the server gives aliases to topics while the client allows more [MQTT5-3.1.2-26] [MQTT5-3.3.2-10] [MQTT5-3.3.2-11]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 1}))
		c.Subscribe("#", 0)
		publisher := w.client(packet.V5, "publisher")
		for _, topic := range []string{"a", "a", "b", "a"} {
			publisher.Publish(topic, "p")
		}
		first := c.ExpectMessage("a", "p")
		require.EqualValues(t, 1, first.Properties.TopicAlias)
		require.EqualValues(t, 1, c.ExpectMessage("", "p").Properties.TopicAlias)
		require.Nil(t, c.ExpectMessage("b", "p").Properties)
		require.EqualValues(t, 1, c.ExpectMessage("", "p").Properties.TopicAlias)
	})
	t.Run("a message that is dropped strands no alias", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{
			Has: packet.PropTopicAliasMaximum | packet.PropMaximumPacketSize, TopicAliasMaximum: 1, MaximumPacketSize: 50,
		}))
		c.Subscribe("#", 0)
		publisher := w.client(packet.V5, "publisher")
		publisher.Publish("a", strings.Repeat("x", 100))
		publisher.Publish("a", "small")
		require.EqualValues(t, 1, c.ExpectMessage("a", "small").Properties.TopicAlias)
		require.Equal(t, 1, w.observer.Count("dropped packet_too_large"))
	})
	t.Run("a message that fits only without an alias comes without", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{
			Has: packet.PropTopicAliasMaximum | packet.PropMaximumPacketSize, TopicAliasMaximum: 1, MaximumPacketSize: 20,
		}))
		c.Subscribe("a/b", 0)
		publisher := w.client(packet.V5, "publisher")
		publisher.Publish("a/b", "123456789012") // 20 bytes without an alias
		require.Nil(t, c.ExpectMessage("a/b", "123456789012").Properties)
		publisher.Publish("a/b", "1")
		require.EqualValues(t, 1, c.ExpectMessage("a/b", "1").Properties.TopicAlias)
		publisher.Publish("a/b", "123456789012")
		require.EqualValues(t, 1, c.ExpectMessage("", "123456789012").Properties.TopicAlias)
	})
}

func TestStoreAway(t *testing.T) {
	t.Parallel()
	t.Run("what needs a commit is held while the store is away, and acknowledged when it is back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			back := time.Now().Add(5 * time.Second)
			w.store.BeforeCommit = func(broker.Batch) error {
				if time.Now().Before(back) {
					return broker.ErrStoreUnavailable
				}
				return nil
			}
			c, live := w.client(packet.V5, "c"), w.client(packet.V5, "live")
			live.Subscribe("#", 0)
			c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
			live.Publish("b", "goes on")
			live.ExpectMessage("b", "goes on")
			c.ExpectAck(packet.TypePuback, 1, packet.Success)
			require.WithinDuration(t, back, time.Now(), time.Second)
			live.ExpectMessage("a", "p")
			require.Len(t, w.store.Log(1), 1)
		})
	})
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(fmt.Sprintf("after 10 s a client of version %d is disconnected, and nobody has seen the message [MQTT311-4.8.0-2]", v), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.store.BeforeCommit = func(broker.Batch) error { return broker.ErrStoreUnavailable }
				c, live := w.client(v, "c"), w.client(v, "live")
				live.Subscribe("#", 0)
				began := time.Now()
				c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
				brokertest.WithPatience(c, time.Minute).ExpectEnd(packet.ServerBusy)
				require.InDelta(t, 10, time.Since(began).Seconds(), 1)
				live.ExpectNothing()
			})
		})
	}
	t.Run("a store that refuses for good is told with PUBACK 0x80, to 3.1.1 by the close", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.store.BeforeCommit = func(broker.Batch) error { return broker.ErrStoreRefused }
		c := w.client(packet.V5, "c")
		c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, packet.UnspecifiedError)
		c.Publish("a", "p", brokertest.QoS(2, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePubrec, 1, packet.UnspecifiedError)
		old := w.client(packet.V311, "old")
		old.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
		old.ExpectEnd(0)
	})
	t.Run("an outcome that is unknown is found out, and told as it is", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		lost := errors.Join(broker.ErrOutcomeUnknown, errors.New("connection lost"))
		calls := 0
		w.store.AfterCommit = func(broker.Batch) error { // committed, and the answer lost
			if calls++; calls == 1 {
				return lost
			}
			return nil
		}
		c := w.client(packet.V5, "c")
		c.Subscribe("#", 0)
		c.Publish("a", "1", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.ExpectMessage("a", "1")
		require.Len(t, w.store.Log(1), 1, "it was not committed twice")
		w.store.AfterCommit = nil
		calls = 0
		w.store.BeforeCommit = func(broker.Batch) error { // not committed, and the answer lost
			if calls++; calls == 1 {
				return lost
			}
			return nil
		}
		c.Publish("a", "2", brokertest.QoS(1, 2), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
		c.ExpectMessage("a", "2")
		require.Len(t, w.store.Log(1), 2)
	})
	t.Run("a message behind one whose commit is under way does not overtake it", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := w.holdCommits()
		c, watcher := w.client(packet.V5, "c"), w.client(packet.V5, "watcher")
		watcher.Subscribe("#", 0)
		c.Publish("a", "1", brokertest.QoS(1, 1), brokertest.Retained)
		c.Publish("a", "2", brokertest.QoS(1, 2))
		c.Publish("a", "3")
		c.ExpectNothing()
		watcher.ExpectNothing()
		release()
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
		for i := range 3 {
			watcher.ExpectMessage("a", fmt.Sprint(i+1))
		}
		require.Len(t, w.store.Log(1), 1, "what need not be stored takes no row")
	})
}

package conn_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func TestSubscribe(t *testing.T) {
	t.Parallel()
	t.Run("each filter of a SUBSCRIBE is answered, in order "+
		"[MQTT5-3.8.4-6] [MQTT5-3.8.4-7] [MQTT5-3.9.3-1] [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.SetRules(brokertest.Rules{Subscribe: func(_, filter string) bool { return filter != "secret" }})
				denied, invalid := packet.NotAuthorized, packet.TopicFilterInvalid
				if v != packet.V5 {
					denied, invalid = packet.UnspecifiedError, packet.UnspecifiedError
				}
				c := w.client(v, "c")
				c.Send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{
					{Filter: "a", QoS: 2}, {Filter: "secret", QoS: 1}, {Filter: strings.Repeat("a/", 40)}, {Filter: "b", QoS: 1},
				}})
				ack := brokertest.Expect[*packet.Suback](c)
				require.EqualValues(t, 9, ack.PacketID)
				require.Equal(t, []packet.ReasonCode{2, denied, invalid, 1}, ack.Reasons)
				require.Equal(t, 1, w.observer.Count("denied subscribe"))
			})
		}
	})
	for _, filter := range []string{"a/#/b", "#/a", "a#", "a+", "+a/b", "$share/g/a/#/b"} {
		for name, v := range versions {
			t.Run(fmt.Sprintf("wildcards that make %q no filter end the connection, %s [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] "+
				"[MQTT311-4.7.1-2] [MQTT311-4.7.1-3] [MQTT311-4.8.0-1]", filter, name), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if v == packet.V5 || !strings.HasPrefix(filter, "$share") {
					c := w.client(v, "c")
					c.Send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{{Filter: "a"}, {Filter: filter}}})
					c.ExpectEnd(packet.MalformedPacket)
				}
				c := w.client(v, "c")
				c.Send(&packet.Unsubscribe{PacketID: 9, Filters: []string{"a", filter}})
				c.ExpectEnd(packet.MalformedPacket)
			})
		}
	}
	t.Run("overlapping subscriptions give one copy, at the highest QoS, with all identifiers [MQTT5-3.3.4-2] [MQTT5-3.3.4-4]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		for id, s := range map[uint32]packet.Subscription{1: {Filter: "a/#"}, 2: {Filter: "a/+", QoS: 1}, 3: {Filter: "+/b"}} {
			c.Send(&packet.Subscribe{
				PacketID: 1, Subscriptions: []packet.Subscription{s},
				Properties: &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{id}},
			})
			brokertest.Expect[*packet.Suback](c)
		}
		c.Publish("a/b", "p", brokertest.QoS(2, 1))
		c.ExpectAck(packet.TypePubrec, 1, packet.Success)
		m := c.ExpectMessage("a/b", "p")
		require.EqualValues(t, 1, m.QoS)
		require.ElementsMatch(t, []uint32{1, 2, 3}, m.Properties.SubscriptionIDs)
		c.ExpectNothing()
	})
	t.Run("the same filter again replaces the subscription [MQTT5-3.8.4-3]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Subscribe("a", 0)
		c.Subscribe("a", 1)
		c.Publish("a", "p", brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		require.EqualValues(t, 1, c.ExpectMessage("a", "p").QoS)
		c.ExpectNothing()
	})
	t.Run("UNSUBSCRIBE ends it, and tells what was not there [MQTT5-3.11.3-1]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Subscribe("a", 0)
		c.Send(&packet.Unsubscribe{PacketID: 4, Filters: []string{"a", "b"}})
		ack := brokertest.Expect[*packet.Unsuback](c)
		require.Equal(t, []packet.ReasonCode{packet.Success, packet.NoSubscriptionExisted}, ack.Reasons)
		c.Publish("a", "p")
		c.ExpectNothing()
	})
	t.Run("No Local keeps a client's own messages from it [MQTT5-3.8.3-3]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c, other := w.client(packet.V5, "c"), w.client(packet.V5, "other")
		c.Subscribe("a", 0, func(s *packet.Subscription) { s.NoLocal = true })
		c.Publish("a", "mine")
		c.ExpectNothing()
		other.Publish("a", "other")
		c.ExpectMessage("a", "other")
	})
	t.Run("No Local on a Shared Subscription is a protocol error [MQTT5-3.8.3-4]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "$share/g/a", NoLocal: true}}})
		c.ExpectEnd(packet.ProtocolError)
	})
	t.Run("a Shared Subscription gives each message to one member", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		members := []*brokertest.Client{w.client(packet.V5, "one"), w.client(packet.V5, "two")}
		for _, c := range members {
			c.Subscribe("$share/g/a/+", 1)
		}
		publisher := w.client(packet.V5, "publisher")
		for i := range 10 {
			publisher.Publish(fmt.Sprint("a/", i), "p")
		}
		publisher.ExpectNothing()
		total := 0
		for _, c := range members {
			got := len(c.Drain())
			require.NotZero(t, got)
			total += got
		}
		require.Equal(t, 10, total)
	})
	t.Run("the members of a Shared Subscription take turns, each group from its first", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		var members []*brokertest.Client
		for i := range 3 {
			members = append(members, w.client(packet.V5, fmt.Sprint(i)))
			members[i].Subscribe("$share/one/a", 0)
		}
		members[1].Subscribe("$share/two/a", 0)
		other := w.client(packet.V5, "other")
		other.Subscribe("$share/two/a", 0)
		for i := range 4 {
			w.publish(&message.Message{Topic: "a", Payload: fmt.Append(nil, i)})
		}
		got := func(c *brokertest.Client) (payloads []string) {
			for _, m := range c.Drain() {
				payloads = append(payloads, string(m.Payload))
			}
			return payloads
		}
		require.Equal(t, []string{"0", "3"}, got(members[0]))
		require.Equal(t, []string{"0", "1", "2"}, got(members[1]))
		require.Equal(t, []string{"2"}, got(members[2]))
		require.Equal(t, []string{"1", "3"}, got(other))
	})
	t.Run("the app's subscriptions_per_client_max is told", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.SubscriptionsPerClientMax, l.TopicLevelsMax = 1, 3
		w.SetLimits(l)
		c := w.client(packet.V5, "c")
		require.Equal(t, packet.TopicFilterInvalid, c.Subscribe("a/b/c/d", 0))
		require.Equal(t, packet.Success, c.Subscribe("a", 0))
		require.Equal(t, packet.Success, c.Subscribe("a", 0), "the same again is not another")
		require.Equal(t, packet.QuotaExceeded, c.Subscribe("b", 0))
	})
}

func TestRules(t *testing.T) {
	t.Parallel()
	t.Run("a change of rules suspends and resumes live subscriptions, and says so", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		c.Subscribe("$auth/result", 0)
		c.Subscribe("a", 0)
		w.SetRules(brokertest.Rules{Subscribe: func(_, filter string) bool { return filter != "a" }})
		w.broker.Reauthorize(1)
		c.ExpectMessage("$auth/result", `{"event":"subscription_suspended","filter":"a"}`)
		c.Publish("a", "unseen")
		c.ExpectNothing()
		w.SetRules(brokertest.Rules{})
		w.broker.Reauthorize(1)
		c.ExpectMessage("$auth/result", `{"event":"subscription_resumed","filter":"a"}`)
		c.Publish("a", "seen")
		c.ExpectMessage("a", "seen")
	})
	t.Run("the setting revoked_subscription disconnects instead", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetSettings(broker.Settings{RevokedSubscriptionDisconnects: true})
		c := w.client(packet.V5, "c")
		c.Subscribe("a", 0)
		w.SetRules(brokertest.Rules{Subscribe: func(string, string) bool { return false }})
		w.broker.Reauthorize(1)
		c.ExpectEnd(packet.NotAuthorized)
	})
	t.Run("a deny that overlaps a subscription is kept to at delivery, retained messages too", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		publisher := w.client(packet.V5, "publisher")
		publisher.Publish("a/secret", "kept", brokertest.Retained, brokertest.QoS(1, 1))
		publisher.Publish("a/open", "kept", brokertest.Retained, brokertest.QoS(1, 2))
		publisher.ExpectAck(packet.TypePuback, 1, packet.Success)
		publisher.ExpectAck(packet.TypePuback, 2, packet.Success)
		w.SetRules(brokertest.Rules{Receive: func(_, topic string) bool { return topic != "a/secret" }})
		c := w.client(packet.V5, "c")
		c.Subscribe("a/#", 0)
		c.ExpectMessage("a/open", "kept")
		publisher.Publish("a/secret", "live")
		publisher.Publish("a/open", "live")
		c.ExpectMessage("a/open", "live")
		c.ExpectNothing()
	})
	t.Run("a deleted key cuts off its clients, without their wills", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 0)
		c := w.dial(packet.V5)
		c.Connect("c", user("key"), will("wills/c", "never"))
		w.DeleteKey("key")
		w.broker.DisconnectKey(1, "key")
		c.ExpectEnd(packet.NotAuthorized)
		watcher.ExpectNothing()
	})
	t.Run("a deleted app disconnects its clients and forgets everything", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c, other := w.client(packet.V5, "c"), w.dial(packet.V5, "two")
		other.Connect("c")
		c.Publish("a", "p", brokertest.Retained, brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		w.broker.CloseApp(1)
		c.ExpectEnd(packet.NotAuthorized)
		other.ExpectNothing()
		_, err := w.broker.Retained(1, "#", "", 0)
		require.ErrorIs(t, err, broker.ErrNoSuchApp)
	})
	t.Run("a kicked client is told, and its will is sent", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		require.NoError(t, w.broker.Kick(t.Context(), 1, "c", false))
		c.ExpectEnd(packet.AdministrativeAction)
		require.ErrorIs(t, w.broker.Kick(t.Context(), 1, "c", false), broker.ErrNoSuchClient)
	})
}

func TestRetained(t *testing.T) {
	t.Parallel()
	t.Run("a new subscription gets the retained messages with the retain flag, live ones come without [MQTT5-3.3.1-6]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c := w.client(v, "c")
				c.Publish("a/1", "old", brokertest.Retained, brokertest.QoS(1, 1))
				c.Publish("a/1", "new", brokertest.Retained, brokertest.QoS(1, 2))
				c.Publish("a/2", "gone", brokertest.Retained, brokertest.QoS(1, 3))
				c.Publish("a/2", "", brokertest.Retained, brokertest.QoS(1, 4))
				for id := range uint16(4) {
					c.ExpectAck(packet.TypePuback, id+1, packet.Success)
				}
				require.Equal(t, packet.ReasonCode(1), c.Subscribe("a/#", 1))
				m := c.ExpectMessage("a/1", "new")
				require.True(t, m.Retain)
				require.EqualValues(t, 1, m.QoS)
				acknowledge(c, m)
				c.ExpectNothing()
				c.Publish("a/1", "live", brokertest.Retained)
				require.False(t, c.ExpectMessage("a/1", "live").Retain, "[MQTT5-3.3.1-12]")
				c.Publish("a/1", "", brokertest.Retained)
				require.False(t, c.ExpectMessage("a/1", "").Retain)
			})
		}
	})
	t.Run("Retain As Published keeps the flag [MQTT5-3.3.1-13]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Subscribe("a", 0, func(s *packet.Subscription) { s.RetainAsPublished = true })
		c.Publish("a", "p", brokertest.Retained)
		require.True(t, c.ExpectMessage("a", "p").Retain)
		c.Publish("a", "p")
		require.False(t, c.ExpectMessage("a", "p").Retain)
	})
	for handling, want := range [][2]bool{{true, true}, {true, false}, {false, false}} {
		t.Run(fmt.Sprintf("Retain Handling %d [MQTT5-3.3.1-%d]", handling, 9+handling), func(t *testing.T) {
			t.Parallel()
			c := newWorld(t).client(packet.V5, "c")
			c.Publish("a", "kept", brokertest.Retained, brokertest.QoS(1, 1))
			c.ExpectAck(packet.TypePuback, 1, packet.Success)
			for _, sent := range want {
				c.Subscribe("a", 0, func(s *packet.Subscription) { s.RetainHandling = byte(handling) })
				if sent {
					c.ExpectMessage("a", "kept")
				}
				c.ExpectNothing()
			}
		})
	}
	t.Run("all retained messages come, whatever their number", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		const n = 2_000
		go func() {
			for i := range n {
				c.Publish(fmt.Sprintf("a/%04d", i), "p", brokertest.Retained)
			}
		}()
		require.Eventually(t, func() bool { return len(w.store.Log(1)) == n }, brokertest.Patience, tick)
		reader := w.client(packet.V311, "reader")
		require.Equal(t, packet.ReasonCode(1), reader.Subscribe("#", 1))
		for i := range n {
			acknowledge(reader, reader.ExpectMessage(fmt.Sprintf("a/%04d", i), "p"))
		}
		reader.ExpectNothing()
	})
	t.Run("the app's retained_count_max is told; a replacement and a clear always pass", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.RetainedCountMax, l.RetainedBytesMax = 2, 20
		w.SetLimits(l)
		c := w.client(packet.V5, "c")
		for i, step := range []struct {
			topic, payload string
			want           packet.ReasonCode
		}{
			{"a", "123456789", 0},
			{"b", "12345678", 0},
			{"c", "1", packet.QuotaExceeded},
			{"a", "12345678901", packet.QuotaExceeded},
			{"a", "123", 0},
			{"b", "", 0},
			{"c", "1", 0},
		} {
			c.Publish(step.topic, step.payload, brokertest.Retained, brokertest.QoS(1, uint16(i+1)))
			c.ExpectAck(packet.TypePuback, uint16(i+1), step.want)
		}
	})
	t.Run("a subscriber gets each value live or from the snapshot, never an older one last", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		publisher := w.client(packet.V5, "publisher")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 500 {
				publisher.Publish(fmt.Sprintf("a/%d", rand.IntN(5)), fmt.Sprintf("%04d", i), brokertest.Retained)
			}
		}()
		for i := range 20 {
			c := w.client(packet.V5, fmt.Sprint("c", i))
			c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a/+"}}})
			last := map[string]string{}
			for range 20 {
				p, err := c.Next()
				require.NoError(t, err)
				m, ok := p.(*packet.Publish)
				if !ok { // SUBACK, which messages may come before [MQTT5-3.8.4]
					continue
				}
				require.Greater(t, string(m.Payload), last[string(m.Topic)])
				last[string(m.Topic)] = string(m.Payload)
				if string(m.Payload) >= "0480" {
					break
				}
			}
			c.Close()
		}
		<-done
	})
}

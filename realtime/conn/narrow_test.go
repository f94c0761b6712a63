package conn_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func TestUnsubscribingDropsWhatHasNotBeenSent(t *testing.T) {
	t.Parallel()
	for name, messages := range map[string]int{"and waits in memory": 20, "wherever it waits": 400} {
		t.Run(name+" [MQTT5-3.10.4-2]", func(t *testing.T) {
			t.Parallel()
			w, p, c := oneAtATime(t, []string{"a", "a/#", "b"}, func(p *brokertest.Client) {
				for i := range messages {
					for j, topic := range []string{"a", "a/c", "b"} {
						publishKept(p, topic, fmt.Sprint(i), uint16(3*i+j+1))
					}
				}
			})
			first := c.ExpectMessage("a", "0")
			unsubscribe(c, 9, "a/#")
			c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: first.PacketID})
			puback(c, "b", "0")
			for i := 1; i < messages/2; i++ {
				puback(c, "a", fmt.Sprint(i)) // it has a subscription of its own still
				puback(c, "b", fmt.Sprint(i))
			}
			sent := c.ExpectMessage("a", fmt.Sprint(messages/2))
			unsubscribe(c, 9, "a")
			c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: sent.PacketID})
			for i := messages / 2; i < messages; i++ {
				puback(c, "b", fmt.Sprint(i))
			}
			c.ExpectNothing()
			require.Equal(t, packet.ReasonCode(1), c.Subscribe("a", 1))
			publishKept(p, "a", "new", 1)
			puback(c, "a", "new")
			gone(t, w, c, "c")
			c, _ = w.resume(packet.V5, "c")
			c.ExpectNothing()
		})
	}
}

func TestASuspendedSubscriptionGetsNothingOfWhatWaits(t *testing.T) {
	t.Parallel()
	w, p, c := oneAtATime(t, []string{"a", "b"}, func(p *brokertest.Client) {
		publishKept(p, "a", "1", 1)
		publishKept(p, "a", "2", 2)
		publishKept(p, "b", "3", 3)
	})
	first := c.ExpectMessage("a", "1")
	w.SetRules(brokertest.Rules{Subscribe: func(_, filter string) bool { return filter != "a" }})
	w.broker.Reauthorize(1)
	c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: first.PacketID})
	puback(c, "b", "3")
	w.SetRules(brokertest.Rules{})
	w.broker.Reauthorize(1)
	publishKept(p, "a", "4", 4)
	puback(c, "a", "4")
	c.ExpectNothing()
}

func TestWhatFallsOutOfTheQueueOfASlowClientIsNotSent(t *testing.T) {
	t.Parallel()
	for name, qos := range map[string]byte{"QoS 1": 1, "QoS 2": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, p, c := oneAtATime(t, []string{"a"}, func(*brokertest.Client) {})
			limits := brokertest.Limits()
			limits.QueuedMessagesMax = 5
			w.SetLimits(limits)
			require.NoError(t, w.broker.OpenApp(t.Context(), broker.AppConfig{UID: 1, ID: "app", Limits: limits}))
			require.Equal(t, packet.ReasonCode(qos), c.Subscribe("a", qos))
			for i := range 20 {
				w.publish(&message.Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: qos})
			}
			m := c.ExpectMessage("a", "0")
			require.Eventually(t, func() bool {
				i, err := w.broker.Client(1, "c")
				return err == nil && i.FallenOut == 14 && i.QueuedMessages == 5
			}, brokertest.Patience, time.Millisecond)
			for i := 15; i < 20; i++ {
				acknowledge(c, m)
				m = c.ExpectMessage("a", fmt.Sprint(i))
			}
			acknowledge(c, m)
			publishKept(p, "a", "new", 1)
			c.ExpectMessage("a", "new")
		})
	}
}

// oneAtATime is a client that was away while things were published, and takes one of them at a time.
func oneAtATime(t *testing.T, filters []string, publish func(p *brokertest.Client)) (w *world, p, c *brokertest.Client) {
	t.Helper()
	w = newWorld(t)
	c, _ = w.resume(packet.V5, "c")
	for _, f := range filters {
		require.Equal(t, packet.ReasonCode(1), c.Subscribe(f, 1))
	}
	gone(t, w, c, "c")
	p = w.client(packet.V5, "p")
	publish(p)
	c, _ = w.resume(packet.V5, "c", func(p *packet.Connect) {
		p.Properties.Has |= packet.PropReceiveMaximum
		p.Properties.ReceiveMaximum = 1
	})
	return w, p, c
}

func publishKept(p *brokertest.Client, topic, payload string, id uint16) {
	p.Publish(topic, payload, brokertest.QoS(1, id))
	p.ExpectAck(packet.TypePuback, id, 0)
}

func puback(c *brokertest.Client, topic, payload string) {
	m := c.ExpectMessage(topic, payload)
	c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
}

package conn_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func TestResumingWithASmallerReceiveMaximum(t *testing.T) {
	t.Parallel()
	atMost := func(n uint16) func(*packet.Connect) {
		return func(p *packet.Connect) {
			p.Properties.Has |= packet.PropReceiveMaximum
			p.Properties.ReceiveMaximum = n
		}
	}
	// begin leaves messages under way to a client that is gone.
	begin := func(t *testing.T, qos ...byte) (*world, []packet.Publish, func(pubrec ...int)) {
		t.Helper()
		w := newWorld(t)
		c, _ := w.resume(packet.V5, "c")
		c.Subscribe("a", 2)
		var sent []packet.Publish
		for i, q := range qos {
			w.publish(&message.Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: q})
			sent = append(sent, c.ExpectMessage("a", fmt.Sprint(i)))
		}
		return w, sent, func(pubrec ...int) {
			for _, i := range pubrec {
				c.Send(&packet.Ack{Kind: packet.TypePubrec, PacketID: sent[i].PacketID})
				c.ExpectAck(packet.TypePubrel, sent[i].PacketID, packet.Success)
			}
			gone(t, w, c, "c")
		}
	}
	t.Run("sends no more at a time again, and all answers go on meanwhile "+
		"[MQTT5-4.9.0-1] [MQTT5-4.9.0-3] [MQTT5-3.3.4-10]", func(t *testing.T) {
		t.Parallel()
		w, sent, leave := begin(t, 1, 2, 1, 2, 2)
		leave()
		c, present := w.resume(packet.V5, "c", atMost(2))
		require.True(t, present)
		c.ExpectMessage("a", "0")
		c.ExpectMessage("a", "1")
		c.ExpectNothing()
		complete(c, "b", "p", 2) // PUBREC and PUBCOMP of the server's
		acknowledge(c, sent[1])  // and PUBREL, which the second waits for
		c.ExpectMessage("a", "2")
		c.ExpectNothing()
		acknowledge(c, sent[0])
		c.ExpectMessage("a", "3")
		acknowledge(c, sent[2])
		c.ExpectMessage("a", "4")
		acknowledge(c, sent[4])
		acknowledge(c, sent[3])
		c.ExpectNothing()
		require.Zero(t, w.inflight("c"))
	})
	t.Run("holds no PUBREL back [MQTT5-3.3.4-10] [MQTT5-4.9.0-3] [MQTT5-4.4.0-1]", func(t *testing.T) {
		t.Parallel()
		w, sent, leave := begin(t, 1, 2, 2, 2, 1)
		leave(2, 1)
		c, present := w.resume(packet.V5, "c", atMost(1))
		require.True(t, present)
		released := []uint16{}
		for range 2 {
			a := brokertest.Expect[*packet.Ack](c)
			require.Equal(t, packet.TypePubrel, a.Kind)
			released = append(released, a.PacketID)
		}
		require.ElementsMatch(t, []uint16{sent[1].PacketID, sent[2].PacketID}, released)
		for _, i := range []int{1, 2} {
			c.Send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: sent[i].PacketID})
		}
		for _, i := range []int{0, 3, 4} {
			c.ExpectMessage("a", fmt.Sprint(i))
			c.ExpectNothing()
			acknowledge(c, sent[i])
		}
		c.ExpectNothing()
	})
}

func TestWillThatWaits(t *testing.T) {
	t.Parallel()
	delayed := func(p *packet.Connect) {
		p.Will.Properties = &packet.Properties{Has: packet.PropWillDelay, WillDelay: 10}
	}
	begin := func(t *testing.T) (w *world, watcher, c *brokertest.Client) {
		t.Helper()
		w = newWorld(t)
		watcher = w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/c", 1)
		c, _ = w.resume(packet.V5, "c", will("wills/c", "gone"), delayed)
		return w, watcher, c
	}
	beginAnew := func(w *world) {
		c, present := w.resume(packet.V5, "c", func(p *packet.Connect) { p.CleanStart = true })
		require.False(w.tb, present)
		c.ExpectNothing()
	}
	t.Run("is not sent when the client is back in time, though it begins anew [MQTT5-3.1.2-8]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, watcher, c := begin(t)
			gone(t, w, c, "c")
			time.Sleep(9 * time.Second) //nolint:forbidigo // virtual time
			beginAnew(w)
			time.Sleep(time.Minute) //nolint:forbidigo // virtual time
			watcher.ExpectNothing()
		})
	})
	t.Run("is sent when the client is not", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, watcher, c := begin(t)
			gone(t, w, c, "c")
			time.Sleep(11 * time.Second) //nolint:forbidigo // virtual time
			beginAnew(w)
			watcher.ExpectMessage("wills/c", "gone")
			watcher.ExpectNothing()
		})
	})
	t.Run("is sent at once when its connection is taken over by one that begins anew [MQTT5-3.1.2-8]", func(t *testing.T) {
		t.Parallel()
		w, watcher, _ := begin(t)
		beginAnew(w)
		watcher.ExpectMessage("wills/c", "gone")
		watcher.ExpectNothing()
	})
}

func TestTheWillOfASessionThatEndsJustAfterACrash(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		watcher, _ := w.resume(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 1)
		w.resume(packet.V5, "c", will("wills/c", "gone"), func(p *packet.Connect) { p.Properties.SessionExpiry = 2 })
		w.crash()
		return w
	}
	t.Run("is sent when the client has had its 30 seconds [MQTT5-3.1.2-8]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := begin(t)
			watcher, _ := w.resume(packet.V5, "watcher")
			time.Sleep(29 * time.Second) //nolint:forbidigo // virtual time
			watcher.ExpectNothing()
			time.Sleep(3 * time.Second) //nolint:forbidigo // virtual time
			watcher.ExpectMessage("wills/c", "gone")
			watcher.ExpectNothing()
		})
	})
	t.Run("is not sent when the client is back by then, though its session is not", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := begin(t)
			watcher, _ := w.resume(packet.V5, "watcher")
			time.Sleep(10 * time.Second) //nolint:forbidigo // virtual time
			_, present := w.resume(packet.V5, "c")
			require.False(t, present)
			time.Sleep(60 * time.Second) //nolint:forbidigo // virtual time
			watcher.ExpectNothing()
		})
	})
}

func TestMessagesThatWaitForAStoredSession(t *testing.T) {
	t.Parallel()
	t.Run("use up a Packet Identifier where they expire or are too large before they are sent", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c")
			c.Subscribe("a", 2)
			gone(t, w, c, "c")
			expires := func(qos byte) *message.Message {
				return &message.Message{Topic: "a", QoS: qos, Arrived: time.Now(), Expires: time.Now().Add(time.Second)}
			}
			large := &message.Message{Topic: "a", QoS: 2, Payload: make([]byte, 100)}
			w.publish(expires(1), &message.Message{Topic: "a", Payload: []byte("first"), QoS: 1}, expires(2), large,
				&message.Message{Topic: "a", Payload: []byte("second"), QoS: 2})
			time.Sleep(2 * time.Second) //nolint:forbidigo // virtual time
			small := func(p *packet.Connect) {
				p.Properties.Has |= packet.PropMaximumPacketSize
				p.Properties.MaximumPacketSize = 50
			}
			c, present := w.resume(packet.V5, "c", small)
			require.True(t, present)
			first := c.ExpectMessage("a", "first")
			second := c.ExpectMessage("a", "second")
			require.Equal(t, []uint16{2, 5}, []uint16{first.PacketID, second.PacketID})
			acknowledge(c, first)
			acknowledge(c, second)
			require.Zero(t, w.inflight("c"))
			gone(t, w, c, "c")
			c, _ = w.resume(packet.V5, "c")
			c.ExpectNothing()
		})
	})
	t.Run("say what is left of their time, and are dropped when nothing is [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c", func(p *packet.Connect) {
				p.Properties.Has |= packet.PropReceiveMaximum
				p.Properties.ReceiveMaximum = 1
			})
			c.Subscribe("a", 1)
			for i, lifetime := range []time.Duration{time.Hour, 10 * time.Second, 100 * time.Second} {
				w.publish(&message.Message{
					Topic: "a", Payload: fmt.Append(nil, i), QoS: 1, Arrived: time.Now(), Expires: time.Now().Add(lifetime),
				})
			}
			m := c.ExpectMessage("a", "0")
			require.EqualValues(t, 3600, m.Properties.MessageExpiry)
			time.Sleep(30 * time.Second) //nolint:forbidigo // virtual time
			acknowledge(c, m)
			m = c.ExpectMessage("a", "2")
			require.EqualValues(t, 70, m.Properties.MessageExpiry)
			acknowledge(c, m)
			c.ExpectNothing()
		})
	})
}

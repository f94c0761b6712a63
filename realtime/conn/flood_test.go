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

func TestStalledClientOfAStoredSession(t *testing.T) {
	t.Parallel()
	t.Run("holds no more in memory than its bound, is closed after the write timeout, and finds everything in the log", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			const messages = 6_000 // more than wait in memory for one connection
			w := newWorld(t)
			slow, _ := w.resume(packet.V5, "slow")
			slow.Subscribe("a", 1)
			quick, publisher := w.client(packet.V5, "quick"), w.client(packet.V5, "publisher")
			quick.Subscribe("a", 0)
			for i := range messages { // slow reads nothing: a pipe has no buffer
				publisher.Publish("a", fmt.Sprint(i), brokertest.QoS(1, 1))
				publisher.ExpectAck(packet.TypePuback, 1, packet.Success)
				quick.ExpectMessage("a", fmt.Sprint(i))
			}
			info, err := w.broker.Client(1, "slow")
			require.NoError(t, err)
			require.True(t, info.Connected)
			require.LessOrEqual(t, info.QueuedMessages, 4_096)
			require.LessOrEqual(t, info.QueuedBytes, int64(4<<20))
			time.Sleep(6 * time.Second) //nolint:forbidigo // virtual time
			info, err = w.broker.Client(1, "slow")
			require.NoError(t, err)
			require.False(t, info.Connected)
			require.Zero(t, info.FallenOut)
			require.Zero(t, w.observer.Count("dropped queue_full"))
			slow, present := w.resume(packet.V5, "slow")
			require.True(t, present)
			for i := range messages {
				m := slow.ExpectMessage("a", fmt.Sprint(i))
				slow.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
			}
			slow.ExpectNothing()
		})
	})
	t.Run("loses QoS 0 alone, counted", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.QueuedMessagesMax = 50
		w.SetLimits(l)
		slow, _ := w.resume(packet.V5, "slow")
		slow.Subscribe("a", 0)
		slow.Subscribe("b", 1)
		publisher := w.client(packet.V5, "publisher")
		for i := range 200 {
			publisher.Publish("a", fmt.Sprint(i))
		}
		publisher.Publish("b", "kept", brokertest.QoS(1, 1))
		publisher.ExpectAck(packet.TypePuback, 1, packet.Success)
		require.Greater(t, w.observer.Count("dropped queue_full"), 100)
		gone(t, w, slow, "slow")
		slow, _ = w.resume(packet.V5, "slow")
		slow.ExpectMessage("b", "kept")
		slow.ExpectNothing()
	})
}

func TestFloodOfSubscriptionsOfAStoredSession(t *testing.T) {
	t.Parallel()
	for name, v := range versions {
		t.Run("is refused beyond the limit, also after a resumption and a restart "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := brokertest.Limits()
			l.SubscriptionsPerClientMax = 10
			w.SetLimits(l)
			refused := packet.QuotaExceeded
			if v != packet.V5 {
				refused = packet.UnspecifiedError
			}
			c, _ := w.resume(v, "c")
			for i := range 30 {
				want := packet.GrantedQoS1
				if i >= 10 {
					want = refused
				}
				require.Equal(t, want, c.Subscribe(fmt.Sprint("s/", i), 1))
			}
			stored := func() int {
				s, there := w.store.Session(1, "c")
				require.True(t, there)
				return len(s.Subscriptions)
			}
			require.Equal(t, 10, stored())
			gone(t, w, c, "c")
			c, _ = w.resume(v, "c")
			require.Equal(t, refused, c.Subscribe("s/10", 1))
			w.crash()
			c, present := w.resume(v, "c")
			require.Equal(t, v != packet.V31, present)
			require.Equal(t, refused, c.Subscribe("s/10", 1))
			require.Equal(t, packet.GrantedQoS1, c.Subscribe("s/9", 1))
			require.Equal(t, 10, stored())
		})
	}
}

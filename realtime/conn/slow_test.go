package conn_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

const tick = 5 * time.Millisecond

func TestSlowClient(t *testing.T) {
	t.Parallel()
	t.Run("QoS 0 beyond the queue is dropped and counted; others get everything", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.QueuedMessagesMax = 50
		w.SetLimits(l)
		slow, quick, publisher := w.client(packet.V5, "slow"), w.client(packet.V5, "quick"), w.client(packet.V5, "publisher")
		slow.Subscribe("a", 0)
		quick.Subscribe("a", 0)
		for i := range 500 { // slow reads nothing: a pipe has no buffer
			publisher.Publish("a", fmt.Sprint(i))
			quick.ExpectMessage("a", fmt.Sprint(i))
		}
		publisher.ExpectNothing()
		dropped := w.observer.Count("dropped queue_full")
		require.Greater(t, dropped, 400)
		stats, err := w.broker.Stats(1)
		require.NoError(t, err)
		require.EqualValues(t, dropped, stats.Total.Dropped)
		slow.ExpectMessage("a", "0")
	})
	t.Run("QoS 1 beyond the queue ends the connection: nothing is lost silently", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.QueuedMessagesMax = 50
		w.SetLimits(l)
		slow, publisher := w.client(packet.V5, "slow"), w.client(packet.V5, "publisher")
		slow.Subscribe("a", 1)
		for i := range 200 {
			publisher.Publish("a", fmt.Sprint(i), brokertest.QoS(1, 1))
			publisher.ExpectAck(packet.TypePuback, 1, packet.Success)
		}
		require.Equal(t, 1, w.observer.Count("disconnected Quota exceeded")+len(clientsNamed(w, "slow")))
		for {
			p, err := slow.Next()
			require.NoError(t, err)
			if d, ended := p.(*packet.Disconnect); ended {
				require.Equal(t, packet.QuotaExceeded, d.Reason)
				return
			}
		}
	})
	t.Run("a client that takes nothing is closed after the write timeout", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			slow, publisher := w.client(packet.V311, "slow"), w.client(packet.V5, "publisher")
			slow.Subscribe("a", 0)
			publisher.Publish("a", strings.Repeat("x", 1000))
			publisher.ExpectNothing()
			time.Sleep(6 * time.Second) //nolint:forbidigo // virtual time
			require.Empty(t, clientsNamed(w, "slow"))
		})
	})
	t.Run("a client that asks and does not read its answers is ended", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		flood := make([]byte, 0, 64<<10)
		for range 32 << 10 {
			flood = append(flood, 0xC0, 0)
		}
		for len(clientsNamed(w, "c")) > 0 {
			if !c.TrySend(flood) {
				break
			}
		}
		require.Eventually(t, func() bool { return len(clientsNamed(w, "c")) == 0 }, brokertest.Patience, tick)
	})
}

func clientsNamed(w *world, id string) []string {
	all, err := w.broker.Clients(1, "", 0)
	require.NoError(w.tb, err)
	var found []string
	for _, c := range all {
		if c.ClientID == id {
			found = append(found, c.ClientID)
		}
	}
	return found
}

package conn_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

func TestDurableFilters_of_one_SUBSCRIBE_are_made_together(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var asked atomic.Int32
	w.store.BeforeFilterIDs = func() { asked.Add(1) }
	c, _ := w.resume(packet.V5, "c")
	p := &packet.Subscribe{PacketID: 1}
	for i := range 500 {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: fmt.Sprint("a/", i), QoS: 1})
	}
	c.Send(p)
	require.Len(t, brokertest.Expect[*packet.Suback](c).Reasons, 500)
	require.Equal(t, int32(1), asked.Load())
	w.client(packet.V5, "p").Publish("a/499", "p", brokertest.QoS(1, 1))
	c.ExpectMessage("a/499", "p")
}

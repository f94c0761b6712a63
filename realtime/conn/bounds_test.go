package conn_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// TestDuplicates_behind_a_commit_are_not_read_without_end: they count against no Receive Maximum, and each kept a place
// in the order of acknowledgements.
func TestDuplicates_behind_a_commit_are_not_read_without_end(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		committed := make(chan struct{})
		w.store.BeforeCommit = func(broker.Batch) error {
			<-committed
			return nil
		}
		c := w.client(packet.V5, "c")
		c.Publish("a", "p", brokertest.Retained, brokertest.QoS(1, 1))
		c.Publish("b", "p", brokertest.QoS(2, 2))
		again := (&packet.Publish{Topic: []byte("b"), Payload: []byte("p"), QoS: 2, PacketID: 2, Dup: true}).Append(nil, packet.V5)
		flood := []byte(strings.Repeat(string(again), 100_000))
		require.False(t, c.TrySend(flood), "all of them were read")
		close(committed)
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.ExpectAck(packet.TypePubrec, 2, packet.Success)
	})
}

// TestMessages_under_way_hold_no_memory: each was kept until its PUBACK, so that a client that sends none held as many as
// its Receive Maximum.
func TestMessages_under_way_hold_no_memory(t *testing.T) {
	const n, size = 60, 512 << 10
	w := newWorld(t)
	c := w.client(packet.V5, "c")
	c.Subscribe("a", 1)
	before := heapInUse()
	for range n {
		_, err := w.broker.Publish(t.Context(), broker.Publication{App: 1, Messages: []*message.Message{
			{Topic: "a", Payload: make([]byte, size), QoS: 1},
		}})
		require.NoError(t, err)
		brokertest.Expect[*packet.Publish](c)
	}
	require.Less(t, heapInUse()-before, int64(n*size/2))
}

func TestTopicAliases_to_a_client_are_no_more_than_the_app_gives_one(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := brokertest.Limits()
	l.TopicAliasMaximum = 2
	w.SetLimits(l)
	c := w.dial(packet.V5)
	c.Connect("c", properties(packet.Properties{Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 65_535}))
	c.Subscribe("#", 0)
	for range 2 {
		for i := range 4 {
			c.Publish(fmt.Sprint("t/", i), "p")
			p := brokertest.Expect[*packet.Publish](c)
			aliased := p.Properties != nil && p.Properties.TopicAlias != 0
			require.Equal(t, i < 2, aliased, "%d", i)
		}
	}
}

package conn_test

import (
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

// What is not acknowledged is read into memory as a whole when the client is back.
func TestUnacknowledged_messages_of_a_stored_session_are_no_more_than_it_may_have_queued(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{1, 2} {
		for _, filter := range []string{"jobs/#", group} {
			t.Run(fmt.Sprintf("QoS %d, %s", qos, filter), func(t *testing.T) {
				t.Parallel()
				const n, size, most = 20, 1_000, 4 // the last of which goes beyond
				w := newWorld(t)
				limits := brokertest.Limits()
				limits.QueuedBytesMax = most*size - 1
				w.SetLimits(limits)
				c, _ := w.resume(packet.V5, "c")
				c.Subscribe(filter, qos)
				for i := range n {
					_, err := w.broker.Publish(t.Context(), broker.Publication{App: 1, Messages: []*message.Message{
						{Topic: "jobs/1", Payload: fmt.Appendf(nil, "%0*d", size, i), QoS: qos, Arrived: time.Now()},
					}})
					require.NoError(t, err)
				}
				var first []packet.Publish
				drains := func(want int) { // the reader of the log, or the group, takes its time
					first = nil
					require.Eventually(t, func() bool {
						first = append(first, c.Drain()...)
						return len(first) >= want
					}, brokertest.Patience, time.Millisecond)
					require.Equal(t, want, len(first)+len(c.Drain()))
				}
				drains(most)
				kind := []packet.Type{packet.TypePuback, packet.TypePubrec}[qos-1]
				c.Send(&packet.Ack{Kind: kind, PacketID: first[0].PacketID})
				if qos == 2 {
					c.ExpectAck(packet.TypePubrel, first[0].PacketID, 0)
				}
				drains(1)
				w.SetLimits(brokertest.Limits()) // else its backlog is cut
				gone(t, w, c, "c")
				c, _ = w.resume(packet.V5, "c")
				all := take(c, n+int(qos)-2)
				require.Equal(t, n-1, len(all)) //nolint:testifylint // a failure is not to show them all
				for i, payload := range all {
					require.Equal(t, fmt.Sprintf("%0*d", size, i+1), payload)
				}
				require.Empty(t, c.Drain())
			})
		}
	}
}

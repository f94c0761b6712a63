package tcp_test

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// BenchmarkDelivery is how long a message takes from its publisher to all of the healthy subscribers, with others that are
// subscribed to the same topic and read nothing, and without: at the half and at 99 of 100 messages.
func BenchmarkDelivery(b *testing.B) {
	for _, stalled := range []int{0, 50} {
		for qos := range byte(2) {
			b.Run(fmt.Sprintf("stalled=%d/qos=%d", stalled, qos), func(b *testing.B) { benchmarkDelivery(b, stalled, qos) })
		}
	}
}

func benchmarkDelivery(b *testing.B, stalled int, qos byte) {
	b.Helper()
	const healthy = 10
	ballast := make([]byte, 64<<20) // so that what waits for the stalled makes no difference to the collection of garbage
	s := start(b, nil)
	l := brokertest.Limits()
	l.QueuedBytesMax = 4 << 20 // so that it is full before the stalled are closed
	s.world.SetLimits(l)
	for i := range stalled {
		c := s.smallClient(b, fmt.Sprint("stalled-", i))
		c.Subscribe("a", 0) // at QoS 1 it would be ended when its queue is full
	}
	readers := make([]*brokertest.Client, healthy)
	for i := range readers {
		readers[i] = brokertest.NewClient(b, s.dial(b), packet.V5)
		readers[i].Connect(fmt.Sprint("healthy-", i))
		readers[i].Subscribe("a", qos)
	}
	publisher := brokertest.NewClient(b, s.dial(b), packet.V5)
	publisher.Connect("publisher")
	s.fill(b, publisher, readers, stalled, qos)
	took := make([]time.Duration, 0, 1<<16)
	payload := string(make([]byte, 128))
	for b.Loop() {
		began := time.Now()
		deliver(publisher, readers, qos, payload)
		took = append(took, time.Since(began))
	}
	runtime.KeepAlive(ballast)
	all, err := s.broker.Clients(1, "", 0)
	require.NoError(b, err)
	require.Len(b, all, stalled+healthy+1, "those that are stalled were still there")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// deliver publishes a message and awaits it everywhere.
func deliver(publisher *brokertest.Client, readers []*brokertest.Client, qos byte, payload string) {
	id := uint16(qos) // one at a time
	publisher.Publish("a", payload, brokertest.QoS(qos, id))
	for _, r := range readers {
		m := brokertest.Expect[*packet.Publish](r)
		if m.QoS > 0 {
			r.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
		}
	}
	if qos > 0 {
		publisher.ExpectAck(packet.TypePuback, id, packet.Success)
	}
}

// fill publishes until every stalled client's queue is full and messages to it are dropped.
func (s *server) fill(b *testing.B, publisher *brokertest.Client, readers []*brokertest.Client, stalled int, qos byte) {
	b.Helper()
	payload := string(make([]byte, 64<<10))
	for i := 0; stalled > 0; i++ {
		before := s.observer.Count("dropped queue_full")
		deliver(publisher, readers, qos, strconv.Itoa(i)+payload)
		if s.observer.Count("dropped queue_full") >= before+stalled {
			return
		}
	}
}

// smallClient is a client whose socket takes little, so that who does not read it stalls soon.
func (s *server) smallClient(b *testing.B, id string) *brokertest.Client {
	b.Helper()
	raw := s.dial(b)
	tcp, ok := raw.(*net.TCPConn)
	require.True(b, ok)
	require.NoError(b, tcp.SetReadBuffer(4<<10))
	c := brokertest.NewClient(b, raw, packet.V5)
	c.Connect(id)
	return c
}

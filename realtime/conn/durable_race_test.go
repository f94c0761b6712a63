package conn_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func TestWhatTheReaderOfTheLogHadBeforeItWasRoutedComesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, seen := w.dialSeen(packet.V5)
	c.Connect("c", durable)
	c.Subscribe("a", 2)
	at := func(seq uint64, text string) broker.Delivery {
		m := &message.Message{Topic: "a", Payload: []byte(text), QoS: 2, Position: message.Position{Seq: seq}, Arrived: time.Now()}
		return broker.Delivery{Message: m, QoS: 2}
	}
	// The reader reads what is committed; what is routed follows behind.
	seen.Join()
	require.Equal(t, broker.Fed, seen.Feed([]broker.Delivery{at(10, "1"), at(11, "2"), at(12, "3")}, message.Position{Seq: 12}, seen.Narrowed()))
	seen.Deliver(at(11, "2"))
	require.True(t, seen.Live())
	seen.Deliver(at(12, "3"))
	seen.Deliver(at(13, "4"))
	seen.Flush()
	for _, text := range []string{"1", "2", "3", "4"} {
		c.ExpectMessage("a", text)
	}
	c.ExpectNothing()
}

func TestTheWillOfASessionThatACleanStartReplacesIsSentOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	watcher := w.client(packet.V5, "watcher")
	watcher.Subscribe("will", 1)
	c, _ := w.resume(packet.V5, "c", will("will", "gone"))
	held, release := make(chan struct{}), make(chan struct{})
	w.store.BeforeCommit = func(b broker.Batch) error {
		if len(b.Writes) > 0 && len(b.Writes[0].Parts) > 0 && string(b.Writes[0].Parts[0].Message.Payload) == "holds the rest up" {
			close(held)
			<-release
		}
		return nil
	}
	p := w.client(packet.V5, "p")
	p.Publish("a", "holds the rest up", brokertest.QoS(1, 1), brokertest.Retained)
	<-held
	gone(t, w, c, "c")
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		w.client(packet.V5, "c")
	}()
	require.Eventually(t, func() bool {
		i, err := w.broker.Client(1, "c")
		return err == nil && i.Connected
	}, brokertest.Patience, time.Millisecond)
	close(release)
	<-connected
	watcher.ExpectMessage("will", "gone")
	watcher.ExpectNothing()
}

func TestSubscribingAgainDoesNotLoseWhatWaitsThoughTheSubscriptionWasTheFirstThingThatHappened(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V5, "c")
	c.Subscribe("a", 1) // when nothing was stored yet
	gone(t, w, c, "c")
	p := w.client(packet.V5, "p")
	for i, text := range []string{"1", "2", "3"} {
		p.Publish("a", text, brokertest.QoS(1, uint16(i+1)))
		p.ExpectAck(packet.TypePuback, uint16(i+1), 0)
	}
	one := func(p *packet.Connect) {
		p.Properties.Has |= packet.PropReceiveMaximum
		p.Properties.ReceiveMaximum = 1
	}
	c, _ = w.resume(packet.V5, "c", one)
	c.ExpectMessage("a", "1")
	c.Subscribe("a", 1) // its beginning stays
	w.crash()
	c, present := w.resume(packet.V5, "c")
	require.True(t, present)
	for _, text := range []string{"1", "2", "3"} {
		c.ExpectMessage("a", text)
	}
	c.ExpectNothing()
}

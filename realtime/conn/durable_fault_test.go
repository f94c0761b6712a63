package conn_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

func subscribes(b broker.Batch) bool {
	for i := range b.Writes {
		for j := range b.Writes[i].Sessions {
			if len(b.Writes[i].Sessions[j].Subscribe) > 0 {
				return true
			}
		}
	}
	return false
}

func deletes(b broker.Batch) bool {
	for i := range b.Writes {
		for j := range b.Writes[i].Sessions {
			if b.Writes[i].Sessions[j].Delete {
				return true
			}
		}
	}
	return false
}

// storedFilters are the Topic Filters that the store holds for a client.
func storedFilters(w *world, id string) (filters []string) {
	one, _ := w.store.Session(1, id)
	for i := range one.Subscriptions {
		filters = append(filters, one.Subscriptions[i].Filter)
	}
	return filters
}

func TestDurableSubscriptionInTrouble(t *testing.T) {
	t.Parallel()
	t.Run("whose commit is found only after the client was told that it is unknown keeps messages like any other", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c")
			var away atomic.Bool
			w.store.AfterCommit = func(b broker.Batch) error {
				if subscribes(b) && away.CompareAndSwap(false, true) {
					return broker.ErrOutcomeUnknown
				}
				return nil
			}
			lost := time.Now()
			w.store.BeforeCommitted = func() error {
				if time.Since(lost) < 15*time.Second {
					return broker.ErrStoreUnavailable
				}
				return nil
			}
			c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a", QoS: 1}}})
			brokertest.WithPatience(c, time.Minute).ExpectEnd(packet.ServerBusy)
			time.Sleep(10 * time.Second) //nolint:forbidigo // virtual time
			c, _ = w.resume(packet.V5, "c")
			require.Equal(t, packet.ReasonCode(1), c.Subscribe("a", 1))
			c.Close()
			synctest.Wait()
			p := w.client(packet.V5, "p")
			p.Publish("a", "kept", brokertest.QoS(1, 1))
			p.ExpectAck(packet.TypePuback, 1, 0)
			c, _ = w.resume(packet.V5, "c")
			c.ExpectMessage("a", "kept")
		})
	})
	t.Run("of a session that a clean start has ended meanwhile is not the next one's [MQTT5-3.1.2-4]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c")
			waits := make(chan struct{})
			w.store.BeforeFilterIDs = func() { <-waits }
			c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a", QoS: 1}}})
			synctest.Wait()
			next, present := w.resume(packet.V5, "c", func(p *packet.Connect) { p.CleanStart = true })
			require.False(t, present)
			close(waits)
			synctest.Wait()
			require.Empty(t, storedFilters(w, "c"))
			next.Subscribe("b", 1)
			require.Equal(t, []string{"b"}, storedFilters(w, "c"))
		})
	})
	t.Run("that is given up while another connection takes over is given up for that one too", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c")
			c.Subscribe("a", 1)
			waits := make(chan struct{})
			w.store.BeforeCommit = func(broker.Batch) error {
				<-waits
				return nil
			}
			c.Send(&packet.Unsubscribe{PacketID: 2, Filters: []string{"a"}})
			synctest.Wait()
			taken := make(chan *brokertest.Client)
			go func() {
				next, _ := w.resume(packet.V5, "c")
				taken <- next
			}()
			synctest.Wait()
			close(waits)
			next := <-taken
			require.Empty(t, storedFilters(w, "c"))
			p := w.client(packet.V5, "p")
			p.Publish("a", "nobody's", brokertest.QoS(1, 1))
			p.ExpectAck(packet.TypePuback, 1, 0)
			next.ExpectNothing()
		})
	})
	t.Run("that the rules no longer allow sends no more of its retained messages on resumption", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		p := w.client(packet.V5, "p")
		for i := range 3 {
			p.Publish(fmt.Sprint("r/", i), "secret", brokertest.QoS(1, uint16(i+1)), brokertest.Retained)
			p.ExpectAck(packet.TypePuback, uint16(i+1), 0)
		}
		one := properties(packet.Properties{
			Has: packet.PropSessionExpiry | packet.PropReceiveMaximum, SessionExpiry: 3600, ReceiveMaximum: 1,
		})
		c, _ := w.resume(packet.V5, "c", one)
		c.Subscribe("r/#", 1)
		first := c.ExpectMessage("r/0", "secret")
		gone(t, w, c, "c")
		w.SetRules(brokertest.Rules{Subscribe: func(_, filter string) bool { return filter != "r/#" }})
		c, _ = w.resume(packet.V5, "c", one)
		c.ExpectMessage("r/0", "secret")
		c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: first.PacketID})
		c.ExpectNothing()
		gone(t, w, c, "c")
		w.SetRules(brokertest.Rules{})
		c, _ = w.resume(packet.V5, "c")
		c.ExpectMessage("r/1", "secret")
		c.ExpectMessage("r/2", "secret")
		c.ExpectNothing()
	})
	t.Run("made again goes on with its retained messages, also after a crash", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		p := w.client(packet.V5, "p")
		for i := range 4 {
			p.Publish(fmt.Sprint("r/", i), "v", brokertest.QoS(1, uint16(i+1)), brokertest.Retained)
			p.ExpectAck(packet.TypePuback, uint16(i+1), 0)
		}
		c, _ := w.resume(packet.V5, "c", properties(packet.Properties{
			Has: packet.PropSessionExpiry | packet.PropReceiveMaximum, SessionExpiry: 3600, ReceiveMaximum: 1,
		}))
		c.Subscribe("r/#", 2)
		c.ExpectMessage("r/0", "v")
		c.Subscribe("r/#", 2, func(s *packet.Subscription) { s.RetainHandling = 2 })
		w.crash()
		c, _ = w.resume(packet.V5, "c")
		seen := map[string]bool{}
		for len(seen) < 4 {
			seen[string(brokertest.Expect[*packet.Publish](c).Topic)] = true
		}
	})
	t.Run("sends a retained message that was replaced at QoS 0 while the client was away", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		p := w.client(packet.V5, "p")
		for i := range 2 {
			p.Publish(fmt.Sprint("r/", i), "old", brokertest.QoS(1, uint16(i+1)), brokertest.Retained)
			p.ExpectAck(packet.TypePuback, uint16(i+1), 0)
		}
		one := properties(packet.Properties{
			Has: packet.PropSessionExpiry | packet.PropReceiveMaximum, SessionExpiry: 3600, ReceiveMaximum: 1,
		})
		c, _ := w.resume(packet.V5, "c", one)
		c.Subscribe("r/#", 1)
		c.ExpectMessage("r/0", "old")
		gone(t, w, c, "c")
		p.Publish("r/1", "new", brokertest.Retained)
		p.Publish("other", "p", brokertest.QoS(1, 9), brokertest.Retained)
		p.ExpectAck(packet.TypePuback, 9, 0)
		c, _ = w.resume(packet.V5, "c")
		c.ExpectMessage("r/0", "old")
		c.ExpectMessage("r/1", "new")
		c.ExpectNothing()
	})
}

func TestDurableSession_whose_end_could_not_be_committed_is_ended_later(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, _ := w.resume(packet.V5, "c", func(p *packet.Connect) {
			p.Will = &packet.Will{Topic: "will", Payload: []byte("gone"), QoS: 1}
		})
		s, _ := w.resume(packet.V5, "s")
		s.Subscribe("will", 1)
		var failed atomic.Bool
		w.store.BeforeCommit = func(b broker.Batch) error {
			if deletes(b) && failed.CompareAndSwap(false, true) {
				return broker.ErrStoreRefused
			}
			return nil
		}
		c.Send(&packet.Disconnect{
			Reason: packet.DisconnectWithWill, Properties: &packet.Properties{Has: packet.PropSessionExpiry},
		})
		time.Sleep(3 * time.Second) //nolint:forbidigo // virtual time
		require.True(t, failed.Load())
		_, there := w.store.Session(1, "c")
		require.False(t, there)
		s.ExpectMessage("will", "gone")
		s.ExpectNothing()
	})
}

func TestDurableSession_that_holds_QoS_2_messages_of_before_takes_as_many_new_ones(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	limits := brokertest.Limits()
	limits.ReceiveMaximum = 3
	w.SetLimits(limits)
	s, _ := w.resume(packet.V5, "s")
	s.Subscribe("a", 2)
	c, _ := w.resume(packet.V5, "c")
	publish := func(first uint16) {
		for id := first; id < first+3; id++ {
			c.Publish("a", "p", brokertest.QoS(2, id))
			c.ExpectAck(packet.TypePubrec, id, 0)
		}
	}
	publish(1)
	gone(t, w, c, "c")
	c, _ = w.resume(packet.V5, "c")
	publish(11)
	c.Publish("a", "p", brokertest.QoS(2, 21))
	c.ExpectEnd(packet.ReceiveMaximumExceeded)
}

func TestDurableSession_is_read_no_more_of_than_its_connection_has_room_for(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V311, "c")
	c.Subscribe("a", 1)
	gone(t, w, c, "c")
	p := w.client(packet.V5, "p")
	const n, size = 60, 512 << 10
	for i := range n {
		p.Publish("a", fmt.Sprint(i, string(make([]byte, size))), brokertest.QoS(1, uint16(i+1)))
		p.ExpectAck(packet.TypePuback, uint16(i+1), 0)
	}
	c, _ = w.resume(packet.V311, "c")
	for i := range n {
		m := brokertest.Expect[*packet.Publish](c)
		require.Equal(t, fmt.Sprint(i, string(make([]byte, size))), string(m.Payload))
		info, err := w.broker.Client(1, "c")
		require.NoError(t, err)
		require.Less(t, info.QueuedBytes, int64(20<<20))
		c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
	}
}

// TestDurableSession_of_3_1_1_may_send_a_refused_message_again: it is not told of the refusal, so a PUBREC that is lost has
// it send the message again with DUP. That was taken for a duplicate of what was not committed, and ended the connection,
// time after time. Found by FuzzConnection.
func TestDurableSession_of_3_1_1_may_send_a_refused_message_again(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V311, "c")
	for range 2 {
		c.Publish("$denied", "p", brokertest.QoS(2, 4))
		c.ExpectAck(packet.TypePubrec, 4, packet.Success)
	}
	gone(t, w, c, "c")
	c, present := w.resume(packet.V311, "c")
	require.True(t, present)
	c.Send(&packet.Publish{Topic: []byte("$denied"), Payload: []byte("p"), QoS: 2, PacketID: 4, Dup: true})
	c.ExpectAck(packet.TypePubrec, 4, packet.Success)
	c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 4})
	c.ExpectAck(packet.TypePubcomp, 4, packet.Success)
}

func TestDurableSession_acknowledges_again_what_was_published_nowhere(t *testing.T) {
	t.Parallel()
	t.Run("that a 3.1.1 client sends again on its next connection is acknowledged as it was the first time [MQTT311-3.3.5-2]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(brokertest.Rules{Publish: func(_, topic string) bool { return topic != "denied" }})
		c, _ := w.resume(packet.V311, "c")
		c.Publish("denied", "m", brokertest.QoS(2, 7))
		c.ExpectAck(packet.TypePubrec, 7, 0)
		gone(t, w, c, "c")
		c, _ = w.resume(packet.V311, "c")
		c.Publish("denied", "m", brokertest.QoS(2, 7), func(p *packet.Publish) { p.Dup = true })
		c.ExpectAck(packet.TypePubrec, 7, 0)
		c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 7})
		c.ExpectAck(packet.TypePubcomp, 7, 0)
	})
	for name, v := range versions {
		t.Run("a token that is sent again on the next connection is acknowledged, "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c, _ := w.resume(v, "c")
			c.Publish("$auth/token", "user ttl:30s", brokertest.QoS(2, 7))
			c.ExpectAck(packet.TypePubrec, 7, 0)
			gone(t, w, c, "c")
			c, _ = w.resume(v, "c")
			c.Publish("$auth/token", "user ttl:30s", brokertest.QoS(2, 7), func(p *packet.Publish) { p.Dup = true })
			c.ExpectAck(packet.TypePubrec, 7, 0)
		})
	}
}

func TestUNSUBSCRIBE_that_waits_for_its_commit_does_not_hold_up_what_was_published_before(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.resume(packet.V5, "c")
	c.Subscribe("a", 1)
	s := w.client(packet.V5, "s")
	s.Subscribe("b", 0)
	release := make(chan struct{})
	w.store.BeforeCommit = func(b broker.Batch) error {
		for i := range b.Writes {
			for j := range b.Writes[i].Sessions {
				if len(b.Writes[i].Sessions[j].Unsubscribe) > 0 {
					<-release
				}
			}
		}
		return nil
	}
	defer close(release)
	c.Send(&packet.Publish{Topic: []byte("b"), Payload: []byte("at once")}, &packet.Unsubscribe{PacketID: 1, Filters: []string{"a"}})
	brokertest.WithPatience(s, 2*time.Second).ExpectMessage("b", "at once")
}

func TestSUBSCRIBE_that_waits_on_a_connection_that_was_taken_over_changes_nothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k, _ := w.resume(packet.V5, "k")
		k.Subscribe("a/#", 1)
		waits := make(chan struct{})
		w.store.BeforeFilterIDs = func() { <-waits }
		before, _ := w.resume(packet.V5, "c")
		before.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a/#", QoS: 1}, {Filter: "z", QoS: 1}}})
		synctest.Wait()
		c, _ := w.resume(packet.V5, "c")
		require.Equal(t, packet.GrantedQoS1, c.Subscribe("a/#", 1))
		gone(t, w, c, "c")
		w.publish(&message.Message{Topic: "a/1", Payload: []byte("kept"), QoS: 1})
		close(waits)
		synctest.Wait()
		w.crash()
		c, present := w.resume(packet.V5, "c")
		require.True(t, present)
		c.ExpectMessage("a/1", "kept")
		c.ExpectNothing()
	})
}

func TestDurableSession_for_which_nothing_waits_is_resumed_without_a_look_into_the_log(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var reads atomic.Int32
		w.store.BeforePage = func() { reads.Add(1) }
		w.publish(&message.Message{Topic: "b", Payload: []byte("another's"), QoS: 1, Retain: true})
		c, _ := w.resume(packet.V5, "c")
		c.Subscribe("a", 1)
		gone(t, w, c, "c")
		w.publish(&message.Message{Topic: "b", Payload: []byte("one more"), QoS: 1, Retain: true})
		synctest.Wait()
		c, _ = w.resume(packet.V5, "c")
		synctest.Wait()
		require.Zero(t, reads.Load())
		w.publish(&message.Message{Topic: "a", Payload: []byte("live"), QoS: 1})
		m := c.ExpectMessage("a", "live")
		c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
		gone(t, w, c, "c")
		w.publish(&message.Message{Topic: "a", Payload: []byte("missed"), QoS: 1})
		synctest.Wait()
		c, _ = w.resume(packet.V5, "c")
		c.ExpectMessage("a", "missed")
		require.NotZero(t, reads.Load())
	})
}

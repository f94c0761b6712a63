package session

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// at is the Position of the n-th message.
func at(n uint64) message.Position { return message.Position{Seq: n} }

// sendAll sends one message of each QoS, at the positions 1, 2, ….
func sendAll(s *Session, qos ...byte) (ids []uint16) {
	for i, q := range qos {
		ids = append(ids, s.Send(Entry{Position: at(uint64(i + 1)), QoS: q}))
	}
	return ids
}

// resent returns what a resumption sends: identifiers and states.
func resent(s *Session) (ids []uint16, states []EntryState) {
	s.Resend(func(e *Entry) bool {
		ids, states = append(ids, e.PacketID), append(states, e.State)
		return true
	})
	return ids, states
}

func TestSend(t *testing.T) {
	t.Parallel()
	t.Run("identifiers begin at 1 and grow by one [MQTT5-2.2.1-4]", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []uint16{1, 2, 3}, sendAll(New(), 1, 2, 1))
	})
	t.Run("an identifier that is free again is not taken before its turn", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 1, 1)
		require.True(t, s.Puback(1))
		require.Equal(t, uint16(3), s.Send(Entry{QoS: 1}))
	})
	t.Run("what is passed over uses up an identifier, and the cursor moves past it in its turn [MQTT5-3.1.2-25]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Pass(Entry{Position: at(1), QoS: 2})
		require.Equal(t, at(1), s.Cursor())
		require.Equal(t, uint16(2), s.Send(Entry{Position: at(2), QoS: 1}))
		s.Pass(Entry{Position: at(3), QoS: 1})
		require.Equal(t, at(1), s.Cursor(), "behind what is under way")
		require.Equal(t, 1, s.Outstanding())
		ids, _ := resent(s)
		require.Equal(t, []uint16{2}, ids)
		require.True(t, s.Puback(2))
		require.Equal(t, at(3), s.Cursor())
		require.Equal(t, uint16(4), s.Send(Entry{Position: at(4), QoS: 1}))
	})
	t.Run("65535 is followed by 1, for 0 is none [MQTT5-2.2.1-4]", func(t *testing.T) {
		t.Parallel()
		s, err := Restore(State{NextPacketID: 65_533})
		require.NoError(t, err)
		require.Equal(t, []uint16{65_534, 65_535, 1, 2}, sendAll(s, 1, 2, 1, 2))
		for _, id := range []uint16{1, 65_534} {
			require.True(t, s.Puback(id))
		}
		ids, _ := resent(s)
		require.Equal(t, []uint16{65_535, 2}, ids)
	})
	t.Run("beyond the Receive Maximum is a bug of the caller [MQTT5-3.3.4-9]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.SetReceiveMaximum(2)
		sendAll(s, 1, 2)
		require.Zero(t, s.Quota())
		require.Panics(t, func() { s.Send(Entry{QoS: 1}) })
	})
}

func TestPuback(t *testing.T) {
	t.Parallel()
	s := New()
	sendAll(s, 1, 2)
	require.False(t, s.Puback(3), "never sent")
	require.False(t, s.Puback(0), "no identifier")
	require.False(t, s.Puback(2), "a QoS 2 message ends with PUBCOMP")
	require.True(t, s.Puback(1), "[MQTT5-4.3.2-3]")
	require.False(t, s.Puback(1), "once")
	ids, _ := resent(s)
	require.Equal(t, []uint16{2}, ids)
}

func TestPubrec(t *testing.T) {
	t.Parallel()
	t.Run("of a message sent is answered by PUBREL [MQTT5-4.3.3-4]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Send(Entry{QoS: 2, Message: &message.Message{}})
		require.Equal(t, PubrecRelease, s.Pubrec(1, false))
		ids, states := resent(s)
		require.Equal(t, []uint16{1}, ids)
		require.Equal(t, []EntryState{StateRel}, states, "from here on PUBREL is sent again, never PUBLISH [MQTT5-4.3.3-6]")
		require.Nil(t, s.State().Window[0].Message, "the message is not needed any more")
	})
	t.Run("that comes again is answered by PUBREL again", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 2)
		require.Equal(t, PubrecRelease, s.Pubrec(1, false))
		require.Equal(t, PubrecRelease, s.Pubrec(1, false))
		require.Equal(t, PubrecRelease, s.Pubrec(1, true), "too late to refuse")
		require.Equal(t, 1, s.Outstanding())
	})
	t.Run("that refuses ends the delivery [MQTT5-4.4.0-2]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.SetReceiveMaximum(1)
		sendAll(s, 2)
		require.Equal(t, PubrecDiscarded, s.Pubrec(1, true))
		ids, _ := resent(s)
		require.Empty(t, ids)
		require.Equal(t, 1, s.Quota(), "and frees quota [MQTT5-3.3.4-9]")
		require.False(t, s.Pubcomp(1))
	})
	t.Run("of an identifier that is unknown, done or of QoS 1", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 1, 2, 1)
		require.Equal(t, PubrecUnknown, s.Pubrec(9, false))
		require.Equal(t, PubrecUnknown, s.Pubrec(1, false))
		s.Pubrec(2, false)
		s.Pubcomp(2)
		require.Equal(t, PubrecUnknown, s.Pubrec(2, false))
	})
}

func TestPubcomp(t *testing.T) {
	t.Parallel()
	s := New()
	sendAll(s, 2, 1)
	require.False(t, s.Pubcomp(1), "not before PUBREC")
	require.False(t, s.Pubcomp(2), "a QoS 1 message ends with PUBACK")
	s.Pubrec(1, false)
	require.Equal(t, 2, s.Outstanding(), "QoS 2 holds quota until PUBCOMP [MQTT5-3.3.4-9]")
	require.True(t, s.Pubcomp(1), "[MQTT5-4.3.3-5]")
	require.Equal(t, 1, s.Outstanding())
	require.False(t, s.Pubcomp(1), "once")
	require.False(t, s.Pubcomp(7), "never sent")
}

func TestContradicts_tells_the_wrong_acknowledgement_from_one_that_comes_late(t *testing.T) {
	t.Parallel()
	s := New()
	sendAll(s, 1, 2, 2, 1, 2)
	s.Pubrec(3, false)
	s.Puback(4)
	s.Pubrec(5, false)
	s.Pubcomp(5)
	for _, c := range []struct {
		what                    string
		id                      uint16
		puback, pubrec, pubcomp bool
	}{
		{"QoS 1, sent", 1, false, true, true},
		{"QoS 2, sent", 2, true, false, true},
		{"QoS 2, in rel", 3, true, false, false},
		{"QoS 1, done", 4, false, false, false},
		{"QoS 2, done", 5, false, false, false},
		{"never sent", 6, false, false, false},
	} {
		require.Equal(t, c.puback, s.Contradicts(c.id, packet.TypePuback), "PUBACK of %s", c.what)
		require.Equal(t, c.pubrec, s.Contradicts(c.id, packet.TypePubrec), "PUBREC of %s", c.what)
		require.Equal(t, c.pubcomp, s.Contradicts(c.id, packet.TypePubcomp), "PUBCOMP of %s", c.what)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	t.Run("without a Receive Maximum is 65,535, but for what the window holds [MQTT5-3.3.4-9]", func(t *testing.T) {
		t.Parallel()
		s := New()
		require.Equal(t, windowMax, s.Quota())
		s.SetReceiveMaximum(40_000)
		require.Equal(t, windowMax, s.Quota())
	})
	t.Run("is 0 after a resumption with a smaller Receive Maximum, until enough is acknowledged", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 1, 1, 1)
		s.SetReceiveMaximum(2)
		for acknowledged, want := range []int{0, 0, 1, 2} {
			require.Equal(t, want, s.Quota(), "after %d acknowledgements", acknowledged)
			s.Puback(uint16(acknowledged + 1))
		}
	})
	for _, last := range []uint16{0, 65_000, 40_000, 32_767, 65_535} {
		t.Run(fmt.Sprintf("ends when one message is never acknowledged, so that identifiers stay apart, from %d", last), func(t *testing.T) {
			t.Parallel()
			s, err := Restore(State{NextPacketID: last})
			require.NoError(t, err)
			first := s.Send(Entry{QoS: 1})
			for want := windowMax - 1; want >= 0; want-- {
				if s.Quota() != want {
					t.Fatalf("Quota() = %d, want %d", s.Quota(), want)
				}
				if want > 0 {
					s.Puback(s.Send(Entry{QoS: 1}))
				}
			}
			require.Len(t, s.State().Window, windowMax)
			require.Equal(t, 1, s.Outstanding())
			s, err = Restore(s.State())
			require.NoError(t, err)
			s.Puback(first)
			require.Empty(t, s.State().Window)
			require.Equal(t, windowMax, s.Quota())
		})
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	t.Run("stays before what is not done, whatever is done behind it", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 1, 2, 1, 1)
		s.Puback(3)
		require.Equal(t, at(0), s.Cursor())
		s.Puback(1)
		require.Equal(t, at(1), s.Cursor())
		s.Pubrec(2, false)
		require.Equal(t, at(1), s.Cursor())
		s.Pubcomp(2)
		require.Equal(t, at(3), s.Cursor(), "what was done behind it counts now")
		s.Puback(4)
		require.Equal(t, at(4), s.Cursor())
	})
	t.Run("is not moved by retained messages of a snapshot, nor by what is not stored", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.AdvanceCursor(at(5))
		s.Puback(s.Send(Entry{QoS: 1, Position: at(9), Snapshot: true}))
		s.Puback(s.Send(Entry{QoS: 1}))
		require.Equal(t, at(5), s.Cursor())
		s.Puback(s.Send(Entry{QoS: 1, Position: at(6)}))
		require.Equal(t, at(6), s.Cursor())
	})
	t.Run("knows the parts of one write", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Puback(s.Send(Entry{QoS: 1, Position: message.Position{Seq: 1, Part: 1}}))
		s.Puback(s.Send(Entry{QoS: 1, Position: message.Position{Seq: 1, Part: 2}}))
		require.Equal(t, message.Position{Seq: 1, Part: 2}, s.Cursor())
	})
	t.Run("never goes back", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Send(Entry{QoS: 1, Position: at(3)})
		s.AdvanceCursor(at(7))
		s.AdvanceCursor(at(4))
		require.Equal(t, at(7), s.Cursor())
		s.Puback(1)
		require.Equal(t, at(7), s.Cursor())
	})
}

func TestResend(t *testing.T) {
	t.Parallel()
	s := New()
	sendAll(s, 1, 2, 1, 2, 2)
	s.Puback(3)
	s.Pubrec(4, false)
	s.Pubrec(5, false)
	s.Pubcomp(5)
	ids, states := resent(s)
	require.Equal(t, []uint16{1, 2, 4}, ids, "in the order of sending, with their identifiers [MQTT5-4.4.0-1]")
	require.Equal(t, []EntryState{StateSent, StateSent, StateRel}, states)
	count := 0
	s.Resend(func(*Entry) bool {
		count++
		return count < 2
	})
	require.Equal(t, 2, count, "stops when it is told")
	s.Resend(func(e *Entry) bool {
		e.Message = &message.Message{Topic: "read again"}
		return true
	})
	require.Equal(t, "read again", s.State().Window[0].Message.Topic, "an entry's message may be filled in")
}

// BenchmarkWindow acknowledges in order what a client without a Receive Maximum has outstanding.
func BenchmarkWindow(b *testing.B) {
	for _, c := range []struct {
		name        string
		outstanding int
	}{{"1", 1}, {"100", 100}, {"32000", 32_000}} {
		b.Run("send and acknowledge/"+c.name, func(b *testing.B) {
			s := New()
			for range c.outstanding - 1 {
				s.Send(Entry{QoS: 1})
			}
			first := uint16(0)
			b.ReportAllocs()
			for b.Loop() {
				s.Send(Entry{QoS: 1})
				if first++; first == 0 {
					first = 1
				}
				if !s.Puback(first) {
					b.Fatal(first)
				}
			}
		})
	}
}

func TestTaken_is_where_reading_the_log_goes_on(t *testing.T) {
	t.Parallel()
	s := New()
	require.Zero(t, s.Taken())
	s.AdvanceCursor(at(3))
	require.Equal(t, at(3), s.Taken())
	s.Send(Entry{QoS: 1, Position: at(5)})
	s.Send(Entry{QoS: 2, Position: at(7)})
	s.Send(Entry{QoS: 1, Position: at(900), Snapshot: true})
	require.Equal(t, at(7), s.Taken(), "what is retained stands in no order with the log")
	require.True(t, s.Puback(1))
	require.Equal(t, at(5), s.Cursor())
	require.Equal(t, at(7), s.Taken())
}

func TestDiscard_ends_what_cannot_be_sent_again(t *testing.T) {
	t.Parallel()
	s := New()
	s.SetReceiveMaximum(2)
	s.Send(Entry{QoS: 1, Position: at(1)})
	s.Send(Entry{QoS: 2, Position: at(2)})
	require.Equal(t, StateSent, s.StateOf(2))
	require.False(t, s.MayResend(0))
	require.True(t, s.MayResend(1))
	s.Discard(2)
	s.Discard(9)
	require.Equal(t, StateDone, s.StateOf(2))
	require.Equal(t, StateDone, s.StateOf(9))
	require.Equal(t, 1, s.Outstanding())
	s.Discard(1)
	require.Equal(t, at(2), s.Cursor())
	s.SetReceiveMaximum(0)
	require.True(t, s.MayResend(0))
}

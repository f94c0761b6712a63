package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShared(t *testing.T) {
	t.Parallel()
	three := func() *Session {
		s := New()
		s.Send(Entry{QoS: 1, Position: at(5), Shared: 7, Snapshot: true})
		s.Send(Entry{QoS: 2, Position: at(6), Shared: 7, Snapshot: true})
		s.Send(Entry{QoS: 1, Position: at(4)})
		return s
	}
	t.Run("what is done is settled, once, with the window that it has left", func(t *testing.T) {
		t.Parallel()
		s := three()
		require.True(t, s.Puback(1))
		taken := s.Take()
		require.Equal(t, []SharedEntry{{7, at(5)}}, taken.Settled)
		require.Len(t, taken.State.Window, 2)
		require.Empty(t, s.Take().Settled)
		s.PutBack(taken)
		require.Equal(t, PubrecDiscarded, s.Pubrec(2, true), "an error discards it [MQTT5-4.8.2-6]")
		require.Equal(t, []SharedEntry{{7, at(5)}, {7, at(6)}}, s.TakeSettled())
		require.Empty(t, s.TakeSettled())
		require.Zero(t, s.Cursor(), "it is not in the order of the log")
	})
	t.Run("what is under way is known, also after the store", func(t *testing.T) {
		t.Parallel()
		s := three()
		s.Pubrec(2, false)
		window, err := ParseWindow(AppendWindow(nil, s.State().Window))
		require.NoError(t, err)
		again, err := Restore(State{Window: window})
		require.NoError(t, err)
		for _, s := range []*Session{s, again} {
			var assigned []uint16
			for _, e := range s.Assigned() {
				assigned = append(assigned, e.PacketID)
			}
			require.Equal(t, []uint16{1, 2}, assigned)
		}
	})
	t.Run("damaged entries are refused", func(t *testing.T) {
		t.Parallel()
		whole := AppendWindow(nil, []Entry{{PacketID: 1, QoS: 1, State: StateSent, Shared: 1}})
		for _, b := range [][]byte{whole[:len(whole)-1], append(whole[:len(whole)-1:len(whole)-1], 0)} {
			_, err := ParseWindow(b)
			require.ErrorIs(t, err, errEncoding)
		}
	})
}

package session

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
)

func entry(id uint16, qos byte, state EntryState) Entry {
	return Entry{PacketID: id, QoS: qos, State: state, Position: at(uint64(id))}
}

func TestRestore_refuses_what_no_session_can_be(t *testing.T) {
	t.Parallel()
	tooLong := make([]Entry, windowMax+1)
	for i := range tooLong {
		tooLong[i] = entry(uint16(i+1), 1, StateSent)
	}
	for _, c := range []struct {
		name  string
		state State
		want  string
	}{
		{"packet id 0", State{Window: []Entry{entry(0, 1, StateSent)}}, "packet id 0"},
		{"a packet id twice", State{Window: []Entry{entry(3, 1, StateSent), entry(3, 1, StateSent)}}, "packet id 3"},
		{"packet ids out of order", State{Window: []Entry{entry(3, 1, StateSent), entry(5, 1, StateSent), entry(4, 1, StateSent)}}, "packet id 4"},
		{"packet ids that come round", State{Window: []Entry{entry(3, 1, StateSent), entry(5, 1, StateSent), entry(2, 1, StateSent)}}, "packet id 2"},
		{"packet ids too far apart", State{Window: []Entry{entry(1, 1, StateSent), entry(windowMax+1, 1, StateSent)}}, "packet id 32769"},
		{"a window that is too long", State{Window: tooLong}, "32769"},
		{"QoS 0", State{Window: []Entry{entry(1, 0, StateSent)}}, "QoS 0"},
		{"QoS 3", State{Window: []Entry{entry(1, 3, StateSent)}}, "QoS 3"},
		{"no state", State{Window: []Entry{entry(1, 1, 0)}}, "state 0"},
		{"a state that there is not", State{Window: []Entry{entry(1, 1, StateDone+1)}}, "state 4"},
		{"PUBREL for QoS 1", State{Window: []Entry{entry(1, 1, StateRel)}}, "state 2"},
		{"an inbound packet id twice", State{Inbound: []uint16{3, 3}}, "packet id 3"},
		{"inbound packet id 0", State{Inbound: []uint16{0}}, "packet id 0"},
		{"two subscriptions to one filter", State{Subscriptions: []Subscription{{Filter: "a"}, {Filter: "a"}}}, `"a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := Restore(c.state)
			require.ErrorContains(t, err, c.want)
			require.Nil(t, s)
		})
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	t.Run("goes on where the session was", func(t *testing.T) {
		t.Parallel()
		s := New()
		sendAll(s, 1, 2, 1, 2)
		s.Pubrec(2, false)
		s.Puback(3)
		s.Receive(9)
		s.Receive(4)
		require.False(t, s.Empty())
		require.True(t, New().Empty())
		require.Empty(t, s.State().Inbound, "their messages are not in the batch")
		require.True(t, s.Keep(9) && s.Keep(4))
		s.Subscribe(Subscription{Filter: "b", QoS: 2, Begins: at(1)})
		s.Subscribe(Subscription{Filter: "a"})
		again, err := Restore(s.State())
		require.NoError(t, err)
		require.Equal(t, s.State(), again.State())
		require.Equal(t, []uint16{4, 9}, again.State().Inbound)
		require.Equal(t, s.Outstanding(), again.Outstanding())
		require.True(t, again.Pubcomp(2))
		require.True(t, again.Receive(9))
		require.Equal(t, uint16(5), again.Send(Entry{QoS: 1}))
	})
	t.Run("takes no identifier of the window again, though the next one says so [MQTT5-2.2.1-4]", func(t *testing.T) {
		t.Parallel()
		for _, next := range []uint16{0, 4, 5, 6, 7, 60_000} {
			s, err := Restore(State{Window: []Entry{entry(5, 1, StateSent), entry(7, 2, StateRel)}, NextPacketID: next})
			require.NoError(t, err)
			require.Equal(t, uint16(8), s.Send(Entry{QoS: 1}), "next packet id %d", next)
		}
	})
	t.Run("with gaps in the window hands out none of its identifiers [MQTT5-2.2.1-4]", func(t *testing.T) {
		t.Parallel()
		s, err := Restore(State{Window: []Entry{entry(10, 1, StateSent), entry(10+windowMax-3, 1, StateSent)}})
		require.NoError(t, err)
		var ids []uint16
		for s.Quota() > 0 {
			ids = append(ids, s.Send(Entry{QoS: 1}))
		}
		require.Equal(t, []uint16{10 + windowMax - 2, 10 + windowMax - 1}, ids)
		require.True(t, s.Puback(10+windowMax-3))
		require.Zero(t, s.Quota(), "the first one holds the window")
		require.True(t, s.Puback(10))
		require.Equal(t, windowMax-2, s.Quota())
	})
	t.Run("lets done entries at the beginning go", func(t *testing.T) {
		t.Parallel()
		s, err := Restore(State{Window: []Entry{entry(5, 1, StateDone), entry(6, 2, StateDone), entry(7, 1, StateSent)}})
		require.NoError(t, err)
		require.Equal(t, at(6), s.Cursor())
		require.Len(t, s.State().Window, 1)
		require.Equal(t, 1, s.Outstanding())
	})
	t.Run("of nothing is a new session", func(t *testing.T) {
		t.Parallel()
		s, err := Restore(State{})
		require.NoError(t, err)
		require.Equal(t, New(), s)
	})
}

func TestState_is_a_copy(t *testing.T) {
	t.Parallel()
	s := New()
	s.Send(Entry{QoS: 1, Message: &message.Message{}})
	s.Subscribe(Subscription{Filter: "a"})
	st := s.State()
	st.Window[0].State = StateDone
	st.Subscriptions[0].QoS = 2
	require.Equal(t, StateSent, s.State().Window[0].State)
	require.Zero(t, s.State().Subscriptions[0].QoS)
	s.Puback(1)
	require.Equal(t, uint16(1), st.Window[0].PacketID, "what is done later does not change it")
}

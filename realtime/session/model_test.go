package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
)

// model is a session without any cleverness: a list of all that was sent and has not left.
type model struct {
	window     []Entry
	cursor     message.Position
	receiveMax int
	last       int // the identifier handed out last
	inbound    map[uint16]bool
}

func (m *model) outstanding() (n int) {
	for i := range m.window {
		if m.window[i].State != StateDone {
			n++
		}
	}
	return n
}

func (m *model) quota() int {
	span := 0
	if len(m.window) > 0 {
		span = 1
		for id := int(m.window[0].PacketID); id != m.last; id = id%65_535 + 1 {
			span++
		}
	}
	return max(0, min(m.receiveMax-m.outstanding(), windowMax-span))
}

// send returns the identifier that must be given.
func (m *model) send(e Entry) uint16 {
	m.last = m.last%65_535 + 1
	e.PacketID, e.State = uint16(m.last), StateSent
	m.window = append(m.window, e)
	return e.PacketID
}

// entry returns the entry of an identifier that is in one of the states, at the QoS.
func (m *model) entry(id uint16, qos byte, states ...EntryState) *Entry {
	for i := range m.window {
		if e := &m.window[i]; e.PacketID == id && e.QoS == qos && slices.Contains(states, e.State) {
			return e
		}
	}
	return nil
}

func (m *model) done(e *Entry) {
	e.State = StateDone
	for len(m.window) > 0 && m.window[0].State == StateDone {
		if p := m.window[0].Position; !m.window[0].Snapshot && m.cursor.Compare(p) < 0 {
			m.cursor = p
		}
		m.window = m.window[1:]
	}
}

// lockstep is a session and its model, changed alike.
type lockstep struct {
	s      *Session
	m      model
	random *rand.Rand
	seq    uint64
}

// requireSame checks all that can be seen of both, and what must hold of any session.
func (l *lockstep) requireSame(t *testing.T) {
	t.Helper()
	require.Equal(t, l.m.quota(), l.s.Quota(), "quota")
	require.Equal(t, l.m.outstanding(), l.s.Outstanding(), "outstanding")
	require.LessOrEqual(t, l.s.Quota()+l.s.Outstanding(), max(l.m.receiveMax, l.s.Outstanding()))
	require.Equal(t, l.m.cursor, l.s.Cursor(), "cursor")
	require.Equal(t, len(l.m.inbound), l.s.InboundCount(), "inbound")
	requireSameEntries(t, l.m.window, l.s.State().Window, "window")
	inUse := map[uint16]bool{}
	var want []Entry
	for _, e := range l.m.window {
		if e.PacketID == 0 || inUse[e.PacketID] {
			t.Fatalf("packet id %d is 0 or comes twice", e.PacketID)
		}
		inUse[e.PacketID] = true
		if e.State == StateDone {
			continue
		}
		want = append(want, e)
		if !e.Snapshot && l.s.Cursor().Compare(e.Position) >= 0 {
			t.Fatalf("the cursor %v has passed %v, which is not done", l.s.Cursor(), e.Position)
		}
	}
	var got []Entry
	l.s.Resend(func(e *Entry) bool {
		got = append(got, *e)
		return true
	})
	requireSameEntries(t, want, got, "resend")
}

// requireSameEntries is require.Equal for many entries many times.
func requireSameEntries(t *testing.T, want, got []Entry, what string) {
	t.Helper()
	same := slices.EqualFunc(want, got, func(x, y Entry) bool {
		return x.PacketID == y.PacketID && x.Position == y.Position && x.QoS == y.QoS && x.State == y.State &&
			x.Snapshot == y.Snapshot && x.Retain == y.Retain
	})
	if !same {
		require.Equal(t, want, got, what)
	}
}

// anyID is an identifier of the window, most often, or any.
func (l *lockstep) anyID() uint16 {
	if n := len(l.m.window); n > 0 && l.random.IntN(10) > 0 {
		return l.m.window[l.random.IntN(n)].PacketID
	}
	return uint16(l.random.IntN(65_536))
}

// step does one random thing to both.
func (l *lockstep) step(t *testing.T) {
	t.Helper()
	id := l.anyID()
	switch l.random.IntN(10) {
	case 0, 1, 2, 3:
		l.send(t)
	case 4, 5:
		e := l.m.entry(id, 1, StateSent)
		require.Equal(t, e != nil, l.s.Puback(id), "Puback(%d)", id)
		if e != nil {
			l.m.done(e)
		}
	case 6:
		l.pubrec(t, id, l.random.IntN(4) == 0)
	case 7:
		e := l.m.entry(id, 2, StateRel)
		require.Equal(t, e != nil, l.s.Pubcomp(id), "Pubcomp(%d)", id)
		if e != nil {
			l.m.done(e)
		}
	case 8:
		l.inbound(t)
	case 9:
		if l.random.IntN(10) == 0 {
			l.resume(t)
		}
	}
}

func (l *lockstep) send(t *testing.T) {
	t.Helper()
	if l.s.Quota() == 0 {
		return
	}
	l.seq++
	e := Entry{QoS: byte(1 + l.random.IntN(2)), Position: at(l.seq), Retain: l.random.IntN(2) == 0}
	if l.random.IntN(10) == 0 {
		// A retained message may be older than all that was sent, or newer.
		e.Snapshot, e.Position = true, at(uint64(l.random.IntN(1000)))
	}
	require.Equal(t, l.m.send(e), l.s.Send(e), "Send")
}

func (l *lockstep) pubrec(t *testing.T, id uint16, failed bool) {
	t.Helper()
	want := PubrecUnknown
	switch e := l.m.entry(id, 2, StateSent, StateRel); {
	case e == nil:
	case failed && e.State == StateSent:
		want = PubrecDiscarded
		l.m.done(e)
	default:
		want = PubrecRelease
		e.State = StateRel
	}
	require.Equal(t, want, l.s.Pubrec(id, failed), "Pubrec(%d, %v)", id, failed)
}

func (l *lockstep) inbound(t *testing.T) {
	t.Helper()
	id := uint16(1 + l.random.IntN(8))
	switch l.random.IntN(3) {
	case 0:
		require.Equal(t, l.m.inbound[id], l.s.Receive(id))
		require.Equal(t, l.m.inbound[id], l.s.Kept(id))
		require.True(t, l.s.Keep(id) && l.s.Queued(id))
		l.m.inbound[id] = true
	case 1:
		require.Equal(t, l.m.inbound[id], l.s.Release(id))
		delete(l.m.inbound, id)
	default:
		l.s.Forget(id)
		delete(l.m.inbound, id)
	}
}

// resume writes the session down and reads it again, with another Receive Maximum.
func (l *lockstep) resume(t *testing.T) {
	t.Helper()
	st := l.s.State()
	window, err := ParseWindow(AppendWindow(nil, st.Window))
	require.NoError(t, err)
	inbound, err := ParsePacketIDs(AppendPacketIDs(nil, st.Inbound))
	require.NoError(t, err)
	l.s, err = Restore(State{Cursor: st.Cursor, Window: window, Inbound: inbound, NextPacketID: st.NextPacketID})
	require.NoError(t, err)
	l.m.receiveMax = 1 + l.random.IntN(20)
	l.s.SetReceiveMaximum(uint16(l.m.receiveMax))
}

func TestSession_agrees_with_a_naive_model(t *testing.T) {
	t.Parallel()
	for seed := range uint64(24) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			l := &lockstep{random: rand.New(rand.NewPCG(seed, 0))}
			// Many begin where identifiers soon wrap.
			start := []int{0, 65_500, 65_535, 32_000}[seed%4]
			var err error
			l.s, err = Restore(State{NextPacketID: uint16(start)})
			require.NoError(t, err)
			l.m = model{last: start, receiveMax: 20, inbound: map[uint16]bool{}}
			l.s.SetReceiveMaximum(20)
			for range 1500 {
				l.step(t)
				l.requireSame(t)
			}
		})
	}
}

// TestSession_hands_out_every_identifier_in_turn goes round three times with a long window.
func TestSession_hands_out_every_identifier_in_turn(t *testing.T) {
	t.Parallel()
	s, random := New(), rand.New(rand.NewPCG(1, 0))
	var inUse [65_536]bool
	var window []uint16
	last := uint16(0)
	for range 3 * 65_535 {
		if len(window) >= 1000 || len(window) > 0 && random.IntN(3) == 0 {
			i := random.IntN(min(len(window), 50))
			require.True(t, s.Puback(window[i]))
			inUse[window[i]] = false
			window = slices.Delete(window, i, i+1)
		}
		id := s.Send(Entry{QoS: 1})
		if last++; last == 0 {
			last = 1
		}
		if id != last || inUse[id] {
			t.Fatalf("Send() = %d, want %d; in use: %v", id, last, inUse[id])
		}
		inUse[id] = true
		window = append(window, id)
	}
}

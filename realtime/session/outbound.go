package session

import (
	"cmp"
	"slices"

	"github.com/embercast/embercast/realtime/message"
)

// windowMax bounds the window. Done entries stay in it behind one that is not, so a client that never acknowledges
// one message gets no more after this many; and identifiers in it, handed out in turn, stay in cyclic order.
const windowMax = 1 << 15

// SetReceiveMaximum sets the client's Receive Maximum of this connection; 0 stands for 65,535.
func (s *Session) SetReceiveMaximum(n uint16) { s.receiveMax = n }

// Quota returns how many more PUBLISH packets of QoS 1 and 2 may be sent now [MQTT5-3.3.4-9]. After a resumption with
// a smaller Receive Maximum it is 0 until enough has been acknowledged.
func (s *Session) Quota() int {
	receiveMax := int(s.receiveMax)
	if receiveMax == 0 {
		receiveMax = 65_535
	}
	return max(0, min(receiveMax-s.outstanding, windowMax-len(s.window)))
}

// Outstanding returns how many messages are sent and not yet done.
func (s *Session) Outstanding() int { return s.outstanding }

// Send puts e into the window as sent and returns its Packet Identifier: one that is not in use [MQTT5-2.2.1-3],
// beginning at 1 and growing by one. There must be quota.
func (s *Session) Send(e Entry) uint16 {
	if s.Quota() == 0 {
		panic("session: sent beyond the client's Receive Maximum")
	}
	e.PacketID, e.State = s.freeID(), StateSent
	s.window = append(s.window, e)
	s.outstanding++
	return e.PacketID
}

// freeID returns the next identifier. It cannot be in use: the window is half of them at most, in their order.
func (s *Session) freeID() uint16 {
	if s.nextID++; s.nextID == 0 {
		s.nextID = 1
	}
	return s.nextID
}

// find returns the place of an identifier in the window, or -1. Done entries keep theirs until they leave.
func (s *Session) find(id uint16) int {
	if len(s.window) == 0 {
		return -1
	}
	first := s.window[0].PacketID
	i, found := slices.BinarySearchFunc(s.window, id-first, func(e Entry, distance uint16) int {
		return cmp.Compare(e.PacketID-first, distance)
	})
	if !found {
		return -1
	}
	return i
}

// Puback ends a QoS 1 delivery; false: no such delivery.
func (s *Session) Puback(id uint16) bool {
	i := s.find(id)
	if i < 0 || s.window[i].QoS != 1 || s.window[i].State != StateSent {
		return false
	}
	s.done(i)
	return true
}

// PubrecResult says how a PUBREC is answered.
type PubrecResult int

// The results: an unknown identifier (PUBREL 0x92 in 5.0); PUBREL; nothing more, the client has refused the message.
const (
	PubrecUnknown PubrecResult = iota
	PubrecRelease
	PubrecDiscarded
)

// Pubrec takes a PUBREC. From here on the message is never sent as PUBLISH again [MQTT5-4.3.3-5].
func (s *Session) Pubrec(id uint16, failed bool) PubrecResult {
	i := s.find(id)
	if i < 0 || s.window[i].QoS != 2 || s.window[i].State == StateDone {
		return PubrecUnknown
	}
	if failed && s.window[i].State == StateSent {
		s.done(i)
		return PubrecDiscarded
	}
	s.window[i].State = StateRel
	s.window[i].Message = nil
	return PubrecRelease
}

// Pubcomp ends a QoS 2 delivery; false: no such delivery.
func (s *Session) Pubcomp(id uint16) bool {
	i := s.find(id)
	if i < 0 || s.window[i].State != StateRel {
		return false
	}
	s.done(i)
	return true
}

// done frees quota; entries leave the window in order, and the cursor follows the last one that left.
func (s *Session) done(i int) {
	s.window[i].State = StateDone
	s.window[i].Message = nil
	s.outstanding--
	n := 0
	for n < len(s.window) && s.window[n].State == StateDone {
		if e := &s.window[n]; !e.Snapshot && s.cursor.Compare(e.Position) < 0 {
			s.cursor = e.Position
		}
		n++
	}
	if n == 0 {
		return
	}
	if s.window = slices.Delete(s.window, 0, n); len(s.window) == 0 && cap(s.window) > 16 {
		s.window = nil
	}
}

// Resend calls yield with each entry that is not done, in the order of sending, after a session was resumed
// [MQTT5-4.4.0-1]: in StateSent the PUBLISH goes again with DUP and the same identifier, in StateRel the PUBREL. They
// hold quota already; beyond a Receive Maximum that is smaller now, it is the caller that lets the rest wait.
func (s *Session) Resend(yield func(e *Entry) bool) {
	for i := range s.window {
		if s.window[i].State != StateDone && !yield(&s.window[i]) {
			return
		}
	}
}

// Cursor returns the position up to which everything is done.
func (s *Session) Cursor() message.Position { return s.cursor }

// AdvanceCursor moves the cursor forward: nothing below it is of interest any more.
func (s *Session) AdvanceCursor(to message.Position) {
	if s.cursor.Compare(to) < 0 {
		s.cursor = to
	}
}

package session

import (
	"cmp"
	"slices"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// windowMax bounds the window, counted in identifiers from its first to its last. Done entries stay in it behind one
// that is not, so a client that never acknowledges one message gets no more after this many; and identifiers in it,
// handed out in turn, stay in cyclic order.
const windowMax = 1 << 15

func (s *Session) window() []Entry { return s.entries[s.gone:] }

// SetReceiveMaximum sets the client's Receive Maximum of this connection; 0 stands for 65,535.
func (s *Session) SetReceiveMaximum(n uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiveMax = n
}

// SetBytesMax bounds the bytes of what is sent and neither acknowledged nor released: one message may go beyond it. 0 is
// no bound.
func (s *Session) SetBytesMax(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytesMax = n
}

// Quota returns how many more PUBLISH packets of QoS 1 and 2 may be sent now [MQTT5-3.3.4-9]. After a resumption with
// a smaller Receive Maximum it is 0 until enough has been acknowledged.
func (s *Session) Quota() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quota()
}

func (s *Session) quota() int {
	if s.bytesMax > 0 && s.bytes >= s.bytesMax {
		return 0
	}
	receiveMax := int(s.receiveMax)
	if receiveMax == 0 {
		receiveMax = 65_535
	}
	used := 0
	if window := s.window(); len(window) > 0 {
		used = span(window[0].PacketID, s.nextID)
	}
	return max(0, min(receiveMax-s.outstanding, windowMax-used))
}

// span counts the identifiers from first to last, in the order in which they are handed out.
func span(first, last uint16) int {
	n := int(last-first) + 1
	if last < first {
		n-- // 65,535 is followed by 1
	}
	return n
}

// Outstanding returns how many messages are sent and not yet done.
func (s *Session) Outstanding() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outstanding
}

// Send puts e into the window as sent and returns its Packet Identifier: one that is not in use [MQTT5-2.2.1-4],
// beginning at 1 and growing by one. There must be quota.
func (s *Session) Send(e Entry) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(e)
}

// SendRetained is Send for a message of a retained snapshot, and MoveRetained for its topic, in one step: a State that
// holds one without the other would send the message twice, or never.
func (s *Session) SendRetained(e Entry, filter, name string) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.Snapshot = true
	id := s.send(e)
	s.moveRetained(filter, name)
	return id
}

// Pass is for a message that is not to be sent, and counts as done: it uses up an identifier, and the cursor moves past it
// in its turn. In one step: no State holds it as sent. There must be quota.
func (s *Session) Pass(e Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(e)
	s.done(&s.entries[len(s.entries)-1])
}

func (s *Session) send(e Entry) uint16 {
	if s.quota() == 0 {
		panic("session: sent beyond the client's Receive Maximum")
	}
	e.PacketID, e.State = s.freeID(), StateSent
	s.entries = append(s.entries, e)
	s.outstanding++
	s.bytes += e.Bytes
	return e.PacketID
}

// freeID returns the next identifier. It cannot be in use: the window spans half of them at most, in their order.
func (s *Session) freeID() uint16 {
	if s.nextID++; s.nextID == 0 {
		s.nextID = 1
	}
	return s.nextID
}

// find returns the entry of an identifier, or nil. Done entries keep theirs until they leave.
func (s *Session) find(id uint16) *Entry {
	window := s.window()
	if len(window) == 0 {
		return nil
	}
	first := window[0].PacketID
	i, found := slices.BinarySearchFunc(window, id-first, func(e Entry, distance uint16) int {
		return cmp.Compare(e.PacketID-first, distance)
	})
	if !found {
		return nil
	}
	return &window[i]
}

// Contradicts reports whether an acknowledgement of that kind cannot be of the message under way with the identifier:
// a Protocol Error. One of an identifier that is not under way is none; it may come late, after a resumption.
func (s *Session) Contradicts(id uint16, kind packet.Type) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(id)
	if e == nil || e.State == StateDone {
		return false
	}
	switch kind {
	case packet.TypePuback:
		return e.QoS != 1
	case packet.TypePubrec:
		return e.QoS != 2
	default:
		return e.State != StateRel
	}
}

// Puback ends a QoS 1 delivery; false: no such delivery.
func (s *Session) Puback(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(id)
	if e == nil || e.QoS != 1 || e.State != StateSent {
		return false
	}
	s.done(e)
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

// Pubrec takes a PUBREC. From here on the message is never sent as PUBLISH again [MQTT5-4.3.3-6].
func (s *Session) Pubrec(id uint16, failed bool) PubrecResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(id)
	if e == nil || e.QoS != 2 || e.State == StateDone {
		return PubrecUnknown
	}
	if failed && e.State == StateSent {
		s.done(e)
		return PubrecDiscarded
	}
	e.State = StateRel
	s.forgetMessage(e)
	return PubrecRelease
}

// forgetMessage is for an entry that is never sent as PUBLISH again.
func (s *Session) forgetMessage(e *Entry) {
	s.bytes -= e.Bytes
	e.Message, e.Bytes = nil, 0
}

// Pubcomp ends a QoS 2 delivery; false: no such delivery.
func (s *Session) Pubcomp(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(id)
	if e == nil || e.State != StateRel {
		return false
	}
	s.done(e)
	return true
}

// done frees quota.
func (s *Session) done(e *Entry) {
	e.State = StateDone
	s.forgetMessage(e)
	if e.Shared != 0 {
		s.settled = append(s.settled, SharedEntry{e.Shared, e.Position})
	}
	s.outstanding--
	s.leave()
}

// leave lets done entries leave the window in order; the cursor follows the last one that left. Those that stay are
// moved up when as many have left: an acknowledgement then costs the same, however long the window is.
func (s *Session) leave() {
	for s.gone < len(s.entries) && s.entries[s.gone].State == StateDone {
		if e := &s.entries[s.gone]; !e.Snapshot {
			s.advance(e.Position)
		}
		s.gone++
	}
	if 2*s.gone < len(s.entries) {
		return
	}
	s.entries, s.gone = slices.Delete(s.entries, 0, s.gone), 0
	if len(s.entries) == 0 && cap(s.entries) > 16 {
		s.entries = nil
	}
}

// Resend calls yield with each entry that is not done, in the order of sending, after a session was resumed
// [MQTT5-4.4.0-1]: in StateSent the PUBLISH goes again with DUP and the same identifier, in StateRel the PUBREL. They
// hold quota already; beyond a Receive Maximum that is smaller now, it is the caller that lets the rest wait.
func (s *Session) Resend(yield func(e *Entry) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	window := s.window()
	for i := range window {
		if window[i].State != StateDone && !yield(&window[i]) {
			return
		}
	}
}

// Cursor returns the position up to which everything is done.
func (s *Session) Cursor() message.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor
}

// AdvanceCursor moves the cursor forward: nothing below it is of interest any more.
func (s *Session) AdvanceCursor(to message.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance(to)
}

func (s *Session) advance(to message.Position) {
	if s.cursor.Compare(to) < 0 {
		s.cursor = to
	}
}

// Taken returns the position behind which nothing of the log has been put into the window: where reading goes on after
// the connection has ended.
func (s *Session) Taken() message.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.cursor
	for _, e := range s.window() {
		if !e.Snapshot && taken.Compare(e.Position) < 0 {
			taken = e.Position
		}
	}
	return taken
}

// StateOf returns how far the delivery with an identifier has come; StateDone where there is none.
func (s *Session) StateOf(id uint16) EntryState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(id); e != nil {
		return e.State
	}
	return StateDone
}

// MayResend reports whether the client's Receive Maximum has room for one more of what is sent again, of which waiting
// are not yet.
func (s *Session) MayResend(waiting int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.receiveMax == 0 || s.outstanding-waiting < int(s.receiveMax)
}

// Discard ends the delivery of an entry that can or need not be sent again: its message has gone from the log, or is
// too large for the client's Maximum Packet Size now.
func (s *Session) Discard(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(id); e != nil && e.State != StateDone {
		s.done(e)
	}
}

// Package session holds the state of one MQTT Session (MQTT 5.0 section 4.1): subscriptions, the window of QoS 1 and 2
// messages under way to the client, and the QoS 2 Packet Identifiers received from it.
//
// It is pure: no I/O, no goroutine, no clock. What must be committed before which packet leaves is decided by its
// caller (docs/architecture.md, "Durable state"); what a crash then does is tested here.
package session

import (
	"fmt"
	"slices"
	"sync"

	"github.com/embercast/embercast/realtime/message"
)

// Subscription is one subscription of a Session.
type Subscription struct {
	Filter            string // as the client sent it, with $share/…
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32           // Subscription Identifier; 0: none
	FilterID          int64            // the durable filter in the store; 0: not durable
	Begins            message.Position // log entries up to here are not for this subscription
	RetainedAfter     string           // a retained snapshot at QoS 1 or 2 goes on after this topic; empty: none under way
	Suspended         bool             // the rules no longer allow it

	leaving bool
}

// EntryState is how far the delivery of an Entry has come.
type EntryState byte

// The states: PUBLISH sent and not acknowledged; PUBREL sent (QoS 2); done, but something before it is not.
const (
	StateSent EntryState = iota + 1
	StateRel
	StateDone
)

// Entry is one QoS 1 or 2 message under way to the client, or done above the cursor.
type Entry struct {
	PacketID        uint16
	Position        message.Position
	QoS             byte
	State           EntryState
	Snapshot        bool  // from a retained snapshot, or of a group: its position does not move the cursor
	Shared          int64 // the durable filter of the Shared Subscription that it was assigned by; 0: none
	Retain          bool
	SubscriptionIDs []uint32
	Bytes           int64            // of the message, for SetBytesMax; not known after Restore
	Message         *message.Message // nil after Restore until it has been read from the log again
}

// SharedEntry names a message that a Shared Subscription has assigned to the session.
type SharedEntry struct {
	FilterID int64
	Position message.Position
}

// Taken is what is to be committed of a session, in one transaction.
type Taken struct {
	State   State
	Moved   []Subscription // whose retained snapshot has come further since the last Taken
	Settled []SharedEntry  // that are done since the last Taken: no other member of their groups is to get them
	Leaving []Subscription // that Leave has named, with a retained snapshot under way: how far it has come
}

// Session is the state of one session. Safe for concurrent use: its connection works on it while the broker takes the
// State that is committed. Each method is one step; the callback of Resend is
// called within it and must not use the Session, nor take a lock.
type Session struct {
	mu            sync.Mutex      // guards what follows
	subscriptions []*Subscription // in filter order; most sessions have few, and a map of one costs 250 bytes
	entries       []Entry         // in the order of sending: the first gone of them have left, the rest is the window
	gone          int
	cursor        message.Position
	outstanding   int   // entries of the window in StateSent or StateRel: they hold the client's quota
	bytes         int64 // of those in StateSent: what a resumption reads into memory
	bytesMax      int64 // 0: none
	receiveMax    uint16
	nextID        uint16
	settled       []SharedEntry       // done since Take or TakeSettled
	moved         map[string]struct{} // Topic Filters whose retained snapshot has moved since Take
	inbound       map[uint16]inbound
}

// New returns an empty session.
func New() *Session { return &Session{} }

// State is all of a session that outlives its connection and a crash.
type State struct {
	Cursor        message.Position
	Window        []Entry
	Inbound       []uint16       // ascending
	NextPacketID  uint16         // the last one handed out; the next is one more
	Subscriptions []Subscription // in filter order
}

// Restore makes a session of a State. It refuses what no session can be, for the store may be damaged.
func Restore(st State) (*Session, error) {
	s := &Session{cursor: st.Cursor, nextID: st.NextPacketID}
	if err := s.restoreWindow(st.Window); err != nil {
		return nil, err
	}
	for _, id := range st.Inbound {
		if id == 0 || s.Receive(id) {
			return nil, fmt.Errorf("session: inbound packet id %d comes twice or is 0", id)
		}
		s.Keep(id)
	}
	for _, sub := range st.Subscriptions {
		if _, twice := s.Subscribe(sub); twice {
			return nil, fmt.Errorf("session: two subscriptions to %q", sub.Filter)
		}
	}
	return s, nil
}

func (s *Session) restoreWindow(window []Entry) error {
	if len(window) == 0 {
		return nil
	}
	last := 0
	for _, e := range window {
		place := span(window[0].PacketID, e.PacketID)
		switch {
		case e.PacketID == 0 || place <= last || place > windowMax:
			return fmt.Errorf("session: packet id %d is 0, out of order or too far from the first in the window", e.PacketID)
		case e.State < StateSent || e.State > StateDone || e.QoS < 1 || e.QoS > 2 || e.State == StateRel && e.QoS != 2:
			return fmt.Errorf("session: entry %d of QoS %d has the unknown state %d", e.PacketID, e.QoS, e.State)
		}
		last = place
		if e.State != StateDone {
			s.outstanding++
		}
		s.entries = append(s.entries, e)
	}
	// Identifiers are handed out in the order of the window, so the next one follows its last.
	s.nextID = window[len(window)-1].PacketID
	s.leave()
	return nil
}

// State returns a copy of what must be committed: of the identifiers of QoS 2 messages, those that Keep has named.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state()
}

// Empty reports whether nothing would be lost with the session: it has no subscriptions, and nothing is under way.
func (s *Session) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subscriptions) == 0 && len(s.window()) == 0 && len(s.inbound) == 0
}

// Take returns what is to be committed. PutBack takes it back when that fails.
func (s *Session) Take() Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Taken{Settled: s.settled}
	s.settled = nil
	for f := range s.moved {
		if sub := s.subscription(f); sub != nil && !sub.leaving {
			t.Moved = append(t.Moved, *sub)
		}
	}
	clear(s.moved)
	for _, sub := range s.subscriptions {
		if sub.leaving && sub.RetainedAfter != "" {
			t.Leaving = append(t.Leaving, *sub)
		}
	}
	t.State = s.state()
	return t
}

// PutBack takes back what Take has returned: it was not committed.
func (s *Session) PutBack(t Taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = append(t.Settled, s.settled...)
	for i := range t.Moved {
		if _, there := s.findSub(t.Moved[i].Filter); there {
			if s.moved == nil {
				s.moved = map[string]struct{}{}
			}
			s.moved[t.Moved[i].Filter] = struct{}{}
		}
	}
}

func (s *Session) state() State {
	st := State{Cursor: s.cursor, Window: slices.Clone(s.window()), NextPacketID: s.nextID}
	for id, is := range s.inbound {
		if is == inboundKept {
			st.Inbound = append(st.Inbound, id)
		}
	}
	slices.Sort(st.Inbound)
	st.Subscriptions = s.copySubscriptions()
	return st
}

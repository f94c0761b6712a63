// Package history judges a server from outside: it is told what clients have sent and received, in the order in which they
// did, and says what could not have happened on a server that keeps its word (docs/mqtt.md, "Acknowledged means committed"):
// an acknowledged message that is lost, a message of QoS 2 that comes twice, two that come in the wrong order, a retained
// message that is older than one acknowledged, a subscription or session that is not there though acknowledged, or is there
// though its end was.
//
// It knows no network and no server. Tests of realtime stores and crashes feed it; its own tests feed it made-up histories
// with faults in them, which it must find.
package history

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// ID names a message for ever: the N-th of its publisher.
type ID struct {
	From string
	N    int
}

// String returns the ID as reports show it.
func (id ID) String() string { return fmt.Sprintf("%s#%d", id.From, id.N) }

// Message is what a publisher is about to send.
type Message struct {
	ID     ID
	Topic  string
	QoS    byte
	Retain bool
	Clear  bool   // without a payload: with Retain, it clears
	Will   bool   // the server may publish it, or not
	Note   string // for reports
}

// moment is a point in the history: the number of what happened then; 0 is never.
type moment int

// message is a Message and what became of it.
type message struct {
	Message
	sends     int
	firstSent moment
	lastSent  moment
	acked     moment // PUBACK or PUBREC, Success
	proven    moment // acknowledged, or seen by somebody: it has its place in the server's order
	done      moment // acknowledged, or given up by its publisher: nothing sent before has an effect after
	refused   bool
	settled   bool // it belongs to a part of the history that has been judged
	receipts  map[*Session]*receipt
}

// abandoned reports whether its publisher has given it up: it may have been published, or not.
func (m *message) abandoned() bool { return m.done != 0 && m.acked == 0 }

// receipt is what a session has got of a message.
type receipt struct {
	first      moment
	run, begun int  // of the server, and the number of the client's session, in which it came last
	qos        byte // the highest that it came with
	connection int  // the last one that it came by
	times      int  // by that connection, not marked as retained
}

// stream is what one publisher sends to one topic: it arrives in order. What has QoS 0 may overtake the rest.
type stream struct {
	from, topic string
	stored      bool // QoS 1 and 2
}

func (m *message) stream() stream { return stream{m.ID.From, m.Topic, m.QoS > 0} }

// History is what has happened. Its methods may be called concurrently.
type History struct {
	mu       sync.Mutex // guards what follows, and what its sessions hold
	began    time.Time
	now      moment
	run      int // of the server; the first is 1
	messages map[ID]*message
	retained map[string][]*message // by topic: those that may be its value, and some that cannot
	sessions map[string]*Session
	order    []*Session // as they were named
	journal  journal
	faults   []string
	fault    chan struct{} // closed at the first
	counts   Counts
}

// Counts says how much a history has seen.
type Counts struct {
	Messages, Acknowledged, Deliveries, Again, Resumed, Retained int
}

// New returns an empty history.
func New() *History {
	return &History{
		began: time.Now(), run: 1, messages: map[ID]*message{}, retained: map[string][]*message{},
		sessions: map[string]*Session{}, fault: make(chan struct{}),
	}
}

// happensLocked is the next moment. It expects mu to be held.
func (h *History) happensLocked(who, what string, id ID, note string) moment {
	h.now++
	h.journal.add(entry{at: h.now, after: time.Since(h.began), run: h.run, who: who, what: what, id: id, note: note})
	return h.now
}

// Crashed tells that the server was killed and starts again.
func (h *History) Crashed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.happensLocked("server", "killed", ID{}, "")
	h.run++
}

// Run returns the number of the server's run; the first is 1.
func (h *History) Run() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.run
}

// Sent tells that a publisher is about to send a message, for the first time or again.
func (h *History) Sent(msg Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.messages[msg.ID]
	what := "sends again"
	if m == nil {
		what = "sends"
	}
	at := h.happensLocked(msg.ID.From, what, msg.ID, fmt.Sprintf("%s QoS %d%s%s", msg.Topic, msg.QoS, flags(msg), msg.Note))
	if m != nil {
		m.sends++
		m.lastSent = at
		return
	}
	m = &message{Message: msg, sends: 1, firstSent: at, lastSent: at, receipts: map[*Session]*receipt{}}
	h.messages[msg.ID] = m
	h.counts.Messages++
	if msg.Retain {
		h.retained[msg.Topic] = append(h.retained[msg.Topic], m)
	}
	if msg.QoS == 0 || msg.Will {
		return
	}
	for _, s := range h.order {
		s.expectLocked(m)
	}
}

func flags(m Message) string {
	text := ""
	if m.Retain {
		text += " retained"
	}
	if m.Clear {
		text += " clear"
	}
	return text
}

// Acked tells that a publisher has got PUBACK or PUBREC with Success.
func (h *History) Acked(id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.happensLocked(id.From, "is told it is taken", id, "")
	m := h.messages[id]
	if m == nil || m.acked != 0 {
		return
	}
	m.acked, m.done = at, at
	m.proveLocked(at)
	h.counts.Acknowledged++
}

// Refused tells that a publisher has got PUBACK or PUBREC with a failure: nobody may see the message.
func (h *History) Refused(id ID, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.happensLocked(id.From, "is refused", id, reason)
	m := h.messages[id]
	if m == nil {
		return
	}
	m.refused, m.done = true, at
	for _, s := range h.order {
		s.forgetLocked(m)
	}
}

// Abandoned tells that a publisher has given a message up, and that nothing it has sent of it can arrive any more: its
// session has ended, and the next connection was accepted.
func (h *History) Abandoned(id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.happensLocked(id.From, "gives up", id, "")
	if m := h.messages[id]; m != nil && m.done == 0 {
		m.done = at
	}
}

// Note puts something into the history that helps its reader.
func (h *History) Note(who, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.happensLocked(who, what, ID{}, "")
}

// Fault tells of something that must not happen and that a client has seen itself.
func (h *History) Fault(who, what string, id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faultLocked(who, nil, about(h.messages[id]), "%s: %s", who, what)
}

// Faults returns what must not have happened, each with the part of the history that it belongs to.
func (h *History) Faults() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults)
}

// Faulty is closed at the first fault.
func (h *History) Faulty() <-chan struct{} { return h.fault }

// Counts says how much has been seen so far.
func (h *History) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

func (m *message) proveLocked(at moment) {
	if m.proven == 0 {
		m.proven = at
	}
}

// certainlyBefore reports whether other took its place in the server's order after m, whatever happened unseen.
func (m *message) certainlyBefore(other *message) bool {
	if m.done != 0 && m.done < other.firstSent {
		return true
	}
	if m.ID.From != other.ID.From || m.ID.N >= other.ID.N || m.stream() != other.stream() {
		return false
	}
	switch {
	case m.QoS == 2 || m.sends == 1:
		return true
	case other.QoS == 2:
		// Each sending of QoS 1 may publish it once more, after one of QoS 2 that was published by its first.
		return m.lastSent < other.firstSent
	default:
		return other.acked != 0 && m.lastSent < other.acked
	}
}

// Outstanding returns how many messages, retained ones among them, some session must still get.
func (h *History) Outstanding() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, s := range h.order {
		n += len(s.missingLocked()) + len(s.snapshotMissingLocked())
	}
	return n
}

// Settle judges all that has happened: the server is up, all publishers have got their acknowledgements or have given up,
// and all sessions are connected and have had time. What every session must have and has not is lost. What is settled is
// then forgotten but for its number.
func (h *History) Settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.order {
		for _, m := range s.missingLocked() {
			h.faultLocked(s.name, s, about(m), "%s never got %v (%s), which was acknowledged", s.name, m.ID, m.Topic)
		}
		for _, topic := range s.snapshotMissingLocked() {
			due := s.snapshot[topic]
			h.faultLocked(s.name, s, about(due.value), "%s never got the retained message of %s, %v or a later one, after its SUBSCRIBE", s.name, topic, due.value.ID)
		}
		s.settleLocked()
	}
	h.happensLocked("history", "settled", ID{}, "")
	kept := map[*message]bool{}
	for topic, list := range h.retained {
		list = slices.DeleteFunc(list, func(v *message) bool { return superseded(v, list, h.now) })
		h.retained[topic] = list
		for _, m := range list {
			kept[m] = true
		}
	}
	for id, m := range h.messages {
		switch {
		case m.settled && !kept[m]:
			delete(h.messages, id)
		case m.done != 0 || m.QoS == 0:
			m.settled = true
		}
	}
}

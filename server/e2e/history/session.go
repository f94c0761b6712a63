package history

import (
	"fmt"
	"slices"

	"github.com/embercast/embercast/realtime/topic"
)

// Session is one who is owed messages: an MQTT session, or a group of those that share a subscription.
type Session struct {
	h      *History
	name   string
	shared bool

	connection  int
	begun       int    // how often it began
	established bool   // CONNACK has said that it outlives its connection
	starting    moment // CONNECT with Clean Start was sent, and no CONNACK has come
	gone        bool   // the session ended with its connection, and no CONNECT was sent since
	wasGone     bool   // so it was when the last CONNECT was sent

	subscriptions []*subscription
	expected      map[stream][]*message // in order: what it must get while its subscriptions last
	progress      map[stream]*progress
	snapshot      map[string]due
}

// subscription is one from SUBSCRIBE to UNSUBACK, or to the end of the session.
type subscription struct {
	filter    string
	qos       byte
	start     moment // SUBSCRIBE is sent
	confirmed moment // SUBACK has come
	ending    moment // UNSUBSCRIBE, or CONNECT with Clean Start, is sent
	ended     moment // UNSUBACK or CONNACK has come
}

// certain reports whether it is in force beyond doubt.
func (u *subscription) certain() bool { return u.confirmed != 0 && u.ending == 0 }

func matches(filter, name string) bool { return topic.Match(filter, name) }

// progress is how far a session has got in a stream.
type progress struct {
	latest int // the highest number it has got
	// The last one by this connection, of those that were sent once.
	connection, inConnection int
}

// Session returns the session of a client, which lasts as long as its connection until Connected says otherwise.
func (h *History) Session(client string) *Session { return h.session(client, false) }

// Group returns what those that share a subscription get together. It is one who is owed messages from its first SUBACK on;
// one member at least stays.
func (h *History) Group(name string) *Session { return h.session(name, true) }

func (h *History) session(name string, shared bool) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sessions[name]
	if s == nil {
		s = &Session{h: h, name: name, shared: shared}
		s.resetLocked()
		h.sessions[name] = s
		h.order = append(h.order, s)
	}
	return s
}

func (s *Session) resetLocked() {
	s.begun++
	s.expected, s.progress, s.snapshot = map[stream][]*message{}, map[stream]*progress{}, map[string]due{}
}

// Connecting tells that CONNECT is about to be sent.
func (s *Session) Connecting(clean bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	note := "to go on"
	if clean {
		note = "Clean Start"
	}
	at := s.h.happensLocked(s.name, "connects", ID{}, note)
	s.wasGone, s.gone = s.gone, false
	if clean {
		s.endingLocked(at)
		s.starting = at
	}
}

// endingLocked notes that the session may be gone from now on.
func (s *Session) endingLocked(at moment) {
	for _, u := range s.subscriptions {
		if u.ending == 0 {
			u.ending = at
		}
	}
	clear(s.expected)
	clear(s.snapshot)
}

// Connected tells that CONNACK has come: whether it says Session Present, and whether the session outlives the connection.
func (s *Session) Connected(present, outlives bool) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	note := "no Session Present"
	if present {
		note = "Session Present"
		h.counts.Resumed++
	}
	at := h.happensLocked(s.name, "is connected", ID{}, note)
	s.connection++
	switch {
	case s.starting != 0 && present:
		h.faultLocked(s.name, s, nil, "%s asked for Clean Start, and CONNACK says Session Present", s.name)
	case s.wasGone && present:
		h.faultLocked(s.name, s, nil, "%s has no session, and CONNACK says Session Present", s.name)
	case s.starting == 0 && s.established && !present:
		h.faultLocked(s.name, s, nil, "the session of %s is lost: CONNACK says no Session Present", s.name)
	}
	if s.starting != 0 || !present {
		s.endedLocked(at)
	}
	s.starting = 0
	s.established, s.gone = outlives, !outlives
}

// endedLocked notes that the session is gone for certain, and that another begins.
func (s *Session) endedLocked(at moment) {
	s.endingLocked(at)
	s.subscriptions = nil
	s.resetLocked()
}

// Ends tells that the client is about to end its session, by DISCONNECT with Session Expiry Interval 0: the next CONNECT
// has Clean Start.
func (s *Session) Ends() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.endingLocked(s.h.happensLocked(s.name, "ends its session", ID{}, ""))
	s.established = false
}

// Closed tells that the connection is over.
func (s *Session) Closed(why string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	at := s.h.happensLocked(s.name, "is not connected any more", ID{}, why)
	if !s.established {
		s.endingLocked(at)
	}
}

// Subscribing tells that SUBSCRIBE is about to be sent; snapshot says whether it asks for retained messages.
func (s *Session) Subscribing(filter string, qos byte, snapshot bool) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	at := s.h.happensLocked(s.name, "subscribes", ID{}, fmt.Sprintf("%s QoS %d", filter, qos))
	last := s.lastLocked(filter)
	if last == nil || last.ending != 0 {
		if last != nil && last.ended == 0 {
			last.ended = at // the new one covers what follows
		}
		s.subscriptions = append(s.subscriptions, &subscription{filter: filter, qos: qos, start: at})
	}
	if snapshot || last == nil || !last.certain() {
		s.forgiveSnapshotLocked(filter) // it was perhaps never asked for, or is asked for anew
	}
	if snapshot {
		s.oweSnapshotLocked(at, filter)
	}
}

// lastLocked returns the newest subscription to a filter.
func (s *Session) lastLocked(filter string) *subscription {
	for _, u := range slices.Backward(s.subscriptions) {
		if u.filter == filter {
			return u
		}
	}
	return nil
}

// Subscribed tells that SUBACK has come, and granted the filter.
func (s *Session) Subscribed(filter string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	at := s.h.happensLocked(s.name, "has subscribed", ID{}, filter)
	if u := s.lastLocked(filter); u != nil && u.confirmed == 0 {
		u.confirmed = at
	}
}

// Unsubscribing tells that UNSUBSCRIBE is about to be sent.
func (s *Session) Unsubscribing(filter string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	at := s.h.happensLocked(s.name, "unsubscribes", ID{}, filter)
	u := s.lastLocked(filter)
	if u == nil {
		return
	}
	if u.ending == 0 {
		u.ending = at
	}
	for key, list := range s.expected {
		s.expected[key] = slices.DeleteFunc(list, func(m *message) bool { return !s.mustHaveLocked(m) })
	}
	s.forgiveSnapshotLocked(filter)
}

// Unsubscribed tells that UNSUBACK has come.
func (s *Session) Unsubscribed(filter string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	at := s.h.happensLocked(s.name, "has unsubscribed", ID{}, filter)
	if u := s.lastLocked(filter); u != nil && u.ended == 0 {
		u.ended = at
	}
}

// MemberLeft tells that a member of a group has ended its session: a message of QoS 2 that was on its way to that member
// goes to no other [MQTT5-4.8.2-5].
func (s *Session) MemberLeft() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.happensLocked(s.name, "a member has left", ID{}, "")
	for key, list := range s.expected {
		s.expected[key] = slices.DeleteFunc(list, func(m *message) bool { return s.grantedLocked(m) == 2 })
	}
}

// mustHaveLocked reports whether a subscription that was in force beyond doubt when m was sent is in force still.
func (s *Session) mustHaveLocked(m *message) bool {
	return slices.ContainsFunc(s.subscriptions, func(u *subscription) bool {
		return u.certain() && u.confirmed < m.firstSent && matches(u.filter, m.Topic)
	})
}

func (s *Session) expectLocked(m *message) {
	if s.mustHaveLocked(m) {
		s.expected[m.stream()] = append(s.expected[m.stream()], m)
	}
}

func (s *Session) forgetLocked(m *message) {
	s.expected[m.stream()] = slices.DeleteFunc(s.expected[m.stream()], func(e *message) bool { return e == m })
}

// missingLocked returns what it must still get, in no order; what nobody knows to have been published is not among it.
func (s *Session) missingLocked() []*message {
	var missing []*message
	for _, list := range s.expected {
		for _, m := range list {
			if m.acked != 0 {
				missing = append(missing, m)
			}
		}
	}
	slices.SortFunc(missing, func(a, b *message) int { return int(a.firstSent - b.firstSent) })
	return missing
}

func (s *Session) settleLocked() {
	clear(s.expected)
	clear(s.snapshot)
	s.subscriptions = slices.DeleteFunc(s.subscriptions, func(u *subscription) bool { return u.ended != 0 })
}

// Delivery is a PUBLISH that a client has got, without those by which QoS 2 repeats what the client has already: the client
// knows them by their Packet Identifier.
type Delivery struct {
	ID     ID // empty where the message does not say
	Topic  string
	QoS    byte
	Retain bool
	Dup    bool
	To     string // of a group: the member
}

func (d Delivery) note() string {
	text := fmt.Sprintf("%s QoS %d", d.Topic, d.QoS)
	if d.Retain {
		text += " retained"
	}
	if d.Dup {
		text += " DUP"
	}
	if d.To != "" {
		text += " by " + d.To
	}
	return text
}

// Delivered judges a delivery.
func (s *Session) Delivered(d Delivery) {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.happensLocked(s.name, "gets", d.ID, d.note())
	h.counts.Deliveries++
	if d.ID == (ID{}) {
		s.paidLocked(d.Topic, nil)
		return
	}
	m := h.messages[d.ID]
	switch {
	case m == nil && s.oldLocked(d):
		return
	case m == nil:
		h.faultLocked(s.name, s, nil, "%s got %v (%s), which was never sent or is long settled", s.name, d.ID, d.Topic)
		return
	case m.Topic != d.Topic:
		h.faultLocked(s.name, s, about(m), "%s got %v at %s, which was sent to %s", s.name, m.ID, d.Topic, m.Topic)
		return
	case m.refused:
		h.faultLocked(s.name, s, about(m), "%s got %v (%s), which was refused", s.name, m.ID, m.Topic)
		return
	case d.QoS > m.QoS:
		h.faultLocked(s.name, s, about(m), "%s got %v with QoS %d, which was sent with QoS %d", s.name, m.ID, d.QoS, m.QoS)
	}
	m.proveLocked(at)
	if d.Retain {
		s.retainedDeliveryLocked(m)
	} else {
		s.liveDeliveryLocked(m, d, at)
	}
	s.paidLocked(m.Topic, m)
}

// oldLocked reports whether a delivery may repeat what was settled long ago: QoS 1 may.
func (s *Session) oldLocked(d Delivery) bool {
	p := s.progress[stream{d.ID.From, d.Topic, true}]
	return d.QoS == 1 && p != nil && d.ID.N <= p.latest
}

func (s *Session) liveDeliveryLocked(m *message, d Delivery, at moment) {
	if !s.mayHaveLocked(m) {
		s.h.faultLocked(s.name, s, about(m), "%s got %v (%s), to which it had no subscription at that time", s.name, m.ID, m.Topic)
		return
	}
	r := m.receipts[s]
	if r == nil {
		r = &receipt{first: at}
		m.receipts[s] = r
		s.firstDeliveryLocked(m, d)
	} else {
		s.h.counts.Again++
		// What no session that lasts subscribes to is delivered before it is committed: where the server is killed in between,
		// it comes again to the client's next session. Exactly once holds between sessions that last.
		again := r.run != s.h.run && r.begun != s.begun
		if (d.QoS == 2 || r.qos == 2) && !again {
			s.h.faultLocked(s.name, s, about(m), "%s got %v (%s) with QoS 2 more than once", s.name, m.ID, m.Topic)
		}
	}
	r.qos, r.run, r.begun = max(r.qos, d.QoS), s.h.run, s.begun
	if s.shared {
		return
	}
	if r.connection != s.connection {
		r.connection, r.times = s.connection, 0
	}
	if r.times++; r.times > m.sends {
		s.h.faultLocked(s.name, s, about(m), "%s got %v (%s) %d times by one connection, and it was sent %d times", s.name, m.ID, m.Topic, r.times, m.sends)
	}
	s.inConnectionLocked(m)
}

// mayHaveLocked reports whether a subscription was in force, or may have been, when the message was published.
func (s *Session) mayHaveLocked(m *message) bool {
	return slices.ContainsFunc(s.subscriptions, func(u *subscription) bool {
		return matches(u.filter, m.Topic) && (u.ended == 0 || u.ended > m.firstSent) && (m.acked == 0 || u.start < m.acked)
	})
}

// firstDeliveryLocked judges a message that the session has not got before: nothing that was published before it by the same
// publisher to the same topic may come later, or be missing.
func (s *Session) firstDeliveryLocked(m *message, d Delivery) {
	key := m.stream()
	if s.shared {
		s.forgetLocked(m)
		return
	}
	if want := s.grantedLocked(m); d.QoS < want {
		s.h.faultLocked(s.name, s, about(m), "%s got %v (%s) with QoS %d, want %d", s.name, m.ID, m.Topic, d.QoS, want)
	}
	p := s.progressLocked(key)
	// A message that was sent again may have had its place before the subscription began, and comes as its repetition.
	if m.ID.N < p.latest && (m.sends == 1 || s.subscribedBeforeLocked(m)) {
		s.h.faultLocked(s.name, s, about(m), "%s got %v (%s) after #%d", s.name, m.ID, m.Topic, p.latest)
	}
	p.latest = max(p.latest, m.ID.N)
	list := s.expected[key]
	kept := list[:0]
	for _, e := range list {
		switch {
		case e.ID.N > m.ID.N:
			kept = append(kept, e)
		case e == m || e.abandoned():
		default:
			s.h.faultLocked(s.name, s, about(e), "%s got %v (%s), and not %v before it", s.name, m.ID, m.Topic, e.ID)
		}
	}
	s.expected[key] = kept
}

// subscribedBeforeLocked reports whether a subscription was in force beyond doubt when the message was first sent.
func (s *Session) subscribedBeforeLocked(m *message) bool {
	return slices.ContainsFunc(s.subscriptions, func(u *subscription) bool {
		return u.certain() && u.confirmed < m.firstSent && matches(u.filter, m.Topic)
	})
}

// grantedLocked returns the QoS that a message must come with at least: of those subscriptions beyond doubt.
func (s *Session) grantedLocked(m *message) byte {
	qos := byte(0)
	for _, u := range s.subscriptions {
		if u.certain() && u.confirmed < m.firstSent && matches(u.filter, m.Topic) {
			qos = max(qos, u.qos)
		}
	}
	return min(qos, m.QoS)
}

func (s *Session) progressLocked(key stream) *progress {
	p := s.progress[key]
	if p == nil {
		p = &progress{}
		s.progress[key] = p
	}
	return p
}

// inConnectionLocked judges the order within a connection, repetitions included, of what was sent once.
func (s *Session) inConnectionLocked(m *message) {
	if m.sends > 1 {
		return
	}
	p := s.progressLocked(m.stream())
	if p.connection != s.connection {
		p.connection, p.inConnection = s.connection, 0
	}
	if m.ID.N <= p.inConnection {
		s.h.faultLocked(s.name, s, about(m), "%s got %v (%s) after #%d by one connection, both sent once", s.name, m.ID, m.Topic, p.inConnection)
	}
	p.inConnection = m.ID.N
}

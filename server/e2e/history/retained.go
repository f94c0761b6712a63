package history

import (
	"maps"
	"slices"
)

// superseded reports whether a message that had its place in the server's order before at came certainly after v.
func superseded(v *message, of []*message, at moment) bool {
	return v.refused || slices.ContainsFunc(of, func(w *message) bool {
		return w != v && w.proven != 0 && w.proven < at && v.certainlyBefore(w)
	})
}

// mayBeAbsent reports whether a topic may be without a retained message at a moment.
func mayBeAbsent(list []*message, at moment) bool {
	set := false
	for _, m := range list {
		if m.Clear && !superseded(m, list, at) {
			return true
		}
		set = set || m.proven != 0 && m.proven < at
	}
	return !set
}

// Reading is a moment before retained messages are read.
type Reading struct{ at moment }

// Read is called before the retained messages are read.
func (h *History) Read() Reading {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Reading{h.happensLocked("reader", "reads what is retained", ID{}, "")}
}

// Retained judges what was read: every topic holds its last acknowledged message or one that may be later. values are by
// topic, and hold all that is retained.
func (h *History) Retained(r Reading, values map[string]ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(h.retained)) {
		h.counts.Retained++
		list := h.retained[topic]
		last := lastProven(list, r.at)
		id, there := values[topic]
		if !there {
			if !mayBeAbsent(list, r.at) {
				h.faultLocked("reader", nil, about(last), "nothing is retained at %s, though %v was acknowledged", topic, last.ID)
			}
			continue
		}
		i := slices.IndexFunc(list, func(m *message) bool { return m.ID == id })
		switch {
		case i < 0:
			h.faultLocked("reader", nil, about(last), "%v is retained at %s, which was never sent to it or is long superseded by %v", id, topic, last.ID)
		case superseded(list[i], list, r.at):
			h.faultLocked("reader", nil, about(list[i], last), "%v is retained at %s, though %v was acknowledged after it", id, topic, last.ID)
		}
	}
	for topic, id := range values {
		if h.retained[topic] == nil {
			h.faultLocked("reader", nil, about(h.messages[id]), "%v is retained at %s, where nothing retained was sent", id, topic)
		}
	}
}

// lastProven returns the message of which it was known last before at that it had been published.
func lastProven(list []*message, at moment) *message {
	last := &message{Message: Message{ID: ID{"nobody", 0}}}
	for _, m := range list {
		if m.proven != 0 && m.proven < at && last.proven < m.proven {
			last = m
		}
	}
	return last
}

// due is a retained message that a SUBSCRIBE asks for: value, or one that is not certainly before it.
type due struct {
	value *message
	since moment
}

// oweSnapshotLocked notes what a SUBSCRIBE that is about to be sent must bring: for each topic that certainly has a retained
// message, that one or a later one.
func (s *Session) oweSnapshotLocked(at moment, filter string) {
	for topic, list := range s.h.retained {
		if matches(filter, topic) && !mayBeAbsent(list, at) {
			s.snapshot[topic] = due{lastProven(list, at), at}
		}
	}
}

func (s *Session) forgiveSnapshotLocked(filter string) {
	for topic := range s.snapshot {
		if matches(filter, topic) {
			delete(s.snapshot, topic)
		}
	}
}

// paidLocked notes that something of a topic has come: it is what a SUBSCRIBE asked for, unless it is older.
func (s *Session) paidLocked(topic string, m *message) {
	owed, ok := s.snapshot[topic]
	if ok && (m == nil || !m.certainlyBefore(owed.value)) {
		delete(s.snapshot, topic)
	}
}

// snapshotMissingLocked returns the topics of which a retained message is still to come. One that was cleared meanwhile may
// be gone when the server looks.
func (s *Session) snapshotMissingLocked() []string {
	var topics []string
	for topic, owed := range s.snapshot {
		if slices.ContainsFunc(s.h.retained[topic], func(m *message) bool { return m.Clear && m.firstSent > owed.since }) {
			continue
		}
		if slices.ContainsFunc(s.subscriptions, func(u *subscription) bool {
			return u.certain() && u.confirmed > owed.since && matches(u.filter, topic)
		}) {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// retainedDeliveryLocked judges a message that came marked as retained: it must be what was retained when the client asked,
// or later. A client that has asked several times may still get what belongs to an earlier time.
func (s *Session) retainedDeliveryLocked(m *message) {
	h := s.h
	since := moment(0)
	for _, u := range s.subscriptions {
		if matches(u.filter, m.Topic) && (since == 0 || u.start < since) {
			since = u.start
		}
	}
	list := h.retained[m.Topic]
	switch {
	case since == 0:
		h.faultLocked(s.name, s, about(m), "%s got %v (%s) as retained without having subscribed", s.name, m.ID, m.Topic)
	case !slices.Contains(list, m):
		h.faultLocked(s.name, s, about(m), "%s got %v (%s) as retained, which it never was or which is long superseded", s.name, m.ID, m.Topic)
	case superseded(m, list, since):
		h.faultLocked(s.name, s, about(m, lastProven(list, since)), "%s got %v (%s) as retained, though %v was acknowledged before its SUBSCRIBE", s.name, m.ID, m.Topic, lastProven(list, since).ID)
	}
}

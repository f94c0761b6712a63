package broker

// reservations is the room that retained messages on their way through the commit will take, so that all of them
// together keep to the app's limits. A topic counts the most that it may come to hold: whatever of its messages are
// committed, in whatever order, the app then holds no more than was counted. What a clear or a smaller message frees
// counts as free when it is committed, and a topic's reservation goes when nothing more of it is under way.
//
// Guarded by app.retainedMu. The zero value is ready.
type reservations struct {
	topics map[string]reservation
	count  int   // topics reserved that hold nothing now
	bytes  int64 // reserved beyond what the topics hold now
}

type reservation struct {
	writes int   // under way
	size   int64 // of the largest of them
}

// reserve takes room for the messages of a write that are retained. It returns -1, or reserves nothing and returns
// which message has no room. Without limits there is always room. A clear needs none, nor does a message no longer
// than what its topic holds.
func (a *app) reserve(limits *Limits, parts []Part) (over int) {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	r := &a.reservations
	for i, p := range parts {
		m := p.Message
		if !m.Retain || m.Clears() {
			continue
		}
		count, bytes, now := r.count, r.bytes, r.topics[m.Topic]
		r.set(m.Topic, a, reservation{now.writes + 1, max(now.size, retainedSize(m))})
		if limits != nil &&
			(r.count > count && a.retained.Len()+r.count > limits.RetainedCountMax ||
				r.bytes > bytes && a.retainedBytes+r.bytes > limits.RetainedBytesMax) {
			r.set(m.Topic, a, now) // not released: its size would stay
			a.releaseLocked(parts[:i])
			return i
		}
	}
	return -1
}

// release gives back what reserve took, when the write has been applied or has failed.
func (a *app) release(parts []Part) {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	a.releaseLocked(parts)
}

func (a *app) releaseLocked(parts []Part) {
	r := &a.reservations
	for _, p := range parts {
		m := p.Message
		if !m.Retain || m.Clears() {
			continue
		}
		now := r.topics[m.Topic]
		now.writes--
		r.set(m.Topic, a, now)
	}
}

// underWay reports whether a message for the topic is on its way.
func (r *reservations) underWay(name string) bool {
	_, there := r.topics[name]
	return there
}

// set changes a topic's reservation; one without writes goes.
func (r *reservations) set(name string, a *app, to reservation) {
	r.without(name, a, func() {
		if to.writes == 0 {
			delete(r.topics, name)
			return
		}
		if r.topics == nil {
			r.topics = map[string]reservation{}
		}
		r.topics[name] = to
	})
}

// without makes a change that concerns a topic, while what is reserved for it does not count.
func (r *reservations) without(name string, a *app, change func()) {
	r.add(name, a, -1)
	change()
	r.add(name, a, 1)
}

func (r *reservations) add(name string, a *app, sign int) {
	reserved, there := r.topics[name]
	if !there {
		return
	}
	held := int64(0)
	if m, holds := a.retained.Get(name); holds {
		held = retainedSize(m)
	} else {
		r.count += sign
	}
	r.bytes += int64(sign) * max(0, reserved.size-held)
}

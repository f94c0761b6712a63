package broker

import (
	"math"
	"slices"
	"time"

	"github.com/embercast/embercast/realtime/session"
)

// write is what one publisher has published at once, on its way through the commit.
type write struct {
	app      *app
	parts    []Part
	one      [1]Part   // the parts of most writes, without an allocation of their own
	logged   bool      // the parts become rows; else they only keep their place in the order
	stored   bool      // there is something to commit: the parts, or a change of sessions
	behind   bool      // it is queued though nothing of it is stored
	silent   bool      // not for MQTT subscribers: the end of an expired retained message
	queuedAt time.Time // with the monotonic clock: waiting is bounded though the other is set
	seq      uint64    // of its parts; without those, the head behind which it was committed
	size     int

	// What of sessions is committed with it.
	change    *SessionChange
	session   *persistentSession // that has published it, or is saved by it
	keep      bool               // the session's row is written as it is when the batch is made
	save      bool               // it is there for that alone
	inbound   uint16             // the Packet Identifier of a QoS 2 message, committed with it; 0: none
	duplicate uint16             // the identifier of one that came before and whose commit may still be under way
	orphan    bool               // that one has not come so far yet, on the connection before
	endsWill  *storedWill
	changes   *persistentSession         // that change is of; where it has ended before, nothing of the write is stored
	by        *Client                    // that has asked for the change; likewise
	void      bool                       // so it was
	ends      *unended                   // the session whose row change deletes
	giveUp    func()                     // undoes what was done for change; called unless the write is applied
	goesOn    []string                   // Topic Filters in change whose retained snapshot goes on
	begin     func(seq uint64, k *Marks) // what is to be done when it is applied, under app.order
	snap      *snapshot                  // of session, where this write is the last of its batch that keeps it

	// Who is told, once: a connection by token, or a waiting call.
	told   bool
	origin Outbound
	token  uint64
	done   chan error
}

// sessionWeight is what a session's row counts for in a batch, in messages (chosen: it costs some ten of them; a batch of
// nothing else is to be committed well within StoreWait on a slow machine too, when thousands of clients come at once).
const sessionWeight = 10

// weight is how much of a batch the write takes up, in messages.
func (w *write) weight() int {
	n := max(1, len(w.parts))
	if w.change != nil || w.keep {
		n += sessionWeight
	}
	return n
}

func (w *write) bytes() int {
	n := 0
	for i := range w.parts {
		m := w.parts[i].Message
		n += len(m.Payload) + len(m.Topic) + len(m.Properties)
	}
	return n
}

// row is what the store gets of a write.
func (w *write) row() Write {
	r := Write{App: w.app.uid}
	if w.logged {
		r.Parts = w.parts
	}
	if w.change != nil {
		r.Sessions = []SessionChange{*w.change}
	}
	return r
}

// judgeChange leaves out what would be done to a session that has taken the place of the one that is meant: a Client
// Identifier may be in use again while what concerns the session before is still on its way. The first write of a
// session deletes what there was before.
func (w *write) judgeChange() {
	a := w.app
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch {
	case w.change == nil:
	case w.changes != nil:
		// The session may be another connection's by now, which has asked for something else and been told that it holds.
		w.void = w.changes.forgotten || w.by.ended.Load()
	case w.change.Delete:
		if now := a.sessions[w.change.ClientID]; now != nil && now != w.session {
			w.change.Delete = false
		}
	}
}

// moveOn has the rows of subscriptions that are made again say how far their retained snapshots have come, as the window
// beside them does.
func (w *write) moveOn(leaving []session.Subscription) {
	for i := range w.change.Subscribe {
		row := &w.change.Subscribe[i]
		for j := range leaving {
			if leaving[j].Filter == row.Filter && slices.Contains(w.goesOn, row.Filter) {
				row.RetainedAfter = leaving[j].RetainedAfter
			}
		}
	}
}

// taken notes, under committer.mu, that a write has left the queue.
func (w *write) taken() {
	if w.save {
		w.session.saving = false
	}
}

// undo takes back what the making of a batch, or the queueing of a write, has named as committed.
func (w *write) undo(b *Broker) {
	if w.giveUp != nil {
		w.giveUp()
	}
	if w.ends != nil {
		w.app.endAgain(w.ends)
	}
	p := w.session
	if p == nil {
		return
	}
	if w.inbound != 0 {
		p.state.Forget(w.inbound)
	}
	if w.endsWill != nil {
		p.putBackWill(w.endsWill)
		b.armWill(p, b.cfg.StoreWait)
	}
	if w.snap != nil {
		p.state.PutBack(w.snap.taken)
	}
	if w.keep {
		p.dirty.Store(true)
	}
}

// tell gives one outcome to all who wait for writes.
func tell(writes []*write, err error) {
	k := NewMarks()
	for _, w := range writes {
		w.tell(err, k)
	}
	k.Release()
}

// tell gives the outcome to whoever waits for it and has not been told yet.
func (w *write) tell(err error, k *Marks) {
	if w.told {
		return
	}
	w.told = true
	if w.origin != nil && w.origin.Committed(w.token, w.verdict(err)) {
		k.Mark(w.origin)
	}
	if w.done != nil {
		w.done <- err
	}
	w.tellSaved(err, k)
}

// verdict is what the publisher is told. What becomes of a duplicate says nothing of the message that it duplicates, which
// may be committed: were it refused, the client would use its identifier for another one.
func (w *write) verdict(err error) error {
	if err != nil && w.duplicate != 0 {
		return ErrStoreUnavailable
	}
	return err
}

// tellSaved tells the connection of a session that was saved what it has waited for, or that it was not.
func (w *write) tellSaved(err error, k *Marks) {
	var out Outbound
	mark := uint64(0)
	switch {
	case w.snap != nil:
		if w.snap.client == nil {
			return
		}
		out, mark = w.snap.client.out, w.snap.mark
	case err != nil && w.save: // it never came into a batch
		c := w.session.holder()
		if c == nil {
			return
		}
		out, mark = c.out, math.MaxUint64
	default:
		return
	}
	if out.Saved(mark, err) {
		k.Mark(out)
	}
}

package broker

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// persistentSession is a Session that outlives its connection (Session Expiry Interval above 0; before 5.0, Clean
// Session 0), or only the stored Will Message of one that does not.
type persistentSession struct {
	app      *app
	clientID string
	subject  string
	state    *session.Session
	willOnly bool // the session ends with its connection; its row keeps the will

	forgotten bool // it has ended, and another may have its Client Identifier; guarded by app.mu
	place     int  // in app.all; guarded likewise

	dirty  atomic.Bool   // its state has changed since it was last saved
	saved  atomic.Uint64 // seq of the cursor that the store holds
	saving bool          // a write that saves it is queued; guarded by committer.mu

	// What the housekeeper looks at each second, without a lock.
	stirred atomic.Bool  // it stands in app.stirred
	lagging atomic.Bool  // it is connected, and its saved cursor keeps rows that it may be past
	endsAt  atomic.Int64 // the second in which its time has passed, if nobody comes back; forever while it is connected
	quiet   quiet

	mu        sync.Mutex // guards what follows; no other lock is taken while it is held
	client    *Client    // that holds it, or nil
	expiry    time.Duration
	endedAt   time.Time // of the last connection; zero while there is one
	dead      bool      // it has ended and is saved no more
	will      *storedWill
	due       *storedWill // the will that the end of a connection is about to send
	sending   *storedWill // the will that is on its way through the commit
	timer     *time.Timer // sends the will
	willRests time.Time   // after a start, until when the will of before is not sent, though the session's time has passed
	fallenOut int64
	backlog   backlogEstimate
}

// endOfSeq is the position behind all parts of a write.
func endOfSeq(seq uint64) message.Position { return message.Position{Seq: seq, Part: math.MaxUint32} }

// restoreSession makes a session of its row.
func restoreSession(a *app, st StoredSession, startedAt time.Time) (*persistentSession, error) {
	r := &st.Row
	damaged := func(err error) error { return fmt.Errorf("stored session of client %q: %w", r.ClientID, err) }
	window, err := session.ParseWindow(r.Window)
	if err != nil {
		return nil, damaged(err)
	}
	inbound, err := session.ParsePacketIDs(r.Inbound)
	if err != nil {
		return nil, damaged(err)
	}
	state := session.State{Cursor: r.Cursor, Window: window, Inbound: inbound, NextPacketID: r.NextPacketID}
	for _, sub := range st.Subscriptions {
		state.Subscriptions = append(state.Subscriptions, sub.subscription())
	}
	p := &persistentSession{
		app: a, clientID: r.ClientID, subject: r.Subject, expiry: r.Expiry, endedAt: r.EndedAt,
		fallenOut: r.FallenOut, willOnly: r.Expiry == 0,
	}
	if p.state, err = session.Restore(state); err != nil {
		return nil, damaged(err)
	}
	if len(r.Will) > 0 {
		if p.will, err = parseStoredWill(r.Will); err != nil {
			return nil, damaged(err)
		}
	}
	if p.endedAt.IsZero() {
		p.endedAt = startedAt // a crash has ended its connection
		p.dirty.Store(true)   // another one is not to make it last longer
	}
	p.endsAt.Store(p.endedAt.Add(p.expiry).Unix())
	p.saved.Store(r.Cursor.Seq)
	p.quiet.end()
	return p, nil
}

func (r *SubscriptionRow) subscription() session.Subscription {
	return session.Subscription{
		Filter: r.Filter, QoS: r.Options & 3, NoLocal: r.Options&(1<<2) != 0, RetainAsPublished: r.Options&(1<<3) != 0,
		RetainHandling: r.Options >> 4 & 3, ID: r.ID, FilterID: r.FilterID, Begins: r.Begins, RetainedAfter: r.RetainedAfter,
	}
}

func subscriptionRow(s *session.Subscription) SubscriptionRow {
	options := s.QoS | s.RetainHandling<<4
	if s.NoLocal {
		options |= 1 << 2
	}
	if s.RetainAsPublished {
		options |= 1 << 3
	}
	return SubscriptionRow{
		Filter: s.Filter, FilterID: s.FilterID, Options: options, ID: s.ID, Begins: s.Begins, RetainedAfter: s.RetainedAfter,
	}
}

// snapshot is a session as a batch commits it.
type snapshot struct {
	session *persistentSession
	client  *Client // to be told, or nil
	mark    uint64  // what of the connection's it covers
	change  SessionChange
	taken   session.Taken
}

// snapshot takes the session as it is now; false: it has ended.
func (p *persistentSession) snapshot() (s snapshot, alive bool) {
	p.mu.Lock()
	c := p.client
	p.mu.Unlock()
	s = snapshot{session: p, client: c}
	p.dirty.Store(false)
	if c != nil {
		// The head is looked at first: what is committed up to it has been routed to the connection.
		s.mark = c.out.Saving(endOfSeq(p.app.head.Load()))
	}
	s.taken = p.state.Take()
	st := s.taken.State
	row := &SessionRow{
		ClientID: p.clientID, Subject: p.subject, Cursor: st.Cursor, Window: session.AppendWindow(nil, st.Window),
		Inbound: session.AppendPacketIDs(nil, st.Inbound), NextPacketID: st.NextPacketID,
	}
	s.change = SessionChange{App: p.app.uid, ClientID: p.clientID, Keep: row}
	for i := range s.taken.Moved {
		s.change.Subscribe = append(s.change.Subscribe, subscriptionRow(&s.taken.Moved[i]))
	}
	s.change.Settle = pendingRows(s.taken.Settled)
	p.mu.Lock()
	defer p.mu.Unlock()
	row.Expiry, row.EndedAt, row.FallenOut = p.expiry, p.endedAt, p.fallenOut
	if p.will != nil {
		row.Will = p.will.encoded
	}
	return s, !p.dead
}

func pendingRows(entries []session.SharedEntry) (rows []PendingRow) {
	for _, e := range entries {
		rows = append(rows, PendingRow(e))
	}
	return rows
}

// over reports whether the session's time has passed.
func (p *persistentSession) over(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client == nil && !now.Before(p.endedAt.Add(p.expiry))
}

// willMayRest reports whether a will waits for a delay that has not passed.
func (p *persistentSession) willMayRest(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.will != nil && (now.Before(p.willRests) || now.Before(p.endedAt.Add(min(p.will.will.Delay, p.expiry))))
}

// attach gives the session to a connection.
func (p *persistentSession) attach(c *Client, expiry time.Duration, w *storedWill) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client, p.endedAt, p.expiry, p.will, p.willRests = c, time.Time{}, expiry, w, time.Time{}
	p.endsAt.Store(math.MaxInt64)
	p.stopTimerLocked()
}

// leaving is how a connection gives its session up.
type leaving struct {
	at        time.Time
	expiry    time.Duration
	ends      bool // the session ends with the connection
	willDue   bool // DISCONNECT has not discarded the will [MQTT5-3.1.2-10]
	willStays bool // in its row, until the next start
	takenOver bool // the client is back
}

// detach takes the session from a connection that has ended, and decides what becomes of its will: from here on the next
// connection may have its own. left is the will that is to be sent, now or after its delay. held is false where another
// connection has the session already.
func (p *persistentSession) detach(c *Client, l leaving) (left *storedWill, held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != c {
		return nil, false
	}
	p.client, p.endedAt, p.expiry = nil, l.at, l.expiry
	p.endsAt.Store(l.at.Add(l.expiry).Unix())
	p.backlog.known = false
	p.quiet.end()
	switch {
	case p.will == nil, l.willStays:
		return nil, true
	case !l.willDue, p.will.will.Delay > 0 && l.takenOver && !l.ends:
		p.will = nil
		return nil, true
	case p.will.will.Delay == 0 && !l.ends:
		p.due = p.will
	}
	return p.will, true
}

func (p *persistentSession) stopTimerLocked() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// kill marks the session as ended and returns the will that is still to be sent.
func (p *persistentSession) kill() *storedWill {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.stopTimerLocked()
	w := p.will
	p.will = nil
	if w == p.sending || w == p.due {
		return nil
	}
	return w
}

// sendsWill notes that a will is about to be sent: it stays in the row until its message is committed, and is sent by
// nobody else. False: it is being sent already.
func (p *persistentSession) sendsWill(w *storedWill) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.sending == w
	p.sending = w
	if p.due == w {
		p.due = nil
	}
	return !was
}

// endWill takes a will out of the row that is saved next: its message is in the same batch.
func (p *persistentSession) endWill(w *storedWill) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.will == w {
		p.will = nil
	}
	if p.sending == w {
		p.sending = nil
	}
}

// putBackWill undoes endWill, unless the client is back.
func (p *persistentSession) putBackWill(w *storedWill) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sending == w {
		p.sending = nil
	}
	if p.client == nil && p.will == nil && !p.dead {
		p.will = w
	}
}

// holdsNothing reports whether nothing would be lost with the session.
func (p *persistentSession) holdsNothing() bool {
	p.mu.Lock()
	waiting := p.will != nil
	p.mu.Unlock()
	return !waiting && p.state.Empty()
}

// identifiers returns what tells the Subscription Identifiers of the subscriptions that a topic matches, or of the Shared
// Subscription with a durable filter.
func (p *persistentSession) identifiers() func(name string, filterID int64) []uint32 {
	type identified struct {
		inner string
		group int64 // the durable filter of a Shared Subscription; 0: of none
		id    uint32
	}
	var all []identified
	p.state.Subscriptions(func(s *session.Subscription) bool {
		_, inner, shared, err := topic.ParseShared(s.Filter)
		switch {
		case err != nil || s.ID == 0 || shared && s.FilterID == 0:
		case shared:
			all = append(all, identified{inner, s.FilterID, s.ID})
		default:
			all = append(all, identified{inner, 0, s.ID})
		}
		return true
	})
	return func(name string, filterID int64) (ids []uint32) {
		for _, one := range all {
			if one.group == filterID && topic.Match(one.inner, name) {
				ids = append(ids, one.id)
			}
		}
		return ids
	}
}

// holder is the connected client, or nil.
func (p *persistentSession) holder() *Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client
}

// stop ends the session's timer; the broker has stopped.
func (p *persistentSession) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopTimerLocked()
}

// forgetLocked removes the session from memory, under app.mu; its durable filters lose a subscription each.
func (a *app) forgetLocked(p *persistentSession) {
	p.forgotten = true
	a.removeSessionLocked(p)
	p.state.Subscriptions(func(s *session.Subscription) bool {
		if s.FilterID != 0 {
			a.unuseLocked(s.FilterID)
		}
		return true
	})
}

// endSession ends a session that nobody holds: its time has passed, a clean start replaces it, or it is deleted. Its
// will is sent now, if one waits [MQTT5-3.1.3-9].
func (b *Broker) endSession(p *persistentSession, withWill bool) {
	w := p.kill()
	gone := SessionChange{App: p.app.uid, ClientID: p.clientID, Delete: true, Settle: p.app.takeBackSession(p)}
	if w != nil && withWill {
		b.sendStoredWill(p, w, false, &gone)
		return
	}
	b.deleteSession(&unended{session: p}, &gone)
}

// unended is a session that has ended, whose row has still to go, and its last will if that has still to be sent.
type unended struct {
	session *persistentSession
	will    *storedWill
}

func (b *Broker) deleteSession(u *unended, gone *SessionChange) {
	b.committer.put(&write{app: u.session.app, stored: true, change: gone, ends: u})
}

// endAgain notes that the end of a session was not committed: it is tried again, for the session would rise with the next
// start.
func (a *app) endAgain(u *unended) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unended = append(a.unended, u)
}

// endUnended tries again what endAgain has noted.
func (b *Broker) endUnended(a *app) {
	a.mu.Lock()
	all := a.unended
	a.unended = nil
	a.mu.Unlock()
	for _, u := range all {
		gone := SessionChange{App: a.uid, ClientID: u.session.clientID, Delete: true}
		if u.will != nil {
			b.sendStoredWill(u.session, u.will, false, &gone)
		} else {
			b.deleteSession(u, &gone)
		}
	}
}

// end takes a session out whose time has passed; false: it has not.
func (a *app) end(p *persistentSession, now time.Time) bool {
	if now.Unix() < p.endsAt.Load() || !p.over(now) || p.waits(now) {
		return false // most are told apart without the app's lock
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.forgotten || !p.over(now) || p.waits(now) {
		return false
	}
	a.forgetLocked(p)
	return true
}

// waits reports whether there is a will that is still to be sent, and not yet: the row is there for it alone, or its client
// may come back after a start.
func (p *persistentSession) waits(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.will != nil && (p.willOnly || now.Before(p.willRests))
}

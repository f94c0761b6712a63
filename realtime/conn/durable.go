package conn

import (
	"cmp"
	"slices"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

const (
	// logMessagesMax and logBytesMax bound what of the log waits in memory for one client; the rest stays there (chosen:
	// some pages of it, so that who keeps up for the most part need not read).
	logMessagesMax = 4_096
	logBytesMax    = 4 << 20
	// feedMax is how much may wait before the reader of the log reads on.
	feedMax = 256
)

// logMode is how a session that outlives its connection gets what the log keeps for it.
type logMode int

const (
	modeBehind  logMode = iota // by the reader; what is routed is left to it
	modeJoining                // by the reader up to a position; what is routed is kept behind that
	modeLive                   // as it is routed
)

// logQueue is what of the log waits to be sent to a session that outlives its connection. Conn.mu guards it.
type logQueue struct {
	mode    logMode
	queue   fifo // QoS 1 and 2, in the order of the log
	gated   fifo // routed since the reader joined
	bytes   int64
	fed     message.Position // how far the reader has come
	feeding bool             // the reader waits for room
	// narrowed counts the times when what waits may have become too much: subscriptions went, or take less.
	narrowed uint64
	resend   []session.Entry // sent on a connection before, and to be sent again first

	// What changes the session must be committed before the packet that tells of it leaves: changes are counted, and what
	// waits for a commit leaves in order, once its count is covered.
	changes uint64
	covered uint64
	held    []held
	refused bool // a message of a Shared Subscription, for want of room
}

// held is a packet that waits for a commit: a PUBLISH of QoS 2 or one behind it, or an acknowledgement.
type held struct {
	change   uint64
	delivery broker.Delivery // Message nil: an acknowledgement
	id       uint16
	ack      packet.Type
}

// logLocked returns the connection's logQueue, made when it is first needed: by sessions that outlive their connection,
// and by members of Shared Subscriptions with such a one.
func (c *Conn) logLocked() *logQueue {
	if c.out.log == nil {
		c.out.log = &logQueue{}
	}
	return c.out.log
}

func (q *logQueue) released() bool { return len(q.held) > 0 && q.held[0].change <= q.covered }

// size tells what waits to be sent.
func (q *logQueue) size() (messages int, bytes int64) {
	if q == nil {
		return 0, 0
	}
	return q.queue.len() + q.gated.len(), q.bytes
}

// pending reports whether something can leave now; what the client's quota holds back is tried in vain.
func (q *logQueue) pending() bool {
	return q != nil && (len(q.resend) > 0 || q.released() || q.queue.len() > 0)
}

// fedUp reports whether the reader is to wait. What is gated counts too, and waits itself for the reader.
func (q *logQueue) fedUp() bool {
	return q.queue.len() >= feedMax || q.queue.len() > 0 && q.bytes >= logBytesMax
}

// drop forgets what has not been sent: it is in the log.
func (q *logQueue) drop() {
	if q == nil {
		return
	}
	q.queue, q.gated, q.bytes, q.resend, q.held = fifo{}, fifo{}, 0, nil, nil
}

func (q *logQueue) full(size int64) bool {
	return q.queue.len()+q.gated.len() >= logMessagesMax || q.bytes+size > logBytesMax
}

// atRest reports whether nothing of the log is under way to the client.
func (c *Conn) atRestLocked() bool {
	q := c.logLocked()
	return c.session.Outstanding() == 0 && q.queue.len() == 0 && q.gated.len() == 0 && len(q.held) == 0
}

// restLocked moves the cursor on when nothing is under way. head is up to where everything was routed.
func (c *Conn) restLocked(head message.Position) {
	if !c.atRestLocked() {
		return
	}
	if q := c.logLocked(); q.mode == modeLive {
		c.session.AdvanceCursor(head)
	} else {
		c.session.AdvanceCursor(q.fed)
	}
}

// dropLocked forgets what is queued, before the connection is marked as ending: from then on the session is another's.
func (c *Conn) dropLocked() {
	if c.durable && c.state == stateOpen {
		c.restLocked(c.client.Head())
	}
	c.out.drop()
}

// deliverLogged takes a QoS 1 or 2 message that the log keeps for the session. Where there is no room it is left there,
// with all that waits, and read again.
func (c *Conn) deliverLogged(d broker.Delivery) (v broker.Verdict, marked bool) {
	q := c.logLocked()
	if d.Message.Position.Seq == 0 || q.mode == modeBehind {
		return broker.Queued, false // published before the subscription was committed; or the reader's
	}
	if d.Message.Position.Compare(q.fed) <= 0 {
		return broker.Queued, false // the reader was faster: it reads what is committed and not routed yet
	}
	size := sizeOf(&d)
	if q.full(size) {
		c.fallBehindLocked()
		return broker.Queued, false
	}
	q.bytes += size
	if q.mode == modeJoining {
		q.gated.push(d)
		return broker.Queued, false
	}
	q.queue.push(d)
	return broker.Queued, c.state == stateOpen && c.out.mark()
}

func (c *Conn) fallBehindLocked() {
	q := c.logLocked()
	live := q.mode == modeLive
	q.mode = modeBehind
	if q.gated = (fifo{}); !live {
		q.bytes = q.queue.bytes()
		return // its reader finds out
	}
	q.queue, q.bytes = fifo{}, 0
	q.fed = message.Position{}
	c.cfg.Broker.Behind(c.client)
}

// Offer implements broker.Outbound. The message is put into the window at once: what has been taken is under way.
func (c *Conn) Offer(d broker.Delivery, filterID int64) broker.OfferVerdict {
	c.mu.Lock()
	q := c.logLocked()
	switch {
	case c.state != stateOpen:
		c.mu.Unlock()
		return broker.Leaving
	case len(q.resend) > 0 || c.session.Quota() == 0 || len(q.held) >= feedMax:
		q.refused = true
		c.mu.Unlock()
		return broker.NoRoom
	}
	s := message.Send{Version: c.version, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs}
	if !c.fits(d.Message, &s) {
		c.mu.Unlock()
		return broker.Unfit
	}
	h := held{delivery: d, change: q.changes}
	h.id = c.session.Send(session.Entry{
		Position: d.Message.Position, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs,
		Shared: filterID, Snapshot: true, Bytes: sizeOf(&d),
	})
	switch {
	case d.QoS == 2 && c.durable:
		h.change = c.changedLocked()
	case d.QoS == 2:
		q.changes++
		h.change = q.changes
		c.cfg.Broker.SettleFirst(c.client, session.SharedEntry{FilterID: filterID, Position: d.Message.Position}, h.change)
	case c.durable:
		c.client.Touch()
	}
	q.held = append(q.held, h)
	marked := q.released() && c.out.mark()
	c.mu.Unlock()
	if marked {
		c.Flush()
	}
	return broker.Accepted
}

// settledLocked passes on what is done of Shared Subscriptions, where that is not committed with the session, and that
// there is room again.
func (c *Conn) settledLocked() {
	if !c.durable {
		if settled := c.session.TakeSettled(); len(settled) > 0 {
			c.cfg.Broker.Settle(c.client, settled)
		}
	}
	if q := c.out.log; q != nil && q.refused && c.session.Quota() > 0 {
		q.refused = false
		c.cfg.Broker.Room(c.client)
	}
}

// Saving implements broker.Outbound.
func (c *Conn) Saving(head message.Position) (mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.durable && c.state == stateOpen {
		c.restLocked(head)
	}
	if c.out.log == nil {
		return 0
	}
	return c.out.log.changes
}

// Saved implements broker.Outbound.
func (c *Conn) Saved(mark uint64, err error) (marked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.out.log
	if q == nil || c.state != stateOpen {
		return false
	}
	if err != nil {
		if len(q.held) == 0 || q.held[0].change > mark {
			return false // nobody waits for it
		}
		c.endLocked(broker.OutcomeOf(err).Reason, "session not stored: "+err.Error())
		return c.out.mark()
	}
	q.covered = max(q.covered, mark)
	return q.released() && c.out.mark()
}

// Taken implements broker.Outbound.
func (c *Conn) Taken() message.Position { return c.session.Taken() }

// Narrowed implements broker.Outbound.
func (c *Conn) Narrowed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logLocked().narrowed
}

// Narrow implements broker.Outbound.
func (c *Conn) Narrow(takes func(*message.Message) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.out.log
	if q == nil {
		return
	}
	q.narrowed++
	q.queue.keep(takes)
	q.gated.keep(takes)
	q.bytes = q.queue.bytes() + q.gated.bytes()
	if q.feeding && !q.fedUp() {
		c.stateChanged.Broadcast()
	}
}

// Feed implements broker.Outbound.
func (c *Conn) Feed(ds []broker.Delivery, upTo message.Position, narrowed uint64) broker.FeedVerdict {
	c.mu.Lock()
	q := c.logLocked()
	for c.state == stateOpen && q.fedUp() {
		q.feeding = true
		c.stateChanged.Wait()
	}
	q.feeding = false
	if c.state != stateOpen {
		c.mu.Unlock()
		return broker.Over
	}
	if narrowed != q.narrowed {
		c.mu.Unlock()
		return broker.Stale
	}
	for i := range ds {
		q.queue.push(ds[i])
		q.bytes += sizeOf(&ds[i])
	}
	q.fed = upTo
	marked := len(ds) > 0 && c.out.mark()
	c.mu.Unlock()
	if marked {
		c.Flush()
	}
	return broker.Fed
}

// Join implements broker.Outbound.
func (c *Conn) Join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logLocked().mode = modeJoining
}

// Live implements broker.Outbound.
func (c *Conn) Live() bool {
	c.mu.Lock()
	q := c.logLocked()
	if q.mode != modeJoining {
		c.mu.Unlock()
		return false
	}
	q.mode = modeLive
	arrived := q.gated.len() > 0
	for q.gated.len() > 0 {
		q.queue.push(q.gated.pop())
	}
	marked := arrived && c.out.mark()
	c.mu.Unlock()
	if marked {
		c.Flush()
	}
	return true
}

// changedLocked counts a change of the session that must be committed, and asks for that.
func (c *Conn) changedLocked() uint64 {
	q := c.logLocked()
	q.changes++
	c.cfg.Broker.Save(c.client)
	return q.changes
}

// ackLocked answers with PUBREL or PUBCOMP. In a session that outlives the connection it leaves once the change that it
// tells of is committed, and behind all that waits for a commit already.
func (c *Conn) ackLocked(kind packet.Type, id uint16, reason packet.ReasonCode, changed bool) error {
	if !c.durable {
		return c.answerLocked(&packet.Ack{Kind: kind, PacketID: id, Reason: reason})
	}
	q := c.logLocked()
	if !changed && len(q.held) == 0 {
		return c.answerLocked(&packet.Ack{Kind: kind, PacketID: id, Reason: reason})
	}
	at := q.changes
	if changed {
		at = c.changedLocked()
	}
	q.held = append(q.held, held{change: at, ack: kind, id: id})
	return nil
}

// nextLogged makes the bytes of what is next for a session that outlives the connection; false: there is nothing that
// may leave now.
func (c *Conn) nextLogged(b []byte, now time.Time, t *tally) ([]byte, bool) {
	q := c.logLocked()
	switch {
	case len(q.resend) > 0 && c.mayResendLocked():
		e := q.resend[0]
		q.resend[0] = session.Entry{}
		if q.resend = q.resend[1:]; len(q.resend) == 0 {
			q.resend = nil
			c.settledLocked()
		}
		return c.appendAgain(b, &e, now, t), true
	case q.released() && (len(q.resend) == 0 || q.held[0].delivery.Message == nil):
		h := q.held[0]
		q.held[0] = held{}
		if q.held = q.held[1:]; len(q.held) == 0 {
			q.held = nil
			c.settledLocked()
		}
		if h.delivery.Message == nil {
			return (&packet.Ack{Kind: h.ack, PacketID: h.id}).Append(b, c.version), true
		}
		return c.appendSent(b, &h.delivery, h.id, now, t), true
	case len(q.resend) == 0 && q.queue.len() > 0 && c.session.Quota() > 0:
		d := q.queue.pop()
		q.bytes -= sizeOf(&d)
		if q.feeding && !q.fedUp() {
			c.stateChanged.Broadcast()
		}
		return c.appendLogged(b, &d, now, t), true
	}
	return b, false
}

// mayResendLocked reports whether what is to be sent again first may leave: the client's Receive Maximum, which may be
// smaller than it was, holds PUBLISH packets back and nothing else [MQTT5-3.3.4-10].
func (c *Conn) mayResendLocked() bool {
	q := c.logLocked()
	return c.session.MayResend(len(q.resend)) || c.session.StateOf(q.resend[0].PacketID) != session.StateSent
}

// resumeLocked takes up what is to be sent again, in the order of sending; where not all of it may leave at once, what
// is a PUBREL goes first.
func (c *Conn) resumeLocked(entries []session.Entry, receiveMaximum uint16) {
	if receiveMaximum > 0 && len(entries) > int(receiveMaximum) {
		slices.SortStableFunc(entries, func(a, b session.Entry) int {
			return cmp.Compare(pubrelFirst(&a), pubrelFirst(&b))
		})
	}
	if len(entries) > 0 {
		c.logLocked().resend = entries
	}
}

func pubrelFirst(e *session.Entry) int {
	if e.State == session.StateRel {
		return 0
	}
	return 1
}

// appendLogged puts a message into the window. One of QoS 2 waits for the commit of that, and others behind it.
func (c *Conn) appendLogged(b []byte, d *broker.Delivery, now time.Time, t *tally) []byte {
	if d.Message.Expired(now) {
		c.passOver(d, "expired", t)
		return b
	}
	s := message.Send{Version: c.version, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs}
	if !c.fits(d.Message, &s) {
		c.passOver(d, "packet_too_large", t)
		return b
	}
	return c.sendDurable(b, d, "", now, t)
}

// passOver is for a message that is not sent: all goes on as if it had been, and been acknowledged [MQTT5-3.1.2-25]. It has
// used up a Packet Identifier, and the cursor moves past it in its turn.
func (c *Conn) passOver(d *broker.Delivery, why string, t *tally) {
	c.cfg.Observer.Dropped(why, 1)
	t.dropped++
	c.session.Pass(session.Entry{Position: d.Message.Position, QoS: d.QoS})
	c.client.Touch()
}

// sendDurable puts a message into the window; snapshot is the Topic Filter of the retained snapshot that it is from, or
// empty.
func (c *Conn) sendDurable(b []byte, d *broker.Delivery, snapshot string, now time.Time, t *tally) []byte {
	q := c.logLocked()
	e := session.Entry{Position: d.Message.Position, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs, Bytes: sizeOf(d)}
	e.Snapshot = d.Shared // it is not in the order of the log
	var id uint16
	if snapshot != "" {
		id = c.session.SendRetained(e, snapshot, d.Message.Topic)
	} else {
		id = c.session.Send(e)
	}
	switch {
	case d.QoS == 2:
		q.held = append(q.held, held{change: c.changedLocked(), delivery: *d, id: id})
		return b
	case len(q.held) > 0:
		q.held = append(q.held, held{change: q.changes, delivery: *d, id: id})
		return b
	}
	c.client.Touch()
	return c.appendSent(b, d, id, now, t)
}

// appendSent makes the bytes of a PUBLISH that stands in the window.
func (c *Conn) appendSent(b []byte, d *broker.Delivery, id uint16, now time.Time, t *tally) []byte {
	s := message.Send{Version: c.version, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs, PacketID: id}
	c.fits(d.Message, &s)
	return c.appendPublish(b, d.Message, &s, now, t)
}

// appendAgain makes the bytes of what was sent on a connection before: the PUBLISH with DUP [MQTT5-3.3.1-1], or the PUBREL
// [MQTT5-4.4.0-1]. What has gone from the log, or is too large for the client now, counts as done.
func (c *Conn) appendAgain(b []byte, e *session.Entry, now time.Time, t *tally) []byte {
	switch c.session.StateOf(e.PacketID) {
	case session.StateDone:
		return b // acknowledged meanwhile
	case session.StateRel:
		return (&packet.Ack{Kind: packet.TypePubrel, PacketID: e.PacketID}).Append(b, c.version)
	case session.StateSent:
	}
	s := message.Send{
		Version: c.version, QoS: e.QoS, Retain: e.Retain, SubscriptionIDs: e.SubscriptionIDs, PacketID: e.PacketID, Dup: true,
	}
	if e.Message == nil || !c.fits(e.Message, &s) {
		c.session.Discard(e.PacketID)
		c.client.Touch()
		return b
	}
	return c.appendPublish(b, e.Message, &s, now, t)
}

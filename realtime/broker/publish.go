package broker

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/topic"
)

// Publication is what a server publishes by REST: all its messages are one write with one seq, or none is published.
type Publication struct {
	App      AppUID
	Grant    Grant   // nil: above the rules
	Limits   *Limits // nil: the grant's
	Messages []*message.Message
}

// PartError tells which message of a Publication was refused.
type PartError struct {
	Index int
	Err   error
}

// Error implements error.
func (e *PartError) Error() string { return fmt.Sprintf("message %d: %v", e.Index, e.Err) }

// Unwrap returns the cause.
func (e *PartError) Unwrap() error { return e.Err }

// Publish publishes and returns when what has to be stored is committed and everything is routed. seq is 0 when
// nothing was stored.
func (b *Broker) Publish(ctx context.Context, p Publication) (seq uint64, err error) {
	a := b.app(p.App)
	if a == nil {
		return 0, ErrNoSuchApp
	}
	if b.draining.Load() {
		return 0, ErrDraining
	}
	limits := p.Limits
	if limits == nil && p.Grant != nil {
		l := p.Grant.Limits()
		limits = &l
	}
	w := &write{app: a, parts: make([]Part, len(p.Messages)), done: make(chan error, 1)}
	for i, m := range p.Messages {
		// What comes by MQTT has been judged as it came: by its packet, which an alias makes smaller.
		if limits != nil && len(m.Topic)+len(m.Payload)+len(m.Properties) > limits.PacketBytesMax {
			return 0, &PartError{i, ErrPacketTooLarge}
		}
		if err := b.judgePublish(a, p.Grant, limits, m); err != nil {
			return 0, &PartError{i, err}
		}
		w.parts[i] = Part{Message: m}
	}
	if over := a.reserve(limits, w.parts); over >= 0 {
		return 0, &PartError{over, ErrQuotaExceeded}
	}
	defer a.release(w.parts)
	for _, m := range p.Messages {
		a.stats.received(len(m.Payload))
		b.cfg.Observer.Received(m.QoS, len(m.Payload))
	}
	queued, err := b.place(w, true)
	if err != nil {
		return 0, err
	}
	if !queued {
		k := NewMarks()
		for _, m := range p.Messages {
			a.route(m, k)
		}
		k.Release()
		return 0, nil
	}
	// No way out by ctx before the commit is known: the caller is told what is true.
	if err := <-w.done; err != nil {
		return 0, err
	}
	return w.seq, nil
}

// place decides whether a write is to be stored, and gives it its place in the commit queue. Not queued: nothing of it
// is, and it may be routed at once. With wait it waits for room.
func (b *Broker) place(w *write, wait bool) (queued bool, err error) {
	d := &w.app.durable
	for {
		d.mu.RLock()
		w.match(d)
		switch {
		case !w.stored && !w.behind:
			d.mu.RUnlock()
			return false, nil
		case wait:
			err = b.committer.tryEnqueue(w)
		default:
			b.committer.put(w)
		}
		d.mu.RUnlock()
		if !errors.Is(err, errNoRoom) {
			return err == nil, err
		}
		if err = b.committer.awaitRoom(w.app); err != nil {
			return false, err
		}
	}
}

// match finds the durable filters of what is published, and with them whether it is to be stored (CONTRACT section 7):
// retained messages and clears, and what at QoS 1 or 2 matches one of them.
func (w *write) match(d *durableFilters) {
	w.logged = false
	for i := range w.parts {
		p := &w.parts[i]
		if p.Filters = nil; p.Message.QoS > 0 && !w.silent {
			p.Filters = d.matchLocked(p.Message.Topic, nil)
		}
		w.logged = w.logged || p.Message.Retain || len(p.Filters) > 0
	}
	if w.inbound != 0 {
		w.keep = w.logged
	}
	w.stored = w.logged || w.change != nil || w.endsWill != nil || w.save
}

// judgePublish checks what every door checks: the name, the limits, the rules. Room for what is retained is reserved
// beside it.
func (b *Broker) judgePublish(a *app, g Grant, limits *Limits, m *message.Message) error {
	var bounds topic.Limits
	if limits != nil {
		bounds = topic.Limits{LevelsMax: limits.TopicLevelsMax, BytesMax: limits.TopicBytesMax}
	}
	switch err := topic.ValidateName(m.Topic, bounds); {
	case errors.Is(err, topic.ErrTooLong), errors.Is(err, topic.ErrTooDeep):
		return ErrTopicTooLong
	case err != nil:
		return ErrTopicNameInvalid
	case m.Topic[0] == '$':
		b.denied(a, "publish")
		return ErrTopicReserved
	}
	if g != nil && !g.MayPublish(m.Topic) {
		b.denied(a, "publish")
		return ErrNotAuthorized
	}
	return nil
}

// underWay is the origin of a write on its way through the commit: told of its outcome, it gives back the room that is
// reserved for it, and its client has one write less under way. The Outbound is nil where nobody else is to be told.
type underWay struct {
	Outbound
	client *Client
	app    *app
	parts  []Part // for which room is reserved
}

// Committed implements Outbound.
func (u *underWay) Committed(token uint64, err error) (marked bool) {
	if len(u.parts) > 0 {
		u.app.release(u.parts)
	}
	if u.client != nil {
		u.client.underWay.Add(-1)
	}
	return u.Outbound != nil && u.Outbound.Committed(token, err)
}

// enqueueOne queues the write of one message of c's, with the room that it needs if it is retained; the connection is
// told. Not queued: it need not be.
func (b *Broker) enqueueOne(c *Client, in *Inbound) (queued bool, err error) {
	u := &underWay{Outbound: c.out, client: c, app: c.app}
	w := &write{app: c.app, origin: u, token: in.Token, behind: in.Behind}
	w.one[0].Message = in.Message
	w.parts = w.one[:]
	if c.Durable() && in.Message.QoS == 2 {
		w.session, w.inbound = c.session, in.PacketID
	}
	if in.Message.Retain {
		if c.app.reserve(in.Limits, w.parts) >= 0 {
			return false, ErrQuotaExceeded
		}
		u.parts = w.parts
	}
	c.underWay.Add(1)
	if queued, err = b.place(w, true); !queued {
		c.app.release(u.parts)
		c.underWay.Add(-1)
	}
	return queued, err
}

// Inbound is a PUBLISH that a connection has read.
type Inbound struct {
	Message  *message.Message
	Limits   *Limits
	PacketID uint16 // of a QoS 1 or 2 PUBLISH
	Token    uint64 // names the PUBLISH to Outbound.Committed
	// Behind tells that an earlier PUBLISH of the connection still waits for its commit: this one must not overtake it.
	Behind bool
	// UTF8 tells that the Payload Format Indicator promises UTF-8 text.
	UTF8 bool
}

// Accept takes a PUBLISH from a connection. With err it is refused and seen by nobody. With pending the outcome comes
// by Outbound.Committed; otherwise the message has been routed and may be acknowledged. It waits while the app's
// commit queue is full.
func (b *Broker) Accept(c *Client, in Inbound, k *Marks) (pending bool, err error) {
	m, a := in.Message, c.app
	a.stats.received(len(m.Payload))
	b.cfg.Observer.Received(m.QoS, len(m.Payload))
	if in.UTF8 && !utf8.Valid(m.Payload) {
		return false, b.refused(a, ErrPayloadFormat)
	}
	if err := b.judgePublish(a, c.Grant(), in.Limits, m); err != nil {
		return false, b.refused(a, err)
	}
	if m.Retain || in.Behind || m.QoS > 0 && a.durable.count.Load() > 0 {
		// Who waits for room in the queue must not hold back what it has routed already.
		if b.committer.full(a) {
			k.Flush()
		}
		if pending, err = b.enqueueOne(c, &in); err != nil || pending {
			return pending, b.refused(a, err)
		}
	}
	a.route(m, k)
	if m.QoS == 2 && c.Durable() {
		c.session.state.Queue(in.PacketID)
	}
	return false, nil
}

// Again takes a QoS 2 PUBLISH of a persistent session that came before. Its outcome is told by Outbound.Committed, behind
// that of the first, which may still be under way from another connection.
func (b *Broker) Again(c *Client, packetID uint16, token uint64) error {
	c.underWay.Add(1)
	w := &write{
		app: c.app, session: c.session, duplicate: packetID, behind: true,
		origin: &underWay{Outbound: c.out, client: c, app: c.app}, token: token,
	}
	_, err := b.place(w, true)
	if err != nil {
		c.underWay.Add(-1)
	}
	return err
}

// refused counts a message that is over a limit or has no valid topic: whoever sent it may have no way to be told.
func (b *Broker) refused(a *app, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrEnding): // it comes again
	case errors.Is(err, ErrNotAuthorized), errors.Is(err, ErrTopicReserved): // counted as denied
	default:
		a.stats.dropped.Add(1)
		b.cfg.Observer.Dropped("refused", 1)
	}
	return err
}

func (b *Broker) denied(a *app, action string) {
	a.stats.denied.Add(1)
	b.cfg.Observer.Denied(action)
}

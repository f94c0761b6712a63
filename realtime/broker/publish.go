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
		w.stored = w.stored || m.Retain
	}
	if w.stored {
		if over := a.reserve(limits, w.parts); over >= 0 {
			return 0, &PartError{over, ErrQuotaExceeded}
		}
		defer a.release(w.parts)
	}
	for _, m := range p.Messages {
		a.stats.received(len(m.Payload))
		b.cfg.Observer.Received(m.QoS, len(m.Payload))
	}
	if !w.stored {
		k := NewMarks()
		for _, m := range p.Messages {
			a.route(m, k)
		}
		k.Release()
		return 0, nil
	}
	if err := b.committer.enqueue(w); err != nil {
		return 0, err
	}
	// No way out by ctx before the commit is known: the caller is told what is true.
	if err := <-w.done; err != nil {
		return 0, err
	}
	return w.seq, nil
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
		return ErrNotAuthorized
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
	u.client.underWay.Add(-1)
	return u.Outbound != nil && u.Outbound.Committed(token, err)
}

// enqueueOne queues the write of one message of c's, with the room that it needs if it is retained. out is told.
func (b *Broker) enqueueOne(c *Client, m *message.Message, limits *Limits, out Outbound, token uint64) error {
	u := &underWay{Outbound: out, client: c, app: c.app}
	w := &write{app: c.app, stored: m.Retain, origin: u, token: token}
	w.one[0].Message = m
	w.parts = w.one[:]
	if m.Retain {
		if c.app.reserve(limits, w.parts) >= 0 {
			return ErrQuotaExceeded
		}
		u.parts = w.parts
	}
	c.underWay.Add(1)
	if err := b.committer.enqueue(w); err != nil {
		c.app.release(u.parts)
		c.underWay.Add(-1)
		return err
	}
	return nil
}

// Inbound is a PUBLISH that a connection has read.
type Inbound struct {
	Message *message.Message
	Limits  *Limits
	Token   uint64 // names the PUBLISH to Outbound.Committed
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
	if !m.Retain && !in.Behind {
		a.route(m, k)
		return false, nil
	}
	// Who waits for room in the queue must not hold back what it has routed already.
	if b.committer.full(a) {
		k.Flush()
	}
	if err := b.enqueueOne(c, m, in.Limits, c.out, in.Token); err != nil {
		return false, b.refused(a, err)
	}
	return true, nil
}

// refused counts a message that is over a limit or has no valid topic: whoever sent it may have no way to be told.
func (b *Broker) refused(a *app, err error) error {
	if err != nil && !errors.Is(err, ErrNotAuthorized) { // that is counted as denied
		a.stats.dropped.Add(1)
		b.cfg.Observer.Dropped("refused", 1)
	}
	return err
}

func (b *Broker) denied(a *app, action string) {
	a.stats.denied.Add(1)
	b.cfg.Observer.Denied(action)
}

// judgeWill checks a Will Message at CONNECT.
func (b *Broker) judgeWill(g Grant, w *Will) error {
	a := b.app(g.App())
	if a == nil {
		return ErrBadCredentials
	}
	limits := g.Limits()
	if err := b.judgePublish(a, g, &limits, w.Message); err != nil {
		return err
	}
	parts := []Part{{Message: w.Message}}
	if a.reserve(&limits, parts) >= 0 {
		return ErrQuotaExceeded
	}
	a.release(parts) // it is reserved when the will is sent
	return nil
}

// sendWill publishes a Will Message after its delay, if it is still allowed then.
func (b *Broker) sendWill(c *Client, w *Will) {
	// A session that ends with its connection ends the delay too [MQTT5-3.1.3-9]; no session outlives its connection
	// yet, so the will goes out at once.
	if !c.Grant().Alive() {
		return
	}
	g := c.Grant()
	limits := g.Limits()
	m := w.Message
	m.Arrived = b.now()
	if w.Expires {
		m.Expires = m.Arrived.Add(w.Expiry)
	}
	if err := b.judgePublish(c.app, g, &limits, m); err != nil {
		return
	}
	// It is the last of what the client has published: what is under way comes before it [MQTT5-4.6.0-6].
	if !m.Retain && c.underWay.Load() == 0 {
		k := NewMarks()
		c.app.route(m, k)
		k.Release()
		return
	}
	_ = b.enqueueOne(c, m, &limits, nil, 0) //nolint:errcheck // there is no room, or the node has stopped: nobody is to be told
}

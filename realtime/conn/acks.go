package conn

import (
	"errors"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// ack is a PUBLISH of the client's whose outcome may still be open; kind 0 is a QoS 0 one, which gets no answer and
// only keeps its place.
type ack struct {
	id      uint16
	kind    packet.Type
	dup     bool
	settled bool
	outcome *broker.Outcome // nil: success
}

func (a *ack) reason() packet.ReasonCode {
	if a.outcome == nil {
		return packet.Success
	}
	return a.outcome.Reason
}

// ackQueue holds the acknowledgements to be sent, in the order in which their PUBLISH packets came.
type ackQueue struct {
	queue     []ack
	first     uint64 // token of queue[0]
	waiting   int    // entries not settled
	publishes int    // QoS 1 and 2 entries
	pubacks   int    // QoS 1 entries
}

func (q *ackQueue) push(a ack) (token uint64) {
	q.queue = append(q.queue, a)
	q.waiting++
	q.count(a.kind, 1)
	return q.first + uint64(len(q.queue)) - 1
}

// full reports whether no more may be read before something is acknowledged.
func (q *ackQueue) full(v packet.Version, limits *broker.Limits) bool {
	return len(q.queue) >= acksMax || v != packet.V5 && q.publishes >= int(limits.ReceiveMaximum)
}

func (q *ackQueue) at(token uint64) *ack {
	if i := token - q.first; i < uint64(len(q.queue)) {
		return &q.queue[i]
	}
	return nil
}

func (q *ackQueue) settle(token uint64, o *broker.Outcome) {
	if a := q.at(token); a != nil && !a.settled {
		a.settled, a.outcome = true, o
		q.waiting--
	}
}

// pop takes the first acknowledgement if it is settled.
func (q *ackQueue) pop() (ack, bool) {
	if len(q.queue) == 0 || !q.queue[0].settled {
		return ack{}, false
	}
	a := q.queue[0]
	q.first++
	if len(q.queue) == 1 {
		q.queue = q.queue[:0]
		if cap(q.queue) > 64 {
			q.queue = nil
		}
	} else {
		q.queue = q.queue[1:]
	}
	q.count(a.kind, -1)
	return a, true
}

func (q *ackQueue) count(kind packet.Type, n int) {
	if kind != 0 {
		q.publishes += n
	}
	if kind == packet.TypePuback {
		q.pubacks += n
	}
}

// acknowledge takes a PUBACK, PUBREC, PUBREL or PUBCOMP from the client. An identifier that is not under way is
// released once more, and no error: the client may ask again for what was done before a crash.
func (c *Conn) acknowledge(p *packet.Ack) error {
	c.mu.Lock()
	contradicts := p.Kind != packet.TypePubrel && c.session.Contradicts(p.PacketID, p.Kind)
	if !contradicts {
		defer c.mu.Unlock()
		return c.acknowledgeLocked(p)
	}
	c.mu.Unlock()
	return c.fail(packet.ProtocolError, "acknowledgement of another QoS than the message's [MQTT5-4.3.2-4]")
}

func (c *Conn) acknowledgeLocked(p *packet.Ack) error {
	if c.state != stateOpen {
		return errClosed // the session is another connection's
	}
	if c.durable {
		c.client.Touch()
	}
	defer c.settledLocked()
	switch p.Kind {
	case packet.TypePuback:
		c.session.Puback(p.PacketID)
	case packet.TypePubcomp:
		c.session.Pubcomp(p.PacketID)
	case packet.TypePubrec:
		sent := c.session.StateOf(p.PacketID) == session.StateSent
		switch c.session.Pubrec(p.PacketID, p.Reason.Failed()) {
		case session.PubrecRelease:
			return c.ackLocked(packet.TypePubrel, p.PacketID, packet.Success, sent)
		case session.PubrecUnknown:
			if !p.Reason.Failed() {
				return c.ackLocked(packet.TypePubrel, p.PacketID, packet.Success, false)
			}
		case session.PubrecDiscarded:
		}
	default: // PUBREL
		kept := c.session.Kept(p.PacketID)
		c.session.Release(p.PacketID)
		return c.ackLocked(packet.TypePubcomp, p.PacketID, packet.Success, kept)
	}
	return nil
}

// subscribe takes a SUBSCRIBE [MQTT5-3.8.4-1].
func (c *Conn) subscribe(p *packet.Subscribe) error {
	var id uint32
	if p.Properties != nil && len(p.Properties.SubscriptionIDs) > 0 {
		id = p.Properties.SubscriptionIDs[0]
	}
	reasons := make([]packet.ReasonCode, len(p.Subscriptions))
	var wanted []session.Subscription
	var places []int
	for i, s := range p.Subscriptions {
		if s.Filter == resultTopic {
			c.mu.Lock()
			c.authResult = true
			c.mu.Unlock()
			continue
		}
		if err := c.judgeFilter(s.Filter); err != nil {
			return err
		}
		if err := c.judgeShared(&s); err != nil {
			return err
		}
		places = append(places, i)
		wanted = append(wanted, session.Subscription{
			Filter: s.Filter, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished,
			RetainHandling: s.RetainHandling, ID: id,
		})
	}
	results, err := c.cfg.Broker.Subscribe(c.client, wanted)
	if err != nil {
		return c.notStored(err)
	}
	var replays []*broker.Replay
	for i, r := range results {
		reasons[places[i]] = r.Reason
		if r.Replay != nil {
			replays = append(replays, r.Replay)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answerLocked(&packet.Suback{PacketID: p.PacketID, Reasons: reasons, Properties: c.subackProblemLocked(reasons)}); err != nil {
		return err
	}
	c.out.replays = append(c.out.replays, replays...)
	c.out.forgetReplays()
	return nil
}

// notStored ends the connection over a change of its session that could not be committed: the client is to ask again.
func (c *Conn) notStored(err error) error {
	c.Disconnect(broker.OutcomeOf(err).Reason, "not stored: "+err.Error())
	return errClosed
}

// judgeFilter ends the connection over wildcards where none may stand [MQTT311-4.8.0-1]: that is no Topic Filter. One that
// is, and that the app does not take, gets a Reason Code of its own.
func (c *Conn) judgeFilter(filter string) error {
	switch err := topic.ValidateFilter(filter, topic.Limits{}); {
	case errors.Is(err, topic.ErrMultiLevel), errors.Is(err, topic.ErrSingleLevel):
		return c.fail(packet.MalformedPacket, err.Error()+" [MQTT5-4.7.1-1, MQTT5-4.7.1-2]")
	}
	return nil
}

// judgeShared checks what 5.0 calls a Protocol Error in a Shared Subscription.
func (c *Conn) judgeShared(s *packet.Subscription) error {
	_, _, shared, err := topic.ParseShared(s.Filter)
	switch {
	case !shared || c.version != packet.V5:
		return nil
	case err != nil:
		return c.fail(packet.ProtocolError, err.Error()+" [MQTT5-4.8.2-2]")
	case s.NoLocal:
		return c.fail(packet.ProtocolError, "No Local on a Shared Subscription [MQTT5-3.8.3-4]")
	}
	return nil
}

// unsubscribe takes an UNSUBSCRIBE [MQTT5-3.10.4-4].
func (c *Conn) unsubscribe(p *packet.Unsubscribe) error {
	for _, f := range p.Filters {
		if err := c.judgeFilter(f); err != nil {
			return err
		}
	}
	reasons, err := c.cfg.Broker.Unsubscribe(c.client, p.Filters)
	if err != nil {
		return c.notStored(err)
	}
	c.client.Narrow()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.forgetReplays()
	for i, f := range p.Filters {
		if f == resultTopic && c.authResult {
			c.authResult = false
			reasons[i] = packet.Success
		}
	}
	return c.answerLocked(&packet.Unsuback{PacketID: p.PacketID, Reasons: reasons})
}

package conn

import (
	"context"
	"errors"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// tokenTopic is where a client that cannot send AUTH publishes its new token (CONTRACT section 4).
const tokenTopic = "$auth/token"

// publish takes a PUBLISH from the client.
func (c *Conn) publish(p *packet.Publish, marks *broker.Marks) error {
	name, reason := c.topicOf(p)
	if reason.Failed() {
		return c.fail(reason, "topic alias")
	}
	if c.retainsNothing && p.Retain && len(p.Payload) > 0 { // a clear always passes (CONTRACT section 3)
		return c.fail(packet.RetainNotSupported, "retained, where CONNACK has said Retain Available 0 [MQTT5-3.2.2-14]")
	}
	limits := c.limits.Load()
	c.mu.Lock()
	behind := c.acks.waiting > 0
	token, dup, err := c.beginLocked(p, limits)
	c.mu.Unlock()
	if errors.Is(err, errClosed) {
		return err
	}
	if err != nil {
		return c.fail(packet.ReceiveMaximumExceeded, err.Error())
	}
	if dup {
		return c.again(p, token, limits, marks)
	}
	if err := c.hold(p, limits, marks); err != nil {
		c.forget(p)
		return err
	}
	if name == tokenTopic {
		marks.Flush() // whoever verifies the token may take their time
		return c.renewBy(token, p)
	}
	pending, err := c.cfg.Broker.Accept(c.client, broker.Inbound{
		Message: c.message(p, name), Limits: limits, PacketID: p.PacketID, Token: token, Behind: behind,
		UTF8: p.Properties != nil && p.Properties.PayloadFormat == 1,
	}, marks)
	if pending {
		return c.awaitRoom(limits, marks)
	}
	switch {
	case errors.Is(err, broker.ErrEnding):
		c.forget(p)
		return c.awaitEnd(marks)
	case errors.Is(err, broker.ErrDraining):
		c.forget(p) // nobody has seen it
	}
	return c.settled(c.finish(token, p.QoS, err), limits, marks)
}

// again takes a QoS 2 PUBLISH that came before. Its commit may be under way from a connection before, and no
// acknowledgement overtakes it.
func (c *Conn) again(p *packet.Publish, token uint64, limits *broker.Limits, marks *broker.Marks) error {
	if !c.durable {
		return c.settled(c.finish(token, p.QoS, nil), limits, marks)
	}
	switch err := c.cfg.Broker.Again(c.client, p.PacketID, token); {
	case errors.Is(err, broker.ErrEnding):
		return c.awaitEnd(marks)
	case err != nil:
		return errClosed // the server stops
	}
	return c.awaitRoom(limits, marks)
}

// awaitEnd waits until the failure of an earlier message has ended the connection.
func (c *Conn) awaitEnd(marks *broker.Marks) error {
	marks.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == stateOpen {
		c.stateChanged.Wait()
	}
	return errClosed
}

// forget frees the identifier of a QoS 2 PUBLISH that was read and not published.
func (c *Conn) forget(p *packet.Publish) {
	if p.QoS == 2 {
		c.session.Forget(p.PacketID)
	}
}

// settled goes on after an outcome that is known and may have to wait for its turn to be acknowledged.
func (c *Conn) settled(err error, limits *broker.Limits, marks *broker.Marks) error {
	if err != nil {
		return err
	}
	return c.awaitRoom(limits, marks)
}

// topicOf resolves a Topic Alias [MQTT5-3.3.2-7 … MQTT5-3.3.2-12].
func (c *Conn) topicOf(p *packet.Publish) (string, packet.ReasonCode) {
	var alias uint16
	if p.Properties != nil {
		alias = p.Properties.TopicAlias
	}
	if alias == 0 {
		return c.intern(p.Topic), packet.Success
	}
	if alias > c.limits.Load().TopicAliasMaximum {
		return "", packet.TopicAliasInvalid
	}
	if len(p.Topic) > 0 {
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[alias] = c.intern(p.Topic)
	}
	name, known := c.aliases[alias]
	if !known {
		return "", packet.ProtocolError
	}
	return name, packet.Success
}

func (c *Conn) intern(name []byte) string {
	if string(name) != c.lastTopic {
		c.lastTopic = string(name)
	}
	return c.lastTopic
}

func (c *Conn) message(p *packet.Publish, name string) *message.Message {
	m := &message.Message{
		Topic: name, QoS: p.QoS, Retain: p.Retain, Publisher: c.client.ID(), Arrived: c.now(),
		Payload: append(make([]byte, 0, len(p.Payload)), p.Payload...),
	}
	if p.Properties != nil {
		m.Properties = append([]byte(nil), packet.ForwardedProperties(p.RawProperties)...)
		if p.Properties.Has.Contains(packet.PropMessageExpiry) {
			m.Expires = m.Arrived.Add(time.Duration(p.Properties.MessageExpiry) * time.Second)
		}
	}
	return m
}

var errReceiveMaximum = errors.New("more unacknowledged PUBLISH packets than the Receive Maximum [MQTT5-3.3.4-7]")

// beginLocked takes the PUBLISH into the order of acknowledgements and knows a QoS 2 message that came before.
func (c *Conn) beginLocked(p *packet.Publish, limits *broker.Limits) (token uint64, dup bool, err error) {
	switch p.QoS {
	case 0:
		return c.acks.push(ack{}), false, nil
	case 1:
		token = c.acks.push(ack{id: p.PacketID, kind: packet.TypePuback})
	case 2:
		if c.state != stateOpen {
			return 0, false, errClosed // the session is another connection's
		}
		dup = c.session.Receive(p.PacketID)
		token = c.acks.push(ack{id: p.PacketID, kind: packet.TypePubrec, dup: dup})
	}
	// A QoS 1 message counts until its PUBACK, a QoS 2 message until its PUBCOMP (MQTT 5.0 section 4.9).
	// What is left of a connection before is not of this one's count.
	before := min(c.inboundBefore, c.session.InboundCount())
	if c.version == packet.V5 && c.acks.pubacks+c.session.InboundCount()-before > int(limits.ReceiveMaximum) {
		return token, dup, errReceiveMaximum
	}
	return token, dup, nil
}

// finish acknowledges a PUBLISH whose outcome is known.
func (c *Conn) finish(token uint64, qos byte, err error) error {
	c.mu.Lock()
	if err != nil && !broker.OutcomeOf(err).Reason.OfPuback() {
		// No acknowledgement can say so: the end does, and the client sends the message again.
		c.endLocked(broker.OutcomeOf(err).Reason, "publish failed: "+err.Error())
		c.mu.Unlock()
		c.Flush()
		return errClosed
	}
	// An older client cannot be told what was refused, but by the end of its connection (MQTT 3.1.1 section 3.3.5).
	disconnects := c.version != packet.V5 && err != nil && c.settings.DeniedPublishDisconnects
	if !disconnects {
		c.settleLocked(token, err)
	}
	c.mu.Unlock()
	switch {
	case disconnects:
		return c.fail(broker.OutcomeOf(err).Reason, "publish refused: "+err.Error())
	case errors.Is(err, broker.ErrTopicTooLong), errors.Is(err, broker.ErrTopicNameInvalid):
		if qos == 0 {
			return nil // nobody waits for an answer; the broker has counted it
		}
	}
	return nil
}

// Committed implements broker.Outbound.
func (c *Conn) Committed(token uint64, err error) (marked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		return false
	}
	if broker.EndsConnection(err, c.version) {
		c.endLocked(broker.OutcomeOf(err).Reason, "commit failed: "+err.Error())
		return c.out.mark()
	}
	c.settleLocked(token, err)
	c.stateChanged.Broadcast()
	return len(c.out.control) > 0 && c.out.mark()
}

// settleLocked notes an outcome and queues every acknowledgement whose turn has come: in the order of arrival
// [MQTT5-4.6.0-2, MQTT5-4.6.0-3].
func (c *Conn) settleLocked(token uint64, err error) {
	var o *broker.Outcome
	if err != nil {
		o = broker.OutcomeOf(err)
	}
	if a := c.acks.at(token); a != nil && a.kind == packet.TypePubrec && !a.dup {
		if o != nil && o.Reason.Failed() {
			c.refusedLocked(a.id)
		} else {
			c.session.Queue(a.id) // a token is published nowhere
		}
	}
	c.acks.settle(token, o)
	for {
		a, ok := c.acks.pop()
		if !ok {
			return
		}
		if a.kind == 0 {
			continue
		}
		if c.answerLocked(&packet.Ack{Kind: a.kind, PacketID: a.id, Reason: a.reason(), Properties: c.ackProblemLocked(a.outcome)}) != nil {
			return
		}
	}
}

// refusedLocked frees the identifier of a QoS 2 message that was refused [MQTT5-4.3.3-9]. An older client is not told of
// the refusal: it sends PUBREL, or the message again, which then is a duplicate like any other.
func (c *Conn) refusedLocked(id uint16) {
	if c.version == packet.V5 {
		c.session.Forget(id)
	} else {
		c.session.Queue(id)
	}
}

// acksMax bounds what of one client's waits behind a commit for its turn to be acknowledged, were it refused or a
// duplicate (chosen: as many as the commits of an app that may wait).
const acksMax = 16_384

// awaitRoom stops reading from a client that has more unanswered than the Receive Maximum; before 5.0 it cannot know
// the limit and is not at fault.
func (c *Conn) awaitRoom(limits *broker.Limits, marks *broker.Marks) error {
	c.mu.Lock()
	full := c.acks.full(c.version, limits)
	c.mu.Unlock()
	if !full {
		return nil
	}
	marks.Flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.acks.full(c.version, limits) && c.state == stateOpen {
		c.stateChanged.Wait()
	}
	if c.state != stateOpen {
		return errClosed
	}
	return nil
}

// renewBy takes a new token from a PUBLISH, acknowledges that, and tells the outcome once more to those whose
// acknowledgement cannot carry it. The token is never routed, stored or logged.
func (c *Conn) renewBy(token uint64, p *packet.Publish) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	outcome := []byte(`{"event":"token_renewed"}`)
	err := c.cfg.Broker.Renew(ctx, c.client, string(p.Payload))
	if err != nil {
		err, outcome = broker.ErrTokenRefused, []byte(`{"event":"token_refused"}`)
	}
	err = c.finish(token, p.QoS, err)
	c.Notify(outcome)
	return err
}

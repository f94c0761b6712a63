package conn

import (
	"slices"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

const (
	// flushBytes is how much is gathered for one write (chosen: larger writes gain nothing on loopback).
	flushBytes = 64 << 10
	// deliveryOverhead is what a queued message counts beside its topic and payload.
	deliveryOverhead = 64
	// resultTopic is where a connection is told of its token and its subscriptions.
	resultTopic = "$auth/result"
)

// outbox is what waits to be written to one connection. Conn.mu guards it.
type outbox struct {
	control  []byte           // encoded answers, sent before anything else
	raw      []byte           // frames of the transport's own, between packets
	ready    fifo             // messages in the order of routing
	waiting  fifo             // QoS 1 and 2 messages beyond the client's Receive Maximum
	bytes    int64            // of what is in ready and waiting
	replays  []*broker.Replay // at most one a subscription
	log      *logQueue        // of a session that outlives the connection; nil until it is needed
	aliases  map[string]uint16
	aliasMax uint16
	marked   bool // somebody owes a Flush
	writing  bool // somebody writes; what is added now goes out with the next round
	silent   bool // the client has disconnected: nothing more is sent
	said     bool // the farewell is written, after which nothing is
	resting  bool // the search for retained messages goes on after others have had the lock
}

// pending reports whether there is something to write.
func (o *outbox) pending() bool {
	return len(o.control) > 0 || len(o.raw) > 0 || o.ready.len() > 0 || o.waiting.len() > 0 || len(o.replays) > 0 || o.log.pending()
}

func (o *outbox) mark() bool {
	if o.marked {
		return false
	}
	o.marked = true
	return true
}

func (o *outbox) drop() {
	o.ready, o.waiting, o.replays, o.bytes = fifo{}, fifo{}, nil, 0
	o.log.drop()
}

// forgetReplays lets go of retained messages that nobody is to get any more, so that who subscribes again and again
// without acknowledging what comes has one Replay for each filter.
func (o *outbox) forgetReplays() {
	o.replays = slices.DeleteFunc(o.replays, (*broker.Replay).Over)
}

func sizeOf(d *broker.Delivery) int64 {
	return int64(len(d.Message.Topic)+len(d.Message.Payload)+len(d.Message.Properties)) + deliveryOverhead
}

// Deliver implements broker.Outbound. A QoS 0 message beyond the queue is dropped and counted; a message that must not
// be lost ends the connection instead (CONTRACT section 4), for its session does not outlive it.
func (c *Conn) Deliver(d broker.Delivery) (v broker.Verdict, marked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state > stateOpen {
		return broker.Gone, false
	}
	if c.durable && d.QoS > 0 && !d.Shared {
		return c.deliverLogged(d)
	}
	o, limits := &c.out, c.limits.Load()
	size := sizeOf(&d)
	if o.ready.len()+o.waiting.len() >= limits.QueuedMessagesMax || o.bytes+size > limits.QueuedBytesMax {
		c.cfg.Observer.Dropped("queue_full", 1)
		if d.QoS == 0 {
			return broker.Dropped, false
		}
		c.endLocked(packet.QuotaExceeded, "client does not keep up")
		return broker.Gone, o.mark()
	}
	o.ready.push(d)
	o.bytes += size
	return broker.Queued, c.state == stateOpen && o.mark()
}

// Notify implements broker.Outbound.
func (c *Conn) Notify(payload []byte) {
	c.mu.Lock()
	ok := c.authResult && c.state == stateOpen
	c.mu.Unlock()
	if ok {
		c.Deliver(broker.Delivery{Message: &message.Message{Topic: resultTopic, Payload: payload, Arrived: c.now()}})
		c.Flush()
	}
}

// Queue implements broker.Outbound.
func (c *Conn) Queue() (messages int, bytes int64, inflight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		inflight = c.session.Outstanding()
	}
	o := &c.out
	logged, loggedBytes := o.log.size()
	return o.ready.len() + o.waiting.len() + logged, o.bytes + loggedBytes, inflight
}

// WriteRaw queues a frame of the transport's own (a WebSocket pong), unless the connection is ending.
func (c *Conn) WriteRaw(frame []byte) {
	c.mu.Lock()
	switch {
	case c.state >= stateClosing:
	case len(c.out.raw) > controlBytesMax:
		c.endLocked(packet.QuotaExceeded, "client does not read its answers")
	default:
		c.out.raw = append(c.out.raw, frame...)
	}
	c.mu.Unlock()
	c.Flush()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, flushBytes+HeadroomBytes); return &b }} //nolint:gochecknoglobals // a pool holds no state

// Flush implements broker.Outbound: it writes what is queued without waiting; what the network does not take goes to
// a goroutine that lives as long as there is something to write.
func (c *Conn) Flush() {
	c.mu.Lock()
	c.out.marked = false
	if c.out.writing || c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	c.out.writing = true
	buf, _ := buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	c.write(buf, c.wire.TryWrite)
}

// write goes on until nothing is left. It is entered with c.mu held and out.writing set, and gives both up, unless a
// goroutine takes over.
func (c *Conn) write(buf *[]byte, put func([]byte) (int, error)) {
	for {
		frame := c.nextLocked(buf)
		if len(frame) == 0 && c.out.resting {
			c.mu.Unlock()
			go c.writeRest(buf, nil)
			return
		}
		if len(frame) == 0 {
			break
		}
		c.mu.Unlock()
		n, err := put(frame)
		if err == nil && n < len(frame) {
			go c.writeRest(buf, frame[n:])
			return
		}
		c.mu.Lock()
		if err != nil {
			c.dropLocked()
			c.out.control, c.out.raw = nil, nil
			c.out.said = true
			if c.state < stateClosing {
				c.state = stateClosing
				c.endReason, c.endCause = packet.UnspecifiedError, "write failed: "+err.Error()
				c.stateChanged.Broadcast()
			}
			_ = c.wire.Close() //nolint:errcheck // it is going away
			break
		}
	}
	hangUp := c.state == stateClosing && !c.out.silent
	c.out.writing = false
	c.stateChanged.Broadcast()
	c.mu.Unlock()
	putBuffer(buf)
	if hangUp {
		_ = c.wire.CloseWrite() //nolint:errcheck // everything is said
	}
}

func (c *Conn) writeRest(buf *[]byte, rest []byte) {
	var err error
	if len(rest) > 0 {
		_, err = c.wire.Write(rest)
	}
	c.mu.Lock()
	put := c.wire.Write
	if err != nil {
		put = func([]byte) (int, error) { return 0, err }
		if !c.out.pending() {
			c.out.control = append(c.out.control, 0) // anything: the next round must meet the error
		}
	}
	c.write(buf, put)
}

func putBuffer(buf *[]byte) {
	if cap(*buf) <= 4*flushBytes {
		buffers.Put(buf)
	}
}

// nextLocked makes the bytes of the next write: frames of the transport, or as many packets as fit.
func (c *Conn) nextLocked(buf *[]byte) []byte {
	c.out.resting = false
	if c.out.said {
		return nil
	}
	if len(c.out.raw) > 0 || c.state == stateConnecting && len(c.out.control) == 0 {
		return c.takeRaw(buf)
	}
	b := (*buf)[:HeadroomBytes]
	b = append(b, c.out.control...)
	if c.out.control = c.out.control[:0]; cap(c.out.control) > 4096 {
		c.out.control = nil
	}
	if c.state == stateOpen {
		b = c.appendMessages(b)
	}
	*buf = b
	var frame []byte
	if len(b) > HeadroomBytes {
		frame = c.wire.Frame(b)
	}
	if c.state == stateClosing && !c.out.silent {
		c.out.said = true
		frame = append(frame, c.wire.Farewell(c.endReason)...)
	}
	return frame
}

func (c *Conn) takeRaw(buf *[]byte) []byte {
	*buf = append((*buf)[:0], c.out.raw...)
	c.out.raw = c.out.raw[:0]
	return *buf
}

// appendMessages encodes queued messages: first those that waited for quota, then what was routed, then retained
// messages.
func (c *Conn) appendMessages(b []byte) []byte {
	o := &c.out
	now := c.now()
	t := tally{}
	for len(b) < flushBytes {
		if c.durable || o.log != nil && len(o.log.held) > 0 {
			var more bool
			if b, more = c.nextLogged(b, now, &t); more {
				continue
			}
		}
		var d broker.Delivery
		snapshot := ""
		switch {
		case o.waiting.len() > 0 && c.session.Quota() > 0:
			d = o.waiting.pop()
			o.bytes -= sizeOf(&d)
		case o.ready.len() > 0:
			d = o.ready.pop()
			if d.QoS > 0 && (o.waiting.len() > 0 || c.session.Quota() == 0) {
				o.waiting.push(d)
				continue
			}
			o.bytes -= sizeOf(&d)
		default:
			var ok bool
			if d, snapshot, ok = c.nextRetained(); !ok {
				t.report(c)
				return b
			}
		}
		b = c.appendMessage(b, &d, snapshot, now, &t)
	}
	t.report(c)
	return b
}

// replaySteps bounds how long the search for retained messages keeps the connection's lock (chosen: below a
// millisecond); whoever routes to the connection waits for it.
const replaySteps = 16

// nextRetained takes the next retained message for a subscription, and its Topic Filter, while there is quota for it.
func (c *Conn) nextRetained() (d broker.Delivery, filter string, ok bool) {
	o := &c.out
	for range replaySteps {
		if len(o.replays) == 0 || o.waiting.len() > 0 || c.session.Quota() == 0 || o.log != nil && len(o.log.resend) > 0 {
			return broker.Delivery{}, "", false
		}
		if d, ok := o.replays[0].Next(); ok {
			return d, o.replays[0].Filter(), true
		}
		if o.replays[0].Over() {
			if c.durable && o.replays[0].Ended() { // else it is another's, or goes on when the session is resumed
				c.session.MoveRetained(o.replays[0].Filter(), "")
				c.client.Touch()
			}
			o.replays[0] = nil
			if o.replays = o.replays[1:]; len(o.replays) == 0 {
				o.replays = nil
			}
		}
	}
	o.resting = len(o.replays) > 0
	return broker.Delivery{}, "", false
}

// tally counts one round of writing.
type tally struct {
	messages [3]int // by QoS
	bytes    int64
	dropped  int
}

func (t *tally) report(c *Conn) {
	if n := t.messages[0] + t.messages[1] + t.messages[2]; n > 0 {
		c.client.Sent(n, t.bytes)
		c.cfg.Observer.Delivered(t.messages, t.bytes)
	}
	if t.dropped > 0 {
		c.client.Dropped(t.dropped)
	}
}

// appendMessage makes the bytes of a message; snapshot is the Topic Filter of the subscription whose retained messages it
// is one of, or empty.
func (c *Conn) appendMessage(b []byte, d *broker.Delivery, snapshot string, now time.Time, t *tally) []byte {
	if d.Message.Expired(now) {
		c.cfg.Observer.Dropped("expired", 1)
		t.dropped++
		return b
	}
	s := message.Send{Version: c.version, QoS: d.QoS, Retain: d.Retain, SubscriptionIDs: d.SubscriptionIDs}
	if !c.fits(d.Message, &s) {
		// As if it had been sent [MQTT5-3.1.2-25].
		c.cfg.Observer.Dropped("packet_too_large", 1)
		t.dropped++
		return b
	}
	if d.QoS > 0 && c.durable {
		return c.sendDurable(b, d, snapshot, now, t)
	}
	if d.QoS > 0 {
		// The message itself is let go: no session outlives its connection yet, so nothing is sent again, and who
		// acknowledges nothing would hold as many as its Receive Maximum.
		s.PacketID = c.session.Send(session.Entry{Position: d.Message.Position, QoS: d.QoS, Retain: d.Retain})
	}
	return c.appendPublish(b, d.Message, &s, now, t)
}

func (c *Conn) appendPublish(b []byte, m *message.Message, s *message.Send, now time.Time, t *tally) []byte {
	if s.TopicAlias != 0 && !s.TopicKnown {
		c.out.aliases[m.Topic] = s.TopicAlias
	}
	t.messages[s.QoS]++
	t.bytes += int64(len(m.Payload))
	return m.AppendPublish(b, *s, now)
}

// fits chooses a Topic Alias for s, while the client allows more [MQTT5-3.1.2-26], and reports whether the packet is
// within the client's Maximum Packet Size [MQTT5-3.1.2-24]: a new alias is not worth a message. The alias is taken by
// who makes the bytes, so that none is stranded with a message that is dropped.
func (c *Conn) fits(m *message.Message, s *message.Send) bool {
	s.TopicAlias, s.TopicKnown = c.out.alias(m.Topic)
	if c.packetSizeMax == 0 || m.WireSize(*s) <= c.packetSizeMax {
		return true
	}
	if s.TopicKnown || s.TopicAlias == 0 {
		return false
	}
	s.TopicAlias = 0
	return m.WireSize(*s) <= c.packetSizeMax
}

// alias returns the alias of a topic, or one that it can be given, or 0.
func (o *outbox) alias(name string) (alias uint16, known bool) {
	if o.aliasMax == 0 {
		return 0, false
	}
	if alias, known = o.aliases[name]; known {
		return alias, true
	}
	if len(o.aliases) >= int(o.aliasMax) {
		return 0, false
	}
	if o.aliases == nil {
		o.aliases = map[string]uint16{}
	}
	return uint16(len(o.aliases) + 1), false //nolint:gosec // at most aliasMax
}

package conn

import (
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
)

const (
	// floodTime is how long a client may go on beyond twice its rate (CONTRACT section 3, publish_rate_max).
	floodTime = 10 * time.Second
	// floodBytes is how much of what has come can be seen to wait (chosen: what a socket's buffer takes at least). Who
	// keeps it full can send no faster, so that it cannot be told how much beyond the rate that is.
	floodBytes = 64 << 10
)

// pace is a token bucket for messages and one for bytes, each of one second's worth. What comes is counted in seconds:
// a message is worth as many as it takes of the rate that it strains most.
type pace struct {
	messages, bytes float64 // spent and not yet paid back
	at              time.Time

	// What has come since then: of it some was taken, and some still waits to be read.
	since     time.Time
	taken     float64 // seconds
	size      int     // bytes of what was taken
	waited    float64 // seconds that waited at the beginning
	unbounded bool    // nothing but the network bounds how much the client may have under way
	flooding  time.Duration
}

// take spends one message and returns how long to wait before the next may be read.
func (p *pace) take(now time.Time, m *packet.Publish, limits *broker.Limits) time.Duration {
	messageRate, byteRate := float64(limits.PublishRateMax), float64(limits.PublishBytesRateMax)
	if passed := now.Sub(p.at).Seconds(); passed > 0 {
		p.messages = max(0, p.messages-passed*messageRate)
		p.bytes = max(0, p.bytes-passed*byteRate)
		p.at = now
	}
	n := float64(len(m.Payload))
	p.messages++
	p.bytes += n
	if p.since.IsZero() {
		p.since = now
	}
	const header = 5 // its fixed part and the length of the topic
	p.taken += max(1/messageRate, n/byteRate)
	p.size += header + len(m.Topic) + len(m.RawProperties) + len(m.Payload)
	over := max(p.messages/messageRate, p.bytes/byteRate) - 1
	return time.Duration(over * float64(time.Second))
}

// floods reports whether the client has sent more than twice its rate for floodTime. It is asked while the client is
// held back; waiting is how many bytes have come and were not taken, asked for once a second.
func (p *pace) floods(now time.Time, waiting func() int) bool {
	passed := now.Sub(p.since)
	if passed < time.Second {
		return false
	}
	left := waiting()
	waits := float64(left) * p.taken / float64(p.size)
	if came := p.taken + waits - p.waited; came > 2*passed.Seconds() || p.unbounded && left >= floodBytes {
		p.flooding += passed
	} else {
		p.flooding = 0
	}
	p.since, p.taken, p.size, p.waited, p.unbounded = now, 0, 0, waits, false
	return p.flooding >= floodTime
}

// hold keeps a client to its rates by not reading on until its turn has come, and ends it when it presses on.
func (c *Conn) hold(p *packet.Publish, limits *broker.Limits, marks *broker.Marks) error {
	now := c.now()
	wait := c.pace.take(now, p, limits)
	// Of QoS 1 and 2 a 5.0 client has no more under way than the Receive Maximum, however long it is held.
	c.pace.unbounded = c.pace.unbounded || p.QoS == 0 || c.decoder.Version() != packet.V5
	if wait <= 0 {
		return nil
	}
	if c.pace.floods(now, func() int { return c.decoder.Buffered() + c.wire.Waiting() }) {
		return c.fail(packet.MessageRateTooHigh, "more than twice the rate, and no end to it")
	}
	marks.Flush()
	c.Flush()
	// The timer says when: a clock may be set back, and what it shows is rounded.
	over := false
	timer := time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		over = true
		c.stateChanged.Broadcast()
	})
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state == stateOpen && !over {
		c.stateChanged.Wait()
	}
	if c.state != stateOpen {
		return errClosed
	}
	return nil
}

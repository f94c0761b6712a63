package conn

import (
	"errors"
	"io"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
)

// refuseBytes answers bytes that are no MQTT.
func (c *Conn) refuseBytes(err error) {
	reason := packet.MalformedPacket
	if d, ok := errors.AsType[*packet.DecodeError](err); ok {
		reason = d.Reason
	}
	c.Refuse(reason, err.Error())
}

// Refuse ends the connection over a breach of the protocol, by the client's MQTT or below it: a 5.0 client is told by
// CONNACK or DISCONNECT, an older one by the close alone (but for a version that is not served).
func (c *Conn) Refuse(reason packet.ReasonCode, cause string) {
	counted := "protocol_error"
	switch reason {
	case packet.PacketTooLarge:
		counted = "packet_too_large"
	case packet.MessageRateTooHigh:
		counted = "message_rate_too_high"
	default:
	}
	c.cfg.Observer.Refused(counted)
	c.mu.Lock()
	if c.state == stateConnecting {
		c.version = c.decoder.Version()
		switch {
		case c.version == packet.V5:
			ack := &packet.Connack{Reason: reason, Properties: c.problemLocked(broker.Farewell(reason, cause))}
			_ = c.answerLocked(ack) //nolint:errcheck // the first answer has room
		case reason == packet.UnsupportedProtocolVersion:
			c.version = packet.V311
			_ = c.answerLocked(&packet.Connack{Reason: reason}) //nolint:errcheck // the first answer has room
		}
	}
	c.endLocked(reason, cause)
	c.mu.Unlock()
	c.Flush()
}

// fail is Refuse for a packet that is well-formed and wrong here.
func (c *Conn) fail(reason packet.ReasonCode, cause string) error {
	c.Refuse(reason, cause)
	return errClosed
}

// Disconnect implements broker.Outbound.
func (c *Conn) Disconnect(reason packet.ReasonCode, cause string) {
	c.mu.Lock()
	c.endLocked(reason, cause)
	c.mu.Unlock()
	c.Flush()
}

// endLocked begins the end from the server's side: what is queued is dropped, DISCONNECT goes out where the version
// has it [MQTT5-4.13.2-1], and the network is closed once that is written, or after farewellTimeout.
func (c *Conn) endLocked(reason packet.ReasonCode, cause string) {
	if c.state >= stateClosing {
		return
	}
	c.dropLocked()
	if c.state == stateOpen {
		reason = reason.OfDisconnect()
	}
	if c.state == stateOpen && c.version == packet.V5 {
		// The close says the rest where it does not fit.
		c.appendControlLocked(&packet.Disconnect{Reason: reason, Properties: c.problemLocked(broker.Farewell(reason, cause))})
	}
	c.state = stateClosing
	c.endReason, c.endCause = reason, cause
	c.stateChanged.Broadcast()
	c.closeLater()
}

// closeLater bounds the time that the farewell may take.
func (c *Conn) closeLater() {
	time.AfterFunc(farewellTimeout, func() { _ = c.wire.Close() }) //nolint:errcheck // it is going away
}

// Hangup takes the client's close by the transport's own means (a WebSocket close frame), which Farewell answers.
func (c *Conn) Hangup() {
	c.mu.Lock()
	if c.state < stateClosing {
		c.dropLocked()
		c.state = stateClosing
		c.endReason, c.endCause = packet.UnspecifiedError, "network closed"
		c.stateChanged.Broadcast()
		c.closeLater()
	}
	c.mu.Unlock()
	c.Flush()
}

// TimedOut tells that the time for the next bytes has passed: Keep Alive [MQTT5-3.1.2-22], or no CONNECT came.
func (c *Conn) TimedOut() {
	c.mu.Lock()
	connecting := c.state == stateConnecting
	c.mu.Unlock()
	cause := "keep alive missed"
	if connecting {
		c.cfg.Observer.Refused("connect_timeout")
		cause = "no CONNECT came" // there is no DISCONNECT before CONNECT, but a WebSocket says why it closes
	}
	c.Disconnect(packet.KeepAliveTimeout, cause)
}

// Ended takes the client out of the broker after reading has stopped; the broker sends the will where one is due
// [MQTT5-3.1.2-8]. The farewell may still be on its way.
func (c *Conn) Ended(cause error) {
	c.Flush()
	c.mu.Lock()
	if c.state < stateClosing {
		c.dropLocked()
		// The session is not this connection's any more: nothing is sent, and no farewell either.
		c.state, c.out.silent = stateClosing, true
		c.stateChanged.Broadcast()
		c.endReason, c.endCause = packet.UnspecifiedError, "network closed"
		if cause != nil && !errors.Is(cause, io.EOF) {
			c.endCause = cause.Error()
		}
	}
	if c.expiry != nil {
		c.expiry.Stop()
	}
	reason, text := c.endReason, c.endCause
	c.mu.Unlock()
	if c.client != nil {
		c.cfg.Broker.End(c.client, broker.Ending{
			SendWill: !c.willOff, Reason: reason, Cause: text, Expires: c.expiryTold, Expiry: c.expiry5,
		})
	}
	c.heard()
}

// Close lets the farewell be written and closes the network. It is the driver's last call.
func (c *Conn) Close() {
	// A writer that is still at the farewell is bounded by the timer that began it.
	if c.EndedByServer() {
		c.awaitWriter()
	}
	_ = c.wire.Close() //nolint:errcheck // it is going away
	c.awaitWriter()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = stateClosed
	c.stateChanged.Broadcast()
}

// EndedByServer reports whether a farewell is on its way, for which the driver should Linger.
func (c *Conn) EndedByServer() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateClosing && !c.out.silent
}

// awaitWriter waits until nobody writes.
func (c *Conn) awaitWriter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.out.writing {
		c.stateChanged.Wait()
	}
}

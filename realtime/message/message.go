// Package message holds the application message as the broker passes it on: one shared, immutable value for all who
// receive it, with its PUBLISH packet encoded once for each variant that is asked for.
package message

import (
	"sync/atomic"
	"time"
)

// Position is the place of a message in its app's log: Seq counts committed writes, Part counts the messages of one
// write. The zero Position stands before the first message.
type Position struct {
	Seq  uint64
	Part uint32
}

// Compare returns -1, 0 or +1 as p stands before, at or after q.
func (p Position) Compare(q Position) int {
	switch {
	case p.Seq < q.Seq, p.Seq == q.Seq && p.Part < q.Part:
		return -1
	case p == q:
		return 0
	default:
		return 1
	}
}

// Message is an application message. All fields but Position are set before it is published and are never changed
// after that; Position is set once, when the message is committed, before it is routed. It must not be copied.
type Message struct {
	Topic      string
	Payload    []byte
	Properties []byte    // the PUBLISH properties that are forwarded unaltered, encoded as in MQTT 5.0, without their length
	Publisher  string    // Client Identifier of the publisher, for No Local; empty when it came by REST
	Arrived    time.Time // UTC
	Expires    time.Time // UTC; zero: never
	Position   Position  // zero: not stored
	QoS        byte      // as published
	Retain     bool      // as published

	wire [4]atomic.Pointer[wire]
}

// Expired reports whether the Message Expiry Interval has passed [MQTT5-3.3.2-5].
func (m *Message) Expired(now time.Time) bool {
	return !m.Expires.IsZero() && !now.Before(m.Expires)
}

// Clears reports whether the message removes the retained message of its topic [MQTT5-3.3.1-6].
func (m *Message) Clears() bool {
	return m.Retain && len(m.Payload) == 0
}

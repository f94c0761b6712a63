package message

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// Send says how one subscriber gets a message.
type Send struct {
	Version         packet.Version
	QoS             byte // the lower of the message's and the subscription's
	Retain          bool
	Dup             bool     // sent again; for QoS > 0
	PacketID        uint16   // for QoS > 0
	TopicAlias      uint16   // 5.0 only; 0: none
	TopicKnown      bool     // the alias stands for the topic already: the topic is left out
	SubscriptionIDs []uint32 // 5.0 only
}

func (s *Send) leavesTopicOut() bool {
	return s.TopicKnown && s.TopicAlias != 0 && s.Version == packet.V5
}

// wire is a PUBLISH packet with the flags and the Packet Identifier left zero. idAt is where that identifier stands.
type wire struct {
	bytes []byte
	idAt  int
}

// variants of wire: before 5.0 or not, with a Packet Identifier or not.
func variant(v packet.Version, withID bool) int {
	i := 0
	if v == packet.V5 {
		i = 2
	}
	if withID {
		i++
	}
	return i
}

// AppendPublish appends the PUBLISH packet that hands the message to one subscriber and returns the longer slice.
//
// The packet's bytes are encoded once for all subscribers of a variant and copied; flags and Packet Identifier are
// set in the copy. An alias, Subscription Identifiers or an expiry make a packet of its own. Safe for concurrent use.
func (m *Message) AppendPublish(dst []byte, s Send, now time.Time) []byte {
	if s.Version == packet.V5 && (s.TopicAlias != 0 || len(s.SubscriptionIDs) != 0 || !m.Expires.IsZero()) {
		return m.appendOwn(dst, s, now)
	}
	w := m.shared(s.Version, s.QoS > 0)
	start := len(dst)
	dst = append(dst, w.bytes...)
	dst[start] |= flags(s)
	if s.QoS > 0 {
		binary.BigEndian.PutUint16(dst[start+w.idAt:], s.PacketID)
	}
	return dst
}

// WireSize returns the length in bytes of the packet that AppendPublish makes, for Maximum Packet Size.
func (m *Message) WireSize(s Send) int {
	n := m.body(s)
	return 1 + packet.VarintSize(uint32(n)) + n //nolint:gosec // a body is below 256 MiB
}

func flags(s Send) byte {
	f := s.QoS << 1
	if s.Retain {
		f |= 1
	}
	if s.Dup {
		f |= 8
	}
	return f
}

// shared returns the packet of a variant, encoding it at the first call. Two callers may encode it at the same time;
// both results are equal.
func (m *Message) shared(v packet.Version, withID bool) *wire {
	slot := &m.wire[variant(v, withID)]
	if w := slot.Load(); w != nil {
		return w
	}
	s := Send{Version: v}
	if withID {
		s.QoS = 1
	}
	n := m.body(s)
	w := &wire{bytes: make([]byte, 0, 1+packet.VarintSize(uint32(n))+n)} //nolint:gosec // a body is below 256 MiB
	w.bytes = append(w.bytes, byte(packet.TypePublish)<<4)
	w.bytes = packet.AppendVarint(w.bytes, uint32(n)) //nolint:gosec // a body is below 256 MiB
	w.bytes = appendString(w.bytes, m.Topic)
	w.idAt = len(w.bytes)
	if withID {
		w.bytes = append(w.bytes, 0, 0)
	}
	if v == packet.V5 {
		w.bytes = packet.AppendVarint(w.bytes, uint32(len(m.Properties))) //nolint:gosec // bounded by the packet size
		w.bytes = append(w.bytes, m.Properties...)
	}
	w.bytes = append(w.bytes, m.Payload...)
	slot.Store(w)
	return w
}

// Property identifiers (MQTT 5.0 table 2-4) that depend on the subscriber.
const (
	propMessageExpiry  = 0x02
	propSubscriptionID = 0x0B
	propTopicAlias     = 0x23
)

func (m *Message) appendOwn(dst []byte, s Send, now time.Time) []byte {
	n := m.body(s)
	dst = append(dst, byte(packet.TypePublish)<<4|flags(s))
	dst = packet.AppendVarint(dst, uint32(n)) //nolint:gosec // a body is below 256 MiB
	if s.leavesTopicOut() {
		dst = append(dst, 0, 0)
	} else {
		dst = appendString(dst, m.Topic)
	}
	if s.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	}
	dst = packet.AppendVarint(dst, uint32(m.propertiesSize(s))) //nolint:gosec // bounded by the packet size
	if !m.Expires.IsZero() {
		dst = append(dst, propMessageExpiry)
		dst = binary.BigEndian.AppendUint32(dst, m.remaining(now))
	}
	if s.TopicAlias != 0 {
		dst = append(dst, propTopicAlias)
		dst = binary.BigEndian.AppendUint16(dst, s.TopicAlias)
	}
	for _, id := range s.SubscriptionIDs {
		dst = append(dst, propSubscriptionID)
		dst = packet.AppendVarint(dst, id)
	}
	dst = append(dst, m.Properties...)
	return append(dst, m.Payload...)
}

// remaining is the Message Expiry Interval to forward: what was received less the time the message has waited
// [MQTT5-3.3.2-6], in seconds, rounded up so that a message still alive is never sent with 0. A clock that was set
// back does not make it more than was received.
func (m *Message) remaining(now time.Time) uint32 {
	left := min(m.Expires.Sub(now), m.Expires.Sub(m.Arrived))
	if left <= 0 {
		return 0
	}
	return uint32(min((left-1)/time.Second+1, math.MaxUint32))
}

func (m *Message) body(s Send) int {
	n := 2 + len(m.Payload)
	if !s.leavesTopicOut() {
		n += len(m.Topic)
	}
	if s.QoS > 0 {
		n += 2
	}
	if s.Version == packet.V5 {
		p := m.propertiesSize(s)
		n += packet.VarintSize(uint32(p)) + p //nolint:gosec // bounded by the packet size
	}
	return n
}

func (m *Message) propertiesSize(s Send) int {
	n := len(m.Properties)
	if !m.Expires.IsZero() {
		n += 5
	}
	if s.TopicAlias != 0 {
		n += 3
	}
	for _, id := range s.SubscriptionIDs {
		n += 1 + packet.VarintSize(id)
	}
	return n
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s))) //nolint:gosec // topics are validated below 65,536 bytes
	return append(dst, s...)
}

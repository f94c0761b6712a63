package packet

import "bytes"

// Publish is a PUBLISH packet (MQTT 5.0 section 3.3). As a Decoder returns it, Topic, RawProperties and Payload are
// views into the Decoder's input: like the packet itself they are valid until the next call of Next or Feed.
type Publish struct {
	Dup           bool
	QoS           byte
	Retain        bool
	Topic         []byte
	PacketID      uint16
	Properties    *Properties // parsed; nil where there are none
	RawProperties []byte      // as received, without their length; not used by Append
	Payload       []byte
}

// Type returns TypePublish.
func (*Publish) Type() Type { return TypePublish }

// decodePublish checks all that PUBLISH asks for [MQTT5-3.3.1-4, MQTT5-3.3.2-1, MQTT5-3.3.2-2].
func decodePublish(r *reader, p *Publish, flags byte, v Version) {
	*p = Publish{Dup: flags&8 != 0, QoS: flags >> 1 & qosMask, Retain: flags&1 != 0}
	if p.QoS == 3 {
		r.fail(malformed("MQTT5-3.3.1-4", "QoS is 3"))
		return
	}
	if p.QoS == 0 && p.Dup {
		r.fail(malformed("MQTT5-3.3.1-2", "DUP is set on QoS 0"))
		return
	}
	p.Topic = r.name()
	if p.QoS > 0 {
		p.PacketID = r.packetID()
	}
	if v == V5 {
		p.Properties, p.RawProperties = r.properties(TypePublish)
	}
	if r.err != nil {
		return
	}
	if bytes.IndexByte(p.Topic, '+') >= 0 || bytes.IndexByte(p.Topic, '#') >= 0 {
		r.fail(malformed("MQTT5-3.3.2-2", "Topic Name holds a wildcard"))
		return
	}
	if len(p.Topic) == 0 && (p.Properties == nil || !p.Properties.Has.Contains(PropTopicAlias)) {
		r.fail(protocolError("MQTT5-4.7.3-1", "Topic Name is empty"))
		return
	}
	p.Payload = r.b
}

// Append implements Packet. Properties are encoded from the struct.
func (p *Publish) Append(dst []byte, v Version) []byte {
	first := byte(TypePublish)<<4 | p.QoS<<1
	if p.Dup {
		first |= 8
	}
	if p.Retain {
		first |= 1
	}
	return appendFixed(dst, first, func(dst []byte) []byte {
		dst = appendString(dst, p.Topic)
		if p.QoS > 0 {
			dst = appendUint16(dst, p.PacketID)
		}
		if v == V5 {
			dst = p.Properties.appendTo(dst)
		}
		return append(dst, p.Payload...)
	})
}

package packet

// Unsubscribe is an UNSUBSCRIBE packet (MQTT 5.0 section 3.10).
type Unsubscribe struct {
	PacketID   uint16
	Filters    []string
	Properties *Properties
}

// Type returns TypeUnsubscribe.
func (*Unsubscribe) Type() Type { return TypeUnsubscribe }

func decodeUnsubscribe(r *reader, v Version) *Unsubscribe {
	u := &Unsubscribe{PacketID: r.packetID()}
	if v == V5 {
		u.Properties, _ = r.properties(TypeUnsubscribe)
	}
	for r.err == nil && len(r.b) > 0 {
		filter := string(r.name())
		if r.err == nil && filter == "" {
			r.fail(malformed("MQTT5-4.7.3-1", "Topic Filter is empty"))
		}
		u.Filters = append(u.Filters, filter)
	}
	if r.err == nil && len(u.Filters) == 0 {
		r.fail(protocolError("MQTT5-3.10.3-2", "UNSUBSCRIBE without a Topic Filter"))
	}
	return u
}

// Append implements Packet.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeUnsubscribe)<<4|2, func(dst []byte) []byte {
		dst = appendUint16(dst, u.PacketID)
		if v == V5 {
			dst = u.Properties.appendTo(dst)
		}
		for _, f := range u.Filters {
			dst = appendString(dst, f)
		}
		return dst
	})
}

// Unsuback is an UNSUBACK packet (MQTT 5.0 section 3.11).
type Unsuback struct {
	PacketID   uint16
	Reasons    []ReasonCode // 5.0 only
	Properties *Properties
}

// Type returns TypeUnsuback.
func (*Unsuback) Type() Type { return TypeUnsuback }

// Append implements Packet; before 5.0 there are no Reason Codes.
func (u *Unsuback) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeUnsuback)<<4, func(dst []byte) []byte {
		dst = appendUint16(dst, u.PacketID)
		if v != V5 {
			return dst
		}
		dst = u.Properties.appendTo(dst)
		for _, c := range u.Reasons {
			dst = append(dst, byte(c))
		}
		return dst
	})
}

func decodeUnsuback(r *reader, v Version) *Unsuback {
	u := &Unsuback{PacketID: r.packetID()}
	if v == V5 {
		u.Properties, _ = r.properties(TypeUnsuback)
		u.Reasons = r.reasons()
	}
	r.end()
	return u
}

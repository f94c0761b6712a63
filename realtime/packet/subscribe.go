package packet

// Subscription is one Topic Filter of a SUBSCRIBE with its options.
type Subscription struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained messages, 1: only for a new subscription, 2: do not
}

// Subscribe is a SUBSCRIBE packet (MQTT 5.0 section 3.8).
type Subscribe struct {
	PacketID      uint16
	Subscriptions []Subscription
	Properties    *Properties
}

// Type returns TypeSubscribe.
func (*Subscribe) Type() Type { return TypeSubscribe }

func decodeSubscribe(r *reader, v Version) *Subscribe {
	s := &Subscribe{PacketID: r.packetID()}
	if v == V5 {
		s.Properties, _ = r.properties(TypeSubscribe)
	}
	for r.err == nil && len(r.b) > 0 {
		filter := string(r.name())
		options := r.byte()
		if r.err != nil {
			break
		}
		if filter == "" {
			r.fail(malformed("MQTT5-4.7.3-1", "Topic Filter is empty"))
			break
		}
		if e := checkOptions(options, v); e != nil {
			r.fail(e)
			break
		}
		s.Subscriptions = append(s.Subscriptions, Subscription{
			Filter: filter, QoS: options & qosMask, NoLocal: options&4 != 0,
			RetainAsPublished: options&8 != 0, RetainHandling: options >> 4 & 3,
		})
	}
	if r.err == nil && len(s.Subscriptions) == 0 {
		r.fail(protocolError("MQTT5-3.8.3-2", "SUBSCRIBE without a Topic Filter"))
	}
	return s
}

func checkOptions(options byte, v Version) *DecodeError {
	switch {
	case v != V5 && options > 2:
		return malformed("MQTT311-3.8.3-4", "requested QoS is not 0, 1 or 2")
	case options&qosMask == 3:
		return protocolError("", "Maximum QoS is 3")
	case options&0xC0 != 0:
		return malformed("MQTT5-3.8.3-5", "reserved bits of the Subscription Options are set")
	case options>>4&3 == 3:
		return protocolError("", "Retain Handling is 3")
	}
	return nil
}

func (s *Subscription) options(v Version) byte {
	o := s.QoS
	if v != V5 {
		return o
	}
	if s.NoLocal {
		o |= 4
	}
	if s.RetainAsPublished {
		o |= 8
	}
	return o | s.RetainHandling<<4
}

// Append implements Packet.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeSubscribe)<<4|2, func(dst []byte) []byte {
		dst = appendUint16(dst, s.PacketID)
		if v == V5 {
			dst = s.Properties.appendTo(dst)
		}
		for i := range s.Subscriptions {
			dst = append(appendString(dst, s.Subscriptions[i].Filter), s.Subscriptions[i].options(v))
		}
		return dst
	})
}

// Suback is a SUBACK packet (MQTT 5.0 section 3.9).
type Suback struct {
	PacketID   uint16
	Reasons    []ReasonCode
	Properties *Properties
}

// Type returns TypeSuback.
func (*Suback) Type() Type { return TypeSuback }

// Append implements Packet; before 5.0 every failure is 0x80.
func (s *Suback) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeSuback)<<4, func(dst []byte) []byte {
		dst = appendUint16(dst, s.PacketID)
		if v == V5 {
			dst = s.Properties.appendTo(dst)
		}
		for _, c := range s.Reasons {
			if v != V5 && c.Failed() {
				c = UnspecifiedError
			}
			dst = append(dst, byte(c))
		}
		return dst
	})
}

func decodeSuback(r *reader, v Version) *Suback {
	s := &Suback{PacketID: r.packetID()}
	if v == V5 {
		s.Properties, _ = r.properties(TypeSuback)
	}
	s.Reasons = r.reasons()
	for _, c := range s.Reasons {
		if v != V5 && c > GrantedQoS2 && c != UnspecifiedError {
			r.fail(malformed("MQTT311-3.9.3-2", "return code is not 0, 1, 2 or 0x80"))
		}
	}
	return s
}

// reasons reads the rest as Reason Codes.
func (r *reader) reasons() []ReasonCode {
	var all []ReasonCode
	for _, c := range r.b {
		all = append(all, ReasonCode(c))
	}
	r.b = nil
	return all
}

package packet

// Will is the Will Message in a CONNECT.
type Will struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties *Properties
}

// Connect is a CONNECT packet (MQTT 5.0 section 3.1).
type Connect struct {
	Version     Version
	CleanStart  bool
	KeepAlive   uint16 // seconds; 0: none
	ClientID    string
	Will        *Will
	HasUsername bool
	HasPassword bool
	Username    string
	Password    []byte
	Properties  *Properties
}

// Type returns TypeConnect.
func (*Connect) Type() Type { return TypeConnect }

// The Connect Flags.
const (
	flagReserved    = 1 << 0
	flagCleanStart  = 1 << 1
	flagWill        = 1 << 2
	flagWillRetain  = 1 << 5
	flagPassword    = 1 << 6
	flagUsername    = 1 << 7
	protocolName31  = "MQIsdp"
	protocolName311 = "MQTT"
	willQoSAtBit    = 3
	qosMask         = 0b11
)

func decodeConnect(r *reader) *Connect {
	name := r.string()
	level := r.byte()
	if r.err != nil {
		return nil
	}
	c := &Connect{Version: Version(level)}
	if !knownProtocol(name, c.Version) {
		if name == protocolName31 || name == protocolName311 {
			r.fail(&DecodeError{UnsupportedProtocolVersion, "MQTT5-3.1.2-2", "protocol version is not supported"})
		} else {
			// No MQTT, so that no CONNACK is owed; its versions would not know how to read one.
			r.fail(malformed("MQTT5-3.1.2-1", "protocol name is not MQTT"))
		}
		return nil
	}
	flags := r.byte()
	c.KeepAlive = r.uint16()
	if r.err != nil {
		return c
	}
	if e := checkFlags(flags, c.Version); e != nil {
		r.fail(e)
		return c
	}
	c.CleanStart = flags&flagCleanStart != 0
	if c.Version == V5 {
		c.Properties, _ = r.properties(TypeConnect)
	}
	c.ClientID = string(r.name())
	if flags&flagWill != 0 {
		c.Will = decodeWill(r, flags, c.Version)
	}
	if c.HasUsername = flags&flagUsername != 0 && !leftOut(r, c.Version); c.HasUsername {
		c.Username = string(r.name())
	}
	if c.HasPassword = flags&flagPassword != 0 && !leftOut(r, c.Version); c.HasPassword {
		c.Password = r.bytes()
	}
	r.end()
	return c
}

// leftOut reports whether the packet ends before a user name or password that its flag announces. MQTT 3.1 (section
// 3.1) wants the connection to go on then, for the sake of clients of its predecessor.
func leftOut(r *reader, v Version) bool { return v == V31 && len(r.b) == 0 }

func knownProtocol(name string, v Version) bool {
	return name == protocolName311 && (v == V311 || v == V5) || name == protocolName31 && v == V31
}

func checkFlags(flags byte, v Version) *DecodeError {
	switch {
	case v != V5 && flags&flagPassword != 0 && flags&flagUsername == 0:
		return malformed("MQTT311-3.1.2-22", "password without user name")
	case flags&flagWill != 0 && flags>>willQoSAtBit&qosMask == 3:
		return malformed("MQTT5-3.1.2-12", "Will QoS is 3")
	case v == V31:
		// It does not use the first flag, and disregards the will's flags where there is no will.
		return nil
	case flags&flagReserved != 0:
		return malformed("MQTT5-3.1.2-3", "reserved Connect Flag is set")
	case flags&flagWill == 0 && flags>>willQoSAtBit&qosMask != 0:
		return malformed("MQTT5-3.1.2-11", "Will QoS without Will Flag")
	case flags&flagWill == 0 && flags&flagWillRetain != 0:
		return malformed("MQTT5-3.1.2-13", "Will Retain without Will Flag")
	}
	return nil
}

func decodeWill(r *reader, flags byte, v Version) *Will {
	w := &Will{QoS: flags >> willQoSAtBit & qosMask, Retain: flags&flagWillRetain != 0}
	if v == V5 {
		w.Properties, _ = r.properties(typeWill)
	}
	w.Topic = string(r.name())
	w.Payload = r.bytes()
	switch {
	case r.err != nil:
	case w.Topic == "":
		r.fail(malformed("MQTT5-4.7.3-1", "Will Topic is empty"))
	case !wildcardFree(w.Topic):
		r.fail(malformed("MQTT5-4.7.0-1", "Will Topic holds a wildcard"))
	}
	return w
}

// Append implements Packet. The packet's own Version decides, not v.
func (c *Connect) Append(dst []byte, _ Version) []byte {
	return appendFixed(dst, byte(TypeConnect)<<4, func(dst []byte) []byte {
		name := protocolName311
		if c.Version == V31 {
			name = protocolName31
		}
		dst = appendString(dst, name)
		dst = append(dst, byte(c.Version), c.flags())
		dst = appendUint16(dst, c.KeepAlive)
		if c.Version == V5 {
			dst = c.Properties.appendTo(dst)
		}
		dst = appendString(dst, c.ClientID)
		if c.Will != nil {
			if c.Version == V5 {
				dst = c.Will.Properties.appendTo(dst)
			}
			dst = appendString(dst, c.Will.Topic)
			dst = appendString(dst, c.Will.Payload)
		}
		if c.HasUsername {
			dst = appendString(dst, c.Username)
		}
		if c.HasPassword {
			dst = appendString(dst, c.Password)
		}
		return dst
	})
}

func (c *Connect) flags() byte {
	var f byte
	if c.CleanStart {
		f |= flagCleanStart
	}
	if c.Will != nil {
		f |= flagWill | c.Will.QoS<<willQoSAtBit
		if c.Will.Retain {
			f |= flagWillRetain
		}
	}
	if c.HasUsername {
		f |= flagUsername
	}
	if c.HasPassword {
		f |= flagPassword
	}
	return f
}

// Connack is a CONNACK packet (MQTT 5.0 section 3.2).
type Connack struct {
	SessionPresent bool
	Reason         ReasonCode
	Properties     *Properties
}

// Type returns TypeConnack.
func (*Connack) Type() Type { return TypeConnack }

// Append implements Packet; before 5.0 the Reason becomes a Connect Return Code, and 3.1 has no Session Present.
func (c *Connack) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeConnack)<<4, func(dst []byte) []byte {
		var present byte
		if c.SessionPresent && v != V31 {
			present = 1
		}
		if v != V5 {
			return append(dst, present, c.Reason.V3Connack())
		}
		dst = append(dst, present, byte(c.Reason))
		return c.Properties.appendTo(dst)
	})
}

func decodeConnack(r *reader, v Version) *Connack {
	c := &Connack{}
	present := r.byte()
	c.Reason = ReasonCode(r.byte())
	if v == V31 {
		present = 0 // it does not use this byte
	}
	if r.err == nil && present > 1 {
		r.fail(malformed("MQTT5-3.2.2-1", "reserved acknowledge flags are set"))
	}
	c.SessionPresent = present == 1
	if v == V5 {
		c.Properties, _ = r.properties(TypeConnack)
	} else if code := int(c.Reason); code < len(returnCodes) {
		c.Reason = returnCodes[code]
	} else {
		r.fail(malformed("MQTT311-3.2.2-5", "Connect Return Code is unknown"))
	}
	r.end()
	return c
}

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
	willFlagsMask   = 0b11<<willQoSAtBit | flagWillRetain
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
			r.fail(&DecodeError{UnsupportedProtocolVersion, "MQTT5-3.1.2-1", "protocol name is not MQTT"})
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
	c.ClientID = r.string()
	if flags&flagWill != 0 {
		c.Will = decodeWill(r, flags, c.Version)
	}
	if c.HasUsername = flags&flagUsername != 0; c.HasUsername {
		c.Username = r.string()
	}
	if c.HasPassword = flags&flagPassword != 0; c.HasPassword {
		c.Password = r.bytes()
	}
	r.end()
	return c
}

func knownProtocol(name string, v Version) bool {
	return name == protocolName311 && (v == V311 || v == V5) || name == protocolName31 && v == V31
}

func checkFlags(flags byte, v Version) *DecodeError {
	switch {
	case flags&flagReserved != 0:
		return malformed("MQTT5-3.1.2-3", "reserved Connect Flag is set")
	case flags&flagWill == 0 && flags&willFlagsMask != 0:
		return malformed("MQTT5-3.1.2-11", "Will QoS or Will Retain without Will Flag")
	case flags>>willQoSAtBit&qosMask == 3:
		return malformed("MQTT5-3.1.2-12", "Will QoS is 3")
	case v != V5 && flags&flagPassword != 0 && flags&flagUsername == 0:
		return malformed("MQTT311-3.1.2-22", "password without user name")
	}
	return nil
}

func decodeWill(r *reader, flags byte, v Version) *Will {
	w := &Will{QoS: flags >> willQoSAtBit & qosMask, Retain: flags&flagWillRetain != 0}
	if v == V5 {
		w.Properties, _ = r.properties(typeWill)
	}
	w.Topic = r.string()
	w.Payload = r.bytes()
	if r.err == nil && (w.Topic == "" || !wildcardFree(w.Topic)) {
		r.fail(malformed("MQTT5-3.3.2-2", "Will Topic is empty or holds a wildcard"))
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

// Append implements Packet; before 5.0 the Reason becomes a Connect Return Code.
func (c *Connack) Append(dst []byte, v Version) []byte {
	return appendFixed(dst, byte(TypeConnack)<<4, func(dst []byte) []byte {
		var present byte
		if c.SessionPresent {
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
	if r.err == nil && present > 1 {
		r.fail(malformed("MQTT5-3.2.2-1", "reserved acknowledge flags are set"))
	}
	c.SessionPresent = present == 1
	if v == V5 {
		c.Properties, _ = r.properties(TypeConnack)
	}
	r.end()
	return c
}

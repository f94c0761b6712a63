package packet

import "slices"

// Decoder turns received bytes into packets: Feed bytes as they come, take packets with Next. One goroutine uses it.
//
// As a server's decoder it knows the version from the CONNECT, which must come first; SetVersion makes it a client's.
type Decoder struct {
	packetBytesMax int
	version        Version
	client         bool // it decodes what a server sends
	connected      bool
	err            *DecodeError

	in      []byte // what was fed and not yet decoded; not ours
	partial []byte // the beginning of a packet whose end has not come; ours
	done    bool   // partial holds a packet that has been returned

	publish Publish
	ack     Ack
}

// NewDecoder returns a server's decoder that refuses packets of more than packetBytesMax bytes, fixed header included.
func NewDecoder(packetBytesMax int) *Decoder { return &Decoder{packetBytesMax: packetBytesMax} }

// SetVersion makes the decoder a client's, for the packets of a server that speaks v.
func (d *Decoder) SetVersion(v Version) { d.version, d.client, d.connected = v, true, true }

// Version returns the version that CONNECT named, be it one that was refused; 0 before it.
func (d *Decoder) Version() Version { return d.version }

// SetPacketBytesMax changes the limit for the packets to come.
func (d *Decoder) SetPacketBytesMax(n int) { d.packetBytesMax = n }

// Feed adds received bytes. They are read, not kept, until Next has returned nil; only the beginning of an incomplete
// packet is copied. Packets returned before are no longer valid.
func (d *Decoder) Feed(b []byte) {
	if d.err != nil {
		return
	}
	if len(d.in) > 0 {
		// The caller has not taken all packets of the last feed: keep their bytes.
		b = append(append([]byte{}, d.in...), b...)
	}
	d.in = b
}

// Buffered returns how many bytes wait for the rest of their packet.
func (d *Decoder) Buffered() int {
	if d.done {
		return len(d.in)
	}
	return len(d.partial) + len(d.in)
}

// Release lets go of memory that only an unfinished packet needs.
func (d *Decoder) Release() {
	if d.Buffered() == 0 {
		d.partial, d.done = nil, false
	}
}

// Next returns the next packet, or nil when more bytes are needed. A *Publish or *Ack is valid until the next call of
// Next or Feed. An error is a *DecodeError and final.
func (d *Decoder) Next() (Packet, error) {
	if d.err != nil {
		return nil, d.err
	}
	p, err := d.next()
	if err != nil {
		d.err = err
		if !d.connected && err.Reason == PacketTooLarge {
			d.version = versionOf(d.partial, d.in)
		}
		d.in, d.partial = nil, nil
		return nil, err
	}
	return p, nil
}

func (d *Decoder) next() (Packet, *DecodeError) {
	if d.done {
		d.partial, d.done = d.partial[:0], false
	}
	if len(d.partial) > 0 {
		return d.finishPartial()
	}
	if len(d.in) == 0 {
		d.in = nil
		return nil, nil
	}
	size, err := d.size(d.in)
	if err != nil {
		return nil, err
	}
	if size == 0 || size > len(d.in) {
		d.keep(len(d.in))
		return nil, nil
	}
	b := d.in[:size:size]
	d.in = d.in[size:]
	return d.decode(b)
}

// keep copies n fed bytes behind the partial packet. The copy grows with what arrives, never by what is announced.
func (d *Decoder) keep(n int) {
	d.partial = append(d.partial, d.in[:n]...)
	if d.in = d.in[n:]; len(d.in) == 0 {
		d.in = nil
	}
}

func (d *Decoder) finishPartial() (Packet, *DecodeError) {
	for {
		size, err := d.size(d.partial)
		if err != nil {
			return nil, err
		}
		missing := size - len(d.partial)
		if size == 0 {
			missing = 1 // the fixed header itself is not complete
		}
		if missing == 0 {
			d.done = true
			return d.decode(d.partial)
		}
		if len(d.in) == 0 {
			return nil, nil
		}
		d.keep(min(missing, len(d.in)))
	}
}

// size returns the length of the packet that b begins with, or 0 when its fixed header is not complete. It is judged
// before anything is allocated.
func (d *Decoder) size(b []byte) (int, *DecodeError) {
	if err := d.checkFirst(b[0]); err != nil {
		return 0, err
	}
	n := 0
	for i := 1; i < len(b); i++ {
		n |= int(b[i]&0x7F) << (7 * (i - 1))
		if b[i] >= 0x80 {
			if i == 4 {
				return 0, malformed("MQTT5-1.5.5-1", "Remaining Length is longer than four bytes")
			}
			continue
		}
		if size := 1 + i + n; size <= d.packetBytesMax {
			return size, nil
		}
		if d.client {
			return 0, &DecodeError{PacketTooLarge, "MQTT5-3.1.2-24", "packet is larger than the limit"}
		}
		return 0, &DecodeError{PacketTooLarge, "MQTT5-3.2.2-15", "packet is larger than the limit"}
	}
	return 0, nil
}

// versionOf returns the version that a CONNECT names which is too large to be taken, so that it is answered as that
// version wants; 0 where it has not come along with the fixed header, which is refused without waiting for more.
func versionOf(partial, in []byte) Version {
	const fixedMax, nameMax = 5, 2 + len(protocolName31)
	b := append(slices.Clone(partial), in[:min(len(in), fixedMax+nameMax+1)]...)
	i := 1
	for i < len(b) && b[i] >= 0x80 {
		i++
	}
	r := reader{b: b[min(i+1, len(b)):]}
	name, v := r.string(), Version(r.byte())
	if r.err != nil || !knownProtocol(name, v) {
		return 0
	}
	return v
}

// checkFirst judges the first byte: may this packet come, from this side and now?
func (d *Decoder) checkFirst(first byte) *DecodeError {
	t := Type(first >> 4)
	if !d.connected {
		if t != TypeConnect {
			return protocolError("MQTT5-3.1.0-1", "first packet is not CONNECT")
		}
		return nil // its flags depend on its version
	}
	if err := checkHeaderFlags(first, d.version); err != nil {
		return err
	}
	switch t {
	case 0:
		return malformed("", "packet type 0 is forbidden")
	case TypeAuth:
		if d.version != V5 {
			return malformed("", "packet type 15 is forbidden before MQTT 5.0")
		}
	case TypeConnect, TypeSubscribe, TypeUnsubscribe, TypePingreq:
		if d.client {
			return protocolError("", "only a client sends this packet")
		}
		if t == TypeConnect {
			return protocolError("MQTT5-3.1.0-2", "second CONNECT")
		}
	case TypeConnack, TypeSuback, TypeUnsuback, TypePingresp:
		if !d.client {
			return protocolError("", "only a server sends this packet")
		}
	default: // both sides send it
	}
	return nil
}

// checkHeaderFlags judges the flags of the fixed header [MQTT5-2.1.3-1]. Those of PUBLISH mean something. MQTT 3.1
// reserves none: it does not use them, but for DUP in a PUBREL, SUBSCRIBE or UNSUBSCRIBE that is sent again.
func checkHeaderFlags(first byte, v Version) *DecodeError {
	t, flags := Type(first>>4), first&15
	if t == TypePublish || v == V31 {
		return nil
	}
	var want byte
	if t == TypePubrel || t == TypeSubscribe || t == TypeUnsubscribe {
		want = 2
	}
	if flags != want {
		return malformed("MQTT5-2.1.3-1", "reserved flags of the fixed header are set")
	}
	return nil
}

func (d *Decoder) decode(b []byte) (Packet, *DecodeError) {
	first := b[0]
	i := 1
	for b[i] >= 0x80 {
		i++
	}
	r := reader{b: b[i+1:]}
	p := d.body(&r, Type(first>>4), first&15)
	if i > 1 && b[i] == 0 && d.version == V5 {
		// Judged here because the versions before 5.0 allow it, and CONNECT names the version.
		r.fail(malformed("MQTT5-1.5.5-1", "Remaining Length is longer than it need be"))
	}
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

func (d *Decoder) body(r *reader, t Type, flags byte) Packet {
	switch t {
	case TypeConnect:
		c := decodeConnect(r)
		if c != nil {
			// Known from here on, so that a malformed rest is answered as this version wants.
			d.version = c.Version
			if err := checkHeaderFlags(byte(t)<<4|flags, c.Version); err != nil {
				r.fail(err)
			}
		}
		d.connected = r.err == nil
		return c
	case TypePublish:
		decodePublish(r, &d.publish, flags, d.version)
		// A Subscription Identifier is not for clients to send [MQTT5-3.3.4-6], and one is ignored: who republishes a
		// message with its properties, as bridges do, means no harm. It is never forwarded (ForwardedProperties).
		if r.err == nil && !d.client && d.publish.Properties != nil && len(d.publish.Properties.SubscriptionIDs) > 1 {
			r.fail(protocolError("MQTT5-3.3.4-6", "several Subscription Identifiers from a client"))
		}
		return &d.publish
	case TypePuback, TypePubrec, TypePubrel, TypePubcomp:
		decodeAck(r, &d.ack, t, d.version)
		return &d.ack
	case TypeSubscribe:
		return decodeSubscribe(r, d.version)
	case TypeUnsubscribe:
		return decodeUnsubscribe(r, d.version)
	case TypePingreq, TypePingresp:
		r.end()
		return &Ping{Kind: t}
	case TypeDisconnect:
		return decodeDisconnect(r, d.version, !d.client)
	case TypeAuth:
		return decodeAuth(r)
	case TypeConnack:
		return decodeConnack(r, d.version)
	case TypeSuback:
		return decodeSuback(r, d.version)
	default:
		return decodeUnsuback(r, d.version)
	}
}

package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// AppendVarint appends n as a Variable Byte Integer [MQTT5-1.5.5-1].
func AppendVarint(dst []byte, n uint32) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// VarintSize returns the length of n as a Variable Byte Integer.
func VarintSize(n uint32) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	default:
		return 4
	}
}

func appendUint16(dst []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(dst, n) }
func appendUint32(dst []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(dst, n) }

// appendString appends text or binary data behind its length of two bytes. Longer data cannot be said in MQTT; it is
// cut, text between two characters, so that the packet stays well-formed.
func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	n := len(s)
	if n > 0xFFFF {
		n = 0xFFFF
		for n > 0xFFFF-(utf8.UTFMax-1) && !utf8.RuneStart(s[n]) {
			n--
		}
	}
	dst = appendUint16(dst, uint16(n))
	return append(dst, s[:n]...)
}

// appendFixed appends a packet with its fixed header; body appends what follows the Remaining Length.
func appendFixed(dst []byte, first byte, body func([]byte) []byte) []byte {
	// Almost every packet but PUBLISH is shorter than 128 bytes: encode behind one byte of length, make room if not.
	start := len(dst)
	dst = append(dst, first, 0)
	dst = body(dst)
	n := len(dst) - start - 2
	if n < 0x80 {
		dst[start+1] = byte(n) //nolint:gosec // below 0x80
		return dst
	}
	extra := VarintSize(uint32(n)) - 1 //nolint:gosec // a packet we make is below 256 MiB
	dst = append(dst, make([]byte, extra)...)
	copy(dst[start+2+extra:], dst[start+2:len(dst)-extra])
	AppendVarint(dst[start+1:start+1], uint32(n)) //nolint:gosec // as above
	return dst
}

// reader reads the parts of one packet in turn. After the first error every read returns zero values, so that callers
// check once.
type reader struct {
	b   []byte
	err *DecodeError
}

func (r *reader) fail(e *DecodeError) {
	if r.err == nil {
		r.err = e
		r.b = nil
	}
}

func (r *reader) short() { r.fail(malformed("", "packet ends in the middle of a field")) }

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.short()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint16() uint16 {
	if len(r.b) < 2 {
		r.short()
		return 0
	}
	v := binary.BigEndian.Uint16(r.b)
	r.b = r.b[2:]
	return v
}

func (r *reader) uint32() uint32 {
	if len(r.b) < 4 {
		r.short()
		return 0
	}
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) varint() uint32 {
	var v uint32
	for i := range 4 {
		c := r.byte()
		if r.err != nil {
			return 0
		}
		v |= uint32(c&0x7F) << (7 * i)
		if c < 0x80 {
			if i > 0 && c == 0 {
				r.fail(malformed("MQTT5-1.5.5-1", "Variable Byte Integer is longer than it need be"))
				return 0
			}
			return v
		}
	}
	r.fail(malformed("MQTT5-1.5.5-1", "Variable Byte Integer is longer than four bytes"))
	return 0
}

// binary returns a view.
func (r *reader) binary() []byte {
	n := int(r.uint16())
	if len(r.b) < n {
		r.short()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// text returns a view of a UTF-8 Encoded String: well-formed, without surrogates [MQTT5-1.5.4-1] and without U+0000
// [MQTT5-1.5.4-2].
func (r *reader) text() []byte {
	v := r.binary()
	if !utf8.Valid(v) {
		r.fail(malformed("MQTT5-1.5.4-1", "text is not well-formed UTF-8"))
		return nil
	}
	if bytes.IndexByte(v, 0) >= 0 {
		r.fail(malformed("MQTT5-1.5.4-2", "text holds U+0000"))
		return nil
	}
	return v
}

func (r *reader) string() string { return string(r.text()) }

// name returns a view of text that names something: a topic, a client, a user. Control characters, which a receiver may
// refuse (MQTT 5.0 section 1.5.4), have no place there: names become paths, log fields and lines on a console.
func (r *reader) name() []byte {
	v := r.text()
	if hasControl(v) {
		r.fail(malformed("", "name holds a control character"))
		return nil
	}
	return v
}

// hasControl reports whether UTF-8 text holds one of U+0000 to U+001F and U+007F to U+009F.
func hasControl(text []byte) bool {
	for i, c := range text {
		if c < 0x20 || c == 0x7F || c == 0xC2 && text[i+1] < 0xA0 {
			return true
		}
	}
	return false
}

func (r *reader) bytes() []byte { return append([]byte{}, r.binary()...) }

func (r *reader) packetID() uint16 {
	id := r.uint16()
	if r.err == nil && id == 0 {
		r.fail(protocolError("MQTT5-2.2.1-3", "Packet Identifier is 0"))
	}
	return id
}

// end checks that nothing follows.
func (r *reader) end() {
	if r.err == nil && len(r.b) > 0 {
		r.fail(malformed("", "packet is longer than its fields"))
	}
}

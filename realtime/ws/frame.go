package ws

import (
	"encoding/binary"
	"unicode/utf8"
)

// The opcodes of RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// The close codes of RFC 6455 section 7.4.1 that we send.
const (
	closeNormal      = 1000
	closeGoingAway   = 1001
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNotUTF8     = 1007
	closePolicy      = 1008
	closeTooBig      = 1009
	closeInternal    = 1011
)

const controlPayloadMax = 125

// frameError is a breach of RFC 6455, with the close code that answers it.
type frameError struct {
	code int
	text string
}

// Error implements error.
func (e *frameError) Error() string { return e.text }

// handler takes what a reader finds.
type handler interface {
	// data takes a piece of a binary message, in order; it is free again when data returns.
	data(b []byte) error
	ping(payload []byte) error
	// closed takes the client's close frame; code is 1005 where it named none.
	closed(code int) error
}

// reader is a push parser of a client's frames: bytes in any pieces in, payload out as it comes, unmasked in place, so
// that a large frame takes no memory.
type reader struct {
	to handler

	header    [14]byte
	headerLen int
	need      int // bytes of the header, as far as known

	opcode    byte
	final     bool
	remaining uint64
	mask      [4]byte
	maskAt    int
	inFrame   bool
	inMessage bool // a fragmented message goes on
	control   []byte
}

// feed takes received bytes and changes them.
func (r *reader) feed(b []byte) error {
	for len(b) > 0 {
		if !r.inFrame {
			n, err := r.readHeader(b)
			if err != nil {
				return err
			}
			b = b[n:]
			if !r.inFrame {
				continue // the header is not complete, or its frame is empty
			}
		}
		n := int(min(uint64(len(b)), r.remaining)) //nolint:gosec // at most len(b)
		piece := b[:n]
		b = b[n:]
		r.unmask(piece)
		r.remaining -= uint64(n)
		if err := r.payload(piece); err != nil {
			return err
		}
	}
	return nil
}

// readHeader takes header bytes and returns how many; the frame begins when the header is complete.
func (r *reader) readHeader(b []byte) (int, error) {
	if r.headerLen == 0 {
		r.need = 2
	}
	taken := 0
	for r.headerLen < r.need {
		if taken == len(b) {
			return taken, nil
		}
		r.header[r.headerLen] = b[taken]
		r.headerLen++
		taken++
		if r.headerLen == 2 {
			if err := r.checkHeader(); err != nil {
				return taken, err
			}
		}
	}
	return taken, r.begin()
}

// checkHeader judges the first two bytes and learns how long the header is.
func (r *reader) checkHeader() error {
	r.final, r.opcode = r.header[0]&0x80 != 0, r.header[0]&15
	length := r.header[1] & 0x7F
	switch {
	case r.header[0]&0x70 != 0:
		return &frameError{closeProtocol, "reserved bits are set"}
	case r.header[1]&0x80 == 0:
		return &frameError{closeProtocol, "client frame is not masked"}
	case r.opcode >= opClose && (!r.final || length > controlPayloadMax):
		return &frameError{closeProtocol, "control frame is fragmented or too long"}
	}
	switch r.opcode {
	case opText:
		return &frameError{closeUnsupported, "text frame: MQTT needs binary frames [MQTT5-6.0.0-1]"}
	case opBinary:
		if r.inMessage {
			return &frameError{closeProtocol, "new message within a fragmented one"}
		}
	case opContinuation:
		if !r.inMessage {
			return &frameError{closeProtocol, "continuation of nothing"}
		}
	case opClose, opPing, opPong:
	default:
		return &frameError{closeProtocol, "reserved opcode"}
	}
	r.need = 6
	switch length {
	case 126:
		r.need = 8
	case 127:
		r.need = 14
	}
	return nil
}

func (r *reader) begin() error {
	switch r.need {
	case 8:
		r.remaining = uint64(binary.BigEndian.Uint16(r.header[2:]))
	case 14:
		if r.remaining = binary.BigEndian.Uint64(r.header[2:]); r.remaining>>63 != 0 {
			return &frameError{closeProtocol, "frame length has its highest bit set"}
		}
	default:
		r.remaining = uint64(r.header[1] & 0x7F)
	}
	copy(r.mask[:], r.header[r.need-4:r.need])
	r.maskAt, r.headerLen, r.inFrame = 0, 0, true
	if r.opcode < opClose {
		r.inMessage = true
	}
	if r.remaining == 0 {
		return r.payload(nil)
	}
	return nil
}

// unmask undoes the mask in place, eight bytes at a time (RFC 6455 section 5.3).
func (r *reader) unmask(b []byte) {
	var key [8]byte
	for i := range key {
		key[i] = r.mask[(r.maskAt+i)&3]
	}
	r.maskAt = (r.maskAt + len(b)) & 3
	k := binary.LittleEndian.Uint64(key[:])
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
	}
	for i := range b {
		b[i] ^= key[i]
	}
}

// payload takes a piece of the current frame's payload; the frame ends when nothing remains.
func (r *reader) payload(piece []byte) error {
	ended := r.remaining == 0
	if ended {
		r.inFrame = false
	}
	if r.opcode < opClose {
		if ended && r.final {
			r.inMessage = false
		}
		if len(piece) == 0 {
			return nil
		}
		return r.to.data(piece)
	}
	r.control = append(r.control, piece...)
	if !ended {
		return nil
	}
	payload := r.control
	r.control = r.control[:0]
	switch r.opcode {
	case opPing:
		return r.to.ping(payload)
	case opClose:
		code, err := closeCode(payload)
		if err != nil {
			return err
		}
		return r.to.closed(code)
	}
	return nil
}

const closeNone = 1005

func closeCode(payload []byte) (int, error) {
	if len(payload) == 0 {
		return closeNone, nil
	}
	if len(payload) == 1 {
		return 0, &frameError{closeProtocol, "close frame of one byte"}
	}
	code := int(binary.BigEndian.Uint16(payload))
	if code < 1000 || code == 1004 || code == 1005 || code == 1006 || code > 1014 && code < 3000 || code > 4999 {
		return 0, &frameError{closeProtocol, "close code is not allowed"}
	}
	if !utf8.Valid(payload[2:]) {
		return 0, &frameError{closeNotUTF8, "close reason is not UTF-8"}
	}
	return code, nil
}

// appendHeader appends the header of an unmasked, final frame.
func appendHeader(dst []byte, opcode byte, length int) []byte {
	dst = append(dst, 0x80|opcode)
	switch {
	case length < 126:
		return append(dst, byte(length)) //nolint:gosec // bounded above
	case length < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(length))
	}
}

func newFrame(opcode byte, payload []byte) []byte {
	return append(appendHeader(nil, opcode, len(payload)), payload...)
}

func closeFrame(code int) []byte {
	if code == closeNone {
		return newFrame(opClose, nil)
	}
	return newFrame(opClose, binary.BigEndian.AppendUint16(nil, uint16(code))) //nolint:gosec // a close code
}

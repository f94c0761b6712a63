package ws

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzStream has a client say frames that a script chooses, good and bad, and cuts what is on the network into pieces that
// another script chooses. What reaches MQTT is what was sent in binary messages before the first breach, whatever the frames
// and the cuts; pings arrive whole; and the breach, or the close frame, is the one that was made.
func FuzzStream(f *testing.F) {
	f.Add([]byte{frameWhole, 5, frameBegin, 0, framePing, 125, frameGoesOn, 130, frameEnds, 9, frameClose, 2}, []byte{1, 2, 3})
	f.Add([]byte{frameWhole, 125, frameWhole, 126, frameWhole, 255, frameText, 3}, []byte{0})
	f.Add([]byte{frameBegin, 1, framePong, 3, frameWhole, 1}, []byte{14, 1})
	f.Add([]byte{frameWhole, 40, frameUnmasked, 1}, []byte{200})
	f.Add([]byte{frameEnds, 1}, []byte{2})
	f.Add([]byte{frameReserved, 1}, []byte{1})
	f.Add([]byte{frameBits, 1}, []byte{1})
	f.Add([]byte{frameLongPing, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, script, cuts []byte) {
		s := &sender{}
		for ; len(script) >= 2 && !s.over; script = script[2:] {
			s.frame(script[0]%frameKinds, int(script[1]))
		}
		got := &sink{}
		err := feedCut(&reader{to: got}, s.network, cuts)
		require.Equal(t, string(s.want.bytes), string(got.bytes))
		require.Equal(t, bytes.Join(s.want.pings, []byte("|")), bytes.Join(got.pings, []byte("|")))
		require.Len(t, got.pings, len(s.want.pings))
		require.Equal(t, s.want.code, got.code)
		var breach *frameError
		if s.breach != 0 {
			require.ErrorAs(t, err, &breach)
			require.Equal(t, s.breach, breach.code)
		} else if s.want.code == 0 {
			require.NoError(t, err)
		}
	})
}

// feedCut feeds pieces whose lengths cuts says, over and over.
func feedCut(r *reader, network, cuts []byte) error {
	for i := 0; len(network) > 0; i++ {
		n := len(network)
		if len(cuts) > 0 {
			n = min(n, 1+int(cuts[i%len(cuts)]))
		}
		if err := r.feed(bytes.Clone(network[:n])); err != nil {
			return err
		}
		network = network[n:]
	}
	return nil
}

// The frames that a sender knows.
const (
	frameWhole byte = iota // a binary message in one frame
	frameBegin             // the first of several
	frameGoesOn
	frameEnds
	framePing
	framePong
	frameClose
	frameText
	frameUnmasked
	frameReserved
	frameBits
	frameLongPing
	frameKinds
)

// sender is a client, and what must come of what it says.
type sender struct {
	network   []byte
	want      sink
	breach    int // the close code of the first breach, or 0
	inMessage bool
	over      bool
	said      byte // makes each payload, and each mask, another
}

// frame says one frame with a payload of n bytes; a few lengths are made long ones.
func (s *sender) frame(kind byte, n int) {
	switch kind {
	case frameWhole:
		s.data(0x82, !s.inMessage, n, false)
	case frameBegin:
		s.data(0x02, !s.inMessage, n, true)
	case frameGoesOn:
		s.data(0x00, s.inMessage, n, true)
	case frameEnds:
		s.data(0x80, s.inMessage, n, false)
	case framePing, framePong, frameClose:
		s.control(kind, n%(controlPayloadMax+1))
	default:
		s.wrong(kind, n)
	}
}

func (s *sender) data(first byte, allowed bool, n int, goesOn bool) {
	if n > 250 {
		n = 65_533 + n%8 // on both sides of where a length takes eight bytes
	}
	payload := s.say(first, n)
	if !allowed {
		s.breaks(closeProtocol)
		return
	}
	s.want.bytes = append(s.want.bytes, payload...)
	s.inMessage = goesOn
}

func (s *sender) control(kind byte, n int) {
	switch kind {
	case framePing:
		s.want.pings = append(s.want.pings, s.say(0x89, n))
	case framePong:
		s.say(0x8A, n)
	default:
		code := 1_000 + n%4
		s.network = append(s.network, masked(0x88, 0xA5, binary.BigEndian.AppendUint16(nil, uint16(code)))...)
		s.want.code, s.over = code, true
	}
}

func (s *sender) wrong(kind byte, n int) {
	code := closeProtocol
	switch kind {
	case frameText:
		s.say(0x81, n)
		code = closeUnsupported
	case frameUnmasked:
		s.network = append(s.network, newFrame(opBinary, make([]byte, n))...)
	case frameReserved:
		s.say(0x83, n)
	case frameBits:
		s.say(0xC2, n)
	case frameLongPing:
		s.say(0x89, controlPayloadMax+1+n)
	}
	s.breaks(code)
}

func (s *sender) breaks(code int) { s.breach, s.over = code, true }

// say puts a masked frame on the network and returns its payload.
func (s *sender) say(first byte, n int) []byte {
	s.said++
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = s.said + byte(i)
	}
	s.network = append(s.network, masked(first, uint32(s.said)*0x9E3779B1, payload)...)
	return payload
}

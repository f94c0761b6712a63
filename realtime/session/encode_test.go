package session

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/embercast/embercast/realtime/message"
)

// drawEntry draws what the store keeps of an Entry.
func drawEntry(t *rapid.T) Entry {
	e := Entry{
		PacketID: rapid.Uint16Range(1, 65_535).Draw(t, "packet id"),
		Position: message.Position{Seq: rapid.Uint64().Draw(t, "seq"), Part: rapid.Uint32().Draw(t, "part")},
		QoS:      rapid.ByteRange(1, 2).Draw(t, "qos"),
		State:    rapid.SampledFrom([]EntryState{StateSent, StateDone}).Draw(t, "state"),
		Snapshot: rapid.Bool().Draw(t, "snapshot"), Retain: rapid.Bool().Draw(t, "retain"),
	}
	if e.QoS == 2 && rapid.Bool().Draw(t, "rel") {
		e.State = StateRel
	}
	return e
}

func TestWindow_is_the_same_after_the_store(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawEntry), 0, 20).Draw(t, "window")
		b := AppendWindow([]byte("before"), want)
		require.Equal(t, "before", string(b[:6]))
		require.Len(t, b, 6+entryBytes*len(want))
		got, err := ParseWindow(b[6:])
		require.NoError(t, err)
		require.Equal(t, append([]Entry{}, want...), got)
	})
}

// TestWindow_bytes pins the encoding: what a released server has stored must be read by the next.
func TestWindow_bytes(t *testing.T) {
	t.Parallel()
	window := []Entry{
		{PacketID: 0x0102, Position: message.Position{Seq: 0x0304, Part: 0x0506}, QoS: 1, State: StateSent},
		{PacketID: 0xFFFF, Position: message.Position{Seq: 1<<64 - 1, Part: 1<<32 - 1}, QoS: 2, State: StateRel, Snapshot: true},
		{PacketID: 1, QoS: 2, State: StateDone, Retain: true},
	}
	want := strings.ReplaceAll("0102 0000000000000304 00000506 05"+"ffff ffffffffffffffff ffffffff 1a"+"0001 0000000000000000 00000000 2e", " ", "")
	require.Equal(t, want, hex.EncodeToString(AppendWindow(nil, window)))
	require.Equal(t, "00010102ffff", hex.EncodeToString(AppendPacketIDs(nil, []uint16{1, 0x0102, 0xFFFF})))
}

func TestWindow_leaves_out_messages_and_Subscription_Identifiers(t *testing.T) {
	t.Parallel()
	e := Entry{PacketID: 1, QoS: 1, State: StateSent}
	got, err := ParseWindow(AppendWindow(nil, []Entry{{
		PacketID: 1, QoS: 1, State: StateSent, Message: &message.Message{}, SubscriptionIDs: []uint32{1},
	}}))
	require.NoError(t, err)
	require.Equal(t, []Entry{e}, got)
}

func TestParse_takes_as_much_as_there_may_be(t *testing.T) {
	t.Parallel()
	window, err := ParseWindow(bytes.Repeat(AppendWindow(nil, []Entry{entry(7, 1, StateSent)}), windowMax))
	require.NoError(t, err)
	require.Len(t, window, windowMax)
	ids, err := ParsePacketIDs(bytes.Repeat([]byte{0, 7}, 65_535))
	require.NoError(t, err)
	require.Len(t, ids, 65_535)
}

func TestParseWindow_refuses_damage(t *testing.T) {
	t.Parallel()
	good := AppendWindow(nil, []Entry{{PacketID: 7, QoS: 2, State: StateSent}})
	change := func(i int, to byte) []byte {
		b := append([]byte{}, good...)
		b[i] = to
		return b
	}
	for name, b := range map[string][]byte{
		"a byte short":     good[:len(good)-1],
		"a byte too many":  append(append([]byte{}, good...), 0),
		"packet id 0":      change(1, 0),
		"QoS 0":            change(14, 0x04),
		"QoS 3":            change(14, 0x07),
		"no state":         change(14, 0x02),
		"an unknown flag":  change(14, 0x46),
		"another":          change(14, 0x86),
		"too many entries": make([]byte, (windowMax+1)*entryBytes),
	} {
		window, err := ParseWindow(b)
		require.ErrorIs(t, err, errEncoding, name)
		require.Nil(t, window, name)
	}
}

func TestPacketIDs_are_the_same_after_the_store(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Uint16Range(1, 65_535), 0, 100).Draw(t, "ids")
		got, err := ParsePacketIDs(AppendPacketIDs(nil, want))
		require.NoError(t, err)
		require.Equal(t, append([]uint16{}, want...), got)
	})
	for _, b := range [][]byte{{1}, {0, 0}, {0, 1, 0, 0}, make([]byte, 2*65_536)} {
		ids, err := ParsePacketIDs(b)
		require.ErrorIs(t, err, errEncoding)
		require.Nil(t, ids)
	}
}

// FuzzParseWindow reads any bytes. What parses is written as the same bytes; what can be restored is a session that
// hands out no identifier twice.
func FuzzParseWindow(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add(AppendWindow(nil, []Entry{entry(1, 1, StateSent), entry(2, 2, StateRel), entry(4, 2, StateDone)}), uint16(1))
	f.Add(AppendWindow(nil, []Entry{entry(65_535, 1, StateSent), entry(1, 2, StateSent)}), uint16(7))
	f.Add(AppendWindow(nil, []Entry{entry(9, 1, StateSent), entry(20_000, 1, StateDone)}), uint16(0))
	f.Add(AppendWindow(nil, []Entry{entry(65_281, 2, StateSent)}), uint16(56)) // quota was one too many over the wrap
	f.Fuzz(func(t *testing.T, b []byte, last uint16) {
		window, err := ParseWindow(b)
		if err != nil {
			return
		}
		if got := AppendWindow(nil, window); string(got) != string(b) {
			t.Fatalf("AppendWindow(ParseWindow(%x)) = %x", b, got)
		}
		s, err := Restore(State{Window: window, NextPacketID: last})
		if err != nil {
			return
		}
		inUse := map[uint16]bool{}
		for _, e := range s.State().Window {
			inUse[e.PacketID] = true
		}
		for range min(s.Quota(), 70_000) {
			if id := s.Send(Entry{QoS: 1}); id == 0 || inUse[id] {
				t.Fatalf("%d is in use", id)
			} else {
				inUse[id] = true
			}
		}
		for id := range inUse {
			s.Puback(id)
			s.Pubrec(id, false)
			s.Pubcomp(id)
		}
		if n := s.Outstanding(); n != 0 || len(s.State().Window) != 0 {
			t.Fatalf("%d outstanding after all acknowledgements", n)
		}
	})
}

// FuzzParsePacketIDs reads any bytes. What parses is written as the same bytes.
func FuzzParsePacketIDs(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := ParsePacketIDs(b)
		if err != nil {
			return
		}
		if got := AppendPacketIDs(nil, ids); string(got) != string(b) {
			t.Fatalf("AppendPacketIDs(ParsePacketIDs(%x)) = %x", b, got)
		}
		if s, err := Restore(State{Inbound: ids}); err == nil && s.InboundCount() != len(ids) {
			t.Fatalf("%d of %d identifiers", s.InboundCount(), len(ids))
		}
	})
}

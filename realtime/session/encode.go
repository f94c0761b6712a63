package session

import (
	"encoding/binary"
	"errors"

	"github.com/embercast/embercast/realtime/message"
)

// entryBytes is the length of an encoded Entry: id 2, seq 8, part 4, flags 1.
const entryBytes = 15

var errEncoding = errors.New("session: stored window or identifiers are damaged")

// AppendWindow encodes a window for the store. Messages and Subscription Identifiers are left out: they are those of
// the log and of the subscriptions at the time of replay.
func AppendWindow(dst []byte, window []Entry) []byte {
	for i := range window {
		e := &window[i]
		dst = binary.BigEndian.AppendUint16(dst, e.PacketID)
		dst = binary.BigEndian.AppendUint64(dst, e.Position.Seq)
		dst = binary.BigEndian.AppendUint32(dst, e.Position.Part)
		flags := e.QoS | byte(e.State)<<2
		if e.Snapshot {
			flags |= 1 << 4
		}
		if e.Retain {
			flags |= 1 << 5
		}
		dst = append(dst, flags)
	}
	return dst
}

// ParseWindow decodes what AppendWindow made.
func ParseWindow(b []byte) ([]Entry, error) {
	if len(b)%entryBytes != 0 || len(b)/entryBytes > windowMax {
		return nil, errEncoding
	}
	window := make([]Entry, 0, len(b)/entryBytes)
	for ; len(b) > 0; b = b[entryBytes:] {
		flags := b[14]
		e := Entry{
			PacketID: binary.BigEndian.Uint16(b),
			Position: message.Position{Seq: binary.BigEndian.Uint64(b[2:]), Part: binary.BigEndian.Uint32(b[10:])},
			QoS:      flags & 3, State: EntryState(flags >> 2 & 3),
			Snapshot: flags&(1<<4) != 0, Retain: flags&(1<<5) != 0,
		}
		if e.PacketID == 0 || e.QoS == 0 || e.QoS == 3 || e.State == 0 || flags>>6 != 0 {
			return nil, errEncoding
		}
		window = append(window, e)
	}
	return window, nil
}

// AppendPacketIDs encodes Packet Identifiers for the store.
func AppendPacketIDs(dst []byte, ids []uint16) []byte {
	for _, id := range ids {
		dst = binary.BigEndian.AppendUint16(dst, id)
	}
	return dst
}

// ParsePacketIDs decodes what AppendPacketIDs made.
func ParsePacketIDs(b []byte) ([]uint16, error) {
	if len(b)%2 != 0 || len(b) > 2*65_535 {
		return nil, errEncoding
	}
	ids := make([]uint16, 0, len(b)/2)
	for ; len(b) > 0; b = b[2:] {
		id := binary.BigEndian.Uint16(b)
		if id == 0 {
			return nil, errEncoding
		}
		ids = append(ids, id)
	}
	return ids, nil
}

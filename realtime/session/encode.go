package session

import (
	"encoding/binary"
	"errors"

	"github.com/embercast/embercast/realtime/message"
)

// entryBytes is the length of an encoded Entry: id 2, seq 8, part 4, flags 1; sharedBytes follow where it is of a Shared
// Subscription.
const (
	entryBytes  = 15
	sharedBytes = 8
)

// The flags, above QoS (2 bits) and state (2 bits).
const (
	flagSnapshot = 1 << 4
	flagRetain   = 1 << 5
	flagShared   = 1 << 6
)

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
			flags |= flagSnapshot
		}
		if e.Retain {
			flags |= flagRetain
		}
		if e.Shared == 0 {
			dst = append(dst, flags)
			continue
		}
		dst = append(dst, flags|flagShared)
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.Shared)) //nolint:gosec // read back alike
	}
	return dst
}

// ParseWindow decodes what AppendWindow made.
func ParseWindow(b []byte) ([]Entry, error) {
	window := make([]Entry, 0, min(len(b)/entryBytes, windowMax))
	for len(b) > 0 {
		if len(b) < entryBytes || len(window) == windowMax {
			return nil, errEncoding
		}
		flags := b[14]
		e := Entry{
			PacketID: binary.BigEndian.Uint16(b),
			Position: message.Position{Seq: binary.BigEndian.Uint64(b[2:]), Part: binary.BigEndian.Uint32(b[10:])},
			QoS:      flags & 3, State: EntryState(flags >> 2 & 3),
			Snapshot: flags&flagSnapshot != 0, Retain: flags&flagRetain != 0,
		}
		if e.PacketID == 0 || e.QoS == 0 || e.QoS == 3 || e.State == 0 || flags>>7 != 0 {
			return nil, errEncoding
		}
		b = b[entryBytes:]
		if flags&flagShared != 0 {
			if len(b) < sharedBytes {
				return nil, errEncoding
			}
			e.Shared = int64(binary.BigEndian.Uint64(b)) //nolint:gosec // written alike
			if b = b[sharedBytes:]; e.Shared == 0 {
				return nil, errEncoding
			}
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

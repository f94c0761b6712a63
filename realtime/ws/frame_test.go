package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// sink gathers what a reader finds.
type sink struct {
	bytes []byte
	pings [][]byte
	code  int
}

func (s *sink) data(b []byte) error { s.bytes = append(s.bytes, b...); return nil }
func (s *sink) ping(b []byte) error { s.pings = append(s.pings, bytes.Clone(b)); return nil }

func (s *sink) closed(code int) error {
	s.code = code
	return errors.New("closed")
}

func masked(first byte, key uint32, payload []byte) []byte {
	b := appendHeader(nil, 0, len(payload))
	b[0], b[1] = first, b[1]|0x80
	b = binary.BigEndian.AppendUint32(b, key)
	k := binary.BigEndian.AppendUint32(nil, key)
	for i, c := range payload {
		b = append(b, c^k[i%4])
	}
	return b
}

// FuzzReader feeds frames in pieces of every size: what comes out is the same, and never more than went in.
func FuzzReader(f *testing.F) {
	long := bytes.Repeat([]byte{7}, 300)
	f.Add(masked(0x82, 0xDEADBEEF, []byte("hello")), byte(1))
	f.Add(append(masked(0x02, 1, long), masked(0x80, 2, long)...), byte(3))
	f.Add(append(masked(0x89, 9, []byte("p")), masked(0x88, 3, []byte{3, 232})...), byte(2))
	f.Fuzz(func(t *testing.T, stream []byte, step byte) {
		whole, pieces := &sink{}, &sink{}
		err := (&reader{to: whole}).feed(bytes.Clone(stream))
		r := &reader{to: pieces}
		var err2 error
		n := int(step%64) + 1
		for rest := bytes.Clone(stream); len(rest) > 0 && err2 == nil; rest = rest[min(n, len(rest)):] {
			err2 = r.feed(rest[:min(n, len(rest))])
		}
		require.Equal(t, err, err2)
		require.Equal(t, whole, pieces)
		require.LessOrEqual(t, len(whole.bytes), len(stream))
		require.LessOrEqual(t, cap(r.control), 256)
	})
}

func TestUnmask(t *testing.T) {
	t.Parallel()
	for n := range 70 {
		payload := bytes.Repeat([]byte("0123456789"), 7)[:n]
		s := &sink{}
		require.NoError(t, (&reader{to: s}).feed(masked(0x82, 0x01020304, payload)))
		require.Equal(t, string(payload), string(s.bytes))
	}
}

func BenchmarkReader(b *testing.B) {
	stream := masked(0x82, 0xDEADBEEF, bytes.Repeat([]byte{1}, 128))
	r := &reader{to: discard{}}
	buf := make([]byte, len(stream))
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		copy(buf, stream)
		if err := r.feed(buf); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) data([]byte) error { return nil }
func (discard) ping([]byte) error { return nil }
func (discard) closed(int) error  { return nil }

package packet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// feedInPieces feeds a stream cut at the given sizes and returns what the packets say.
func feedInPieces(tb testing.TB, d *Decoder, b []byte, size func() int) []string {
	tb.Helper()
	var got []string
	for len(b) > 0 {
		n := min(max(1, size()), len(b))
		piece := slices.Clone(b[:n])
		d.Feed(piece)
		for {
			p, err := d.Next()
			require.NoError(tb, err)
			if p == nil {
				break
			}
			got = append(got, describe(tb, p))
		}
		clear(piece) // the Decoder keeps no view of what it was fed
		b = b[n:]
	}
	return got
}

func TestDecoder_gives_the_same_packets_however_the_bytes_are_cut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStream(t, rt)
		require.Equal(t, s.packets, feedInPieces(t, s.decoder(t), s.bytes, func() int { return len(s.bytes) }), "in one piece")
		require.Equal(t, s.packets, feedInPieces(t, s.decoder(t), s.bytes, func() int { return 1 }), "byte by byte")
		random := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(rt, "seed")))
		d := s.decoder(t)
		require.Equal(t, s.packets, feedInPieces(t, d, s.bytes, func() int { return random.IntN(20) }), "in random pieces")
		require.Zero(t, d.Buffered())
	})
}

// TestDecoder_gives_the_table_packets_byte_by_byte runs the good cases of the tables as pieces too.
func TestDecoder_gives_the_table_packets_byte_by_byte(t *testing.T) {
	t.Parallel()
	for file, cases := range tables(t) {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			for _, c := range cases {
				if c.Packet == nil {
					continue
				}
				got := feedInPieces(t, newDecoder(t, c.Version, c.From), unhex(t, c.Hex), func() int { return 1 })
				require.Len(t, got, 1, c.Name)
				require.JSONEq(t, string(c.Packet), got[0], c.Name)
			}
		})
	}
}

// TestDecoder_refuses_the_same_however_the_bytes_are_cut: a broken packet is refused for the same reason byte by byte.
func TestDecoder_refuses_the_same_however_the_bytes_are_cut(t *testing.T) {
	t.Parallel()
	for file, cases := range tables(t) {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			for _, c := range cases {
				if c.Packet != nil {
					continue
				}
				whole := newDecoder(t, c.Version, c.From)
				whole.Feed(unhex(t, c.Hex))
				_, want := whole.Next()
				d := newDecoder(t, c.Version, c.From)
				var got error
				for _, one := range unhex(t, c.Hex) {
					d.Feed([]byte{one})
					if _, got = d.Next(); got != nil {
						break
					}
				}
				require.Equal(t, want, got, c.Name)
			}
		})
	}
}

func TestDecoder_takes_packets_of_several_feeds_that_were_not_taken_yet(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, V311, "")
	for range 3 {
		d.Feed([]byte{0xC0, 0x00, 0xE0})
		d.Feed([]byte{0x00})
	}
	for range 3 {
		for _, want := range []Type{TypePingreq, TypeDisconnect} {
			p, err := d.Next()
			require.NoError(t, err)
			require.Equal(t, want, p.Type())
		}
	}
	requireNone(t, d)
}

func TestDecoder_refuses_a_packet_that_is_cut_short(t *testing.T) {
	t.Parallel()
	for file, cases := range tables(t) {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			for _, c := range cases {
				if c.Packet != nil && len(c.Hex) < 1000 {
					testCutShort(t, &c)
				}
			}
		})
	}
}

// testCutShort gives a packet's beginnings the right Remaining Length. None of them may be taken for the whole packet.
func testCutShort(t *testing.T, c *tableCase) {
	t.Helper()
	whole := unhex(t, c.Hex)
	header := 2
	for whole[header-1] >= 0x80 {
		header++
	}
	body := whole[header:]
	for n := range body {
		b := appendFixed(nil, whole[0], func(dst []byte) []byte { return append(dst, body[:n]...) })
		d := newDecoder(t, c.Version, c.From)
		d.Feed(b)
		p, err := d.Next()
		if _, refused := errors.AsType[*DecodeError](err); refused {
			continue
		}
		require.NoError(t, err, c.Name)
		got := describe(t, p)
		// What follows a whole shorter form may be missing: a payload, a list, a Reason Code, properties.
		require.NotEqual(t, got, string(c.Packet), "%s, cut to %d bytes", c.Name, n)
		require.Contains(t, "PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH CONNECT",
			typeNames[p.Type()], "%s, cut to %d bytes", c.Name, n)
		if p.Type() == TypeConnect {
			require.Equal(t, V31, d.Version(), "only 3.1 goes on without what the flags announce")
		}
	}
}

func TestDecoder_refuses_a_packet_that_is_too_large_by_its_header_alone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		client    bool
		statement string
	}{
		{"of a client [MQTT5-3.2.2-15]", false, "MQTT5-3.2.2-15"},
		{"of a server [MQTT5-3.1.2-24]", true, "MQTT5-3.1.2-24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			decoder := func() *Decoder {
				d := NewDecoder(20)
				if c.client {
					d.SetVersion(V5)
				} else {
					next(t, d, connectOf(V5))
				}
				d.SetPacketBytesMax(9)
				return d
			}
			p, ok := next(t, decoder(), unhex(t, "30 07 0001 61 00 626364")).(*Publish)
			require.True(t, ok, "9 bytes are allowed")
			require.Equal(t, "bcd", string(p.Payload))
			requireRefused(t, decoder(), unhex(t, "30 08"), PacketTooLarge, c.statement)
			requireRefused(t, decoder(), unhex(t, "30 ff ff ff 7f"), PacketTooLarge, c.statement)
			d := decoder()
			for _, one := range unhex(t, "30 ff ff ff") {
				d.Feed([]byte{one})
				requireNone(t, d)
			}
			requireRefused(t, d, []byte{0x7F}, PacketTooLarge, c.statement)
		})
	}
}

func TestDecoder_refuses_a_CONNECT_that_is_too_large(t *testing.T) {
	t.Parallel()
	requireRefused(t, NewDecoder(16<<10), unhex(t, "10 ff ff 03"), PacketTooLarge, "MQTT5-3.2.2-15")
	t.Run("its version is known where it has come along", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			before, hex string
			want        Version
		}{
			{"", "10 ff ff 03 0004 4d515454 05", V5},
			{"", "10 ff ff 03 0004 4d515454 05 02 0000 00 0001 63", V5},
			{"", "10 ff ff ff 7f 0004 4d515454 04 02", V311},
			{"", "10 ff ff 03 0006 4d5149736470 03 02", V31},
			{"10 ff ff", "03 0004 4d515454 05 02", V5},
			{"", "10 ff ff 03 0004 4d515454", 0},
			{"", "10 ff ff 03 0004 4d515454 06 02", 0},
			{"", "10 ff ff 03 ffff 4d515454 05 02", 0},
			{"", "10 ff ff 03", 0},
		} {
			d := NewDecoder(16 << 10)
			d.Feed(unhex(t, c.before))
			requireNone(t, d)
			requireRefused(t, d, unhex(t, c.hex), PacketTooLarge, "MQTT5-3.2.2-15")
			require.Equal(t, c.want, d.Version(), c.hex)
		}
	})
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestDecoder_allocates_for_what_arrives_not_for_what_is_announced must run alone: it reads the process's counters.
func TestDecoder_allocates_for_what_arrives_not_for_what_is_announced(t *testing.T) {
	const announced = 200 << 20
	header := AppendVarint([]byte{0x30}, announced)
	d := NewDecoder(256 << 20)
	next(t, d, connectOf(V311))
	got := allocated(func() {
		for range 64 {
			d.Feed(header)
			p, err := d.Next()
			if p != nil || err != nil {
				t.Errorf("Next = %v, %v", p, err)
			}
			header = []byte("some of the payload")
		}
	})
	require.Less(t, got, uint64(64<<10))
	require.Less(t, cap(d.partial), 8<<10)
}

// TestDecoded_packets_take_a_bounded_multiple_of_their_bytes: what a packet of many small parts costs in memory.
func TestDecoded_packets_take_a_bounded_multiple_of_their_bytes(t *testing.T) {
	const parts = 10_000
	user := slices.Repeat([]byte{0x26, 0, 0, 0, 0}, parts)
	ids := slices.Repeat([]byte{0x0B, 1}, parts)
	filters := slices.Repeat([]byte{0, 1, '#'}, parts)
	subscriptions := slices.Repeat([]byte{0, 1, '#', 0}, parts)
	properties := func(raw []byte) []byte { return append(AppendVarint(nil, uint32(len(raw))), raw...) }
	for _, c := range []struct {
		name string
		from string
		b    []byte
	}{
		{"empty user properties", "", append([]byte{0, 1, 'a'}, properties(user)...)},
		{"Subscription Identifiers", "server", append([]byte{0, 1, 'a'}, properties(ids)...)},
		{"subscriptions", "", append([]byte{0, 1, 0}, subscriptions...)},
		{"filters", "", append([]byte{0, 1, 0}, filters...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := map[string]byte{"subscriptions": 0x82, "filters": 0xA2}[c.name]
			if first == 0 {
				first = 0x30
			}
			b := appendFixed(nil, first, func(dst []byte) []byte { return append(dst, c.b...) })
			d := newDecoder(t, V5, c.from)
			got := allocated(func() { next(t, d, b) })
			require.Less(t, got, uint64(40*len(b)), "%d bytes for a packet of %d", got, len(b))
		})
	}
}

func TestDecoder_Buffered_counts_what_waits_for_the_rest_of_its_packet(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, V311, "")
	d.Feed(unhex(t, "c0 00 30 05 0001"))
	require.Equal(t, 6, d.Buffered())
	p, err := d.Next()
	require.NoError(t, err)
	require.Equal(t, TypePingreq, p.Type())
	require.Equal(t, 4, d.Buffered())
	requireNone(t, d)
	require.Equal(t, 4, d.Buffered())
	d.Feed(unhex(t, "61 6869 c0"))
	require.Equal(t, 8, d.Buffered())
	p, err = d.Next()
	require.NoError(t, err)
	require.Equal(t, TypePublish, p.Type())
	require.Equal(t, 1, d.Buffered())
	requireNone(t, d)
	require.Equal(t, 1, d.Buffered())
}

func TestDecoder_Release_lets_go_of_the_buffer_only_when_nothing_waits(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, V311, "")
	d.Feed(unhex(t, "30 05 0001"))
	requireNone(t, d)
	d.Release()
	require.Equal(t, 4, d.Buffered(), "half a packet stays")
	p, ok := next(t, d, unhex(t, "61 6869")).(*Publish)
	require.True(t, ok)
	d.Release()
	require.Nil(t, d.partial)
	require.Equal(t, "hi", string(p.Payload), "the packet is valid until the next call of Next")
	requireNone(t, d)
	next(t, d, unhex(t, "c0 00"))
}

func TestDecoder_keeps_nothing_that_comes_after_an_error(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, V311, "")
	requireRefused(t, d, unhex(t, "00 00"), MalformedPacket, "")
	for range 10 {
		d.Feed(make([]byte, 1000))
		_, err := d.Next()
		require.Error(t, err)
	}
	require.Zero(t, d.Buffered())
}

func TestDecoder_Version_is_known_of_a_CONNECT_that_is_malformed_behind_it(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hex  string
		want Version
	}{
		{"10 0e 0004 4d515454 05 03 0000 00 0001 63", V5},
		{"11 0e 0004 4d515454 05 02 0000 00 0001 63", V5},
		{"10 0d 0004 4d515454 04 03 0000 0001 63", V311},
		{"10 07 0004 4d515454 05", V5},
		{"10 06 0004 4d515454", 0},
		{"10 0e 0004 4d515454 06 02 0000 00 0001 63", 0},
		{"c0 00", 0},
	} {
		d := NewDecoder(bytesMax)
		d.Feed(unhex(t, c.hex))
		_, err := d.Next()
		require.Error(t, err, c.hex)
		require.Equal(t, c.want, d.Version(), c.hex)
	}
}

// TestDecoder_header_flags tries every first byte in every version [MQTT5-2.1.3-1].
func TestDecoder_header_flags(t *testing.T) {
	t.Parallel()
	bodies := map[Type]string{
		TypePuback: "0001", TypePubrec: "0001", TypePubrel: "0001", TypePubcomp: "0001", TypeSubscribe: "0001 0001 61 00",
		TypeUnsubscribe: "0001 0001 61", TypePingreq: "", TypeDisconnect: "",
	}
	for typ, body := range bodies {
		for _, v := range []Version{V31, V311, V5} {
			t.Run(fmt.Sprintf("%s of version %d", typeNames[typ], v), func(t *testing.T) {
				t.Parallel()
				rest := unhex(t, body)
				if v == V5 && len(rest) > 2 {
					rest = slices.Insert(rest, 2, 0) // no properties
				}
				for flags := range byte(16) {
					b := append([]byte{byte(typ)<<4 | flags, byte(len(rest))}, rest...)
					want := byte(0)
					if typ == TypePubrel || typ == TypeSubscribe || typ == TypeUnsubscribe {
						want = 2
					}
					if flags == want || v == V31 {
						next(t, newDecoder(t, v, ""), b)
						continue
					}
					requireRefused(t, newDecoder(t, v, ""), b, MalformedPacket, "MQTT5-2.1.3-1")
				}
			})
		}
	}
}

func TestDecodeError_text_names_the_statement_where_there_is_one(t *testing.T) {
	t.Parallel()
	require.Equal(t, "QoS is 3 [MQTT5-3.3.1-4]", malformed("MQTT5-3.3.1-4", "QoS is 3").Error())
	require.Equal(t, "unknown property", malformed("", "unknown property").Error())
}

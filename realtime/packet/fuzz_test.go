package packet

import (
	"errors"
	"slices"
	"testing"
)

// fuzzVersions are what may have been decoded before the fuzzed bytes; 0: nothing.
var fuzzVersions = []Version{0, V31, V311, V5}

// FuzzDecode feeds any bytes to a server's decoder (after a CONNECT of a version, or none) and to a client's, in two
// pieces. Nothing may panic, memory stays below what was fed, and what was decoded says the same after it was encoded
// and decoded again.
func FuzzDecode(f *testing.F) {
	for _, cases := range tables(f) {
		for _, c := range cases {
			if len(c.Hex) < 1000 {
				f.Add(unhex(f, c.Hex), byte(slices.Index(fuzzVersions, c.Version)), c.From == "server", uint16(3))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, version byte, fromServer bool, cut uint16) {
		v := fuzzVersions[int(version)%len(fuzzVersions)]
		from := ""
		if fromServer {
			from = "server"
			v = max(v, V31)
		}
		d := newDecoder(t, v, from)
		at := min(int(cut), len(b))
		for _, piece := range [][]byte{b[:at], b[at:]} {
			d.Feed(piece)
			if !fuzzTake(t, d, from) {
				return
			}
			if d.Buffered() > len(b) || cap(d.partial) > 2*len(b)+64 {
				t.Fatalf("%d bytes fed, %d buffered in %d", len(b), d.Buffered(), cap(d.partial))
			}
		}
	})
}

// fuzzTake takes all packets and checks each; false: an error came.
func fuzzTake(t *testing.T, d *Decoder, from string) bool {
	t.Helper()
	for {
		p, err := d.Next()
		if err != nil {
			var refused *DecodeError
			if !errors.As(err, &refused) || !refused.Reason.Failed() {
				t.Fatalf("%v is no refusal", err)
			}
			return false
		}
		if p == nil {
			return true
		}
		fuzzAgain(t, p, d.Version(), from)
	}
}

// fuzzAgain encodes and decodes p, twice.
func fuzzAgain(t *testing.T, p Packet, v Version, from string) {
	t.Helper()
	says := describe(t, p)
	again := newDecoder(t, v, from)
	if p.Type() == TypeConnect {
		again = newDecoder(t, 0, from)
	}
	first := p.Append(nil, v)
	got := next(t, again, first)
	if described := describe(t, got); described != says {
		t.Fatalf("decoded  %s\nencoded  %x\ndecoded  %s", says, first, described)
	}
	if second := got.Append(nil, v); string(second) != string(first) {
		t.Fatalf("encoded %x\nthen    %x", first, second)
	}
}

// FuzzForwardedProperties checks on any property bytes that parse: what is forwarded parses to the same without the
// properties that are not.
func FuzzForwardedProperties(f *testing.F) {
	for _, cases := range tables(f) {
		for _, c := range cases {
			f.Add(unhex(f, c.Hex))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		want, err := ParseProperties(raw, TypePublish)
		if err != nil {
			return
		}
		got, err := ParseProperties(ForwardedProperties(raw), TypePublish)
		if err != nil {
			t.Fatalf("%x does not parse: %v", ForwardedProperties(raw), err)
		}
		if string(got.append(nil, got.Has)) != string(want.AppendForwarded(nil)) {
			t.Fatalf("forwarded %+v of %+v", got, want)
		}
	})
}

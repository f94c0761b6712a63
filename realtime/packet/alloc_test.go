package packet

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests here count allocations, which other tests beside them would disturb: they do not run in parallel.

// testAllocs checks how often f allocates in one run.
func testAllocs(t *testing.T, want float64, f func()) {
	t.Helper()
	require.InDelta(t, want, testing.AllocsPerRun(200, f), 0)
}

// decodeAll decodes one packet again and again from the same bytes.
func decodeAll(t *testing.T, d *Decoder, b []byte) func() {
	t.Helper()
	return func() {
		d.Feed(b)
		for {
			p, err := d.Next()
			if err != nil {
				t.Error(err)
			}
			if p == nil {
				return
			}
		}
	}
}

func TestAllocs_decoding_a_PUBLISH_without_properties_allocates_nothing(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		for _, qos := range []byte{0, 1, 2} {
			p := &Publish{QoS: qos, PacketID: 7, Topic: []byte("sensors/kitchen/temperature"), Payload: make([]byte, 100)}
			testAllocs(t, 0, decodeAll(t, newDecoder(t, v, ""), p.Append(nil, v)))
		}
	}
}

func TestAllocs_decoding_a_PUBLISH_in_pieces_allocates_nothing_once_there_is_a_buffer(t *testing.T) {
	p := &Publish{Topic: []byte("sensors/kitchen/temperature"), Payload: make([]byte, 1000)}
	b := p.Append(nil, V311)
	d := newDecoder(t, V311, "")
	testAllocs(t, 0, func() {
		for _, piece := range [][]byte{b[:1], b[1:100], b[100:]} {
			d.Feed(piece)
			for {
				if got, err := d.Next(); got == nil || err != nil {
					break
				}
			}
		}
	})
}

func TestAllocs_decoding_acks_allocates_nothing(t *testing.T) {
	for _, kind := range []Type{TypePuback, TypePubrec, TypePubrel, TypePubcomp} {
		for _, v := range []Version{V311, V5} {
			testAllocs(t, 0, decodeAll(t, newDecoder(t, v, ""), (&Ack{Kind: kind, PacketID: 7}).Append(nil, v)))
		}
		b := (&Ack{Kind: kind, PacketID: 7, Reason: ackReasons[kind].reasons[1]}).Append(nil, V5)
		testAllocs(t, 0, decodeAll(t, newDecoder(t, V5, ""), b))
	}
}

func TestAllocs_encoding_into_a_slice_with_room_allocates_nothing(t *testing.T) {
	properties := &Properties{Has: PropReasonString | PropUser, ReasonString: "why", User: []UserProperty{{"k", "v"}}}
	dst := make([]byte, 0, 4096)
	for name, p := range map[string]Packet{
		"ack": &Ack{Kind: TypePuback, PacketID: 7}, "ack with a reason": &Ack{Kind: TypePubrec, PacketID: 7, Reason: QuotaExceeded},
		"ack with properties": &Ack{Kind: TypePubcomp, PacketID: 7, Properties: properties},
		"publish":             &Publish{QoS: 1, PacketID: 7, Topic: []byte("a/b"), Payload: make([]byte, 1000)},
		"suback":              &Suback{PacketID: 7, Reasons: []ReasonCode{GrantedQoS1, NotAuthorized}},
		"unsuback":            &Unsuback{PacketID: 7, Reasons: []ReasonCode{Success}},
		"ping":                &Ping{Kind: TypePingresp},
		"disconnect":          &Disconnect{Reason: SessionTakenOver},
		"connack":             &Connack{SessionPresent: true, Properties: properties},
	} {
		for _, v := range []Version{V311, V5} {
			t.Run(name, func(t *testing.T) {
				testAllocs(t, 0, func() { p.Append(dst, v) })
			})
		}
	}
}

func TestAllocs_ForwardedProperties_copies_only_what_it_must(t *testing.T) {
	all := unhex(t, "01 01 03 0001 74 26 0001 6b 0001 76")
	testAllocs(t, 0, func() { ForwardedProperties(all) })
	for _, some := range [][]byte{
		slices.Concat(all, unhex(t, "02 00000001")), slices.Concat(unhex(t, "02 00000001"), all), slices.Concat(all, unhex(t, "23 0001"), all),
	} {
		testAllocs(t, 1, func() { ForwardedProperties(some) })
	}
}

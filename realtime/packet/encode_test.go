package packet

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestAppend_then_decode_gives_the_same_packet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStream(t, rt)
		d := s.decoder(t)
		start := 0
		for i, end := range s.ends {
			p := next(t, d, s.bytes[start:end])
			require.Equal(t, s.packets[i], describe(t, p))
			require.Equal(t, s.bytes[start:end], p.Append(nil, s.version))
			start = end
		}
	})
}

func TestAck_uses_the_short_form_when_it_says_nothing_more(t *testing.T) {
	t.Parallel()
	for kind, first := range map[Type]string{TypePuback: "40", TypePubrec: "50", TypePubrel: "62", TypePubcomp: "70"} {
		for _, c := range []struct {
			name    string
			version Version
			ack     Ack
			want    string
		}{
			{"reason 0 and no properties", V5, Ack{PacketID: 258}, "02 0102"},
			{"reason 0 and empty properties", V5, Ack{PacketID: 258, Properties: &Properties{}}, "02 0102"},
			{"a reason", V5, Ack{PacketID: 258, Reason: QuotaExceeded}, "03 0102 97"},
			{"a reason and empty properties", V5, Ack{PacketID: 258, Reason: QuotaExceeded, Properties: &Properties{}}, "03 0102 97"},
			{
				"reason 0 and properties", V5,
				Ack{PacketID: 258, Properties: &Properties{Has: PropReasonString, ReasonString: "a"}},
				"08 0102 00 04 1f 0001 61",
			},
			{"a reason, 3.1.1", V311, Ack{PacketID: 258, Reason: QuotaExceeded}, "02 0102"},
			{
				"properties, 3.1", V31,
				Ack{PacketID: 258, Properties: &Properties{Has: PropReasonString, ReasonString: "a"}},
				"02 0102",
			},
		} {
			t.Run(typeNames[kind]+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				c.ack.Kind = kind
				require.Equal(t, unhex(t, first+c.want), c.ack.Append(nil, c.version))
			})
		}
	}
}

// TestAppend_leaves_out_what_the_version_does_not_have holds what 5.0 has against the older versions.
func TestAppend_leaves_out_what_the_version_does_not_have(t *testing.T) {
	t.Parallel()
	reason := &Properties{Has: PropReasonString, ReasonString: "a"}
	user := &Properties{Has: PropUser, User: []UserProperty{{"k", "v"}}}
	for _, c := range []struct {
		name    string
		packet  Packet
		version Version
		want    string
	}{
		{"CONNACK", &Connack{SessionPresent: true, Properties: reason}, V311, "20 02 01 00"},
		{"CONNACK that refuses", &Connack{Reason: BadUserNameOrPassword, Properties: reason}, V311, "20 02 00 04"},
		{"CONNACK for a reason that 3.1.1 does not know", &Connack{Reason: QuotaExceeded}, V311, "20 02 00 03"},
		{"CONNACK of 3.1 has no Session Present", &Connack{SessionPresent: true}, V31, "20 02 00 00"},
		{"PUBLISH", &Publish{Topic: []byte("a"), Payload: []byte("x"), Properties: user}, V311, "30 04 0001 61 78"},
		{
			"SUBSCRIBE",
			&Subscribe{
				PacketID: 1, Properties: user,
				Subscriptions: []Subscription{{Filter: "a", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}},
			},
			V311, "82 06 0001 0001 61 01",
		},
		{
			"SUBACK",
			&Suback{PacketID: 1, Reasons: []ReasonCode{GrantedQoS2, NotAuthorized, QuotaExceeded}, Properties: reason},
			V311, "90 05 0001 02 80 80",
		},
		{"UNSUBSCRIBE", &Unsubscribe{PacketID: 1, Filters: []string{"a"}, Properties: user}, V31, "a2 05 0001 0001 61"},
		{"UNSUBACK", &Unsuback{PacketID: 1, Reasons: []ReasonCode{NoSubscriptionExisted}, Properties: reason}, V311, "b0 02 0001"},
		{"DISCONNECT", &Disconnect{Reason: DisconnectWithWill, Properties: reason}, V311, "e0 00"},
		{
			"CONNECT goes by its own version",
			&Connect{Version: V311, ClientID: "c", Properties: user, Will: &Will{Topic: "w", Properties: user}},
			V5, "10 12 0004 4d515454 04 04 0000 0001 63 0001 77 0000",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, unhex(t, c.want), c.packet.Append(nil, c.version))
		})
	}
}

func TestAppend_writes_lengths_of_every_size(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 100, 122, 123, 124, 125, 126, 127, 128, 129, 16_377, 16_378, 16_379, 16_384, 2_097_147, 2_097_148} {
		p := &Publish{Topic: []byte("t"), Payload: []byte(strings.Repeat("x", n))}
		for _, v := range []Version{V311, V5} {
			d := NewDecoder(8 << 20)
			d.SetVersion(v)
			got, ok := next(t, d, p.Append([]byte{}, v)).(*Publish)
			require.True(t, ok)
			require.Len(t, got.Payload, n)
		}
	}
	for _, n := range []int{0, 117, 118, 119, 120, 121, 122, 123, 16_374, 16_375, 16_376, 16_377, 16_378, 16_379} {
		p := &Publish{Topic: []byte("t"), Properties: &Properties{Has: PropContentType, ContentType: strings.Repeat("x", n)}}
		got, ok := next(t, newDecoder(t, V5, "server"), p.Append([]byte{}, V5)).(*Publish)
		require.True(t, ok)
		require.Equal(t, p.Properties, got.Properties)
	}
}

func TestHasControl_is_Unicodes_category_Cc(t *testing.T) {
	t.Parallel()
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if text := "a" + string(r) + "b"; hasControl([]byte(text)) != unicode.IsControl(r) {
			t.Errorf("hasControl(%q) = %v", text, !unicode.IsControl(r))
		}
	}
}

func TestAppendVarint_uses_the_fewest_bytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n    uint32
		want string
	}{
		{0, "00"},
		{127, "7f"},
		{128, "8001"},
		{16_383, "ff7f"},
		{16_384, "808001"},
		{2_097_151, "ffff7f"},
		{2_097_152, "80808001"},
		{268_435_455, "ffffff7f"},
	} {
		got := AppendVarint(nil, c.n)
		require.Equal(t, unhex(t, c.want), got, "%d [MQTT5-1.5.5-1]", c.n)
		require.Equal(t, len(got), VarintSize(c.n), "%d", c.n)
		r := reader{b: got}
		require.Equal(t, c.n, r.varint())
		require.Nil(t, r.err)
	}
}

// TestAppend_cuts_text_that_MQTT_cannot_say: no packet of ours is malformed, whatever a Reason String came to be.
func TestAppend_cuts_text_that_MQTT_cannot_say(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("a", 65_535), strings.Repeat("a", 65_536), "a" + strings.Repeat("é", 40_000),
		"ab" + strings.Repeat("€", 30_000), "a" + strings.Repeat("𪛔", 20_000),
	} {
		p := &Disconnect{Reason: UnspecifiedError, Properties: &Properties{Has: PropReasonString, ReasonString: text}}
		got, ok := next(t, newDecoder(t, V5, "server"), p.Append(nil, V5)).(*Disconnect)
		require.True(t, ok)
		require.True(t, strings.HasPrefix(text, got.Properties.ReasonString))
		require.Greater(t, len(got.Properties.ReasonString), 65_535-utf8.UTFMax)
	}
	binary := &Properties{Has: PropAuthMethod | PropAuthData, AuthData: []byte(strings.Repeat("\x80", 70_000))}
	got, ok := next(t, newDecoder(t, V5, "server"), (&Auth{Properties: binary}).Append(nil, V5)).(*Auth)
	require.True(t, ok)
	require.Greater(t, len(got.Properties.AuthData), 65_535-utf8.UTFMax)
}

func TestAppend_without_properties(t *testing.T) {
	t.Parallel()
	t.Run("writes a Property Length of 0, where no shorter form has none [MQTT5-2.2.2-1]", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			packet Packet
			want   string
		}{
			{&Connect{Version: V5, ClientID: "c", Will: &Will{Topic: "w"}}, "10 14 0004 4d515454 05 04 0000 00 0001 63 00 0001 77 0000"},
			{&Connack{}, "20 03 00 00 00"},
			{&Publish{Topic: []byte("a"), Payload: []byte("x")}, "30 05 0001 61 00 78"},
			{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a"}}}, "82 07 0001 00 0001 61 00"},
			{&Suback{PacketID: 1, Reasons: []ReasonCode{0}}, "90 04 0001 00 00"},
			{&Unsubscribe{PacketID: 1, Filters: []string{"a"}}, "a2 06 0001 00 0001 61"},
			{&Unsuback{PacketID: 1, Reasons: []ReasonCode{0}}, "b0 04 0001 00 00"},
		} {
			require.Equal(t, unhex(t, c.want), c.packet.Append(nil, V5), "%T", c.packet)
		}
	})
}

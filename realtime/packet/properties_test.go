package packet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// property is a row of the standard's table of properties.
type property struct {
	ID      byte       `json:"id"`
	Name    string     `json:"name"`    // the field of Properties, as describe writes it
	Value   string     `json:"value"`   // an example, in hex
	Means   any        `json:"means"`   // what the example says
	Packets []string   `json:"packets"` // who may have it
	Repeats []string   `json:"repeats"` // who may have it several times
	Bad     []badValue `json:"bad"`     // values of the right type that it may not have
}

type badValue struct {
	Value     string `json:"value"`
	Reason    byte   `json:"reason"`
	Statement string `json:"statement"`
}

func standardProperties(t *testing.T) []property {
	t.Helper()
	var all []property
	require.NoError(t, json.Unmarshal(readFile(t, "testdata/properties.json"), &all))
	require.Len(t, all, len(propertyIDs()))
	return all
}

// carrier is a packet that has properties, and who sends it.
type carrier struct {
	typ          Type
	from         string
	first        byte
	before       []byte // of the properties
	after        []byte
	mustHaveAuth bool
}

// carriers returns every place where properties stand, from either side that may send it.
func carriers() []carrier {
	connect := append(appendString(nil, "MQTT"), 5, 2, 0, 0)
	will := append(append(appendString(nil, "MQTT"), 5, 6, 0, 0, 0), 0, 1, 'c')
	id := []byte{1, 2}
	topic := []byte{0, 1, 'a'}
	ack := append(slices.Clone(id), 0)
	return []carrier{
		{typ: TypeConnect, first: 0x10, before: connect, after: []byte{0, 1, 'c'}},
		{typ: typeWill, first: 0x10, before: will, after: []byte{0, 1, 'w', 0, 1, 'x'}},
		{typ: TypeConnack, from: "server", first: 0x20, before: []byte{0, 0}},
		{typ: TypePublish, first: 0x30, before: topic, after: []byte("hi")},
		{typ: TypePublish, from: "server", first: 0x30, before: topic, after: []byte("hi")},
		{typ: TypePuback, first: 0x40, before: ack},
		{typ: TypePubrec, first: 0x50, before: ack},
		{typ: TypePubrel, first: 0x62, before: ack},
		{typ: TypePubcomp, first: 0x70, before: ack},
		{typ: TypeSubscribe, first: 0x82, before: id, after: append(slices.Clone(topic), 0)},
		{typ: TypeSuback, from: "server", first: 0x90, before: id, after: []byte{0}},
		{typ: TypeUnsubscribe, first: 0xA2, before: id, after: topic},
		{typ: TypeUnsuback, from: "server", first: 0xB0, before: id, after: []byte{0}},
		{typ: TypeDisconnect, first: 0xE0, before: []byte{4}},
		{typ: TypeDisconnect, from: "server", first: 0xE0, before: []byte{0x9C}},
		{typ: TypeAuth, first: 0xF0, before: []byte{0x18}, mustHaveAuth: true},
		{typ: TypeAuth, from: "server", first: 0xF0, before: []byte{0x18}, mustHaveAuth: true},
	}
}

func (c *carrier) String() string {
	if c.from == "" {
		return typeNames[c.typ]
	}
	return typeNames[c.typ] + " from a server"
}

// packet puts properties into the carrier.
func (c *carrier) packet(properties []byte) []byte {
	return appendFixed(nil, c.first, func(dst []byte) []byte {
		dst = append(dst, c.before...)
		dst = append(AppendVarint(dst, uint32(len(properties))), properties...)
		return append(dst, c.after...)
	})
}

func (c *carrier) decoder(t *testing.T) *Decoder {
	t.Helper()
	if c.typ == TypeConnect || c.typ == typeWill {
		return newDecoder(t, 0, c.from)
	}
	return newDecoder(t, V5, c.from)
}

// encode returns the property with a value, and before it the Authentication Method where the carrier or the property
// cannot be without.
func (p *property) encode(t *testing.T, c *carrier, value string) []byte {
	t.Helper()
	one := append([]byte{p.ID}, unhex(t, value)...)
	if p.ID != 0x15 && (c.mustHaveAuth || p.ID == 0x16 && slices.Contains(p.Packets, typeNames[c.typ])) {
		return append(unhex(t, "15 0001 6d"), one...)
	}
	return one
}

// exceptions are the properties that their packet may have from one side only.
func exception(p *property, c *carrier) (reason ReasonCode, statement string, is bool) {
	switch {
	case c.typ == TypeDisconnect && c.from == "" && p.ID == 0x1C:
		return ProtocolError, "", true
	case c.typ == TypeDisconnect && c.from == "server" && p.ID == 0x11:
		return ProtocolError, "MQTT5-3.14.2-2", true
	}
	return 0, "", false
}

func forEachProperty(t *testing.T, test func(t *testing.T, p *property, c *carrier)) {
	t.Helper()
	for _, p := range standardProperties(t) {
		for _, c := range carriers() {
			t.Run(fmt.Sprintf("%s in %s", p.Name, c.String()), func(t *testing.T) {
				t.Parallel()
				test(t, &p, &c)
			})
		}
	}
}

func TestProperty_belongs_to_the_packets_of_table_2_4(t *testing.T) {
	t.Parallel()
	forEachProperty(t, func(t *testing.T, p *property, c *carrier) {
		t.Helper()
		b := c.packet(p.encode(t, c, p.Value))
		if reason, statement, is := exception(p, c); is {
			requireRefused(t, c.decoder(t), b, reason, statement)
			return
		}
		if !slices.Contains(p.Packets, typeNames[c.typ]) {
			requireRefused(t, c.decoder(t), b, MalformedPacket, "")
			return
		}
		d := c.decoder(t)
		got := next(t, d, b)
		meaning, err := json.Marshal(p.Means)
		require.NoError(t, err)
		require.Contains(t, describe(t, got), fmt.Sprintf("%q:%s", p.Name, meaning))
		require.Contains(t, string(got.Append(nil, V5)), string(append([]byte{p.ID}, unhex(t, p.Value)...)))
	})
}

func TestProperty_twice_is_a_Protocol_Error_but_for_those_that_repeat(t *testing.T) {
	t.Parallel()
	forEachProperty(t, func(t *testing.T, p *property, c *carrier) {
		t.Helper()
		if _, _, is := exception(p, c); is || !slices.Contains(p.Packets, typeNames[c.typ]) {
			return
		}
		one := append([]byte{p.ID}, unhex(t, p.Value)...)
		b := c.packet(append(p.encode(t, c, p.Value), one...))
		if c.typ == TypePublish && c.from == "" && p.ID == 0x0B {
			requireRefused(t, c.decoder(t), b, ProtocolError, "MQTT5-3.3.4-6") // only a server may send several
			return
		}
		if slices.Contains(p.Repeats, typeNames[c.typ]) {
			require.Equal(t, b, next(t, c.decoder(t), b).Append(nil, V5))
			return
		}
		requireRefused(t, c.decoder(t), b, ProtocolError, "")
	})
}

func TestProperty_that_is_cut_off_is_malformed(t *testing.T) {
	t.Parallel()
	forEachProperty(t, func(t *testing.T, p *property, c *carrier) {
		t.Helper()
		if !slices.Contains(p.Packets, typeNames[c.typ]) {
			return
		}
		whole := p.encode(t, c, p.Value)
		for n := len(whole) - len(unhex(t, p.Value)); n < len(whole); n++ {
			d := c.decoder(t)
			d.Feed(c.packet(whole[:n]))
			_, err := d.Next()
			var refused *DecodeError
			require.ErrorAs(t, err, &refused, "%x", whole[:n])
			require.Equal(t, MalformedPacket, refused.Reason, "%x", whole[:n])
		}
	})
}

func TestProperty_of_a_forbidden_value(t *testing.T) {
	t.Parallel()
	forEachProperty(t, func(t *testing.T, p *property, c *carrier) {
		t.Helper()
		if _, _, is := exception(p, c); is || !slices.Contains(p.Packets, typeNames[c.typ]) {
			return
		}
		for _, bad := range p.Bad {
			requireRefused(t, c.decoder(t), c.packet(p.encode(t, c, bad.Value)), ReasonCode(bad.Reason), bad.Statement)
		}
	})
}

func TestProperty_that_the_standard_does_not_know_is_malformed(t *testing.T) {
	t.Parallel()
	known := propertyIDs()
	for _, c := range carriers() {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			for id := range uint32(0x200) {
				if id < 0x100 && slices.Contains(known, byte(id)) {
					continue
				}
				requireRefused(t, c.decoder(t), c.packet(append(AppendVarint(nil, id), 1, 1, 1, 1)), MalformedPacket, "")
			}
			requireRefused(t, c.decoder(t), c.packet(AppendVarint(nil, 0xFFF_FFFF)), MalformedPacket, "")
		})
	}
}

// encodedProperty is one property with its bytes.
type encodedProperty struct {
	which PropertySet
	bytes []byte
}

// drawPublishProperties draws properties that a PUBLISH may have, in any order; user properties and Subscription
// Identifiers several times.
func drawPublishProperties(t *rapid.T) []encodedProperty {
	var all []encodedProperty
	for id, which := range propertyOf {
		if which == 0 || allowed[TypePublish]&which == 0 {
			continue
		}
		times := rapid.IntRange(0, 1).Draw(t, "times")
		if which == PropUser || which == PropSubscriptionID {
			times = rapid.IntRange(0, 3).Draw(t, "times")
		}
		for range times {
			p := Properties{Has: which}
			drawProperty(t, &p, which)
			all = append(all, encodedProperty{which, p.append(nil, which)})
			require.Equal(t, byte(id), all[len(all)-1].bytes[0])
		}
	}
	return rapid.Permutation(all).Draw(t, "order")
}

func TestForwardedProperties_keeps_what_reaches_the_subscribers_and_its_order(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var raw, want []byte
		whole := true
		for _, one := range drawPublishProperties(t) {
			raw = append(raw, one.bytes...)
			switch one.which {
			case PropPayloadFormat, PropContentType, PropResponseTopic, PropCorrelationData, PropUser:
				want = append(want, one.bytes...)
			default:
				whole = false
			}
		}
		before := slices.Clone(raw)
		got := ForwardedProperties(raw)
		require.Equal(t, before, raw, "the input is left as it was")
		require.True(t, bytes.Equal(want, got), "ForwardedProperties(%x) = %x, want %x", raw, got, want)
		if whole && len(raw) > 0 {
			require.Same(t, &raw[0], &got[0], "nothing to leave out, nothing to copy")
		}
		requireSameForwarded(t, raw, got)
	})
}

// requireSameForwarded compares the parsed properties: those that are forwarded are equal, the others are gone.
func requireSameForwarded(t *rapid.T, raw, got []byte) {
	want, err := ParseProperties(raw, TypePublish)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.AppendForwarded(nil), mustParse(t, got).AppendForwarded(nil)))
	want.Has &= forwarded
	want.MessageExpiry, want.SubscriptionIDs, want.TopicAlias = 0, nil, 0
	require.Equal(t, want, mustParse(t, got))
}

func mustParse(t *rapid.T, raw []byte) *Properties {
	p, err := ParseProperties(raw, TypePublish)
	require.NoError(t, err)
	return p
}

func TestAppendForwarded_of_a_will_leaves_out_delay_and_expiry(t *testing.T) {
	t.Parallel()
	p := &Properties{
		Has:       PropWillDelay | PropMessageExpiry | PropContentType | PropUser,
		WillDelay: 5, MessageExpiry: 10, ContentType: "t", User: []UserProperty{{"k", "v"}},
	}
	require.Equal(t, unhex(t, "03 0001 74 26 0001 6b 0001 76"), p.AppendForwarded(nil))
	require.Empty(t, (*Properties)(nil).AppendForwarded(nil))
}

func TestParseProperties_returns_an_error_and_no_properties(t *testing.T) {
	t.Parallel()
	p, err := ParseProperties(unhex(t, "01 02"), TypePublish)
	var refused *DecodeError
	require.ErrorAs(t, err, &refused)
	require.Nil(t, p)
	p, err = ParseProperties(nil, TypePublish)
	require.NoError(t, err)
	require.Equal(t, &Properties{}, p)
}

// TestDecoded_properties_own_their_bytes: Properties outlive the Decoder's input, views would not.
func TestDecoded_properties_own_their_bytes(t *testing.T) {
	t.Parallel()
	b := unhex(t, "30 0f 0001 61 0b 09 0002 0102 26 0001 6b 0000")
	p, ok := next(t, newDecoder(t, V5, ""), b).(*Publish)
	require.True(t, ok)
	before := *p.Properties
	before.CorrelationData = slices.Clone(before.CorrelationData)
	clear(b)
	require.True(t, reflect.DeepEqual(&before, p.Properties))
}

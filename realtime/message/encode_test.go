package message

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/embercast/embercast/realtime/packet"
)

// decode takes b for what a server of v sends.
func decode(t require.TestingT, v packet.Version, b []byte) *packet.Publish {
	d := packet.NewDecoder(1 << 20)
	d.SetVersion(v)
	d.Feed(b)
	p, err := d.Next()
	require.NoError(t, err, "%x", b)
	publish, ok := p.(*packet.Publish)
	require.True(t, ok, "%x is %T", b, p)
	require.Zero(t, d.Buffered(), "%x is more than a packet", b)
	return publish
}

// drawMessage draws a message as it was received an unknown time ago.
func drawMessage(t *rapid.T) *Message {
	m := &Message{
		Topic:   rapid.StringMatching(`[a-z/é]{1,200}`).Draw(t, "topic"),
		Payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
		Arrived: noon, QoS: rapid.ByteRange(0, 2).Draw(t, "qos"), Retain: rapid.Bool().Draw(t, "retain"),
	}
	p := &packet.Properties{}
	if rapid.Bool().Draw(t, "content type") {
		p.Has |= packet.PropContentType
		p.ContentType = strings.Repeat("x", rapid.IntRange(0, 200).Draw(t, "length"))
	}
	if rapid.Bool().Draw(t, "user properties") {
		p.Has |= packet.PropUser
		p.User = []packet.UserProperty{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}}
	}
	m.Properties = p.AppendForwarded(nil)
	if rapid.Bool().Draw(t, "expires") {
		m.Expires = noon.Add(time.Duration(rapid.Uint32().Draw(t, "interval")) * time.Second)
	}
	return m
}

// drawSend draws any Send, also what its version does not have.
func drawSend(t *rapid.T) Send {
	s := Send{
		Version:         rapid.SampledFrom([]packet.Version{packet.V31, packet.V311, packet.V5}).Draw(t, "version"),
		QoS:             rapid.ByteRange(0, 2).Draw(t, "send qos"),
		Retain:          rapid.Bool().Draw(t, "send retain"),
		TopicKnown:      rapid.Bool().Draw(t, "topic known"),
		SubscriptionIDs: rapid.SliceOfN(rapid.Uint32Range(1, 0xFFF_FFFF), 0, 3).Draw(t, "subscription ids"),
	}
	if rapid.Bool().Draw(t, "alias") {
		s.TopicAlias = rapid.Uint16Range(1, math.MaxUint16).Draw(t, "topic alias")
	}
	if s.QoS > 0 {
		s.PacketID = rapid.Uint16Range(1, math.MaxUint16).Draw(t, "packet id")
		s.Dup = rapid.Bool().Draw(t, "dup")
	}
	return s
}

// expected is the PUBLISH that m sent as s must be, waited seconds after its arrival.
func expected(t require.TestingT, m *Message, s Send, waited uint32) *packet.Publish {
	want := &packet.Publish{
		Dup: s.Dup, QoS: s.QoS, Retain: s.Retain, Topic: []byte(m.Topic), PacketID: s.PacketID, Payload: m.Payload,
	}
	if s.Version != packet.V5 {
		return want
	}
	p, err := packet.ParseProperties(m.Properties, packet.TypePublish)
	require.NoError(t, err)
	if s.TopicAlias != 0 {
		p.Has |= packet.PropTopicAlias
		if p.TopicAlias = s.TopicAlias; s.TopicKnown {
			want.Topic = nil
		}
	}
	if len(s.SubscriptionIDs) > 0 {
		p.Has |= packet.PropSubscriptionID
		p.SubscriptionIDs = s.SubscriptionIDs
	}
	if !m.Expires.IsZero() {
		p.Has |= packet.PropMessageExpiry
		if interval := uint32(m.Expires.Sub(m.Arrived) / time.Second); interval > waited {
			p.MessageExpiry = interval - waited
		}
	}
	if p.Has != 0 {
		want.Properties = p
	}
	return want
}

func requireEqualPublish(t require.TestingT, want, got *packet.Publish) {
	require.Equal(t, string(want.Topic), string(got.Topic))
	require.Equal(t, want.Payload, append([]byte{}, got.Payload...))
	require.Equal(t, want.Properties, got.Properties)
	require.Equal(t, []any{want.Dup, want.QoS, want.Retain, want.PacketID}, []any{got.Dup, got.QoS, got.Retain, got.PacketID})
}

func TestAppendPublish_makes_the_packet_that_was_asked_for(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage(t)
		waited := rapid.Uint32Range(0, 100).Draw(t, "waited")
		now := noon.Add(time.Duration(waited) * time.Second)
		for range rapid.IntRange(1, 5).Draw(t, "sends") {
			s := drawSend(t)
			b := m.AppendPublish([]byte("before"), s, now)
			require.Equal(t, "before", string(b[:6]))
			requireEqualPublish(t, expected(t, m, s, waited), decode(t, s.Version, b[6:]))
			require.Equal(t, len(b)-6, m.WireSize(s), "WireSize of %+v", s)
		}
	})
}

// TestAppendPublish_is_safe_for_concurrent_use also shows that no packet leaves a trace in what is shared. It says most
// under the race detector.
func TestAppendPublish_is_safe_for_concurrent_use(t *testing.T) {
	t.Parallel()
	for _, expires := range []time.Time{{}, noon.Add(time.Minute)} {
		newMessage := func() *Message {
			return &Message{Topic: "a/b", Payload: []byte("hi"), Properties: []byte{1, 1}, Arrived: noon, Expires: expires}
		}
		shared := newMessage()
		var all sync.WaitGroup
		for seed := range uint64(8) {
			all.Go(func() {
				random := rand.New(rand.NewPCG(seed, 0))
				for range 300 {
					s := Send{Version: []packet.Version{packet.V31, packet.V311, packet.V5}[random.IntN(3)], Retain: random.IntN(2) == 1}
					if s.QoS = byte(random.IntN(3)); s.QoS > 0 {
						s.PacketID, s.Dup = uint16(random.IntN(1000)+1), random.IntN(2) == 1
					}
					if random.IntN(3) == 0 {
						s.TopicAlias, s.SubscriptionIDs = uint16(random.IntN(3)), []uint32{7}
					}
					got, want := shared.AppendPublish(nil, s, noon), newMessage().AppendPublish(nil, s, noon)
					if !slices.Equal(want, got) {
						t.Errorf("AppendPublish(%+v) = %x, want %x", s, got, want)
					}
				}
			})
		}
		all.Wait()
	}
}

func TestAppendPublish_with_room_allocates_nothing(t *testing.T) { // counts allocations: not in parallel
	m := &Message{Topic: "a/b", Payload: make([]byte, 1000), Properties: []byte{1, 1}}
	expiring := &Message{Topic: "a/b", Payload: make([]byte, 1000), Arrived: noon, Expires: noon.Add(time.Minute)}
	dst := make([]byte, 0, 2000)
	for _, c := range []struct {
		name string
		m    *Message
		send Send
	}{
		{"3.1.1 at QoS 0", m, Send{Version: packet.V311}},
		{"3.1.1 at QoS 1", m, Send{Version: packet.V311, QoS: 1, PacketID: 1}},
		{"5.0 at QoS 0", m, Send{Version: packet.V5}},
		{"5.0 at QoS 2, retained, again", m, Send{Version: packet.V5, QoS: 2, PacketID: 1, Retain: true, Dup: true}},
		{"an alias and identifiers", m, Send{Version: packet.V5, TopicAlias: 1, SubscriptionIDs: []uint32{1, 2}}},
		{"an expiry", expiring, Send{Version: packet.V5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.m.AppendPublish(dst, c.send, noon) // the first of its variant is encoded
			require.Zero(t, testing.AllocsPerRun(100, func() { c.m.AppendPublish(dst, c.send, noon) }))
		})
	}
}

func TestAppendPublish_Message_Expiry_Interval(t *testing.T) {
	t.Parallel()
	const longest = time.Duration(math.MaxUint32) * time.Second
	for _, c := range []struct {
		name     string
		interval time.Duration
		waited   time.Duration
		want     uint32
	}{
		{"is what was received when it goes on at once [MQTT5-3.3.2-6]", 10 * time.Second, 0, 10},
		{"is less by the time that the message has waited [MQTT5-3.3.2-6]", 10 * time.Second, 4 * time.Second, 6},
		{"is rounded up", 10 * time.Second, 4*time.Second + 1, 6},
		{"is at least 1 while the message is alive", 10 * time.Second, 10*time.Second - 1, 1},
		{"is 0 when it has passed", 10 * time.Second, 10 * time.Second, 0},
		{"is 0 long after it has passed", 10 * time.Second, time.Hour, 0},
		{"may be the longest there is", longest, 0, math.MaxUint32},
		{"is never longer than what was received, when the clock was set back", 10 * time.Second, -time.Hour, 10},
		{"does not overflow when the clock was set back", longest, -1, math.MaxUint32},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := &Message{Topic: "a", Arrived: noon, Expires: noon.Add(c.interval)}
			p := decode(t, packet.V5, m.AppendPublish(nil, Send{Version: packet.V5}, noon.Add(c.waited)))
			require.Equal(t, c.want, p.Properties.MessageExpiry)
			old := decode(t, packet.V311, m.AppendPublish(nil, Send{Version: packet.V311}, noon.Add(c.waited)))
			require.Equal(t, "a", string(old.Topic), "3.1.1 has none")
		})
	}
	t.Run("does not overflow without a time of arrival", func(t *testing.T) {
		t.Parallel()
		m := &Message{Topic: "a", Expires: noon.Add(2 * longest)}
		p := decode(t, packet.V5, m.AppendPublish(nil, Send{Version: packet.V5}, noon))
		require.Equal(t, uint32(math.MaxUint32), p.Properties.MessageExpiry)
	})
}

func BenchmarkAppendPublish(b *testing.B) {
	m := &Message{Topic: "sensors/kitchen/temperature", Payload: make([]byte, 100), Properties: []byte{1, 1}, Arrived: noon}
	expiring := &Message{Topic: m.Topic, Payload: m.Payload, Arrived: noon, Expires: noon.Add(time.Minute)}
	for _, c := range []struct {
		name string
		m    *Message
		send Send
	}{
		{"shared/3.1.1/qos0", m, Send{Version: packet.V311}},
		{"shared/5.0/qos1", m, Send{Version: packet.V5, QoS: 1, PacketID: 1}},
		{"own/5.0/alias known", m, Send{Version: packet.V5, QoS: 1, PacketID: 1, TopicAlias: 1, TopicKnown: true}},
		{"own/5.0/expiry and identifier", expiring, Send{Version: packet.V5, SubscriptionIDs: []uint32{7}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			dst := make([]byte, 0, 4096)
			b.ReportAllocs()
			b.SetBytes(int64(c.m.WireSize(c.send)))
			for b.Loop() {
				dst = c.m.AppendPublish(dst[:0], c.send, noon)
			}
		})
	}
	b.Run("first of its variant", func(b *testing.B) {
		dst := make([]byte, 0, 4096)
		b.ReportAllocs()
		for b.Loop() {
			fresh := Message{Topic: m.Topic, Payload: m.Payload, Properties: m.Properties}
			dst = fresh.AppendPublish(dst[:0], Send{Version: packet.V5}, noon)
		}
	})
}

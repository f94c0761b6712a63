package packet

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawText draws text that MQTT can say: any Unicode but U+0000.
func drawText(t *rapid.T, name string) string {
	return strings.ReplaceAll(rapid.StringN(0, 12, 40).Draw(t, name), "\x00", "")
}

// drawName draws text without control characters.
func drawName(t *rapid.T, name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, drawText(t, name))
}

// drawTopic draws a Topic Name.
func drawTopic(t *rapid.T) string {
	return rapid.StringMatching(`[a-z$/ é]{1,12}`).Draw(t, "topic")
}

func drawBytes(t *rapid.T, name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name)
}

func drawID(t *rapid.T) uint16 { return rapid.Uint16Range(1, 0xFFFF).Draw(t, "packet id") }

// drawProperty sets one property to a value that it may have.
func drawProperty(t *rapid.T, p *Properties, which PropertySet) {
	bit := func() byte { return rapid.ByteRange(0, 1).Draw(t, "bit") }
	switch which {
	case PropPayloadFormat:
		p.PayloadFormat = bit()
	case PropMessageExpiry:
		p.MessageExpiry = rapid.Uint32().Draw(t, "expiry")
	case PropContentType:
		p.ContentType = drawText(t, "content type")
	case PropResponseTopic:
		p.ResponseTopic = drawTopic(t)
	case PropCorrelationData:
		p.CorrelationData = drawBytes(t, "correlation data")
	case PropSubscriptionID:
		p.SubscriptionIDs = append(p.SubscriptionIDs, rapid.Uint32Range(1, 0xFFF_FFFF).Draw(t, "subscription id"))
	case PropTopicAlias:
		p.TopicAlias = drawID(t)
	case PropWillDelay:
		p.WillDelay = rapid.Uint32().Draw(t, "delay")
	case PropUser:
		for range rapid.IntRange(1, 3).Draw(t, "user properties") {
			p.User = append(p.User, UserProperty{drawText(t, "key"), drawText(t, "value")})
		}
	case PropReasonString:
		p.ReasonString = drawText(t, "reason string")
	default:
		drawConnectionProperty(t, p, which, bit)
	}
}

func drawConnectionProperty(t *rapid.T, p *Properties, which PropertySet, bit func() byte) {
	switch which {
	case PropSessionExpiry:
		p.SessionExpiry = rapid.Uint32().Draw(t, "session expiry")
	case PropAssignedClientID:
		p.AssignedClientID = drawText(t, "assigned client id")
	case PropServerKeepAlive:
		p.ServerKeepAlive = rapid.Uint16().Draw(t, "keep alive")
	case PropAuthMethod:
		p.AuthMethod = drawText(t, "method")
	case PropAuthData:
		p.AuthData = drawBytes(t, "auth data")
	case PropRequestProblemInfo:
		p.RequestProblemInfo = bit()
	case PropRequestResponseInfo:
		p.RequestResponseInfo = bit()
	case PropResponseInfo:
		p.ResponseInfo = drawText(t, "response info")
	case PropServerReference:
		p.ServerReference = drawText(t, "server reference")
	case PropReceiveMaximum:
		p.ReceiveMaximum = drawID(t)
	case PropTopicAliasMaximum:
		p.TopicAliasMaximum = rapid.Uint16().Draw(t, "alias maximum")
	case PropMaximumQoS:
		p.MaximumQoS = bit()
	case PropRetainAvailable:
		p.RetainAvailable = bit()
	case PropMaximumPacketSize:
		p.MaximumPacketSize = rapid.Uint32Range(1, 0xFFFF_FFFF).Draw(t, "packet size")
	case PropWildcardAvailable:
		p.WildcardAvailable = bit()
	case PropSubscriptionIDAvailable:
		p.SubscriptionIDAvailable = bit()
	case PropSharedAvailable:
		p.SharedAvailable = bit()
	default:
		panic("no such property")
	}
}

// drawProperties draws properties of a packet type but those of without, or nil.
func drawProperties(t *rapid.T, typ Type, without PropertySet) *Properties {
	p := &Properties{}
	for which := PropertySet(1); which <= PropSharedAvailable; which <<= 1 {
		if allowed[typ]&^without&which != 0 && rapid.IntRange(0, 3).Draw(t, "has") == 0 {
			p.Has |= which
			drawProperty(t, p, which)
		}
	}
	if p.Has.Contains(PropAuthData) && !p.Has.Contains(PropAuthMethod) {
		p.Has &^= PropAuthData
		p.AuthData = nil
	}
	if p.Has == 0 {
		return nil
	}
	return p
}

func drawReason(t *rapid.T, reasons ...ReasonCode) ReasonCode {
	return rapid.SampledFrom(reasons).Draw(t, "reason")
}

// drawClientPacket draws a packet, not CONNECT, that a client of v may send.
func drawClientPacket(t *rapid.T, v Version) Packet {
	kinds := []Type{
		TypePublish, TypePuback, TypePubrec, TypePubrel, TypePubcomp, TypeSubscribe, TypeUnsubscribe, TypePingreq,
		TypeDisconnect, TypeAuth,
	}
	if v != V5 {
		kinds = kinds[:len(kinds)-1]
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case TypeSubscribe:
		return drawSubscribe(t, v)
	case TypeUnsubscribe:
		u := &Unsubscribe{PacketID: drawID(t), Filters: rapid.SliceOfN(rapid.StringMatching(`[a-z+#/]{1,8}`), 1, 4).Draw(t, "filters")}
		if v == V5 {
			u.Properties = drawProperties(t, TypeUnsubscribe, 0)
		}
		return u
	case TypePingreq:
		return &Ping{Kind: kind}
	default:
		return drawEitherPacket(t, v, kind, PropSubscriptionID|PropServerReference)
	}
}

// drawServerPacket draws a packet that a server of v may send.
func drawServerPacket(t *rapid.T, v Version) Packet {
	kinds := []Type{
		TypeConnack, TypePublish, TypePuback, TypePubrec, TypePubrel, TypePubcomp, TypeSuback, TypeUnsuback, TypePingresp,
		TypeDisconnect, TypeAuth,
	}
	if v != V5 {
		kinds = kinds[:len(kinds)-2]
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case TypeConnack:
		c := &Connack{SessionPresent: v != V31 && rapid.Bool().Draw(t, "present"), Reason: drawReason(t, returnCodes[:]...)}
		if v == V5 {
			c.Properties = drawProperties(t, kind, 0)
		}
		return c
	case TypeSuback:
		s := &Suback{PacketID: drawID(t), Reasons: []ReasonCode{drawReason(t, GrantedQoS1, UnspecifiedError)}}
		if v == V5 {
			s.Properties = drawProperties(t, kind, 0)
		}
		return s
	case TypeUnsuback:
		u := &Unsuback{PacketID: drawID(t)}
		if v == V5 {
			u.Reasons = []ReasonCode{drawReason(t, Success, NoSubscriptionExisted)}
			u.Properties = drawProperties(t, kind, 0)
		}
		return u
	case TypePingresp:
		return &Ping{Kind: kind}
	default:
		return drawEitherPacket(t, v, kind, PropSessionExpiry)
	}
}

// drawEitherPacket draws a packet of a kind that both sides may send, but with no property of without where the kind
// may have that from one side only.
func drawEitherPacket(t *rapid.T, v Version, kind Type, without PropertySet) Packet {
	switch kind {
	case TypePublish:
		return drawPublish(t, v, without)
	case TypeDisconnect:
		d := &Disconnect{}
		if v == V5 {
			reasons := []ReasonCode{Success, UnspecifiedError, PacketTooLarge}
			if without.Contains(PropServerReference) { // a client's
				reasons = append(reasons, DisconnectWithWill)
			}
			d.Reason = drawReason(t, reasons...)
			d.Properties = drawProperties(t, kind, without)
		}
		return d
	case TypeAuth:
		a := &Auth{Reason: drawReason(t, Success, ContinueAuthentication, ReAuthenticate)}
		if a.Properties = drawProperties(t, kind, 0); a.Properties == nil {
			a.Properties = &Properties{}
		}
		a.Properties.Has |= PropAuthMethod
		a.Properties.AuthMethod = drawText(t, "method")
		return a
	default:
		a := &Ack{Kind: kind, PacketID: drawID(t)}
		if v == V5 {
			a.Reason = drawReason(t, ackReasons[kind].reasons...)
			a.Properties = drawProperties(t, kind, 0)
		}
		return a
	}
}

func drawPublish(t *rapid.T, v Version, without PropertySet) *Publish {
	p := &Publish{
		QoS: rapid.ByteRange(0, 2).Draw(t, "qos"), Retain: rapid.Bool().Draw(t, "retain"),
		Topic: []byte(drawTopic(t)), Payload: drawBytes(t, "payload"),
	}
	if p.QoS > 0 {
		p.PacketID, p.Dup = drawID(t), rapid.Bool().Draw(t, "dup")
	}
	if v == V5 {
		if p.Properties = drawProperties(t, TypePublish, without); p.Properties != nil && p.Properties.TopicAlias != 0 {
			p.Topic = p.Topic[:rapid.IntRange(0, 1).Draw(t, "topic known")*len(p.Topic)]
		}
	}
	return p
}

func drawSubscribe(t *rapid.T, v Version) *Subscribe {
	s := &Subscribe{PacketID: drawID(t)}
	for range rapid.IntRange(1, 4).Draw(t, "subscriptions") {
		sub := Subscription{
			Filter: rapid.StringMatching(`[a-z+#/]{1,8}`).Draw(t, "filter"), QoS: rapid.ByteRange(0, 2).Draw(t, "qos"),
		}
		if v == V5 {
			sub.NoLocal = rapid.Bool().Draw(t, "no local")
			sub.RetainAsPublished = rapid.Bool().Draw(t, "retain as published")
			sub.RetainHandling = rapid.ByteRange(0, 2).Draw(t, "retain handling")
		}
		s.Subscriptions = append(s.Subscriptions, sub)
	}
	if v == V5 {
		s.Properties = drawProperties(t, TypeSubscribe, 0)
	}
	return s
}

func drawConnect(t *rapid.T, v Version) *Connect {
	c := &Connect{
		Version: v, CleanStart: rapid.Bool().Draw(t, "clean start"), KeepAlive: rapid.Uint16().Draw(t, "keep alive"),
		ClientID: drawName(t, "client id"),
	}
	if c.HasUsername = rapid.Bool().Draw(t, "user name"); c.HasUsername {
		c.Username = drawName(t, "user name")
	}
	if c.HasPassword = (c.HasUsername || v == V5) && rapid.Bool().Draw(t, "password"); c.HasPassword {
		c.Password = drawBytes(t, "password")
	}
	if rapid.Bool().Draw(t, "will") {
		c.Will = &Will{
			Topic: drawTopic(t), Payload: drawBytes(t, "will"), QoS: rapid.ByteRange(0, 2).Draw(t, "will qos"),
			Retain: rapid.Bool().Draw(t, "will retain"),
		}
	}
	if v == V5 {
		c.Properties = drawProperties(t, TypeConnect, 0)
		if c.Will != nil {
			c.Will.Properties = drawProperties(t, typeWill, 0)
		}
	}
	return c
}

func drawVersion(t *rapid.T) Version {
	return rapid.SampledFrom([]Version{V31, V311, V5}).Draw(t, "version")
}

// stream is what one side sends over one connection.
type stream struct {
	version Version
	from    string
	bytes   []byte
	ends    []int    // where each packet ends
	packets []string // what each says
}

// drawStream draws packets of one side and their bytes; a client's stream begins with CONNECT.
func drawStream(tb testing.TB, t *rapid.T) stream {
	tb.Helper()
	s := stream{version: drawVersion(t), from: rapid.SampledFrom([]string{"client", "server"}).Draw(t, "from")}
	var packets []Packet
	draw := drawServerPacket
	if s.from == "client" {
		packets = append(packets, drawConnect(t, s.version))
		draw = drawClientPacket
	}
	for range rapid.IntRange(1, 8).Draw(t, "packets") {
		packets = append(packets, draw(t, s.version))
	}
	for _, p := range packets {
		s.bytes = p.Append(s.bytes, s.version)
		s.ends = append(s.ends, len(s.bytes))
		s.packets = append(s.packets, describe(tb, p))
	}
	return s
}

// decoder returns a decoder for the stream that has seen nothing yet.
func (s *stream) decoder(tb testing.TB) *Decoder {
	tb.Helper()
	if s.from == "server" {
		return newDecoder(tb, s.version, "server")
	}
	return newDecoder(tb, 0, "")
}

// requireNone checks that there are no more packets and no error.
func requireNone(tb testing.TB, d *Decoder) {
	tb.Helper()
	p, err := d.Next()
	require.NoError(tb, err)
	require.Nil(tb, p)
}

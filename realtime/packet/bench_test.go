package packet

import (
	"strings"
	"testing"
)

func benchmarkDecode(b *testing.B, d *Decoder, bytes []byte) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(len(bytes)))
	for b.Loop() {
		d.Feed(bytes)
		if p, err := d.Next(); p == nil || err != nil {
			b.Fatal(p, err)
		}
	}
}

func benchmarkEncode(b *testing.B, p Packet, v Version) {
	b.Helper()
	dst := make([]byte, 0, 64<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(p.Append(nil, v))))
	for b.Loop() {
		dst = p.Append(dst[:0], v)
	}
}

func benchPublish(qos byte, payload int, p *Properties) *Publish {
	return &Publish{
		QoS: qos, PacketID: 7, Topic: []byte("sensors/kitchen/temperature"), Payload: make([]byte, payload), Properties: p,
	}
}

func benchProperties() *Properties {
	return &Properties{
		Has:           PropPayloadFormat | PropMessageExpiry | PropContentType | PropUser,
		PayloadFormat: 1, MessageExpiry: 60, ContentType: "application/json", User: []UserProperty{{"trace", "0123456789abcdef"}},
	}
}

func benchConnect() *Connect {
	return &Connect{
		Version: V5, CleanStart: true, KeepAlive: 60, ClientID: "0123456789abcdef", HasUsername: true, Username: "app",
		HasPassword: true, Password: []byte(strings.Repeat("j", 400)),
		Will: &Will{Topic: "presence/0123456789abcdef", Payload: []byte("gone"), QoS: 1, Retain: true},
		Properties: &Properties{
			Has:           PropSessionExpiry | PropReceiveMaximum | PropTopicAliasMaximum,
			SessionExpiry: 3600, ReceiveMaximum: 100, TopicAliasMaximum: 10,
		},
	}
}

func benchSubscribe() *Subscribe {
	return &Subscribe{PacketID: 7, Subscriptions: []Subscription{
		{Filter: "rooms/+/chat", QoS: 1}, {Filter: "presence/#"}, {Filter: "users/0123456789abcdef/inbox", QoS: 2},
	}}
}

func BenchmarkDecode(b *testing.B) {
	b.Run("publish/qos0/100B/3.1.1", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V311, ""), benchPublish(0, 100, nil).Append(nil, V311))
	})
	b.Run("publish/qos1/100B/5.0", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V5, ""), benchPublish(1, 100, nil).Append(nil, V5))
	})
	b.Run("publish/qos1/100B/5.0/properties", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V5, ""), benchPublish(1, 100, benchProperties()).Append(nil, V5))
	})
	b.Run("publish/qos0/16KiB/5.0", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V5, ""), benchPublish(0, 16<<10, nil).Append(nil, V5))
	})
	b.Run("subscribe/3/5.0", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V5, ""), benchSubscribe().Append(nil, V5))
	})
	b.Run("puback", func(b *testing.B) {
		benchmarkDecode(b, newDecoder(b, V5, ""), (&Ack{Kind: TypePuback, PacketID: 7}).Append(nil, V5))
	})
	b.Run("connect/5.0", func(b *testing.B) {
		bytes := benchConnect().Append(nil, V5)
		b.ReportAllocs()
		b.SetBytes(int64(len(bytes)))
		for b.Loop() {
			d := NewDecoder(bytesMax)
			d.Feed(bytes)
			if p, err := d.Next(); p == nil || err != nil {
				b.Fatal(p, err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	b.Run("publish/qos0/100B/3.1.1", func(b *testing.B) { benchmarkEncode(b, benchPublish(0, 100, nil), V311) })
	b.Run("publish/qos1/100B/5.0/properties", func(b *testing.B) {
		benchmarkEncode(b, benchPublish(1, 100, benchProperties()), V5)
	})
	b.Run("connect/5.0", func(b *testing.B) { benchmarkEncode(b, benchConnect(), V5) })
	b.Run("subscribe/3/5.0", func(b *testing.B) { benchmarkEncode(b, benchSubscribe(), V5) })
	b.Run("suback/3/5.0", func(b *testing.B) {
		benchmarkEncode(b, &Suback{PacketID: 7, Reasons: []ReasonCode{GrantedQoS1, GrantedQoS0, GrantedQoS2}}, V5)
	})
	b.Run("puback", func(b *testing.B) { benchmarkEncode(b, &Ack{Kind: TypePuback, PacketID: 7}, V5) })
}

func BenchmarkForwardedProperties(b *testing.B) {
	raw := benchProperties().append(nil, benchProperties().Has)
	b.ReportAllocs()
	for b.Loop() {
		ForwardedProperties(raw)
	}
}

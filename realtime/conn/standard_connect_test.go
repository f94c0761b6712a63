package conn_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// The tests in the files standard_*_test.go go through the normative statements of both versions that no other test
// shows, packet by packet; docs/conformance.md is written from their names.

// told is the test of a story that is told for each version.
type told struct{ *testing.T }

// inEachVersion tells a story with clients of 3.1.1, and with clients of 5.0.
func inEachVersion(t *testing.T, name string, story func(t told, w *world, v packet.Version)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		for version, v := range versions {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				story(told{t}, newWorld(t), v)
			})
		}
	})
}

// inEachVersionsTime is inEachVersion in virtual time.
func inEachVersionsTime(t *testing.T, name string, story func(t told, w *world, v packet.Version)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		for version, v := range versions {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { story(told{t}, newWorld(t), v) })
			})
		}
	})
}

// wantClosed wants the connection to be closed without another packet.
func wantClosed(tb testing.TB, c *brokertest.Client) {
	tb.Helper()
	p, err := c.Next()
	require.Nil(tb, p)
	require.Error(tb, err)
	var timeout net.Error
	require.False(tb, errors.As(err, &timeout) && timeout.Timeout(), "still open")
}

// connectOf is a CONNECT with a clean start.
func connectOf(v packet.Version, id string, change ...func(*packet.Connect)) *packet.Connect {
	p := &packet.Connect{Version: v, CleanStart: true, ClientID: id}
	for _, f := range change {
		f(p)
	}
	return p
}

// clientIDs are those of the clients of app 1.
func (w *world) clientIDs() []string {
	w.tb.Helper()
	all, err := w.broker.Clients(1, "", 0)
	require.NoError(w.tb, err)
	ids := []string{}
	for _, c := range all {
		ids = append(ids, c.ClientID)
	}
	return ids
}

// publish publishes by REST's way, to topics that clients may not publish to as well.
func (w *world) publish(messages ...*message.Message) {
	w.tb.Helper()
	_, err := w.broker.Publish(w.tb.Context(), broker.Publication{App: 1, Messages: messages})
	require.NoError(w.tb, err)
}

func TestConnack(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "comes first and once, whatever follows CONNECT "+
		"[MQTT5-3.2.0-1] [MQTT5-3.2.0-2] [MQTT5-3.1.4-5] [MQTT311-3.2.0-1] [MQTT311-3.1.4-4]", func(t told, w *world, v packet.Version) {
		w.retain(3)
		c := w.dial(v)
		c.Send(connectOf(v, "c"),
			&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "#"}}},
			&packet.Ping{Kind: packet.TypePingreq})
		require.Equal(t, packet.Success, brokertest.Expect[*packet.Connack](c).Reason)
		for range 5 {
			p, err := c.Next()
			require.NoError(t, err)
			require.NotEqual(t, packet.TypeConnack, p.Type())
		}
		c.ExpectNothing()
	})
	inEachVersion(t, "that refuses has no Session Present, is followed by the close and no DISCONNECT, and by nothing that was sent behind CONNECT "+
		"[MQTT5-3.2.2-6] [MQTT5-3.2.2-7] [MQTT5-3.14.0-1] [MQTT5-3.1.4-6] [MQTT5-4.13.2-1] "+
		"[MQTT311-3.2.2-4] [MQTT311-3.2.2-5] [MQTT311-3.1.4-5]", func(t told, w *world, v packet.Version) {
		watcher := w.client(v, "watcher")
		watcher.Subscribe("#", 0)
		c := w.dial(v)
		c.Send(connectOf(v, "c", password("wrong"), will("wills/c", "gone")),
			&packet.Publish{Topic: []byte("a"), Payload: []byte("p"), Retain: true},
			&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "#"}}})
		ack := brokertest.Expect[*packet.Connack](c)
		require.Equal(t, packet.BadUserNameOrPassword, ack.Reason)
		require.False(t, ack.SessionPresent)
		wantClosed(t, c)
		watcher.ExpectNothing()
		require.Empty(t, w.store.Log(1))
		require.Equal(t, []string{"watcher"}, w.clientIDs())
	})
	inEachVersion(t, "tells that there was no session to resume "+
		"[MQTT5-3.1.2-6] [MQTT5-3.2.2-2] [MQTT311-3.2.2-1] [MQTT311-3.2.2-3]", func(t told, w *world, v packet.Version) {
		for _, cleanStart := range []bool{true, false} {
			c := w.dial(v)
			ack := c.Connect(fmt.Sprint("c", cleanStart), func(p *packet.Connect) { p.CleanStart = cleanStart })
			require.False(t, ack.SessionPresent)
			c.ExpectNothing()
		}
	})
	t.Run("has no Response Information for who did not ask for it [MQTT5-3.1.2-28]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, p := range []packet.Properties{{}, {Has: packet.PropRequestResponseInfo, RequestResponseInfo: 0}} {
			ack := w.dial(packet.V5).Connect("c", properties(p))
			require.False(t, ack.Properties.Has.Contains(packet.PropResponseInfo))
		}
	})
	t.Run("has no Authentication Method for who named none, and no AUTH comes [MQTT5-4.12.0-6]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V5)
		ack := c.Connect("c", password("anything"))
		require.False(t, ack.Properties.Has.Contains(packet.PropAuthMethod))
		require.False(t, ack.Properties.Has.Contains(packet.PropAuthData))
		c.ExpectNothing()
	})
}

func TestProtocolName(t *testing.T) {
	t.Parallel()
	t.Run("another than MQTT closes the connection without being served [MQTT5-3.1.2-1] [MQTT311-3.1.2-1]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, level := range []byte{3, 4, 5} {
			for _, name := range []string{"MQTX", "mqtt", "HTTP"} {
				c := w.dial(packet.V311)
				b := append([]byte{0x10, 13, 0, 4}, name...)
				c.SendBytes(append(b, level, 2, 0, 0, 0, 1, 'c'))
				wantClosed(t, c)
			}
		}
		require.Empty(t, w.clientIDs())
		require.Equal(t, 9, w.observer.Count("refused protocol_error"))
	})
}

func TestClientID(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "of 1 to 23 letters and digits is taken [MQTT5-3.1.3-5] [MQTT311-3.1.3-5]", func(t told, w *world, v packet.Version) {
		const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		for _, id := range []string{"a", alphabet[:23], alphabet[23:46], alphabet[39:]} {
			w.client(v, id)
			require.Contains(t, w.clientIDs(), id)
		}
	})
	inEachVersion(t, "that is empty is replaced by a unique one, which 5.0 is told "+
		"[MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16] [MQTT311-3.1.3-6]", func(t told, w *world, v packet.Version) {
		const n = 20
		told, clients := map[string]*brokertest.Client{}, []*brokertest.Client{}
		for range n {
			c := w.dial(v)
			if ack := c.Connect(""); v == packet.V5 {
				told[ack.Properties.AssignedClientID] = c
			}
			clients = append(clients, c)
		}
		ids := w.clientIDs()
		require.Len(t, ids, n)
		for _, c := range clients {
			c.ExpectNothing()
		}
		if v != packet.V5 {
			return
		}
		require.Len(t, told, n)
		for _, id := range ids {
			require.Contains(t, told, id)
		}
		w.client(v, ids[0]) // it is an ordinary one from here on
		told[ids[0]].ExpectEnd(packet.SessionTakenOver)
	})
	inEachVersion(t, "that is refused is told, and the connection closed [MQTT5-3.1.3-8] [MQTT311-3.1.3-9]", func(t told, w *world, v packet.Version) {
		w.client(v, "c")
		c := w.dial(v)
		c.Send(connectOf(v, "c", user("somebody")))
		require.Equal(t, packet.ClientIdentifierNotValid, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
	})
	t.Run("that is empty needs CleanSession 1 [MQTT311-3.1.3-7] [MQTT311-3.1.3-8]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V311)
		c.Send(&packet.Connect{Version: packet.V311})
		require.Equal(t, packet.ClientIdentifierNotValid, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
	})
	inEachVersion(t, "is what a client's state is known by [MQTT5-3.1.3-2] [MQTT311-3.1.3-2]", func(t told, w *world, v packet.Version) {
		one, two, elsewhere := w.client(v, "one"), w.client(v, "two"), w.dial(v, "two")
		elsewhere.Connect("one")
		one.Subscribe("to/one", 0)
		two.Subscribe("to/two", 0)
		elsewhere.Subscribe("to/+", 0)
		w.publish(&message.Message{Topic: "to/one"}, &message.Message{Topic: "to/two"})
		one.ExpectMessage("to/one", "")
		two.ExpectMessage("to/two", "")
		for _, c := range []*brokertest.Client{one, two, elsewhere} {
			c.ExpectNothing()
		}
		again := w.client(v, "one")
		one.ExpectEnd(packet.SessionTakenOver)
		two.ExpectNothing()
		elsewhere.ExpectNothing()
		again.ExpectNothing()
	})
	inEachVersion(t, "that connects a second time ends the first connection [MQTT5-3.1.4-3] [MQTT311-3.1.4-2]", func(t told, w *world, v packet.Version) {
		first := w.client(v, "c")
		second := w.client(v, "c")
		first.ExpectEnd(packet.SessionTakenOver)
		second.ExpectNothing()
	})
}

func TestKeepAliveIsTheClientsOwn(t *testing.T) {
	t.Parallel()
	inEachVersionsTime(t, "where the server tells none, and a miss is as a lost connection "+
		"[MQTT5-3.1.2-22] [MQTT5-3.2.2-22] [MQTT311-3.1.2-24]", func(t told, w *world, v packet.Version) {
		watcher := w.client(v, "watcher")
		watcher.Subscribe("wills/#", 0)
		c := w.dial(v)
		ack := c.Connect("c", will("wills/c", "gone"), func(p *packet.Connect) { p.KeepAlive = 10 })
		require.True(t, v != packet.V5 || !ack.Properties.Has.Contains(packet.PropServerKeepAlive))
		time.Sleep(14_900 * time.Millisecond) //nolint:forbidigo // virtual time
		c.ExpectNothing()
		watcher.ExpectNothing()
		began := time.Now()
		brokertest.WithPatience(c, time.Minute).ExpectEnd(packet.KeepAliveTimeout)
		require.Equal(t, 15*time.Second, time.Since(began))
		watcher.ExpectMessage("wills/c", "gone")
	})
	inEachVersion(t, "and PINGREQ is answered [MQTT5-3.12.4-1] [MQTT311-3.12.4-1]", func(t told, w *world, v packet.Version) {
		c := w.client(v, "c")
		for range 3 {
			c.Send(&packet.Ping{Kind: packet.TypePingreq})
			require.Equal(t, packet.TypePingresp, brokertest.Expect[*packet.Ping](c).Kind)
		}
	})
}

func TestStateLastsAsLongAsItsConnection(t *testing.T) {
	t.Parallel()
	inEachVersionsTime(t, "whatever the Session Expiry Interval [MQTT5-4.1.0-1] [MQTT311-4.1.0-2]", func(t told, w *world, v packet.Version) {
		c := w.dial(v)
		c.Connect("c", func(p *packet.Connect) {
			if v == packet.V5 {
				p.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 1}
			}
		})
		c.Subscribe("a", 2)
		c.Publish("a", "1", brokertest.QoS(2, 7))
		c.ExpectAck(packet.TypePubrec, 7, packet.Success)
		first := c.ExpectMessage("a", "1")
		time.Sleep(24 * time.Hour) //nolint:forbidigo // virtual time
		// The subscription, the message under way and the identifier of the one taken over are all still known.
		c.Publish("a", "1", brokertest.QoS(2, 7), func(p *packet.Publish) { p.Dup = true })
		c.ExpectAck(packet.TypePubrec, 7, packet.Success)
		c.ExpectNothing()
		acknowledge(c, first)
		w.publish(&message.Message{Topic: "a", Payload: []byte("2"), QoS: 2})
		acknowledge(c, c.ExpectMessage("a", "2"))
	})
}

func TestWill(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "is published once when the connection is lost, at each QoS, and is gone then "+
		"[MQTT5-3.1.2-7] [MQTT5-3.1.2-8] [MQTT5-3.1.2-10] [MQTT5-3.1.2-12] "+
		"[MQTT311-3.1.2-8] [MQTT311-3.1.2-10] [MQTT311-3.1.2-12] [MQTT311-3.1.2-14]", func(t told, w *world, v packet.Version) {
		watcher := w.client(v, "watcher")
		watcher.Subscribe("wills/#", 2)
		for qos := range byte(3) {
			c := w.dial(v)
			c.Connect("c", will("wills/c", "gone"), func(p *packet.Connect) { p.Will.QoS = qos })
			watcher.ExpectNothing()
			c.Close()
			m := watcher.ExpectMessage("wills/c", "gone")
			require.Equal(t, qos, m.QoS)
			acknowledge(watcher, m)
			c = w.client(v, "c") // the same client, without a will
			c.Close()
			require.Eventually(t, func() bool { return len(clientsNamed(w, "c")) == 0 }, brokertest.Patience, tick)
			watcher.ExpectNothing()
		}
	})
	inEachVersion(t, "is retained where Will Retain says so, and else not "+
		"[MQTT5-3.1.2-14] [MQTT5-3.1.2-15] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17]", func(t told, w *world, v packet.Version) {
		watcher := w.client(v, "watcher")
		watcher.Subscribe("wills/#", 0)
		for _, retain := range []bool{false, true} {
			c := w.dial(v)
			c.Connect("c", will(fmt.Sprint("wills/", retain), "gone"), func(p *packet.Connect) { p.Will.Retain = retain })
			c.Close()
			require.False(t, watcher.ExpectMessage(fmt.Sprint("wills/", retain), "gone").Retain)
		}
		late := w.client(v, "late")
		late.Subscribe("wills/#", 0)
		require.True(t, late.ExpectMessage("wills/true", "gone").Retain)
		late.ExpectNothing()
	})
	inEachVersion(t, "is discarded by DISCONNECT, behind which nothing is acted upon and the server closes "+
		"[MQTT5-3.14.4-3] [MQTT5-3.1.2-10] [MQTT311-3.14.4-1] [MQTT311-3.14.4-2] [MQTT311-3.14.4-3] [MQTT311-3.1.2-10]", func(t told, w *world, v packet.Version) {
		watcher := w.client(v, "watcher")
		watcher.Subscribe("#", 0)
		c := w.dial(v)
		c.Connect("c", will("wills/c", "never"))
		c.Send(&packet.Disconnect{}, &packet.Publish{Topic: []byte("a"), Payload: []byte("too late")})
		wantClosed(t, c)
		require.Eventually(t, func() bool { return len(clientsNamed(w, "c")) == 0 }, brokertest.Patience, tick)
		watcher.ExpectNothing()
	})
	t.Run("comes with its properties, in their order [MQTT5-3.1.3-10]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 0)
		want := packet.Properties{
			Has: packet.PropPayloadFormat | packet.PropContentType | packet.PropResponseTopic | packet.PropCorrelationData |
				packet.PropUser,
			PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{0, 1},
			User: []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "0"}},
		}
		c := w.dial(packet.V5)
		c.Connect("c", will("wills/c", "gone"), func(p *packet.Connect) { p.Will.Properties = &want })
		c.Close()
		require.Equal(t, want, *watcher.ExpectMessage("wills/c", "gone").Properties)
	})
}

// breaches are what a client that is connected may not send, the Reason Code of the standard for it, and the statements
// that name the case.
var breaches = map[string]struct { //nolint:gochecknoglobals // a table
	version    packet.Version
	bytes      []byte
	reason     packet.ReasonCode
	statements string
}{
	"flags that are reserved, 3.1.1":                         {packet.V311, []byte{0xC1, 0}, 0, "[MQTT311-2.2.2-1] [MQTT311-2.2.2-2]"},
	"QoS 3, 3.1.1":                                           {packet.V311, []byte{0x36, 5, 0, 1, 'x', 0, 1}, 0, "[MQTT311-3.3.1-4]"},
	"a topic that is not UTF-8, 3.1.1":                       {packet.V311, []byte{0x30, 3, 0, 1, 0xFF}, 0, "[MQTT311-1.5.3-1] [MQTT311-3.3.2-1]"},
	"a topic with U+0000, 3.1.1":                             {packet.V311, []byte{0x30, 3, 0, 1, 0}, 0, "[MQTT311-1.5.3-2] [MQTT311-4.7.3-2]"},
	"a topic with a wildcard, 3.1.1":                         {packet.V311, []byte{0x30, 3, 0, 1, '#'}, 0, "[MQTT311-3.3.2-2]"},
	"Packet Identifier 0, 3.1.1":                             {packet.V311, []byte{0x32, 5, 0, 1, 'x', 0, 0}, 0, "[MQTT311-2.3.1-1]"},
	"a SUBSCRIBE without filters, 3.1.1":                     {packet.V311, []byte{0x82, 2, 0, 1}, 0, "[MQTT311-3.8.3-3]"},
	"a SUBSCRIBE with a filter that is not UTF-8, 3.1.1":     {packet.V311, []byte{0x82, 6, 0, 1, 0, 1, 0xFF, 0}, 0, "[MQTT311-3.8.3-1]"},
	"a SUBSCRIBE with QoS 3, 3.1.1":                          {packet.V311, []byte{0x82, 6, 0, 1, 0, 1, 'a', 3}, 0, "[MQTT311-3.8.3-4]"},
	"a SUBSCRIBE with reserved bits, 3.1.1":                  {packet.V311, []byte{0x82, 6, 0, 1, 0, 1, 'a', 0x81}, 0, "[MQTT311-3.8.3-4]"},
	"a SUBSCRIBE with other flags, 3.1.1":                    {packet.V311, []byte{0x80, 6, 0, 1, 0, 1, 'a', 0}, 0, "[MQTT311-3.8.1-1]"},
	"an UNSUBSCRIBE with other flags, 3.1.1":                 {packet.V311, []byte{0xA0, 5, 0, 1, 0, 1, 'a'}, 0, "[MQTT311-3.10.1-1]"},
	"an UNSUBSCRIBE without filters, 3.1.1":                  {packet.V311, []byte{0xA2, 2, 0, 1}, 0, "[MQTT311-3.10.3-2]"},
	"an UNSUBSCRIBE of a filter that is not UTF-8, 3.1.1":    {packet.V311, []byte{0xA2, 5, 0, 1, 0, 1, 0xFF}, 0, "[MQTT311-3.10.3-1]"},
	"a PUBREL with other flags, 3.1.1":                       {packet.V311, []byte{0x60, 2, 0, 1}, 0, "[MQTT311-3.6.1-1]"},
	"a DISCONNECT with flags, 3.1.1":                         {packet.V311, []byte{0xE1, 0}, 0, "[MQTT311-3.14.1-1]"},
	"a second CONNECT, 3.1.1":                                {packet.V311, connectOf(packet.V311, "c").Append(nil, packet.V311), 0, "[MQTT311-3.1.0-2]"},
	"a packet that only servers send, 3.1.1":                 {packet.V311, []byte{0xD0, 0}, 0, ""},
	"flags that are reserved, 5.0":                           {packet.V5, []byte{0xC1, 0}, packet.MalformedPacket, "[MQTT5-2.1.3-1]"},
	"QoS 3, 5.0":                                             {packet.V5, []byte{0x36, 6, 0, 1, 'x', 0, 1, 0}, packet.MalformedPacket, "[MQTT5-3.3.1-4]"},
	"a topic that is not UTF-8, 5.0":                         {packet.V5, []byte{0x30, 4, 0, 1, 0xFF, 0}, packet.MalformedPacket, "[MQTT5-1.5.4-1] [MQTT5-3.3.2-1]"},
	"a topic with U+0000, 5.0":                               {packet.V5, []byte{0x30, 4, 0, 1, 0, 0}, packet.MalformedPacket, "[MQTT5-1.5.4-2] [MQTT5-4.7.3-2]"},
	"a Response Topic with a wildcard, 5.0":                  {packet.V5, []byte{0x30, 8, 0, 1, 'a', 4, 8, 0, 1, '#'}, packet.ProtocolError, "[MQTT5-3.3.2-14]"},
	"Packet Identifier 0, 5.0":                               {packet.V5, []byte{0x32, 6, 0, 1, 'x', 0, 0, 0}, packet.ProtocolError, "[MQTT5-2.2.1-3]"},
	"a length that is longer than it need be, 5.0":           {packet.V5, []byte{0xC0, 0x80, 0}, packet.MalformedPacket, "[MQTT5-1.5.5-1]"},
	"a SUBSCRIBE without filters, 5.0":                       {packet.V5, []byte{0x82, 3, 0, 1, 0}, packet.ProtocolError, "[MQTT5-3.8.3-2]"},
	"a SUBSCRIBE with other flags, 5.0":                      {packet.V5, []byte{0x80, 7, 0, 1, 0, 0, 1, 'a', 0}, packet.MalformedPacket, "[MQTT5-3.8.1-1]"},
	"a SUBSCRIBE with reserved bits, 5.0":                    {packet.V5, []byte{0x82, 7, 0, 1, 0, 0, 1, 'a', 0x40}, packet.MalformedPacket, "[MQTT5-3.8.3-5]"},
	"a Shared Subscription without a name, 5.0":              {packet.V5, []byte{0x82, 15, 0, 1, 0, 0, 9, '$', 's', 'h', 'a', 'r', 'e', '/', '/', 'a', 0}, packet.ProtocolError, "[MQTT5-4.8.2-1]"},
	"a Shared Subscription with a wildcard in its name, 5.0": {packet.V5, []byte{0x82, 16, 0, 1, 0, 0, 10, '$', 's', 'h', 'a', 'r', 'e', '/', '+', '/', 'a', 0}, packet.ProtocolError, "[MQTT5-4.8.2-2]"},
	"an UNSUBSCRIBE with other flags, 5.0":                   {packet.V5, []byte{0xA0, 6, 0, 1, 0, 0, 1, 'a'}, packet.MalformedPacket, "[MQTT5-3.10.1-1]"},
	"an UNSUBSCRIBE without filters, 5.0":                    {packet.V5, []byte{0xA2, 3, 0, 1, 0}, packet.ProtocolError, "[MQTT5-3.10.3-2]"},
	"a PUBREL with other flags, 5.0":                         {packet.V5, []byte{0x60, 2, 0, 1}, packet.MalformedPacket, "[MQTT5-3.6.1-1]"},
	"a DISCONNECT with flags, 5.0":                           {packet.V5, []byte{0xE1, 0}, packet.MalformedPacket, "[MQTT5-3.14.1-1]"},
	"a DISCONNECT with a Reason Code that is none, 5.0":      {packet.V5, []byte{0xE0, 1, 1}, packet.ProtocolError, "[MQTT5-3.14.2-1]"},
	"an AUTH with flags, 5.0":                                {packet.V5, []byte{0xF1, 0}, packet.MalformedPacket, "[MQTT5-3.15.1-1]"},
	"a property that occurs twice, 5.0":                      {packet.V5, []byte{0x30, 8, 0, 1, 'a', 4, 1, 0, 1, 0}, packet.ProtocolError, ""},
	"a Topic Alias of 0, 5.0":                                {packet.V5, []byte{0x30, 7, 0, 1, 'a', 3, 0x23, 0, 0}, packet.TopicAliasInvalid, "[MQTT5-3.3.2-8]"},
	"a second CONNECT, 5.0":                                  {packet.V5, connectOf(packet.V5, "c").Append(nil, packet.V5), packet.ProtocolError, "[MQTT5-3.1.0-2]"},
	"a packet that only servers send, 5.0":                   {packet.V5, []byte{0xD0, 0}, packet.ProtocolError, ""},
}

func TestBreach(t *testing.T) {
	t.Parallel()
	inEachVersion(t, "or not: when the server has ended a connection, no answer follows that was still due [MQTT5-3.14.4-1]", func(t told, w *world, v packet.Version) {
		release := w.holdCommits()
		c := w.client(v, "c")
		c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
		c.Publish("a", "p", brokertest.QoS(2, 2), brokertest.Retained)
		c.ExpectNothing()
		require.NoError(t, w.broker.Kick(t.Context(), 1, "c", false))
		release()
		w.publish(&message.Message{Topic: "b", Payload: []byte("p"), Retain: true}) // behind them in the order of commits
		c.ExpectEnd(packet.AdministrativeAction)
	})
	for name, b := range breaches {
		statements := "[MQTT311-4.8.0-1] "
		if b.version == packet.V5 {
			statements = "[MQTT5-4.13.1-1] [MQTT5-4.13.2-1] [MQTT5-3.14.4-1] [MQTT5-3.14.4-2] "
		}
		t.Run(name+": the connection is ended, as one that was lost "+statements+b.statements, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			watcher := w.client(packet.V5, "watcher")
			watcher.Subscribe("wills/#", 0)
			c := w.dial(b.version)
			c.Connect("c", will("wills/c", "gone"))
			c.Subscribe("#", 0)
			c.SendBytes(append(b.bytes, 0xC0, 0)) // and a PINGREQ, which is not answered
			watcher.ExpectMessage("wills/c", "gone")
			w.publish(&message.Message{Topic: "a"})
			c.ExpectEnd(b.reason)
			require.Empty(t, clientsNamed(w, "c"))
		})
	}
}

func TestRetainAvailable(t *testing.T) {
	t.Parallel()
	none := func(t *testing.T) *world {
		t.Helper()
		w := newWorld(t)
		w.SetLimits(retainingNothing())
		return w
	}
	t.Run("is not spoken of where an app keeps retained messages", func(t *testing.T) {
		t.Parallel()
		ack := newWorld(t).dial(packet.V5).Connect("c")
		require.False(t, ack.Properties.Has.Contains(packet.PropRetainAvailable))
	})
	t.Run("is 0 where it keeps none; a retained message ends the connection, a clear passes [MQTT5-3.2.2-14]", func(t *testing.T) {
		t.Parallel()
		w := none(t)
		c := w.dial(packet.V5)
		ack := c.Connect("c")
		require.True(t, ack.Properties.Has.Contains(packet.PropRetainAvailable))
		require.Zero(t, ack.Properties.RetainAvailable)
		c.Publish("a", "", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.Publish("a", "p", brokertest.QoS(1, 2))
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
		c.Publish("a", "p", brokertest.QoS(1, 3), brokertest.Retained)
		c.ExpectEnd(packet.RetainNotSupported)
	})
	t.Run("of 0 has a retained will refused [MQTT5-3.2.2-13]", func(t *testing.T) {
		t.Parallel()
		c := none(t).dial(packet.V5)
		c.Send(connectOf(packet.V5, "c", will("a", "gone"), func(p *packet.Connect) { p.Will.Retain = true }))
		require.Equal(t, packet.RetainNotSupported, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
	})
	t.Run("cannot be told to older clients: their message is acknowledged and dropped", func(t *testing.T) {
		t.Parallel()
		w := none(t)
		c := w.client(packet.V311, "c")
		c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		require.Equal(t, 1, w.observer.Count("dropped refused"))
	})
	t.Run("is what CONNACK has said, as long as the connection lasts", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		w.SetLimits(retainingNothing())
		w.broker.Reauthorize(1)
		c.Publish("a", "p", brokertest.QoS(1, 1), brokertest.Retained)
		c.ExpectAck(packet.TypePuback, 1, packet.QuotaExceeded)
	})
}

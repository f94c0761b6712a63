package e2e

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// grows checks that what happens in between makes a counter grow by one.
func (s *server) grows(t *testing.T, cause string, what func()) {
	t.Helper()
	before := s.refused(cause)
	what()
	// The client may know before the counter does.
	eventually(t, patience, func() string {
		if after := s.refused(cause); after != before+1 {
			return "embercast_refusals_total{cause=" + cause + "} did not grow by one"
		}
		return ""
	})
}

func TestBadMQTTGetsItsAnswerAndDisturbsNobody(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("mqtt", anything...)
		talk := converse(t.T, a)
		good := connectPacket(a, packet.V5, "bad-1", a.token("bad", time.Hour, ""))
		before := a.connected()

		// Said on a fresh connection.
		for name, c := range map[string]struct {
			bytes []byte
			cause string
			reply packet.ReasonCode // of a CONNACK of 5.0; 0: only the close
		}{
			"garbage":                           {[]byte("\xff\xfe\x00\x01 this is no MQTT at all \x00\x00"), "protocol_error", 0},
			"nothing but zeros":                 {make([]byte, 64), "protocol_error", 0},
			"a PUBLISH before CONNECT":          {(&packet.Publish{Topic: []byte("x")}).Append(nil, packet.V5), "protocol_error", 0},
			"a CONNECT that begins too long":    {[]byte{0x10, 0xff, 0xff, 0xff, 0x7f}, "packet_too_large", 0},
			"a length that never ends":          {[]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff}, "protocol_error", 0},
			"a version that is not served":      {[]byte("\x10\x10\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x03bad"), "protocol_error", packet.UnsupportedProtocolVersion},
			"a CONNECT with the reserved flag":  {withFlag(good, 1), "protocol_error", packet.MalformedPacket},
			"a will that may not be":            {withWill(good, "$SYS/x"), "not_authorized", packet.NotAuthorized},
			"a CONNECT with an unknown method":  {withMethod(good), "protocol_error", packet.BadAuthenticationMethod},
			"a user name that is not UTF-8":     {withUsername(good, "\xff\xfe"), "protocol_error", packet.MalformedPacket},
			"a CONNECT that is longer than due": {withUsername(good, strings.Repeat("x", 17<<10)), "packet_too_large", packet.PacketTooLarge},
		} {
			t.Run(name, func(t *testing.T) {
				s := s.with(t)
				s.grows(t, c.cause, func() { saysAndIsRefused(t, s, c.bytes, c.reply) })
			})
		}
		wrongAfterConnect(t.T, s, a)
		wrongTopics(t.T, a)
		httpOnTheMQTTPort(t.T, s)
		if got := a.connected(); len(got) != len(before) {
			t.Errorf("connected = %v, want %v as before", got, before)
		}
		talk.goesOn()
	})
}

func saysAndIsRefused(t *testing.T, s *server, bytes []byte, reply packet.ReasonCode) {
	t.Helper()
	w := dialWire(t, s.mqtt)
	w.write(bytes)
	if reply == packet.Success {
		w.wantClosed()
		return
	}
	if reply == packet.UnsupportedProtocolVersion {
		w.speak(packet.V311) // the one that everybody understands
	}
	if ack := next[*packet.Connack](w); ack.Reason != reply {
		t.Errorf("CONNACK %v, want %v", ack.Reason, reply)
	}
	w.wantClosed()
}

// clone makes a CONNECT that differs.
func clone(p *packet.Connect, change func(*packet.Connect)) []byte {
	q := *p
	change(&q)
	return q.Append(nil, q.Version)
}

func withFlag(p *packet.Connect, flag byte) []byte {
	b := p.Append(nil, p.Version)
	flags := 2 // behind the fixed header, the protocol's name and its level
	for b[flags-1]&0x80 != 0 {
		flags++
	}
	b[flags+7] |= flag
	return b
}

func withWill(p *packet.Connect, topic string) []byte {
	return clone(p, func(q *packet.Connect) { q.Will = &packet.Will{Topic: topic} })
}

func withUsername(p *packet.Connect, name string) []byte {
	return clone(p, func(q *packet.Connect) { q.Username = name })
}

func withMethod(p *packet.Connect) []byte {
	return clone(p, func(q *packet.Connect) {
		q.Properties = &packet.Properties{Has: packet.PropAuthMethod, AuthMethod: "magic"}
	})
}

// wrongAfterConnect is what a client that is connected may not send: 5.0 is told by DISCONNECT, 3.1.1 by the close.
func wrongAfterConnect(t *testing.T, s *server, a *app) {
	t.Helper()
	small := s.newApp("small", anything...)
	small.set(`{"limits":{"packet_bytes_max":2048}}`)
	publish := func(p *packet.Publish) []byte { return p.Append(nil, packet.V5) }
	for name, c := range map[string]struct {
		app    *app
		bytes  []byte
		reason packet.ReasonCode
		cause  string
	}{
		"a second CONNECT":              {a, connectPacket(a, packet.V5, "x", "y").Append(nil, packet.V5), packet.ProtocolError, "protocol_error"},
		"a packet above the limit":      {small, publish(&packet.Publish{Topic: []byte("x"), Payload: make([]byte, 4096)}), packet.PacketTooLarge, "packet_too_large"},
		"QoS 3":                         {a, []byte{0x36, 5, 0, 1, 'x', 0, 1}, packet.MalformedPacket, "protocol_error"},
		"a topic with a wildcard":       {a, publish(&packet.Publish{Topic: []byte("x/#")}), packet.MalformedPacket, "protocol_error"},
		"a SUBSCRIBE without filters":   {a, []byte{0x82, 3, 0, 1, 0}, packet.ProtocolError, "protocol_error"},
		"a packet only servers send":    {a, (&packet.Suback{PacketID: 1, Reasons: []packet.ReasonCode{0}}).Append(nil, packet.V5), packet.ProtocolError, "protocol_error"},
		"an alias that is not promised": {a, publish(&packet.Publish{Topic: []byte("x"), Properties: &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: 60000}}), packet.TopicAliasInvalid, "protocol_error"},
		"AUTH without a method":         {a, (&packet.Auth{Reason: packet.ReAuthenticate}).Append(nil, packet.V5), packet.ProtocolError, "protocol_error"},
		"garbage":                       {a, []byte("\xff\xff\xff\xff\xff\xff"), packet.MalformedPacket, "protocol_error"},
	} {
		t.Run(name, func(t *testing.T) {
			s, a := s.with(t), c.app.with(t)
			w := a.connectWire("wrong", a.token("wrong", time.Hour, ""))
			s.grows(t, c.cause, func() {
				w.write(c.bytes)
				if d := next[*packet.Disconnect](w); d.Reason != c.reason {
					t.Errorf("DISCONNECT %v, want %v", d.Reason, c.reason)
				}
				w.wantClosed()
			})
			a.awaitDisconnected("wrong")
		})
	}
}

// wrongTopics are refused one by one; the connection stays.
func wrongTopics(t *testing.T, a *app) {
	t.Helper()
	w := a.connectWire("deep", a.token("deep", time.Hour, ""))
	deep := strings.Repeat("x/", 40) + "x"
	w.send(&packet.Publish{Topic: []byte(deep), QoS: 1, PacketID: 7})
	if ack := next[*packet.Ack](w); ack.Reason != packet.TopicNameInvalid {
		t.Errorf("PUBACK for a topic of 41 levels = %v, want Topic Name invalid", ack.Reason)
	}
	want := []packet.ReasonCode{packet.TopicFilterInvalid, packet.NotAuthorized, packet.TopicFilterInvalid, packet.GrantedQoS1}
	got := w.subscribe(deep, "$SYS/#", strings.Repeat("y", 1_025), "fine")
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("SUBACK %d = %v, want %v", i, got[i], want[i])
		}
	}
	w.send(&packet.Disconnect{})
	w.wantClosed()
	a.awaitDisconnected("deep")
}

// httpOnTheMQTTPort is told so in its own words.
func httpOnTheMQTTPort(t *testing.T, s *server) {
	t.Helper()
	s.grows(t, "http_on_mqtt_port", func() {
		w := dialWire(t, s.mqtt)
		w.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		res, err := http.ReadResponse(bufio.NewReader(w.net), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() //nolint:errcheck // it is read whole
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "MQTT port") {
			t.Errorf("HTTP on the MQTT port: %s %q %v", res.Status, text, err)
		}
	})
}

func TestSilenceIsEndedInItsTime(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("silence", anything...)
		talk := converse(t.T, a)
		began := time.Now()
		half := dialWire(t, s.mqtt) // half a CONNECT, and nothing more
		connect := connectPacket(a, packet.V5, "half", a.token("half", time.Hour, "")).Append(nil, packet.V5)
		half.write(connect[:len(connect)/2])
		mute := dialWire(t, s.mqtt) // not even that
		ws := s.openSocket(a)       // nor here

		p := connectPacket(a, packet.V5, "tired", a.token("tired", time.Hour, ""))
		p.KeepAlive = 2
		tired := dialWire(t, s.mqtt)
		tired.send(p)
		next[*packet.Connack](tired)
		missed := `reason="Keep Alive timeout"`
		before := s.metric("embercast_disconnections_total", missed)
		if d := next[*packet.Disconnect](tired); d.Reason != packet.KeepAliveTimeout {
			t.Errorf("DISCONNECT %v, want Keep Alive timeout", d.Reason)
		}
		if took := time.Since(began); took < 3*time.Second {
			t.Errorf("the Keep Alive was missed after %v, want one and a half of 2 s", took)
		}
		a.awaitDisconnected("tired")
		if after := s.metric("embercast_disconnections_total", missed); after != before+1 {
			t.Errorf("disconnections by Keep Alive grew by %v, want 1", after-before)
		}

		for _, w := range []*wire{half, mute} {
			w.wantClosed()
		}
		ws.wantClosed(1008)
		t.Logf("half a CONNECT was ended after %v", time.Since(began).Round(100*time.Millisecond))
		if got := s.refused("connect_timeout"); got != 3 {
			t.Errorf("embercast_refusals_total{cause=connect_timeout} = %v, want 3", got)
		}
		talk.goesOn()
	})
}

func TestBadWebSocketsGetTheirAnswer(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("sockets", anything...)
		talk := converse(t.T, a)
		connect := connectPacket(a, packet.V311, "c", "no").Append(nil, packet.V311)
		for name, c := range map[string]struct {
			opcode byte
			masked bool
			bytes  []byte
			code   int
		}{
			"a text frame":                      {1, true, connect, 1003},
			"a frame that is not masked":        {2, false, connect, 1002},
			"a reserved opcode":                 {3, true, nil, 1002},
			"a continuation of nothing":         {0, true, connect, 1002},
			"a close frame of one byte":         {8, true, []byte{3}, 1002},
			"garbage in a binary frame":         {2, true, []byte("\xff\xff\xff\xff\xff\xff"), 1002},
			"HTTP in a binary frame":            {2, true, []byte("GET / HTTP/1.1\r\n\r\n"), 1002},
			"a packet that is not MQTT's first": {2, true, []byte{0xC0, 0}, 1002},
		} {
			t.Run(name, func(t *testing.T) {
				s := s.with(t)
				w := s.openSocket(a)
				s.grows(t, "protocol_error", func() {
					w.frame(c.opcode, c.masked, c.bytes)
					w.wantClosed(c.code)
				})
			})
		}
		t.Run("wrong credentials", func(t *testing.T) {
			s := s.with(t)
			w := s.openSocket(a)
			s.grows(t, "auth_failed", func() {
				w.frame(2, true, connect)
				opcode, payload, err := w.read()
				if err != nil || opcode != 2 || string(payload) != "\x20\x02\x00\x04" {
					t.Errorf("got %d %q %v, want CONNACK 4", opcode, payload, err)
				}
				w.wantClosed(1008)
			})
		})
		badUpgrades(t.T, s, a)
		talk.goesOn()
	})
}

// badUpgrades are answered by HTTP.
func badUpgrades(t *testing.T, s *server, a *app) {
	t.Helper()
	a.set(`{"cors_origins":["https://example.com"]}`)
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"a page of another origin": {wsHead + "Origin: https://evil.example\r\n", http.StatusForbidden},
		"a page of a listed one":   {wsHead + "Origin: https://example.com\r\n", http.StatusSwitchingProtocols},
		"another version":          {"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Protocol: mqtt\r\n", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.with(t)
			before := s.refused("origin")
			if _, status, _ := s.upgrade("/mqtt/"+a.id, c.head); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if grown := s.refused("origin") - before; (grown == 1) != (c.status == http.StatusForbidden) {
				t.Errorf("embercast_refusals_total{cause=origin} grew by %v", grown)
			}
		})
	}
	p := s.call("GET", "/mqtt/"+a.id, "", nil).problem(http.StatusUpgradeRequired)
	if !strings.Contains(p.Detail, "WebSocket") {
		t.Errorf("GET /mqtt without an upgrade says %q", p.Detail)
	}
}

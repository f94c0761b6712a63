package ws_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/ws"
)

// server is the WebSocket endpoint on a port of its own.
type server struct {
	tb       testing.TB
	addr     string
	observer *brokertest.Observer
	broker   *broker.Broker
}

func start(tb testing.TB) *server {
	tb.Helper()
	s := &server{tb: tb, observer: &brokertest.Observer{}}
	log := slog.New(slog.DiscardHandler)
	s.broker = broker.New(broker.Config{Store: brokertest.NewStore(1, 2), Authenticator: brokertest.NewWorld(), Observer: s.observer, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		s.broker.Run(ctx)
		close(ended)
	}()
	for uid := range broker.AppUID(2) {
		require.NoError(tb, s.broker.OpenApp(ctx, broker.AppConfig{UID: uid + 1, ID: "app"}))
	}
	endpoint := ws.New(conn.Config{Broker: s.broker, Observer: s.observer, Logger: log}, func(_, origin string) bool { return origin != "https://evil.example" })
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Server().KeepHijackedConns = true
	endpoint.Mount(app, func(*fiber.Ctx) netip.AddrPort { return netip.AddrPort{} })
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s.addr = ln.Addr().String()
	go func() { _ = app.Listener(ln) }() //nolint:errcheck // it ends with the test
	tb.Cleanup(func() {
		s.broker.Drain()
		closing, done := context.WithTimeout(context.Background(), 30*time.Second)
		defer done()
		require.NoError(tb, app.ShutdownWithContext(closing))
		endpoint.Close(closing)
		cancel()
		<-ended
	})
	return s
}

// socket is a client's side of a WebSocket, frame by frame.
type socket struct {
	tb   testing.TB
	conn net.Conn
	r    *bufio.Reader
	rest []byte // of the last binary frame
}

// open does the handshake; header lines may be added or, as "Name:" alone, left out. ahead is sent with the handshake.
func (s *server) handshake(path string, ahead []byte, header ...string) (c *socket, status int, protocol string) {
	s.tb.Helper()
	raw, err := (&net.Dialer{}).DialContext(s.tb.Context(), "tcp", s.addr)
	require.NoError(s.tb, err)
	s.tb.Cleanup(func() { _ = raw.Close() }) //nolint:errcheck // it may be closed already
	require.NoError(s.tb, raw.SetDeadline(time.Now().Add(brokertest.Patience)))
	lines := map[string]string{
		"Host": s.addr, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt",
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ":")
		lines[name] = strings.TrimSpace(value)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\n", path)
	for name, value := range lines {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	_, err = raw.Write(append([]byte(b.String()+"\r\n"), ahead...))
	require.NoError(s.tb, err)
	r := bufio.NewReader(raw)
	answer, err := http.ReadResponse(r, nil)
	require.NoError(s.tb, err)
	require.NoError(s.tb, answer.Body.Close())
	return &socket{tb: s.tb, conn: raw, r: r}, answer.StatusCode, answer.Header.Get("Sec-WebSocket-Protocol")
}

func (s *server) open(path string) *socket {
	s.tb.Helper()
	c, status, _ := s.handshake(path, nil)
	require.Equal(s.tb, http.StatusSwitchingProtocols, status)
	return c
}

// frame masks a client's frame.
func frame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

const (
	text, binaryFrame, closing, ping, pong, final = 1, 2, 8, 9, 10, 0x80
)

func (c *socket) send(b []byte) {
	c.tb.Helper()
	_, err := c.conn.Write(b)
	require.NoError(c.tb, err)
}

// next reads a frame of the server's.
func (c *socket) next() (opcode byte, payload []byte) {
	c.tb.Helper()
	var head [2]byte
	_, err := io.ReadFull(c.r, head[:])
	require.NoError(c.tb, err)
	require.Zero(c.tb, head[1]&0x80, "a server's frame is not masked")
	n := uint64(head[1])
	switch n {
	case 126:
		var l [2]byte
		_, err = io.ReadFull(c.r, l[:])
		n = uint64(binary.BigEndian.Uint16(l[:]))
	case 127:
		var l [8]byte
		_, err = io.ReadFull(c.r, l[:])
		n = binary.BigEndian.Uint64(l[:])
	}
	require.NoError(c.tb, err)
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	require.NoError(c.tb, err)
	return head[0] & 15, payload
}

func (c *socket) expectClose(code int) {
	c.tb.Helper()
	for {
		opcode, payload := c.next()
		if opcode != closing {
			continue
		}
		require.Equal(c.tb, code, int(binary.BigEndian.Uint16(payload)))
		_, err := c.r.ReadByte()
		require.ErrorIs(c.tb, err, io.EOF)
		return
	}
}

// Read, Write and the rest make a socket the connection of an MQTT client: each write is a frame.
func (c *socket) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if _, err := c.r.Peek(1); err != nil {
			return 0, err //nolint:wrapcheck // of a test
		}
		opcode, payload := c.next()
		if opcode == binaryFrame {
			c.rest = payload
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

type mqttSocket struct {
	net.Conn
	*socket
	cut int // frames of at most this many bytes; 0: one a write
}

func (c mqttSocket) Read(p []byte) (int, error) { return c.socket.Read(p) }

func (c mqttSocket) Write(p []byte) (int, error) {
	n := len(p)
	var b []byte
	for len(p) > 0 {
		k := len(p)
		if c.cut > 0 {
			k = min(k, 1+rand.IntN(c.cut))
		}
		b = append(b, frame(final|binaryFrame, p[:k])...)
		p = p[k:]
	}
	_, err := c.conn.Write(b)
	return n, err //nolint:wrapcheck // of a test
}

func (s *server) client(path string, v packet.Version, cut int) *brokertest.Client {
	s.tb.Helper()
	c := s.open(path)
	return brokertest.NewClient(s.tb, mqttSocket{c.conn, c, cut}, v)
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]struct {
		path   string
		header []string
		status int
		want   string // Sec-WebSocket-Protocol
	}{
		"the subprotocol mqtt is chosen [MQTT5-6.0.0-4] [MQTT311-6.0.0-4]":  {"/mqtt", nil, 101, "mqtt"},
		"the app stands in the path":                                        {"/mqtt/two", nil, 101, "mqtt"},
		"mqttv3.1 is chosen where it is offered alone":                      {"/mqtt", []string{"Sec-WebSocket-Protocol: mqttv3.1"}, 101, "mqttv3.1"},
		"mqtt is preferred":                                                 {"/mqtt", []string{"Sec-WebSocket-Protocol: foo, mqttv3.1, mqtt"}, 101, "mqtt"},
		"what is not known is not chosen [MQTT5-6.0.0-3] [MQTT311-6.0.0-3]": {"/mqtt", []string{"Sec-WebSocket-Protocol: foo"}, 101, ""},
		"a plain GET is told what this is":                                  {"/mqtt", []string{"Upgrade:", "Connection: close"}, 426, ""},
		"another version of WebSocket is refused":                           {"/mqtt", []string{"Sec-WebSocket-Version: 8"}, 400, ""},
		"an origin that the app does not allow is refused":                  {"/mqtt", []string{"Origin: https://evil.example"}, 403, ""},
		"an origin that the app allows gets in":                             {"/mqtt", []string{"Origin: https://good.example"}, 101, "mqtt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, status, protocol := s.handshake(test.path, nil, test.header...)
			require.Equal(t, test.status, status)
			require.Equal(t, test.want, protocol)
		})
	}
}

func TestConversation(t *testing.T) {
	t.Parallel()
	s := start(t)
	t.Run("packets span and share frames [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]", func(t *testing.T) {
		t.Parallel()
		for _, cut := range []int{0, 1, 3, 100} {
			c := s.client("/mqtt", packet.V5, cut)
			c.Connect(fmt.Sprint("cut", cut))
			topic := fmt.Sprint("t/", cut)
			c.Subscribe(topic, 1)
			c.Send(&packet.Ping{Kind: packet.TypePingreq}, &packet.Ping{Kind: packet.TypePingreq}) // in one write
			for range 2 {
				brokertest.Expect[*packet.Ping](c)
			}
			large := strings.Repeat("x", 100_000)
			if cut == 1 {
				large = "small"
			}
			for _, payload := range []string{"1", large, "3"} {
				c.Publish(topic, payload, brokertest.QoS(1, 1))
				c.ExpectAck(packet.TypePuback, 1, packet.Success)
				m := c.ExpectMessage(topic, payload)
				c.Send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
			}
			c.ExpectNothing()
		}
	})
	t.Run("what was sent with the handshake is not lost", func(t *testing.T) {
		t.Parallel()
		connect := (&packet.Connect{Version: packet.V311, CleanStart: true, ClientID: "eager"}).Append(nil, packet.V311)
		c, status, _ := s.handshake("/mqtt", frame(final|binaryFrame, connect))
		require.Equal(t, http.StatusSwitchingProtocols, status)
		opcode, payload := c.next()
		require.EqualValues(t, binaryFrame, opcode)
		require.Equal(t, []byte{0x20, 2, 0, 0}, payload)
	})
	t.Run("a ping is answered with its payload, a pong is not answered", func(t *testing.T) {
		t.Parallel()
		c := s.open("/mqtt")
		c.send(frame(final|pong, []byte("unasked")))
		c.send(frame(final|ping, []byte("hello")))
		opcode, payload := c.next()
		require.EqualValues(t, pong, opcode)
		require.Equal(t, "hello", string(payload))
	})
	t.Run("an empty frame is nothing", func(t *testing.T) {
		t.Parallel()
		c := s.open("/mqtt")
		c.send(append(frame(final|binaryFrame, nil), frame(final|ping, nil)...))
		opcode, _ := c.next()
		require.EqualValues(t, pong, opcode)
	})
	t.Run("a close frame is answered with its code, and the will is sent", func(t *testing.T) {
		t.Parallel()
		watcher := s.client("/mqtt", packet.V5, 0)
		watcher.Connect("watcher")
		watcher.Subscribe("wills/#", 0)
		raw := s.open("/mqtt")
		c := brokertest.NewClient(t, mqttSocket{raw.conn, raw, 0}, packet.V5)
		c.Connect("c", func(p *packet.Connect) { p.Will = &packet.Will{Topic: "wills/c", Payload: []byte("gone")} })
		raw.send(frame(final|closing, []byte{0x03, 0xE9}))
		raw.expectClose(1001)
		watcher.ExpectMessage("wills/c", "gone")
	})
	t.Run("a DISCONNECT of the server's is followed by a close frame", func(t *testing.T) {
		t.Parallel()
		raw := s.open("/mqtt")
		c := brokertest.NewClient(t, mqttSocket{raw.conn, raw, 0}, packet.V5)
		c.Connect("kicked")
		require.NoError(t, s.broker.Kick(t.Context(), 1, "kicked", false))
		opcode, payload := raw.next()
		require.EqualValues(t, binaryFrame, opcode)
		sentence := broker.Farewell(packet.AdministrativeAction, "kicked")
		said := packet.Disconnect{
			Reason: packet.AdministrativeAction, Properties: &packet.Properties{Has: packet.PropReasonString, ReasonString: sentence},
		}
		require.Equal(t, said.Append(nil, packet.V5), payload)
		raw.expectClose(1008)
	})
}

func TestBreaches(t *testing.T) {
	t.Parallel()
	connect := (&packet.Connect{Version: packet.V311, CleanStart: true}).Append(nil, packet.V311)
	unmasked := append([]byte{final | binaryFrame, byte(len(connect))}, connect...)
	for name, test := range map[string]struct {
		bytes []byte
		code  int
	}{
		"a text frame [MQTT5-6.0.0-1] [MQTT311-6.0.0-1]": {frame(final|text, connect), 1003},
		"a frame that is not masked":                     {unmasked, 1002},
		"reserved bits":                                  {frame(final|0x40|binaryFrame, connect), 1002},
		"a reserved opcode":                              {frame(final|3, nil), 1002},
		"a fragmented control frame":                     {frame(ping, nil), 1002},
		"a control frame of more than 125 bytes":         {frame(final|ping, make([]byte, 126)), 1002},
		"a continuation of nothing":                      {frame(final, connect), 1002},
		"a new message within a fragmented one":          {append(frame(binaryFrame, nil), frame(final|binaryFrame, connect)...), 1002},
		"a length with its highest bit":                  {[]byte{final | binaryFrame, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		"a close frame of one byte":                      {frame(final|closing, []byte{3}), 1002},
		"a close code that may not be sent":              {frame(final|closing, []byte{0x03, 0xED}), 1002},
		"a close reason that is not UTF-8":               {frame(final|closing, []byte{0x03, 0xE8, 0xFF}), 1007},
		"a packet before CONNECT [MQTT5-3.1.0-1]":        {frame(final|binaryFrame, []byte{0xC0, 0}), 1002},
		"a packet that is too large before CONNECT":      {frame(final|binaryFrame, []byte{0x10, 0xFF, 0xFF, 0xFF, 0x7F}), 1009},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			c := s.open("/mqtt")
			c.send(test.bytes)
			c.expectClose(test.code)
			require.Equal(t, 1, s.observer.Count("refused protocol_error")+s.observer.Count("refused packet_too_large"))
		})
	}
}

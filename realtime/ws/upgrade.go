package ws

import (
	"bytes"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"

	"github.com/embercast/embercast/realtime/conn"
)

// Mount serves /mqtt and /mqtt/{app}. The fasthttp server under app must have KeepHijackedConns set. remote tells the
// address of a client, behind trusted proxies too.
func (s *Server) Mount(app *fiber.App, remote func(*fiber.Ctx) netip.AddrPort) {
	upgrade := websocket.New(s.take, websocket.Config{
		// Offered in the order of preference; one that is not offered is never chosen [MQTT5-6.0.0-4].
		Subprotocols:    []string{"mqtt", "mqttv3.1"},
		ReadBufferSize:  1, // its own reader and writer are not used
		WriteBufferSize: 1,
		RecoverHandler:  func(*websocket.Conn) { _ = recover() }, //nolint:errcheck // take does nothing that panics; nothing is told to clients
	})
	handle := func(c *fiber.Ctx) error {
		if !websocket.IsWebSocketUpgrade(c) {
			c.Set(fiber.HeaderUpgrade, "websocket")
			return fiber.NewError(fiber.StatusUpgradeRequired, "This is the MQTT over WebSocket endpoint: connect with a WebSocket client and the subprotocol mqtt.")
		}
		if string(c.Request().Header.Peek("Sec-WebSocket-Version")) != "13" {
			c.Set("Sec-WebSocket-Version", "13")
			return fiber.NewError(fiber.StatusBadRequest, "Only WebSocket version 13 is served.")
		}
		name, err := url.PathUnescape(c.Params("app"))
		if err != nil {
			return fiber.ErrNotFound
		}
		if origin := c.Get(fiber.HeaderOrigin); origin != "" && !s.origin(name, origin) {
			s.cfg.Observer.Refused("origin")
			return fiber.NewError(fiber.StatusForbidden, "This origin is not in the app's cors_origins.")
		}
		// The copies outlive the request: strings of Fiber's are views into its buffers.
		c.Locals(localMeta, conn.Meta{
			Remote: remote(c), Transport: transportOf(c), PathApp: strings.Clone(name),
			QueryToken: strings.Clone(c.Query("token")), Origin: strings.Clone(c.Get(fiber.HeaderOrigin)),
		})
		return upgrade(c)
	}
	app.Get("/mqtt", handle)
	app.Get("/mqtt/:app", handle)
}

const localMeta = "embercast.meta"

func transportOf(c *fiber.Ctx) string {
	if c.Context().IsTLS() {
		return "wss"
	}
	return "ws"
}

// take gets hold of the raw connection and returns, which frees all that the HTTP server keeps for it.
func (s *Server) take(c *websocket.Conn) {
	meta, _ := c.Locals(localMeta).(conn.Meta) //nolint:errcheck // set above
	hijacked := c.NetConn()
	raw := hijacked
	if u, ok := hijacked.(interface{ UnsafeConn() net.Conn }); ok {
		raw = u.UnsafeConn()
	}
	s.serve(raw, buffered(hijacked), meta)
}

// buffered takes what the HTTP server's reader has read beyond the handshake: with a deadline in the past only that
// can be read.
func buffered(c net.Conn) []byte {
	_ = c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a dead connection is found when it is read
	var all bytes.Buffer
	piece := make([]byte, 4096)
	for {
		n, err := c.Read(piece)
		all.Write(piece[:n])
		if err != nil || n == 0 {
			break
		}
	}
	_ = c.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	return all.Bytes()
}

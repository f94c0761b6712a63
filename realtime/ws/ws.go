// Package ws drives MQTT connections over WebSocket (MQTT 5.0 section 6): the upgrade by the required stack, then the
// raw connection with a frame reader of our own, so that an idle connection keeps nothing of the HTTP server.
package ws

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/driver"
	"github.com/embercast/embercast/realtime/packet"
)

const writeTimeout = 20 * time.Second // a client that takes nothing for this long is gone

// Server serves upgraded connections.
type Server struct {
	cfg    conn.Config
	origin func(app, origin string) bool
	live   driver.Set
}

// New returns a Server. origin judges the Origin header of a handshake for an app ("" where the path names none).
func New(cfg conn.Config, origin func(app, origin string) bool) *Server {
	return &Server{cfg: cfg, origin: origin}
}

// Close waits for the live connections to end, and closes those that are left when ctx ends.
func (s *Server) Close(ctx context.Context) { s.live.Close(ctx) }

// serve drives an upgraded connection in goroutines of its own. buffered are bytes that the HTTP server has read
// already.
func (s *Server) serve(c net.Conn, buffered []byte, meta conn.Meta) {
	e := newEndpoint(s.cfg, c, meta)
	go s.live.Drive(&buffer{Conn: c, ahead: buffered}, e.mqtt, e.feed)
}

// buffer is a connection some of whose bytes have been read already.
type buffer struct {
	net.Conn
	ahead []byte
}

// Read implements net.Conn.
func (b *buffer) Read(p []byte) (int, error) {
	if len(b.ahead) == 0 {
		return b.Conn.Read(p) //nolint:wrapcheck // the network's own words
	}
	n := copy(p, b.ahead)
	if b.ahead = b.ahead[n:]; len(b.ahead) == 0 {
		b.ahead = nil
	}
	return n, nil
}

// wire puts each write into one binary frame.
type wire struct {
	*conn.NetWire
	// code is that of the close frame, where it is not the one for MQTT's reason.
	code atomic.Int32
}

// Frame implements conn.Wire: the header goes right before the MQTT bytes.
func (*wire) Frame(buf []byte) []byte {
	var header [conn.HeadroomBytes]byte
	h := appendHeader(header[:0], opBinary, len(buf)-conn.HeadroomBytes)
	start := conn.HeadroomBytes - len(h)
	copy(buf[start:], h)
	return buf[start:]
}

// Farewell implements conn.Wire.
func (w *wire) Farewell(reason packet.ReasonCode) []byte {
	if code := w.code.Load(); code != 0 {
		return closeFrame(int(code))
	}
	return closeFrame(closeCodeFor(reason))
}

func closeCodeFor(reason packet.ReasonCode) int {
	switch reason {
	case packet.Success, packet.DisconnectWithWill:
		return closeNormal
	case packet.ServerShuttingDown:
		return closeGoingAway
	case packet.MalformedPacket, packet.ProtocolError:
		return closeProtocol
	case packet.PacketTooLarge:
		return closeTooBig
	case packet.UnspecifiedError, packet.ServerUnavailable, packet.ServerBusy:
		return closeInternal
	default:
		return closePolicy
	}
}

// endpoint is the server's side of one WebSocket.
type endpoint struct {
	mqtt   *conn.Conn
	wire   *wire
	frames reader
}

func newEndpoint(cfg conn.Config, c net.Conn, meta conn.Meta) *endpoint {
	e := &endpoint{wire: &wire{NetWire: conn.NewNetWire(c, writeTimeout)}}
	e.mqtt = conn.New(cfg, e.wire, meta)
	e.frames.to = e
	return e
}

// feed takes bytes of the network.
func (e *endpoint) feed(b []byte) error {
	err := e.frames.feed(b)
	if breach, ok := errors.AsType[*frameError](err); ok {
		e.wire.code.Store(int32(breach.code)) //nolint:gosec // a close code
		e.mqtt.Refuse(packet.ProtocolError, breach.text)
	}
	return err
}

// data implements handler.
func (e *endpoint) data(b []byte) error { return e.mqtt.Receive(b) } //nolint:wrapcheck // ends the connection, whose own words they are

// ping implements handler.
func (e *endpoint) ping(payload []byte) error {
	e.mqtt.WriteRaw(newFrame(opPong, payload))
	return nil
}

// closed implements handler: the close frame is answered with the same code (RFC 6455 section 5.5.1).
func (e *endpoint) closed(code int) error {
	e.wire.code.CompareAndSwap(0, int32(code)) //nolint:gosec // a close code
	e.mqtt.Hangup()
	return io.EOF
}

// Package ws drives MQTT connections over WebSocket (MQTT 5.0 section 6): the upgrade by the required stack, then the
// raw connection with a frame reader of our own, so that an idle connection keeps nothing of the HTTP server.
package ws

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
)

const (
	readBytes    = 4 << 10
	writeTimeout = 20 * time.Second // a client that takes nothing for this long is gone
)

// Server serves upgraded connections.
type Server struct {
	cfg    conn.Config
	origin func(app, origin string) bool

	mu    sync.Mutex // guards live
	live  map[net.Conn]struct{}
	ended sync.WaitGroup
}

// New returns a Server. origin judges the Origin header of a handshake for an app ("" where the path names none).
func New(cfg conn.Config, origin func(app, origin string) bool) *Server {
	return &Server{cfg: cfg, origin: origin, live: map[net.Conn]struct{}{}}
}

// Close waits until every live connection has ended, and closes those that are left when ctx ends. Clients are told by
// the broker's drain, before.
func (s *Server) Close(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		s.ended.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.live {
		_ = c.Close() //nolint:errcheck // it is going away
	}
	s.mu.Unlock()
	<-ended
}

// serve drives an upgraded connection in goroutines of its own. buffered are bytes that the HTTP server has read
// already.
func (s *Server) serve(c net.Conn, buffered []byte, meta conn.Meta) {
	s.mu.Lock()
	s.live[c] = struct{}{}
	s.ended.Add(1)
	s.mu.Unlock()
	d := &driver{server: s, net: c}
	d.frames.to = d
	d.mqtt = conn.New(s.cfg, wire{conn.NewNetWire(c, writeTimeout)}, meta)
	go d.begin(buffered)
}

// wire puts each write into one binary frame.
type wire struct{ *conn.NetWire }

// Frame implements conn.Wire: the header goes right before the MQTT bytes.
func (wire) Frame(buf []byte) []byte {
	var header [conn.HeadroomBytes]byte
	h := appendHeader(header[:0], opBinary, len(buf)-conn.HeadroomBytes)
	start := conn.HeadroomBytes - len(h)
	copy(buf[start:], h)
	return buf[start:]
}

// Farewell implements conn.Wire.
func (wire) Farewell(reason packet.ReasonCode) []byte { return closeFrame(closeCodeFor(reason)) }

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
	case packet.UnspecifiedError, packet.ServerUnavailable:
		return closeInternal
	default:
		return closePolicy
	}
}

// driver reads one connection.
type driver struct {
	server   *Server
	net      net.Conn
	mqtt     *conn.Conn
	frames   reader
	deadline time.Time
}

var buffers = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }} //nolint:gochecknoglobals // a pool holds no state

func (d *driver) begin(buffered []byte) {
	if err := d.feed(buffered); err != nil {
		d.end(err)
		return
	}
	if err := d.readUntil(d.mqtt.Established); err != nil {
		d.end(err)
		return
	}
	go func() { d.end(d.readUntil(func() bool { return false })) }()
}

func (d *driver) end(err error) {
	if d.mqtt.EndedByServer() {
		conn.Linger(d.net)
	}
	d.mqtt.Closed(err)
	s := d.server
	s.mu.Lock()
	delete(s.live, d.net)
	s.mu.Unlock()
	s.ended.Done()
}

func (d *driver) readUntil(done func() bool) error {
	buf, _ := buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer buffers.Put(buf)
	for !done() {
		d.setDeadline()
		n, err := d.net.Read(*buf)
		if ferr := d.feed((*buf)[:n]); ferr != nil {
			return ferr
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				d.mqtt.TimedOut()
			}
			return err //nolint:wrapcheck // ends the connection, whose own words they are
		}
	}
	return nil
}

func (d *driver) setDeadline() {
	timeout := d.mqtt.ReadTimeout()
	if timeout == 0 {
		if !d.deadline.IsZero() {
			d.deadline = time.Time{}
			_ = d.net.SetReadDeadline(d.deadline) //nolint:errcheck // Read tells
		}
		return
	}
	at := time.Now().Add(timeout)
	if early := at.Sub(d.deadline); early > timeout/4 || early < 0 {
		d.deadline = at
		_ = d.net.SetReadDeadline(at) //nolint:errcheck // Read tells
	}
}

func (d *driver) feed(b []byte) error {
	err := d.frames.feed(b)
	var breach *frameError
	if errors.As(err, &breach) {
		d.mqtt.WriteRaw(closeFrame(breach.code))
		d.mqtt.Refuse(packet.ProtocolError, breach.text)
	}
	return err
}

// data implements handler.
func (d *driver) data(b []byte) error { return d.mqtt.Receive(b) } //nolint:wrapcheck // as in readUntil

// ping implements handler.
func (d *driver) ping(payload []byte) error {
	d.mqtt.WriteRaw(appendFrame(nil, opPong, payload))
	return nil
}

// closed implements handler: the close frame is answered with the same code (RFC 6455 section 5.5.1).
func (d *driver) closed(code int) error {
	var payload []byte
	if code != closeNone {
		payload = binary.BigEndian.AppendUint16(nil, uint16(code)) //nolint:gosec // a close code
	}
	d.mqtt.WriteRaw(appendFrame(nil, opClose, payload))
	return io.EOF
}

func cloneString(s string) string { return string(bytes.Clone([]byte(s))) }

// Package tcp drives MQTT connections over TCP and TLS: it accepts, reads, and feeds realtime/conn.
package tcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
)

const (
	readBytes        = 4 << 10 // of a connection's buffer (chosen: one packet of most devices; more is read in turns)
	handshakeTimeout = 10 * time.Second
	writeTimeout     = 20 * time.Second // a client that takes nothing for this long is gone
	acceptPauseMax   = time.Second
)

// Server accepts MQTT connections on any number of listeners.
type Server struct {
	cfg conn.Config

	mu    sync.Mutex // guards live
	live  map[net.Conn]struct{}
	ended sync.WaitGroup
}

// New returns a Server whose connections share cfg.
func New(cfg conn.Config) *Server {
	return &Server{cfg: cfg, live: map[net.Conn]struct{}{}}
}

// Serve accepts connections until the listener is closed. tlsConfig nil means plain TCP. A lack of descriptors is
// waited out.
func (s *Server) Serve(ln net.Listener, tlsConfig *tls.Config) error {
	pause := time.Millisecond
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			s.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "accept failed, trying again",
				slog.String("error", err.Error()), slog.Duration("after", pause))
			timer := time.NewTimer(pause)
			<-timer.C
			pause = min(2*pause, acceptPauseMax)
			continue
		}
		pause = time.Millisecond
		s.ended.Add(1)
		go s.begin(c, tlsConfig)
	}
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

func (s *Server) track(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[c] = struct{}{}
}

func (s *Server) forget(c net.Conn) {
	s.mu.Lock()
	delete(s.live, c)
	s.mu.Unlock()
	s.ended.Done()
}

// wire is plain MQTT on a stream: nothing around the packets.
type wire struct{ *conn.NetWire }

// Frame implements conn.Wire.
func (wire) Frame(buf []byte) []byte { return buf[conn.HeadroomBytes:] }

// Farewell implements conn.Wire.
func (wire) Farewell(packet.ReasonCode) []byte { return nil }

// begin handles a connection until CONNECT has been accepted, and leaves the rest to a goroutine that has not grown
// its stack for TLS and credentials.
func (s *Server) begin(c net.Conn, tlsConfig *tls.Config) {
	s.track(c)
	remote, _ := netip.ParseAddrPort(c.RemoteAddr().String()) //nolint:errcheck // a pipe has none
	transport := "tcp"
	if tlsConfig != nil {
		transport = "tls"
		t := tls.Server(c, tlsConfig)
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		err := t.HandshakeContext(ctx)
		cancel()
		if err != nil {
			s.cfg.Observer.Refused("tls_handshake")
			_ = c.Close() //nolint:errcheck // it is going away
			s.forget(c)
			return
		}
		s.swap(c, t)
		c = t
	}
	d := &driver{server: s, conn: c, mqtt: conn.New(s.cfg, wire{conn.NewNetWire(c, writeTimeout)}, conn.Meta{Remote: remote, Transport: transport})}
	if err := d.readUntil(d.mqtt.Established); err != nil {
		d.end(err)
		return
	}
	go func() { d.end(d.readUntil(func() bool { return false })) }()
}

func (s *Server) swap(old, now net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, old)
	s.live[now] = struct{}{}
}

// driver reads one connection.
type driver struct {
	server   *Server
	conn     net.Conn
	mqtt     *conn.Conn
	seen     bool
	deadline time.Time
}

var buffers = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }} //nolint:gochecknoglobals // a pool holds no state

// readUntil reads and feeds until done reports true or reading ends.
func (d *driver) readUntil(done func() bool) error {
	buf, _ := buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer buffers.Put(buf)
	for !done() {
		d.setDeadline()
		n, err := d.conn.Read(*buf)
		if n > 0 {
			if !d.seen && d.refuseHTTP((*buf)[:n]) {
				return io.EOF
			}
			d.seen = true
			if err := d.mqtt.Receive((*buf)[:n]); err != nil {
				return err //nolint:wrapcheck // ends the connection, whose own words they are
			}
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				d.mqtt.TimedOut()
			}
			return err //nolint:wrapcheck // as above
		}
	}
	return nil
}

// setDeadline moves the read deadline only when a quarter of the time has passed: a busy connection sets no timer for
// each of its packets.
func (d *driver) setDeadline() {
	timeout := d.mqtt.ReadTimeout()
	if timeout == 0 {
		if !d.deadline.IsZero() {
			d.deadline = time.Time{}
			_ = d.conn.SetReadDeadline(d.deadline) //nolint:errcheck // Read tells
		}
		return
	}
	at := time.Now().Add(timeout)
	if early := at.Sub(d.deadline); early > timeout/4 || early < 0 {
		d.deadline = at
		_ = d.conn.SetReadDeadline(at) //nolint:errcheck // Read tells
	}
}

func (d *driver) end(err error) {
	if d.mqtt.EndedByServer() {
		conn.Linger(d.conn)
	}
	d.mqtt.Closed(err)
	d.server.forget(d.conn)
}

// refuseHTTP answers a browser or curl that has found the MQTT port.
func (d *driver) refuseHTTP(first []byte) bool {
	for _, method := range []string{"GET ", "POST", "PUT ", "HEAD", "OPTI", "DELE", "PATC"} {
		if bytes.HasPrefix(first, []byte(method)) {
			const text = "This is the MQTT port. HTTP and MQTT over WebSocket are served on the HTTP port.\n"
			_ = d.conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // Write tells
			_, _ = io.WriteString(d.conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"+
				"Content-Length: "+lengthOf(text)+"\r\n\r\n"+text) //nolint:errcheck // best effort
			d.server.cfg.Observer.Refused("http_on_mqtt_port")
			return true
		}
	}
	return false
}

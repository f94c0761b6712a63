// Package tcp carries MQTT over TCP and TLS: it accepts connections and has realtime/driver feed them to realtime/conn.
package tcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/driver"
	"github.com/embercast/embercast/realtime/packet"
)

const (
	handshakeTimeout = 10 * time.Second
	writeTimeout     = 20 * time.Second // a client that takes nothing for this long is gone
	acceptPauseMax   = time.Second
)

// Server accepts MQTT connections on any number of listeners.
type Server struct {
	cfg  conn.Config
	live driver.Set
}

// New returns a Server whose connections share cfg.
func New(cfg conn.Config) *Server { return &Server{cfg: cfg} }

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
		go s.begin(c, tlsConfig)
	}
}

// Close waits for the live connections to end, and closes those that are left when ctx ends.
func (s *Server) Close(ctx context.Context) { s.live.Close(ctx) }

// wire is plain MQTT on a stream: nothing around the packets.
type wire struct{ *conn.NetWire }

// Frame implements conn.Wire.
func (wire) Frame(buf []byte) []byte { return buf[conn.HeadroomBytes:] }

// Farewell implements conn.Wire.
func (wire) Farewell(packet.ReasonCode) []byte { return nil }

func (s *Server) begin(c net.Conn, tlsConfig *tls.Config) {
	meta := conn.Meta{Transport: "tcp"}
	meta.Remote, _ = netip.ParseAddrPort(c.RemoteAddr().String()) //nolint:errcheck // a pipe has none
	if tlsConfig != nil {
		meta.Transport = "tls"
		t := tls.Server(c, tlsConfig)
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		err := t.HandshakeContext(ctx)
		cancel()
		if err != nil {
			s.cfg.Observer.Refused("tls_handshake")
			_ = c.Close() //nolint:errcheck // it is going away
			return
		}
		c = t
	}
	mqtt := conn.New(s.cfg, wire{conn.NewNetWire(c, writeTimeout)}, meta)
	seen := false
	s.live.Drive(c, mqtt, func(b []byte) error {
		if !seen && s.refuseHTTP(c, b) {
			return io.EOF
		}
		seen = true
		return mqtt.Receive(b) //nolint:wrapcheck // ends the connection, whose own words they are
	})
}

// refuseHTTP answers a browser or curl that has found the MQTT port.
func (s *Server) refuseHTTP(c net.Conn, first []byte) bool {
	for _, method := range []string{"GET ", "POST", "PUT ", "HEAD", "OPTI", "DELE", "PATC"} {
		if bytes.HasPrefix(first, []byte(method)) {
			const text = "This is the MQTT port. HTTP and MQTT over WebSocket are served on the HTTP port.\n"
			_ = c.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // Write tells
			answer := fmt.Appendf(nil, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"+
				"Content-Length: %d\r\n\r\n%s", len(text), text)
			_, _ = c.Write(answer) //nolint:errcheck // best effort
			s.cfg.Observer.Refused("http_on_mqtt_port")
			return true
		}
	}
	return false
}

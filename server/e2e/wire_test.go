package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// wire is an MQTT connection by hand, for bytes that no client sends and times that no client measures.
type wire struct {
	t       testing.TB
	net     net.Conn
	decoder *packet.Decoder
	version packet.Version
}

// dialWire opens a TCP connection and says nothing.
func dialWire(tb testing.TB, addr string) *wire {
	tb.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() }) //nolint:errcheck // the server may have been first
	w := &wire{t: tb, net: c, decoder: packet.NewDecoder(1 << 20)}
	w.speak(packet.V5)
	return w
}

// speak sets the version of what comes in and goes out.
func (w *wire) speak(v packet.Version) {
	w.version = v
	w.decoder.SetVersion(v)
}

func (w *wire) write(b []byte) {
	w.t.Helper()
	if err := w.net.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.net.Write(b); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

func (w *wire) send(p packet.Packet) { w.t.Helper(); w.write(p.Append(nil, w.version)) }

// read returns the next packet, or why there is none: io.EOF where the server has closed the connection.
func (w *wire) read(within time.Duration) (packet.Packet, error) {
	w.t.Helper()
	if err := w.net.SetReadDeadline(time.Now().Add(within)); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 4<<10)
	for {
		p, err := w.decoder.Next()
		if err != nil {
			w.t.Fatalf("the server sent what is no MQTT: %v", err)
		}
		if p != nil {
			return p, nil
		}
		n, err := w.net.Read(buf)
		if err != nil {
			return nil, err
		}
		w.decoder.Feed(buf[:n])
	}
}

// next returns the next packet, which must be a P.
func next[P packet.Packet](w *wire) P {
	w.t.Helper()
	p, err := w.read(patience)
	if err != nil {
		w.t.Fatalf("read: %v, want a %T", err, *new(P))
	}
	as, ok := p.(P)
	if !ok {
		w.t.Fatalf("got a %T %+v, want a %T", p, p, *new(P))
	}
	return as
}

// wantClosed checks that the server closes the connection without another word.
func (w *wire) wantClosed() {
	w.t.Helper()
	p, err := w.read(patience)
	if err == nil {
		w.t.Fatalf("got a %T %+v, want the connection closed", p, p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatal("the connection is still open, want it closed")
	}
	if !errors.Is(err, io.EOF) {
		w.t.Logf("closed: %v", err) // a reset tells the same
	}
	_ = w.net.Close() //nolint:errcheck // as a client does
}

// connectPacket is a CONNECT as an ordinary client sends it.
func connectPacket(a *app, v packet.Version, clientID, password string) *packet.Connect {
	c := &packet.Connect{Version: v, CleanStart: true, ClientID: clientID, HasUsername: true, Username: a.id}
	if password != "" {
		c.HasPassword, c.Password = true, []byte(password)
	}
	return c
}

// connectWire connects an ordinary client over TCP.
func (a *app) connectWire(clientID, password string) *wire {
	a.s.t.Helper()
	w := dialWire(a.s.t, a.s.mqtt)
	w.send(connectPacket(a, packet.V5, clientID, password))
	if ack := next[*packet.Connack](w); ack.Reason != packet.Success {
		w.t.Fatalf("CONNACK %v, want Success", ack.Reason)
	}
	return w
}

func (w *wire) subscribe(filters ...string) []packet.ReasonCode {
	w.t.Helper()
	p := &packet.Subscribe{PacketID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: f, QoS: 1})
	}
	w.send(p)
	return next[*packet.Suback](w).Reasons
}

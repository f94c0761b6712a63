package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// socket is a WebSocket by hand, for frames that no client sends.
type socket struct {
	t   testing.TB
	net net.Conn
	in  *bufio.Reader
}

// upgrade asks for a WebSocket; head is what the request says beside the upgrade itself. It returns the
// answer's status and the subprotocol.
func (s *server) upgrade(path, head string) (w *socket, status int, protocol string) {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.http, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() }) //nolint:errcheck // the server may have been first
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: " + s.http + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + head + "\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	w = &socket{s.t, c, bufio.NewReader(c)}
	res, err := http.ReadResponse(w.in, nil)
	if err != nil {
		s.t.Fatalf("upgrade: %v", err)
	}
	defer res.Body.Close() //nolint:errcheck // what follows a 101 is read by hand
	return w, res.StatusCode, res.Header.Get("Sec-WebSocket-Protocol")
}

const wsHead = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"

// openSocket makes a WebSocket for MQTT.
func (s *server) openSocket(a *app) *socket {
	s.t.Helper()
	w, status, protocol := s.upgrade("/mqtt/"+a.id, wsHead)
	if status != http.StatusSwitchingProtocols || protocol != "mqtt" {
		s.t.Fatalf("upgrade: %d %q", status, protocol)
	}
	return w
}

// frame sends one final frame; a client's are masked.
func (w *socket) frame(opcode byte, masked bool, payload []byte) {
	w.t.Helper()
	b := []byte{0x80 | opcode, byte(len(payload))}
	if len(payload) > 125 {
		w.t.Fatal("frames of more than 125 bytes are not made here")
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	if _, err := w.net.Write(append(b, payload...)); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

// wantClosed reads until the server closes, and checks the code of its close frame; 0: it sends none.
func (w *socket) wantClosed(code int) {
	w.t.Helper()
	got := 0
	for {
		opcode, payload, err := w.read()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				w.t.Fatal("the WebSocket is still open")
			}
			break
		}
		if opcode == 8 && len(payload) >= 2 {
			got = int(binary.BigEndian.Uint16(payload))
		}
	}
	if got != code {
		w.t.Errorf("close code %d, want %d", got, code)
	}
}

func (w *socket) read() (opcode byte, payload []byte, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(w.in, head); err != nil {
		return 0, nil, err
	}
	if head[1] > 125 {
		return 0, nil, fmt.Errorf("a frame of length %d", head[1])
	}
	payload = make([]byte, head[1])
	_, err = io.ReadFull(w.in, payload)
	return head[0] & 15, payload, err
}

package conn

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// HeadroomBytes are left free before the MQTT bytes of a write: the longest header of an unmasked WebSocket frame.
const HeadroomBytes = 10

// Wire is the network under a Conn. Write and TryWrite are called from one goroutine at a time.
type Wire interface {
	// TryWrite writes what the network takes without waiting; n < len(b) with a nil error: the rest would wait.
	TryWrite(b []byte) (n int, err error)
	// Write waits, bounded by a deadline of the Wire's own.
	Write(b []byte) (n int, err error)
	// Waiting returns how many bytes have come and were not read: at most floodBytes, 0 where the network does not tell.
	Waiting() int
	// Interrupt has a Read that waits return os.ErrDeadlineExceeded, now or when it begins; false: it cannot.
	Interrupt() bool
	// Frame makes of buf, whose first HeadroomBytes are free, what goes on the network.
	Frame(buf []byte) []byte
	// Farewell is what is sent last: a WebSocket close frame, or nothing.
	Farewell(reason packet.ReasonCode) []byte
	// CloseWrite tells the peer that nothing more comes, and leaves it time to read what was sent.
	CloseWrite() error
	// Close closes the network connection. It may be called from any goroutine, and again.
	Close() error
}

// NetWire is a Wire's writing and closing over a net.Conn. Where that has a descriptor, TryWrite is one write system
// call that does not wait; elsewhere (TLS, pipes) it takes nothing and leaves all to Write.
type NetWire struct {
	conn         net.Conn
	raw          syscall.RawConn
	under        syscall.RawConn // of what is under TLS; raw where there is none
	writeTimeout time.Duration
}

// NewNetWire returns a NetWire; a Write that takes longer than writeTimeout fails.
func NewNetWire(c net.Conn, writeTimeout time.Duration) *NetWire {
	w := &NetWire{conn: c, writeTimeout: writeTimeout, raw: rawConn(c)}
	w.under = w.raw
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		w.under = rawConn(t.NetConn())
	}
	return w
}

// rawConn returns nil where c has no descriptor.
func rawConn(c net.Conn) syscall.RawConn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// Waiting implements Wire. It looks at the bytes and leaves them where they are.
func (w *NetWire) Waiting() int {
	if w.under == nil {
		return 0
	}
	buf, _ := buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer putBuffer(buf)
	waiting := 0
	err := w.under.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), (*buf)[:floodBytes], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err == nil {
			waiting = n
		}
	})
	if err != nil {
		return 0
	}
	return waiting
}

// Interrupt implements Wire.
func (w *NetWire) Interrupt() bool { return w.conn.SetReadDeadline(time.Now()) == nil }

// Write implements Wire.
func (w *NetWire) Write(b []byte) (int, error) {
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.writeTimeout)); err != nil {
		return 0, err //nolint:wrapcheck // the network's own words
	}
	return w.conn.Write(b) //nolint:wrapcheck // the network's own words
}

// Close implements Wire.
func (w *NetWire) Close() error { return w.conn.Close() } //nolint:wrapcheck // the network's own words

// CloseWrite implements Wire.
func (w *NetWire) CloseWrite() error {
	if half, ok := w.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite() //nolint:wrapcheck // the network's own words
	}
	return w.Close()
}

// Linger reads and forgets what the peer still sends, until it closes or farewellTimeout has passed: closing with bytes
// unread would reset the connection, and the peer might lose the farewell that is on its way.
func Linger(c net.Conn) {
	if c.SetReadDeadline(time.Now().Add(farewellTimeout)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c) //nolint:errcheck // it ends by an error
}

// TryWrite implements Wire.
func (w *NetWire) TryWrite(b []byte) (int, error) {
	if w.raw == nil {
		return 0, nil
	}
	var n int
	var failed error
	err := w.raw.Write(func(fd uintptr) bool {
		n, failed = tryWrite(fd, b)
		return true // never wait for the descriptor to be ready
	})
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			return 0, err //nolint:wrapcheck // the network's own words
		}
		return 0, nil // a passed deadline of an earlier Write: let Write decide
	}
	return n, failed
}

func tryWrite(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		default:
			return 0, err //nolint:wrapcheck // the network's own words
		}
	}
}

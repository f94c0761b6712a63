package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// lines is what was logged.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open returns a listener that trusts a network, and what it logs.
func open(t *testing.T, trusted string) (net.Listener, *lines) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() }) //nolint:errcheck // it may be closed already
	log := &lines{}
	return Listener(ln, []netip.Prefix{netip.MustParsePrefix(trusted)}, slog.New(slog.NewTextHandler(log, nil))), log
}

// dial sends bytes, and returns both ends of the connection.
func dial(t *testing.T, ln net.Listener, sent []byte) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() }) //nolint:errcheck // it may be closed already
	_, err = client.Write(sent)
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() }) //nolint:errcheck // it may be closed already
	require.NoError(t, server.SetDeadline(time.Now().Add(patience)))
	return client, server
}

// v2 is a header of version 2.
func v2(command, family byte, rest ...byte) []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n")
	return append(append(b, 0x20|command, family, byte(len(rest)>>8), byte(len(rest))), rest...)
}

var tcp4 = []byte{203, 0, 113, 7, 192, 0, 2, 1, 0x30, 0x39, 0x07, 0x5B}

func tcp6() []byte {
	source, destination := netip.MustParseAddr("2001:db8::7").As16(), netip.MustParseAddr("2001:db8::1").As16()
	return append(append(source[:], destination[:]...), 0x30, 0x39, 0x07, 0x5B)
}

func TestHeader(t *testing.T) {
	t.Parallel()
	const own = "" // the proxy's own address
	for name, c := range map[string]struct {
		header []byte
		remote string
	}{
		"version 1, TCP over IPv4":                 {[]byte("PROXY TCP4 203.0.113.7 192.0.2.1 12345 1883\r\n"), "203.0.113.7:12345"},
		"version 1, TCP over IPv6":                 {[]byte("PROXY TCP6 2001:db8::7 2001:db8::1 12345 1883\r\n"), "[2001:db8::7]:12345"},
		"version 1, of a check of the proxy's own": {[]byte("PROXY UNKNOWN\r\n"), own},
		"version 2, TCP over IPv4":                 {v2(1, 0x11, tcp4...), "203.0.113.7:12345"},
		"version 2, TCP over IPv6":                 {v2(1, 0x21, tcp6()...), "[2001:db8::7]:12345"},
		"version 2, with more than addresses":      {v2(1, 0x11, append(bytes.Clone(tcp4), 0x04, 0, 2, 0, 0)...), "203.0.113.7:12345"},
		"version 2, of a check of the proxy's own": {v2(0, 0x00), own},
		"version 2, a socket that is a file":       {v2(1, 0x31, make([]byte, 216)...), own},
		"none":                                     {nil, own},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, log := open(t, "127.0.0.0/8")
			client, server := dial(t, ln, append(bytes.Clone(c.header), "\x10\x00rest"...))
			want := c.remote
			if want == own {
				want = client.LocalAddr().String()
			}
			require.Equal(t, want, server.RemoteAddr().String())
			got := make([]byte, 6)
			_, err := io.ReadFull(server, got)
			require.NoError(t, err)
			require.Equal(t, "\x10\x00rest", string(got), "what follows the header is whole")
			_, err = client.Write([]byte("more"))
			require.NoError(t, err)
			_, err = io.ReadFull(server, got[:4])
			require.NoError(t, err)
			require.Equal(t, "more", string(got[:4]))
			require.Empty(t, log.String())
		})
	}
}

func TestHeader_of_anybody_else_is_not_looked_at(t *testing.T) {
	t.Parallel()
	ln, _ := open(t, "10.0.0.0/8")
	const sent = "PROXY TCP4 203.0.113.7 192.0.2.1 12345 1883\r\n\x10\x00"
	client, server := dial(t, ln, []byte(sent))
	require.Equal(t, client.LocalAddr().String(), server.RemoteAddr().String())
	require.IsType(t, &net.TCPConn{}, server, "no work is done for it")
	got := make([]byte, len(sent))
	_, err := io.ReadFull(server, got)
	require.NoError(t, err)
	require.Equal(t, sent, string(got))

	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close() //nolint:errcheck // nobody was let in
	require.Same(t, plain, Listener(plain, nil, nil), "nobody is trusted by default")
}

func TestHeader_that_is_not_understood_ends_the_connection(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"version 1, no address":     "PROXY TCP4 nowhere 192.0.2.1 12345 1883\r\n",
		"version 1, without an end": "PROXY TCP4 " + strings.Repeat("1", 200),
		"version 2, too short":      string(v2(1, 0x11, tcp4[:8]...)),
		"version 2, of a version 3": strings.Replace(string(v2(1, 0x11, tcp4...)), "QUIT\n\x21", "QUIT\n\x31", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, log := open(t, "127.0.0.1/32")
			client, server := dial(t, ln, []byte(header+"\x10\x00"))
			require.Equal(t, client.LocalAddr().String(), server.RemoteAddr().String(), "nothing of it counts")
			for range 3 {
				_, err := server.Read(make([]byte, 1))
				require.Error(t, err)
			}
			require.Equal(t, 1, strings.Count(log.String(), "PROXY header not understood"), log.String())
		})
	}
}

// Who sends half a header, or nothing, holds up nobody but itself, and that for a bounded time.
func TestHeader_that_does_not_come(t *testing.T) {
	t.Parallel()
	ln, _ := open(t, "127.0.0.1/32")
	l, ok := ln.(*listener)
	require.True(t, ok)
	l.timeout = 50 * time.Millisecond
	_, slow := dial(t, ln, []byte("PROXY TCP4 203.0"))
	silentClient, silent := dial(t, ln, nil)
	_, quick := dial(t, ln, []byte("PROXY TCP4 203.0.113.7 192.0.2.1 12345 1883\r\n"))
	require.Equal(t, "203.0.113.7:12345", quick.RemoteAddr().String(), "accepted behind two that say nothing")

	_, err := slow.Read(make([]byte, 1))
	require.Error(t, err, "the rest of a header has not come")
	require.Equal(t, silentClient.LocalAddr().String(), silent.RemoteAddr().String())
	_, err = silentClient.Write([]byte("late"))
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(silent, got)
	require.NoError(t, err, "without a header it is the proxy's own connection, whose deadline is as it was set")
	require.Equal(t, "late", string(got))
}

func TestConn_is_as_good_as_a_socket(t *testing.T) {
	t.Parallel()
	ln, _ := open(t, "127.0.0.1/32")
	client, server := dial(t, ln, []byte("PROXY TCP4 203.0.113.7 192.0.2.1 12345 1883\r\n"))
	s, ok := server.(syscall.Conn)
	require.True(t, ok)
	raw, err := s.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Write(func(fd uintptr) bool {
		n, err := syscall.Write(int(fd), []byte("hello"))
		return n == 5 && err == nil
	}))
	half, ok := server.(interface{ CloseWrite() error })
	require.True(t, ok)
	require.NoError(t, half.CloseWrite())
	require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
	got, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
}

// Package proxy believes a proxy in front of the server what it says of its clients: the PROXY protocol, versions 1 and 2,
// of https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt. Only trusted networks are believed; what anybody else
// sends is not looked at. What X-Forwarded-For says, server/httpd reads.
package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	// headerTimeout is how long the header may take (chosen: it comes with the first bytes; the protocol asks for 3 s at
	// least). Who sends nothing for so long has none.
	headerTimeout = 5 * time.Second
	// warnEvery bounds how often the log says that a header was not understood.
	warnEvery = time.Minute
)

// Listener returns ln with a header read from each connection of a trusted network that begins with one: RemoteAddr is then
// the client's. A connection from there without a header is the proxy's own. Reading waits for the header, and so does
// RemoteAddr; accepting does not.
func Listener(ln net.Listener, trusted []netip.Prefix, log *slog.Logger) net.Listener {
	if len(trusted) == 0 {
		return ln
	}
	return &listener{Listener: ln, trusted: trusted, log: log, timeout: headerTimeout}
}

type listener struct {
	net.Listener
	trusted []netip.Prefix
	log     *slog.Logger
	timeout time.Duration
	warned  atomic.Int64 // when the log last said something; Unix seconds
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // the network's own words, by which the caller knows the end
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok || !l.trusts(tcp.RemoteAddr()) {
		return c, nil
	}
	return &conn{
		Conn: proxyproto.NewConn(tcp, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(l.timeout)),
		tcp:  tcp, listener: l,
	}, nil
}

func (l *listener) trusts(peer net.Addr) bool {
	a, ok := peer.(*net.TCPAddr)
	if !ok {
		return false
	}
	addr := a.AddrPort().Addr().Unmap()
	return slices.ContainsFunc(l.trusted, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// conn is a connection from a trusted proxy.
type conn struct {
	*proxyproto.Conn
	tcp      *net.TCPConn
	listener *listener
}

// RemoteAddr is the client's address; the proxy's own where it names none, or none of a network.
func (c *conn) RemoteAddr() net.Addr {
	if told, ok := c.Conn.RemoteAddr().(*net.TCPAddr); ok {
		return told
	}
	return c.tcp.RemoteAddr()
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	var network net.Error
	if err != nil && n == 0 && !errors.Is(err, io.EOF) && !errors.As(err, &network) && !errors.Is(err, net.ErrClosed) {
		c.listener.warn(c.tcp.RemoteAddr(), err)
	}
	return n, err //nolint:wrapcheck // as the reader wants it
}

func (l *listener) warn(of net.Addr, err error) {
	now := time.Now().Unix()
	if last := l.warned.Load(); now-last < int64(warnEvery/time.Second) || !l.warned.CompareAndSwap(last, now) {
		return
	}
	l.log.LogAttrs(context.Background(), slog.LevelWarn, "PROXY header not understood",
		slog.String("proxy", of.String()), slog.String("error", err.Error()))
}

// SyscallConn gives what writes without waiting its way to the socket.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.tcp.SyscallConn() } //nolint:wrapcheck // the network's own words

// CloseWrite tells the peer that nothing more comes.
func (c *conn) CloseWrite() error { return c.tcp.CloseWrite() } //nolint:wrapcheck // as above

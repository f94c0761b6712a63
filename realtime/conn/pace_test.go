package conn_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
)

// socket is a network connection with a receive buffer, as a real one has and net.Pipe has not.
type socket struct {
	net.Conn
	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	buf     []byte
	err     error
	closed  bool
}

const socketBytes = 128 << 10

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c}
	s.changed = sync.NewCond(&s.mu)
	go s.receive()
	return s
}

func (s *socket) receive() {
	for b := make([]byte, 1<<10); ; {
		n, err := s.Conn.Read(b)
		s.mu.Lock()
		s.buf, s.err = append(s.buf, b[:n]...), err
		s.changed.Broadcast()
		for len(s.buf) >= socketBytes && !s.closed {
			s.changed.Wait()
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *socket) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && s.err == nil {
		s.changed.Wait()
	}
	if len(s.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.buf)
	s.buf = s.buf[n:]
	s.changed.Broadcast()
	return n, nil
}

// SetReadDeadline does nothing: the tests end by what the server ends.
func (s *socket) SetReadDeadline(time.Time) error { return nil }

func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
	return s.Conn.Close()
}

func (s *socket) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(len(s.buf), 64<<10)
}

type socketWire struct {
	wire
	socket *socket
}

func (w socketWire) Waiting() int { return w.socket.Waiting() }

// dialSocket is dial over a connection with a receive buffer.
func (w *world) dialSocket(v packet.Version) *brokertest.Client {
	w.tb.Helper()
	here, there := net.Pipe()
	s := newSocket(there)
	c := conn.New(conn.Config{Broker: w.broker, Observer: w.observer, Logger: slog.New(slog.DiscardHandler)},
		socketWire{wire{conn.NewNetWire(s, 5*time.Second)}, s}, conn.Meta{Transport: "tcp"})
	go w.live.Drive(s, c, c.Receive)
	client := brokertest.NewClient(w.tb, here, v)
	client.Connect("c")
	return brokertest.WithPatience(client, time.Hour)
}

// publishes is a PUBLISH n times over.
func publishes(n, payloadBytes int, qos byte) []byte {
	p := packet.Publish{Topic: []byte("a"), Payload: []byte(strings.Repeat("x", payloadBytes)), QoS: qos, PacketID: 1}
	return []byte(strings.Repeat(string(p.Append(nil, packet.V5)), n))
}

// TestPublishRate is of publish_rate_max and publish_bytes_rate_max (CONTRACT section 3). A second's worth may come at
// once, so that the first message that is held comes a little later.
func TestPublishRate(t *testing.T) {
	t.Parallel()
	const rate, bytesRate = 10, 10_000
	for name, c := range map[string]struct {
		send  func(c *brokertest.Client) // until it fails
		ended bool
	}{
		"as fast as the network takes it": {func(c *brokertest.Client) {
			for b := publishes(100, 10, 0); c.TrySend(b); {
				continue
			}
		}, true},
		"as fast as the network takes it, in large packets": {func(c *brokertest.Client) {
			for b := publishes(1, 20_000, 0); c.TrySend(b); {
				continue
			}
		}, true},
		"at three times the rate": {func(c *brokertest.Client) {
			for b := publishes(3, 10, 0); c.TrySend(b); {
				time.Sleep(time.Second / rate) //nolint:forbidigo // virtual time
			}
		}, true},
		"at three times the rate in bytes": {func(c *brokertest.Client) {
			for b := publishes(1, bytesRate/2, 0); c.TrySend(b); {
				time.Sleep(time.Second / 6) //nolint:forbidigo // virtual time
			}
		}, true},
		"at one and a half times the rate": {func(c *brokertest.Client) {
			for b := publishes(3, 10, 0); c.TrySend(b); {
				time.Sleep(2 * time.Second / rate) //nolint:forbidigo // virtual time
			}
		}, false},
		"much at once, and then nothing": {func(c *brokertest.Client) {
			c.TrySend(publishes(1_000, 10, 0))
		}, false},
		"three times the rate for eight seconds, again and again": {func(c *brokertest.Client) {
			for c.TrySend(publishes(8*3*rate, 10, 0)) {
				time.Sleep(20 * time.Second) //nolint:forbidigo // virtual time
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				l := brokertest.Limits()
				l.PublishRateMax, l.PublishBytesRateMax = rate, bytesRate
				w.SetLimits(l)
				client := w.dialSocket(packet.V5)
				began := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					c.send(client)
				}()
				if c.ended {
					d := brokertest.Expect[*packet.Disconnect](client)
					require.Equal(t, packet.MessageRateTooHigh, d.Reason)
					require.InDelta(t, 12, time.Since(began).Seconds(), 2)
					require.Equal(t, 1, w.observer.Count("refused message_rate_too_high"))
				} else {
					time.Sleep(time.Minute) //nolint:forbidigo // virtual time
					require.Equal(t, []string{"c"}, clientsNamed(w, "c"))
					require.LessOrEqual(t, w.observer.Count("received"), 61*rate)
				}
				client.Close()
				<-sent
			})
		})
	}
	t.Run("a 3.1.1 client is closed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.PublishRateMax = rate
			w.SetLimits(l)
			client := w.dialSocket(packet.V311)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				p := packet.Publish{Topic: []byte("a")}
				for b := []byte(strings.Repeat(string(p.Append(nil, packet.V311)), 100)); client.TrySend(b); {
					continue
				}
			}()
			client.ExpectEnd(0)
			client.Close()
			<-sent
			synctest.Wait() // it is counted after the close
			require.Equal(t, 1, w.observer.Count("disconnected "+packet.MessageRateTooHigh.String()))
		})
	})
	t.Run("a pause that ends between two microseconds ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.PublishRateMax = 3
			w.SetLimits(l)
			c := w.client(packet.V5, "c")
			for id := range uint16(20) {
				c.Publish("a", "p", brokertest.QoS(1, id+1))
				c.ExpectAck(packet.TypePuback, id+1, packet.Success)
			}
		})
	})
	t.Run("who keeps to the Receive Maximum is slowed down and never ended", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.PublishRateMax = rate
			w.SetLimits(l)
			client := w.dialSocket(packet.V5)
			const inflight, messages = 100, 60 * rate
			quota := make(chan struct{}, inflight)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for range messages {
					quota <- struct{}{}
					client.TrySend(publishes(1, 10_000, 1))
				}
			}()
			began := time.Now()
			for range messages {
				client.ExpectAck(packet.TypePuback, 1, packet.Success)
				<-quota
			}
			require.InDelta(t, 60, time.Since(began).Seconds(), 2)
			<-sent
			client.Close()
		})
	})
}

// TestWaiting: what has come over a real connection is seen, and stays.
func TestWaiting(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	client, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	server, err := l.Accept()
	require.NoError(t, err)
	defer func() { require.NoError(t, server.Close()) }()
	w := conn.NewNetWire(server, time.Second)
	require.Zero(t, w.Waiting())
	_, err = fmt.Fprint(client, "hello")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.Waiting() == 5 }, brokertest.Patience, tick)
	b := make([]byte, 5)
	_, err = io.ReadFull(server, b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
	require.Zero(t, w.Waiting())
	// Small packets fill the socket's buffer with what is around them: enough of them must be seen all the same.
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(brokertest.Patience)))
	go func() {
		for small := []byte(strings.Repeat("x", 10)); ; {
			if _, err := client.Write(small); err != nil {
				return
			}
		}
	}()
	require.Eventually(t, func() bool { return w.Waiting() == 64<<10 }, brokertest.Patience, tick)
}

// Package driver feeds network connections to realtime/conn: a goroutine a connection reads, keeps the time, and ends it.
// What is around the MQTT bytes (WebSocket frames, or nothing) is the transport's.
package driver

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/conn"
)

// readBytes is the buffer of a read (chosen: one packet of most devices; more is read in turns).
const readBytes = 4 << 10

// Set holds the live connections of a transport. The zero value is ready; it is safe for concurrent use.
type Set struct {
	mu      sync.Mutex        // guards what follows
	live    map[net.Conn]bool // whether CONNECT was accepted
	closing bool
	empty   chan struct{} // closed when closing and nothing is live any more
}

// Drive reads c, and hands what it reads to feed, until reading ends or feed returns an error; then it ends mqtt. It
// returns when CONNECT has been accepted: another goroutine goes on, whose stack has not grown for TLS and credentials.
// After Close it closes c.
func (s *Set) Drive(c net.Conn, mqtt *conn.Conn, feed func([]byte) error) {
	if !s.add(c) {
		_ = c.Close() //nolint:errcheck // it was never used
		return
	}
	d := &driver{set: s, net: c, mqtt: mqtt, feed: feed}
	if err := d.readUntil(mqtt.Established); err != nil {
		d.end(err)
		return
	}
	s.established(c)
	go d.readOn()
}

// Close closes the connections whose CONNECT has not come, waits until every other one has ended, and closes those that
// are left when ctx ends. Clients are told by the broker's drain, before. It is called once.
func (s *Set) Close(ctx context.Context) {
	s.mu.Lock()
	s.closing, s.empty = true, make(chan struct{})
	if len(s.live) == 0 {
		close(s.empty)
	}
	for c, established := range s.live {
		if !established {
			_ = c.Close() //nolint:errcheck // it is going away
		}
	}
	s.mu.Unlock()
	select {
	case <-s.empty:
		return
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.live {
		_ = c.Close() //nolint:errcheck // it is going away
	}
	s.mu.Unlock()
	<-s.empty
}

func (s *Set) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	if s.live == nil {
		s.live = map[net.Conn]bool{}
	}
	s.live[c] = false
	return true
}

func (s *Set) established(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[c] = true
}

func (s *Set) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, c)
	if s.closing && len(s.live) == 0 {
		close(s.empty)
	}
}

type driver struct {
	set      *Set
	net      net.Conn
	mqtt     *conn.Conn
	feed     func([]byte) error
	received time.Time // when a Control Packet last came
	deadline time.Time // as set on net
}

var buffers = sync.Pool{New: func() any { b := make([]byte, readBytes); return &b }} //nolint:gochecknoglobals // a pool holds no state

func (d *driver) readOn() { d.end(d.readUntil(func() bool { return false })) }

// readUntil reads and feeds until done reports true or reading ends.
func (d *driver) readUntil(done func() bool) error {
	buf, _ := buffers.Get().(*[]byte) //nolint:errcheck // the pool holds nothing else
	defer buffers.Put(buf)
	d.received = time.Now()
	for !done() {
		d.setDeadline()
		d.mqtt.Hear()
		n, err := d.net.Read(*buf)
		if n > 0 {
			packets := d.mqtt.Packets()
			if err := d.feed((*buf)[:n]); err != nil {
				return err
			}
			// Bytes that complete no packet, and a transport's own pings, keep nothing alive [MQTT5-3.1.2-22].
			if d.mqtt.Packets() != packets {
				d.received = time.Now()
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err //nolint:wrapcheck // ends the connection, whose own words they are
		case d.late():
			d.mqtt.TimedOut()
			return err //nolint:wrapcheck // as above
		default:
			d.deadline = d.received // it has passed: it came too early, or was an interruption
		}
	}
	return nil
}

// setDeadline sets a timer only where there is none, or one that is too late: a busy connection sets none for each of
// its packets. One that comes too early is set anew by the next round.
func (d *driver) setDeadline() {
	timeout := d.mqtt.ReadTimeout()
	at := time.Time{}
	if timeout > 0 {
		at = d.received.Add(timeout)
	}
	switch {
	case timeout == 0 && d.deadline.IsZero():
		return
	case timeout > 0 && d.deadline.After(time.Now()) && !d.deadline.After(at):
		return
	}
	d.deadline = at
	_ = d.net.SetReadDeadline(at) //nolint:errcheck // Read tells
}

// late reports whether the time for the next packet has passed, which a deadline of earlier does not say.
func (d *driver) late() bool {
	timeout := d.mqtt.ReadTimeout()
	return timeout > 0 && time.Since(d.received) >= timeout
}

func (d *driver) end(err error) {
	d.mqtt.Ended(err)
	if d.mqtt.EndedByServer() {
		conn.Linger(d.net)
	}
	d.mqtt.Close()
	d.set.remove(d.net)
}

// Package conn is the life of one MQTT connection as a state machine: bytes come in by Receive, packets go out through
// a Wire. It has no blocking read and no goroutine of its own; a driver (realtime/tcp, realtime/ws) feeds it. It
// applies the protocol (versions, packet order, identifiers, aliases, flow control) and leaves routing to the broker.
package conn

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

// Bounds before anything is known of a client.
const (
	// firstPacketBytesMax bounds CONNECT (CONTRACT section 3, packet_bytes_max).
	firstPacketBytesMax = 16 << 10
	// connectTimeout is how long a connection may take to say CONNECT (chosen; Mosquitto closes after the same order).
	connectTimeout = 10 * time.Second
	// farewellTimeout is how long a connection that the server ends may take to read the rest.
	farewellTimeout = 2 * time.Second
	// controlBytesMax bounds answers that a client has asked for and does not read.
	controlBytesMax = 1 << 20
)

// Meta is what a driver knows of a connection.
type Meta struct {
	Remote     netip.AddrPort
	Transport  string // "tcp", "tls", "ws" or "wss"
	PathApp    string // the app in the WebSocket path
	QueryToken string // ?token= of the WebSocket URL
	Origin     string
}

// Config is what all connections share.
type Config struct {
	Broker   *broker.Broker
	Observer broker.Observer
	Logger   *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Conn is one connection. Receive, Ended, Close, Refuse and TimedOut are the driver's, called from one goroutine at a time;
// the methods of broker.Outbound may be called from any.
type Conn struct {
	cfg  Config
	wire Wire
	meta Meta

	// The driver's goroutine alone uses these.
	decoder   *packet.Decoder
	client    *broker.Client
	aliases   map[uint16]string // Topic Alias → Topic Name, of the client's PUBLISH packets
	lastTopic string            // saves the string of a topic that comes again and again
	willOff   bool              // DISCONNECT said that no will is to be sent
	// DISCONNECT changed the Session Expiry Interval.
	expiryTold bool
	expiry5    time.Duration
	packets    uint64 // received
	pace       pace

	retainsNothing bool // CONNACK has said Retain Available 0

	hears atomic.Bool // hearing is not nil

	limits atomic.Pointer[broker.Limits] // replaced as a whole; set when CONNECT is accepted

	mu            sync.Mutex    // guards what follows
	hearing       chan struct{} // closed when the driver has handled all that has come
	stateChanged  *sync.Cond    // the writer has stopped, or acknowledgements have left
	state         state
	version       packet.Version
	settings      broker.Settings
	keepAlive     time.Duration
	expiryAsked   bool // CONNECT asked for a session that outlives the connection
	problemInfo   bool // the client wants Reason Strings
	packetSizeMax int  // the client's Maximum Packet Size; 0: none
	session       *session.Session
	durable       bool // the session outlives the connection
	inboundBefore int  // QoS 2 messages of the client that a connection before has left without their PUBREL
	acks          ackQueue
	out           outbox
	authResult    bool // subscribed to $auth/result
	endReason     packet.ReasonCode
	endCause      string
	expiry        *time.Timer
}

type state int

const (
	stateConnecting state = iota // CONNECT has not been accepted
	stateOpen
	stateClosing // DISCONNECT is on its way out
	stateClosed
)

// errClosed ends reading after the server has decided to end the connection.
var errClosed = errors.New("connection is ending")

// New returns the state machine of a fresh network connection.
func New(cfg Config, w Wire, m Meta) *Conn {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Conn{cfg: cfg, wire: w, meta: m, decoder: packet.NewDecoder(firstPacketBytesMax), problemInfo: true}
	c.stateChanged = sync.NewCond(&c.mu)
	return c
}

// now is as precise as the store.
func (c *Conn) now() time.Time { return c.cfg.Now().UTC().Truncate(time.Microsecond) }

// Established reports whether CONNECT was accepted.
func (c *Conn) Established() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateOpen
}

// ReadTimeout is how long the next Control Packet may take: one and a half Keep Alives [MQTT5-3.1.2-22]; 0 is forever.
func (c *Conn) ReadTimeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateConnecting {
		return connectTimeout
	}
	return c.keepAlive + c.keepAlive/2
}

// Packets returns how many Control Packets have come; it is the driver's.
func (c *Conn) Packets() uint64 { return c.packets }

// Receive takes bytes from the network and handles all packets that are complete. It may block: in CONNECT, and while
// the client is held back. b is free again when it returns. After an error the driver stops reading and calls Ended.
func (c *Conn) Receive(b []byte) error {
	marks := broker.NewMarks()
	defer marks.Release()
	c.decoder.Feed(b)
	for {
		p, err := c.decoder.Next()
		if err != nil {
			c.refuseBytes(err)
			return err
		}
		if p == nil {
			c.decoder.Release()
			break
		}
		c.packets++
		if err := c.handle(p, marks); err != nil {
			return err
		}
	}
	c.mu.Lock()
	ending := c.state >= stateClosing
	// What ended without a word is hung up by a Flush too.
	pending := (ending || c.out.pending()) && !c.out.marked
	if pending {
		c.out.marked = true
	}
	c.mu.Unlock()
	if pending {
		marks.Mark(c)
	}
	if ending {
		return errClosed
	}
	return nil
}

func (c *Conn) handle(p packet.Packet, marks *broker.Marks) error {
	if connect, ok := p.(*packet.Connect); ok {
		return c.connect(connect)
	}
	c.mu.Lock()
	open := c.state == stateOpen
	c.mu.Unlock()
	if !open {
		return errClosed
	}
	switch p := p.(type) {
	case *packet.Publish:
		return c.publish(p, marks)
	case *packet.Ack:
		return c.acknowledge(p)
	case *packet.Subscribe:
		marks.Flush() // it may wait for a commit
		return c.subscribe(p)
	case *packet.Unsubscribe:
		marks.Flush() // likewise
		return c.unsubscribe(p)
	case *packet.Ping:
		return c.answer(&packet.Ping{Kind: packet.TypePingresp})
	case *packet.Disconnect:
		return c.disconnected(p)
	case *packet.Auth:
		// Only a client that named a method at CONNECT may send AUTH [MQTT5-4.12.0-7]; none is accepted there yet.
		return c.fail(packet.ProtocolError, "AUTH without an authentication method")
	}
	return c.fail(packet.ProtocolError, "unexpected packet")
}

// answer queues a packet of the server's.
func (c *Conn) answer(p packet.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answerLocked(p)
}

func (c *Conn) answerLocked(p packet.Packet) error {
	switch {
	case c.state >= stateClosing: // nothing follows DISCONNECT [MQTT5-3.14.4-1]
		return errClosed
	case len(c.out.control) > controlBytesMax:
		c.endLocked(packet.QuotaExceeded, "client does not read its answers")
		return errClosed
	case !c.appendControlLocked(p):
		c.endLocked(packet.PacketTooLarge, broker.CauseAnswer)
		return errClosed
	}
	return nil
}

// appendControlLocked queues a packet, unless it is larger than the client's Maximum Packet Size even without what it
// may go without [MQTT5-3.1.2-24].
func (c *Conn) appendControlLocked(p packet.Packet) bool {
	before := len(c.out.control)
	c.out.control = p.Append(c.out.control, c.version)
	if c.packetSizeMax > 0 && len(c.out.control)-before > c.packetSizeMax {
		c.out.control = c.out.control[:before]
		return withoutExtras(p) && c.appendControlLocked(p)
	}
	return true
}

// disconnected takes a client's DISCONNECT: the will is discarded unless it asks for it [MQTT5-3.14.4-3].
func (c *Conn) disconnected(p *packet.Disconnect) error {
	if p.Properties != nil && p.Properties.Has.Contains(packet.PropSessionExpiry) && p.Properties.SessionExpiry != 0 && !c.expiryAsked {
		return c.fail(packet.ProtocolError, "session expiry raised from 0 (MQTT 5.0 section 3.14.2.2.2)")
	}
	c.willOff = p.Reason == packet.Success
	if p.Properties != nil && p.Properties.Has.Contains(packet.PropSessionExpiry) {
		c.expiryTold = true
		c.expiry5 = min(time.Duration(p.Properties.SessionExpiry)*time.Second, c.limits.Load().SessionExpiryMax)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endReason, c.endCause = p.Reason, "client disconnected"
	if c.state == stateOpen {
		c.dropLocked()
		c.state = stateClosing
		c.out.silent = true
		c.stateChanged.Broadcast()
	}
	return errClosed
}

package brokertest

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

// Patience is how long a Client waits for what must come; tests in a synctest bubble pay nothing for it.
const Patience = 10 * time.Second

// Client speaks MQTT over a connection, packet by packet. It is used by one goroutine.
type Client struct {
	tb      testing.TB
	conn    net.Conn
	version packet.Version
	decoder *packet.Decoder
	ended   error
	wait    time.Duration
}

// NewClient returns a client of a version on c, which it closes with the test.
func NewClient(tb testing.TB, c net.Conn, v packet.Version) *Client {
	tb.Helper()
	d := packet.NewDecoder(256 << 20)
	d.SetVersion(v)
	tb.Cleanup(func() { _ = c.Close() }) //nolint:errcheck // it may be closed already
	return &Client{tb: tb, conn: c, version: v, decoder: d, wait: Patience}
}

// WithPatience makes c wait longer for what must come.
func WithPatience(c *Client, wait time.Duration) *Client {
	c.wait = wait
	return c
}

// Connect says CONNECT with a clean start under a client id, and wants it accepted. change may alter the packet.
func (c *Client) Connect(id string, change ...func(*packet.Connect)) *packet.Connack {
	c.tb.Helper()
	p := &packet.Connect{Version: c.version, CleanStart: true, ClientID: id}
	for _, f := range change {
		f(p)
	}
	c.Send(p)
	ack := Expect[*packet.Connack](c)
	require.Equal(c.tb, packet.Success, ack.Reason)
	return ack
}

// Send writes packets.
func (c *Client) Send(packets ...packet.Packet) {
	c.tb.Helper()
	var b []byte
	for _, p := range packets {
		b = p.Append(b, c.version)
	}
	c.SendBytes(b)
}

// SendBytes writes bytes.
func (c *Client) SendBytes(b []byte) {
	c.tb.Helper()
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.wait)) //nolint:errcheck // Write tells
	_, err := c.conn.Write(b)
	require.NoError(c.tb, err)
}

// TrySend writes bytes and reports whether that went well.
func (c *Client) TrySend(b []byte) bool {
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.wait)) //nolint:errcheck // Write tells
	_, err := c.conn.Write(b)
	return err == nil
}

// Publish says PUBLISH.
func (c *Client) Publish(topic, payload string, change ...func(*packet.Publish)) {
	c.tb.Helper()
	p := &packet.Publish{Topic: []byte(topic), Payload: []byte(payload)}
	for _, f := range change {
		f(p)
	}
	c.Send(p)
}

// QoS sets the QoS and the Packet Identifier of a PUBLISH.
func QoS(qos byte, id uint16) func(*packet.Publish) {
	return func(p *packet.Publish) { p.QoS, p.PacketID = qos, id }
}

// Retained makes a PUBLISH retained.
func Retained(p *packet.Publish) { p.Retain = true }

// Subscribe says SUBSCRIBE for one filter and returns the answer to it.
func (c *Client) Subscribe(filter string, qos byte, change ...func(*packet.Subscription)) packet.ReasonCode {
	c.tb.Helper()
	s := packet.Subscription{Filter: filter, QoS: qos}
	for _, f := range change {
		f(&s)
	}
	c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{s}})
	ack := Expect[*packet.Suback](c)
	require.Len(c.tb, ack.Reasons, 1)
	if c.version == packet.V5 && ack.Reasons[0].Failed() {
		c.expectReasonString(ack.Properties)
	} else {
		require.Nil(c.tb, ack.Properties)
	}
	return ack.Reasons[0]
}

// Next returns the next packet, or an error when the connection has ended.
func (c *Client) Next() (packet.Packet, error) {
	c.tb.Helper()
	for {
		p, err := c.decoder.Next()
		if err != nil || p != nil {
			return p, err //nolint:wrapcheck // of a test
		}
		if c.ended != nil {
			return nil, c.ended
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(c.wait)) //nolint:errcheck // Read tells
		b := make([]byte, 64<<10)
		n, err := c.conn.Read(b)
		c.decoder.Feed(b[:n])
		c.ended = err
	}
}

// Expect wants the next packet to be a P.
func Expect[P packet.Packet](c *Client) P {
	c.tb.Helper()
	next, err := c.Next()
	require.NoError(c.tb, err)
	p, ok := next.(P)
	require.True(c.tb, ok, "got %T %+v", next, next)
	return p
}

// ExpectMessage wants the next packet to be a PUBLISH with this topic and payload.
func (c *Client) ExpectMessage(topic, payload string) packet.Publish {
	c.tb.Helper()
	p := Expect[*packet.Publish](c)
	require.Equal(c.tb, topic+" "+payload, string(p.Topic)+" "+string(p.Payload))
	return *p
}

// ExpectAck wants the next packet to be an acknowledgement: of 5.0 with a Reason String where it fails, and nothing
// more where it does not.
func (c *Client) ExpectAck(kind packet.Type, id uint16, reason packet.ReasonCode) {
	c.tb.Helper()
	a := *Expect[*packet.Ack](c)
	if c.version == packet.V5 && reason.Failed() {
		c.expectReasonString(a.Properties)
		a.Properties = nil
	}
	require.Equal(c.tb, packet.Ack{Kind: kind, PacketID: id, Reason: reason}, a)
}

// expectReasonString wants a sentence.
func (c *Client) expectReasonString(p *packet.Properties) {
	c.tb.Helper()
	require.NotNil(c.tb, p)
	require.Equal(c.tb, packet.PropReasonString, p.Has)
	require.Regexp(c.tb, `^[A-Z].*\.$`, p.ReasonString)
}

// ExpectEnd wants the connection to end, after DISCONNECT with a reason, and a sentence about it, where the version has
// it.
func (c *Client) ExpectEnd(reason packet.ReasonCode) {
	c.tb.Helper()
	p, err := c.Next()
	if c.version == packet.V5 {
		d, ok := p.(*packet.Disconnect)
		require.True(c.tb, ok, "got %T %+v, %v", p, p, err)
		require.Equal(c.tb, reason, d.Reason)
		c.expectReasonString(d.Properties)
		p, err = c.Next()
	}
	require.Nil(c.tb, p)
	require.Error(c.tb, err)
	var timeout net.Error
	require.False(c.tb, errors.As(err, &timeout) && timeout.Timeout(), "still open")
}

// ExpectNothing wants nothing but the answers to two PINGREQ: everything that was said before has been handled, and
// what was queued for the client before the first has come before the second answer.
func (c *Client) ExpectNothing() {
	c.tb.Helper()
	for range 2 {
		c.Send(&packet.Ping{Kind: packet.TypePingreq})
		Expect[*packet.Ping](c)
	}
}

// Drain returns the messages that have been queued for the client by now.
func (c *Client) Drain() []packet.Publish {
	c.tb.Helper()
	var all []packet.Publish
	for range 2 {
		c.Send(&packet.Ping{Kind: packet.TypePingreq})
		for {
			p, err := c.Next()
			require.NoError(c.tb, err)
			if m, ok := p.(*packet.Publish); ok {
				all = append(all, *m)
				continue
			}
			break
		}
	}
	return all
}

// ExpectSilence wants the connection to end without a word.
func (c *Client) ExpectSilence() {
	c.tb.Helper()
	WithPatience(c, time.Hour)
	p, err := c.Next()
	require.Nil(c.tb, p)
	require.Error(c.tb, err)
}

// Close closes the connection without DISCONNECT.
func (c *Client) Close() { _ = c.conn.Close() } //nolint:errcheck // it may be closed already

package conn

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// connect takes the CONNECT: authenticate, app and limits, client id, takeover, CONNACK with the server's limits.
func (c *Conn) connect(p *packet.Connect) error {
	c.mu.Lock()
	c.version = p.Version
	c.problemInfo = p.Properties == nil || !p.Properties.Has.Contains(packet.PropRequestProblemInfo) || p.Properties.RequestProblemInfo == 1
	if p.Properties != nil && p.Properties.Has.Contains(packet.PropMaximumPacketSize) {
		c.packetSizeMax = int(p.Properties.MaximumPacketSize)
	}
	c.mu.Unlock()
	if reason := c.judgeConnect(p); reason.Failed() {
		return c.refuseConnect(reason, "protocol_error", "This authentication method is not known here: name none, and send a token or key as the password.")
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	grant, err := c.cfg.Broker.Authenticate(ctx, c.credentials(p))
	if err != nil {
		return c.refuseConnectFor(err)
	}
	limits := grant.Limits()
	if len(p.ClientID) > limits.TopicBytesMax {
		return c.refuseConnect(packet.ClientIdentifierNotValid, "client_id", "The Client Identifier is longer than the app's topic_bytes_max: use a shorter one.")
	}
	if p.Will != nil {
		if p.Will.Retain && p.Version == packet.V5 && !limits.Retains() {
			return c.refuseConnect(packet.RetainNotSupported, "not_allowed", broker.Farewell(packet.RetainNotSupported, "")) // [MQTT5-3.2.2-13]
		}
		if err := topic.ValidateName(p.Will.Topic, topic.Limits{LevelsMax: limits.TopicLevelsMax, BytesMax: limits.TopicBytesMax}); err != nil {
			return c.refuseConnect(packet.TopicNameInvalid, "not_allowed", "The Will Topic is not valid, or longer or deeper than the app allows: shorten it.")
		}
	}
	req := broker.ConnectRequest{
		Credentials: c.credentials(p), Version: p.Version, CleanStart: p.CleanStart,
		KeepAlive: serverKeepAlive(p, limits), Will: c.will(p), Out: c, SessionExpiry: sessionExpiry(p, limits),
	}
	c.prepare(p, grant, limits, req.KeepAlive)
	client, err := c.cfg.Broker.Connect(grant, req)
	if err != nil {
		return c.refuseConnectFor(err)
	}
	c.client = client
	c.accept(p, grant, limits, req)
	replays := c.cfg.Broker.Begin(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.replays = append(c.out.replays, replays...)
	return nil
}

// sessionExpiry is the Session Expiry Interval in force: at most the app's limit, of which a 5.0 client is told
// [MQTT5-3.2.2-21]. An older client's session without Clean Session lasts as long as that.
func sessionExpiry(p *packet.Connect, limits broker.Limits) time.Duration {
	switch {
	case p.Version != packet.V5 && p.CleanStart:
		return 0
	case p.Version != packet.V5:
		return limits.SessionExpiryMax
	case p.Properties == nil:
		return 0
	}
	return min(time.Duration(p.Properties.SessionExpiry)*time.Second, limits.SessionExpiryMax)
}

// judgeConnect checks what neither the codec nor the broker knows.
func (c *Conn) judgeConnect(p *packet.Connect) packet.ReasonCode {
	switch {
	case p.Version == packet.V31 && p.ClientID == "":
		return packet.ClientIdentifierNotValid
	case p.Version == packet.V311 && p.ClientID == "" && !p.CleanStart:
		return packet.ClientIdentifierNotValid // [MQTT311-3.1.3-8]
	case p.Properties != nil && p.Properties.Has.Contains(packet.PropAuthMethod):
		return packet.BadAuthenticationMethod // [MQTT5-4.12.0-1]
	}
	return packet.Success
}

func (c *Conn) credentials(p *packet.Connect) broker.Credentials {
	return broker.Credentials{
		PathApp: c.meta.PathApp, QueryToken: c.meta.QueryToken, Origin: c.meta.Origin,
		HasUsername: p.HasUsername, Username: p.Username, HasPassword: p.HasPassword, Password: p.Password,
		ClientID: p.ClientID, Remote: c.meta.Remote, Transport: c.meta.Transport,
	}
}

// serverKeepAlive is the Keep Alive in force: a 5.0 client can be told a shorter one [MQTT5-3.1.2-21].
func serverKeepAlive(p *packet.Connect, limits broker.Limits) time.Duration {
	asked := time.Duration(p.KeepAlive) * time.Second
	if p.Version == packet.V5 && limits.KeepAliveMax > 0 && (asked == 0 || asked > limits.KeepAliveMax) {
		return limits.KeepAliveMax
	}
	return asked
}

func (c *Conn) will(p *packet.Connect) *broker.Will {
	if p.Will == nil {
		return nil
	}
	m := &message.Message{
		Topic: p.Will.Topic, Payload: p.Will.Payload, QoS: p.Will.QoS, Retain: p.Will.Retain,
		Properties: p.Will.Properties.AppendForwarded(nil),
	}
	w := &broker.Will{Message: m}
	if props := p.Will.Properties; props != nil {
		w.Delay = time.Duration(props.WillDelay) * time.Second
		if props.Has.Contains(packet.PropMessageExpiry) {
			w.Expiry = time.Duration(props.MessageExpiry) * time.Second
			w.Expires = true
		}
	}
	return w
}

// prepare sets up what deliveries need, before the broker can make any.
func (c *Conn) prepare(p *packet.Connect, g broker.Grant, limits broker.Limits, keepAlive time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits.Store(&limits)
	c.settings, c.keepAlive = g.Settings(), keepAlive
	c.session = session.New()
	c.session.SetBytesMax(limits.QueuedBytesMax)
	c.retainsNothing = p.Version == packet.V5 && !limits.Retains()
	if p.Properties == nil {
		return
	}
	if p.Properties.Has.Contains(packet.PropReceiveMaximum) {
		c.session.SetReceiveMaximum(p.Properties.ReceiveMaximum)
	}
	// Each alias holds a topic: the client gets no more of them than it may use itself.
	c.out.aliasMax = min(p.Properties.TopicAliasMaximum, limits.TopicAliasMaximum)
	c.expiryAsked = p.Properties.SessionExpiry > 0
}

func (c *Conn) accept(p *packet.Connect, g broker.Grant, limits broker.Limits, req broker.ConnectRequest) {
	ack := &packet.Connack{SessionPresent: c.client.Present()}
	if p.Version == packet.V5 {
		ack.Properties = connackProperties(p, c.client.ID(), limits, req)
		addResponseInformation(ack.Properties, p, c.client, limits)
	}
	c.decoder.SetPacketBytesMax(limits.PacketBytesMax)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateConnecting {
		return
	}
	// CONNACK is the first packet that the client gets [MQTT5-3.2.0-1]: deliveries wait while the state is connecting.
	if c.answerLocked(ack) != nil {
		return
	}
	if c.client.Durable() {
		c.takeSessionLocked(p)
	}
	c.state = stateOpen
	c.armExpiryLocked(g)
}

// takeSessionLocked works on the session that outlives the connection.
func (c *Conn) takeSessionLocked(p *packet.Connect) {
	c.durable, c.session = true, c.client.State()
	c.inboundBefore = c.session.InboundCount()
	receiveMaximum := uint16(0)
	if p.Properties != nil {
		receiveMaximum = p.Properties.ReceiveMaximum
	}
	c.session.SetReceiveMaximum(receiveMaximum)
	c.session.SetBytesMax(c.limits.Load().QueuedBytesMax)
	c.resumeLocked(c.client.Resend(), receiveMaximum)
}

func connackProperties(p *packet.Connect, clientID string, limits broker.Limits, req broker.ConnectRequest) *packet.Properties {
	props := &packet.Properties{
		Has:               packet.PropReceiveMaximum | packet.PropTopicAliasMaximum | packet.PropMaximumPacketSize,
		ReceiveMaximum:    limits.ReceiveMaximum,
		TopicAliasMaximum: limits.TopicAliasMaximum,
		MaximumPacketSize: uint32(min(limits.PacketBytesMax, math.MaxInt32)), //nolint:gosec // bounded
	}
	if !limits.Retains() {
		props.Has |= packet.PropRetainAvailable // and RetainAvailable 0
	}
	if p.ClientID == "" {
		props.Has |= packet.PropAssignedClientID // [MQTT5-3.2.2-16]
		props.AssignedClientID = clientID
	}
	if req.KeepAlive != time.Duration(p.KeepAlive)*time.Second {
		props.Has |= packet.PropServerKeepAlive
		props.ServerKeepAlive = uint16(req.KeepAlive / time.Second) //nolint:gosec // a limit of the app, checked there
	}
	if p.Properties != nil && req.SessionExpiry != time.Duration(p.Properties.SessionExpiry)*time.Second {
		props.Has |= packet.PropSessionExpiry                         // [MQTT5-3.2.2-21]
		props.SessionExpiry = uint32(req.SessionExpiry / time.Second) //nolint:gosec // at most what was asked for
	}
	return props
}

// armExpiryLocked ends the connection when its credential ends.
func (c *Conn) armExpiryLocked(g broker.Grant) {
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	if at := g.Expires(); !at.IsZero() {
		c.expiry = time.AfterFunc(at.Sub(c.now()), func() { c.cfg.Broker.Expire(c.client) })
	}
}

func (c *Conn) refuseConnectFor(err error) error {
	o := broker.OutcomeOf(err)
	counted := o.Code
	switch {
	case errors.Is(err, broker.ErrBadCredentials):
		counted = "auth_failed"
	case o.Reason == packet.UnspecifiedError:
		c.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "connect failed", slog.String("error", err.Error()))
	}
	return c.refuseConnect(o.Reason, counted, o.Sentence)
}

// refuseConnect sends CONNACK with the Reason Code and what to do, and closes [MQTT5-3.1.4-2].
func (c *Conn) refuseConnect(reason packet.ReasonCode, counted, sentence string) error {
	c.cfg.Observer.Refused(counted)
	c.mu.Lock()
	if c.state == stateConnecting {
		_ = c.answerLocked(&packet.Connack{Reason: reason, Properties: c.problemLocked(sentence)}) //nolint:errcheck // the first answer has room
		c.endLocked(reason, counted)
	}
	c.mu.Unlock()
	c.Flush()
	return errClosed
}

// GrantChanged implements broker.Outbound.
func (c *Conn) GrantChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		return
	}
	g := c.client.Grant()
	limits, settings := g.Limits(), g.Settings()
	// What CONNACK has announced holds for the connection.
	announced := c.limits.Load()
	limits.ReceiveMaximum, limits.TopicAliasMaximum = announced.ReceiveMaximum, announced.TopicAliasMaximum
	limits.PacketBytesMax = announced.PacketBytesMax
	c.limits.Store(&limits)
	c.settings = settings
	c.armExpiryLocked(g)
}

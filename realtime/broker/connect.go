package broker

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"log/slog"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// ConnectRequest is a CONNECT as the connection has read it.
type ConnectRequest struct {
	Credentials   Credentials
	Version       packet.Version
	CleanStart    bool
	KeepAlive     time.Duration
	SessionExpiry time.Duration // as granted: at most the app's limit
	Will          *Will
	Out           Outbound
}

// Will is the Will Message of a connection and its Will Delay Interval.
type Will struct {
	Message *message.Message
	Delay   time.Duration
	Expires bool          // it has a Message Expiry Interval
	Expiry  time.Duration // counted from when it is sent
}

// Authenticate tells who is connecting, before the rest of the CONNECT is judged against the limits of its app.
func (b *Broker) Authenticate(ctx context.Context, c Credentials) (Grant, error) {
	if b.draining.Load() {
		return nil, ErrDraining
	}
	return b.cfg.Authenticator.Authenticate(ctx, c)
}

// Renew puts a new token in the place of the client's (same app, subject and client id), for AUTH and $auth/token.
func (b *Broker) Renew(ctx context.Context, c *Client, token string) error {
	g, err := b.cfg.Authenticator.Renew(ctx, c.Grant(), token)
	if err != nil {
		return err
	}
	c.grant.Store(&g)
	// A key deleted since the token was verified has cut off only those who hung on it then.
	if !g.Alive() {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: causeGoneRenewed, withoutWill: true})
		return ErrBadCredentials
	}
	b.rejudge(c)
	c.out.GrantChanged()
	return nil
}

// Connect lets an authenticated client in, ending an older connection of the same Client Identifier
// [MQTT5-3.1.4-3]. The old one's Will Message is sent before Connect returns. The session never outlives its
// connection yet, so no session is ever present.
func (b *Broker) Connect(g Grant, req ConnectRequest) (*Client, error) {
	a := b.app(g.App())
	if a == nil {
		return nil, ErrBadCredentials
	}
	id := req.Credentials.ClientID
	if id == "" {
		id = assignedClientID()
		g = g.Assigned(id)
	}
	if w := req.Will; w != nil {
		w.Message.Publisher = id
		if err := b.judgeWill(g, w); err != nil {
			return nil, err
		}
	}
	c := b.newClient(a, id, g, req)
	deadline := time.NewTimer(strangerWait)
	defer deadline.Stop()
	for {
		old, gone, err := b.admit(a, c, g.Limits().ConnectionsMax)
		switch {
		case err != nil:
			return nil, err
		case gone != nil:
			select {
			case <-gone:
			case <-deadline.C:
				return nil, ErrClientIDNotValid
			}
			continue
		case old != nil:
			b.expel(old, expulsion{reason: packet.SessionTakenOver, cause: causeTakenOver})
			continue
		}
		break
	}
	b.cfg.Observer.Connected(c.transport, c.version)
	// A key or rule deleted between authentication and admission has notified only those it found.
	if !g.Alive() {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: causeGoneMeantime, withoutWill: true})
		return nil, ErrBadCredentials
	}
	return c, nil
}

func (b *Broker) newClient(a *app, id string, g Grant, req ConnectRequest) *Client {
	c := &Client{
		app: a, id: id, number: b.lastID.Add(1), out: req.Out, version: req.Version,
		transport: req.Credentials.Transport, remote: req.Credentials.Remote.String(), connectedAt: b.now(),
		keepAlive: req.KeepAlive, expiry: req.SessionExpiry, cleanStart: req.CleanStart, will: req.Will,
	}
	c.grant.Store(&g)
	return c
}

// strangerWait is how long a CONNECT waits for another subject's connection to end that holds its client id: whoever
// signs out and in again as somebody else may be heard before the old connection's end (chosen: above a round trip).
const strangerWait = 250 * time.Millisecond

// admit puts c in its place, or returns the older connection that holds it: old to be taken over or, where that is
// another subject's, what tells of its end. A client id belongs to the subject that uses it (CONTRACT section 4).
func (b *Broker) admit(a *app, c *Client, connectionsMax int) (old *Client, gone <-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.draining.Load() {
		return nil, nil, ErrDraining
	}
	if a.closed.Load() {
		return nil, nil, ErrBadCredentials
	}
	if old = a.clients[c.id]; old != nil {
		if old.Grant().Subject() == c.Grant().Subject() {
			return old, nil, nil
		}
		if old.gone == nil {
			old.gone = make(chan struct{})
		}
		return nil, old.gone, nil
	}
	if len(a.clients) >= connectionsMax {
		return nil, nil, ErrConnectionsMax
	}
	a.clients[c.id] = c
	return nil, nil, nil
}

// assignedClientID makes the Assigned Client Identifier [MQTT5-3.1.3-7]: 80 random bits.
func assignedClientID() string {
	var raw [10]byte
	rand.Read(raw[:]) // it never fails
	return "auto-" + strings.ToLower(base32.StdEncoding.EncodeToString(raw[:]))
}

// expulsion says why the server ends a connection.
type expulsion struct {
	err         error // of the table of outcomes; or
	reason      packet.ReasonCode
	cause       string // for the log
	withoutWill bool
}

// expel ends a connection from the server's side: out of the tree at once, the network afterwards.
func (b *Broker) expel(c *Client, e expulsion) {
	if e.err != nil {
		e.reason = OutcomeOf(e.err).Reason
	}
	c.out.Disconnect(e.reason, e.cause)
	b.End(c, Ending{SendWill: !e.withoutWill, Reason: e.reason, Cause: e.cause})
}

// Ending is how a connection ended.
type Ending struct {
	SendWill bool
	Reason   packet.ReasonCode
	Cause    string
}

// End takes a client out: its subscriptions, its place, its will [MQTT5-3.1.2-8]. Only the first call for a client
// counts, so that a late end never touches a newer session of the same Client Identifier.
func (b *Broker) End(c *Client, e Ending) {
	if c.ended.Swap(true) {
		return
	}
	a := c.app
	a.mu.Lock()
	if a.clients[c.id] == c {
		delete(a.clients, c.id)
	}
	if c.gone != nil {
		close(c.gone)
	}
	c.mu.Lock()
	for _, s := range c.subs {
		a.removeLocked(s)
	}
	c.subs = nil
	will := c.will
	c.will = nil
	c.mu.Unlock()
	a.mu.Unlock()
	b.cfg.Observer.Disconnected(e.Reason)
	b.log.LogAttrs(context.Background(), slog.LevelDebug, "client disconnected", slog.String("app", a.id),
		slog.String("client_id", c.id), slog.Uint64("connection", c.number), slog.String("reason", e.Reason.String()),
		slog.String("cause", e.Cause))
	if e.SendWill && will != nil {
		b.sendWill(c, will)
	}
}

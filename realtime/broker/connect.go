package broker

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
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
// [MQTT5-3.1.4-3], whose Will Message is sent, where one is due, before Connect returns. It resumes the session of that
// identifier or, with Clean Start, ends it [MQTT5-3.1.2-4, MQTT5-3.1.2-5]; what CONNACK promises of a session that outlives
// its connection is committed when Connect returns. The client receives nothing before Begin.
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
	limits := g.Limits()
	ended, tookOver, err := b.takePlace(a, c, &limits)
	if err != nil {
		return nil, err
	}
	b.cfg.Observer.Connected(c.transport, c.version)
	if ended != nil {
		// Who comes back in time sends no will, though it begins anew [MQTT5-3.1.2-8]; the end of a session whose connection it
		// takes over does (MQTT 5.0 section 3.1.4).
		b.endSession(ended, !ended.willOnly && (tookOver || !ended.willMayRest(b.now())))
	}
	if err := b.keepSession(c, ended != nil); err != nil {
		b.End(c, Ending{Reason: OutcomeOf(err).Reason, Cause: "session not stored: " + err.Error(), unborn: !c.present})
		return nil, err
	}
	// A key or rule deleted between authentication and admission has notified only those it found.
	if !g.Alive() {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: causeGoneMeantime, withoutWill: true})
		return nil, ErrBadCredentials
	}
	return c, nil
}

// takePlace puts c in its place, taking over from whoever holds it. ended is the session that gives way to c's.
func (b *Broker) takePlace(a *app, c *Client, limits *Limits) (ended *persistentSession, tookOver bool, err error) {
	deadline := time.NewTimer(strangerWait)
	defer deadline.Stop()
	for {
		ended, old, gone, err := b.admit(a, c, limits)
		switch {
		case err != nil:
			return nil, tookOver, err
		case gone != nil:
			select {
			case <-gone:
			case <-deadline.C:
				return nil, tookOver, ErrClientIDNotValid
			}
		case old != nil:
			tookOver = true
			old.hearOut()
			b.expel(old, expulsion{reason: packet.SessionTakenOver, cause: causeTakenOver, takenOver: !c.cleanStart})
		default:
			return ended, tookOver, nil
		}
	}
}

// hearOutMax bounds how long a CONNECT waits for what the connection that it takes over has not handled yet (chosen: above
// what that takes on a machine with ten times the work that it has cores for).
const hearOutMax = 300 * time.Millisecond

// hearOut lets a connection that is about to be taken over handle what its client has already sent: whoever disconnects
// and comes back at once has discarded its will by that DISCONNECT [MQTT5-3.14.4-3], though its new connection is seen
// first.
func (c *Client) hearOut() {
	heard := c.out.HearOut()
	if c.ended.Load() {
		return
	}
	timer := time.NewTimer(hearOutMax)
	defer timer.Stop()
	select {
	case <-heard:
	case <-timer.C:
	}
}

// keepSession commits what CONNACK promises: the row of a session that outlives the connection, and the end of the one
// before. The will of a session that does not is stored without being waited for.
func (b *Broker) keepSession(c *Client, ended bool) error {
	p := c.session
	if p == nil && !ended {
		if c.trails {
			// What the client has published before comes before what it publishes now [MQTT5-4.6.0-6]. Its outcome is not this
			// connection's concern.
			_ = b.settled(context.Background(), c.app) //nolint:errcheck // see above
		}
		return nil
	}
	w := &write{app: c.app, stored: true}
	if p != nil {
		w.session, w.keep = p, true
		if !c.present {
			w.change = &SessionChange{App: c.app.uid, ClientID: c.id, Delete: true}
		}
	}
	if p != nil && p.willOnly && !ended {
		b.committer.put(w)
		return nil
	}
	w.done = make(chan error, 1)
	b.committer.put(w)
	if b.committer.ended() {
		return ErrDraining
	}
	if err := <-w.done; err != nil {
		return err
	}
	if !c.present {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.StoreWait)
	defer cancel()
	limits := c.Grant().Limits()
	return b.patiently(ctx, func() error {
		if _, err := b.cutBacklog(ctx, p, &limits); err != nil {
			return err
		}
		return b.readUnacknowledged(ctx, c)
	})
}

// readUnacknowledged reads what is to be sent again from the log.
func (b *Broker) readUnacknowledged(ctx context.Context, c *Client) error {
	c.resend = nil
	var positions []message.Position
	c.session.state.Resend(func(e *session.Entry) bool {
		c.resend = append(c.resend, *e)
		if e.State == session.StateSent {
			positions = append(positions, e.Position)
		}
		return true
	})
	if len(positions) == 0 {
		return nil
	}
	messages, err := b.cfg.Store.Messages(ctx, c.app.uid, positions)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what
	}
	at := make(map[message.Position]*message.Message, len(messages))
	for _, m := range messages {
		at[m.Position] = m
	}
	identifiers := c.session.identifiers()
	for i := range c.resend {
		e := &c.resend[i]
		if e.Message = at[e.Position]; e.Message != nil && e.SubscriptionIDs == nil {
			e.SubscriptionIDs = identifiers(e.Message.Topic, e.Shared)
		}
	}
	return nil
}

// patiently tries until ctx ends while the store is away.
func (b *Broker) patiently(ctx context.Context, do func() error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := do()
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrNoSuchApp) || errors.Is(err, ErrStoreRefused) {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
		}
	}
}

// Begin lets a client that was told of its session receive: the stored subscriptions go into the tree, each judged anew,
// and what the log holds for them follows. The retained messages that are still to be sent are the caller's.
func (b *Broker) Begin(c *Client) (replays []*Replay) {
	if !c.Durable() {
		return nil
	}
	events, replays, durable := c.app.begin(c)
	for _, e := range events {
		b.notify(c, e)
	}
	if durable {
		b.startReader(c)
	}
	return replays
}

func (a *app) begin(c *Client) (events []suspension, replays []*Replay, durable bool) {
	a.order.Lock()
	defer a.order.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return nil, nil, false
	}
	// What lies behind comes by the log; what was sent before may have been seen before the SUBSCRIBE.
	g, taken := c.Grant(), c.session.state.Taken()
	c.session.state.Subscriptions(func(sub *session.Subscription) bool {
		_, inner, shared, err := topic.ParseShared(sub.Filter)
		if err != nil {
			return true
		}
		live := *sub
		live.Suspended = !g.MaySubscribe(inner, shared)
		s := newSubscriber(c, g, live, inner)
		if c.subs == nil {
			c.subs = map[string]*subscriber{}
		}
		c.subs[sub.Filter] = s
		a.insertLocked(s)
		if live.Suspended {
			events = append(events, suspension{"subscription_suspended", sub.Filter})
		}
		if g := a.durable.group(sub.FilterID); g != nil {
			g.poke()
		}
		durable = durable || sub.FilterID != 0 && !shared
		if sub.RetainedAfter != "" {
			replays = append(replays, &Replay{
				sub: s, upTo: max(sub.Begins.Seq, taken.Seq), live: a.head.Load(), after: sub.RetainedAfter,
			})
		}
		return true
	})
	if !durable {
		c.out.Join()
		c.out.Live()
	}
	return events, replays, durable
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
// another subject's, what tells of its end. A client id belongs to the subject that uses it, while it is connected or
// its session is stored (CONTRACT section 4); a stored session that holds nothing gives way.
func (b *Broker) admit(a *app, c *Client, limits *Limits) (ended *persistentSession, old *Client, gone <-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.draining.Load() {
		return nil, nil, nil, ErrDraining
	}
	if a.closed.Load() {
		return nil, nil, nil, ErrBadCredentials
	}
	if old = a.clients[c.id]; old != nil {
		if old.Grant().Subject() == c.Grant().Subject() {
			return nil, old, nil, nil
		}
		if old.gone == nil {
			old.gone = make(chan struct{})
		}
		return nil, nil, old.gone, nil
	}
	p := a.sessions[c.id]
	over := p != nil && (p.willOnly || p.over(b.now()))
	if p != nil && !over && p.subject != c.Grant().Subject() {
		if !p.holdsNothing() {
			return nil, nil, nil, ErrClientIDNotValid
		}
		over = true
	}
	switch {
	case len(a.clients) >= limits.ConnectionsMax:
		return nil, nil, nil, ErrConnectionsMax
	case p == nil && c.expiry > 0 && len(a.all) >= limits.SessionsMax:
		return nil, nil, nil, ErrSessionsMax
	}
	a.clients[c.id] = c
	if before := a.trailing[c.id]; before != nil {
		c.trails = before.underWay.Load() > 0
		delete(a.trailing, c.id)
	}
	if p != nil && (over || c.cleanStart) {
		a.forgetLocked(p)
		ended, p = p, nil
	}
	a.attachLocked(c, p)
	return ended, nil, nil, nil
}

// attachLocked gives c the session p, or a new one where there is something to store of it.
func (a *app) attachLocked(c *Client, p *persistentSession) {
	c.present = p != nil
	if p == nil {
		if c.expiry == 0 && c.will == nil {
			return
		}
		p = &persistentSession{
			app: a, clientID: c.id, subject: c.Grant().Subject(), state: session.New(), willOnly: c.expiry == 0,
		}
		p.state.AdvanceCursor(c.Head())
		a.addSessionLocked(p)
	}
	c.session = p
	p.attach(c, c.expiry, newStoredWill(c.will, c.Grant()))
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
	takenOver   bool // the session goes on with another connection
}

// expel ends a connection from the server's side: out of the tree at once, the network afterwards.
func (b *Broker) expel(c *Client, e expulsion) {
	if e.err != nil {
		e.reason = OutcomeOf(e.err).Reason
	}
	c.out.Disconnect(e.reason, e.cause)
	b.End(c, Ending{SendWill: !e.withoutWill, Reason: e.reason, Cause: e.cause, takenOver: e.takenOver})
}

// Ending is how a connection ended.
type Ending struct {
	SendWill bool
	Reason   packet.ReasonCode
	Cause    string
	// Expires tells that DISCONNECT has changed the Session Expiry Interval to Expiry.
	Expires bool
	Expiry  time.Duration

	takenOver bool // the session goes on with another connection
	unborn    bool // its session was never stored
	willStays bool // see leaving
}

// End takes a client out: its subscriptions, its place, its will [MQTT5-3.1.2-8]. Only the first call for a client
// counts, so that a late end never touches a newer session of the same Client Identifier. A session that outlives its
// connection stays, and the log keeps what matches its subscriptions.
func (b *Broker) End(c *Client, e Ending) {
	if c.ended.Swap(true) {
		return
	}
	expiry := c.expiry
	if e.Expires {
		expiry = e.Expiry
	}
	a := c.app
	a.mu.Lock()
	if a.clients[c.id] == c {
		delete(a.clients, c.id)
		if c.underWay.Load() > 0 {
			a.trailing[c.id] = c
		}
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
	if !e.SendWill {
		will = nil
	}
	if !c.Durable() && c.offered.Load() {
		for _, g := range a.durable.groups() {
			g.takeBack(c)
		}
	}
	p := c.session
	var left *storedWill
	if p != nil {
		l := leaving{
			at: b.now(), expiry: expiry, ends: e.unborn || p.willOnly || expiry == 0, willDue: will != nil, takenOver: e.takenOver,
			willStays: b.draining.Load() && e.SendWill && (will != nil || expiry > 0),
		}
		var held bool
		if left, held = p.detach(c, l); held && l.ends {
			a.forgetLocked(p)
		}
		e.willStays = l.willStays
	}
	a.mu.Unlock()
	b.cfg.Observer.Disconnected(e.Reason)
	b.log.LogAttrs(context.Background(), slog.LevelDebug, "client disconnected", slog.String("app", a.id),
		slog.String("client_id", c.id), slog.Uint64("connection", c.number), slog.String("reason", e.Reason.String()),
		slog.String("cause", e.Cause))
	if p == nil {
		if will != nil {
			b.sendWill(c, will)
		}
		return
	}
	b.leaveSession(c, e, left, expiry)
}

// leaveSession does what is due with a stored session when its connection has ended; left is the will that is to be sent.
func (b *Broker) leaveSession(c *Client, e Ending, left *storedWill, expiry time.Duration) {
	p := c.session
	switch {
	case e.unborn:
		p.kill()
		b.deleteSession(&unended{session: p}, &SessionChange{App: p.app.uid, ClientID: p.clientID, Delete: true})
	case e.willStays:
		// The will stays in the row, and is sent after the next start unless the client is back.
		b.committer.saveSession(p)
	case p.willOnly || expiry == 0:
		p.kill()
		gone := &SessionChange{App: p.app.uid, ClientID: p.clientID, Delete: true, Settle: p.app.takeBackSession(p)}
		if left == nil {
			b.deleteSession(&unended{session: p}, gone)
			return
		}
		left.grant = c.Grant()
		b.sendStoredWill(p, left, c.underWay.Load() > 0, gone)
	default:
		b.leaveWill(c, left, expiry)
		b.committer.saveSession(p)
	}
}

// leaveWill has the will of a session that goes on sent now, or after its delay: then it is not sent at all when the
// client comes back in time [MQTT5-3.1.3-9].
func (b *Broker) leaveWill(c *Client, left *storedWill, expiry time.Duration) {
	switch {
	case left == nil:
	case left.will.Delay == 0:
		left.grant = c.Grant()
		b.sendStoredWill(c.session, left, c.underWay.Load() > 0, nil)
	default:
		b.armWill(c.session, min(left.will.Delay, expiry))
	}
}

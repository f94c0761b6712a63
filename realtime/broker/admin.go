package broker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// ClientInfo is what an operator sees of a client.
type ClientInfo struct {
	ClientID, Subject        string
	Connected                bool
	Version                  packet.Version
	Transport, Remote        string
	ConnectedAt, EndedAt     time.Time
	KeepAlive, SessionExpiry time.Duration
	CleanStart               bool
	Subscriptions            []SubscriptionInfo // in filter order
	QueuedMessages           int
	QueuedBytes              int64
	Inflight                 int
	FallenOut                int64
}

// SubscriptionInfo is one subscription of a client.
type SubscriptionInfo struct {
	Filter                     string
	QoS                        byte
	NoLocal, RetainAsPublished bool
	RetainHandling             byte
	ID                         uint32
	Suspended                  bool
}

// Clients lists the app's clients, connected or with a stored session, whose id is above after, ascending; limit 0 means
// all.
func (b *Broker) Clients(uid AppUID, after string, limit int) ([]ClientInfo, error) {
	a := b.app(uid)
	if a == nil {
		return nil, ErrNoSuchApp
	}
	all := a.everybody()
	all = slices.DeleteFunc(all, func(k known) bool { return after != "" && k.id() <= after })
	slices.SortFunc(all, func(x, y known) int { return strings.Compare(x.id(), y.id()) })
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	infos := make([]ClientInfo, len(all))
	for i, k := range all {
		infos[i] = k.info()
	}
	return infos, nil
}

// known is a client that is connected, or whose session is stored.
type known struct {
	client  *Client            // nil: not connected
	session *persistentSession // of a client that is not
}

func (k known) id() string {
	if k.client != nil {
		return k.client.id
	}
	return k.session.clientID
}

func (k known) info() ClientInfo {
	if k.client != nil {
		return k.client.info()
	}
	return k.session.info()
}

// everybody returns the connected clients and the stored sessions of those who are not.
func (a *app) everybody() []known {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]known, 0, len(a.clients)+len(a.sessions))
	for _, c := range a.clients {
		all = append(all, known{client: c})
	}
	for id, p := range a.sessions {
		if _, connected := a.clients[id]; !connected && !p.willOnly {
			all = append(all, known{session: p})
		}
	}
	return all
}

// Client returns one client of the app, connected or with a stored session, or ErrNoSuchClient.
func (b *Broker) Client(uid AppUID, clientID string) (ClientInfo, error) {
	a := b.app(uid)
	if a == nil {
		return ClientInfo{}, ErrNoSuchApp
	}
	a.mu.RLock()
	c, p := a.clients[clientID], a.sessions[clientID]
	a.mu.RUnlock()
	switch {
	case c != nil:
		return c.info(), nil
	case p != nil && !p.willOnly:
		b.measure(a, p)
		return p.info(), nil
	}
	return ClientInfo{}, ErrNoSuchClient
}

// Kick disconnects a client (0x98), and with forget also ends its stored session: that is committed when it returns.
func (b *Broker) Kick(ctx context.Context, uid AppUID, clientID string, forget bool) error {
	a := b.app(uid)
	if a == nil {
		return ErrNoSuchApp
	}
	kicked := false
	for ctx.Err() == nil {
		c := a.client(clientID)
		if c != nil {
			b.expel(c, expulsion{reason: packet.AdministrativeAction, cause: causeKicked})
			kicked = true
		}
		if kicked && !forget {
			return nil
		}
		p, again := a.takeSession(clientID, forget)
		switch {
		case again: // its client is back before it was taken
		case p != nil:
			b.endSession(p, true)
			return b.settled(ctx, a)
		case kicked:
			return nil
		default:
			return ErrNoSuchClient
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
}

// takeSession takes a stored session out of memory, with forget and if nobody holds it; held: somebody does.
func (a *app) takeSession(clientID string, forget bool) (p *persistentSession, held bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p = a.sessions[clientID]
	if p == nil || p.willOnly || !forget {
		return nil, false
	}
	if p.holder() != nil {
		return nil, true
	}
	a.forgetLocked(p)
	return p, false
}

// settled waits until what an app has queued is committed.
func (b *Broker) settled(ctx context.Context, a *app) error {
	w := &write{app: a, behind: true, done: make(chan error, 1)}
	b.committer.put(w)
	if b.committer.ended() {
		return ErrDraining
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// info is what an operator sees of a session that nobody holds.
func (p *persistentSession) info() ClientInfo {
	p.mu.Lock()
	i := ClientInfo{
		ClientID: p.clientID, Subject: p.subject, EndedAt: p.endedAt, SessionExpiry: p.expiry, FallenOut: p.fallenOut,
	}
	p.mu.Unlock()
	i.Inflight = p.state.Outstanding()
	i.QueuedMessages, i.QueuedBytes = p.estimate()
	p.state.Subscriptions(func(s *session.Subscription) bool {
		i.Subscriptions = append(i.Subscriptions, subscriptionInfo(s))
		return true
	})
	return i
}

func subscriptionInfo(s *session.Subscription) SubscriptionInfo {
	return SubscriptionInfo{
		Filter: s.Filter, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished,
		RetainHandling: s.RetainHandling, ID: s.ID, Suspended: s.Suspended,
	}
}

func (c *Client) info() ClientInfo {
	i := ClientInfo{
		ClientID: c.id, Subject: c.Grant().Subject(), Connected: !c.ended.Load(), Version: c.version,
		Transport: c.transport, Remote: c.remote, ConnectedAt: c.connectedAt, KeepAlive: c.keepAlive,
		SessionExpiry: c.expiry, CleanStart: c.cleanStart,
	}
	i.QueuedMessages, i.QueuedBytes, i.Inflight = c.out.Queue()
	if c.Durable() {
		i.FallenOut = c.session.fallen()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		i.Subscriptions = append(i.Subscriptions, subscriptionInfo(&s.sub))
	}
	slices.SortFunc(i.Subscriptions, func(x, y SubscriptionInfo) int { return strings.Compare(x.Filter, y.Filter) })
	return i
}

// Retained lists the app's retained messages that match filter, in topic order, beginning behind the topic after;
// limit 0 means all. The messages are shared and must not be changed.
func (b *Broker) Retained(uid AppUID, filter, after string, limit int) ([]*message.Message, error) {
	a := b.app(uid)
	if a == nil {
		return nil, ErrNoSuchApp
	}
	if err := topic.ValidateFilter(filter, topic.Limits{}); err != nil || strings.HasPrefix(filter, "$share/") {
		return nil, ErrFilterInvalid
	}
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	var found []*message.Message
	a.retained.MatchAfter(filter, after, math.MaxInt, func(m *message.Message) bool {
		found = append(found, m)
		return limit == 0 || len(found) < limit
	})
	return found, nil
}

// RetainedAt reports whether there is a retained message at a Topic Name; ErrTopicNameInvalid for one that is none.
func (b *Broker) RetainedAt(uid AppUID, name string) (bool, error) {
	a := b.app(uid)
	if a == nil {
		return false, ErrNoSuchApp
	}
	if topic.ValidateName(name, topic.Limits{}) != nil {
		return false, ErrTopicNameInvalid
	}
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	_, there := a.retained.Get(name)
	return there, nil
}

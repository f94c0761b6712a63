package broker

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
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

// Clients lists the app's clients whose id is above after, ascending; limit 0 means all.
func (b *Broker) Clients(uid AppUID, after string, limit int) ([]ClientInfo, error) {
	a := b.app(uid)
	if a == nil {
		return nil, ErrNoSuchApp
	}
	all := a.connected()
	all = slices.DeleteFunc(all, func(c *Client) bool { return after != "" && c.id <= after })
	slices.SortFunc(all, func(x, y *Client) int { return strings.Compare(x.id, y.id) })
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	infos := make([]ClientInfo, len(all))
	for i, c := range all {
		infos[i] = c.info()
	}
	return infos, nil
}

// Client returns one client of the app, or ErrNoSuchClient.
func (b *Broker) Client(uid AppUID, clientID string) (ClientInfo, error) {
	a := b.app(uid)
	if a == nil {
		return ClientInfo{}, ErrNoSuchApp
	}
	c := a.client(clientID)
	if c == nil {
		return ClientInfo{}, ErrNoSuchClient
	}
	return c.info(), nil
}

// Kick disconnects a client (0x98). A session that ends with its connection is forgotten with it.
func (b *Broker) Kick(_ context.Context, uid AppUID, clientID string, _ bool) error {
	a := b.app(uid)
	if a == nil {
		return ErrNoSuchApp
	}
	c := a.client(clientID)
	if c == nil {
		return ErrNoSuchClient
	}
	b.expel(c, expulsion{reason: packet.AdministrativeAction, cause: causeKicked})
	return nil
}

func (c *Client) info() ClientInfo {
	i := ClientInfo{
		ClientID: c.id, Subject: c.Grant().Subject(), Connected: !c.ended.Load(), Version: c.version,
		Transport: c.transport, Remote: c.remote, ConnectedAt: c.connectedAt, KeepAlive: c.keepAlive,
		SessionExpiry: c.expiry, CleanStart: c.cleanStart,
	}
	i.QueuedMessages, i.QueuedBytes, i.Inflight = c.out.Queue()
	c.mu.Lock()
	defer c.mu.Unlock()
	for f, s := range c.subs {
		i.Subscriptions = append(i.Subscriptions, SubscriptionInfo{
			Filter: f, QoS: s.sub.QoS, NoLocal: s.sub.NoLocal, RetainAsPublished: s.sub.RetainAsPublished,
			RetainHandling: s.sub.RetainHandling, ID: s.sub.ID, Suspended: s.sub.Suspended,
		})
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

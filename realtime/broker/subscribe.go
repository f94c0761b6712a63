package broker

import (
	"context"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// SubscribeResult answers one Topic Filter of a SUBSCRIBE.
type SubscribeResult struct {
	Reason  packet.ReasonCode // granted QoS, or why not
	Replay  *Replay           // retained messages to send, or nil
	Existed bool
}

// replayVisits bounds one step of a Replay, in nodes of the tree of retained messages (chosen: some 20 us).
const replayVisits = 256

// Replay is what a new subscription gets of the retained messages, in topic order. It holds none of them, only how far
// it has come. It is used by one goroutine at a time.
type Replay struct {
	sub   *subscriber
	upTo  uint64 // the app's head when the subscription began
	live  uint64 // the app's head since when all comes live, where that is later: what came between at QoS 0 is in no log
	after string // the name behind which to go on
	ended bool

	found *message.Message
	look  func(*message.Message) bool // made once: a step allocates nothing

	sys     func() []*message.Message // of a subscription to an app's figures, which are not retained; nil: of none
	figures []*message.Message        // those of them that are still to come
}

// Next takes a step, and returns a message if it has found one. A topic whose retained message has changed since the
// subscription began is skipped: the newer one is delivered live, and would come twice.
func (r *Replay) Next() (d Delivery, found bool) {
	if r.Over() {
		return Delivery{}, false
	}
	if r.sys != nil {
		return r.nextSys()
	}
	if r.look == nil {
		r.look = func(m *message.Message) bool {
			if m.Position.Seq > r.upTo && (m.QoS > 0 || m.Position.Seq > r.live) {
				return true
			}
			r.found = m
			return false
		}
	}
	s, a := r.sub, r.sub.client.app
	a.retainedMu.RLock()
	next, more := a.retained.MatchAfter(s.inner, r.after, replayVisits, r.look)
	a.retainedMu.RUnlock()
	m := r.found
	if m == nil {
		r.after, r.ended = next, !more
		return Delivery{}, false
	}
	r.found, r.after = nil, m.Topic
	if !s.takes(m) {
		return Delivery{}, false
	}
	return Delivery{Message: m, SubscriptionIDs: s.ids, QoS: min(m.QoS, s.sub.QoS), Retain: true}, true
}

// Over reports whether nothing more comes: everything has been said, or the subscription has ended, been suspended, or
// been replaced by one with a Replay of its own.
func (r *Replay) Over() bool {
	for r.sub.gone.Load() { // which is set after its successor
		next := r.sub.successor.Load()
		if next == nil {
			return true
		}
		r.sub = next
	}
	return r.ended || r.sub.sub.Suspended
}

// Ended reports whether everything has been said.
func (r *Replay) Ended() bool { return r.ended }

// snapshotBegins stands in RetainedAfter before the first topic of a retained snapshot: no topic sorts before it, since
// they hold no control characters.
const snapshotBegins = "\x01"

// Filter returns the Topic Filter as the client sent it.
func (r *Replay) Filter() string { return r.sub.sub.Filter }

// Subscribe adds the client's subscriptions, or replaces those of the same Topic Filter [MQTT5-3.8.4-3], and answers
// each [MQTT5-3.8.4-6] in order. Those of a session that outlives its connection are committed when it returns; with an
// error none is.
func (b *Broker) Subscribe(c *Client, subs []session.Subscription) ([]SubscribeResult, error) {
	wanted := make([]wanted, len(subs))
	for i, sub := range subs {
		wanted[i] = b.judgeSubscription(c, sub)
	}
	if c.Durable() {
		if err := b.keepSubscriptions(c, wanted); err != nil {
			return nil, err
		}
	} else {
		if c.underWay.Load() > 0 {
			// What the client has published before comes before: a retained message of its own is already retained when the
			// subscription begins. Its outcome is told elsewhere.
			_ = b.settled(context.Background(), c.app) //nolint:errcheck // see above
		}
		c.app.order.Lock()
		for i := range wanted {
			wanted[i].begin(c)
		}
		c.app.order.Unlock()
	}
	results := make([]SubscribeResult, len(subs))
	for i := range wanted {
		results[i] = wanted[i].result
		b.greetSys(c, subs[i], &results[i])
		if results[i].Reason == packet.NotAuthorized {
			b.denied(c.app, "subscribe")
		}
	}
	return results, nil
}

// wanted is one subscription on its way.
type wanted struct {
	sub    session.Subscription
	inner  string
	shared bool
	held   bool // a durable filter was counted for it
	goesOn bool // an older one at QoS 1 or 2 has begun already
	// replays tells that the retained messages are to be sent, from the first.
	replays bool
	max     int // subscriptions of the client
	result  SubscribeResult
}

// judgeSubscription checks what does not change any more.
func (b *Broker) judgeSubscription(c *Client, sub session.Subscription) (w wanted) {
	w.sub = sub
	limits := c.Grant().Limits()
	w.max = limits.SubscriptionsPerClientMax
	err := topic.ValidateFilter(sub.Filter, topic.Limits{LevelsMax: limits.TopicLevelsMax, BytesMax: limits.TopicBytesMax})
	if err == nil {
		_, w.inner, w.shared, err = topic.ParseShared(sub.Filter)
	}
	if err != nil {
		w.result.Reason = packet.TopicFilterInvalid
	}
	return w
}

// begin puts the subscription into the tree, under the app's commit order.
func (w *wanted) begin(c *Client) {
	if w.result.Reason.Failed() {
		return
	}
	a := c.app
	s, existed, reason := a.add(c, w.sub, w.inner, w.max)
	w.result = SubscribeResult{Reason: reason, Existed: existed}
	if reason.Failed() {
		return
	}
	if w.shared {
		a.durable.pokeGroup(w.sub.Filter)
	}
	// A Shared Subscription gets no retained messages (MQTT 5.0 section 4.8.2).
	if !w.shared && replays(w.sub, existed) && a.retainsAny() {
		w.result.Replay = &Replay{sub: s, upTo: a.head.Load()}
	}
}

// replays reports whether a subscription gets the retained messages [MQTT5-3.3.1-9 … MQTT5-3.3.1-11].
func replays(sub session.Subscription, existed bool) bool {
	return sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed
}

// add judges a subscription and puts it into the tree, in the place of an older one of the same filter. It is judged
// under the lock under which a change of rules judges all: it is seen by that change, or has seen it.
func (a *app) add(c *Client, sub session.Subscription, inner string, subscriptionsMax int) (s *subscriber, existed bool, reason packet.ReasonCode) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return nil, false, packet.UnspecifiedError // the connection is going away
	}
	g := c.Grant()
	if !sub.Suspended && !g.MaySubscribe(inner, inner != sub.Filter) {
		return nil, false, packet.NotAuthorized
	}
	old, existed := c.subs[sub.Filter]
	if !existed && len(c.subs) >= subscriptionsMax {
		return nil, false, packet.QuotaExceeded
	}
	s = newSubscriber(c, g, sub, inner)
	if existed {
		if !replays(sub, existed) {
			old.successor.Store(s) // what is left of the older one's retained messages comes
		}
		a.removeLocked(old)
	}
	if c.subs == nil {
		c.subs = make(map[string]*subscriber, 1)
	}
	c.subs[sub.Filter] = s
	a.insertLocked(s)
	return s, existed, packet.ReasonCode(sub.QoS)
}

func (a *app) insertLocked(s *subscriber) {
	a.subscriptions++
	if s.sub.Suspended {
		return
	}
	if s.inner != s.sub.Filter {
		a.joinLocked(s)
		return
	}
	a.tree.Add(s.inner, s)
}

func (a *app) removeLocked(s *subscriber) {
	a.subscriptions--
	s.gone.Store(true)
	if s.sub.Suspended {
		return
	}
	if s.inner != s.sub.Filter {
		a.leaveLocked(s)
		return
	}
	a.tree.Remove(s.inner, s)
}

// Unsubscribe removes subscriptions by Topic Filter, compared byte by byte [MQTT5-3.10.4-1], and answers each in
// order. Of a session that outlives its connection they are gone from the store when it returns; with an error none is.
func (b *Broker) Unsubscribe(c *Client, filters []string) ([]packet.ReasonCode, error) {
	if c.Durable() {
		return b.dropSubscriptions(c, filters)
	}
	return c.app.unsubscribe(c, filters), nil
}

func (a *app) unsubscribe(c *Client, filters []string) []packet.ReasonCode {
	reasons := make([]packet.ReasonCode, len(filters))
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range filters {
		there := a.removeSubscriptionLocked(c, f)
		if p := c.session; c.Durable() && !p.forgotten {
			sub, kept := p.state.Unsubscribe(f)
			if kept && sub.FilterID != 0 {
				a.unuseLocked(sub.FilterID)
				p.measureAgain()
			}
			// The session may be another connection's by now.
			if h := p.holder(); h != nil && h != c {
				a.removeSubscriptionLocked(h, f)
			}
			there = there || kept
		}
		if !there {
			reasons[i] = packet.NoSubscriptionExisted
		}
	}
	return reasons
}

func (a *app) removeSubscriptionLocked(c *Client, filter string) (there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, there := c.subs[filter]
	if there {
		delete(c.subs, filter)
		a.removeLocked(s)
	}
	return there
}

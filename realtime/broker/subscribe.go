package broker

import (
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

// Replay is a snapshot of the retained messages that a new subscription is to get, in topic order. It is read by one
// goroutine.
type Replay struct {
	app      *app
	sub      *subscriber
	messages []*message.Message
}

// Next returns the next message of the snapshot. A topic whose retained message has changed since is skipped: the
// newer one is delivered live, and the older must not come after it.
func (r *Replay) Next() (d Delivery, ok bool) {
	for len(r.messages) > 0 {
		m := r.messages[0]
		r.messages[0] = nil
		r.messages = r.messages[1:]
		if !r.app.isRetained(m) || !r.sub.takes(m) {
			continue
		}
		return Delivery{Message: m, SubscriptionIDs: r.sub.ids, QoS: min(m.QoS, r.sub.sub.QoS), Retain: true}, true
	}
	return Delivery{}, false
}

// Subscribe adds the client's subscriptions, or replaces those of the same Topic Filter [MQTT5-3.8.4-3], and answers
// each [MQTT5-3.8.4-6] in order.
func (b *Broker) Subscribe(c *Client, subs []session.Subscription) []SubscribeResult {
	results := make([]SubscribeResult, len(subs))
	for i, sub := range subs {
		results[i] = b.subscribe(c, sub)
		if results[i].Reason == packet.NotAuthorized {
			b.denied(c.app, "subscribe")
		}
	}
	return results
}

func (b *Broker) subscribe(c *Client, sub session.Subscription) SubscribeResult {
	limits := c.Grant().Limits()
	err := topic.ValidateFilter(sub.Filter, topic.Limits{LevelsMax: limits.TopicLevelsMax, BytesMax: limits.TopicBytesMax})
	if err != nil {
		return SubscribeResult{Reason: packet.TopicFilterInvalid}
	}
	_, inner, shared, err := topic.ParseShared(sub.Filter)
	if err != nil {
		return SubscribeResult{Reason: packet.TopicFilterInvalid}
	}
	a := c.app
	a.order.Lock()
	defer a.order.Unlock()
	s, existed, reason := a.add(c, sub, inner, limits.SubscriptionsPerClientMax)
	if reason.Failed() {
		return SubscribeResult{Reason: reason}
	}
	r := SubscribeResult{Reason: reason, Existed: existed}
	// A Shared Subscription gets no retained messages (MQTT 5.0 section 4.8.2).
	if !shared && (sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed) {
		if snapshot := a.snapshot(inner); len(snapshot) > 0 {
			r.Replay = &Replay{app: a, sub: s, messages: snapshot}
		}
	}
	return r
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
	if !c.Grant().MaySubscribe(inner, inner != sub.Filter) {
		return nil, false, packet.NotAuthorized
	}
	old, existed := c.subs[sub.Filter]
	if !existed && len(c.subs) >= subscriptionsMax {
		return nil, false, packet.QuotaExceeded
	}
	if existed {
		a.removeLocked(old)
	}
	if c.subs == nil {
		c.subs = make(map[string]*subscriber, 1)
	}
	s = newSubscriber(c, sub, inner)
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
// order.
func (b *Broker) Unsubscribe(c *Client, filters []string) []packet.ReasonCode {
	reasons := make([]packet.ReasonCode, len(filters))
	a := c.app
	a.mu.Lock()
	defer a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, f := range filters {
		s, ok := c.subs[f]
		if !ok {
			reasons[i] = packet.NoSubscriptionExisted
			continue
		}
		delete(c.subs, f)
		a.removeLocked(s)
	}
	return reasons
}

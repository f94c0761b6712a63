package broker

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/embercast/embercast/realtime/packet"
)

// Reauthorize judges every live subscription of an app anew, after its rules or settings have changed: those no
// longer allowed are suspended, those allowed again resume (CONTRACT section 5).
func (b *Broker) Reauthorize(uid AppUID) {
	a := b.app(uid)
	if a == nil {
		return
	}
	for _, c := range a.connected() {
		if c.Grant().Alive() {
			b.rejudge(c)
			c.out.GrantChanged()
		} else {
			b.expel(c, expulsion{err: ErrNotAllowed, cause: causeNotTaken})
		}
	}
}

// DisconnectKey cuts off those connected by a key that was deleted. Their wills are not sent.
func (b *Broker) DisconnectKey(uid AppUID, keyID string) {
	a := b.app(uid)
	if a == nil {
		return
	}
	for _, c := range a.connected() {
		if c.Grant().HangsOn(keyID) {
			b.expel(c, expulsion{err: ErrNotAllowed, cause: causeKeyDeleted, withoutWill: true})
		}
	}
}

// Expire ends a client whose credential has expired, unless it has been renewed just now; its will is sent.
func (b *Broker) Expire(c *Client) {
	if at := c.Grant().Expires(); at.IsZero() || at.After(b.now()) {
		return
	}
	b.expel(c, expulsion{reason: packet.NotAuthorized, cause: causeExpired})
}

type suspension struct {
	Event  string `json:"event"` // subscription_suspended, subscription_resumed
	Filter string `json:"filter"`
}

// rejudge judges each subscription of c by what its grant says now. What is suspended leaves the tree before the client
// is told.
func (b *Broker) rejudge(c *Client) {
	if c.Grant().Settings().RevokedSubscriptionDisconnects && c.app.lostAny(c) {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: causeRevoked})
		return
	}
	events := c.app.rejudge(c)
	c.Narrow()
	for _, e := range events {
		b.notify(c, e)
	}
}

// notify tells a client of a subscription that was suspended or resumed.
func (b *Broker) notify(c *Client, e suspension) {
	b.log.LogAttrs(context.Background(), slog.LevelInfo, "subscription judged anew", slog.String("app", c.app.id),
		slog.String("client_id", c.id), slog.String("event", e.Event))
	if e.Event == "subscription_suspended" {
		b.denied(c.app, "subscribe")
	}
	if text, err := json.Marshal(e); err == nil {
		c.out.Notify(text)
	}
}

// lostAny reports whether the rules no longer allow a subscription of c.
func (a *app) lostAny(c *Client) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.Grant()
	for _, s := range c.subs {
		if !s.allowedBy(g) {
			return true
		}
	}
	return false
}

// rejudge changes what has to be changed: most changes of rules, and each that ends or begins by the clock, leave a
// client's subscriptions as they are, and must hold up nobody who routes, nor take a share group's members out of turn.
func (a *app) rejudge(c *Client) []suspension {
	if !a.rejudgeInPlace(c) {
		return nil
	}
	return a.suspendAndResume(c)
}

// rejudgeInPlace takes over the denies that overlap a subscription, and reports whether one is to be suspended or
// resumed. The grant is asked under the client's lock, so that of two judgements the later one stays.
func (a *app) rejudgeInPlace(c *Client) (changes bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.Grant()
	for _, s := range c.subs {
		s.setJudge(g)
		changes = changes || s.sub.Suspended == s.allowedBy(g)
	}
	return changes
}

// suspendAndResume replaces the subscriptions whose judgement has changed.
func (a *app) suspendAndResume(c *Client) (events []suspension) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.Grant()
	for filter, old := range c.subs {
		allowed := old.allowedBy(g)
		if old.sub.Suspended != allowed {
			continue
		}
		sub := old.sub
		sub.Suspended = !allowed
		s := newSubscriber(c, g, sub, old.inner)
		a.removeLocked(old)
		c.subs[filter] = s
		a.insertLocked(s)
		event := "subscription_suspended"
		if allowed {
			event = "subscription_resumed"
		}
		events = append(events, suspension{event, filter})
	}
	return events
}

func (s *subscriber) allowedBy(g Grant) bool { return g.MaySubscribe(s.inner, s.inner != s.sub.Filter) }

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
		if g := c.Grant(); g.Alive() {
			b.rejudge(c)
			c.out.GrantChanged(g)
		} else {
			b.expel(c, expulsion{err: ErrNotAllowed, cause: "credentials no longer taken"})
		}
	}
}

// DisconnectKey cuts off those connected by a key that was deleted. Their wills are not sent.
func (b *Broker) DisconnectKey(uid AppUID, keyID string) {
	a := b.app(uid)
	if a == nil || keyID == "" {
		return
	}
	for _, c := range a.connected() {
		if c.Grant().KeyID() == keyID {
			b.expel(c, expulsion{err: ErrNotAllowed, cause: "key deleted", withoutWill: true})
		}
	}
}

// Expire ends a client whose credential has expired; its will is sent.
func (b *Broker) Expire(c *Client) {
	b.expel(c, expulsion{reason: packet.NotAuthorized, cause: "token expired"})
}

type suspension struct {
	Event  string `json:"event"` // subscription_suspended, subscription_resumed
	Filter string `json:"filter"`
}

// rejudge replaces each subscription of c whose judgement has changed. What is suspended leaves the tree before the
// client is told.
func (b *Broker) rejudge(c *Client) {
	g := c.Grant()
	if g.Settings().RevokedSubscriptionDisconnects && b.lostAny(c, g) {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: "subscription revoked"})
		return
	}
	for _, e := range c.app.rejudge(c, g) {
		b.log.LogAttrs(context.Background(), slog.LevelInfo, "subscription judged anew", slog.String("app", c.app.id),
			slog.String("client_id", c.id), slog.String("event", e.Event))
		if e.Event == "subscription_suspended" {
			b.denied(c.app, "subscribe")
		}
		if text, err := json.Marshal(e); err == nil {
			c.out.Notify(text)
		}
	}
}

func (b *Broker) lostAny(c *Client, g Grant) bool {
	c.app.mu.RLock()
	defer c.app.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		if !g.MaySubscribe(s.inner, s.inner != s.sub.Filter) {
			return true
		}
	}
	return false
}

func (a *app) rejudge(c *Client, g Grant) (events []suspension) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for filter, old := range c.subs {
		allowed := g.MaySubscribe(old.inner, old.inner != old.sub.Filter)
		sub := old.sub
		sub.Suspended = !allowed
		s := newSubscriber(c, g, sub, old.inner)
		a.removeLocked(old)
		c.subs[filter] = s
		a.insertLocked(s)
		switch {
		case old.sub.Suspended && allowed:
			events = append(events, suspension{"subscription_resumed", filter})
		case !old.sub.Suspended && !allowed:
			events = append(events, suspension{"subscription_suspended", filter})
		}
	}
	return events
}

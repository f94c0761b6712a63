package broker

import (
	"context"
	"math"

	"github.com/embercast/embercast/realtime/packet"
)

// keepSubscriptions commits a SUBSCRIBE of a session that outlives its connection, and begins its subscriptions in the
// order of commits: what is queued behind it is kept for them, and what was committed before is not theirs.
func (b *Broker) keepSubscriptions(c *Client, all []wanted) error {
	b.limitSubscriptions(c, all)
	change := &SessionChange{App: c.app.uid, ClientID: c.id}
	for i := range all {
		w := &all[i]
		if w.result.Reason.Failed() {
			continue
		}
		if err := b.holdFilter(c, w, all[:i]); err != nil {
			c.releaseHeld(all)
			return err
		}
		change.Subscribe = append(change.Subscribe, w.row(c))
	}
	if len(change.Subscribe) == 0 {
		return nil
	}
	done := make(chan error, 1)
	b.committer.put(&write{
		app: c.app, stored: true, change: change, done: done,
		begin: func(seq uint64, _ *Marks) {
			for i := range all {
				all[i].keepAndBegin(c, seq)
			}
		},
	})
	if b.committer.ended() {
		return ErrDraining
	}
	if err := <-done; err != nil {
		c.releaseHeld(all)
		return err
	}
	return nil
}

// limitSubscriptions refuses what the rules do not allow or is more than the client may have, as it will be judged
// once more when it begins.
func (b *Broker) limitSubscriptions(c *Client, all []wanted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, n := c.Grant(), len(c.subs)
	fresh := map[string]bool{}
	for i := range all {
		w := &all[i]
		if w.result.Reason.Failed() {
			continue
		}
		if !g.MaySubscribe(w.inner, w.shared) {
			w.result.Reason = packet.NotAuthorized
			continue
		}
		if _, existed := c.subs[w.sub.Filter]; existed || fresh[w.sub.Filter] {
			continue
		}
		if n >= w.max {
			w.result.Reason = packet.QuotaExceeded
			continue
		}
		n++
		fresh[w.sub.Filter] = true
	}
}

// holdFilter has the log keep what matches a subscription at QoS 1 or 2. What an older one of the same filter has begun
// goes on.
func (b *Broker) holdFilter(c *Client, w *wanted, before []wanted) error {
	old, existed := c.session.state.Subscription(w.sub.Filter)
	if existed {
		w.sub.FilterID = old.FilterID
		if old.QoS > 0 {
			w.sub.Begins, w.goesOn = old.Begins, true
		}
		if !replays(w.sub, existed) {
			w.sub.RetainedAfter = old.RetainedAfter
		}
	}
	for i := range before {
		if before[i].sub.Filter == w.sub.Filter && before[i].sub.FilterID != 0 {
			w.sub.FilterID = before[i].sub.FilterID
		}
	}
	if w.sub.FilterID != 0 || w.sub.QoS == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.StoreWait)
	defer cancel()
	return b.patiently(ctx, func() error {
		f, err := c.app.durable.hold(ctx, b.cfg.Store, c.app.uid, w.sub.Filter)
		if err == nil {
			w.sub.FilterID, w.held = f.id, true
		}
		return err
	})
}

// releaseHeld gives back the filters of subscriptions that did not come about.
func (c *Client) releaseHeld(all []wanted) {
	for i := range all {
		if all[i].held {
			all[i].held = false
			c.app.durable.release(all[i].sub.FilterID)
		}
	}
}

// row is the subscription as it is stored.
func (w *wanted) row(c *Client) SubscriptionRow {
	_, existed := c.session.state.Subscription(w.sub.Filter)
	if w.sub.QoS > 0 && !w.shared && replays(w.sub, existed) {
		w.sub.RetainedAfter = snapshotBegins
	}
	r := subscriptionRow(&w.sub)
	r.BeginsHere = !w.goesOn
	return r
}

// keepAndBegin is begin for a subscription that has been committed: it cannot be refused any more, only suspended.
func (w *wanted) keepAndBegin(c *Client, seq uint64) {
	if w.result.Reason.Failed() {
		return
	}
	if !w.goesOn {
		w.sub.Begins = endOfSeq(seq)
	}
	c.session.state.Subscribe(w.sub)
	if c.ended.Load() {
		return // it is there when the client is back
	}
	w.max = math.MaxInt // judged before it was committed
	w.sub.Suspended = !c.Grant().MaySubscribe(w.inner, w.shared)
	w.begin(c)
	if w.sub.RetainedAfter != "" && w.result.Replay == nil {
		c.session.state.MoveRetained(w.sub.Filter, "")
		c.session.dirty.Store(true)
	}
}

// dropSubscriptions commits an UNSUBSCRIBE of a session that outlives its connection.
func (b *Broker) dropSubscriptions(c *Client, filters []string) error {
	change := &SessionChange{App: c.app.uid, ClientID: c.id}
	for _, f := range filters {
		if _, there := c.session.state.Subscription(f); there {
			c.session.state.Leave(f)
			change.Unsubscribe = append(change.Unsubscribe, f)
		}
	}
	if len(change.Unsubscribe) == 0 {
		return nil
	}
	done := make(chan error, 1)
	b.committer.put(&write{app: c.app, stored: true, change: change, done: done})
	if b.committer.ended() {
		return ErrDraining
	}
	return <-done
}

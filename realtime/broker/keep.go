package broker

import (
	"context"
	"math"

	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

// keepSubscriptions commits a SUBSCRIBE of a session that outlives its connection, and begins its subscriptions in the
// order of commits: what is queued behind it is kept for them, and what was committed before is not theirs.
func (b *Broker) keepSubscriptions(c *Client, all []wanted) error {
	b.limitSubscriptions(c, all)
	write := &write{change: &SessionChange{App: c.app.uid, ClientID: c.id}}
	c.foresee(all)
	for i := range all {
		w := &all[i]
		if w.result.Reason.Failed() {
			continue
		}
		if err := b.holdFilter(c, w, all[:i]); err != nil {
			c.giveUp(all)
			return err
		}
		write.change.Subscribe = append(write.change.Subscribe, w.row(c))
		if w.sub.RetainedAfter != "" && !w.replays {
			write.goesOn = append(write.goesOn, w.sub.Filter)
			write.session, write.keep = c.session, true
		}
	}
	if len(write.change.Subscribe) == 0 {
		return nil
	}
	write.begin = func(seq uint64, _ *Marks) {
		for i := range all {
			all[i].keepAndBegin(c, seq)
		}
	}
	write.giveUp = func() { c.giveUp(all) }
	return b.changeSession(c, write)
}

// changeSession commits a change of a client's session, unless that or the connection ends before: then nothing of it may
// be written any more, for the next session may have the same Client Identifier, and the next connection is told of its own
// changes. One of begin and giveUp is called; where the outcome
// is not known in time, later.
func (b *Broker) changeSession(c *Client, w *write) error {
	w.app, w.stored, w.changes, w.by, w.done = c.app, true, c.session, c, make(chan error, 1)
	if !b.committer.put(w) {
		w.giveUp()
		return ErrDraining
	}
	return <-w.done
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

// foresee has the durable filters of a SUBSCRIBE that are new made together.
func (c *Client) foresee(all []wanted) {
	var filters []string
	for i := range all {
		w := &all[i]
		if _, existed := c.session.state.Subscription(w.sub.Filter); !existed && w.sub.QoS > 0 && !w.result.Reason.Failed() {
			filters = append(filters, w.sub.Filter)
		}
	}
	if len(filters) > 1 {
		c.app.durable.want(filters...)
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

// giveUp takes back what was done for subscriptions that did not come about.
func (c *Client) giveUp(all []wanted) {
	for i := range all {
		c.session.state.Stay(all[i].sub.Filter)
		all[i].release(c)
	}
}

func (w *wanted) release(c *Client) {
	if w.held {
		w.held = false
		c.app.mu.Lock()
		defer c.app.mu.Unlock()
		c.app.unuseLocked(w.sub.FilterID)
	}
}

// row is the subscription as it is stored. What an older one's snapshot comes to meanwhile is not to replace it there.
func (w *wanted) row(c *Client) SubscriptionRow {
	c.session.state.Leave(w.sub.Filter)
	_, existed := c.session.state.Subscription(w.sub.Filter)
	if w.sub.QoS > 0 && !w.shared && replays(w.sub, existed) {
		w.sub.RetainedAfter, w.replays = snapshotBegins, true
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
	if !c.app.keep(c.session, w.sub) {
		w.release(c)
		return
	}
	c.app.durable.beginsAt(w.sub.FilterID, seq)
	if c.ended.Load() {
		return // it is there when the client is back
	}
	w.max = math.MaxInt // judged before it was committed
	w.sub.Suspended = !c.Grant().MaySubscribe(w.inner, w.shared)
	w.begin(c)
	if !w.result.Reason.Failed() && replays(w.sub, w.result.Existed) && w.result.Replay == nil {
		c.session.state.MoveRetained(w.sub.Filter, "") // there is nothing to send
	}
	if w.sub.RetainedAfter != "" {
		c.session.dirty.Store(true)
	}
}

// keep adds a subscription to a session; false: that has ended.
func (a *app) keep(p *persistentSession, sub session.Subscription) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.forgotten {
		return false
	}
	p.state.Subscribe(sub)
	return true
}

// dropSubscriptions commits an UNSUBSCRIBE of a session that outlives its connection.
func (b *Broker) dropSubscriptions(c *Client, filters []string) ([]packet.ReasonCode, error) {
	state := c.session.state
	change := &SessionChange{App: c.app.uid, ClientID: c.id}
	for _, f := range filters {
		if _, there := state.Subscription(f); there {
			state.Leave(f)
			change.Unsubscribe = append(change.Unsubscribe, f)
		}
	}
	if len(change.Unsubscribe) == 0 {
		return c.app.unsubscribe(c, filters), nil
	}
	var reasons []packet.ReasonCode
	err := b.changeSession(c, &write{
		change: change,
		begin:  func(uint64, *Marks) { reasons = c.app.unsubscribe(c, filters) },
		giveUp: func() {
			for _, f := range change.Unsubscribe {
				state.Stay(f)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return reasons, nil
}

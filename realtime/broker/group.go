package broker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// groupLog hands out what the log keeps for a Shared Subscription with a member whose session outlives its connection: the
// pending rows of its durable filter, each to one member, in order. A row goes when its message is done; so what a member
// leaves unacknowledged at QoS 1 goes to another, and what is in flight at QoS 2 never does [MQTT5-4.8.2-4,
// MQTT5-4.8.2-5]. One goroutine runs it.
type groupLog struct {
	b    *Broker
	a    *app
	f    *durableFilter
	id   int64 // of the durable filter
	key  groupKey
	wake chan struct{} // there may be something to hand out, or somebody to take it
	stop chan struct{}

	measured, measuredBytes int64 // of what was committed for it, as far as it is known to wait no more; the housekeeper's

	mu       sync.Mutex // guards what follows; no other lock is taken while it is held
	read     message.Position
	returned []*message.Message // assigned, and not taken in the end
	owed     []message.Position // of those, what has to be read again
	assigned map[message.Position]*assignment
	gone     map[message.Position]struct{} // whose rows have gone since the page was read that is being handed out
	turn     uint64
}

// assignment is a message that a member has under way.
type assignment struct {
	message *message.Message
	client  *Client            // of a session that ends with its connection
	session *persistentSession // else
	qos     byte
	taken   bool // the client has it; until then it is the group's to hand out
	sent    bool // at QoS 2 to a client without a stored session: its row has gone
}

// OfferVerdict is what a connection says to a message of a Shared Subscription.
type OfferVerdict int

// The verdicts: it is under way; the client has no room now, and Broker.Room tells when it has; it can never take it; the
// connection is ending.
const (
	Accepted OfferVerdict = iota
	NoRoom
	Unfit
	Leaving
)

// groupOf names the group of a durable filter, if it is one's.
func groupOf(filter string) (groupKey, bool) {
	name, inner, shared, err := topic.ParseShared(filter)
	return groupKey{name, inner}, shared && err == nil
}

// openGroup starts, under durableFilters.mu, the handing out for a durable filter that is a group's; after is where its log
// begins.
func (b *Broker) openGroup(a *app, f *durableFilter, after message.Position) {
	key, is := groupOf(f.filter)
	if !is || f.group != nil {
		return
	}
	g := &groupLog{
		b: b, a: a, f: f, id: f.id, key: key, read: after, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		assigned: map[message.Position]*assignment{},
	}
	a.durable.setGroupLocked(f, g)
	b.startTask(g.run)
}

// poke has the group look again.
func (g *groupLog) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *groupLog) run() {
	g.begin()
	for {
		select {
		case <-g.stop:
			return
		case <-g.b.stopped:
			return
		case <-g.wake:
		}
		for g.handOut() {
		}
	}
}

// begin deletes what is pending from before: the same group may have been there, and its filter not been dropped yet.
// After a start there is nothing before.
func (g *groupLog) begin() {
	g.mu.Lock()
	read := g.read
	g.mu.Unlock()
	if read == (message.Position{}) {
		return
	}
	ctx, cancel := g.b.reading()
	defer cancel()
	if _, err := g.b.cfg.Store.Settle(ctx, g.a.uid, g.id, read); err != nil {
		g.b.log.LogAttrs(context.Background(), slog.LevelWarn, "what waited for a share group before was not deleted",
			slog.String("app", g.a.id), slog.String("error", err.Error()))
	}
}

// handOut hands out what was returned, or else a page of the log. It reports whether there may be more at once.
func (g *groupLog) handOut() (more bool) {
	messages, fromLog, err := g.next()
	if err != nil {
		g.b.log.LogAttrs(context.Background(), slog.LevelWarn, "reading the log for a share group is put off",
			slog.String("app", g.a.id), slog.String("error", err.Error()))
		time.AfterFunc(readerPause, g.poke)
		return false
	}
	for i, m := range messages {
		if !g.assign(m, fromLog) {
			g.giveBack(messages[i:], fromLog)
			return false
		}
		if fromLog {
			g.mu.Lock()
			g.read = m.Position
			g.mu.Unlock()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(messages) > 0 || len(g.owed) > 0
}

// next returns what is to be handed out next.
func (g *groupLog) next() (messages []*message.Message, fromLog bool, err error) {
	g.mu.Lock()
	messages, g.returned = g.returned, nil
	read, owed := g.read, slices.Clone(g.owed)
	g.gone = map[message.Position]struct{}{}
	g.mu.Unlock()
	if len(messages) > 0 || !g.a.hasMembers(g.key) {
		return messages, false, nil
	}
	ctx, cancel := g.b.reading()
	defer cancel()
	if len(owed) > 0 {
		messages, err = g.b.cfg.Store.Messages(ctx, g.a.uid, owed)
		if err == nil {
			g.mu.Lock()
			g.owed = g.owed[len(owed):]
			g.mu.Unlock()
		}
		return messages, false, err //nolint:wrapcheck // only logged
	}
	page, err := g.b.cfg.Store.Page(ctx, g.a.uid, []FilterFrom{{ID: g.id, After: read}}, pageEntries)
	if err != nil {
		return nil, false, err //nolint:wrapcheck // only logged
	}
	for _, e := range page {
		messages = append(messages, e.Message)
	}
	return messages, true, nil
}

// giveBack keeps what nobody could take; what comes from the log is read again.
func (g *groupLog) giveBack(messages []*message.Message, fromLog bool) {
	if fromLog {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.returned = append(messages, g.returned...)
}

func (a *app) hasMembers(key groupKey) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.hasMembersLocked(key)
}

func (a *app) hasMembersLocked(key groupKey) bool {
	g := a.groups[key]
	return g != nil && len(g.members) > 0
}

// unuseLocked takes back a subscription to a durable filter, under app.mu.
func (a *app) unuseLocked(filterID int64) { a.durable.release(filterID, a.hasMembersLocked) }

// letGoOfGroups ends the logs of Shared Subscriptions with neither stored sessions nor members.
func (a *app) letGoOfGroups() {
	a.mu.RLock()
	defer a.mu.RUnlock()
	a.durable.letGo(a.hasMembersLocked)
}

// assign gives m to a member, beginning behind the one before; false: nobody has room now. What has expired, or what no
// member can ever take, is settled.
func (g *groupLog) assign(m *message.Message, fromLog bool) bool {
	g.mu.Lock()
	_, has := g.assigned[m.Position]
	_, gone := g.gone[m.Position]
	if has || gone && fromLog {
		g.mu.Unlock()
		return true
	}
	g.turn++
	turn := g.turn
	g.mu.Unlock()
	if m.Expired(g.b.now()) {
		g.b.cfg.Observer.Dropped("expired", 1)
		g.settle(m.Position)
		return true
	}
	members := g.members()
	if len(members) == 0 {
		return false
	}
	unfit := 0
	for i := range uint64(len(members)) {
		s := members[(turn+i)%uint64(len(members))]
		switch g.offer(s, m) {
		case Accepted:
			return true
		case Unfit:
			unfit++
		case NoRoom, Leaving:
		}
	}
	if unfit < len(members) {
		return false
	}
	g.b.cfg.Observer.Dropped("packet_too_large", 1)
	g.settle(m.Position)
	return true
}

// members returns the group's connected members.
func (g *groupLog) members() []*subscriber {
	g.a.mu.RLock()
	defer g.a.mu.RUnlock()
	if group := g.a.groups[g.key]; group != nil {
		return append([]*subscriber(nil), group.members...)
	}
	return nil
}

func (g *groupLog) offer(s *subscriber, m *message.Message) OfferVerdict {
	if !s.takes(m) {
		return Unfit
	}
	d := deliveryFor(s, m)
	d.Shared = true
	c := s.client
	if d.QoS == 0 {
		v, marked := c.out.Deliver(d)
		if marked {
			c.out.Flush()
		}
		if v != Queued {
			return NoRoom
		}
		g.settle(m.Position)
		return Accepted
	}
	// Noted first: whoever ends the client now finds it.
	as := &assignment{message: m, client: c, qos: d.QoS}
	if c.Durable() {
		as.client, as.session = nil, c.session
	}
	g.mu.Lock()
	g.assigned[m.Position] = as
	g.mu.Unlock()
	c.offered.Store(true)
	v := c.out.Offer(d, g.id)
	g.mu.Lock()
	if as.taken = v == Accepted; !as.taken {
		delete(g.assigned, m.Position)
	}
	g.mu.Unlock()
	if v == Accepted && c.ended.Load() {
		g.takeBack(c) // it has ended before the group knew
	}
	return v
}

// settle deletes the row of a message that nobody is to get any more.
func (g *groupLog) settle(p message.Position) {
	g.mu.Lock()
	g.assigned[p] = &assignment{} // nobody's, until the row has gone
	g.mu.Unlock()
	g.b.settleRows(g.a, []session.SharedEntry{{FilterID: g.id, Position: p}})
}

// settleRows deletes rows; once they have gone the groups forget them.
func (b *Broker) settleRows(a *app, entries []session.SharedEntry) {
	b.committer.put(&write{
		app: a, stored: true, change: &SessionChange{App: a.uid, Settle: pendingRows(entries)},
	})
}

// forgetSettled forgets what was under way and whose rows have gone.
func (a *app) forgetSettled(entries []PendingRow) {
	for _, e := range entries {
		if g := a.durable.group(e.FilterID); g != nil {
			g.done(e.Position)
		}
	}
}

// skip goes on behind a position: what was before has fallen out.
func (g *groupLog) skip(p message.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.read = after(g.read, p)
}

// done forgets an assignment whose row goes with the session's.
func (g *groupLog) done(p message.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.assigned, p)
	if g.gone != nil {
		g.gone[p] = struct{}{}
	}
}

// takeBack returns what a client had under way whose session has ended with its connection: at QoS 1 others get it, and
// at QoS 2 what was not sent yet.
func (g *groupLog) takeBack(c *Client) {
	g.mu.Lock()
	for p, as := range g.assigned {
		if as.client != c || !as.taken {
			continue
		}
		delete(g.assigned, p)
		if as.qos == 1 || !as.sent {
			g.returned = append(g.returned, as.message)
		}
	}
	sortByPosition(g.returned)
	g.mu.Unlock()
	g.poke()
}

// restoreAssigned notes what a stored session has under way.
func (a *app) restoreAssigned(p *persistentSession) {
	for _, e := range p.state.Assigned() {
		if g := a.durable.group(e.Shared); g != nil {
			g.mu.Lock()
			g.assigned[e.Position] = &assignment{session: p, qos: e.QoS, taken: true, sent: true}
			g.mu.Unlock()
		}
	}
}

// takeBackSession decides what becomes of what a session has under way that ends for good: QoS 1 goes to others, QoS 2 to
// nobody. It returns the rows that go; until they have gone the group keeps what they name from being handed out.
func (a *app) takeBackSession(p *persistentSession) (settled []PendingRow) {
	settled = pendingRows(p.state.TakeSettled())
	for _, e := range p.state.Assigned() {
		g := a.durable.group(e.Shared)
		if e.QoS == 2 || g == nil {
			settled = append(settled, PendingRow{e.Shared, e.Position})
			continue
		}
		g.mu.Lock()
		delete(g.assigned, e.Position)
		g.owed = append(g.owed, e.Position) // its row is there
		g.mu.Unlock()
		g.poke()
	}
	return settled
}

func sortByPosition(messages []*message.Message) {
	slices.SortFunc(messages, func(x, y *message.Message) int { return x.Position.Compare(y.Position) })
}

// Settle deletes the rows of what a client has done with, whose session ends with its connection.
func (b *Broker) Settle(c *Client, entries []session.SharedEntry) { b.settleRows(c.app, entries) }

// SettleFirst deletes the row of a QoS 2 message before it is sent to a client whose session ends with its connection:
// after a crash nobody else is to get it [MQTT5-4.8.2-5]. Outbound.Saved tells.
func (b *Broker) SettleFirst(c *Client, e session.SharedEntry, mark uint64) {
	b.committer.put(&write{
		app: c.app, stored: true, change: &SessionChange{App: c.app.uid, Settle: pendingRows([]session.SharedEntry{e})},
		origin: &release{client: c, entry: e, mark: mark},
	})
}

// release has a QoS 2 message of a Shared Subscription sent once its row has gone.
type release struct {
	Outbound
	client *Client
	entry  session.SharedEntry
	mark   uint64
}

// Committed implements Outbound.
func (r *release) Committed(_ uint64, err error) bool {
	g := r.client.app.durable.group(r.entry.FilterID)
	if err == nil && g != nil {
		g.mu.Lock()
		as := g.assigned[r.entry.Position]
		if as == nil || as.client != r.client {
			g.mu.Unlock()
			return false // taken back meanwhile
		}
		as.sent = true
		g.mu.Unlock()
	}
	return r.client.out.Saved(r.mark, err)
}

// Flush implements Outbound.
func (r *release) Flush() { r.client.out.Flush() }

// pokeGroup has the group of a Shared Subscription look for members again.
func (d *durableFilters) pokeGroup(filter string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if f := d.byFilter[filter]; f != nil && f.group != nil {
		f.group.poke()
	}
}

// Room tells that a connection which had no room for a message of a Shared Subscription has.
func (b *Broker) Room(c *Client) {
	for _, g := range c.app.durable.groups() {
		g.poke()
	}
}

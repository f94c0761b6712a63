package broker

import (
	"context"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
)

// backlogEstimate tells how much may wait in the log for a session that is not at its head. A message that matches
// several filters counts for each, so it is never too low.
type backlogEstimate struct {
	known                 bool
	messages, bytes       int64 // when it was measured
	sumMessages, sumBytes int64 // of its filters, at that time
}

// logged returns where reading the log for the session begins, for each of its filters.
func (p *persistentSession) logged() (from []FilterFrom) {
	read := p.state.Taken()
	p.state.Each(func(s *session.Subscription) {
		if s.FilterID != 0 && s.QoS > 0 && !isShared(s.Filter) {
			from = append(from, FilterFrom{ID: s.FilterID, After: after(read, s.Begins)})
		}
	})
	return from
}

// estimate tells how much may wait; where it has not been measured since the start, as much as was committed since.
func (p *persistentSession) estimate() (messages int, bytes int64) {
	m, n, _ := p.estimated(p.app.durable.sum(p.logged()))
	return int(m), n
}

func (p *persistentSession) estimated(sumMessages, sumBytes int64) (messages, bytes int64, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &p.backlog
	return max(0, e.messages+sumMessages-e.sumMessages), max(0, e.bytes+sumBytes-e.sumBytes), e.known
}

// fallen returns how many messages the limits have dropped.
func (p *persistentSession) fallen() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fallenOut
}

// measuredMax bounds the backlogs that are measured in a second, and estimatedMax those that are estimated (chosen: some
// 50 us and some 3 us each). The others have their turn in the next.
const (
	measuredMax  = 1_000
	estimatedMax = 10_000
)

// quiet tells how much must have been committed for all durable filters of the app before a session's backlog can be
// beyond the limits: what comes to it counts there at least as often.
type quiet struct{ messages, bytes atomic.Int64 }

// end has the backlog looked at again.
func (q *quiet) end() { q.messages.Store(math.MinInt64) }

// keepQuiet notes that a backlog needs no look before so much more is committed. The amount committed was asked before
// the backlog was.
func (p *persistentSession) keepQuiet(limits *Limits, messages, bytes, room, roomBytes int64) {
	if limits != p.app.limits.Load() {
		return // they have changed
	}
	p.quiet.bytes.Store(saturated(bytes, roomBytes))
	p.quiet.messages.Store(saturated(messages, room))
}

// saturated is a sum of what is not negative.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// dueBacklogs are the sessions whose backlogs are to be looked at in this second.
type dueBacklogs struct {
	messages, bytes int64 // that are committed by now
	all             bool  // the limits have changed
	turn, walked    int
	sessions        []dueBacklog
	next            int // turn of the next second
}

type dueBacklog struct {
	session *persistentSession
	turn    int
}

func (a *app) dueBacklogs() *dueBacklogs {
	limits := a.limits.Load()
	d := &dueBacklogs{
		messages: a.durable.messages.Load(), bytes: a.durable.bytes.Load(), all: limits != a.house.limits, turn: a.house.turn,
	}
	a.house.limits = limits
	return d
}

func (d *dueBacklogs) look(p *persistentSession) {
	d.walked++
	if d.all {
		p.quiet.end()
	}
	switch {
	case d.walked < d.turn:
	case d.messages <= p.quiet.messages.Load() && d.bytes <= p.quiet.bytes.Load():
	case len(d.sessions) < estimatedMax:
		d.sessions = append(d.sessions, dueBacklog{p, d.walked})
	case d.next == 0:
		d.next = d.walked
	}
}

// measureAgain has the backlog measured: its filters are others now, and the estimate counts by filter.
func (p *persistentSession) measureAgain() {
	p.mu.Lock()
	p.backlog.known = false
	p.mu.Unlock()
	p.quiet.end()
}

// measureWait bounds a measurement that a caller waits for (chosen).
const measureWait = 2 * time.Second

// cutBacklogs keeps the app's sessions within its limits.
func (b *Broker) cutBacklogs(ctx context.Context, a *app, due *dueBacklogs) error {
	limits, measured := a.house.limits, 0
	if err := b.cutGroups(ctx, a, limits); err != nil {
		return err
	}
	a.house.turn = due.next
	for _, one := range due.sessions {
		if ctx.Err() != nil || measured == measuredMax {
			a.house.turn = one.turn
			return ctx.Err() //nolint:wrapcheck // the end
		}
		did, err := b.cutBacklog(ctx, one.session, limits)
		if err != nil {
			return err
		}
		if did {
			measured++
		}
	}
	return nil
}

// cutBacklog keeps a session within its app's limits: the oldest messages fall out, counted. It
// measures only where the estimate is over.
func (b *Broker) cutBacklog(ctx context.Context, p *persistentSession, limits *Limits) (measured bool, err error) {
	allMessages, allBytes := p.app.durable.messages.Load(), p.app.durable.bytes.Load()
	from := p.logged()
	sumMessages, sumBytes := p.app.durable.sum(from)
	messages, bytes, known := p.estimated(sumMessages, sumBytes)
	switch {
	case p.willOnly:
		return false, nil
	case len(from) == 0:
		p.keepQuiet(limits, allMessages, allBytes, int64(limits.QueuedMessagesMax), limits.QueuedBytesMax)
		return false, nil
	case known && messages <= int64(limits.QueuedMessagesMax) && bytes <= limits.QueuedBytesMax:
		p.keepQuiet(limits, allMessages, allBytes, int64(limits.QueuedMessagesMax)-messages, limits.QueuedBytesMax-bytes)
		return false, nil
	}
	var found Backlog
	if from = p.app.durable.waiting(from); len(from) > 0 {
		var err error
		if found, err = b.cfg.Store.Backlog(ctx, p.app.uid, from, limits.QueuedMessagesMax, limits.QueuedBytesMax); err != nil {
			return false, err //nolint:wrapcheck // the caller says what
		}
	}
	if found.Dropped > 0 {
		p.state.AdvanceCursor(found.CutAt)
		p.dirty.Store(true)
		if c := p.holder(); c != nil { // what it was handed already falls out too
			c.out.Narrow(func(m *message.Message) bool { return m.Position.Compare(found.CutAt) > 0 })
		}
		p.app.stats.dropped.Add(int64(found.Dropped))
		b.cfg.Observer.Dropped("queue_full", found.Dropped)
		b.log.LogAttrs(ctx, slog.LevelWarn, "oldest messages of a session have fallen out", slog.String("app", p.app.id),
			slog.String("client_id", p.clientID), slog.Int("messages", found.Dropped))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fallenOut += int64(found.Dropped)
	p.keepQuiet(limits, allMessages, allBytes,
		int64(limits.QueuedMessagesMax-min(found.Messages, limits.QueuedMessagesMax)), max(0, limits.QueuedBytesMax-found.Bytes))
	p.backlog = backlogEstimate{true, int64(min(found.Messages, math.MaxInt32)), found.Bytes, sumMessages, sumBytes}
	return true, nil
}

// cutGroups keeps the logs of Shared Subscriptions within the limits of one session: nobody may be there to take them.
func (b *Broker) cutGroups(ctx context.Context, a *app, limits *Limits) error {
	for _, g := range a.durable.groups() {
		f := g.f
		if f.messages.Load()-g.measured <= int64(limits.QueuedMessagesMax) &&
			f.bytes.Load()-g.measuredBytes <= limits.QueuedBytesMax {
			continue
		}
		messages, bytes := f.messages.Load(), f.bytes.Load()
		found, err := b.cfg.Store.Backlog(ctx, a.uid, []FilterFrom{{ID: f.id}}, limits.QueuedMessagesMax, limits.QueuedBytesMax)
		if err != nil {
			return err //nolint:wrapcheck // the caller says what
		}
		g.measured, g.measuredBytes = messages-int64(found.Messages), bytes-found.Bytes
		if found.Dropped == 0 {
			continue
		}
		if _, err := b.cfg.Store.Settle(ctx, a.uid, f.id, found.CutAt); err != nil {
			return err //nolint:wrapcheck // the caller says what
		}
		g.skip(found.CutAt)
		a.stats.dropped.Add(int64(found.Dropped))
		b.cfg.Observer.Dropped("queue_full", found.Dropped)
		b.log.LogAttrs(ctx, slog.LevelWarn, "oldest messages of a share group have fallen out", slog.String("app", a.id),
			slog.Int("messages", found.Dropped))
	}
	return nil
}

// measure makes what is told of one session exact, if the store is there.
func (b *Broker) measure(a *app, p *persistentSession) {
	ctx, cancel := context.WithTimeout(context.Background(), measureWait)
	defer cancel()
	if _, err := b.cutBacklog(ctx, p, a.limits.Load()); err != nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "a backlog was not measured", slog.String("app", a.id), slog.String("error", err.Error()))
	}
}

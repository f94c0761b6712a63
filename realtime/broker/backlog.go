package broker

import (
	"context"
	"log/slog"
	"math"
	"time"

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
	p.state.Subscriptions(func(s *session.Subscription) bool {
		if _, shared := groupOf(s.Filter); s.FilterID != 0 && s.QoS > 0 && !shared {
			from = append(from, FilterFrom{ID: s.FilterID, After: after(read, s.Begins)})
		}
		return true
	})
	return from
}

// estimate tells how much may wait; where it has not been measured since the start, as much as was committed since.
func (p *persistentSession) estimate() (messages int, bytes int64) {
	m, n := p.app.durable.sum(p.logged())
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &p.backlog
	return int(max(0, e.messages+m-e.sumMessages)), max(0, e.bytes+n-e.sumBytes)
}

// fallen returns how many messages the limits have dropped.
func (p *persistentSession) fallen() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fallenOut
}

// measuredMax bounds the backlogs that are measured in a second (chosen: some 50 us each).
const measuredMax = 1_000

// measureWait bounds a measurement that a caller waits for (chosen).
const measureWait = 2 * time.Second

// cutBacklogs keeps the app's sessions within its limits.
func (b *Broker) cutBacklogs(ctx context.Context, a *app) error {
	limits, measured := a.limits.Load(), 0
	if err := b.cutGroups(ctx, a, limits); err != nil {
		return err
	}
	for _, p := range a.persistent() {
		if ctx.Err() != nil || measured == measuredMax {
			return ctx.Err() //nolint:wrapcheck // the end
		}
		did, err := b.cutBacklog(ctx, p, limits)
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
	messages, bytes := p.estimate()
	p.mu.Lock()
	known := p.backlog.known
	p.mu.Unlock()
	if known && messages <= limits.QueuedMessagesMax && bytes <= limits.QueuedBytesMax || p.willOnly {
		return false, nil
	}
	from := p.logged()
	sumMessages, sumBytes := p.app.durable.sum(from)
	if len(from) == 0 {
		return false, nil
	}
	found, err := b.cfg.Store.Backlog(ctx, p.app.uid, from, limits.QueuedMessagesMax, limits.QueuedBytesMax)
	if err != nil {
		return false, err //nolint:wrapcheck // the caller says what
	}
	if found.Dropped > 0 {
		p.state.AdvanceCursor(found.CutAt)
		p.dirty.Store(true)
		p.app.stats.dropped.Add(int64(found.Dropped))
		b.cfg.Observer.Dropped("queue_full", found.Dropped)
		b.log.LogAttrs(ctx, slog.LevelWarn, "oldest messages of a session have fallen out", slog.String("app", p.app.id),
			slog.String("client_id", p.clientID), slog.Int("messages", found.Dropped))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fallenOut += int64(found.Dropped)
	p.backlog = backlogEstimate{true, int64(min(found.Messages, math.MaxInt32)), found.Bytes, sumMessages, sumBytes}
	return true, nil
}

// cutGroups keeps the logs of Shared Subscriptions within the limits of one session: nobody may be there to take them.
func (b *Broker) cutGroups(ctx context.Context, a *app, limits *Limits) error {
	for _, f := range a.durable.used() {
		g := a.durable.group(f.id)
		if g == nil || f.messages.Load()-g.measured <= int64(limits.QueuedMessagesMax) &&
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

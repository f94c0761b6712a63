package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// compactStep bounds one deletion of the compactor, so that it never holds the store for long.
const compactStep = 2_000

// keepHouse ends expired retained messages each second, closes the minute of the statistics, and lets the compactor
// walk behind.
func (b *Broker) keepHouse(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	minute := b.now().Truncate(time.Minute)
	walked := map[AppUID]message.Position{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := b.now()
		apps := b.openApps()
		for _, a := range apps {
			b.endExpired(a, now)
		}
		if !now.Truncate(time.Minute).After(minute) {
			continue
		}
		for _, a := range apps {
			a.mu.RLock()
			connections := len(a.clients)
			a.mu.RUnlock()
			a.stats.minute(minute, connections)
			walked[a.uid] = b.compact(ctx, a, walked[a.uid])
		}
		minute = now.Truncate(time.Minute)
	}
}

// endExpired appends a clear for every retained message that has expired. REST sees it; MQTT subscribers do not.
func (b *Broker) endExpired(a *app, now time.Time) {
	for _, m := range a.expired(now) {
		w := &write{app: a, stored: true, silent: true}
		w.one[0].Message = &message.Message{Topic: m.Topic, Retain: true, QoS: m.QoS, Arrived: now}
		w.parts = w.one[:]
		if b.committer.enqueue(w) != nil {
			return
		}
	}
}

// compact walks through the app's log once, in small steps, from where it stopped; at the head it begins anew, since
// what was live then may have been replaced. Entries stay for as long as the app keeps its history.
func (b *Broker) compact(ctx context.Context, a *app, from message.Position) message.Position {
	head := message.Position{Seq: a.head.Load(), Part: ^uint32(0)}
	c := Compaction{
		After: from, UpTo: head, Limit: compactStep,
		KeepSince: b.now().Add(-time.Duration(a.history.Load())),
		Live:      a.isLive,
		Held:      func(message.Position) bool { return false },
	}
	for ctx.Err() == nil {
		looked, deleted, err := b.cfg.Store.Compact(ctx, a.uid, c)
		if err != nil {
			b.log.LogAttrs(ctx, slog.LevelWarn, "compaction stopped", slog.String("app", a.id), slog.String("error", err.Error()))
			return c.After
		}
		if looked.Compare(head) >= 0 {
			return message.Position{}
		}
		if looked == c.After && deleted == 0 {
			return looked
		}
		c.After = looked
	}
	return c.After
}

// isLive reports whether the retained message of a topic is the log entry at p.
func (a *app) isLive(name string, p message.Position) bool {
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	m, ok := a.retained.Get(name)
	return ok && m.Position == p
}

// Drain lets nobody in any more and disconnects all clients with 0x8B. Their wills are sent.
func (b *Broker) Drain() {
	b.draining.Store(true)
	for _, a := range b.openApps() {
		for _, c := range a.connected() {
			b.expel(c, expulsion{reason: packet.ServerShuttingDown, cause: "server drains"})
		}
	}
}

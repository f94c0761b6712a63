package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// keepHouse ends expired retained messages and sessions each second, saves what is saved lazily, and closes the minute of
// the statistics.
func (b *Broker) keepHouse(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	minute := b.now().Truncate(time.Minute)
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
			b.keepSessions(ctx, a, now)
		}
		if !now.Truncate(time.Minute).After(minute) {
			continue
		}
		for _, a := range apps {
			a.mu.RLock()
			connections := len(a.clients)
			a.mu.RUnlock()
			a.stats.minute(minute, connections)
		}
		minute = now.Truncate(time.Minute)
	}
}

// house is what the housekeeper alone knows of an app.
type house struct {
	limits *Limits // that the backlogs were last held against
	turn   int     // of the session, in the order of a walk, at which looking at backlogs goes on
}

// laggingShare is how many seconds the saving of lagging sessions is spread over, and laggingMin how many are saved at
// least in one of them (chosen: they are named once a minute).
const (
	laggingShare = 50
	laggingMin   = 100
)

// keepSessions ends the sessions whose time has passed, saves what has changed lazily, and cuts the backlogs that have
// grown beyond their limits.
func (b *Broker) keepSessions(ctx context.Context, a *app, now time.Time) {
	b.endUnended(a)
	a.forgetTrailing()
	a.letGoOfGroups()
	due := a.dueBacklogs()
	lagging := max(laggingMin, a.sessionCount()/laggingShare)
	a.each(func(p *persistentSession) {
		switch {
		case a.end(p, now):
			b.endSession(p, true)
			return
		case p.dirty.Load():
			b.committer.saveSession(p)
		case lagging > 0 && p.lagging.Load():
			p.lagging.Store(false)
			if p.holder() != nil && p.state.Outstanding() == 0 { // else it is saved when it has been acknowledged
				lagging--
				b.committer.saveSession(p)
			}
		}
		due.look(p)
	})
	if err := b.cutBacklogs(ctx, a, due); err != nil && ctx.Err() == nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "measuring backlogs stopped", slog.String("app", a.id), slog.String("error", err.Error()))
	}
}

// forgetTrailing forgets the ended connections that have nothing under way any more.
func (a *app) forgetTrailing() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, c := range a.trailing {
		if c.underWay.Load() == 0 {
			delete(a.trailing, id)
		}
	}
}

// endExpired appends a clear for every retained message that has expired. REST sees it; MQTT subscribers do not.
func (b *Broker) endExpired(a *app, now time.Time) {
	a.expired(now, func(m *message.Message) {
		w := &write{app: a, stored: true, logged: true, silent: true}
		w.one[0].Message = &message.Message{Topic: m.Topic, Retain: true, QoS: m.QoS, Arrived: now}
		w.parts = w.one[:]
		b.committer.offer(w) // without room it is named again in a minute
	})
}

// Drain lets nobody in any more and disconnects all clients with 0x8B. Their wills are sent. From then on, what needs a
// commit is held for a few seconds only if the store is away.
func (b *Broker) Drain() {
	b.draining.Store(true)
	b.committer.drain(drainWait)
	for _, a := range b.openApps() {
		for _, c := range a.connected() {
			b.expel(c, expulsion{reason: packet.ServerShuttingDown, cause: causeDrains})
		}
	}
}

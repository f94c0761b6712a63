package broker

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math"
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// compactStep bounds one deletion of the compactor, so that it never holds the store for long.
const compactStep = 2_000

// keepLog has the compactor walk behind, app by app, each minute: beside the housekeeper, whose seconds are not to wait
// for a long log.
func (b *Broker) keepLog(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	passes := map[AppUID]*pass{} // where the compactor stopped on the way
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		deleted, lag, stopped := 0, uint64(0), map[AppUID]*pass{}
		for _, a := range b.openApps() {
			b.settle(ctx, a)
			p, n := b.compact(ctx, a, passes[a.uid])
			deleted += n
			if p != nil {
				stopped[a.uid] = p
				lag += a.head.Load() - p.after.Seq
			}
		}
		passes = stopped
		b.cfg.Observer.Compacted(deleted, lag)
	}
}

// settle deletes the pending rows that no session has still to come to, and the filters that nobody subscribes to.
func (b *Broker) settle(ctx context.Context, a *app) {
	if err := b.settleFilters(ctx, a); err != nil && ctx.Err() == nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "settling stopped", slog.String("app", a.id), slog.String("error", err.Error()))
	}
}

func (b *Broker) settleFilters(ctx context.Context, a *app) error {
	if err := a.durable.drop(ctx, b.cfg.Store, a.uid); err != nil {
		return err
	}
	// A subscription that begins while this looks around is behind the head of now, whatever is saved meanwhile.
	head := a.head.Load()
	used := a.durable.used()
	for _, f := range used {
		f.last.CompareAndSwap(0, max(1, head)) // of one that has only been made
		f.lowest = math.MaxUint64
	}
	a.each(func(p *persistentSession) {
		if a.durable.holdBack(p, head) && p.holder() != nil {
			p.lagging.Store(true)
		}
	})
	for _, f := range used {
		upTo := min(f.lowest, head)
		if f.lowest == math.MaxUint64 || upTo <= f.settled {
			continue
		}
		// A cursor may stand within a write: only the writes before it are settled as a whole. Behind the filter's last
		// one there is nothing.
		if f.last.Load() >= f.settled {
			if _, err := b.cfg.Store.Settle(ctx, a.uid, f.id, endOfSeq(upTo-1)); err != nil {
				return err //nolint:wrapcheck // the caller says what
			}
		}
		f.settled = upTo
	}
	return nil
}

// pass is one walk of the compactor through the log of an app, up to the head of when it began. It ends there or stops
// on the way and goes on later; begun anew with a newer head, it would delete clears of what it passed while that lived.
type pass struct {
	after, upTo message.Position
	remaining   map[uint64]struct{} // hashes of topics of which entries remain that are not live
}

// remainingMax bounds the topics that a pass notes (chosen: some MiB). Beyond it, all clears wait for another pass.
const remainingMax = 100_000

// topicHash is for pass.remaining: two topics of one hash only make a clear stay longer.
var topicHash = maphash.MakeSeed() //nolint:gochecknoglobals // a constant of the process

func (p *pass) remains(name string) {
	if len(p.remaining) <= remainingMax {
		p.remaining[maphash.String(topicHash, name)] = struct{}{}
	}
}

func (p *pass) clearMayGo(name string) bool {
	_, remains := p.remaining[maphash.String(topicHash, name)]
	return !remains && len(p.remaining) <= remainingMax
}

// compact walks through the app's log in small steps: once, or from where it stopped. At the head it begins anew the
// next time, since what was live then may have been replaced. Entries stay for as long as the app keeps its history. It
// returns where it stopped (nil: it is through) and how many entries it deleted.
func (b *Broker) compact(ctx context.Context, a *app, p *pass) (stopped *pass, deleted int) {
	if p == nil {
		p = &pass{upTo: message.Position{Seq: a.head.Load(), Part: ^uint32(0)}, remaining: map[uint64]struct{}{}}
	}
	c := Compaction{
		After: p.after, UpTo: p.upTo, Limit: compactStep,
		KeepSince: b.now().Add(-time.Duration(a.history.Load())),
		Live:      a.isLive, Held: a.inWindows().holds, Remains: p.remains, ClearMayGo: p.clearMayGo,
	}
	for ctx.Err() == nil && c.After.Compare(c.UpTo) < 0 {
		looked, n, err := b.cfg.Store.Compact(ctx, a.uid, c)
		if err != nil {
			b.log.LogAttrs(ctx, slog.LevelWarn, "compaction stopped", slog.String("app", a.id), slog.String("error", err.Error()))
			break
		}
		c.After = looked
		deleted += n
	}
	p.after = c.After
	if p.after.Compare(p.upTo) >= 0 {
		return nil, deleted
	}
	return p, deleted
}

// isLive reports whether the retained message of a topic is the log entry at p.
func (a *app) isLive(name string, p message.Position) bool {
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	m, ok := a.retained.Get(name)
	return ok && m.Position == p
}

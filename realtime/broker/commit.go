package broker

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"
)

// Bounds of one group commit (chosen: a batch of 1,000 rows costs SQLite 4 ms, one fsync among them).
const (
	batchPartsMax = 2_000
	batchBytesMax = 8 << 20
)

// committer is the group commit: no timer; a batch is what has gathered while the last one was committed, and apps
// take turns in it. One goroutine commits; another applies what was committed, in order, while the next batch is
// under way.
type committer struct {
	b       *Broker
	applied chan []*write
	away    bool // the last batch found no store; only run's goroutine looks

	mu      sync.Mutex // guards what follows
	work    *sync.Cond // there is something to commit, or the end
	room    *sync.Cond // a full queue has been emptied
	ready   []*app     // with writes, in turn
	closed  bool
	drainBy time.Time          // nothing is held for a store that is away any longer; zero: no drain yet
	cancel  context.CancelFunc // ends the try under way
}

func newCommitter(b *Broker) *committer {
	// One committed batch may wait for its routing: more would only let memory grow.
	c := &committer{b: b, applied: make(chan []*write, 1)}
	c.work = sync.NewCond(&c.mu)
	c.room = sync.NewCond(&c.mu)
	return c
}

// run commits until ctx ends and the queues are empty.
func (c *committer) run(ctx context.Context) {
	defer close(c.applied)
	stop := context.AfterFunc(ctx, func() {
		c.drain(endWait)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closed = true
		c.work.Broadcast()
		c.room.Broadcast()
	})
	defer stop()
	for {
		batch := c.take()
		if batch == nil {
			return
		}
		c.commit(context.WithoutCancel(ctx), batch)
	}
}

// take waits for writes and takes a batch of them, app by app in turn. It returns nil at the end.
func (c *committer) take() []*write {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) == 0 {
		if c.closed {
			return nil
		}
		c.work.Wait()
	}
	var batch []*write
	parts, bytes := 0, 0
	share := max(1, batchPartsMax/len(c.ready))
	for n := len(c.ready); n > 0 && parts < batchPartsMax && bytes < batchBytesMax; n-- {
		a := c.ready[0]
		c.ready = c.ready[1:]
		q := &a.commits
		taken, of := 0, 0
		for taken < len(q.writes) && (taken == 0 || of < share && bytes < batchBytesMax) {
			w := q.writes[taken]
			of += w.weight()
			bytes += w.size
			q.bytes -= w.size
			w.taken()
			taken++
		}
		parts += of
		batch = append(batch, q.writes[:taken]...)
		if q.writes = q.writes[taken:]; len(q.writes) == 0 {
			q.writes, q.ready = nil, false
		} else {
			c.ready = append(c.ready, a)
		}
	}
	c.room.Broadcast()
	return batch
}

// commit writes one batch and hands it on to be applied. While the store is away the batch is held, and tried again,
// until StoreWait has passed.
func (c *committer) commit(ctx context.Context, batch []*write) {
	stored := make([]*write, 0, len(batch))
	sb := Batch{}
	rand.Read(sb.ID[:]) // it never fails
	rows := 0
	for _, w := range batch {
		// What a deleted app has queued is not worth a row; apply tells so.
		if !w.stored || w.app.closed.Load() {
			continue
		}
		if w.judgeChange(); w.void {
			continue
		}
		stored = append(stored, w)
		sb.Writes = append(sb.Writes, w.row())
		if w.logged {
			rows += len(w.parts)
		}
	}
	sb.Writes = append(sb.Writes, snapshots(stored)...)
	if len(stored) > 0 {
		began := time.Now()
		seqs, err := c.commitHeld(ctx, sb, stored, batch)
		c.b.cfg.Observer.Committed(rows, time.Since(began), err)
		if err != nil {
			c.fail(batch, err)
			return
		}
		for i, w := range stored {
			w.seq = seqs[i]
		}
	}
	c.applied <- batch
}

// snapshots takes the sessions that a batch keeps, each once, as they are now: what has happened to one since its write
// was queued is then kept too. What may be committed only with its message is named first.
func snapshots(batch []*write) (writes []Write) {
	last := map[*persistentSession]*write{}
	var order []*persistentSession
	for _, w := range batch {
		p := w.session
		if p == nil {
			continue
		}
		if w.inbound != 0 {
			p.state.Keep(w.inbound)
		}
		if w.endsWill != nil {
			p.endWill(w.endsWill)
		}
		if !w.keep {
			continue
		}
		if last[p] == nil {
			order = append(order, p)
		}
		last[p] = w
	}
	for _, p := range order {
		s, alive := p.snapshot()
		if !alive {
			continue
		}
		last[p].snap = &s
		for _, w := range batch {
			if w.changes == p {
				w.moveOn(s.taken.Leaving)
			}
		}
		writes = append(writes, Write{App: p.app.uid, Sessions: []SessionChange{s.change}})
	}
	return writes
}

// fail refuses a batch and everything of its apps that is queued behind it: later writes may have been computed from
// the failed ones.
func (c *committer) fail(batch []*write, err error) {
	c.b.log.LogAttrs(context.Background(), slog.LevelError, "commit failed", slog.Int("writes", len(batch)),
		slog.String("error", err.Error()))
	seen := map[*app]bool{}
	for _, w := range batch {
		seen[w.app] = true
	}
	c.mu.Lock()
	behind := c.dropLocked(func(a *app) bool { return seen[a] })
	breakPublishers(batch, err)
	breakPublishers(behind, err)
	c.mu.Unlock()
	c.refuse(append(batch, behind...), err)
}

// refuse undoes what writes have done to sessions in memory, and tells those who wait.
func (c *committer) refuse(writes []*write, err error) {
	for _, w := range writes {
		w.undo(c.b)
	}
	tell(writes, err)
}

func (c *committer) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

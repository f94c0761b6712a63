package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Bounds of one group commit (chosen: a batch of 1,000 rows costs SQLite 4 ms, one fsync among them).
const (
	batchPartsMax = 2_000
	batchBytesMax = 8 << 20
)

// write is what one publisher has published at once, on its way through the commit.
type write struct {
	app      *app
	parts    []Part
	one      [1]Part // the parts of most writes, without an allocation of their own
	sessions []SessionChange
	stored   bool // it becomes rows; else it only keeps its place in the order
	silent   bool // not for MQTT subscribers: the end of an expired retained message
	queuedAt time.Time
	seq      uint64

	// Who is told: a connection by token, or a waiting call.
	origin Outbound
	token  uint64
	done   chan error
}

func (w *write) bytes() int {
	n := 0
	for i := range w.parts {
		n += len(w.parts[i].Message.Payload) + len(w.parts[i].Message.Topic)
	}
	return n
}

// commitQueue holds an app's writes in the order in which they were published. Guarded by committer.mu.
type commitQueue struct {
	writes []*write
	ready  bool // it stands in committer.ready
}

// committer is the group commit: no timer; a batch is what has gathered while the last one was committed, and apps
// take turns in it. One goroutine commits; another applies what was committed, in order, while the next batch is
// under way.
type committer struct {
	b       *Broker
	applied chan []*write

	mu     sync.Mutex // guards what follows
	work   *sync.Cond // there is something to commit, or the end
	room   *sync.Cond // a full queue has been emptied
	ready  []*app     // with writes, in turn
	closed bool
}

func newCommitter(b *Broker) *committer {
	// One committed batch may wait for its routing: more would only let memory grow.
	c := &committer{b: b, applied: make(chan []*write, 1)}
	c.work = sync.NewCond(&c.mu)
	c.room = sync.NewCond(&c.mu)
	return c
}

func (c *committer) full(a *app) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(a.commits.writes) >= c.b.cfg.CommitQueueMax
}

// enqueue puts w at the end of its app's queue, waiting for room.
func (c *committer) enqueue(w *write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := &w.app.commits
	for len(q.writes) >= c.b.cfg.CommitQueueMax && !c.closed {
		c.room.Wait()
	}
	if c.closed {
		return ErrDraining
	}
	w.queuedAt = c.b.now()
	q.writes = append(q.writes, w)
	if !q.ready {
		q.ready = true
		c.ready = append(c.ready, w.app)
		c.work.Signal()
	}
	return nil
}

// run commits until ctx ends and the queues are empty.
func (c *committer) run(ctx context.Context) {
	defer close(c.applied)
	stop := context.AfterFunc(ctx, func() {
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
			of += len(w.parts)
			bytes += w.bytes()
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
		if w.stored {
			stored = append(stored, w)
			rows += len(w.parts)
			sb.Writes = append(sb.Writes, Write{App: w.app.uid, Parts: w.parts, Sessions: w.sessions})
		}
	}
	if len(stored) > 0 {
		began := time.Now()
		seqs, err := c.commitHeld(ctx, sb, stored)
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

// commitHeld tries until the batch is committed, is refused for good, or its oldest write has waited too long.
func (c *committer) commitHeld(ctx context.Context, sb Batch, stored []*write) ([]uint64, error) {
	deadline := stored[0].queuedAt.Add(c.b.cfg.StoreWait)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		seqs, err := c.b.cfg.Store.Commit(ctx, sb)
		if errors.Is(err, ErrOutcomeUnknown) {
			seqs, err = c.findOut(ctx, sb, stored, err)
		}
		if err == nil || !errors.Is(err, ErrStoreUnavailable) {
			return seqs, err
		}
		if c.b.now().Add(wait).After(deadline) {
			return nil, err
		}
		c.b.log.LogAttrs(ctx, slog.LevelWarn, "commit held while the store is away", slog.Int("writes", len(stored)),
			slog.String("error", err.Error()))
		timer := time.NewTimer(wait)
		<-timer.C
	}
}

// findOut asks, before anything else is committed, whether a batch whose commit lost its connection is there. It
// does not give up: neither answer may be invented.
func (c *committer) findOut(ctx context.Context, sb Batch, stored []*write, cause error) ([]uint64, error) {
	c.b.log.LogAttrs(ctx, slog.LevelWarn, "outcome of a commit is unknown, finding out", slog.String("error", cause.Error()))
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		there, err := c.b.cfg.Store.Committed(ctx, sb.ID)
		if err == nil && !there {
			return nil, ErrStoreUnavailable // not committed: it is tried again
		}
		if err == nil {
			var seqs []uint64
			if seqs, err = c.seqsOf(ctx, stored); err == nil {
				return seqs, nil
			}
		}
		if c.ended() {
			return nil, ErrOutcomeUnknown
		}
		timer := time.NewTimer(wait)
		<-timer.C
	}
}

func (c *committer) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// seqsOf works out the numbers of the last batch from the heads: this node alone writes, and the numbers are dense.
func (c *committer) seqsOf(ctx context.Context, stored []*write) ([]uint64, error) {
	count := map[*app]uint64{}
	for _, w := range stored {
		if len(w.parts) > 0 {
			count[w.app]++
		}
	}
	next := map[*app]uint64{}
	for a, n := range count {
		head, _, err := c.b.cfg.Store.Head(ctx, a.uid)
		if err != nil {
			return nil, err
		}
		next[a] = head - n + 1
	}
	seqs := make([]uint64, len(stored))
	for i, w := range stored {
		if len(w.parts) > 0 {
			seqs[i] = next[w.app]
			next[w.app]++
		}
	}
	return seqs, nil
}

// fail refuses a batch and everything of its apps that is queued behind it: later writes may have been computed from
// the failed ones.
func (c *committer) fail(batch []*write, err error) {
	c.b.log.LogAttrs(context.Background(), slog.LevelError, "commit failed", slog.Int("writes", len(batch)),
		slog.String("error", err.Error()))
	failed := batch
	c.mu.Lock()
	seen := map[*app]bool{}
	for _, w := range batch {
		if seen[w.app] {
			continue
		}
		seen[w.app] = true
		failed = append(failed, w.app.commits.writes...)
		w.app.commits.writes = nil
	}
	kept := c.ready[:0]
	for _, a := range c.ready {
		if seen[a] {
			a.commits.ready = false
			continue
		}
		kept = append(kept, a)
	}
	c.ready = kept
	c.room.Broadcast()
	c.mu.Unlock()
	k := NewMarks()
	for _, w := range failed {
		w.tell(err, k)
	}
	k.Release()
}

// tell gives the outcome to whoever waits for it.
func (w *write) tell(err error, k *Marks) {
	if w.origin != nil && w.origin.Committed(w.token, err) {
		k.Mark(w.origin)
	}
	if w.done != nil {
		w.done <- err
	}
}

// apply takes committed batches, in order: changes the retained messages in memory, routes, acknowledges, and then
// flushes every connection concerned once.
func (c *committer) apply() {
	for batch := range c.applied {
		k := NewMarks()
		for _, w := range batch {
			w.tell(w.apply(k), k)
		}
		k.Release()
	}
}

// apply makes one committed write seen, as one step; ErrNoSuchApp when the app was deleted meanwhile.
func (w *write) apply(k *Marks) error {
	a := w.app
	a.order.Lock()
	defer a.order.Unlock()
	if a.closed.Load() {
		return ErrNoSuchApp
	}
	if w.stored && w.seq == 0 {
		return ErrNoSuchApp // its rows went between the publish and the commit
	}
	for i := range w.parts {
		m := w.parts[i].Message
		if w.stored {
			m.Position.Seq, m.Position.Part = w.seq, uint32(i)
			if m.Retain {
				a.setRetained(m)
			}
		}
		if !w.silent {
			a.route(m, k)
		}
	}
	if w.stored {
		a.head.Store(w.seq)
	}
	return nil
}

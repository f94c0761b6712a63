package broker

import (
	"errors"
	"time"
)

// commitQueueBytesMax is Config.CommitQueueBytesMax unless that says otherwise.
const commitQueueBytesMax = 64 << 20

// commitQueue holds an app's writes in the order in which they were published. Guarded by committer.mu.
type commitQueue struct {
	writes []*write
	bytes  int
	ready  bool // it stands in committer.ready
}

func (c *committer) full(a *app) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fullLocked(&a.commits)
}

func (c *committer) fullLocked(q *commitQueue) bool {
	return len(q.writes) >= c.b.cfg.CommitQueueMax || q.bytes >= c.b.cfg.CommitQueueBytesMax
}

// errNoRoom tells that the queue is full.
var errNoRoom = errors.New("commit queue is full")

// tryEnqueue is enqueue without waiting.
func (c *committer) tryEnqueue(w *write) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrDraining
	case w.publisherBroken():
		return ErrEnding
	case c.fullLocked(&w.app.commits):
		return errNoRoom
	}
	c.putLocked(w)
	return nil
}

// publisherBroken reports, under committer.mu, whether an earlier write of the same connection has failed, or another
// connection may have its place, so that this one would overtake it or come behind it: the client sends it again.
func (w *write) publisherBroken() bool {
	u, ok := w.origin.(*underWay)
	return ok && u.client != nil && (u.client.broken || u.client.ended.Load())
}

// breakPublishers notes, under committer.mu, the connections that end with the failure of their writes.
func breakPublishers(writes []*write, err error) {
	for _, w := range writes {
		if u, ok := w.origin.(*underWay); ok && u.client != nil && EndsConnection(w.verdict(err), u.client.version) {
			u.client.broken = true
		}
	}
}

// awaitRoom waits until an app's queue is not full.
func (c *committer) awaitRoom(a *app) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.fullLocked(&a.commits) && !c.closed && !c.lateLocked() {
		c.room.Wait()
	}
	if c.closed || c.fullLocked(&a.commits) {
		return ErrDraining
	}
	return nil
}

// put queues a write that needs no room: a change of a session, of which each has one or two at most under way.
func (c *committer) put(w *write) (queued bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.putLocked(w)
	}
	return !c.closed
}

// saveSession has a session saved as it is when the next batch is made.
func (c *committer) saveSession(p *persistentSession) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || p.saving {
		return
	}
	p.saving = true
	c.putLocked(&write{app: p.app, stored: true, session: p, keep: true, save: true})
}

// offer is enqueue without waiting: where there is no room, w is not queued.
func (c *committer) offer(w *write) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && !c.fullLocked(&w.app.commits) {
		c.putLocked(w)
	}
}

func (c *committer) putLocked(w *write) {
	q := &w.app.commits
	w.queuedAt, w.size = time.Now(), w.bytes()
	switch {
	case w.inbound != 0:
		w.session.state.Queue(w.inbound)
	case w.duplicate != 0 && !w.session.state.Queued(w.duplicate):
		w.orphan = true
	}
	q.writes = append(q.writes, w)
	q.bytes += w.size
	if !q.ready {
		q.ready = true
		c.ready = append(c.ready, w.app)
		c.work.Signal()
	}
}

// dropLocked empties the queues of the apps that match, and returns what was in them.
func (c *committer) dropLocked(match func(*app) bool) (dropped []*write) {
	kept := c.ready[:0]
	for _, a := range c.ready {
		if !match(a) {
			kept = append(kept, a)
			continue
		}
		for _, w := range a.commits.writes {
			w.taken()
		}
		dropped = append(dropped, a.commits.writes...)
		a.commits = commitQueue{}
	}
	c.ready = kept
	c.room.Broadcast()
	return dropped
}

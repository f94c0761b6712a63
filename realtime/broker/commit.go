package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/session"
)

// Bounds of one group commit (chosen: a batch of 1,000 rows costs SQLite 4 ms, one fsync among them).
const (
	batchPartsMax = 2_000
	batchBytesMax = 8 << 20
)

// commitQueueBytesMax is Config.CommitQueueBytesMax unless that says otherwise.
const commitQueueBytesMax = 64 << 20

const (
	// attemptMin is what a try at a batch gets though its time is over: a store that is back must be seen to be
	// (chosen: above a round trip and an fsync on a busy machine).
	attemptMin = time.Second
	// askMax bounds one question about an unknown outcome, which is asked again.
	askMax = 2 * time.Second
	// drainWait is how long a draining broker holds what needs a commit while the store is away: of the 10 s that a
	// stop may take (CONTRACT section 2), so that clients still get their answer.
	drainWait = 4 * time.Second
	// endWait is how long a broker that ends lets a try go on, and what a try gets at least that begins in a drain.
	endWait = 2 * time.Second
)

// write is what one publisher has published at once, on its way through the commit.
type write struct {
	app      *app
	parts    []Part
	one      [1]Part // the parts of most writes, without an allocation of their own
	logged   bool    // the parts become rows; else they only keep their place in the order
	stored   bool    // there is something to commit: the parts, or a change of sessions
	behind   bool    // it is queued though nothing of it is stored
	silent   bool    // not for MQTT subscribers: the end of an expired retained message
	queuedAt time.Time
	seq      uint64 // of its parts; without those, the head behind which it was committed
	size     int

	// What of sessions is committed with it.
	change    *SessionChange
	session   *persistentSession // that has published it, or is saved by it
	keep      bool               // the session's row is written as it is when the batch is made
	save      bool               // it is there for that alone
	inbound   uint16             // the Packet Identifier of a QoS 2 message, committed with it; 0: none
	duplicate uint16             // the identifier of one that came before and whose commit may still be under way
	orphan    bool               // that one has not come so far yet, on the connection before
	endsWill  *storedWill
	changes   *persistentSession         // that change is of; where it has ended before, nothing of the write is stored
	void      bool                       // so it was
	ends      *unended                   // the session whose row change deletes
	giveUp    func()                     // undoes what was done for change; called unless the write is applied
	goesOn    []string                   // Topic Filters in change whose retained snapshot goes on
	begin     func(seq uint64, k *Marks) // what is to be done when it is applied, under app.order
	snap      *snapshot                  // of session, where this write is the last of its batch that keeps it

	// Who is told, once: a connection by token, or a waiting call.
	told   bool
	origin Outbound
	token  uint64
	done   chan error
}

func (w *write) bytes() int {
	n := 0
	for i := range w.parts {
		m := w.parts[i].Message
		n += len(m.Payload) + len(m.Topic) + len(m.Properties)
	}
	return n
}

// commitQueue holds an app's writes in the order in which they were published. Guarded by committer.mu.
type commitQueue struct {
	writes []*write
	bytes  int
	ready  bool // it stands in committer.ready
}

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

// publisherBroken reports, under committer.mu, whether an earlier write of the same connection has failed, so that this
// one would overtake it: the client sends both again.
func (w *write) publisherBroken() bool {
	u, ok := w.origin.(*underWay)
	return ok && u.client != nil && u.client.broken
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
	w.queuedAt, w.size = c.b.now(), w.bytes()
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
			of += max(1, len(w.parts))
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

// taken notes, under committer.mu, that a write has left the queue.
func (w *write) taken() {
	if w.save {
		w.session.saving = false
	}
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

// judgeChange leaves out what would be done to a session that has taken the place of the one that is meant: a Client
// Identifier may be in use again while what concerns the session before is still on its way. The first write of a
// session deletes what there was before.
func (w *write) judgeChange() {
	a := w.app
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch {
	case w.change == nil:
	case w.changes != nil:
		w.void = w.changes.forgotten
	case w.change.Delete:
		if now := a.sessions[w.change.ClientID]; now != nil && now != w.session {
			w.change.Delete = false
		}
	}
}

// row is what the store gets of a write.
func (w *write) row() Write {
	r := Write{App: w.app.uid}
	if w.logged {
		r.Parts = w.parts
	}
	if w.change != nil {
		r.Sessions = []SessionChange{*w.change}
	}
	return r
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

// moveOn has the rows of subscriptions that are made again say how far their retained snapshots have come, as the window
// beside them does.
func (w *write) moveOn(leaving []session.Subscription) {
	for i := range w.change.Subscribe {
		row := &w.change.Subscribe[i]
		for j := range leaving {
			if leaving[j].Filter == row.Filter && slices.Contains(w.goesOn, row.Filter) {
				row.RetainedAfter = leaving[j].RetainedAfter
			}
		}
	}
}

// commitHeld tries until the batch is committed, is refused for good, or its oldest write has waited too long.
func (c *committer) commitHeld(ctx context.Context, sb Batch, stored, batch []*write) ([]uint64, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		seqs, err := c.try(ctx, sb, stored)
		if errors.Is(err, ErrOutcomeUnknown) {
			seqs, err = c.findOut(ctx, sb, stored, batch, err)
		}
		c.away = errors.Is(err, ErrStoreUnavailable) || errors.Is(err, ErrOutcomeUnknown)
		if err == nil || !errors.Is(err, ErrStoreUnavailable) {
			return seqs, err
		}
		if c.left(stored[0]) < wait {
			return nil, err
		}
		c.b.log.LogAttrs(ctx, slog.LevelWarn, "commit held while the store is away", slog.Int("writes", len(stored)),
			slog.String("error", err.Error()))
		timer := time.NewTimer(wait)
		<-timer.C
	}
}

// try is one try at a batch. It ends though the network swallows everything: a store that was there gets the whole of
// StoreWait, however long the batch has queued; one that was away, what is left of it.
func (c *committer) try(ctx context.Context, sb Batch, stored []*write) ([]uint64, error) {
	patience := c.b.cfg.StoreWait
	if c.away {
		patience = max(c.left(stored[0]), min(attemptMin, patience))
	}
	c.mu.Lock()
	if !c.drainBy.IsZero() {
		patience = min(patience, max(c.drainBy.Sub(c.b.now()), endWait))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	c.cancel = cancel
	c.mu.Unlock()
	defer cancel()
	return c.b.cfg.Store.Commit(ctx, sb)
}

// left is how long w may still be held for a store that is away.
func (c *committer) left(w *write) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leftLocked(w)
}

func (c *committer) leftLocked(w *write) time.Duration {
	by := w.queuedAt.Add(c.b.cfg.StoreWait)
	if !c.drainBy.IsZero() && c.drainBy.Before(by) {
		by = c.drainBy
	}
	return by.Sub(c.b.now())
}

// drain ends, after a time, all waiting for a store that is away: the try that is under way now, the holding of
// batches, the waiting for room.
func (c *committer) drain(wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if by := c.b.now().Add(wait); c.drainBy.IsZero() || by.Before(c.drainBy) {
		c.drainBy = by
	}
	cancel := c.cancel
	time.AfterFunc(wait, func() {
		if cancel != nil {
			cancel()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.room.Broadcast()
	})
}

// lateLocked reports whether a drain has lasted so long that nobody waits for room any more.
func (c *committer) lateLocked() bool {
	return !c.drainBy.IsZero() && !c.b.now().Before(c.drainBy)
}

// findOut asks, before anything else is committed, whether a batch whose commit lost its connection is there. It
// does not give up, since neither answer may be invented; but who waits is told in time that the outcome is unknown,
// and a batch that turns out to be there is applied all the same.
func (c *committer) findOut(ctx context.Context, sb Batch, stored, batch []*write, cause error) ([]uint64, error) {
	c.b.log.LogAttrs(ctx, slog.LevelWarn, "outcome of a commit is unknown, finding out", slog.String("error", cause.Error()))
	told := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		seqs, there, err := c.ask(ctx, sb, stored)
		switch {
		case err == nil && there:
			return seqs, nil
		case err == nil && told:
			return nil, ErrOutcomeUnknown // not committed, and nobody waits for it: who sent it may send it again
		case err == nil:
			return nil, ErrStoreUnavailable // not committed: it is tried again
		case c.ended():
			return nil, ErrOutcomeUnknown
		}
		if !told && c.left(stored[0]) <= 0 {
			told = true
			tell(batch, ErrOutcomeUnknown)
		}
		c.expire()
		timer := time.NewTimer(wait)
		<-timer.C
	}
}

// ask asks once whether a batch was committed, and for the numbers that it got.
func (c *committer) ask(ctx context.Context, sb Batch, stored []*write) (seqs []uint64, there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, min(max(c.left(stored[0]), attemptMin), askMax))
	defer cancel()
	if there, err = c.b.cfg.Store.Committed(ctx, sb.ID); err != nil || !there {
		return nil, false, err
	}
	seqs, err = c.seqsOf(ctx, stored)
	return seqs, true, err
}

// expire fails the queues whose oldest write has waited for the store as long as it may.
func (c *committer) expire() {
	c.mu.Lock()
	dropped := c.dropLocked(func(a *app) bool { return c.leftLocked(a.commits.writes[0]) <= 0 })
	breakPublishers(dropped, ErrStoreUnavailable)
	c.mu.Unlock()
	if len(dropped) > 0 {
		c.refuse(dropped, ErrStoreUnavailable)
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
		n := uint64(0)
		if w.logged {
			n = 1
		}
		count[w.app] += n
	}
	next := map[*app]uint64{}
	for a, n := range count {
		head, _, err := c.b.cfg.Store.Head(ctx, a.uid)
		if errors.Is(err, ErrNoSuchApp) {
			continue // deleted meanwhile, its rows with it
		}
		if err != nil {
			return nil, err
		}
		next[a] = head - n + 1
	}
	seqs := make([]uint64, len(stored))
	for i, w := range stored {
		seq, there := next[w.app]
		switch {
		case !there:
		case w.logged:
			seqs[i] = seq
			next[w.app]++
		default:
			seqs[i] = seq - 1
		}
	}
	return seqs, nil
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

// undo takes back what the making of a batch, or the queueing of a write, has named as committed.
func (w *write) undo(b *Broker) {
	if w.giveUp != nil {
		w.giveUp()
	}
	if w.ends != nil {
		w.app.endAgain(w.ends)
	}
	p := w.session
	if p == nil {
		return
	}
	if w.inbound != 0 {
		p.state.Forget(w.inbound)
	}
	if w.endsWill != nil {
		p.putBackWill(w.endsWill)
		b.armWill(p, b.cfg.StoreWait)
	}
	if w.snap != nil {
		p.state.PutBack(w.snap.taken)
	}
	if w.keep {
		p.dirty.Store(true)
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

// tell gives one outcome to all who wait for writes.
func tell(writes []*write, err error) {
	k := NewMarks()
	for _, w := range writes {
		w.tell(err, k)
	}
	k.Release()
}

// tell gives the outcome to whoever waits for it and has not been told yet.
func (w *write) tell(err error, k *Marks) {
	if w.told {
		return
	}
	w.told = true
	if w.origin != nil && w.origin.Committed(w.token, w.verdict(err)) {
		k.Mark(w.origin)
	}
	if w.done != nil {
		w.done <- err
	}
	w.tellSaved(err, k)
}

// verdict is what the publisher is told. What becomes of a duplicate says nothing of the message that it duplicates, which
// may be committed: were it refused, the client would use its identifier for another one.
func (w *write) verdict(err error) error {
	if err != nil && w.duplicate != 0 {
		return ErrStoreUnavailable
	}
	return err
}

// tellSaved tells the connection of a session that was saved what it has waited for, or that it was not.
func (w *write) tellSaved(err error, k *Marks) {
	var out Outbound
	mark := uint64(0)
	switch {
	case w.snap != nil:
		if w.snap.client == nil {
			return
		}
		out, mark = w.snap.client.out, w.snap.mark
	case err != nil && w.save: // it never came into a batch
		c := w.session.holder()
		if c == nil {
			return
		}
		out, mark = c.out, math.MaxUint64
	default:
		return
	}
	if out.Saved(mark, err) {
		k.Mark(out)
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
	if w.void {
		w.giveUp()
		return ErrStoreUnavailable // of a connection that has ended
	}
	if w.logged && w.seq == 0 {
		return ErrNoSuchApp // its rows went between the publish and the commit
	}
	if w.duplicate != 0 && (w.orphan || !w.session.state.Queued(w.duplicate)) {
		return ErrStoreUnavailable // what it duplicates was not committed: the client is to send it again
	}
	for i := range w.parts {
		p := &w.parts[i]
		if w.logged {
			p.Message.Position.Seq, p.Message.Position.Part = w.seq, uint32(i)
			if p.Message.Retain {
				a.setRetained(p.Message)
			}
			k.logged = a.durable.handedOut(p.Filters)
		}
		if !w.silent {
			a.route(p.Message, k)
		}
		if k.logged = nil; w.logged {
			a.durable.committed(p)
		}
	}
	if w.logged {
		a.head.Store(w.seq)
	}
	if w.change != nil {
		a.forgetSettled(w.change.Settle)
	}
	if w.snap != nil {
		w.session.saved.Store(w.snap.change.Keep.Cursor.Seq)
		a.forgetSettled(w.snap.change.Settle)
	}
	if w.begin != nil {
		w.begin(w.seq, k)
	}
	return nil
}

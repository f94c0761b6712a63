package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

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

package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

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
		patience = min(patience, max(time.Until(c.drainBy), endWait))
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
	return time.Until(by)
}

// drain ends, after a time, all waiting for a store that is away: the try that is under way now, the holding of
// batches, the waiting for room.
func (c *committer) drain(wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if by := time.Now().Add(wait); c.drainBy.IsZero() || by.Before(c.drainBy) {
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
	return !c.drainBy.IsZero() && !time.Now().Before(c.drainBy)
}

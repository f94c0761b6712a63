package api

import (
	"sync"
	"time"
)

// Bounds of visitors' tokens per key and address (chosen: a school behind one address gets in, a script does not).
const (
	visitorBurst = 30
	visitorEvery = time.Second // one more a second
)

const (
	limiterEntries = 100_000 // names at a time
	limiterSweep   = time.Second
)

// limiter holds names to rates, in bounded memory: each name has a time until which what it took is paid for, and names
// that owe nothing are forgotten. Safe for concurrent use.
type limiter struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	paid  map[string]time.Time
	swept time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, paid: map[string]time.Time{}}
}

// debt is what a name takes on: cost is the time that pays for it. It is let through as long as the name owes no more
// than credit, so that one large take passes and those behind it wait.
type debt struct {
	name         string
	cost, credit time.Duration
}

// take takes on all debts and returns 0; or none of them, and returns how long to wait.
func (l *limiter) take(debts ...debt) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sweepLocked(now)
	for _, d := range debts {
		paid, known := l.paid[d.name]
		if !known && len(l.paid) >= limiterEntries {
			wait = max(wait, limiterSweep)
		}
		if paid.After(now) {
			wait = max(wait, paid.Sub(now)-d.credit)
		}
	}
	if wait > 0 {
		return wait
	}
	for _, d := range debts {
		paid := l.paid[d.name]
		if paid.Before(now) {
			paid = now
		}
		l.paid[d.name] = paid.Add(d.cost)
	}
	return 0
}

// giveBack undoes a take.
func (l *limiter) giveBack(debts ...debt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range debts {
		if paid, known := l.paid[d.name]; known {
			l.paid[d.name] = paid.Add(-d.cost)
		}
	}
}

// sweepLocked makes room, at most once a sweep's time.
func (l *limiter) sweepLocked(now time.Time) {
	if len(l.paid) < limiterEntries || now.Sub(l.swept) < limiterSweep {
		return
	}
	l.swept = now
	for name, paid := range l.paid {
		if !paid.After(now) {
			delete(l.paid, name)
		}
	}
}

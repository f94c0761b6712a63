package api

import (
	"sync"
	"time"
)

// Bounds of anonymous tokens per key and address (chosen: a school behind one address gets in, a script does not).
const (
	limiterBurst   = 30
	limiterEvery   = time.Second // one more a second
	limiterEntries = 100_000
)

// limiter is a token bucket per name, in bounded memory: names whose bucket is full again are forgotten.
type limiter struct {
	now func() time.Time

	mu   sync.Mutex // guards full
	full map[string]time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, full: map[string]time.Time{}}
}

// take returns 0, or how long to wait.
func (l *limiter) take(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if len(l.full) >= limiterEntries {
		for n, at := range l.full {
			if !at.After(now) {
				delete(l.full, n)
			}
		}
		if len(l.full) >= limiterEntries {
			return limiterEvery
		}
	}
	at := l.full[name] // when the bucket will be full again
	if at.Before(now) {
		at = now
	}
	if over := at.Sub(now) - (limiterBurst-1)*limiterEvery; over > 0 {
		return over
	}
	l.full[name] = at.Add(limiterEvery)
	return 0
}

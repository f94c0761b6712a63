package e2e

import (
	"sync"
	"time"
)

// inbox holds what has come and was not looked at yet, in order.
type inbox[T any] struct {
	mu      sync.Mutex // guards what follows
	items   []T
	changed chan struct{} // closed when something comes; nil: nobody waits
}

func (b *inbox[T]) put(v T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items = append(b.items, v)
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// next takes the first item, waiting for one.
func (b *inbox[T]) next(within time.Duration) (v T, ok bool) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		v, ok, changed := b.take()
		if ok {
			return v, true
		}
		select {
		case <-changed:
		case <-timeout.C:
			return v, false
		}
	}
}

func (b *inbox[T]) take() (v T, ok bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.items) > 0 {
		v = b.items[0]
		b.items = b.items[1:]
		return v, true, nil
	}
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return v, false, b.changed
}

// all takes everything that is there.
func (b *inbox[T]) all() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = nil
	return items
}

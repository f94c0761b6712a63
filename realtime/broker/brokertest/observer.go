package brokertest

import (
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// Observer counts by name: "connected", "disconnected Session taken over", "refused auth_failed", "received", "delivered",
// "dropped queue_full", "denied publish", "committed", "compacted".
type Observer struct {
	mu     sync.Mutex // guards what follows
	counts map[string]int
	lag    uint64
}

// Count returns a count.
func (o *Observer) Count(name string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[name]
}

func (o *Observer) add(name string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts = map[string]int{}
	}
	o.counts[name] += n
}

// Connected implements broker.Observer.
func (o *Observer) Connected(string, packet.Version) { o.add("connected", 1) }

// Disconnected implements broker.Observer.
func (o *Observer) Disconnected(reason packet.ReasonCode) { o.add("disconnected "+reason.String(), 1) }

// Refused implements broker.Observer.
func (o *Observer) Refused(cause string) { o.add("refused "+cause, 1) }

// Received implements broker.Observer.
func (o *Observer) Received(byte, int) { o.add("received", 1) }

// Delivered implements broker.Observer.
func (o *Observer) Delivered(messages [3]int, _ int64) {
	o.add("delivered", messages[0]+messages[1]+messages[2])
}

// Dropped implements broker.Observer.
func (o *Observer) Dropped(cause string, n int) { o.add("dropped "+cause, n) }

// Denied implements broker.Observer.
func (o *Observer) Denied(action string) { o.add("denied "+action, 1) }

// Committed implements broker.Observer.
func (o *Observer) Committed(messages int, _ time.Duration, _ error) { o.add("committed", messages) }

// Compacted implements broker.Observer.
func (o *Observer) Compacted(deleted int, lag uint64) {
	o.add("compacted", deleted)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lag = lag
}

// Lag returns what the compactor had still to look at when it told last.
func (o *Observer) Lag() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lag
}

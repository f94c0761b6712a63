package broker

import (
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// setRetained makes m the retained message of its topic, or clears it [MQTT5-3.3.1-5, MQTT5-3.3.1-6].
func (a *app) setRetained(m *message.Message) {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	a.reservations.without(m.Topic, a, func() { a.setRetainedLocked(m) })
}

func (a *app) setRetainedLocked(m *message.Message) {
	var old *message.Message
	var had bool
	if m.Clears() {
		old, had = a.retained.Delete(m.Topic)
	} else {
		old, had = a.retained.Set(m.Topic, m)
		a.retainedBytes += retainedSize(m)
		a.expiring.add(m)
	}
	if had {
		a.retainedBytes -= retainedSize(old)
		a.expiring.remove(old)
	}
}

// retainedSize is what a retained message counts against retained_bytes_max.
func retainedSize(m *message.Message) int64 {
	return int64(len(m.Topic) + len(m.Payload) + len(m.Properties))
}

func (a *app) retainsAny() bool {
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	return a.retained.Len() > 0
}

// expired hands the retained messages whose Message Expiry Interval has passed, and which are to be cleared, to end. It
// does so under the lock: a message that replaces one of them reserves its room before or after, and so is queued before
// the clear, which is then left out, or behind it.
func (a *app) expired(now time.Time, end func(*message.Message)) {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	for _, m := range a.expiring.take(now) {
		// What is under way replaces it, or has it named again.
		if !a.reservations.underWay(m.Topic) {
			end(m)
		}
	}
}

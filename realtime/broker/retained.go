package broker

import (
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// setRetained makes m the retained message of its topic, or clears it [MQTT5-3.3.1-5, MQTT5-3.3.1-6].
func (a *app) setRetained(m *message.Message) {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	if m.Clears() {
		if old, had := a.retained.Delete(m.Topic); had {
			a.retainedBytes -= retainedSize(old)
			a.expiring.remove(old)
		}
		return
	}
	old, replaced := a.retained.Set(m.Topic, m)
	if replaced {
		a.retainedBytes -= retainedSize(old)
		a.expiring.remove(old)
	}
	a.retainedBytes += retainedSize(m)
	a.expiring.add(m)
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

// roomFor reports whether the app may retain m: a clear and a replacement by something no longer always pass.
func (a *app) roomFor(m *message.Message, limits *Limits) bool {
	if m.Clears() {
		return true
	}
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	grows := retainedSize(m)
	old, replaces := a.retained.Get(m.Topic)
	if replaces {
		grows -= retainedSize(old)
	} else if a.retained.Len() >= limits.RetainedCountMax {
		return false
	}
	return grows <= 0 || a.retainedBytes+grows <= limits.RetainedBytesMax
}

// expired returns the retained messages whose Message Expiry Interval has passed and which are to be cleared.
func (a *app) expired(now time.Time) []*message.Message {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	return a.expiring.take(now)
}

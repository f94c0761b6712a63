package broker

import (
	"container/heap"
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
		}
		return
	}
	old, replaced := a.retained.Set(m.Topic, m)
	if replaced {
		a.retainedBytes -= retainedSize(old)
	}
	a.retainedBytes += retainedSize(m)
	if !m.Expires.IsZero() {
		heap.Push(&a.expiring, m)
	}
}

// retainedSize is what a retained message counts against retained_bytes_max.
func retainedSize(m *message.Message) int64 {
	return int64(len(m.Topic) + len(m.Payload) + len(m.Properties))
}

// isRetained reports whether m is the retained message of its topic now.
func (a *app) isRetained(m *message.Message) bool {
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	now, ok := a.retained.Get(m.Topic)
	return ok && now == m
}

// snapshot returns the retained messages that match filter, in topic order.
func (a *app) snapshot(filter string) []*message.Message {
	a.retainedMu.RLock()
	defer a.retainedMu.RUnlock()
	var all []*message.Message
	a.retained.Match(filter, func(_ string, m *message.Message) bool {
		all = append(all, m)
		return true
	})
	return all
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

// expired takes retained messages whose Message Expiry Interval has passed out of the heap; those already replaced
// are forgotten on the way.
func (a *app) expired(now time.Time) []*message.Message {
	a.retainedMu.Lock()
	defer a.retainedMu.Unlock()
	var due []*message.Message
	for len(a.expiring) > 0 && a.expiring[0].Expired(now) {
		m := a.expiring[0]
		heap.Pop(&a.expiring)
		if current, ok := a.retained.Get(m.Topic); ok && current == m {
			due = append(due, m)
		}
	}
	return due
}

// expiryHeap orders retained messages by when they expire.
type expiryHeap []*message.Message

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].Expires.Before(h[j].Expires) }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is called by container/heap.
func (h *expiryHeap) Push(x any) {
	if m, ok := x.(*message.Message); ok {
		*h = append(*h, m)
	}
}

// Pop is called by container/heap.
func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}

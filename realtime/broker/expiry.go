package broker

import (
	"container/heap"
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// expiryRetry is when a message is named due once more that nobody has cleared: its clear may have failed with the
// store (chosen: well above what a commit takes).
const expiryRetry = time.Minute

// expiry is a retained message with a Message Expiry Interval.
type expiry struct {
	message *message.Message
	at      time.Time // when it is due
	index   int       // in the heap
}

// expiries are the retained messages that expire, each for as long as it is retained. The zero value is ready.
type expiries struct {
	due expiryHeap
	of  map[*message.Message]*expiry
}

func (x *expiries) add(m *message.Message) {
	if m.Expires.IsZero() {
		return
	}
	e := &expiry{message: m, at: m.Expires}
	if x.of == nil {
		x.of = map[*message.Message]*expiry{}
	}
	x.of[m] = e
	heap.Push(&x.due, e)
}

// remove forgets a message that has been replaced or cleared, and so lets its memory go.
func (x *expiries) remove(m *message.Message) {
	e, there := x.of[m]
	if !there {
		return
	}
	delete(x.of, m)
	heap.Remove(&x.due, e.index)
}

// take returns what is due, and puts it off: it stays until it is removed.
func (x *expiries) take(now time.Time) (due []*message.Message) {
	for len(x.due) > 0 && !x.due[0].at.After(now) {
		e := x.due[0]
		due = append(due, e.message)
		e.at = now.Add(expiryRetry)
		heap.Fix(&x.due, 0)
	}
	return due
}

// expiryHeap is the container/heap of expiries, the next one due first.
type expiryHeap []*expiry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is called by container/heap.
func (h *expiryHeap) Push(x any) {
	if e, ok := x.(*expiry); ok {
		e.index = len(*h)
		*h = append(*h, e)
	}
}

// Pop is called by container/heap.
func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}

package brokertest

import (
	"sync"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// Recorder is a connection that keeps what it gets. Safe for concurrent use.
type Recorder struct {
	mu        sync.Mutex // guards what follows
	got       []broker.Delivery
	committed []error
	ended     packet.ReasonCode
	flushes   int
	marked    bool
}

// Got returns what was delivered.
func (r *Recorder) Got() []broker.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]broker.Delivery(nil), r.got...)
}

// Outcomes returns what became of publishes, in the order in which it was told.
func (r *Recorder) Outcomes() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.committed...)
}

// Flushes returns how often the connection was flushed.
func (r *Recorder) Flushes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flushes
}

// Ended returns the reason with which the connection was ended; 0: it was not.
func (r *Recorder) Ended() packet.ReasonCode {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// Deliver implements broker.Outbound.
func (r *Recorder) Deliver(d broker.Delivery) (broker.Verdict, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, d)
	marked := !r.marked
	r.marked = true
	return broker.Queued, marked
}

// Committed implements broker.Outbound.
func (r *Recorder) Committed(_ uint64, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.committed = append(r.committed, err)
	return false
}

// Flush implements broker.Outbound.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
	r.marked = false
}

// Disconnect implements broker.Outbound.
func (r *Recorder) Disconnect(reason packet.ReasonCode, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = reason
}

// Notify implements broker.Outbound.
func (r *Recorder) Notify([]byte) {}

// GrantChanged implements broker.Outbound.
func (r *Recorder) GrantChanged() {}

// HearOut implements broker.Outbound.
func (r *Recorder) HearOut() <-chan struct{} {
	heard := make(chan struct{})
	close(heard)
	return heard
}

// Queue implements broker.Outbound.
func (r *Recorder) Queue() (messages int, bytes int64, inflight int) { return 0, 0, 0 }

// Offer implements broker.Outbound.
func (r *Recorder) Offer(broker.Delivery, int64) broker.OfferVerdict { return broker.Leaving }

// Saving implements broker.Outbound; a Recorder has no session.
func (r *Recorder) Saving(message.Position) uint64 { return 0 }

// Saved implements broker.Outbound.
func (r *Recorder) Saved(uint64, error) bool { return false }

// Taken implements broker.Outbound.
func (r *Recorder) Taken() message.Position { return message.Position{} }

// Feed implements broker.Outbound.
func (r *Recorder) Feed([]broker.Delivery, message.Position, uint64) broker.FeedVerdict {
	return broker.Over
}

// Narrowed implements broker.Outbound.
func (r *Recorder) Narrowed() uint64 { return 0 }

// Narrow implements broker.Outbound.
func (r *Recorder) Narrow(func(*message.Message) bool) {}

// Join implements broker.Outbound.
func (r *Recorder) Join() {}

// Live implements broker.Outbound.
func (r *Recorder) Live() bool { return true }

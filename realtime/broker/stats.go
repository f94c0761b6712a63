package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

// Counters count since the server started.
type Counters struct {
	MessagesIn, MessagesOut, BytesIn, BytesOut, Dropped, Denied int64
}

// MinuteStats is one minute of an app's last hour.
type MinuteStats struct {
	At          time.Time
	Connections int
	Counters
}

// Stats is an app as of now, and its last hour by the minute, oldest first.
type Stats struct {
	Connections, Sessions, Subscriptions, Retained int
	RetainedBytes                                  int64
	Head                                           uint64 // the last committed seq
	Total                                          Counters
	Minutes                                        []MinuteStats
}

const minutesKept = 60

type appStats struct {
	messagesIn, messagesOut, bytesIn, bytesOut, dropped, denied atomic.Int64

	mu      sync.Mutex // guards what follows
	last    Counters   // at the end of the last minute
	minutes []MinuteStats
}

func (s *appStats) received(payloadBytes int) {
	s.messagesIn.Add(1)
	s.bytesIn.Add(int64(payloadBytes))
}

// Sent counts PUBLISH packets that a connection of the client has written.
func (c *Client) Sent(messages int, payloadBytes int64) {
	c.app.stats.messagesOut.Add(int64(messages))
	c.app.stats.bytesOut.Add(payloadBytes)
}

// Dropped counts messages that a connection of the client could not send.
func (c *Client) Dropped(n int) { c.app.stats.dropped.Add(int64(n)) }

func (s *appStats) total() Counters {
	return Counters{
		MessagesIn: s.messagesIn.Load(), MessagesOut: s.messagesOut.Load(), BytesIn: s.bytesIn.Load(),
		BytesOut: s.bytesOut.Load(), Dropped: s.dropped.Load(), Denied: s.denied.Load(),
	}
}

// minute closes a minute.
func (s *appStats) minute(at time.Time, connections int) {
	total := s.total()
	s.mu.Lock()
	defer s.mu.Unlock()
	m := MinuteStats{At: at, Connections: connections, Counters: Counters{
		MessagesIn: total.MessagesIn - s.last.MessagesIn, MessagesOut: total.MessagesOut - s.last.MessagesOut,
		BytesIn: total.BytesIn - s.last.BytesIn, BytesOut: total.BytesOut - s.last.BytesOut,
		Dropped: total.Dropped - s.last.Dropped, Denied: total.Denied - s.last.Denied,
	}}
	s.last = total
	if len(s.minutes) == minutesKept {
		s.minutes = append(s.minutes[:0], s.minutes[1:]...)
	}
	s.minutes = append(s.minutes, m)
}

// Stats returns the app's numbers.
func (b *Broker) Stats(uid AppUID) (Stats, error) {
	a := b.app(uid)
	if a == nil {
		return Stats{}, ErrNoSuchApp
	}
	var s Stats
	a.mu.RLock()
	s.Connections, s.Subscriptions = len(a.clients), a.subscriptions
	s.Sessions = s.Connections
	for id, p := range a.sessions {
		if _, connected := a.clients[id]; !connected && !p.willOnly {
			s.Sessions++
		}
	}
	a.mu.RUnlock()
	a.retainedMu.RLock()
	s.Retained, s.RetainedBytes = a.retained.Len(), a.retainedBytes
	a.retainedMu.RUnlock()
	s.Head = a.head.Load()
	s.Total = a.stats.total()
	a.stats.mu.Lock()
	defer a.stats.mu.Unlock()
	s.Minutes = append([]MinuteStats(nil), a.stats.minutes...)
	return s, nil
}

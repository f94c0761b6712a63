package broker

import (
	"slices"
	"sync"

	"github.com/embercast/embercast/realtime/message"
)

// Marks collects the connections that routing has given something to, so that each is flushed once when all packets
// of one read, or all writes of one commit, have been routed. It also holds the scratch space of routing. One
// goroutine uses it at a time; Flush makes it ready again.
type Marks struct {
	marked []Outbound
	sets   [][]*subscriber
	merged map[*Client]Delivery
	logged []groupKey // the groups that get the message that is routed from the log
}

var marksPool = sync.Pool{New: func() any { return new(Marks) }} //nolint:gochecknoglobals // a pool holds no state

// NewMarks takes Marks out of a pool; Release gives them back.
func NewMarks() *Marks {
	m, ok := marksPool.Get().(*Marks)
	if !ok {
		return new(Marks)
	}
	return m
}

// Release flushes and gives the Marks back to the pool.
func (k *Marks) Release() {
	k.Flush()
	marksPool.Put(k)
}

// Flush flushes every marked connection once.
func (k *Marks) Flush() {
	for i, out := range k.marked {
		out.Flush()
		k.marked[i] = nil
	}
	k.marked = k.marked[:0]
}

// Mark adds a connection to be flushed.
func (k *Marks) Mark(out Outbound) { k.marked = append(k.marked, out) }

func (k *Marks) deliver(c *Client, d Delivery) Verdict {
	v, marked := c.out.Deliver(d)
	if marked {
		k.Mark(c.out)
	}
	if v == Dropped {
		c.app.stats.dropped.Add(1)
	}
	return v
}

// deliveryFor says how a subscription gets a message that arrives live: at the lower QoS, and with the retain flag
// only if it asked for Retain As Published [MQTT5-3.3.1-12, MQTT5-3.3.1-13].
func deliveryFor(s *subscriber, m *message.Message) Delivery {
	return Delivery{
		Message: m, SubscriptionIDs: s.ids, QoS: min(m.QoS, s.sub.QoS), Retain: m.Retain && s.sub.RetainAsPublished,
	}
}

// route is the only way of a message to its subscribers: one match in the topic tree, one shared message, a reference
// in the queue of each connection. The caller flushes the marks.
func (a *app) route(m *message.Message, k *Marks) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	k.sets = a.tree.MatchSets(m.Topic, k.sets[:0])
	if len(k.sets) == 1 {
		// One filter matched: no client can stand in it twice.
		for _, s := range k.sets[0] {
			a.deliverOne(s, m, k)
		}
	} else if len(k.sets) > 1 {
		a.routeOverlapping(m, k)
	}
	clear(k.sets)
}

func (a *app) deliverOne(s *subscriber, m *message.Message, k *Marks) {
	switch {
	case s.group != nil && slices.Contains(k.logged, s.group.key):
	case s.group != nil:
		s.group.deliver(m, k)
	case s.takes(m):
		k.deliver(s.client, deliveryFor(s, m))
	}
}

// routeOverlapping sends one copy to a client whose several subscriptions match, at the highest of their QoS
// [MQTT5-3.3.4-2] and with all their Subscription Identifiers [MQTT5-3.3.4-4]. Shared Subscriptions get their own
// copy.
func (a *app) routeOverlapping(m *message.Message, k *Marks) {
	if k.merged == nil {
		k.merged = map[*Client]Delivery{}
	}
	for _, set := range k.sets {
		for _, s := range set {
			if s.group != nil {
				a.deliverOne(s, m, k)
				continue
			}
			if !s.takes(m) {
				continue
			}
			d := deliveryFor(s, m)
			if first, twice := k.merged[s.client]; twice {
				d.QoS = max(d.QoS, first.QoS)
				d.Retain = d.Retain || first.Retain
				d.SubscriptionIDs = joinIDs(first.SubscriptionIDs, d.SubscriptionIDs)
			}
			k.merged[s.client] = d
		}
	}
	for c, d := range k.merged {
		k.deliver(c, d)
	}
	clear(k.merged)
}

// joinIDs leaves its arguments as they are: they are shared.
func joinIDs(a, b []uint32) []uint32 {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	return append(append(make([]uint32, 0, len(a)+len(b)), a...), b...)
}

package broker

import (
	"slices"
	"sync/atomic"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/topic"
)

// groupKey names a Shared Subscription: the ShareName and the Topic Filter behind it (MQTT 5.0 section 4.8.2).
type groupKey struct{ name, filter string }

// shareGroup is a Shared Subscription with its connected members. It stands in the topic tree as one entry.
type shareGroup struct {
	key     groupKey
	entry   *subscriber
	members []*subscriber // guarded by app.mu
	turn    atomic.Uint64 // of the member that is next
}

// keyOf names the group of a Shared Subscription, whose filter was validated when it was subscribed.
func keyOf(s *subscriber) groupKey {
	name, inner, _, err := topic.ParseShared(s.sub.Filter)
	if err != nil {
		panic("broker: a Shared Subscription with the filter " + s.sub.Filter)
	}
	return groupKey{name, inner}
}

func (a *app) joinLocked(s *subscriber) {
	key := keyOf(s)
	g := a.groups[key]
	if g == nil {
		g = &shareGroup{key: key}
		g.entry = &subscriber{inner: key.filter, group: g}
		a.groups[key] = g
		a.tree.Add(key.filter, g.entry)
	}
	g.members = append(g.members, s)
}

func (a *app) leaveLocked(s *subscriber) {
	key := keyOf(s)
	g := a.groups[key]
	if g == nil {
		return
	}
	if i := slices.Index(g.members, s); i >= 0 {
		g.members = slices.Delete(g.members, i, i+1)
	}
	if len(g.members) == 0 {
		a.tree.Remove(key.filter, g.entry)
		delete(a.groups, key)
	}
}

// deliver hands m to the member whose turn it is, or to the next that can take it.
func (g *shareGroup) deliver(m *message.Message, marks *Marks) {
	n, turn := uint64(len(g.members)), g.turn.Add(1)-1
	for i := range n {
		s := g.members[(turn+i)%n]
		if !s.takes(m) {
			continue
		}
		d := deliveryFor(s, m)
		d.Shared = true
		if marks.deliver(s.client, d) == Queued {
			return
		}
	}
}

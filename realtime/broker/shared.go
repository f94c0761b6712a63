package broker

import (
	"slices"

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

// deliver hands m to one member, starting at turn and going on to the next when one cannot take it.
func (g *shareGroup) deliver(m *message.Message, turn uint64, marks *Marks) {
	n := uint64(len(g.members))
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

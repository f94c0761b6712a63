package session

import (
	"slices"
	"strings"
)

// Subscribe adds a subscription or replaces the options of the one with the same filter [MQTT5-3.8.4-3]. What that
// one had begun goes on: its beginning stays, unless the granted QoS rises from 0, for nothing was kept for it before;
// and so does a retained snapshot, unless Retain Handling 0 begins another [MQTT5-3.8.4-4].
func (s *Session) Subscribe(sub Subscription) (previous Subscription, existed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, existed := s.findSub(sub.Filter)
	if existed {
		old := s.subscriptions[i]
		previous = *old
		if sub.FilterID == 0 {
			sub.FilterID = old.FilterID
		}
		if old.QoS > 0 || sub.QoS == 0 {
			sub.Begins = old.Begins
		}
		if sub.RetainHandling != 0 {
			sub.RetainedAfter = old.RetainedAfter
		}
	}
	sub.leaving = false
	if existed {
		s.subscriptions[i] = &sub
	} else {
		s.subscriptions = slices.Insert(s.subscriptions, i, &sub)
	}
	if existed && sub.RetainedAfter != "" {
		s.move(sub.Filter) // it may have come further since the row of sub was made
	}
	return previous, existed
}

// Unsubscribe removes the subscription with exactly this filter [MQTT5-3.10.4-1].
func (s *Session) Unsubscribe(filter string) (Subscription, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.findSub(filter)
	if !ok {
		return Subscription{}, false
	}
	sub := s.subscriptions[i]
	s.subscriptions = slices.Delete(s.subscriptions, i, i+1)
	return *sub, true
}

// Subscription returns the subscription with exactly this filter.
func (s *Session) Subscription(filter string) (Subscription, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subscription(filter)
	if sub == nil {
		return Subscription{}, false
	}
	return *sub, true
}

// Subscriptions calls yield with a copy of each subscription in filter order, until it returns false. yield may take
// locks and use the Session.
func (s *Session) Subscriptions(yield func(*Subscription) bool) {
	s.mu.Lock()
	all := s.copySubscriptions()
	s.mu.Unlock()
	for i := range all {
		if !yield(&all[i]) {
			return
		}
	}
}

// findSub returns where the subscription with exactly this filter is, or belongs.
func (s *Session) findSub(filter string) (at int, there bool) {
	return slices.BinarySearchFunc(s.subscriptions, filter, func(sub *Subscription, filter string) int {
		return strings.Compare(sub.Filter, filter)
	})
}

// subscription returns the subscription with exactly this filter, or nil.
func (s *Session) subscription(filter string) *Subscription {
	if i, there := s.findSub(filter); there {
		return s.subscriptions[i]
	}
	return nil
}

// Each calls yield with each subscription in filter order. yield must not change it, nor use the Session, nor take a
// lock.
func (s *Session) Each(yield func(*Subscription)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subscriptions {
		yield(sub)
	}
}

func (s *Session) copySubscriptions() []Subscription {
	if len(s.subscriptions) == 0 {
		return nil
	}
	all := make([]Subscription, 0, len(s.subscriptions))
	for _, sub := range s.subscriptions {
		all = append(all, *sub)
	}
	return all
}

// SubscriptionCount returns how many subscriptions there are.
func (s *Session) SubscriptionCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subscriptions)
}

// MoveRetained notes that the retained snapshot of a subscription has come to a topic; "" ends it. Take hands such
// changes on.
func (s *Session) MoveRetained(filter, after string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moveRetained(filter, after)
}

func (s *Session) moveRetained(filter, after string) {
	sub := s.subscription(filter)
	if sub == nil || sub.RetainedAfter == after {
		return
	}
	sub.RetainedAfter = after
	s.move(filter)
}

func (s *Session) move(filter string) {
	if s.moved == nil {
		s.moved = map[string]struct{}{}
	}
	s.moved[filter] = struct{}{}
}

// Leave tells that a subscription is about to be removed or replaced: Take names it no more, until it is replaced or
// Stay.
func (s *Session) Leave(filter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.moved, filter)
	if sub := s.subscription(filter); sub != nil {
		sub.leaving = true
	}
}

// Stay takes Leave back.
func (s *Session) Stay(filter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub := s.subscription(filter); sub != nil && sub.leaving {
		sub.leaving = false
		if sub.RetainedAfter != "" {
			s.move(filter)
		}
	}
}

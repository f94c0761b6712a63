package session

// TakeSettled returns what of Shared Subscriptions is done since it was last asked, for a session of which nothing else
// is committed.
func (s *Session) TakeSettled() []SharedEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	settled := s.settled
	s.settled = nil
	return settled
}

// Assigned calls yield with each message of a Shared Subscription that is under way, in the order of sending.
func (s *Session) Assigned(yield func(Entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.window() {
		if e.Shared != 0 && e.State != StateDone {
			yield(e)
		}
	}
}

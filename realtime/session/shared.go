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

// Assigned returns the messages of Shared Subscriptions that are under way, in the order of sending.
func (s *Session) Assigned() (assigned []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.window() {
		if e.Shared != 0 && e.State != StateDone {
			assigned = append(assigned, e)
		}
	}
	return assigned
}

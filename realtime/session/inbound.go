package session

// Receive takes the identifier of an arriving QoS 2 PUBLISH and reports whether the message came before
// [MQTT5-4.3.3-10]: then it is acknowledged and not published again. Also that acknowledgement leaves only when the
// message is committed, which may still be under way from a connection before.
func (s *Session) Receive(id uint16) (duplicate bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.inbound[id]; known {
		return true
	}
	if s.inbound == nil {
		s.inbound = make(map[uint16]bool, 1)
	}
	s.inbound[id] = false
	return false
}

// Keep names an identifier for the State that is committed together with its message, and with none before: a crash
// would make a duplicate of a message that was never published. False: it has been forgotten, or released.
func (s *Session) Keep(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.inbound[id]; !known {
		return false
	}
	s.inbound[id] = true
	return true
}

// Received reports whether an identifier is known.
func (s *Session) Received(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.inbound[id]
	return known
}

// Kept reports whether an identifier is committed, or about to be: its deletion then has to be, too.
func (s *Session) Kept(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inbound[id]
}

// Forget frees an identifier whose PUBLISH was refused with an error [MQTT5-4.3.3-9], or could not be committed.
func (s *Session) Forget(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inbound, id)
}

// Release takes a PUBREL; false: no such identifier. PUBCOMP leaves when the deletion is committed, in both cases.
func (s *Session) Release(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.inbound[id]; !known {
		return false
	}
	delete(s.inbound, id)
	return true
}

// InboundCount returns how many QoS 2 messages of the client wait for their PUBREL.
func (s *Session) InboundCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inbound)
}

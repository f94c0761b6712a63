package session

// inbound is how far a QoS 2 message of the client's has come.
type inbound byte

const (
	inboundReceived inbound = iota // and not yet published
	inboundQueued                  // it has its place in the order of commits, or need not be stored and was routed
	inboundKept                    // it is committed, or in the batch that is being made
)

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
		s.inbound = make(map[uint16]inbound, 1)
	}
	s.inbound[id] = inboundReceived
	return false
}

// Queue notes that the message of an identifier has been published: a duplicate may be acknowledged behind it.
func (s *Session) Queue(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if is, known := s.inbound[id]; known && is == inboundReceived {
		s.inbound[id] = inboundQueued
	}
}

// Queued reports whether the message of an identifier has been published, and not been forgotten since.
func (s *Session) Queued(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inbound[id] >= inboundQueued
}

// Keep names an identifier for the State that is committed together with its message, and with none before: a crash
// would make a duplicate of a message that was never published. False: it has been forgotten, or released.
func (s *Session) Keep(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.inbound[id]; !known {
		return false
	}
	s.inbound[id] = inboundKept
	return true
}

// Kept reports whether an identifier is committed, or about to be: its deletion then has to be, too.
func (s *Session) Kept(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inbound[id] == inboundKept
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

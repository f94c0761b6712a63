package session

// Receive takes the identifier of an arriving QoS 2 PUBLISH and reports whether the message came before
// [MQTT5-4.3.3-10]: then it is acknowledged and not published again. Also that acknowledgement leaves only when the
// message is committed, which may still be under way from a connection before.
func (s *Session) Receive(id uint16) (duplicate bool) {
	if _, known := s.inbound[id]; known {
		return true
	}
	if s.inbound == nil {
		s.inbound = make(map[uint16]struct{}, 1)
	}
	s.inbound[id] = struct{}{}
	return false
}

// Forget frees an identifier whose PUBLISH was refused with an error [MQTT5-4.3.3-9].
func (s *Session) Forget(id uint16) { delete(s.inbound, id) }

// Release takes a PUBREL; false: no such identifier. PUBCOMP leaves when the deletion is committed, in both cases.
func (s *Session) Release(id uint16) bool {
	if _, known := s.inbound[id]; !known {
		return false
	}
	delete(s.inbound, id)
	return true
}

// InboundCount returns how many QoS 2 messages of the client wait for their PUBREL.
func (s *Session) InboundCount() int { return len(s.inbound) }

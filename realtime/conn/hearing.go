package conn

// HearOut implements broker.Outbound. The driver's goroutine alone knows what it has taken from the network: it is woken,
// and says when there is nothing left.
func (c *Conn) HearOut() <-chan struct{} {
	c.mu.Lock()
	if c.hearing == nil {
		c.hearing = make(chan struct{})
	}
	heard := c.hearing
	c.mu.Unlock()
	c.hears.Store(true)
	if !c.wire.Interrupt() {
		c.heard()
	}
	return heard
}

// Hear is called by the driver before each read, when all that it has read is handled.
func (c *Conn) Hear() {
	if c.hears.Load() && c.wire.Waiting() == 0 {
		c.heard()
	}
}

func (c *Conn) heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hears.Store(false)
	if c.hearing != nil {
		close(c.hearing)
		c.hearing = nil
	}
}

package broker

// apply takes committed batches, in order: changes the retained messages in memory, routes, acknowledges, and then
// flushes every connection concerned once.
func (c *committer) apply() {
	for batch := range c.applied {
		k := NewMarks()
		for _, w := range batch {
			w.tell(w.apply(k), k)
		}
		k.Release()
	}
}

// apply makes one committed write seen, as one step; ErrNoSuchApp when the app was deleted meanwhile.
func (w *write) apply(k *Marks) error {
	a := w.app
	a.order.Lock()
	defer a.order.Unlock()
	if a.closed.Load() {
		return ErrNoSuchApp
	}
	if w.void {
		w.giveUp()
		return ErrStoreUnavailable // of a connection that has ended
	}
	if w.logged && w.seq == 0 {
		return ErrNoSuchApp // its rows went between the publish and the commit
	}
	if w.duplicate != 0 && (w.orphan || !w.session.state.Queued(w.duplicate)) {
		return ErrStoreUnavailable // what it duplicates was not committed: the client is to send it again
	}
	for i := range w.parts {
		p := &w.parts[i]
		if w.logged {
			p.Message.Position.Seq, p.Message.Position.Part = w.seq, uint32(i)
			if p.Message.Retain {
				a.setRetained(p.Message)
			}
			k.logged = a.durable.handedOut(p.Filters)
		}
		if !w.silent {
			a.route(p.Message, k)
		}
		if k.logged = nil; w.logged {
			a.durable.committed(p)
		}
	}
	if w.logged {
		a.head.Store(w.seq)
	}
	if w.change != nil {
		a.forgetSettled(w.change.Settle)
	}
	if w.snap != nil {
		w.session.saved.Store(w.snap.change.Keep.Cursor.Seq)
		a.forgetSettled(w.snap.change.Settle)
	}
	if w.begin != nil {
		w.begin(w.seq, k)
	}
	return nil
}

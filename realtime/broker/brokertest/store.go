// Package brokertest is a world for the broker in tests: a store in memory that fails when it is told to, identities
// that may do what a function says, an observer that can be asked, and a client that speaks MQTT.
package brokertest

import (
	"context"
	"slices"
	"sync"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Store keeps the log in memory. The methods for sessions keep nothing: no session outlives its connection yet.
type Store struct {
	// BeforeCommit is called with each batch before it is committed, and may wait; an error refuses the batch.
	BeforeCommit func(broker.Batch) error
	// AfterCommit is called with each batch after it was committed; an error is what the broker gets instead of success.
	AfterCommit func(broker.Batch) error

	mu      sync.Mutex // guards what follows
	heads   map[broker.AppUID]uint64
	log     map[broker.AppUID][]*message.Message
	last    [16]byte
	batches int
}

// NewStore returns a store with the given apps.
func NewStore(apps ...broker.AppUID) *Store {
	s := &Store{heads: map[broker.AppUID]uint64{}, log: map[broker.AppUID][]*message.Message{}}
	for _, a := range apps {
		s.heads[a] = 0
	}
	return s
}

// Batches returns how many batches were committed.
func (s *Store) Batches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches
}

// Log returns what an app's log holds, as copies.
func (s *Store) Log(app broker.AppUID) []*message.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log[app])
}

// Forget removes an app.
func (s *Store) Forget(app broker.AppUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.heads, app)
	delete(s.log, app)
}

// Commit implements broker.Store.
func (s *Store) Commit(_ context.Context, b broker.Batch) ([]uint64, error) {
	if s.BeforeCommit != nil {
		if err := s.BeforeCommit(b); err != nil {
			return nil, err
		}
	}
	seqs := s.commit(b)
	if s.AfterCommit != nil {
		if err := s.AfterCommit(b); err != nil {
			return nil, err
		}
	}
	return seqs, nil
}

func (s *Store) commit(b broker.Batch) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	seqs := make([]uint64, len(b.Writes))
	for i, w := range b.Writes {
		if _, there := s.heads[w.App]; !there || len(w.Parts) == 0 {
			continue
		}
		s.heads[w.App]++
		seqs[i] = s.heads[w.App]
		for part, p := range w.Parts {
			s.log[w.App] = append(s.log[w.App], row(p.Message, message.Position{Seq: seqs[i], Part: uint32(part)}))
		}
	}
	s.last = b.ID
	s.batches++
	return seqs
}

// row copies a message, as a database does.
func row(m *message.Message, p message.Position) *message.Message {
	return &message.Message{
		Topic: m.Topic, Payload: slices.Clone(m.Payload), Properties: slices.Clone(m.Properties), Publisher: m.Publisher,
		Arrived: m.Arrived, Expires: m.Expires, Position: p, QoS: m.QoS, Retain: m.Retain,
	}
}

// Committed implements broker.Store.
func (s *Store) Committed(_ context.Context, id [16]byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last == id, nil
}

// Head implements broker.Store.
func (s *Store) Head(_ context.Context, app broker.AppUID) (uint64, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq, there := s.heads[app]
	if !there {
		return 0, "", broker.ErrNoSuchApp
	}
	return seq, "epoch", nil
}

// Retained implements broker.Store.
func (s *Store) Retained(_ context.Context, app broker.AppUID, yield func(*message.Message) error) error {
	newest := map[string]*message.Message{}
	log := s.Log(app)
	for _, m := range log {
		if m.Retain {
			newest[m.Topic] = m
		}
	}
	for _, m := range log {
		if newest[m.Topic] == m && !m.Clears() {
			if err := yield(row(m, m.Position)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Messages implements broker.Store.
func (s *Store) Messages(_ context.Context, app broker.AppUID, positions []message.Position) ([]*message.Message, error) {
	var found []*message.Message
	for _, m := range s.Log(app) {
		if slices.Contains(positions, m.Position) {
			found = append(found, row(m, m.Position))
		}
	}
	return found, nil
}

// Compact implements broker.Store: it deletes nothing.
func (s *Store) Compact(_ context.Context, _ broker.AppUID, c broker.Compaction) (message.Position, int, error) {
	return c.UpTo, 0, nil
}

// FilterIDs implements broker.Store.
func (s *Store) FilterIDs(context.Context, broker.AppUID, []string) ([]int64, error) { return nil, nil }

// Filters implements broker.Store.
func (s *Store) Filters(context.Context, broker.AppUID) (map[int64]string, error) { return nil, nil }

// Page implements broker.Store.
func (s *Store) Page(context.Context, broker.AppUID, []int64, message.Position, int) ([]broker.PageEntry, error) {
	return nil, nil
}

// Sessions implements broker.Store.
func (s *Store) Sessions(context.Context, broker.AppUID, func(broker.StoredSession) error) error {
	return nil
}

// Settle implements broker.Store.
func (s *Store) Settle(context.Context, broker.AppUID, int64, message.Position) (int64, error) {
	return 0, nil
}

// DropFilter implements broker.Store.
func (s *Store) DropFilter(context.Context, broker.AppUID, int64) error { return nil }

// Package brokertest is a world for the broker in tests: a store in memory that fails when it is told to, identities
// that may do what a function says, an observer that can be asked, and a client that speaks MQTT.
package brokertest

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Store keeps in memory what a database keeps: a new Broker over the same Store is a server that was started again.
// Safe for concurrent use. It satisfies the contract of server/store/storetest.
type Store struct {
	// BeforeCommit is called with each batch before it is committed, and may wait; an error refuses the batch.
	BeforeCommit func(broker.Batch) error
	// AfterCommit is called with each batch after it was committed; an error is what the broker gets instead of success.
	AfterCommit func(broker.Batch) error
	// BeforeCommitted is called when it is asked whether a batch was committed; an error is the answer.
	BeforeCommitted func() error
	// BeforeFilterIDs is called when durable filters are asked for, and may wait.
	BeforeFilterIDs func()
	// BeforePage is called when a page of the log, or the length of a backlog, is asked for.
	BeforePage func()

	mu       sync.Mutex // guards what follows
	apps     map[broker.AppUID]*appRows
	filterID int64
	last     [16]byte
	batches  int
}

// appRows is what the tables hold of one app.
type appRows struct {
	head     uint64
	log      []*message.Message // in order
	filters  map[int64]string
	pending  map[int64][]message.Position // by filter, in order
	sessions map[string]broker.SessionRow
	subs     map[string]map[string]broker.SubscriptionRow // by Client Identifier and Topic Filter
}

// NewStore returns a store with the given apps.
func NewStore(apps ...broker.AppUID) *Store {
	s := &Store{apps: map[broker.AppUID]*appRows{}}
	for _, a := range apps {
		s.AddApp(a)
	}
	return s
}

// AddApp makes an app that has nothing yet.
func (s *Store) AddApp(app broker.AppUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[app] = &appRows{
		filters: map[int64]string{}, pending: map[int64][]message.Position{}, sessions: map[string]broker.SessionRow{},
		subs: map[string]map[string]broker.SubscriptionRow{},
	}
}

// Copy returns what a crash would leave of the store: all that is committed now.
func (s *Store) Copy() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Store{apps: map[broker.AppUID]*appRows{}, filterID: s.filterID, last: s.last, batches: s.batches}
	for uid, a := range s.apps {
		rows := &appRows{
			head: a.head, log: slices.Clone(a.log), filters: maps.Clone(a.filters), sessions: maps.Clone(a.sessions),
			pending: map[int64][]message.Position{}, subs: map[string]map[string]broker.SubscriptionRow{},
		}
		for id, positions := range a.pending {
			rows.pending[id] = slices.Clone(positions)
		}
		for client, subs := range a.subs {
			rows.subs[client] = maps.Clone(subs)
		}
		c.apps[uid] = rows
	}
	return c
}

// Batches returns how many batches were committed.
func (s *Store) Batches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches
}

// appLocked returns an app's rows, of an app that has none where it is gone.
func (s *Store) appLocked(app broker.AppUID) *appRows {
	if a := s.apps[app]; a != nil {
		return a
	}
	return &appRows{}
}

// Log returns what an app's log holds.
func (s *Store) Log(app broker.AppUID) []*message.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.appLocked(app).log)
}

// Pending returns the positions that are pending for a durable filter of an app, in order.
func (s *Store) Pending(app broker.AppUID, filter string) []message.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	for id, f := range a.filters {
		if f == filter {
			return slices.Clone(a.pending[id])
		}
	}
	return nil
}

// Session returns a stored session of an app.
func (s *Store) Session(app broker.AppUID, clientID string) (one broker.StoredSession, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	_, there = a.sessions[clientID]
	if !there {
		return broker.StoredSession{}, false
	}
	return a.session(clientID), true
}

// Forget removes an app with all it has.
func (s *Store) Forget(app broker.AppUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.apps, app)
}

// Commit implements broker.Store.
func (s *Store) Commit(ctx context.Context, b broker.Batch) ([]uint64, error) {
	if ctx.Err() != nil {
		return nil, errors.Join(broker.ErrStoreUnavailable, ctx.Err())
	}
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
	for i := range b.Writes {
		w := &b.Writes[i]
		a := s.apps[w.App]
		if a == nil || len(w.Parts)+len(w.Sessions) == 0 {
			continue
		}
		if len(w.Parts) > 0 {
			a.head++
		}
		seqs[i] = a.head
		for part, p := range w.Parts {
			at := message.Position{Seq: a.head, Part: uint32(part)}
			a.log = append(a.log, row(p.Message, at))
			for _, f := range p.Filters {
				a.pending[f] = append(a.pending[f], at)
			}
		}
		for j := range w.Sessions {
			a.change(&w.Sessions[j], a.head)
		}
	}
	s.last = b.ID
	s.batches++
	return seqs
}

func (a *appRows) change(c *broker.SessionChange, seq uint64) {
	if c.Delete {
		delete(a.sessions, c.ClientID)
		delete(a.subs, c.ClientID)
	}
	for _, f := range c.Unsubscribe {
		delete(a.subs[c.ClientID], f)
	}
	if c.Keep != nil {
		r := copyRow(*c.Keep)
		r.ClientID = c.ClientID
		a.sessions[c.ClientID] = r
	}
	for _, u := range c.Subscribe {
		if u.BeginsHere {
			u.Begins, u.BeginsHere = message.Position{Seq: seq, Part: math.MaxUint32}, false
		}
		if a.subs[c.ClientID] == nil {
			a.subs[c.ClientID] = map[string]broker.SubscriptionRow{}
		}
		a.subs[c.ClientID][u.Filter] = u
	}
	for _, p := range c.Settle {
		if _, ours := a.filters[p.FilterID]; ours {
			a.pending[p.FilterID] = slices.DeleteFunc(a.pending[p.FilterID], func(at message.Position) bool { return at == p.Position })
		}
	}
}

// copyRow copies a session's row, as a database does: what may not be NULL is not nil.
func copyRow(r broker.SessionRow) broker.SessionRow {
	r.Will = slices.Clone(r.Will)
	r.Window, r.Inbound = append([]byte{}, r.Window...), append([]byte{}, r.Inbound...)
	return r
}

// row copies a message, as a database does.
func row(m *message.Message, p message.Position) *message.Message {
	return &message.Message{
		Topic: m.Topic, Payload: append([]byte{}, m.Payload...), Properties: append([]byte{}, m.Properties...), Publisher: m.Publisher,
		Arrived: m.Arrived, Expires: m.Expires, Position: p, QoS: m.QoS, Retain: m.Retain,
	}
}

// Committed implements broker.Store.
func (s *Store) Committed(_ context.Context, id [16]byte) (bool, error) {
	if s.BeforeCommitted != nil {
		if err := s.BeforeCommitted(); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches > 0 && s.last == id, nil
}

// Head implements broker.Store.
func (s *Store) Head(_ context.Context, app broker.AppUID) (uint64, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[app]
	if a == nil {
		return 0, "", broker.ErrNoSuchApp
	}
	return a.head, "epoch", nil
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

// find returns the entry of the log at a position, or nil.
func (a *appRows) find(p message.Position) *message.Message {
	i, found := slices.BinarySearchFunc(a.log, p, func(m *message.Message, p message.Position) int { return m.Position.Compare(p) })
	if !found {
		return nil
	}
	return a.log[i]
}

// Messages implements broker.Store.
func (s *Store) Messages(_ context.Context, app broker.AppUID, positions []message.Position) ([]*message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	var found []*message.Message
	for _, p := range slices.Compact(slices.SortedFunc(slices.Values(positions), message.Position.Compare)) {
		if m := a.find(p); m != nil {
			found = append(found, row(m, p))
		}
	}
	return found, nil
}

// FilterIDs implements broker.Store.
func (s *Store) FilterIDs(_ context.Context, app broker.AppUID, filters []string) ([]int64, error) {
	if s.BeforeFilterIDs != nil {
		s.BeforeFilterIDs()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[app]
	if a == nil {
		return nil, broker.ErrNoSuchApp
	}
	known := map[string]int64{}
	for id, f := range a.filters {
		known[f] = id
	}
	ids := make([]int64, len(filters))
	for i, f := range filters {
		if known[f] == 0 {
			s.filterID++
			known[f] = s.filterID
			a.filters[s.filterID] = f
		}
		ids[i] = known[f]
	}
	return ids, nil
}

// Filters implements broker.Store.
func (s *Store) Filters(_ context.Context, app broker.AppUID) (map[int64]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[int64]string{}
	maps.Copy(all, s.appLocked(app).filters)
	return all, nil
}

// waiting returns the positions that are pending for any of the filters, in order, with those filters.
func (a *appRows) waiting(from []broker.FilterFrom) (order []message.Position, by map[message.Position][]int64) {
	by = map[message.Position][]int64{}
	for _, f := range from {
		if _, ours := a.filters[f.ID]; !ours {
			continue
		}
		for _, p := range a.pending[f.ID] {
			if p.Compare(f.After) > 0 {
				by[p] = append(by[p], f.ID)
			}
		}
	}
	for p := range by {
		slices.Sort(by[p])
	}
	return slices.SortedFunc(maps.Keys(by), message.Position.Compare), by
}

// Page implements broker.Store.
func (s *Store) Page(_ context.Context, app broker.AppUID, from []broker.FilterFrom, limit int) ([]broker.PageEntry, error) {
	if s.BeforePage != nil {
		s.BeforePage()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	order, by := a.waiting(from)
	var page []broker.PageEntry
	for _, p := range order[:min(len(order), max(limit, 0))] {
		if m := a.find(p); m != nil {
			page = append(page, broker.PageEntry{Message: row(m, p), Filters: by[p]})
		}
	}
	return page, nil
}

// Backlog implements broker.Store.
func (s *Store) Backlog(_ context.Context, app broker.AppUID, from []broker.FilterFrom, keepMessages int, keepBytes int64) (broker.Backlog, error) {
	if s.BeforePage != nil {
		s.BeforePage()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	order, _ := a.waiting(from)
	var b broker.Backlog
	for i, p := range slices.Backward(order) {
		var size int64
		if m := a.find(p); m != nil {
			size = int64(len(m.Topic) + len(m.Payload) + len(m.Properties))
		}
		if b.Messages >= keepMessages || b.Bytes+size > keepBytes {
			b.CutAt, b.Dropped = p, i+1
			break
		}
		b.Messages++
		b.Bytes += size
	}
	return b, nil
}

// Sessions implements broker.Store.
func (s *Store) Sessions(_ context.Context, app broker.AppUID, yield func(broker.StoredSession) error) error {
	s.mu.Lock()
	a := s.appLocked(app)
	var all []broker.StoredSession
	for _, id := range slices.Sorted(maps.Keys(a.sessions)) {
		all = append(all, a.session(id))
	}
	s.mu.Unlock()
	for _, one := range all {
		if err := yield(one); err != nil {
			return err
		}
	}
	return nil
}

func (a *appRows) session(id string) broker.StoredSession {
	one := broker.StoredSession{Row: copyRow(a.sessions[id])}
	for _, f := range slices.Sorted(maps.Keys(a.subs[id])) {
		one.Subscriptions = append(one.Subscriptions, a.subs[id][f])
	}
	return one
}

// Settle implements broker.Store.
func (s *Store) Settle(_ context.Context, app broker.AppUID, filterID int64, upTo message.Position) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	if _, ours := a.filters[filterID]; !ours {
		return 0, nil
	}
	before := len(a.pending[filterID])
	a.pending[filterID] = slices.DeleteFunc(a.pending[filterID], func(p message.Position) bool { return p.Compare(upTo) <= 0 })
	return int64(before - len(a.pending[filterID])), nil
}

// DropFilter implements broker.Store.
func (s *Store) DropFilter(_ context.Context, app broker.AppUID, filterID int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.appLocked(app)
	if _, ours := a.filters[filterID]; !ours {
		return auth.ErrNotFound
	}
	for _, subs := range a.subs {
		for _, u := range subs {
			if u.FilterID == filterID {
				return auth.ErrNotFound
			}
		}
	}
	delete(a.filters, filterID)
	delete(a.pending, filterID)
	return nil
}

// Compact implements broker.Store.
func (s *Store) Compact(_ context.Context, app broker.AppUID, c broker.Compaction) (looked message.Position, deleted int, err error) {
	s.mu.Lock()
	a := s.appLocked(app)
	step := slices.DeleteFunc(slices.Clone(a.log), func(m *message.Message) bool {
		return m.Position.Compare(c.After) <= 0 || m.Position.Compare(c.UpTo) > 0
	})
	step = step[:min(len(step), c.Limit)]
	pending := map[message.Position]bool{}
	for id := range a.filters {
		for _, p := range a.pending[id] {
			pending[p] = true
		}
	}
	s.mu.Unlock()
	gone := map[message.Position]bool{}
	for _, m := range step {
		looked = m.Position
		live := m.Retain && !m.Clears() && c.Live(m.Topic, m.Position)
		switch {
		case live:
		case pending[m.Position] || !m.Arrived.Before(c.KeepSince) || c.Held(m.Position):
			if m.Retain && !m.Clears() {
				c.Remains(m.Topic)
			}
		case m.Clears() && !c.ClearMayGo(m.Topic):
		default:
			gone[m.Position] = true
		}
	}
	if len(step) < c.Limit {
		looked = c.UpTo
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.log = slices.DeleteFunc(a.log, func(m *message.Message) bool { return gone[m.Position] })
	return looked, len(gone), nil
}

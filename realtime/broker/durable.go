package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

// durableFilter is a Topic Filter whose matches the log keeps, because sessions that outlive their connection have
// subscribed to it. All of them share it.
type durableFilter struct {
	id     int64
	filter string // as it is stored: with $share/… for the filter of a group
	inner  string
	users  int       // subscriptions, and one for the members of a group that lingers; guarded by durableFilters.mu
	group  *groupLog // of a Shared Subscription with users; guarded likewise

	// What was committed for the filter since the server started; backlogs are estimated from it.
	messages, bytes atomic.Int64
	last            atomic.Uint64 // no later write than of this seq has been applied for it; 0: not known
	settled         uint64        // seq up to which nothing is pending any more; the compactor's
	lowest          uint64        // of the cursors that are saved; likewise
}

// durableFilters are the durable filters of an app.
//
// A publish holds mu for reading from its match until it has its place in the commit queue, and a filter is added under
// the write lock: so what is queued behind the subscription to a filter is kept for it.
type durableFilters struct {
	count           atomic.Int64 // filters in the tree; read without the lock
	messages, bytes atomic.Int64 // the sums over all filters, of what was committed since the server started

	opened func(f *durableFilter) // called under mu when a filter gets its first subscription; set before it is used

	making sync.Mutex // held across the store: filters are made, and dropped, by one at a time

	mu        sync.RWMutex // guards what follows
	tree      topic.Tree[*durableFilter]
	byFilter  map[string]*durableFilter
	byID      map[int64]*durableFilter
	wanted    []string                 // to be made with the next one
	shared    map[int64]*durableFilter // those with a group
	lingering []*durableFilter         // of groups whose stored sessions have gone, for the sake of their connected members
}

// load takes over what the store holds.
func (d *durableFilters) load(stored map[int64]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byFilter, d.byID = map[string]*durableFilter{}, map[int64]*durableFilter{}
	for id, filter := range stored {
		_, inner, _, err := topic.ParseShared(filter)
		if err != nil {
			return fmt.Errorf("durable filter %q: %w", filter, err)
		}
		f := &durableFilter{id: id, filter: filter, inner: inner}
		d.byFilter[filter], d.byID[id] = f, f
	}
	return nil
}

// use counts a subscription of a stored session, whose filter load has seen; nil: it has not.
func (d *durableFilters) use(id int64) *durableFilter {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.byID[id]
	if f != nil {
		d.useLocked(f)
	}
	return f
}

func (d *durableFilters) useLocked(f *durableFilter) {
	if f.users++; f.users == 1 {
		d.tree.Add(f.inner, f)
		d.count.Add(1)
		if d.opened != nil {
			d.opened(f)
		}
	}
}

// makeMax bounds how many filters are made in one transaction, and dropMax how many are dropped, by one each, while
// nobody makes any (chosen: some 10 ms, and some 100).
const (
	makeMax = 1_000
	dropMax = 100
)

// want has filters made together with the next one that is made, unless they are there.
func (d *durableFilters) want(filters ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, filter := range filters {
		if d.byFilter[filter] == nil {
			d.wanted = append(d.wanted, filter)
		}
	}
}

// hold returns the durable filter of a Topic Filter, made if it is new, with one subscription more. What others wait to
// have made meanwhile is made in the same transaction.
func (d *durableFilters) hold(ctx context.Context, s Store, app AppUID, filter string) (*durableFilter, error) {
	if f := d.holdKnown(filter); f != nil {
		return f, nil
	}
	d.want(filter)
	d.making.Lock()
	defer d.making.Unlock()
	if f := d.holdKnown(filter); f != nil {
		return f, nil
	}
	if err := d.make(ctx, s, app, filter); err != nil {
		return nil, fmt.Errorf("durable filter %q: %w", filter, err)
	}
	return d.holdKnown(filter), nil
}

// make makes a filter, and what is wanted beside it, while making is held. Made by a want alone a filter has no user, and
// is dropped if it gets none.
func (d *durableFilters) make(ctx context.Context, s Store, app AppUID, filter string) error {
	filters := append(d.takeWanted(), filter)
	ids, err := s.FilterIDs(ctx, app, filters)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, filter := range filters {
		_, inner, _, err := topic.ParseShared(filter)
		if err != nil {
			return ErrFilterInvalid
		}
		if d.byFilter[filter] == nil {
			f := &durableFilter{id: ids[i], filter: filter, inner: inner}
			d.byFilter[filter], d.byID[f.id] = f, f
		}
	}
	return nil
}

func (d *durableFilters) takeWanted() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.wanted), makeMax)
	some := slices.Clone(d.wanted[:n])
	d.wanted = slices.Delete(d.wanted, 0, n)
	return some
}

func (d *durableFilters) holdKnown(filter string) *durableFilter {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.byFilter[filter]
	if f != nil {
		d.useLocked(f)
	}
	return f
}

// release takes back what hold or use has counted. The filter stays in the store until drop. The log of a Shared
// Subscription lingers for as long as it has connected members: what was not handed out yet, and what comes back
// unacknowledged, is theirs.
func (d *durableFilters) release(id int64, hasMembers func(groupKey) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.byID[id]
	switch {
	case f == nil:
	case f.users == 1 && f.group != nil && hasMembers(f.group.key):
		d.lingering = append(d.lingering, f)
	default:
		d.releaseLocked(f)
	}
}

func (d *durableFilters) releaseLocked(f *durableFilter) {
	if f.users--; f.users == 0 {
		d.tree.Remove(f.inner, f)
		d.count.Add(-1)
		d.stopGroupLocked(f)
	}
}

// letGo ends the lingering of groups without members.
func (d *durableFilters) letGo(hasMembers func(groupKey) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lingering = slices.DeleteFunc(d.lingering, func(f *durableFilter) bool {
		ends := f.group == nil || !hasMembers(f.group.key)
		if ends {
			d.releaseLocked(f)
		}
		return ends
	})
}

// drop deletes the filters that nobody subscribes to any more; some at a time, since subscribers to new filters wait.
func (d *durableFilters) drop(ctx context.Context, s Store, app AppUID) error {
	for {
		n, err := d.dropSome(ctx, s, app)
		if err != nil || n < dropMax {
			return err
		}
	}
}

func (d *durableFilters) dropSome(ctx context.Context, s Store, app AppUID) (n int, errs error) {
	d.making.Lock()
	defer d.making.Unlock()
	unused := d.takeUnused()
	for _, f := range unused {
		if err := s.DropFilter(ctx, app, f.id); err != nil {
			d.putBack(f)
			errs = errors.Join(errs, fmt.Errorf("drop durable filter: %w", err))
		}
	}
	return len(unused), errs
}

func (d *durableFilters) takeUnused() (unused []*durableFilter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.byID {
		if len(unused) == dropMax {
			break
		}
		if f.users == 0 {
			delete(d.byID, f.id)
			delete(d.byFilter, f.filter)
			unused = append(unused, f)
		}
	}
	return unused
}

// putBack has a filter that stays in the store dropped later. While making is held nobody has made it anew.
func (d *durableFilters) putBack(f *durableFilter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID[f.id], d.byFilter[f.filter] = f, f
}

// used returns the filters with subscriptions.
func (d *durableFilters) used() (all []*durableFilter) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, f := range d.byID {
		if f.users > 0 {
			all = append(all, f)
		}
	}
	return all
}

// matchLocked appends the ids of the filters that a topic matches. mu is held for reading at least.
func (d *durableFilters) matchLocked(name string, ids []int64) []int64 {
	if d.count.Load() == 0 {
		return ids
	}
	var room [8][]*durableFilter
	for _, set := range d.tree.MatchSets(name, room[:0]) {
		for _, f := range set {
			ids = append(ids, f.id)
		}
	}
	return ids
}

// matches reports whether a message is kept for anybody.
func (d *durableFilters) matches(m *message.Message) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return m.QoS > 0 && len(d.matchLocked(m.Topic, nil)) > 0
}

// waiting leaves out the filters for which nothing has been applied behind where reading begins. Whoever asks has looked at
// the head, up to which reading goes, before: the last of each filter is noted before the head is.
func (d *durableFilters) waiting(from []FilterFrom) []FilterFrom {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.DeleteFunc(from, func(ff FilterFrom) bool {
		f := d.byID[ff.ID]
		last := uint64(0)
		if f != nil {
			last = f.last.Load()
		}
		return last != 0 && endOfSeq(last).Compare(ff.After) <= 0
	})
}

// beginsAt notes that nothing later than of seq has been applied for a filter of which nothing is known.
func (d *durableFilters) beginsAt(id int64, seq uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if f := d.byID[id]; f != nil {
		f.last.CompareAndSwap(0, max(1, seq))
	}
}

// committed counts what the log now keeps.
func (d *durableFilters) committed(p *Part) {
	if len(p.Filters) == 0 {
		return
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, id := range p.Filters {
		if f := d.byID[id]; f != nil {
			size := retainedSize(p.Message)
			f.messages.Add(1)
			f.bytes.Add(size)
			f.last.Store(p.Message.Position.Seq)
			d.messages.Add(1)
			d.bytes.Add(size)
			if f.group != nil {
				f.group.poke()
			}
		}
	}
}

// group returns what hands out the log of a group's filter, or nil.
func (d *durableFilters) group(id int64) *groupLog {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if f := d.byID[id]; f != nil {
		return f.group
	}
	return nil
}

// close ends the groups of an app that is closed.
func (d *durableFilters) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = nil
	for _, f := range d.shared {
		d.stopGroupLocked(f)
	}
}

// setGroupLocked gives a filter the group that hands out its log.
func (d *durableFilters) setGroupLocked(f *durableFilter, g *groupLog) {
	if d.shared == nil {
		d.shared = map[int64]*durableFilter{}
	}
	f.group = g
	d.shared[f.id] = f
}

func (d *durableFilters) stopGroupLocked(f *durableFilter) {
	if f.group != nil {
		close(f.group.stop)
		f.group = nil
		delete(d.shared, f.id)
	}
}

// groups returns all that hand out.
func (d *durableFilters) groups() (all []*groupLog) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, f := range d.shared {
		all = append(all, f.group)
	}
	return all
}

// handedOut names the groups that get a message from the log, not as it is routed.
func (d *durableFilters) handedOut(ids []int64) (keys []groupKey) {
	if len(ids) == 0 {
		return nil
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, id := range ids {
		if f := d.byID[id]; f != nil && f.group != nil {
			keys = append(keys, f.group.key)
		}
	}
	return keys
}

// sum returns what was committed for a session's filters, by the same counting.
func (d *durableFilters) sum(from []FilterFrom) (messages, bytes int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, ff := range from {
		if f := d.byID[ff.ID]; f != nil {
			messages += f.messages.Load()
			bytes += f.bytes.Load()
		}
	}
	return messages, bytes
}

// holdBack notes how far the saved cursor of a session lets its filters be settled. It reports whether a newer cursor
// would let go of something.
func (d *durableFilters) holdBack(p *persistentSession, head uint64) (lags bool) {
	saved := p.saved.Load()
	d.mu.RLock()
	defer d.mu.RUnlock()
	p.state.Each(func(s *session.Subscription) {
		if s.FilterID == 0 || isShared(s.Filter) {
			return // a group's rows go one by one
		}
		f := d.byID[s.FilterID]
		if f == nil {
			return
		}
		at := max(saved, s.Begins.Seq)
		f.lowest = min(f.lowest, at)
		lags = lags || at < head && at <= f.last.Load()
	})
	return lags
}

// isShared tells the filters of groups from others, among those that have been subscribed to.
func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

// after returns the later of two positions.
func after(p, q message.Position) message.Position {
	if p.Compare(q) < 0 {
		return q
	}
	return p
}

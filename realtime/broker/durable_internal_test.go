package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// filterStore makes filters; the first time it waits.
type filterStore struct {
	Store
	goOn  chan struct{}
	first atomic.Int32 // how many are asked for the first time
	mu    sync.Mutex
	asked int
	ids   map[string]int64
}

func (s *filterStore) FilterIDs(_ context.Context, _ AppUID, filters []string) (ids []int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.asked == 1 {
		s.first.Store(int32(len(filters)))
		<-s.goOn
	}
	for _, f := range filters {
		if s.ids[f] == 0 {
			s.ids[f] = int64(len(s.ids) + 1)
		}
		ids = append(ids, s.ids[f])
	}
	return ids, nil
}

func (s *filterStore) DropFilter(_ context.Context, _ AppUID, id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f, of := range s.ids {
		if of == id {
			s.ids[f] = 0
		}
	}
	return nil
}

func TestDurableFilters_that_many_wait_for_are_made_together(t *testing.T) {
	t.Parallel()
	d := &durableFilters{}
	require.NoError(t, d.load(nil))
	s := &filterStore{goOn: make(chan struct{}), ids: map[string]int64{}}
	const clients = 100
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			f, err := d.hold(t.Context(), s, 1, fmt.Sprint("a/", i%(clients/2))) // two for each
			if err != nil || f.filter != fmt.Sprint("a/", i%(clients/2)) {
				t.Errorf("hold returns %+v, %v", f, err)
			}
		})
	}
	require.Eventually(t, func() bool {
		d.mu.RLock()
		defer d.mu.RUnlock()
		return int(s.first.Load())+len(d.wanted) == clients+1 // the maker's own twice
	}, 10*time.Second, time.Millisecond)
	close(s.goOn)
	all.Wait()
	require.Len(t, d.used(), clients/2)
	require.LessOrEqual(t, s.asked, 3)
	for _, f := range d.used() {
		require.Equal(t, 2, f.users)
		d.release(f.id, func(groupKey) bool { return false })
		d.release(f.id, func(groupKey) bool { return false })
	}
	require.NoError(t, d.drop(t.Context(), s, 1))
	require.Empty(t, d.byID)
}

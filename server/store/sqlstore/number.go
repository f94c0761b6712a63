package sqlstore

import (
	"maps"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
)

// Numbers is what the writes of a batch got.
type Numbers struct {
	// Seqs are the seqs of the writes that have parts, and for those that only change sessions the heads behind which
	// they stand.
	Seqs []uint64
	// Gone are the writes whose app is gone: nothing of them is stored.
	Gone []bool
}

// Heads are what the apps of a batch want of their heads: to be moved on by so many, which may be 0.
type Heads struct {
	Apps []broker.AppUID // ascending, so that two batches cannot wait for each other
	By   []uint64
}

// Number gives the writes of a batch their seqs, dense and in order. take moves the heads on and returns the new ones;
// an app that is missing among them is gone, and its writes get 0: they are not stored. So does a write that has nothing
// to store.
func Number(writes []broker.Write, take func(Heads) (map[broker.AppUID]uint64, error)) (Numbers, error) {
	count := map[broker.AppUID]uint64{}
	for i := range writes {
		w := &writes[i]
		switch {
		case len(w.Parts) > 0:
			count[w.App]++
		case len(w.Sessions) > 0:
			count[w.App] += 0 // its head is taken too
		}
	}
	var wanted Heads
	for _, app := range slices.Sorted(maps.Keys(count)) {
		wanted.Apps, wanted.By = append(wanted.Apps, app), append(wanted.By, count[app])
	}
	heads, err := take(wanted)
	if err != nil {
		return Numbers{}, err
	}
	for app := range heads {
		heads[app] -= count[app] // before the next write
	}
	n := Numbers{Seqs: make([]uint64, len(writes)), Gone: make([]bool, len(writes))}
	for i := range writes {
		w := &writes[i]
		head, there := heads[w.App]
		switch {
		case !there:
			n.Gone[i] = true
		case len(w.Parts) > 0:
			heads[w.App]++
			n.Seqs[i] = head + 1
		case len(w.Sessions) > 0:
			n.Seqs[i] = head
		}
	}
	return n, nil
}

package sqlstore

import (
	"errors"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
)

// ErrAppGone tells Number that an app has no head any more.
var ErrAppGone = errors.New("the app is gone")

// Numbers is what the writes of a batch got.
type Numbers struct {
	// Seqs are the seqs of the writes that have parts, and for those that only change sessions the heads behind which
	// they stand.
	Seqs []uint64
	// Gone are the writes whose app is gone: nothing of them is stored.
	Gone []bool
}

// Number gives the writes of a batch their seqs, dense and in order. take moves the head of an app on by n, which may be
// 0, and returns the new head; it is called once an app, apps in ascending order, so that two batches cannot wait for
// each other. An app that is gone gets 0: its writes are not stored. So does a write that has nothing to store.
func Number(writes []broker.Write, take func(app broker.AppUID, n uint64) (last uint64, err error)) (Numbers, error) {
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
	apps := make([]broker.AppUID, 0, len(count))
	for app := range count {
		apps = append(apps, app)
	}
	slices.Sort(apps)
	heads := map[broker.AppUID]uint64{} // before the next write
	for _, app := range apps {
		last, err := take(app, count[app])
		switch {
		case errors.Is(err, ErrAppGone):
		case err != nil:
			return Numbers{}, err
		default:
			heads[app] = last - count[app]
		}
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

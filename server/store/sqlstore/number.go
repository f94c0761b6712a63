package sqlstore

import (
	"errors"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
)

// ErrAppGone tells Number that an app has no head any more.
var ErrAppGone = errors.New("the app is gone")

// Number gives the writes of a batch their seqs, dense and in order. take moves the head of an app on by n and returns
// the new head; it is called once an app, apps in ascending order, so that two batches cannot wait for each other. An
// app that is gone gets 0: its writes are not stored. So do writes without parts.
func Number(writes []broker.Write, take func(app broker.AppUID, n uint64) (last uint64, err error)) ([]uint64, error) {
	count := map[broker.AppUID]uint64{}
	for i := range writes {
		if len(writes[i].Parts) > 0 {
			count[writes[i].App]++
		}
	}
	apps := make([]broker.AppUID, 0, len(count))
	for app := range count {
		apps = append(apps, app)
	}
	slices.Sort(apps)
	next := map[broker.AppUID]uint64{}
	for _, app := range apps {
		last, err := take(app, count[app])
		switch {
		case errors.Is(err, ErrAppGone):
		case err != nil:
			return nil, err
		default:
			next[app] = last - count[app] + 1
		}
	}
	seqs := make([]uint64, len(writes))
	for i := range writes {
		app := writes[i].App
		if first, there := next[app]; there && len(writes[i].Parts) > 0 {
			seqs[i] = first
			next[app]++
		}
	}
	return seqs, nil
}

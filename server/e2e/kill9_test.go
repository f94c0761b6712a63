package e2e

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

var (
	crashRounds = flag.Int("crash.rounds", 50, "how often TestNothingAcknowledgedIsLost… kills the server, on each store")
	crashSeed   = flag.Uint64("crash.seed", 0, "the seed of its plan; 0 draws one")
)

const settleEvery = 10 // rounds

func TestNothingAcknowledgedIsLostWhenTheServerIsKilledAgainAndAgain(t *testing.T) {
	onBothStores(t, func(t story) {
		seed := *crashSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("seed %d (run it again with -crash.seed; the plan is the same, the moments are not)", seed)
		w := newWorld(t, seed)
		populate(w)
		w.run()
		began := time.Now()
		for w.kills < *crashRounds && len(w.h.Faults()) == 0 && !t.Failed() {
			w.round()
			if w.kills%settleEvery == 0 {
				w.settle()
			}
		}
		if len(w.h.Faults()) == 0 {
			w.settle()
		}
		w.end()
		w.verdict()
		t.Logf("%d kills in %v, %v each start: %+v", w.kills, time.Since(began).Round(time.Second),
			(w.started / time.Duration(w.kills+1)).Round(time.Millisecond), w.h.Counts())
	})
}

// sessionsLast says that sessions outlive their connections in this version of the server.
const sessionsLast = true

// groupsLast says that what a group shares outlives its members' connections.
const groupsLast = true

// populate adds those who publish and those who subscribe.
func populate(w *world) {
	// c/… is not retained; r/… is, and several publish to r/all; k/… is retained and cleared.
	both := []byte{1, 2, 2}
	w.join("pub-five", behaviour{
		version: packet.V5, lasts: true, topics: []string{"c/1", "c/1", "c/2", "r/1", "r/all", "k/1"}, qos: both, window: 10, reuses: true,
	})
	w.join("pub-old", behaviour{version: packet.V311, lasts: true, topics: []string{"c/1", "c/3", "r/2", "r/all"}, qos: both, window: 8})
	w.join("pub-two", behaviour{version: packet.V5, lasts: true, topics: []string{"c/2", "k/2"}, qos: []byte{2}, window: 4, leaves: 40, away: 100 * time.Millisecond})
	w.join("pub-clean", behaviour{version: packet.V5, topics: []string{"c/1", "c/4", "r/3", "r/all", "k/3"}, qos: []byte{0, 1, 2}, window: 10, leaves: 60})
	w.join("pub-old-clean", behaviour{version: packet.V311, topics: []string{"c/5", "r/4"}, qos: []byte{1}, window: 5})

	all := []string{"c/#", "r/#", "k/#"}
	w.join("sub-five", behaviour{version: packet.V5, lasts: true, filters: all, granted: 2, holds: 3})
	w.join("sub-old", behaviour{version: packet.V311, lasts: true, filters: []string{"c/#", "r/+"}, granted: 2, holds: 2, leaves: 50, away: 300 * time.Millisecond})
	w.join("sub-one", behaviour{version: packet.V5, lasts: true, filters: all, granted: 1, leaves: 20, away: time.Second, receives: 7})
	w.join("sub-few", behaviour{version: packet.V5, lasts: true, filters: []string{"c/1", "c/+", "r/all"}, granted: 2, holds: 2, leaves: 30, away: 2 * time.Second, receives: 3})
	w.join("sub-toggles", behaviour{version: packet.V5, lasts: true, filters: []string{"c/2"}, toggles: []string{"c/1", "r/#", "k/+", "c/#"}, granted: 2, leaves: 60, away: 100 * time.Millisecond})
	w.join("sub-old-toggles", behaviour{version: packet.V311, lasts: true, toggles: []string{"c/+", "r/1", "r/all"}, granted: 2})
	w.join("sub-ends", behaviour{version: packet.V5, lasts: true, filters: []string{"c/#", "r/#"}, granted: 2, leaves: 15, away: 100 * time.Millisecond, ends: true, will: true})
	w.join("sub-old-ends", behaviour{version: packet.V311, lasts: true, filters: []string{"c/3", "r/2"}, granted: 1, leaves: 25, ends: true})
	w.join("sub-live", behaviour{version: packet.V5, filters: []string{"c/#", "r/#", "will/#"}, granted: 2, leaves: 100})
	w.joinByREST("pub-rest", "c/1", "c/6", "r/all", "r/5")
	if groupsLast {
		populateGroups(w)
	}
	if !sessionsLast {
		for _, p := range w.peers {
			p.lasts = false
			if len(p.topics) > 0 {
				p.leaves = 0 // what two connections of one client send may change places, where one of them needs no commit
			}
		}
	}
}

// populateGroups adds those who share a subscription: of each group, one member stays.
func populateGroups(w *world) {
	for _, g := range []struct {
		name string
		qos  byte
	}{{"one", 1}, {"two", 2}} {
		b := behaviour{version: packet.V5, lasts: true, filters: []string{"c/+"}, granted: g.qos, group: g.name, holds: 2, leaves: 40, away: 200 * time.Millisecond}
		w.join(g.name+"-stays", b)
		b.receives = 3
		w.join(g.name+"-roams", b)
		b.ends, b.leaves = true, 60
		w.join(g.name+"-ends", b)
	}
}

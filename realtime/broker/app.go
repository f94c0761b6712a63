package broker

import (
	"sync"
	"sync/atomic"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/topic"
)

// app is one tenant: its own topic tree, retained messages, sessions and commit order. Nothing in it is reachable
// from another app.
//
// Locks are taken in the order: durable.mu, order, mu, the lock of a connection, retainedMu (docs/lock-order.md).
type app struct {
	uid     AppUID
	id      string
	epoch   string
	history atomic.Int64 // time.Duration
	limits  atomic.Pointer[Limits]
	head    atomic.Uint64 // the last committed seq
	closed  atomic.Bool
	stats   appStats
	commits commitQueue
	durable durableFilters
	stirred stirred
	house   house

	// order is the commit order: held while a committed write is applied and routed, and while a subscription begins,
	// so that a new subscriber gets each retained message either by its Replay or live, never neither.
	order sync.Mutex

	mu            sync.RWMutex // guards what follows
	tree          topic.Tree[*subscriber]
	trailing      map[string]*Client // ended, with messages of their own still on their way through the commit
	groups        map[groupKey]*shareGroup
	clients       map[string]*Client            // connected, by Client Identifier
	sessions      map[string]*persistentSession // by Client Identifier, connected or not
	all           []*persistentSession          // the same, for each
	unended       []*unended
	subscriptions int

	retainedMu    sync.RWMutex // guards what follows
	retained      topic.Retained[*message.Message]
	retainedBytes int64
	expiring      expiries
	reservations  reservations
}

func newApp(cfg AppConfig) *app {
	a := &app{uid: cfg.UID, id: cfg.ID, clients: map[string]*Client{}, sessions: map[string]*persistentSession{}, trailing: map[string]*Client{}, groups: map[groupKey]*shareGroup{}}
	a.configure(cfg)
	a.house.limits = a.limits.Load()
	return a
}

// configure takes over what may change.
func (a *app) configure(cfg AppConfig) {
	a.history.Store(int64(cfg.History))
	a.limits.Store(&cfg.Limits)
}

// connected returns the app's clients as of now.
func (a *app) connected() []*Client {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]*Client, 0, len(a.clients))
	for _, c := range a.clients {
		all = append(all, c)
	}
	return all
}

func (a *app) client(id string) *Client {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.clients[id]
}

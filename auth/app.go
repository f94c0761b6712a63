package auth

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// App is a tenant, as a snapshot.
type App struct {
	UID                  int64
	ID, Name             string
	Settings             Settings
	CreatedAt, UpdatedAt time.Time
}

// appState is an app in memory. Reads take no lock but that of the keys.
type appState struct {
	uid     int64
	deleted atomic.Bool
	now     atomic.Pointer[App]
	set     []byte // settings that were set, as JSON; guarded by Directory.change
	closed  bool   // the listener could not open it; guarded by Directory.change
	rules   atomic.Pointer[ruleSet]

	mu        sync.RWMutex // guards what follows
	keys      map[string]*keyState
	signing   []*keyState    // the keys of that kind, newest first; never changed in place
	clientIDs map[string]int // client ids that device keys name, and how many do

	endsMu sync.Mutex // guards ends
	// ends are the seconds in which rules end that live grants brought with them, so that those are judged anew.
	ends map[int64]struct{}
}

func newAppState(uid int64) *appState {
	return &appState{uid: uid, keys: map[string]*keyState{}, clientIDs: map[string]int{}, ends: map[int64]struct{}{}}
}

func (a *appState) snapshot() *App { return a.now.Load() }

func (a *appState) key(id string) (*keyState, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	k, ok := a.keys[id]
	return k, ok
}

// allKeys returns the keys, oldest first.
func (a *appState) allKeys() []*keyState {
	a.mu.RLock()
	all := make([]*keyState, 0, len(a.keys))
	for _, k := range a.keys {
		all = append(all, k)
	}
	a.mu.RUnlock()
	slices.SortFunc(all, olderFirst)
	return all
}

func olderFirst(x, y *keyState) int {
	return cmp.Or(x.CreatedAt.Compare(y.CreatedAt), cmp.Compare(x.ID, y.ID))
}

// signingKeys returns the keys that sign or verify tokens, newest first. The slice must not be changed.
func (a *appState) signingKeys() []*keyState {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.signing
}

// reserved reports whether a device key names a client id.
func (a *appState) reserved(clientID string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.clientIDs[clientID] > 0
}

func (a *appState) addKey(k *keyState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[k.ID] = k
	if k.ClientID != "" {
		a.clientIDs[k.ClientID]++
	}
	if k.Kind == KindSigning {
		a.signing = append([]*keyState{k}, a.signing...)
		slices.SortStableFunc(a.signing, func(x, y *keyState) int { return olderFirst(y, x) })
	}
}

func (a *appState) dropKey(k *keyState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, k.ID)
	if a.clientIDs[k.ClientID]--; a.clientIDs[k.ClientID] <= 0 {
		delete(a.clientIDs, k.ClientID)
	}
	if k.Kind == KindSigning {
		a.signing = slices.DeleteFunc(slices.Clone(a.signing), func(s *keyState) bool { return s == k })
	}
}

// watch remembers when rules end that a grant brings with it, until the grant itself ends (zero: never). It holds an
// entry a second at most.
func (a *appState) watch(own *ruleSet, now, grantEnds time.Time) {
	if own == nil || len(own.ends) == 0 {
		return
	}
	a.endsMu.Lock()
	defer a.endsMu.Unlock()
	for _, end := range own.ends {
		if end.After(now) && (grantEnds.IsZero() || end.Before(grantEnds)) {
			a.ends[end.Unix()+1] = struct{}{}
		}
	}
}

// ended reports whether a rule that watch remembers has ended, and forgets it.
func (a *appState) ended(now time.Time) bool {
	a.endsMu.Lock()
	defer a.endsMu.Unlock()
	some := false
	for second := range a.ends {
		if second <= now.Unix() {
			delete(a.ends, second)
			some = true
		}
	}
	return some
}

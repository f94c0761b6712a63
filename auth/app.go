package auth

import (
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
	rules   atomic.Pointer[ruleSet]

	mu   sync.RWMutex // guards keys
	keys []*keyState  // oldest first
}

func (a *appState) snapshot() *App { return a.now.Load() }

func (a *appState) key(id string) (*keyState, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, k := range a.keys {
		if k.ID == id {
			return k, true
		}
	}
	return nil, false
}

// keysOf returns the keys of a kind, newest first.
func (a *appState) keysOf(kind string) []*keyState {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var found []*keyState
	for _, k := range slices.Backward(a.keys) {
		if k.Kind == kind {
			found = append(found, k)
		}
	}
	return found
}

func (a *appState) addKey(k *keyState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, k)
}

func (a *appState) dropKey(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = slices.DeleteFunc(a.keys, func(k *keyState) bool { return k.ID == id })
}

package auth_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/embercast/embercast/auth"
)

// memory is an auth.Store in memory: what it holds is what a database would.
type memory struct {
	mu      sync.Mutex // guards what follows
	fail    error      // what every call returns, when set
	lost    error      // what the next change returns after it was carried out, when set
	lastUID int64
	apps    map[int64]*auth.AppRecord
	ids     map[string]bool // of apps
	rules   map[int64][]auth.RulesRow
	audits  []auth.Audit
	answers map[string]answer
}

type answer struct {
	auth.Answer
	claimed time.Time
}

func newMemory() *memory {
	return &memory{apps: map[int64]*auth.AppRecord{}, ids: map[string]bool{}, rules: map[int64][]auth.RulesRow{}, answers: map[string]answer{}}
}

// failWith makes every call fail from now on; nil ends that.
func (m *memory) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// loseNext has the next change carried out and fail all the same, as one whose connection is lost in COMMIT.
func (m *memory) loseNext(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = err
}

// text is everything that is stored, for looking for what must not be there.
func (m *memory) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, a := range m.apps {
		b.Write(a.App.Settings)
		for _, k := range a.Keys {
			b.WriteString(k.ID + k.Kind + k.Name)
			b.Write(k.Secret)
			b.Write(k.Attributes)
		}
	}
	for _, a := range m.audits {
		b.WriteString(a.Actor + a.Action + a.Target)
		b.Write(a.Before)
		b.Write(a.After)
	}
	for name, a := range m.answers {
		b.WriteString(name)
		b.Write(a.Fingerprint)
		b.Write(a.Body)
	}
	return b.String()
}

func (m *memory) audit() []auth.Audit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.audits)
}

func (m *memory) do(f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	return f()
}

// change is do for what changes apps, keys and rules.
func (m *memory) change(f func() error) error {
	return m.do(func() error {
		if err := f(); err != nil {
			return err
		}
		lost := m.lost
		m.lost = nil
		return lost
	})
}

func (m *memory) LoadApps(context.Context) (all []auth.AppRecord, err error) {
	err = m.do(func() error {
		for uid, a := range m.apps {
			r := *a
			r.Keys = slices.Clone(a.Keys)
			r.Rules = m.rules[uid][len(m.rules[uid])-1]
			all = append(all, r)
		}
		slices.SortFunc(all, func(x, y auth.AppRecord) int { return strings.Compare(x.App.ID, y.App.ID) })
		return nil
	})
	return all, err
}

func (m *memory) CreateApp(_ context.Context, app auth.AppRow, key auth.KeyRow, a auth.Audit) (uid int64, err error) {
	err = m.change(func() error {
		if m.ids[app.ID] {
			return auth.ErrTaken
		}
		m.ids[app.ID] = true
		m.lastUID++
		uid = m.lastUID
		app.UID, key.AppUID = uid, uid
		m.apps[uid] = &auth.AppRecord{App: app, Keys: []auth.KeyRow{key}}
		m.rules[uid] = []auth.RulesRow{{Version: 1, Rules: []byte("[]"), CreatedAt: app.CreatedAt, Actor: a.Actor}}
		return m.record(a)
	})
	return uid, err
}

func (m *memory) record(a auth.Audit) error {
	a.ID = int64(len(m.audits) + 1)
	m.audits = append(m.audits, a)
	return nil
}

func (m *memory) UpdateApp(_ context.Context, app auth.AppRow, a auth.Audit) error {
	return m.change(func() error {
		if m.apps[app.UID] == nil {
			return auth.ErrNotFound
		}
		m.apps[app.UID].App = app
		return m.record(a)
	})
}

func (m *memory) DeleteApp(_ context.Context, uid int64, a auth.Audit) error {
	return m.change(func() error {
		if m.apps[uid] == nil {
			return auth.ErrNotFound
		}
		delete(m.ids, m.apps[uid].App.ID)
		delete(m.apps, uid)
		delete(m.rules, uid)
		return m.record(a)
	})
}

func (m *memory) CreateKey(_ context.Context, key auth.KeyRow, a auth.Audit) error {
	return m.change(func() error {
		m.apps[key.AppUID].Keys = append(m.apps[key.AppUID].Keys, key)
		return m.record(a)
	})
}

func (m *memory) DeleteKey(_ context.Context, uid int64, id string, a auth.Audit) error {
	return m.change(func() error {
		if m.apps[uid] == nil {
			return auth.ErrNotFound
		}
		i := slices.IndexFunc(m.apps[uid].Keys, func(k auth.KeyRow) bool { return k.ID == id })
		if i < 0 {
			return auth.ErrNotFound
		}
		m.apps[uid].Keys = slices.Delete(slices.Clone(m.apps[uid].Keys), i, i+1)
		return m.record(a)
	})
}

func (m *memory) TouchKeys(_ context.Context, used map[string]time.Time) error {
	return m.do(func() error {
		for _, a := range m.apps {
			for i := range a.Keys {
				if at, ok := used[a.Keys[i].ID]; ok {
					a.Keys[i].LastUsedAt = at
				}
			}
		}
		return nil
	})
}

func (m *memory) PutRules(_ context.Context, uid int64, r auth.RulesRow, a auth.Audit) error {
	return m.change(func() error {
		if m.rules[uid][len(m.rules[uid])-1].Version >= r.Version {
			return auth.ErrConflict
		}
		m.rules[uid] = append(m.rules[uid], r)
		return m.record(a)
	})
}

func (m *memory) RulesVersions(_ context.Context, uid, before int64, limit int) (found []auth.RulesRow, err error) {
	err = m.do(func() error {
		for _, r := range slices.Backward(m.rules[uid]) {
			if (before == 0 || r.Version < before) && len(found) < limit {
				found = append(found, r)
			}
		}
		return nil
	})
	return found, err
}

func (m *memory) AppendAudit(_ context.Context, a auth.Audit) error {
	return m.do(func() error { return m.record(a) })
}

func (m *memory) Audits(_ context.Context, app string, before int64, limit int) (found []auth.Audit, err error) {
	err = m.do(func() error {
		for _, a := range slices.Backward(m.audits) {
			if (app == "" || a.AppID == app) && (before == 0 || a.ID < before) && len(found) < limit {
				found = append(found, a)
			}
		}
		return nil
	})
	return found, err
}

func (m *memory) ClaimIdempotency(_ context.Context, key string, fingerprint []byte, now time.Time) (stored auth.Answer, found bool, err error) {
	err = m.do(func() error {
		a, there := m.answers[key]
		if !there {
			m.answers[key] = answer{auth.Answer{Fingerprint: fingerprint}, now}
			return nil
		}
		stored, found = a.Answer, true
		stored.Body = bytes.Clone(a.Body)
		return nil
	})
	return stored, found, err
}

func (m *memory) FinishIdempotency(_ context.Context, key string, given auth.Answer) error {
	return m.do(func() error {
		a := m.answers[key]
		a.Status, a.ContentType, a.Body = given.Status, given.ContentType, given.Body
		m.answers[key] = a
		return nil
	})
}

func (m *memory) ReleaseIdempotency(_ context.Context, key string) error {
	return m.do(func() error {
		if m.answers[key].Status == 0 {
			delete(m.answers, key)
		}
		return nil
	})
}

func (m *memory) ForgetIdempotency(_ context.Context, before time.Time) error {
	return m.do(func() error {
		for key, a := range m.answers {
			if a.claimed.Before(before) {
				delete(m.answers, key)
			}
		}
		return nil
	})
}

// heard is an auth.Listener that remembers what it was told, in order.
type heard struct {
	mu     sync.Mutex // guards what follows
	told   []string
	failed error // what opening an app fails with, when set
}

// failWith makes opening an app fail from now on; nil ends that.
func (h *heard) failWith(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = err
}

func (h *heard) tell(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, what)
}

// take returns what was told since the last time.
func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := h.told
	h.told = nil
	return told
}

func (h *heard) AppCreated(a auth.App) error {
	h.tell("created " + a.ID)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

func (h *heard) AppChanged(a auth.App)            { h.tell("changed " + a.ID) }
func (h *heard) AppDeleted(int64)                 { h.tell("deleted") }
func (h *heard) RulesChanged(int64)               { h.tell("rules") }
func (h *heard) KeyDeleted(_ int64, keyID string) { h.tell("key " + keyID) }

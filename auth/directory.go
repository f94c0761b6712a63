package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Directory is made of.
type Config struct {
	Store      Store
	SecretKey  []byte // 32 bytes; seals signing secrets
	DefaultApp string
	Logger     *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Listener is told of changes after they are in force. It must not block for long.
type Listener interface {
	// AppCreated opens an app. One that it fails for is told again.
	AppCreated(app App) error
	AppChanged(app App)
	AppDeleted(appUID int64)
	RulesChanged(appUID int64)
	KeyDeleted(appUID int64, keyID string)
}

// Directory holds apps, keys and rules in memory and writes changes through to the store, first. Safe for concurrent
// use.
type Directory struct {
	cfg    Config
	seal   *sealer
	notify Listener
	admin  atomic.Pointer[[sha256.Size]byte]

	change sync.Mutex           // held by every change of an app, so that they follow each other; guards doubts
	doubts map[string]time.Time // apps to be read anew, by id, and when that began

	mu     sync.RWMutex // guards what follows
	apps   map[string]*appState
	uids   map[int64]*appState
	owners map[string]*appState // by key id
}

// Open reads everything from the store.
func Open(ctx context.Context, cfg Config) (*Directory, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	seal, err := newSealer(cfg.SecretKey)
	if err != nil {
		return nil, err
	}
	d := &Directory{
		cfg: cfg, seal: seal, notify: nobody{}, doubts: map[string]time.Time{},
		apps: map[string]*appState{}, uids: map[int64]*appState{}, owners: map[string]*appState{},
	}
	records, err := cfg.Store.LoadApps(ctx)
	if err != nil {
		return nil, fmt.Errorf("load apps: %w", err)
	}
	for _, r := range records {
		a, err := d.load(r)
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", r.App.ID, err)
		}
		d.enter(a)
	}
	return d, nil
}

func (d *Directory) load(r AppRecord) (*appState, error) {
	a := newAppState(r.App.UID)
	a.set = r.App.Settings
	settings, err := parseSettings(r.App.Settings)
	if err != nil {
		return nil, err
	}
	a.now.Store(&App{r.App.UID, r.App.ID, r.App.Name, settings, r.App.CreatedAt, r.App.UpdatedAt})
	for _, row := range r.Keys {
		k, err := d.loadKey(row)
		if err != nil {
			return nil, err
		}
		a.addKey(k)
		a.watch(k.own, d.now(), time.Time{})
	}
	rules, err := ParseRules(r.Rules.Rules)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	a.rules.Store(newRuleSet(r.Rules.Version, rules))
	return a, nil
}

// Listen names who is told of changes. Call it before anything changes.
func (d *Directory) Listen(l Listener) { d.notify = l }

type nobody struct{}

func (nobody) AppCreated(App) error     { return nil }
func (nobody) AppChanged(App)           {}
func (nobody) AppDeleted(int64)         {}
func (nobody) RulesChanged(int64)       {}
func (nobody) KeyDeleted(int64, string) {}

// SetAdminToken sets the bearer token for management. Only its SHA-256 is kept.
func (d *Directory) SetAdminToken(token string) {
	hash := sha256.Sum256([]byte(token))
	d.admin.Store(&hash)
}

// IsAdmin compares in constant time. Nobody is admin without a token, or before one is set.
func (d *Directory) IsAdmin(token string) bool {
	want := d.admin.Load()
	hash := sha256.Sum256([]byte(token))
	return token != "" && want != nil && subtle.ConstantTimeCompare(hash[:], want[:]) == 1
}

// now is as precise as the store, so that a time is the same before and after a restart.
func (d *Directory) now() time.Time { return d.cfg.Now().UTC().Truncate(time.Microsecond) }

// Housekeeping of the Directory.
const (
	housekeeping   = time.Second
	touchEvery     = 30 * time.Second
	idempotencyTTL = 24 * time.Hour
)

// Run keeps house until ctx ends: rules that end are acted on, apps in doubt are read anew, last_used_at is written now
// and then, and old idempotency keys are forgotten.
func (d *Directory) Run(ctx context.Context) error {
	var reading sync.WaitGroup
	reading.Go(func() { d.keepReading(ctx) })
	defer reading.Wait()
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	last, touched := d.now(), d.now()
	for {
		select {
		case <-ctx.Done():
			d.touch(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
		}
		now := d.now()
		d.endRules(last, now)
		last = now
		if now.Sub(touched) >= touchEvery {
			touched = now
			d.touch(ctx)
			if err := d.cfg.Store.ForgetIdempotency(ctx, now.Add(-idempotencyTTL)); err != nil {
				d.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "idempotency keys not forgotten", slog.String("error", err.Error()))
			}
		}
	}
}

// endRules tells of apps in which a rule's until has passed: one of the app's, of a device key's or of a token's.
func (d *Directory) endRules(after, now time.Time) {
	for _, a := range d.states() {
		own := a.ended(now)
		if own || a.rules.Load().endsBetween(after, now) {
			d.notify.RulesChanged(a.uid)
		}
	}
}

// touch writes when keys were last used. What cannot be written now is tried again.
func (d *Directory) touch(ctx context.Context) {
	used := map[string]time.Time{}
	var keys []*keyState
	for _, a := range d.states() {
		a.mu.RLock()
		for _, k := range a.keys {
			if at := k.lastUsed.Load(); at != k.flushed {
				used[k.ID] = time.UnixMicro(at).UTC()
				keys = append(keys, k)
			}
		}
		a.mu.RUnlock()
	}
	if len(used) == 0 {
		return
	}
	if err := d.cfg.Store.TouchKeys(ctx, used); err != nil {
		d.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "last use of keys not written", slog.String("error", err.Error()))
		return
	}
	for _, k := range keys {
		k.flushed = used[k.ID].UnixMicro()
	}
}

func (d *Directory) states() []*appState {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]*appState, 0, len(d.apps))
	for _, a := range d.apps {
		all = append(all, a)
	}
	return all
}

func (d *Directory) countApps() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.apps)
}

func (d *Directory) state(id string) (*appState, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	a, ok := d.apps[id]
	return a, ok
}

// Apps returns all apps by id.
func (d *Directory) Apps() []App {
	var all []App
	for _, a := range d.states() {
		all = append(all, *a.snapshot())
	}
	slices.SortFunc(all, func(x, y App) int { return strings.Compare(x.ID, y.ID) })
	return all
}

// App returns an app by id.
func (d *Directory) App(id string) (App, bool) {
	a, ok := d.state(id)
	if !ok {
		return App{}, false
	}
	return *a.snapshot(), true
}

// AppByUID returns an app by its number.
func (d *Directory) AppByUID(uid int64) (App, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	a, ok := d.uids[uid]
	if !ok {
		return App{}, false
	}
	return *a.snapshot(), true
}

// NewApp is what an app is made of.
type NewApp struct {
	ID, Name string
	Settings json.RawMessage
}

var appID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ValidAppID reports whether an app may have this id.
func ValidAppID(id string) bool { return appID.MatchString(id) }

// appsMax is how many apps a server holds (chosen: each takes some kilobytes before it is used).
const appsMax = 10_000

// CreateApp makes an app with one generated signing key and no rules: it denies everything. ErrTaken when the id is
// taken, *LimitError when there are as many as a server holds.
func (d *Directory) CreateApp(ctx context.Context, actor string, in NewApp) (App, error) {
	var p problems
	if !ValidAppID(in.ID) {
		p.add("/id", "must have 1 to 63 characters of a-z, 0-9 and -, the first of them not -")
	}
	if in.Name == "" {
		in.Name = in.ID
	}
	checkName(&p, in.Name)
	set, settings, err := mergeSettings(nil, in.Settings)
	if err != nil {
		p = append(p, problemsOf(err)...)
	}
	if err := p.err(); err != nil {
		return App{}, err
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.settle(ctx, in.ID); err != nil {
		return App{}, err
	}
	if _, taken := d.state(in.ID); taken {
		return App{}, ErrTaken
	}
	if d.countApps() >= appsMax {
		return App{}, &LimitError{fmt.Sprintf("A server holds %d apps: delete those that are no longer used.", appsMax)}
	}
	now := d.now()
	row := AppRow{ID: in.ID, Name: in.Name, Settings: set, CreatedAt: now, UpdatedAt: now}
	first := NewKey{Kind: KindSigning, Name: "default", KeyAttributes: KeyAttributes{Alg: "HS256"}}
	keyRow, key, _, err := d.makeKey(0, first)
	if err != nil {
		return App{}, err
	}
	uid, err := d.cfg.Store.CreateApp(ctx, row, keyRow, d.audit(actor, in.ID, "app.create", in.ID, nil, appText(row)))
	if err != nil {
		return App{}, d.doubted(ctx, in.ID, fmt.Errorf("create app: %w", err))
	}
	a := newAppState(uid)
	a.set = set
	a.addKey(key)
	app := App{uid, in.ID, in.Name, settings, now, now}
	a.now.Store(&app)
	a.rules.Store(newRuleSet(1, []Rule{}))
	// The broker opens the app before anybody can find it here. The app is there in any case: its rows are.
	d.open(ctx, a)
	d.enter(a)
	return app, nil
}

// enter lets an app be found by its id, its number and its keys.
func (d *Directory) enter(a *appState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apps[a.snapshot().ID], d.uids[a.uid] = a, a
	for _, k := range a.allKeys() {
		d.owners[k.ID] = a
	}
}

// leave undoes enter.
func (d *Directory) leave(a *appState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.apps, a.snapshot().ID)
	delete(d.uids, a.uid)
	for _, k := range a.allKeys() {
		delete(d.owners, k.ID)
	}
}

func problemsOf(err error) []FieldError {
	if v, ok := err.(*ValidationError); ok { //nolint:errorlint // made in this package, never wrapped
		return v.Fields
	}
	return []FieldError{{"", err.Error()}}
}

func (d *Directory) audit(actor, app, action, target string, before, after []byte) Audit {
	return Audit{At: d.now(), Actor: actor, AppID: app, Action: action, Target: target, Before: before, After: after}
}

// appText is an app as the audit shows it.
func appText(row AppRow) []byte {
	text, err := json.Marshal(struct {
		Name     string          `json:"name"`
		Settings json.RawMessage `json:"settings"`
	}{row.Name, row.Settings})
	if err != nil {
		return nil
	}
	return text
}

// UpdateApp changes an app's name (nil: not) and merges settings (RFC 7396).
func (d *Directory) UpdateApp(ctx context.Context, actor, id string, name *string, patch json.RawMessage) (App, error) {
	d.change.Lock()
	defer d.change.Unlock()
	a, err := d.changing(ctx, id)
	if err != nil {
		return App{}, err
	}
	old := *a.snapshot()
	app := old
	var p problems
	if name != nil {
		app.Name = *name
		checkName(&p, app.Name)
	}
	set, settings, err := mergeSettings(a.set, patch)
	if err != nil {
		p = append(p, problemsOf(err)...)
	}
	if err := p.err(); err != nil {
		return App{}, err
	}
	app.Settings, app.UpdatedAt = settings, d.now()
	row := AppRow{UID: a.uid, ID: id, Name: app.Name, Settings: set, CreatedAt: app.CreatedAt, UpdatedAt: app.UpdatedAt}
	before := appText(AppRow{Name: old.Name, Settings: a.set})
	if err := d.cfg.Store.UpdateApp(ctx, row, d.audit(actor, id, "app.update", id, before, appText(row))); err != nil {
		return App{}, d.doubted(ctx, id, fmt.Errorf("update app: %w", err))
	}
	a.set = set
	a.now.Store(&app)
	d.notify.AppChanged(app)
	return app, nil
}

// DeleteApp removes every trace of an app and disconnects its clients.
func (d *Directory) DeleteApp(ctx context.Context, actor, id string) error {
	d.change.Lock()
	defer d.change.Unlock()
	a, err := d.changing(ctx, id)
	if err != nil {
		return err
	}
	// Nobody new gets in, and nobody is left who could write, before the rows go.
	d.drop(a)
	before := appText(AppRow{Name: a.snapshot().Name, Settings: a.set})
	err = d.cfg.Store.DeleteApp(ctx, a.uid, d.audit(actor, id, "app.delete", id, before, nil))
	if err == nil {
		return nil
	}
	err = fmt.Errorf("delete app: %w", err)
	if errors.Is(err, ErrNotFound) {
		return err // an earlier attempt has done it
	}
	a.deleted.Store(false)
	d.open(ctx, a)
	d.enter(a)
	return d.doubted(ctx, id, err)
}

// drop lets nobody find an app any more, and disconnects its clients.
func (d *Directory) drop(a *appState) {
	a.deleted.Store(true)
	d.leave(a)
	d.notify.AppDeleted(a.uid)
}

package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// Reading apps anew (chosen).
const (
	rereadEvery   = time.Second
	rereadTimeout = 5 * time.Second
	// lateCommit is how long a COMMIT whose connection was lost may still be on its way: until then an app is read anew
	// again and again.
	lateCommit = 3 * time.Second
)

// doubt marks an app whose rows may be others than memory holds: a change that failed may have been committed all the
// same, and one that the store refused tells that memory is behind. The app is read anew before its next change, and in
// the background. d.change is held.
func (d *Directory) doubt(ctx context.Context, appID string, err error) {
	d.doubts[appID] = d.now()
	d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "app to be read anew", slog.String("app", appID), slog.String("error", err.Error()))
}

// doubted is doubt; it returns err.
func (d *Directory) doubted(ctx context.Context, appID string, err error) error {
	d.doubt(ctx, appID, err)
	return err
}

// changing returns an app that is about to be changed, as the store has it. d.change is held.
func (d *Directory) changing(ctx context.Context, appID string) (*appState, error) {
	if err := d.settle(ctx, appID); err != nil {
		return nil, err
	}
	a, ok := d.state(appID)
	if !ok {
		return nil, ErrNotFound
	}
	return a, nil
}

// settle reads an app anew if it is in doubt. d.change is held.
func (d *Directory) settle(ctx context.Context, appID string) error {
	if _, doubted := d.doubts[appID]; !doubted {
		return nil
	}
	return d.reread(ctx, appID)
}

// keepReading reads apps in doubt anew until ctx ends, so that what was committed takes force without anybody asking.
func (d *Directory) keepReading(ctx context.Context) {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.change.Lock()
		if len(d.doubts) > 0 {
			if err := d.reread(ctx, slices.Collect(maps.Keys(d.doubts))...); err != nil {
				d.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "apps not read anew", slog.String("error", err.Error()))
			}
		}
		d.change.Unlock()
	}
}

// reread brings apps in doubt to what the store has. d.change is held.
func (d *Directory) reread(ctx context.Context, ids ...string) error {
	ctx, cancel := context.WithTimeout(ctx, rereadTimeout)
	defer cancel()
	records, err := d.cfg.Store.LoadApps(ctx)
	if err != nil {
		return fmt.Errorf("read apps anew: %w", err)
	}
	var failed error
	for _, id := range ids {
		var record *AppRecord
		if i := slices.IndexFunc(records, func(r AppRecord) bool { return r.App.ID == id }); i >= 0 {
			record = &records[i]
		}
		if err := d.follow(id, record); err != nil {
			failed = errors.Join(failed, fmt.Errorf("app %s: %w", id, err))
			continue
		}
		if d.now().Sub(d.doubts[id]) >= lateCommit {
			delete(d.doubts, id)
		}
	}
	return failed
}

// follow brings one app to what the store has; nil: it has no such app.
func (d *Directory) follow(id string, r *AppRecord) error {
	a, known := d.state(id)
	if known && (r == nil || r.App.UID != a.uid) {
		d.drop(a)
		known = false
	}
	if r == nil {
		return nil
	}
	stored, err := d.load(*r)
	if err != nil {
		return err
	}
	if !known {
		if err := d.notify.AppCreated(*stored.snapshot()); err != nil {
			return fmt.Errorf("open app: %w", err)
		}
		d.enter(stored)
		return nil
	}
	if a.closed {
		if err := d.notify.AppCreated(*a.snapshot()); err != nil {
			return fmt.Errorf("open app: %w", err)
		}
		a.closed = false
	}
	d.adopt(a, stored)
	return nil
}

// open has the listener open an app. One that it cannot open now is tried again. d.change is held.
func (d *Directory) open(ctx context.Context, a *appState) {
	app := *a.snapshot()
	err := d.notify.AppCreated(app)
	if a.closed = err != nil; a.closed {
		d.doubt(ctx, app.ID, fmt.Errorf("open app: %w", err))
	}
}

// adopt takes over what is stored of an app, in place, for live grants hang on it; and has them judged anew by whatever
// is different.
func (d *Directory) adopt(a, stored *appState) {
	now, was := stored.snapshot(), a.snapshot()
	if now.Name != was.Name || !now.UpdatedAt.Equal(was.UpdatedAt) || !bytes.Equal(a.set, stored.set) {
		a.set = stored.set
		a.now.Store(now)
		d.notify.AppChanged(*now)
	}
	for _, k := range a.allKeys() {
		if _, there := stored.key(k.ID); !there {
			d.dropKey(a, k)
		}
	}
	for _, k := range stored.allKeys() {
		if _, there := a.key(k.ID); !there {
			a.addKey(k)
			d.index(a, k)
		}
	}
	if rules := stored.rules.Load(); rules.version != a.rules.Load().version {
		a.rules.Store(rules)
		d.notify.RulesChanged(a.uid)
	}
}

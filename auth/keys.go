package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// CreateKey makes a key; the value is returned here and never again (empty for a public key). *LimitError when the app
// has as many as it may have.
func (d *Directory) CreateKey(ctx context.Context, actor, appID string, in NewKey) (Key, string, error) {
	if err := in.check(); err != nil {
		return Key{}, "", err
	}
	d.change.Lock()
	defer d.change.Unlock()
	a, err := d.changing(ctx, appID)
	if err != nil {
		return Key{}, "", err
	}
	if err := a.roomForKey(in.Kind); err != nil {
		return Key{}, "", err
	}
	row, k, value, err := d.makeKey(a.uid, in)
	if err != nil {
		return Key{}, "", err
	}
	if err := d.cfg.Store.CreateKey(ctx, row, d.audit(actor, appID, "key.create", k.ID, nil, keyText(k))); err != nil {
		return Key{}, "", d.doubted(ctx, appID, fmt.Errorf("create key: %w", err))
	}
	a.addKey(k)
	d.index(a, k)
	return k.public(), value, nil
}

func (a *appState) roomForKey(kind string) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if len(a.keys) >= keysMax {
		return &LimitError{fmt.Sprintf("An app may have %d keys: delete those that are no longer used.", keysMax)}
	}
	if kind == KindSigning && len(a.signing) >= signingKeysMax {
		return &LimitError{fmt.Sprintf("An app may have %d signing keys: delete those that are no longer used.", signingKeysMax)}
	}
	return nil
}

// index lets the key be found by its id alone, and has the end of its own rules acted on.
func (d *Directory) index(a *appState, k *keyState) {
	d.mu.Lock()
	d.owners[k.ID] = a
	d.mu.Unlock()
	a.watch(k.own, d.now(), time.Time{})
}

func keyText(k *keyState) []byte {
	text, err := json.Marshal(struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
		KeyAttributes
	}{k.Kind, k.Name, k.KeyAttributes})
	if err != nil {
		return nil
	}
	return text
}

// Keys lists an app's keys, oldest first: by CreatedAt, then by ID.
func (d *Directory) Keys(appID string) ([]Key, error) {
	a, ok := d.state(appID)
	if !ok {
		return nil, ErrNotFound
	}
	all := a.allKeys()
	keys := make([]Key, len(all))
	for i, k := range all {
		keys[i] = k.public()
	}
	return keys, nil
}

// DeleteKey deletes a key and cuts off those connected by it.
func (d *Directory) DeleteKey(ctx context.Context, actor, appID, keyID string) error {
	d.change.Lock()
	defer d.change.Unlock()
	a, err := d.changing(ctx, appID)
	if err != nil {
		return err
	}
	k, ok := a.key(keyID)
	if !ok {
		return ErrNotFound
	}
	err = d.cfg.Store.DeleteKey(ctx, a.uid, keyID, d.audit(actor, appID, "key.delete", keyID, keyText(k), nil))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return d.doubted(ctx, appID, fmt.Errorf("delete key: %w", err))
	}
	// A key whose row is gone already lets nobody in either.
	d.dropKey(a, k)
	if err != nil {
		return fmt.Errorf("delete key: %w", err)
	}
	return nil
}

// dropKey takes a key out of force and cuts off those connected by it.
func (d *Directory) dropKey(a *appState, k *keyState) {
	a.dropKey(k)
	d.mu.Lock()
	delete(d.owners, k.ID)
	d.mu.Unlock()
	d.notify.KeyDeleted(a.uid, k.ID)
}

// Rules returns the rule list in force and its version.
func (d *Directory) Rules(appID string) ([]Rule, int64, error) {
	a, ok := d.state(appID)
	if !ok {
		return nil, 0, ErrNotFound
	}
	set := a.rules.Load()
	return append([]Rule{}, set.rules...), set.version, nil
}

// PutRules replaces the rule list. ifVersion 0 is any; ErrConflict when it is not the version in force.
func (d *Directory) PutRules(ctx context.Context, actor, appID string, rules []Rule, ifVersion int64) (int64, error) {
	d.change.Lock()
	defer d.change.Unlock()
	a, err := d.changing(ctx, appID)
	if err != nil {
		return 0, err
	}
	old := a.rules.Load()
	if ifVersion != 0 && ifVersion != old.version {
		return 0, ErrConflict
	}
	if rules == nil {
		rules = []Rule{}
	}
	before, err := json.Marshal(old.rules)
	if err != nil {
		return 0, fmt.Errorf("rules: %w", err)
	}
	text, err := json.Marshal(rules)
	if err != nil {
		return 0, fmt.Errorf("rules: %w", err)
	}
	row := RulesRow{Version: old.version + 1, Rules: text, CreatedAt: d.now(), Actor: actor}
	if err := d.cfg.Store.PutRules(ctx, a.uid, row, d.audit(actor, appID, "rules.put", fmt.Sprint(row.Version), before, text)); err != nil {
		return 0, d.doubted(ctx, appID, fmt.Errorf("put rules: %w", err))
	}
	a.rules.Store(newRuleSet(row.Version, rules))
	d.notify.RulesChanged(a.uid)
	return row.Version, nil
}

// RulesVersions lists earlier rule lists, newest first, below a version (0: from the newest).
func (d *Directory) RulesVersions(ctx context.Context, appID string, before int64, limit int) ([]RulesRow, error) {
	a, ok := d.state(appID)
	if !ok {
		return nil, ErrNotFound
	}
	rows, err := d.cfg.Store.RulesVersions(ctx, a.uid, before, limit)
	if err != nil {
		return nil, fmt.Errorf("rules versions: %w", err)
	}
	return rows, nil
}

package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrOtherRequest tells that an idempotency key was claimed by another request.
var ErrOtherRequest = errors.New("idempotency key was used for another request")

// ClaimAnswer claims an idempotency key for a call, or returns the answer of the call that claimed it before (Status 0
// while it is under way); ErrOtherRequest when that was not the same call. name is made of the caller and the key that
// the caller chose, request of the method, the path and the body.
func (d *Directory) ClaimAnswer(ctx context.Context, name string, request []byte) (stored Answer, found bool, err error) {
	fingerprint := d.seal.digest(request)
	stored, found, err = d.cfg.Store.ClaimIdempotency(ctx, name, fingerprint, d.now())
	if err != nil {
		return Answer{}, false, fmt.Errorf("idempotency key: %w", err)
	}
	if found && !bytes.Equal(stored.Fingerprint, fingerprint) {
		return Answer{}, true, ErrOtherRequest
	}
	if found && stored.Status != 0 {
		if stored.Body, err = d.seal.open(name, stored.Body); err != nil {
			return Answer{}, false, fmt.Errorf("idempotency key: %w", err)
		}
	}
	return stored, found, nil
}

// KeepAnswer remembers the answer of the call that has claimed name. It is sealed: an answer may hold a key's value.
func (d *Directory) KeepAnswer(ctx context.Context, name string, a Answer) error {
	a.Body = d.seal.seal(name, a.Body)
	if err := d.cfg.Store.FinishIdempotency(ctx, name, a); err != nil {
		return fmt.Errorf("idempotency key: %w", err)
	}
	return nil
}

// ReleaseAnswer gives a claimed name back, after a call that may be tried again.
func (d *Directory) ReleaseAnswer(ctx context.Context, name string) error {
	if err := d.cfg.Store.ReleaseIdempotency(ctx, name); err != nil {
		return fmt.Errorf("idempotency key: %w", err)
	}
	return nil
}

// Audits lists changes, newest first, below an id (0: from the newest); appID "" means all apps. What was done to an
// earlier app of the same id is not an app's own history: only the list of all apps has it.
func (d *Directory) Audits(ctx context.Context, appID string, before int64, limit int) ([]Audit, error) {
	rows, err := d.cfg.Store.Audits(ctx, appID, before, limit)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if a, ok := d.state(appID); ok {
		created := a.snapshot().CreatedAt
		if older := slices.IndexFunc(rows, func(r Audit) bool { return r.At.Before(created) }); older >= 0 {
			rows = rows[:older]
		}
	}
	return rows, nil
}

package auth

import (
	"context"
	"time"
)

// Store keeps the control plane: apps, keys, rules and audit. Each method is one transaction, committed when it
// returns. Errors: ErrTaken, ErrNotFound, ErrConflict, or ErrUnavailable when the database is away; what failed with the
// last may have been committed all the same. Safe for concurrent use.
type Store interface {
	// LoadApps returns every app with its keys and its newest rules, ordered by id.
	LoadApps(ctx context.Context) ([]AppRecord, error)
	// CreateApp writes the app, its first key, and an empty rule list (version 1), and returns its uid. ErrTaken when
	// the id is taken.
	CreateApp(ctx context.Context, app AppRow, key KeyRow, a Audit) (uid int64, err error)
	UpdateApp(ctx context.Context, app AppRow, a Audit) error
	// DeleteApp removes every trace of the app (keys, rules, messages, sessions …) but its audit.
	DeleteApp(ctx context.Context, uid int64, a Audit) error
	CreateKey(ctx context.Context, key KeyRow, a Audit) error
	DeleteKey(ctx context.Context, appUID int64, keyID string, a Audit) error
	// TouchKeys writes last_used_at of keys; called now and then with what has gathered.
	TouchKeys(ctx context.Context, used map[string]time.Time) error
	// PutRules appends version rules.Version (the newest plus one); ErrConflict when that version is there already.
	PutRules(ctx context.Context, appUID int64, rules RulesRow, a Audit) error
	// RulesVersions lists versions below before (0: from the newest), newest first.
	RulesVersions(ctx context.Context, appUID int64, before int64, limit int) ([]RulesRow, error)
	// AppendAudit records what changes nothing else in the store.
	AppendAudit(ctx context.Context, a Audit) error
	// Audits lists entries with ids below before (0: from the newest), newest first; appID "" means all apps.
	Audits(ctx context.Context, appID string, before int64, limit int) ([]Audit, error)
	// ClaimIdempotency and what follows remember the answers of REST calls by key for 24 h. Claim returns found=true with the stored answer
	// (status 0: the first call is still under way), or claims the key for this call.
	ClaimIdempotency(ctx context.Context, key string, fingerprint []byte, now time.Time) (stored Answer, found bool, err error)
	FinishIdempotency(ctx context.Context, key string, answer Answer) error
	// ReleaseIdempotency gives a claimed key back after a call that may be tried again (5xx).
	ReleaseIdempotency(ctx context.Context, key string) error
	// ForgetIdempotency deletes keys claimed before a time.
	ForgetIdempotency(ctx context.Context, before time.Time) error
}

// AppRow is a row of the table apps. Settings is a JSON object with the members that were set.
type AppRow struct {
	UID       int64
	ID, Name  string
	Settings  []byte
	CreatedAt time.Time
	UpdatedAt time.Time
}

// KeyRow is a row of the table keys. Secret holds the SHA-256 of the value (secret, device, publishable) or the
// sealed signing secret; Attributes a JSON object with what the kind has (scopes, sub, client_id, origins, rules …).
type KeyRow struct {
	AppUID     int64
	ID         string
	Kind, Name string
	Secret     []byte
	Attributes []byte
	CreatedAt  time.Time
	LastUsedAt time.Time // zero: never
}

// RulesRow is one version of an app's rule list, as JSON.
type RulesRow struct {
	Version   int64
	Rules     []byte
	CreatedAt time.Time
	Actor     string
}

// AppRecord is an app with all that hangs on it.
type AppRecord struct {
	App   AppRow
	Keys  []KeyRow // newest last
	Rules RulesRow
}

// Audit is one management change: who did what to what, without secrets. ID is given by the store.
type Audit struct {
	ID            int64
	At            time.Time
	Actor, AppID  string
	Action        string // e.g. "app.create", "key.delete"
	Target        string
	Before, After []byte // JSON or nil
}

// Answer is a remembered REST answer.
type Answer struct {
	Fingerprint []byte // keyed hash of method, path and body of the first call
	Status      int
	ContentType string
	Body        []byte
}

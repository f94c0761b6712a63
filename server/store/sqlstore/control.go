package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/embercast/embercast/auth"
)

// LoadApps implements auth.Store.
func (s *Store) LoadApps(ctx context.Context) ([]auth.AppRecord, error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT a.app_uid, a.id, a.name, a.settings, a.created_at, a.updated_at,
		r.version, r.rules, r.created_at, r.actor
		FROM apps AS a JOIN rules AS r ON r.app_uid = a.app_uid
		WHERE r.version = (SELECT max(version) FROM rules AS n WHERE n.app_uid = a.app_uid) ORDER BY a.id`))
	if err != nil {
		return nil, s.fail("load apps", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var all []auth.AppRecord
	index := map[int64]int{}
	for rows.Next() {
		var r auth.AppRecord
		var created, updated, ruled int64
		if err := rows.Scan(&r.App.UID, &r.App.ID, &r.App.Name, &r.App.Settings, &created, &updated,
			&r.Rules.Version, &r.Rules.Rules, &ruled, &r.Rules.Actor); err != nil {
			return nil, s.fail("load apps", err)
		}
		r.App.CreatedAt, r.App.UpdatedAt, r.Rules.CreatedAt = Time(created), Time(updated), Time(ruled)
		index[r.App.UID] = len(all)
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.fail("load apps", err)
	}
	return all, s.loadKeys(ctx, all, index)
}

func (s *Store) loadKeys(ctx context.Context, all []auth.AppRecord, index map[int64]int) error {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT app_uid, id, kind, name, secret, attributes, created_at, last_used_at
		FROM keys ORDER BY app_uid, created_at, id`))
	if err != nil {
		return s.fail("load keys", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var k auth.KeyRow
		var created int64
		var used sql.NullInt64
		if err := rows.Scan(&k.AppUID, &k.ID, &k.Kind, &k.Name, &k.Secret, &k.Attributes, &created, &used); err != nil {
			return s.fail("load keys", err)
		}
		k.CreatedAt, k.LastUsedAt = Time(created), NullTime(used)
		if i, ok := index[k.AppUID]; ok {
			all[i].Keys = append(all[i].Keys, k)
		}
	}
	return s.fail("load keys", rows.Err())
}

// CreateApp implements auth.Store.
func (s *Store) CreateApp(ctx context.Context, app auth.AppRow, key auth.KeyRow, a auth.Audit) (uid int64, err error) {
	var raw [8]byte
	rand.Read(raw[:]) // it never fails
	err = s.tx(ctx, "create app", func(ctx context.Context, tx *sql.Tx) error {
		row := tx.QueryRowContext(ctx, s.sql(`INSERT INTO apps (id, name, settings, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?) RETURNING app_uid`), app.ID, app.Name, blob(app.Settings), micros(app.CreatedAt), micros(app.UpdatedAt))
		if err := row.Scan(&uid); err != nil {
			return err //nolint:wrapcheck // wrapped by tx
		}
		if err := s.exec(ctx, tx, `INSERT INTO app_head (app_uid, seq, epoch) VALUES (?, 0, ?)`, uid, hex.EncodeToString(raw[:])); err != nil {
			return err
		}
		key.AppUID = uid
		if err := s.insertKey(ctx, tx, key); err != nil {
			return err
		}
		first := auth.RulesRow{Version: 1, Rules: []byte("[]"), CreatedAt: app.CreatedAt, Actor: a.Actor}
		if err := s.insertRules(ctx, tx, uid, first); err != nil {
			return err
		}
		return s.insertAudit(ctx, tx, a)
	})
	return uid, err
}

// UpdateApp implements auth.Store.
func (s *Store) UpdateApp(ctx context.Context, app auth.AppRow, a auth.Audit) error {
	return s.tx(ctx, "update app", func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.sql(`UPDATE apps SET name = ?, settings = ?, updated_at = ? WHERE app_uid = ?`),
			app.Name, blob(app.Settings), micros(app.UpdatedAt), app.UID)
		if err := oneRow(r, err); err != nil {
			return err
		}
		return s.insertAudit(ctx, tx, a)
	})
}

func oneRow(r sql.Result, err error) error {
	if err != nil {
		return err //nolint:wrapcheck // wrapped by tx
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return errors.Join(auth.ErrNotFound, err)
	}
	return nil
}

// DeleteApp implements auth.Store. The head goes before the last of the log: its row is what batches take their numbers
// from, so a batch that was first is waited for, and its rows then go too; a later one finds no head and stores nothing.
// Most of the log goes before the head, so that a batch of other apps waits only for the rest.
func (s *Store) DeleteApp(ctx context.Context, uid int64, a auth.Audit) error {
	logs := []string{
		`DELETE FROM pending WHERE filter_id IN (SELECT filter_id FROM filters WHERE app_uid = ?)`,
		`DELETE FROM shared WHERE filter_id IN (SELECT filter_id FROM filters WHERE app_uid = ?)`,
		`DELETE FROM messages WHERE app_uid = ?`,
	}
	all := append(slices.Clone(logs), `DELETE FROM app_head WHERE app_uid = ?`)
	all = append(append(all, logs...), `DELETE FROM subscriptions WHERE app_uid = ?`, `DELETE FROM sessions WHERE app_uid = ?`,
		`DELETE FROM filters WHERE app_uid = ?`, `DELETE FROM rules WHERE app_uid = ?`, `DELETE FROM keys WHERE app_uid = ?`)
	return s.longTx(ctx, "delete app", func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM apps WHERE app_uid = ?`), uid)
		if err := oneRow(r, err); err != nil {
			return err
		}
		for _, text := range all {
			if err := s.exec(ctx, tx, text, uid); err != nil {
				return err
			}
		}
		return s.insertAudit(ctx, tx, a)
	})
}

// CreateKey implements auth.Store.
func (s *Store) CreateKey(ctx context.Context, key auth.KeyRow, a auth.Audit) error {
	return s.tx(ctx, "create key", func(ctx context.Context, tx *sql.Tx) error {
		if err := s.insertKey(ctx, tx, key); err != nil {
			return err
		}
		return s.insertAudit(ctx, tx, a)
	})
}

func (s *Store) insertKey(ctx context.Context, tx *sql.Tx, k auth.KeyRow) error {
	return s.exec(ctx, tx, `INSERT INTO keys (id, app_uid, kind, name, secret, attributes, created_at, last_used_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, k.ID, k.AppUID, k.Kind, k.Name, blob(k.Secret), blob(k.Attributes), micros(k.CreatedAt), nullMicros(k.LastUsedAt))
}

// DeleteKey implements auth.Store.
func (s *Store) DeleteKey(ctx context.Context, appUID int64, keyID string, a auth.Audit) error {
	return s.tx(ctx, "delete key", func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.sql(`DELETE FROM keys WHERE app_uid = ? AND id = ?`), appUID, keyID)
		if err := oneRow(r, err); err != nil {
			return err
		}
		return s.insertAudit(ctx, tx, a)
	})
}

// TouchKeys implements auth.Store.
func (s *Store) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	return s.tx(ctx, "touch keys", func(ctx context.Context, tx *sql.Tx) error {
		for id, at := range used {
			if err := s.exec(ctx, tx, `UPDATE keys SET last_used_at = ? WHERE id = ?`, micros(at), id); err != nil {
				return err
			}
		}
		return nil
	})
}

// PutRules implements auth.Store.
func (s *Store) PutRules(ctx context.Context, appUID int64, rules auth.RulesRow, a auth.Audit) error {
	err := s.tx(ctx, "put rules", func(ctx context.Context, tx *sql.Tx) error {
		if err := s.insertRules(ctx, tx, appUID, rules); err != nil {
			return err
		}
		return s.insertAudit(ctx, tx, a)
	})
	if errors.Is(err, auth.ErrTaken) {
		return fmt.Errorf("put rules: %w", auth.ErrConflict)
	}
	return err
}

func (s *Store) insertRules(ctx context.Context, tx *sql.Tx, appUID int64, r auth.RulesRow) error {
	return s.exec(ctx, tx, `INSERT INTO rules (app_uid, version, rules, created_at, actor) VALUES (?, ?, ?, ?, ?)`,
		appUID, r.Version, blob(r.Rules), micros(r.CreatedAt), r.Actor)
}

// RulesVersions implements auth.Store.
func (s *Store) RulesVersions(ctx context.Context, appUID, before int64, limit int) ([]auth.RulesRow, error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT version, rules, created_at, actor FROM rules
		WHERE app_uid = ? AND version < ? ORDER BY version DESC LIMIT ?`), appUID, below(before), limit)
	if err != nil {
		return nil, s.fail("rules versions", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var all []auth.RulesRow
	for rows.Next() {
		var r auth.RulesRow
		var created int64
		if err := rows.Scan(&r.Version, &r.Rules, &created, &r.Actor); err != nil {
			return nil, s.fail("rules versions", err)
		}
		r.CreatedAt = Time(created)
		all = append(all, r)
	}
	return all, s.fail("rules versions", rows.Err())
}

// below makes the bound of a page; 0 is none. A parameter that is compared with a constant too would be an int4 on
// Postgres.
func below(before int64) int64 {
	if before == 0 {
		return math.MaxInt64
	}
	return before
}

func (s *Store) insertAudit(ctx context.Context, tx *sql.Tx, a auth.Audit) error {
	return s.exec(ctx, tx, `INSERT INTO audit (at, actor, app_id, action, target, before, after) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		micros(a.At), a.Actor, a.AppID, a.Action, a.Target, a.Before, a.After)
}

// AppendAudit implements auth.Store.
func (s *Store) AppendAudit(ctx context.Context, a auth.Audit) error {
	return s.tx(ctx, "append audit", func(ctx context.Context, tx *sql.Tx) error { return s.insertAudit(ctx, tx, a) })
}

// Audits implements auth.Store.
func (s *Store) Audits(ctx context.Context, appID string, before int64, limit int) ([]auth.Audit, error) {
	rows, err := s.Read.QueryContext(ctx, s.sql(`SELECT id, at, actor, app_id, action, target, before, after FROM audit
		WHERE (? = '' OR app_id = ?) AND id < ? ORDER BY id DESC LIMIT ?`), appID, appID, below(before), limit)
	if err != nil {
		return nil, s.fail("audit", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var all []auth.Audit
	for rows.Next() {
		var a auth.Audit
		var at int64
		if err := rows.Scan(&a.ID, &at, &a.Actor, &a.AppID, &a.Action, &a.Target, &a.Before, &a.After); err != nil {
			return nil, s.fail("audit", err)
		}
		a.At = Time(at)
		all = append(all, a)
	}
	return all, s.fail("audit", rows.Err())
}

// ClaimIdempotency implements auth.Store.
func (s *Store) ClaimIdempotency(ctx context.Context, key string, fingerprint []byte, now time.Time) (stored auth.Answer, found bool, err error) {
	err = s.tx(ctx, "claim idempotency key", func(ctx context.Context, tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, s.sql(`INSERT INTO idempotency (key, fingerprint, status, content_type, body, claimed_at)
			VALUES (?, ?, 0, '', ?, ?) ON CONFLICT (key) DO NOTHING`), key, fingerprint, []byte{}, micros(now))
		if err != nil {
			return err //nolint:wrapcheck // wrapped by tx
		}
		if n, err := r.RowsAffected(); err != nil || n == 1 {
			return err //nolint:wrapcheck // wrapped by tx
		}
		found = true
		row := tx.QueryRowContext(ctx, s.sql(`SELECT fingerprint, status, content_type, body FROM idempotency WHERE key = ?`), key)
		return row.Scan(&stored.Fingerprint, &stored.Status, &stored.ContentType, &stored.Body) //nolint:wrapcheck // wrapped by tx
	})
	return stored, found, err
}

// FinishIdempotency implements auth.Store.
func (s *Store) FinishIdempotency(ctx context.Context, key string, a auth.Answer) error {
	return s.tx(ctx, "finish idempotency key", func(ctx context.Context, tx *sql.Tx) error {
		return s.exec(ctx, tx, `UPDATE idempotency SET status = ?, content_type = ?, body = ? WHERE key = ?`, a.Status, a.ContentType, blob(a.Body), key)
	})
}

// ReleaseIdempotency implements auth.Store.
func (s *Store) ReleaseIdempotency(ctx context.Context, key string) error {
	return s.tx(ctx, "release idempotency key", func(ctx context.Context, tx *sql.Tx) error {
		return s.exec(ctx, tx, `DELETE FROM idempotency WHERE key = ? AND status = 0`, key)
	})
}

// ForgetIdempotency implements auth.Store.
func (s *Store) ForgetIdempotency(ctx context.Context, before time.Time) error {
	return s.tx(ctx, "forget idempotency keys", func(ctx context.Context, tx *sql.Tx) error {
		return s.exec(ctx, tx, `DELETE FROM idempotency WHERE claimed_at < ?`, micros(before))
	})
}

package api_test

import (
	"context"
	"errors"
	"time"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// What follows makes the store be away, method by method of its ports.

func (s *store) CreateApp(ctx context.Context, app auth.AppRow, key auth.KeyRow, a auth.Audit) (int64, error) {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return 0, err
	}
	return s.Store.CreateApp(ctx, app, key, a)
}

func (s *store) UpdateApp(ctx context.Context, app auth.AppRow, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.UpdateApp(ctx, app, a) }))
}

func (s *store) DeleteApp(ctx context.Context, uid int64, a auth.Audit) error {
	return s.lose(errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.DeleteApp(ctx, uid, a) })))
}

func (s *store) CreateKey(ctx context.Context, key auth.KeyRow, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.CreateKey(ctx, key, a) }))
}

func (s *store) DeleteKey(ctx context.Context, uid int64, id string, a auth.Audit) error {
	return s.lose(errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.DeleteKey(ctx, uid, id, a) })))
}

func (s *store) PutRules(ctx context.Context, uid int64, r auth.RulesRow, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.PutRules(ctx, uid, r, a) }))
}

func (s *store) AppendAudit(ctx context.Context, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.AppendAudit(ctx, a) }))
}

func (s *store) RulesVersions(ctx context.Context, uid, before int64, limit int) ([]auth.RulesRow, error) {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return nil, err
	}
	return s.Store.RulesVersions(ctx, uid, before, limit)
}

func (s *store) Audits(ctx context.Context, app string, before int64, limit int) ([]auth.Audit, error) {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return nil, err
	}
	return s.Store.Audits(ctx, app, before, limit)
}

func (s *store) ClaimIdempotency(ctx context.Context, key string, fingerprint []byte, now time.Time) (auth.Answer, bool, error) {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return auth.Answer{}, false, err
	}
	s.claims.Add(1)
	return s.Store.ClaimIdempotency(ctx, key, fingerprint, now)
}

func (s *store) Commit(ctx context.Context, b broker.Batch) ([]uint64, error) {
	if err := s.err(broker.ErrStoreUnavailable); err != nil {
		return nil, err
	}
	return s.Store.Commit(ctx, b)
}

func (s *store) Head(ctx context.Context, app broker.AppUID) (seq uint64, epoch string, err error) {
	if err := s.err(broker.ErrStoreUnavailable); err != nil {
		return 0, "", err
	}
	return s.Store.Head(ctx, app)
}

func (s *store) LoadApps(ctx context.Context) ([]auth.AppRecord, error) {
	if err := s.err(auth.ErrUnavailable); err != nil {
		return nil, err
	}
	return s.Store.LoadApps(ctx)
}

// lose is what becomes of a change that was carried out when its connection is lost.
func (s *store) lose(err error) error {
	if err == nil && s.losing.Load() {
		return auth.ErrUnavailable
	}
	return err
}

func (s *store) ifThere(do func() error) error {
	if s.away.Load() {
		return nil
	}
	return do()
}

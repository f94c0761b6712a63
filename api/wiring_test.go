package api_test

import (
	"context"
	"errors"
	"time"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// What follows joins the parts as server/node does.

type grant struct{ *auth.Grant }

func (g grant) App() broker.AppUID        { return broker.AppUID(g.AppUID()) }
func (g grant) Limits() broker.Limits     { return limitsOf(g.Grant.Settings().Limits) }
func (g grant) Settings() broker.Settings { return broker.Settings{} }

func limitsOf(l auth.Limits) broker.Limits {
	return broker.Limits{
		ConnectionsMax: l.ConnectionsMax, SubscriptionsPerClientMax: l.SubscriptionsPerClientMax,
		PublishRateMax: l.PublishRateMax, PublishBytesRateMax: l.PublishBytesRateMax, PacketBytesMax: l.PacketBytesMax,
		TopicLevelsMax: l.TopicLevelsMax, TopicBytesMax: l.TopicBytesMax, RetainedCountMax: l.RetainedCountMax,
		RetainedBytesMax: int64(l.RetainedBytesMax), QueuedMessagesMax: l.QueuedMessagesMax, QueuedBytesMax: int64(l.QueuedBytesMax),
		SessionExpiryMax: time.Duration(l.SessionExpiryMaxSeconds) * time.Second, ReceiveMaximum: uint16(l.ReceiveMaximum),
		TopicAliasMaximum: uint16(l.TopicAliasMaximum),
	}
}

type authenticator struct{ dir *auth.Directory }

func (a authenticator) Authenticate(ctx context.Context, c broker.Credentials) (broker.Grant, error) {
	g, err := a.dir.Authenticate(ctx, auth.Credentials{
		PathApp: c.PathApp, QueryToken: c.QueryToken, HasUsername: c.HasUsername, Username: c.Username,
		HasPassword: c.HasPassword, Password: c.Password, ClientID: c.ClientID,
	})
	if err != nil {
		return nil, errors.Join(broker.ErrBadCredentials, err)
	}
	return grant{g}, nil
}

func (a authenticator) Renew(context.Context, broker.Grant, string) (broker.Grant, error) {
	return nil, broker.ErrNotAllowed
}

type listener struct{ broker *broker.Broker }

func (l listener) AppCreated(a auth.App) {
	if err := l.broker.OpenApp(context.Background(), broker.AppConfig{UID: broker.AppUID(a.UID), ID: a.ID}); err != nil {
		panic(err)
	}
}

func (l listener) AppChanged(a auth.App)  { l.broker.Reauthorize(broker.AppUID(a.UID)) }
func (l listener) AppDeleted(uid int64)   { l.broker.CloseApp(broker.AppUID(uid)) }
func (l listener) RulesChanged(uid int64) { l.broker.Reauthorize(broker.AppUID(uid)) }
func (l listener) KeyDeleted(uid int64, keyID string) {
	l.broker.DisconnectKey(broker.AppUID(uid), keyID)
}

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
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.DeleteApp(ctx, uid, a) }))
}

func (s *store) CreateKey(ctx context.Context, key auth.KeyRow, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.CreateKey(ctx, key, a) }))
}

func (s *store) DeleteKey(ctx context.Context, uid int64, id string, a auth.Audit) error {
	return errors.Join(s.err(auth.ErrUnavailable), s.ifThere(func() error { return s.Store.DeleteKey(ctx, uid, id, a) }))
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
	return s.Store.ClaimIdempotency(ctx, key, fingerprint, now)
}

func (s *store) Commit(ctx context.Context, b broker.Batch) ([]uint64, error) {
	if err := s.err(broker.ErrStoreUnavailable); err != nil {
		return nil, err
	}
	return s.Store.Commit(ctx, b)
}

func (s *store) ifThere(do func() error) error {
	if s.away.Load() {
		return nil
	}
	return do()
}

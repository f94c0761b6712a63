// Package identity shows auth to the broker: grants, limits and settings on the way in, and changes of the control plane
// on the way to live connections. auth and the broker do not know each other.
package identity

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
)

// grant shows an auth.Grant to the broker.
type grant struct{ *auth.Grant }

// App implements broker.Grant.
func (g grant) App() broker.AppUID { return broker.AppUID(g.AppUID()) }

// Assigned implements broker.Grant.
func (g grant) Assigned(clientID string) broker.Grant { return grant{g.WithClientID(clientID)} }

// Limits implements broker.Grant.
func (g grant) Limits() broker.Limits { return Limits(g.Grant.Settings().Limits) }

// Settings implements broker.Grant.
func (g grant) Settings() broker.Settings {
	s := g.Grant.Settings()
	return broker.Settings{
		DeniedPublishDisconnects: s.DeniedPublish == "disconnect", RevokedSubscriptionDisconnects: s.RevokedSubscription == "disconnect",
	}
}

// Grant shows a grant to the broker.
func Grant(g *auth.Grant) broker.Grant { return grant{g} }

// Limits shows an app's limits to the broker.
func Limits(l auth.Limits) broker.Limits {
	return broker.Limits{
		ConnectionsMax: l.ConnectionsMax, SubscriptionsPerClientMax: l.SubscriptionsPerClientMax,
		PublishRateMax: l.PublishRateMax, PublishBytesRateMax: l.PublishBytesRateMax, PacketBytesMax: l.PacketBytesMax,
		TopicLevelsMax: l.TopicLevelsMax, TopicBytesMax: l.TopicBytesMax, RetainedCountMax: l.RetainedCountMax,
		RetainedBytesMax: int64(l.RetainedBytesMax), QueuedMessagesMax: l.QueuedMessagesMax,
		QueuedBytesMax: int64(l.QueuedBytesMax), SessionsMax: l.SessionsMax,
		SessionExpiryMax: time.Duration(l.SessionExpiryMaxSeconds) * time.Second,
		KeepAliveMax:     time.Duration(l.KeepAliveMaxSeconds) * time.Second,
		ReceiveMaximum:   uint16(l.ReceiveMaximum), TopicAliasMaximum: uint16(l.TopicAliasMaximum), //nolint:gosec // checked when they are set
	}
}

// Authenticator shows the control plane to the broker.
type Authenticator struct{ Directory *auth.Directory }

// Authenticate implements broker.Authenticator.
func (a Authenticator) Authenticate(ctx context.Context, c broker.Credentials) (broker.Grant, error) {
	g, err := a.Directory.Authenticate(ctx, auth.Credentials{
		PathApp: c.PathApp, QueryToken: c.QueryToken, HasUsername: c.HasUsername, Username: c.Username,
		HasPassword: c.HasPassword, Password: c.Password, ClientID: c.ClientID,
	})
	if err != nil {
		return nil, brokerError(err)
	}
	// The handshake has judged the app that its path names; this is the one that CONNECT named.
	if settings := g.Settings(); c.Origin != "" && !settings.AllowsOrigin(c.Origin) {
		return nil, broker.ErrNotAllowed
	}
	return grant{g}, nil
}

// Renew implements broker.Authenticator.
func (a Authenticator) Renew(ctx context.Context, g broker.Grant, token string) (broker.Grant, error) {
	old, ok := g.(grant)
	if !ok {
		return nil, broker.ErrNotAllowed
	}
	n, err := a.Directory.Renew(ctx, old.Grant, token)
	if err != nil {
		return nil, brokerError(err)
	}
	return grant{n}, nil
}

// Restore implements broker.Authenticator.
func (a Authenticator) Restore(app broker.AppUID, encoded []byte) (broker.Grant, error) {
	g, err := a.Directory.Restore(int64(app), encoded)
	if err != nil {
		return nil, brokerError(err)
	}
	return grant{g}, nil
}

func brokerError(err error) error {
	switch {
	case errors.Is(err, auth.ErrBadCredentials):
		return broker.ErrBadCredentials
	case errors.Is(err, auth.ErrNotAllowed):
		return broker.ErrNotAllowed
	case errors.Is(err, auth.ErrClientID):
		return broker.ErrClientIDNotValid
	}
	return err
}

// Listener carries changes of the control plane to live connections.
type Listener struct {
	Broker *broker.Broker
	Logger *slog.Logger
}

// AppConfig shows an app to the broker.
func AppConfig(a auth.App) broker.AppConfig {
	return broker.AppConfig{UID: broker.AppUID(a.UID), ID: a.ID, History: time.Duration(a.Settings.HistorySeconds) * time.Second, Limits: Limits(a.Settings.Limits)}
}

// AppCreated implements auth.Listener.
func (l Listener) AppCreated(a auth.App) error {
	return l.Broker.OpenApp(context.Background(), AppConfig(a)) //nolint:wrapcheck // it says what and where
}

// AppChanged implements auth.Listener.
func (l Listener) AppChanged(a auth.App) {
	// The app is open: this hands on its settings. One that could not be opened is told by AppCreated again.
	if err := l.AppCreated(a); err != nil {
		l.Logger.LogAttrs(context.Background(), slog.LevelError, "app not opened", slog.String("app", a.ID), slog.String("error", err.Error()))
	}
	l.Broker.Reauthorize(broker.AppUID(a.UID))
}

// AppDeleted implements auth.Listener.
func (l Listener) AppDeleted(uid int64) { l.Broker.CloseApp(broker.AppUID(uid)) }

// RulesChanged implements auth.Listener.
func (l Listener) RulesChanged(uid int64) { l.Broker.Reauthorize(broker.AppUID(uid)) }

// KeyDeleted implements auth.Listener.
func (l Listener) KeyDeleted(uid int64, keyID string) {
	l.Broker.DisconnectKey(broker.AppUID(uid), keyID)
}

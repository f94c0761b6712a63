// Package api is the REST surface: what users and their servers call over HTTP (CONTRACT section 3). It knows the
// control plane and the broker, never SQL or sockets. OpenAPI is made from the same definitions that validate requests.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Engine is what the API asks of the broker.
type Engine interface {
	Publish(ctx context.Context, p broker.Publication) (seq uint64, err error)
	Retained(app broker.AppUID, filter, after string, limit int) ([]*message.Message, error)
	RetainedAt(app broker.AppUID, topic string) (there bool, err error)
	Clients(app broker.AppUID, after string, limit int) ([]broker.ClientInfo, error)
	Client(app broker.AppUID, clientID string) (broker.ClientInfo, error)
	Kick(ctx context.Context, app broker.AppUID, clientID string, forgetSession bool) error
	Stats(app broker.AppUID) (broker.Stats, error)
}

// ServerInfo is what /v1/server tells.
type ServerInfo struct {
	Version   string            `json:"version"`
	StartedAt time.Time         `json:"started_at"`
	Store     StoreInfo         `json:"store"`
	Listeners map[string]string `json:"listeners" doc:"Addresses by name: http, https, mqtt, mqtts."`
	Healthy   bool              `json:"healthy" doc:"What /readyz says."`
}

// StoreInfo names the database.
type StoreInfo struct {
	Kind    string `json:"kind" enum:"sqlite,postgres"`
	Version string `json:"version"`
}

// Config is what the API is made of. All of it must be set but MetricsToken, KeptAnswers and Now.
type Config struct {
	Directory    *auth.Directory
	Engine       Engine
	Grant        func(*auth.Grant) broker.Grant  // shows a caller's grant to the broker
	Limits       func(auth.Limits) broker.Limits // likewise an app's limits
	Remote       func(*fiber.Ctx) string         // the address of a caller, behind trusted proxies too
	Ready        func(ctx context.Context) error // nil: ready
	Server       func(ctx context.Context) ServerInfo
	Metrics      http.Handler
	MetricsToken string // who may read /metrics besides the admin; empty: nobody
	KeptAnswers  KeptAnswers
	Logger       *slog.Logger
	Now          func() time.Time
}

package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

type healthOutput struct {
	Body struct {
		Status string `json:"status" enum:"ok"`
	}
}

type serverOutput struct{ Body ServerInfo }

func healthy() *healthOutput {
	out := &healthOutput{}
	out.Body.Status = "ok"
	return out
}

func (s *service) health() {
	register(s, open, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Summary: "Is the process alive", Tags: []string{"Operation"},
	}, func(context.Context, *struct{}) (*healthOutput, error) { return healthy(), nil })
	register(s, open, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Summary: "Does it serve: up, and its database with it", Tags: []string{"Operation"},
	}, func(ctx context.Context, _ *struct{}) (*healthOutput, error) {
		if s.cfg.Ready(ctx) != nil {
			return nil, unavailable("not_ready", "The server is starting, stopping, or waits for its database. Its log says which.")
		}
		return healthy(), nil
	})
	register(s, adminOnly, huma.Operation{
		OperationID: "get-server", Method: http.MethodGet, Path: "/v1/server", Summary: "Version, database, listeners, health", Tags: []string{"Operation"},
	}, func(ctx context.Context, _ *struct{}) (*serverOutput, error) {
		return &serverOutput{s.cfg.Server(ctx)}, nil
	})
}

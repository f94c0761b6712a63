package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

// AuditEntry is one change of the control plane: who did what, without secrets.
type AuditEntry struct {
	ID     int64           `json:"id"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	App    string          `json:"app,omitempty"`
	Action string          `json:"action"`
	Target string          `json:"target"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func auditOf(a auth.Audit) AuditEntry {
	return AuditEntry{a.ID, a.At, a.Actor, a.AppID, a.Action, a.Target, json.RawMessage(a.Before), json.RawMessage(a.After)}
}

type auditOutput struct{ Body list[AuditEntry] }

type appAuditInput struct {
	AppPath
	ListQuery
}

func (s *service) audits() {
	register(s, adminOnly, huma.Operation{
		OperationID: "list-audit", Method: http.MethodGet, Path: "/v1/audit", Summary: "Who changed what, newest first", Tags: []string{"Operation"},
	}, func(ctx context.Context, in *ListQuery) (*auditOutput, error) { return s.listAudit(ctx, "", in) })
	register(s, adminOnly, huma.Operation{
		OperationID: "list-app-audit", Method: http.MethodGet, Path: "/v1/apps/{app}/audit", Summary: "Who changed what in an app, newest first", Tags: []string{"Operation"},
	}, func(ctx context.Context, in *appAuditInput) (*auditOutput, error) {
		return s.listAudit(ctx, in.App, &in.ListQuery)
	})
}

func (s *service) listAudit(ctx context.Context, app string, in *ListQuery) (*auditOutput, error) {
	before, err := decodeNumber(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.Directory.Audits(ctx, app, before, in.Limit+1)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	return &auditOutput{page(rows, in.Limit, func(a auth.Audit) string { return strconv.FormatInt(a.ID, 10) }, auditOf)}, nil
}

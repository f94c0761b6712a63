package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

type rulesOutput struct {
	ETag string `header:"ETag" doc:"The version of the list, for If-Match."`
	Body []auth.Rule
}

type putRulesInput struct {
	AppPath
	IfMatch string `header:"If-Match" doc:"Replace the list only if it is still the one with this ETag."`
	Body    []auth.Rule
	RawBody []byte
}

type rulesVersion struct {
	Version   int64           `json:"version"`
	CreatedAt time.Time       `json:"created_at"`
	Actor     string          `json:"actor" doc:"Who put it."`
	Rules     json.RawMessage `json:"rules"`
}

type rulesVersionsOutput struct{ Body list[rulesVersion] }

func rulesTag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

func (s *service) rules() {
	register(s, manage, huma.Operation{
		OperationID: "get-rules", Method: http.MethodGet, Path: "/v1/apps/{app}/rules", Summary: "Get the rule list", Tags: []string{"Rules"},
	}, func(_ context.Context, in *AppPath) (*rulesOutput, error) {
		rules, version, err := s.cfg.Directory.Rules(in.App)
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &rulesOutput{rulesTag(version), rules}, nil
	})
	register(s, manage, huma.Operation{
		OperationID: "put-rules", Method: http.MethodPut, Path: "/v1/apps/{app}/rules", Summary: "Replace the rule list", Tags: []string{"Rules"},
		Description: "Any deny that matches wins, else any allow, else it is denied; the order means nothing. In force on live " +
			"connections within a second.",
		Errors: []int{http.StatusPreconditionFailed, http.StatusUnprocessableEntity},
	}, s.putRules)
	register(s, manage, huma.Operation{
		OperationID: "list-rules-versions", Method: http.MethodGet, Path: "/v1/apps/{app}/rules/versions", Summary: "List earlier rule lists, newest first", Tags: []string{"Rules"},
	}, s.listRulesVersions)
}

func (s *service) putRules(ctx context.Context, in *putRulesInput) (*rulesOutput, error) {
	// The schema has judged the form; this judges what it means.
	rules, err := auth.ParseRules(in.RawBody)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	ifVersion, err := versionIn(in.IfMatch)
	if err != nil {
		return nil, err
	}
	version, err := s.cfg.Directory.PutRules(ctx, actor(ctx), in.App, rules, ifVersion)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	return &rulesOutput{rulesTag(version), rules}, nil
}

// versionIn reads If-Match: 0 for none and for *; a tag that is no version of ours matches nothing.
func versionIn(ifMatch string) (int64, error) {
	tag := strings.TrimSpace(ifMatch)
	if tag == "" || tag == "*" {
		return 0, nil
	}
	version, err := strconv.ParseInt(strings.Trim(tag, `"`), 10, 64)
	if err != nil || version <= 0 || tag != rulesTag(version) {
		return 0, auth.ErrConflict
	}
	return version, nil
}

type rulesVersionsInput struct {
	AppPath
	ListQuery
}

func (s *service) listRulesVersions(ctx context.Context, in *rulesVersionsInput) (*rulesVersionsOutput, error) {
	before, err := decodeNumber(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.Directory.RulesVersions(ctx, in.App, before, in.Limit+1)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	key := func(r auth.RulesRow) string { return strconv.FormatInt(r.Version, 10) }
	return &rulesVersionsOutput{page(rows, in.Limit, key, func(r auth.RulesRow) rulesVersion {
		return rulesVersion{r.Version, r.CreatedAt, r.Actor, json.RawMessage(r.Rules)}
	})}, nil
}

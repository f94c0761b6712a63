package api

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
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
	RawBody []byte `contentType:"application/json"`
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
	list := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[[]auth.Rule](), true, "Rules")
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
		RequestBody:      &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: list}}},
		SkipValidateBody: true, // auth.ParseRules judges it, and tells everything at once
		Errors:           []int{http.StatusPreconditionFailed, http.StatusUnprocessableEntity},
	}, s.putRules)
	register(s, manage, huma.Operation{
		OperationID: "list-rules-versions", Method: http.MethodGet, Path: "/v1/apps/{app}/rules/versions", Summary: "List earlier rule lists, newest first", Tags: []string{"Rules"},
	}, s.listRulesVersions)
}

func (s *service) putRules(ctx context.Context, in *putRulesInput) (*rulesOutput, error) {
	rules, err := auth.ParseRules(in.RawBody)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	ifVersion, err := s.versionIn(in.App, in.IfMatch)
	if err != nil {
		return nil, err
	}
	version, err := s.cfg.Directory.PutRules(ctx, actor(ctx), in.App, rules, ifVersion)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	return &rulesOutput{rulesTag(version), rules}, nil
}

// versionIn reads If-Match: 0 where it asks for nothing or for any version, the version in force where its tag is among
// those named, auth.ErrConflict otherwise.
func (s *service) versionIn(app, ifMatch string) (int64, error) {
	if tags := strings.TrimSpace(ifMatch); tags == "" || tags == "*" {
		return 0, nil
	}
	_, version, err := s.cfg.Directory.Rules(app)
	if err != nil {
		return 0, err //nolint:wrapcheck // told by register
	}
	for tag := range strings.SplitSeq(ifMatch, ",") {
		if strings.TrimSpace(tag) == rulesTag(version) {
			return version, nil
		}
	}
	return 0, auth.ErrConflict
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

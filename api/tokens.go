package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

type tokenInput struct {
	AppPath
	Body struct {
		Sub      string      `json:"sub" doc:"Who the token is for."`
		TTL      int64       `json:"ttl" doc:"How long it lives, in seconds."`
		ClientID string      `json:"client_id,omitempty" doc:"The only client id it may be used with."`
		Claims   claims      `json:"claims,omitempty"`
		ACL      []auth.Rule `json:"acl,omitempty" doc:"More rules for connections by this token, at most 50."`
		Bypass   bool        `json:"bypass_rules,omitempty" doc:"For tools of an admin: above the rules, at most 15 minutes."`
	}
}

// claims are claims whose numbers keep their digits.
type claims map[string]any

// Schema implements huma.SchemaProvider.
func (claims) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: true,
		Description: "More claims; rules see them as ${token.…}. Those that the server sets are refused.",
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *claims) UnmarshalJSON(b []byte) error {
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err := d.Decode(&all)
	*c = all
	return err //nolint:wrapcheck // the schema has judged it
}

type anonymousTokenInput struct {
	AppPath
	Body *struct {
		Token string `json:"token,omitempty" doc:"The visitor's token, still valid and made by this call with the same key: the new one keeps its sub."`
	}
}

type token struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

type tokenOutput struct{ Body token }

const (
	ttlLimit = 1 << 31 // seconds; a bound for the arithmetic, the setting's is far below
	// anonymousBodyBytes bounds what a visitor sends: a token has at most 16 KiB.
	anonymousBodyBytes = 17 << 10
)

func (s *service) tokens() {
	register(s, tokens, huma.Operation{
		OperationID: "create-token", Method: http.MethodPost, Path: "/v1/apps/{app}/tokens", Summary: "Make a client token", Tags: []string{"Tokens"},
		Description:   "A JWT by the newest key that can sign.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
		b := &in.Body
		if b.Bypass && calling(ctx).who.Kind != auth.PrincipalAdmin {
			return nil, problem(http.StatusForbidden, "not_allowed", "Only an admin may ask for bypass_rules.")
		}
		text, expires, err := s.cfg.Directory.MintToken(ctx, actor(ctx), in.App, auth.TokenRequest{
			Sub: b.Sub, TTL: time.Duration(max(0, min(b.TTL, ttlLimit))) * time.Second, ClientID: b.ClientID, Claims: b.Claims, ACL: b.ACL, BypassRules: b.Bypass,
		})
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &tokenOutput{Body: token{text, expires}}, nil
	})
	register(s, publishable, huma.Operation{
		OperationID: "create-anonymous-token", Method: http.MethodPost, Path: "/v1/apps/{app}/tokens/anonymous", Summary: "Make a token for a visitor", Tags: []string{"Tokens"},
		Description: "With a publishable key, from a page: a token of an hour with a fresh random sub (anon:…). A visitor that sends " +
			"its token, while it is valid, keeps its sub, up to token_ttl_max_seconds after that began; a live connection " +
			"can be renewed with the new token. Limited per key and address.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict, http.StatusTooManyRequests},
		Metadata: map[string]any{bodyLimitKey: bodyLimit(func(auth.App) int { return anonymousBodyBytes }), lateClaim: true},
	}, s.createAnonymousToken)
}

func (s *service) createAnonymousToken(ctx context.Context, in *anonymousTokenInput) (*tokenOutput, error) {
	c := calling(ctx)
	before := ""
	if in.Body != nil {
		before = in.Body.Token
	}
	text, expires, err := s.cfg.Directory.MintAnonymous(in.App, c.who.KeyID, c.origin, before)
	if errors.Is(err, auth.ErrNotAllowed) {
		return nil, problem(http.StatusForbidden, "origin", "This publishable key is not for pages of this origin.")
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	// Making a token changes nothing: the key is claimed for one that was made.
	if err := s.claim(ctx); err != nil {
		return nil, err
	}
	return &tokenOutput{Body: token{text, expires}}, nil
}

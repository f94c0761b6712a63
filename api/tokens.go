package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

type tokenInput struct {
	AppPath
	Body struct {
		Sub      string         `json:"sub" doc:"Who the token is for."`
		TTL      int            `json:"ttl" doc:"How long it lives, in seconds."`
		ClientID string         `json:"client_id,omitempty" doc:"The only client id it may be used with."`
		Claims   map[string]any `json:"claims,omitempty" doc:"More claims; rules see them as ${token.…}."`
		ACL      []auth.Rule    `json:"acl,omitempty" doc:"More rules for connections by this token, at most 50."`
		Bypass   bool           `json:"bypass_rules,omitempty" doc:"For tools of an admin: above the rules, at most 15 minutes."`
	}
}

type token struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

type tokenOutput struct{ Body token }

const ttlLimit = 1 << 31 // seconds; a bound for the arithmetic, the setting's is far below

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
			Sub: b.Sub, TTL: time.Duration(min(b.TTL, ttlLimit)) * time.Second, ClientID: b.ClientID, Claims: b.Claims, ACL: b.ACL, BypassRules: b.Bypass,
		})
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &tokenOutput{Body: token{text, expires}}, nil
	})
	register(s, publishable, huma.Operation{
		OperationID: "create-anonymous-token", Method: http.MethodPost, Path: "/v1/apps/{app}/tokens/anonymous", Summary: "Make a token for a visitor", Tags: []string{"Tokens"},
		Description:   "With a publishable key, from a page: a short token with a fresh random sub (anon:…). Limited per key and address.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict, http.StatusTooManyRequests},
	}, func(ctx context.Context, in *AppPath) (*tokenOutput, error) {
		c := calling(ctx)
		if wait := s.limiter.take(c.who.KeyID + " " + c.remote); wait > 0 {
			p := problem(http.StatusTooManyRequests, "rate_exceeded", "Too many tokens from this address. Keep the one you have until it expires.")
			p.retryAfter = int(wait/time.Second) + 1
			return nil, p
		}
		text, expires, err := s.cfg.Directory.MintAnonymous(in.App, c.who.KeyID, c.origin, "")
		if errors.Is(err, auth.ErrNotAllowed) {
			return nil, problem(http.StatusForbidden, "origin", "This publishable key is not for pages of this origin.")
		}
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &tokenOutput{Body: token{text, expires}}, nil
	})
}

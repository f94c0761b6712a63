package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
)

// Key is a key without its value.
type Key struct {
	ID         string     `json:"id"`
	Kind       string     `json:"kind" enum:"secret,signing,device,publishable"`
	Name       string     `json:"name"`
	CreatedAt  time.Time  `json:"created_at"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"When it last let somebody in, or signed or verified a token; null: never. Written every half minute, so a crash may lose that much."`
	auth.KeyAttributes
}

func keyOf(k auth.Key) Key {
	key := Key{ID: k.ID, Kind: k.Kind, Name: k.Name, CreatedAt: k.CreatedAt, KeyAttributes: k.KeyAttributes}
	if !k.LastUsedAt.IsZero() {
		key.LastUsedAt = &k.LastUsedAt
	}
	return key
}

type newKeyBody struct {
	Kind     string      `json:"kind" doc:"secret, signing, device or publishable."`
	Name     string      `json:"name"`
	Scopes   []string    `json:"scopes,omitempty" doc:"secret: publish, data, tokens, clients, read, manage; default all but manage."`
	Sub      string      `json:"sub,omitempty" doc:"device: who it is; default device:{name}."`
	ClientID string      `json:"client_id,omitempty" doc:"device: the only client id it may use; nobody else may use it."`
	Rules    []auth.Rule `json:"rules,omitempty" doc:"device: rules of its own, beside the app's."`
	Origins  []string    `json:"origins,omitempty" doc:"publishable: pages that may use it; none given: any."`
	Alg      string      `json:"alg,omitempty" doc:"signing: HS256 (default), HS384, HS512, RS256, PS256, ES256 or EdDSA."`
	Public   string      `json:"public_key,omitempty" doc:"signing: a public key in PEM; tokens are then made elsewhere."`
	Secret   string      `json:"secret,omitempty" doc:"signing: a secret of your own, 32 bytes or more."`
	Audience string      `json:"audience,omitempty" doc:"signing: what aud must hold when it is there; default the app id."`
	Issuer   string      `json:"issuer,omitempty" doc:"signing: what iss must be."`
	AllowACL bool        `json:"allow_acl,omitempty" doc:"signing: honour the acl claim of tokens made elsewhere."`
}

type createKeyInput struct {
	AppPath
	Body newKeyBody
}

type createdKey struct {
	Key
	Value string `json:"value,omitempty" doc:"Shown now and never again; none for a public key."`
}

type createdKeyOutput struct {
	Location string `header:"Location"`
	Body     createdKey
}

// KeyPath is a key in a path.
type KeyPath struct {
	AppPath
	ID string `path:"id" doc:"The key's id."`
}

type listKeysInput struct {
	AppPath
	ListQuery
}

type keysOutput struct{ Body list[Key] }

func (s *service) keys() {
	register(s, manage, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: "/v1/apps/{app}/keys", Summary: "Create a key", Tags: []string{"Keys"},
		Description:   "The value is in this answer and never again.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *createKeyInput) (*createdKeyOutput, error) {
		b := &in.Body
		k, value, err := s.cfg.Directory.CreateKey(ctx, actor(ctx), in.App, auth.NewKey{
			Kind: b.Kind, Name: b.Name, Secret: b.Secret, KeyAttributes: auth.KeyAttributes{
				Scopes: b.Scopes, Sub: b.Sub, ClientID: b.ClientID, Rules: b.Rules, Origins: b.Origins, Alg: b.Alg,
				Audience: b.Audience, Issuer: b.Issuer, AllowACL: b.AllowACL, Public: b.Public,
			},
		})
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		if b.Secret != "" {
			value = "" // they have it already
		}
		return &createdKeyOutput{Location: "/v1/apps/" + in.App + "/keys/" + k.ID, Body: createdKey{keyOf(k), value}}, nil
	})
	register(s, manage, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: "/v1/apps/{app}/keys", Summary: "List keys, without their values", Tags: []string{"Keys"},
	}, s.listKeys)
	register(s, manage, huma.Operation{
		OperationID: "delete-key", Method: http.MethodDelete, Path: "/v1/apps/{app}/keys/{id}", Summary: "Delete a key", Tags: []string{"Keys"},
		Description: "Cuts off at once those connected by it.", DefaultStatus: http.StatusNoContent,
	}, func(ctx context.Context, in *KeyPath) (*struct{}, error) {
		return nil, s.cfg.Directory.DeleteKey(ctx, actor(ctx), in.App, in.ID) //nolint:wrapcheck // told by register
	})
}

func (s *service) listKeys(_ context.Context, in *listKeysInput) (*keysOutput, error) {
	after, err := decodeCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Directory.Keys(in.App)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	all = slices.DeleteFunc(all, func(k auth.Key) bool { return keyCursor(k) <= after })
	return &keysOutput{Body: page(all, in.Limit, keyCursor, keyOf)}, nil
}

// keyCursor orders keys as they are listed, also behind one that has been deleted since: by time, then by id.
func keyCursor(k auth.Key) string { return fmt.Sprintf("%016x %s", k.CreatedAt.UnixMicro(), k.ID) }

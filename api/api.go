package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"
)

// service holds what the handlers share.
type service struct {
	cfg        Config
	api        huma.API
	visitors   *limiter
	publishers *limiter
	answers    *limiter
}

// hooks are set once: huma asks for the maker of error documents, and whether names have a case, in variables of its
// own.
var hooks sync.Once //nolint:gochecknoglobals // guards another package's

func setHooks() {
	huma.NewError = fromHuma
	huma.NewErrorWithContext = func(_ huma.Context, status int, message string, errs ...error) huma.StatusError {
		return fromHuma(status, message, errs...)
	}
	huma.ValidateStrictCasing = true
}

// Mount serves the API on app.
func Mount(app *fiber.App, cfg Config) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.KeptAnswers = cfg.KeptAnswers.withDefaults()
	hooks.Do(setHooks)
	s := &service{cfg: cfg, visitors: newLimiter(cfg.Now), publishers: newLimiter(cfg.Now), answers: newLimiter(cfg.Now)}
	app.Use("/v1", noStore, s.cors)
	s.api = humafiber.NewWithGroup(app, heads{app}, s.humaConfig())
	s.api.UseMiddleware(s.discardBody, s.decodePath, s.authorize, s.readBody, s.idempotent)
	s.apps()
	s.keys()
	s.tokens()
	s.rules()
	s.publishing()
	s.retained()
	s.clients()
	s.stats()
	s.audits()
	s.health()
	s.metrics(app)
	if err := s.document(app); err != nil {
		return err
	}
	app.Use(methodNotAllowed(routes(s.api.OpenAPI())))
	return nil
}

// compactJSON writes JSON without HTML escaping and without a line end, and reads all of a body.
var compactJSON = huma.Format{ //nolint:gochecknoglobals // a table
	Marshal: func(w io.Writer, v any) error {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		_, err := w.Write(bytes.TrimRight(b.Bytes(), "\n"))
		return err //nolint:wrapcheck // the connection's own words
	},
	Unmarshal: json.Unmarshal,
}

func (s *service) humaConfig() huma.Config {
	info := &huma.Info{
		Title: "Embercast", Version: "v1",
		Description: "Apps, keys, tokens, rules and messages of an Embercast server. Every operation says in " +
			"x-embercast-access which credentials reach it; all of them are sent as Authorization: Bearer.",
	}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0", Info: info, OnAddOperation: []huma.AddOpFunc{},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer":       {Type: "http", Scheme: "bearer", Description: "The admin token, a key, or a client token."},
					"token_in_url": {Type: "apiKey", In: "query", Name: "auth", Description: "A client token, never a key; token is another name for auth."},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": compactJSON, "json": compactJSON},
		DefaultFormat: "application/json",
	}
}

const accessKey = "access"

func accessOf(op *huma.Operation) access {
	a, ok := op.Metadata[accessKey].(access)
	if !ok {
		panic("api: operation " + op.OperationID + " says nothing of who may call it")
	}
	return a
}

// register adds an operation with its access, which the OpenAPI document shows.
func register[I, O any](s *service, a access, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.MaxBodyBytes, op.BodyReadTimeout = -1, -1 // readBody and the HTTP server see to both
	op.Metadata[accessKey] = a
	op.Extensions = map[string]any{"x-embercast-access": a.names()}
	op.Security = a.security()
	op.Errors = append(op.Errors, commonErrors(&op, a, reflect.TypeFor[I]())...)
	_, late := op.Metadata[lateClaim]
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		if !late {
			if err := s.claim(ctx); err != nil {
				return nil, s.tell(ctx, err)
			}
		}
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.tell(ctx, err)
		}
		return out, nil
	})
}

// commonErrors are the statuses that an operation has for what it is.
func commonErrors(op *huma.Operation, a access, input reflect.Type) []int {
	all := []int{http.StatusServiceUnavailable}
	if !a.Open {
		all = append(all, http.StatusUnauthorized, http.StatusForbidden)
	}
	if strings.Contains(op.Path, "{") {
		all = append(all, http.StatusNotFound, http.StatusBadRequest)
	}
	if _, there := input.FieldByName("Body"); there || op.RequestBody != nil {
		all = append(all, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity)
	}
	if op.Method != http.MethodGet {
		all = append(all, http.StatusInsufficientStorage)
	}
	if op.Method == http.MethodPost {
		all = append(all, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusTooManyRequests) // of Idempotency-Key
		op.Parameters = append(op.Parameters, idempotencyParameter)
	}
	return all
}

// idempotencyParameter documents the header that every POST takes.
var idempotencyParameter = &huma.Param{ //nolint:gochecknoglobals // a table
	Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString, MaxLength: new(idempotencyKeyMax)},
	Description: "A text of your own for each request: a repetition within 24 h gets the first answer again, with Idempotency-Replayed: true. " +
		"Only what succeeded is kept: a call that was refused is judged anew. How many are kept is bounded: 429, by which nothing was done.",
}

// noStore keeps answers that may hold credentials out of caches.
func noStore(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Next()
}

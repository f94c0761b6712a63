package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"
)

// service holds what the handlers share.
type service struct {
	cfg     Config
	api     huma.API
	limiter *limiter
}

// Mount serves the API on app.
func Mount(app *fiber.App, cfg Config) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &service{cfg: cfg, limiter: newLimiter(cfg.Now)}
	// huma asks for the maker of error documents in variables of its own.
	huma.NewError = fromHuma
	huma.NewErrorWithContext = func(_ huma.Context, status int, message string, errs ...error) huma.StatusError {
		return fromHuma(status, message, errs...)
	}
	app.Use("/v1", noStore, s.cors)
	s.api = humafiber.New(app, s.humaConfig())
	s.api.UseMiddleware(s.authorize, s.readBody, s.idempotent)
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
	app.Use("/v1", methodNotAllowed(app))
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
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}},
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
	if !a.Open {
		op.Security = []map[string][]string{{"bearer": {}}}
		op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	op.Errors = append(op.Errors, http.StatusServiceUnavailable)
	if strings.Contains(op.Path, "{") {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.tell(ctx, err)
		}
		return out, nil
	})
}

// noStore keeps answers that may hold credentials out of caches.
func noStore(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Next()
}

// methodNotAllowed tells a known path with another method from an unknown path.
func methodNotAllowed(app *fiber.App) fiber.Handler {
	return func(c *fiber.Ctx) error {
		var allowed []string
		for _, r := range app.GetRoutes(true) {
			if fiber.RoutePatternMatch(c.Path(), r.Path, fiber.Config{StrictRouting: true, CaseSensitive: true}) && strings.HasPrefix(r.Path, "/v1/") && r.Method != fiber.MethodHead {
				allowed = append(allowed, r.Method)
			}
		}
		if len(allowed) == 0 {
			return fiber.ErrNotFound
		}
		c.Set(fiber.HeaderAllow, strings.Join(allowed, ", "))
		return fiber.NewError(fiber.StatusMethodNotAllowed, "This path takes "+strings.Join(allowed, ", ")+".")
	}
}

// segment decodes a path segment, once. Routes match the raw path, so an encoded slash stays in its segment.
func segment(raw string) (string, error) {
	text, err := url.PathUnescape(raw)
	if err != nil {
		return "", problem(http.StatusBadRequest, "malformed", "The path has a percent sign without two hex digits.")
	}
	return strings.Clone(text), nil
}

// AppPath is the app in a path.
type AppPath struct {
	App string `path:"app" maxLength:"63" doc:"The app's id."`
}

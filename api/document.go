package api

import (
	"encoding/json"
	"fmt"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"
)

// docsPolicy lets the page of the documentation run its own script and ask this server alone.
const docsPolicy = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"frame-ancestors 'none'"

// document serves the OpenAPI document, which is complete now, and a page that shows it. Both are self-contained.
func (s *service) document(app *fiber.App) error {
	text, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	app.Get("/openapi.json", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, "application/vnd.oai.openapi+json;version=3.1")
		c.Set(fiber.HeaderAccessControlAllowOrigin, "*")
		return c.Send(text)
	})
	page := adaptor.HTTPHandler(v5emb.NewHandlerWithConfig(swgui.Config{
		Title: "Embercast REST API", SwaggerJSON: "/openapi.json", BasePath: "/docs", HideCurl: false, ShowTopBar: false,
	}))
	docs := func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentSecurityPolicy, docsPolicy)
		if err := page(c); err != nil || c.Response().StatusCode() != fiber.StatusNotFound {
			return err
		}
		return fiber.ErrNotFound // told as everywhere
	}
	app.Get("/docs", docs)
	app.Get("/docs/*", docs)
	return nil
}

package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
)

const preflightSeconds = "600" // how long a browser may remember a preflight

// cors lets pages of the app's cors_origins call what is for pages; management is never among it.
func (s *service) cors(c *fiber.Ctx) error {
	app, rest, _ := strings.Cut(strings.TrimPrefix(c.Path(), "/v1/apps/"), "/")
	app, err := url.PathUnescape(app)
	if err != nil || rest != "tokens/anonymous" {
		return c.Next()
	}
	c.Vary(fiber.HeaderOrigin)
	origin := c.Get(fiber.HeaderOrigin)
	a, known := s.cfg.Directory.App(app)
	if origin == "" || !known || !a.Settings.AllowsOrigin(origin) {
		return c.Next()
	}
	// Credentials come in Authorization, never by cookie, so any listed origin can be named without more.
	c.Set(fiber.HeaderAccessControlAllowOrigin, origin)
	c.Set(fiber.HeaderAccessControlExposeHeaders, "Retry-After, WWW-Authenticate")
	if c.Method() != http.MethodOptions || c.Get(fiber.HeaderAccessControlRequestMethod) == "" {
		return c.Next()
	}
	c.Set(fiber.HeaderAccessControlAllowMethods, "POST")
	c.Set(fiber.HeaderAccessControlAllowHeaders, "Authorization, Content-Type, Idempotency-Key")
	c.Set(fiber.HeaderAccessControlMaxAge, preflightSeconds)
	return c.SendStatus(http.StatusNoContent)
}

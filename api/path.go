package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"
)

// AppPath is the app in a path.
type AppPath struct {
	App string `path:"app" doc:"The app's id."`
}

// decodePath has the segments of a path percent-decoded, once. Routes match the raw path, so that an encoded slash stays
// in its segment.
func (s *service) decodePath(ctx huma.Context, next func(huma.Context)) {
	if _, err := url.PathUnescape(humafiber.Unwrap(ctx).Path()); err != nil {
		writeProblem(ctx, malformed("The path has a percent sign without two hex digits."))
		return
	}
	next(&pathContext{ctx})
}

// pathContext is a context whose path was seen to be decodable.
type pathContext struct{ humaContext }

// Param implements huma.Context.
func (c *pathContext) Param(name string) string {
	text, err := url.PathUnescape(c.humaContext.Param(name))
	if err != nil {
		panic("api: a path was not checked: " + err.Error())
	}
	return text
}

// Unwrap lets humafiber find its own context.
func (c *pathContext) Unwrap() huma.Context { return c.humaContext }

// heads answers HEAD wherever there is GET; the HTTP server leaves the body out.
type heads struct{ fiber.Router }

// Add implements fiber.Router.
func (r heads) Add(method, path string, handlers ...fiber.Handler) fiber.Router {
	if method == fiber.MethodGet {
		r.Router.Add(fiber.MethodHead, path, handlers...)
	}
	return r.Router.Add(method, path, handlers...)
}

// route is a path as segments, and the methods that it takes.
type route struct {
	segments []string
	allow    string
}

// routes are those of the OpenAPI document, and the document itself.
func routes(api *huma.OpenAPI) []route {
	all := []route{{[]string{"", "openapi.json"}, "GET, HEAD"}, {[]string{"", "docs"}, "GET, HEAD"}}
	for path, item := range api.Paths {
		var methods []string
		for _, m := range []struct {
			name string
			op   *huma.Operation
		}{{"GET, HEAD", item.Get}, {"POST", item.Post}, {"PUT", item.Put}, {"PATCH", item.Patch}, {"DELETE", item.Delete}} {
			if m.op != nil {
				methods = append(methods, m.name)
			}
		}
		all = append(all, route{strings.Split(path, "/"), strings.Join(methods, ", ")})
	}
	return all
}

func (r *route) matches(segments []string) bool {
	if len(segments) != len(r.segments) {
		return false
	}
	for i, want := range r.segments {
		variable := strings.HasPrefix(want, "{")
		if variable && segments[i] == "" || !variable && segments[i] != want {
			return false
		}
	}
	return true
}

// methodNotAllowed tells a known path with another method from an unknown path.
func methodNotAllowed(known []route) fiber.Handler {
	return func(c *fiber.Ctx) error {
		segments := strings.Split(c.Path(), "/")
		for _, r := range known {
			if r.matches(segments) {
				c.Set(fiber.HeaderAllow, r.allow)
				return fiber.NewError(http.StatusMethodNotAllowed, "This path takes "+r.allow+".")
			}
		}
		return c.Next()
	}
}

// Package httpd is the HTTP server under everything that is served by HTTP: the Fiber app with its limits, its way of
// telling errors, static files, and an orderly end.
package httpd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/filesystem"
	"github.com/valyala/fasthttp"
)

const (
	headerBytesMax = 32 << 10 // of a request's header: tokens in URLs and Authorization may take 16 KiB
	bodyBuffered   = 8 << 10  // of a body, before it is known who sends it; the rest is read by whom it is for
	readTimeout    = 30 * time.Second
	idleTimeout    = 75 * time.Second
	writeTimeout   = 60 * time.Second
)

// Config is what a Server is made of.
type Config struct {
	Logger         *slog.Logger
	Examples       fs.FS            // served under /examples/
	TrustedProxies []netip.Prefix   // whose X-Forwarded-For counts
	Answered       func(status int) // counts answers; nil: nobody does
}

// Server is the HTTP server.
type Server struct {
	app *fiber.App
	cfg Config
}

// New returns a Server with /examples/ and a page at /; mount the rest on App, then call Finish, then Serve.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg}
	s.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, Immutable: true, StrictRouting: true, CaseSensitive: true,
		BodyLimit: bodyBuffered, StreamRequestBody: true, ReadBufferSize: headerBytesMax, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: writeTimeout, ErrorHandler: s.tell,
		// Forms are not ours: nothing reads one before it is known who sends it.
		DisablePreParseMultipartForm: true,
	})
	s.app.Server().KeepHijackedConns = true
	s.app.Server().NoDefaultServerHeader = true
	s.app.Server().ErrorHandler = silent(s.app.Server().ErrorHandler)
	s.app.Use(s.count, s.recover, secure)
	return s
}

// App is where routes are mounted.
func (s *Server) App() *fiber.App { return s.app }

// Finish mounts what comes after everybody else's routes: static files and the answer for what is not there.
func (s *Server) Finish() {
	s.app.Get("/", landing)
	s.app.Get("/examples", func(c *fiber.Ctx) error { return c.Redirect("/examples/", fiber.StatusFound) })
	s.app.Use("/examples", func(c *fiber.Ctx) error {
		// The page connects to this server alone.
		c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'self'; connect-src 'self' ws: wss:; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'")
		c.Set(fiber.HeaderCacheControl, "no-cache")
		return c.Next()
	}, filesystem.New(filesystem.Config{Root: http.FS(s.cfg.Examples)}))
	s.app.Use(func(*fiber.Ctx) error { return fiber.ErrNotFound })
	s.app.Handler() // builds the tree of routes: it is final now
}

// Serve serves a listener until Shutdown; tlsConfig nil means plain HTTP.
func (s *Server) Serve(ln net.Listener, tlsConfig *tls.Config) error {
	if tlsConfig != nil {
		ln = tls.NewListener(ln, tlsConfig)
	}
	if err := s.app.Server().Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// Shutdown stops accepting and waits for requests under way, as long as ctx allows. Connections taken over by
// WebSocket are not its own.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.app.ShutdownWithContext(ctx); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// silent keeps the text of a head that could not be parsed, which may hold a credential, out of the answer.
func silent(tell func(*fasthttp.RequestCtx, error)) func(*fasthttp.RequestCtx, error) {
	return func(c *fasthttp.RequestCtx, err error) {
		var known net.Error
		switch {
		case errors.As(err, new(*fasthttp.ErrSmallBuffer)), errors.As(err, &known), errors.Is(err, fasthttp.ErrBodyTooLarge), errors.Is(err, fasthttp.ErrGetOnly):
		case strings.HasSuffix(err.Error(), "timeout"):
			err = fasthttp.ErrTimeout
		default:
			err = errors.New("This is not a well-formed HTTP/1.1 request: check its first line and its header lines.") //nolint:revive,staticcheck // shown as it stands
		}
		tell(c, err)
	}
}

// count counts answers, those of errors too.
func (s *Server) count(c *fiber.Ctx) error {
	err := c.Next()
	if err != nil {
		err = s.tell(c, err)
	}
	if s.cfg.Answered != nil {
		s.cfg.Answered(c.Response().StatusCode())
	}
	return err
}

// problem is a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// tell answers errors of routing and of Fiber itself.
func (s *Server) tell(c *fiber.Ctx, err error) error {
	status, detail := fiber.StatusInternalServerError, ""
	if fe, ok := errors.AsType[*fiber.Error](err); ok {
		status, detail = fe.Code, fe.Message
	} else {
		s.cfg.Logger.LogAttrs(c.Context(), slog.LevelError, "request failed", slog.String("method", c.Method()), slog.String("error", err.Error()))
	}
	switch {
	case status == fiber.StatusNotFound:
		detail = "Nothing is served at this path."
	case detail == http.StatusText(status):
		detail = ""
	}
	body, err := json.Marshal(problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail})
	if err != nil {
		return err //nolint:wrapcheck // cannot happen: strings and a number
	}
	c.Set(fiber.HeaderContentType, "application/problem+json")
	return c.Status(status).Send(body)
}

// recover turns a panic of a handler into a 500 and a line in the log; the client learns nothing of it.
func (s *Server) recover(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.LogAttrs(c.Context(), slog.LevelError, "handler panicked", slog.String("method", c.Method()),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = fiber.ErrInternalServerError
		}
	}()
	return c.Next()
}

func secure(c *fiber.Ctx) error {
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set(fiber.HeaderXFrameOptions, "DENY")
	return c.Next()
}

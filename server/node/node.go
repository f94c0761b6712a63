// Package node is one running Embercast server: it builds, starts, drains and stops every part.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/embercast/embercast/api"
	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/tcp"
	"github.com/embercast/embercast/realtime/ws"
	"github.com/embercast/embercast/server/httpd"
	"github.com/embercast/embercast/server/identity"
	"github.com/embercast/embercast/server/telemetry"
	"github.com/embercast/embercast/web"
)

// Bounds of starting and stopping.
const (
	pingTimeout = 2 * time.Second
	// Of the 10 s of CONTRACT section 2, whatever the store does: clients get drainTimeout, what is behind them the rest.
	drainTimeout = 8 * time.Second
	stopTimeout  = 9500 * time.Millisecond
)

// Node is a running server.
type Node struct {
	cfg       Config
	log       *slog.Logger
	startedAt time.Time
	lock      io.Closer
	store     database
	directory *auth.Directory
	broker    *broker.Broker
	metrics   *telemetry.Metrics
	http      *httpd.Server
	ws        *ws.Server
	tcp       *tcp.Server
	scrape    *http.Server // the listener of its own for metrics
	listeners map[string]net.Listener
	serving   atomic.Bool
	announced bool // the ready file is this node's

	failed  chan error // what ended a listener that should go on
	running sync.WaitGroup
	stop    context.CancelFunc // ends the broker and the directory
	engine  sync.WaitGroup     // the broker and the directory
}

// Start builds a node and serves. ctx bounds only the start. Errors are for the operator: plain, with what to do.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, startedAt: time.Now().UTC(), failed: make(chan error, 8), stop: func() {}}
	if err := n.start(ctx); err != nil {
		ending, ended := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer ended()
		return nil, errors.Join(err, n.release(ending))
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	if err := n.open(ctx); err != nil {
		return err
	}
	https, mqtts, err := n.tlsConfigs()
	if err != nil {
		return err
	}
	if err := n.build(); err != nil {
		return err
	}
	if err := n.listen(ctx); err != nil {
		return err
	}
	n.run(func(name string, ln net.Listener) error {
		switch name {
		case listenerHTTPS:
			return n.http.Serve(ln, https)
		case listenerMQTT:
			return n.tcp.Serve(ln, nil)
		case listenerMQTTS:
			return n.tcp.Serve(ln, mqtts)
		case listenerMetrics:
			return n.scrape.Serve(ln) //nolint:wrapcheck // named by run
		default:
			return n.http.Serve(ln, nil)
		}
	})
	return n.writeReadyFile()
}

// open locks the data directory, and opens the store, the control plane and the engine.
func (n *Node) open(ctx context.Context) error {
	if err := n.cfg.makeDataDir(); err != nil {
		return err
	}
	lock, err := n.cfg.lockDataDir()
	if err != nil {
		return err
	}
	n.lock = lock
	admin, _, err := n.cfg.AdminTokenOrMake()
	if err != nil {
		return err
	}
	secret, err := n.cfg.secretKey()
	if err != nil {
		return err
	}
	if n.store, err = n.cfg.openStore(ctx, n.log, func(err error) { n.failed <- err }); err != nil {
		return err
	}
	n.directory, err = auth.Open(ctx, auth.Config{Store: n.store, SecretKey: secret, DefaultApp: n.cfg.DefaultApp, Logger: n.log})
	if err != nil {
		return fmt.Errorf("control plane: %w", explainDamaged(err))
	}
	n.directory.SetAdminToken(admin)
	n.metrics = telemetry.NewMetrics(n.cfg.Version)
	n.broker = broker.New(broker.Config{
		Store: n.store, Authenticator: identity.Authenticator{Directory: n.directory}, Observer: n.metrics, Logger: n.log, Version: n.cfg.Version,
	})
	n.directory.Listen(identity.Listener{Broker: n.broker, Logger: n.log})
	for _, a := range n.directory.Apps() {
		if err := n.broker.OpenApp(ctx, identity.AppConfig(a)); err != nil {
			return fmt.Errorf("engine: %w", explainDamaged(err))
		}
	}
	return nil
}

// build makes the transports and mounts everything that is served by HTTP.
func (n *Node) build() error {
	examples, err := fs.Sub(web.Examples, "examples")
	if err != nil {
		return fmt.Errorf("examples: %w", err)
	}
	var problems Problems // none: Validate has seen them
	n.http = httpd.New(httpd.Config{
		Logger: n.log, Examples: examples, TrustedProxies: n.cfg.trustedProxies(&problems), Answered: n.metrics.Answered,
	})
	shared := conn.Config{Broker: n.broker, Observer: n.metrics, Logger: n.log}
	n.ws = ws.New(shared, n.allowsOrigin)
	n.tcp = tcp.New(shared)
	n.ws.Mount(n.http.App(), n.http.Remote)
	err = api.Mount(n.http.App(), api.Config{
		Directory: n.directory, Engine: n.broker,
		Grant:  identity.Grant,
		Limits: identity.Limits,
		Remote: func(c *fiber.Ctx) string { return n.http.Remote(c).Addr().String() },
		Ready:  n.Ready, Server: n.info,
		Metrics: n.metrics.Handler(), MetricsToken: n.cfg.MetricsToken, Logger: n.log,
	})
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	n.http.Finish()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", api.MetricsHandler(n.metrics.Handler(), n.cfg.MetricsToken, n.directory))
	n.scrape = &http.Server{Handler: mux, ReadHeaderTimeout: pingTimeout}
	return nil
}

// allowsOrigin judges the Origin of a WebSocket handshake. Where the path names no app, the default app's setting
// counts; without one, the app is known only at CONNECT, which needs credentials that no foreign page has.
func (n *Node) allowsOrigin(app, origin string) bool {
	if app == "" {
		app = n.cfg.DefaultApp
	}
	a, ok := n.directory.App(app)
	return !ok || a.Settings.AllowsOrigin(origin)
}

// run starts what goes on until Stop: the engine, housekeeping, and the listeners.
func (n *Node) run(serve func(name string, ln net.Listener) error) {
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.engine.Go(func() { n.broker.Run(ctx) })
	n.engine.Go(func() {
		if err := n.directory.Run(ctx); err != nil {
			n.failed <- err
		}
	})
	for name, ln := range n.listeners {
		n.running.Go(func() {
			err := serve(name, ln)
			if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				n.failed <- fmt.Errorf("listener %s: %w", name, err)
			}
		})
	}
	n.serving.Store(true)
}

// Failed tells why a node cannot go on.
func (n *Node) Failed() <-chan error { return n.failed }

// Ready returns nil while the node serves and its database answers.
func (n *Node) Ready(ctx context.Context) error {
	if !n.serving.Load() {
		return errors.New("not serving")
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return n.store.Ping(ctx) //nolint:wrapcheck // only its being there is told
}

func (n *Node) info(ctx context.Context) api.ServerInfo {
	kind, version := n.store.Info(ctx)
	return api.ServerInfo{
		Version: n.cfg.Version, StartedAt: n.startedAt, Store: api.StoreInfo{Kind: kind, Version: version},
		Listeners: n.Addrs(), Healthy: n.Ready(ctx) == nil,
	}
}

// Stop drains: no new connections, DISCONNECT 0x8B to MQTT 5.0 clients, what was accepted is committed and answered.
// It returns within 10 s, and earlier when ctx ends. What cannot be ended by then, such as a call to a database that does
// not answer, is left to the end of the process.
func (n *Node) Stop(ctx context.Context) error {
	n.serving.Store(false)
	ending, ended := context.WithTimeout(ctx, stopTimeout)
	defer ended()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for _, ln := range n.listeners {
		_ = ln.Close() //nolint:errcheck // it accepts no more
	}
	err := within(ctx, "draining", n.broker.Drain)
	err = errors.Join(err, n.http.Shutdown(ctx))
	err = errors.Join(err, within(ending, "clients", func() {
		n.ws.Close(ctx)
		n.tcp.Close(ctx)
		_ = n.scrape.Close() //nolint:errcheck // scrapes may break off
		n.running.Wait()
	}))
	return errors.Join(err, n.release(ending))
}

// within waits for do, for as long as ctx lasts.
func within(ctx context.Context, what string, do func()) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		do()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: not ended in time: %w", what, ctx.Err())
	}
}

// release ends what open has begun.
func (n *Node) release(ctx context.Context) error {
	// Before the lock: the next one may write its own as soon as it has that. One that was refused has written none.
	if n.announced {
		_ = os.Remove(n.cfg.ReadyFile) //nolint:errcheck // somebody may have been first
	}
	n.stop()
	if err := within(ctx, "engine", n.engine.Wait); err != nil {
		return err // it still uses the store; both, and the lock, go with the process
	}
	var errs []error
	if n.store != nil {
		var closed error
		if err := within(ctx, "store", func() { closed = n.store.Close() }); err != nil {
			return err
		}
		errs = append(errs, closed)
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

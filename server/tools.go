package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/embercast/embercast/server/node"
)

type versionCommand struct{}

// Run shows the version.
func (versionCommand) Run() error {
	_, err := fmt.Fprintln(os.Stdout, "embercast", versionText())
	return err //nolint:wrapcheck // the terminal's own words
}

// version is set by the build (-X main.version=…).
var version string //nolint:gochecknoglobals // set by the linker

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

type migrateCommand struct{}

// Run migrates and exits.
func (migrateCommand) Run(o *options) error {
	kind, err := node.Migrate(context.Background(), o.config(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err //nolint:wrapcheck // plain already
	}
	_, err = fmt.Fprintf(os.Stdout, "the %s database is up to date\n", kind)
	return err //nolint:wrapcheck // the terminal's own words
}

type adminTokenCommand struct {
	Rotate bool `help:"Make a new one; a running server takes it when it is started again."`
}

// Run shows the admin token, or makes a new one.
func (c adminTokenCommand) Run(o *options) error {
	cfg := o.config()
	token, err := cfg.KeptAdminToken()
	if c.Rotate {
		token, err = cfg.RotateAdminToken()
	}
	if err != nil {
		return err //nolint:wrapcheck // plain already
	}
	if c.Rotate {
		_, _ = fmt.Fprintln(os.Stderr, "A server that runs takes this token when it is started again; until then the old one counts.")
	}
	_, err = fmt.Fprintln(os.Stdout, token)
	return err //nolint:wrapcheck // the terminal's own words
}

type secretsCommand struct {
	Dir              string `required:"" placeholder:"DIR" help:"Where to put them; what is there stays as it is."`
	RotateAdminToken bool   `help:"Make a new admin token; a running server takes it when it is started again."`
}

// Run makes the admin token, the secret key and, where database-url names a user of Postgres, its password.
func (c secretsCommand) Run(o *options) error {
	if err := node.MakeSecrets(c.Dir, o.DatabaseURL); err != nil {
		return err
	}
	if c.RotateAdminToken {
		if _, err := (&node.Config{DataDir: c.Dir}).RotateAdminToken(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(os.Stdout, "the secrets are in", c.Dir)
	return err
}

type healthcheckCommand struct {
	Timeout time.Duration `default:"5s" help:"How long the server may take to answer."`
}

// Run asks /readyz of the server that these options describe.
func (c healthcheckCommand) Run(o *options) error {
	scheme, addr := "http", o.HTTPAddr
	if addr == "" {
		scheme, addr = "https", o.HTTPSAddr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/readyz", http.NoBody)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	// It asks its own server, whose certificate is for the outside name.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // see above
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	defer answer.Body.Close() //nolint:errcheck // only the status counts
	if answer.StatusCode != http.StatusOK {
		return errors.New("not ready: " + answer.Status)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/embercast/embercast/server/node"
)

const description = `A self-hosted realtime backend: MQTT is its wire, JSON its data, SQL its memory.

Without any option it serves on loopback and keeps everything in ./data. Every option is also an environment variable;
database-url, admin-token, secret-key and metrics-token can be read from a file named by the variable with _FILE behind it.`

// commands are what can be typed.
type commands struct {
	options

	Serve       serveCommand       `cmd:"" default:"withargs" help:"Serve (this is what happens without a command)."`
	AdminToken  adminTokenCommand  `cmd:"" help:"Show the admin token that was made at the first start."`
	Secrets     secretsCommand     `cmd:"" help:"Make the secrets of a deployment, in files; what compose starts first."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the database's schema up to date and exit; serve does it by itself."`
	Healthcheck healthcheckCommand `cmd:"" help:"Ask a running server whether it is ready; exit 1 if not."`
	Version     versionCommand     `cmd:"" help:"Show the version."`
}

// options are the configuration (CONTRACT section 2).
type options struct {
	HTTPAddr  string `env:"EMBERCAST_HTTP_ADDR" default:"127.0.0.1:8080" placeholder:"HOST:PORT" group:"Listeners" help:"REST, documentation, examples, MQTT over WebSocket (${default})."`
	MQTTAddr  string `env:"EMBERCAST_MQTT_ADDR" default:"127.0.0.1:1883" placeholder:"HOST:PORT" group:"Listeners" help:"MQTT over TCP (${default}); empty turns it off."`
	HTTPSAddr string `env:"EMBERCAST_HTTPS_ADDR" placeholder:"HOST:PORT" group:"Listeners" help:"The same as http-addr over TLS."`
	MQTTSAddr string `env:"EMBERCAST_MQTTS_ADDR" placeholder:"HOST:PORT" group:"Listeners" help:"The same as mqtt-addr over TLS."`
	TLSCert   string `env:"EMBERCAST_TLS_CERT" placeholder:"FILE" group:"Listeners" help:"Certificate chain in PEM; read again when it changes."`
	TLSKey    string `env:"EMBERCAST_TLS_KEY" placeholder:"FILE" group:"Listeners" help:"Its key in PEM."`

	DatabaseURL string `env:"EMBERCAST_DATABASE_URL" placeholder:"URL" group:"Storage" help:"postgres://user:password@host:5432/name, or sqlite://path (embercast.db in data-dir)."`
	DataDir     string `env:"EMBERCAST_DATA_DIR" default:"./data" placeholder:"DIR" group:"Storage" help:"Embedded database and generated secrets (${default})."`

	AdminTokenText string `name:"admin-token" env:"EMBERCAST_ADMIN_TOKEN" placeholder:"TOKEN" group:"Secrets" help:"Bearer token for management; made at the first start."`
	SecretKey      string `env:"EMBERCAST_SECRET_KEY" placeholder:"KEY" group:"Secrets" help:"32 bytes in hex or base64 that seal signing secrets in the database; made at the first start."`

	DefaultApp     string `env:"EMBERCAST_DEFAULT_APP" placeholder:"APP" group:"Behaviour" help:"The app of connections that name none."`
	AppDomain      string `env:"EMBERCAST_APP_DOMAIN" hidden:""`
	TrustedProxies string `env:"EMBERCAST_TRUSTED_PROXIES" placeholder:"NETWORKS" group:"Behaviour" help:"Networks, with commas, whose X-Forwarded-For and PROXY header count."`

	MetricsToken string `env:"EMBERCAST_METRICS_TOKEN" placeholder:"TOKEN" group:"Operation" help:"Who may read /metrics besides the admin."`
	MetricsAddr  string `env:"EMBERCAST_METRICS_ADDR" placeholder:"HOST:PORT" group:"Operation" help:"A listener of its own for /metrics."`
	ReadyFile    string `env:"EMBERCAST_READY_FILE" placeholder:"FILE" group:"Operation" help:"Written when everything is up: process id and listeners, as JSON."`
	LogLevel     string `env:"EMBERCAST_LOG_LEVEL" default:"info" placeholder:"LEVEL" group:"Operation" help:"debug, info, warn or error (${default})."`
	LogFormat    string `env:"EMBERCAST_LOG_FORMAT" placeholder:"FORMAT" group:"Operation" help:"text or json (text on a terminal, else json)."`
}

func kongOptions() []kong.Option {
	return []kong.Option{
		kong.Name("embercast"), kong.Description(description), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 120}),
		kong.Resolvers(kong.ResolverFunc(secretFromFile)),
	}
}

// fromFile are the flags whose value may stand in a file.
var fromFile = map[string]bool{"database-url": true, "admin-token": true, "secret-key": true, "metrics-token": true} //nolint:gochecknoglobals // a table

// secretFromFile reads a secret from the file that the variable with _FILE behind its name points at.
func secretFromFile(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !fromFile[flag.Name] || len(flag.Envs) == 0 {
		return nil, nil //nolint:nilnil // kong's word for: nothing known
	}
	path := os.Getenv(flag.Envs[0] + "_FILE")
	if path == "" {
		return nil, nil //nolint:nilnil // as above
	}
	if os.Getenv(flag.Envs[0]) != "" {
		return nil, fmt.Errorf("%s and %s_FILE are both set: set one", flag.Envs[0], flag.Envs[0])
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("%s_FILE: %w", flag.Envs[0], err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (o *options) config() node.Config {
	return node.Config{
		Version: versionText(), HTTPAddr: o.HTTPAddr, MQTTAddr: o.MQTTAddr, HTTPSAddr: o.HTTPSAddr, MQTTSAddr: o.MQTTSAddr,
		TLSCert: o.TLSCert, TLSKey: o.TLSKey, DatabaseURL: o.DatabaseURL, DataDir: o.DataDir, AdminToken: o.AdminTokenText,
		SecretKey: o.SecretKey, DefaultApp: o.DefaultApp, AppDomain: o.AppDomain, TrustedProxies: o.TrustedProxies, MetricsToken: o.MetricsToken,
		MetricsAddr: o.MetricsAddr, ReadyFile: o.ReadyFile,
	}
}

func (o *options) logFormat() string {
	switch {
	case o.LogFormat != "":
		return o.LogFormat
	case isTerminal(os.Stderr):
		return "text"
	}
	return "json"
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// failure is an error as the operator reads it: one line a problem.
func failure(err error) string {
	var problems node.Problems
	if !errors.As(err, &problems) || len(problems) == 1 {
		return "embercast: " + err.Error()
	}
	return "embercast cannot start:\n  - " + strings.Join(problems, "\n  - ")
}

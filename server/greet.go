package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/embercast/embercast/server/node"
)

// greet tells what to do next. The admin token is shown on a terminal alone: elsewhere it would end in a log.
func greet(n *node.Node, cfg *node.Config, log *slog.Logger) error {
	token, _, err := cfg.AdminTokenOrMake()
	if err != nil {
		return err //nolint:wrapcheck // plain already
	}
	base := baseURL(n.Addrs())
	if !isTerminal(os.Stdout) {
		log.LogAttrs(context.Background(), slog.LevelInfo, "open the server in a browser; embercast admin-token shows the token for management",
			slog.String("url", base))
		return nil
	}
	_, err = fmt.Fprint(os.Stdout, greeting(base, token, cfg))
	return err //nolint:wrapcheck // the terminal's own words
}

func greeting(base, token string, cfg *node.Config) string {
	kept := "given by EMBERCAST_ADMIN_TOKEN"
	if cfg.AdminToken == "" {
		kept = "kept in " + filepath.Join(cfg.DataDir, "admin-token") + "; `embercast admin-token` shows it again"
	}
	return fmt.Sprintf(`
  Embercast is up at %[1]s
  examples at %[1]s/examples/, REST documentation at %[1]s/docs

  Admin token (%[3]s):

    %[2]s

  Next, in another terminal: an app, its rules, and a first message that is kept.

    curl --oauth2-bearer %[2]s %[1]s/v1/apps --json '{"id":"demo","settings":{"anonymous":true}}'
    curl --oauth2-bearer %[2]s -X PUT %[1]s/v1/apps/demo/rules --json '[{"effect":"allow","actions":["publish","subscribe"],"topic":"hello/#"}]'
    curl --oauth2-bearer %[2]s %[1]s/v1/apps/demo/publish --json '{"topic":"hello/world","payload":"hi","retain":true}'

`, base, token, kept)
}

// baseURL is how this machine's own browser reaches the server.
func baseURL(addrs map[string]string) string {
	scheme, addr := "http", addrs["http"]
	if addr == "" {
		scheme, addr = "https", addrs["https"]
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return scheme + "://" + addr
	}
	if ip := net.ParseIP(host); ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

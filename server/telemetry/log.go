// Package telemetry is what an operator sees of a running server: logs and metrics.
//
// Keys of log lines: addr, after, app, apps, cause, client_id, command, connection, data_dir, database, dsn, error, event,
// kind, listener, method, panic, path, proxy, reason, stack, status, took, url, version, writes.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger returns a structured logger; format is "text" or "json", level debug, info, warn or error.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("EMBERCAST_LOG_LEVEL (--log-level) %q is not one of debug, info, warn, error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("EMBERCAST_LOG_FORMAT (--log-format) %q is not text or json", format)
}

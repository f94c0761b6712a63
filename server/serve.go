package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/embercast/embercast/server/node"
	"github.com/embercast/embercast/server/telemetry"
)

// Bounds of the process.
const (
	startTimeout = 15 * time.Minute // reading a log of 100 million entries; a database that does not answer is told of sooner
	stopTimeout  = 10 * time.Second // CONTRACT section 2
)

type serveCommand struct{}

// Run serves until SIGTERM or SIGINT, and drains.
func (serveCommand) Run(o *options) error {
	cfg := o.config()
	log, err := o.logger(&cfg)
	if err != nil {
		return err
	}
	ctx, ended := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer ended()
	starting, started := context.WithTimeout(ctx, startTimeout)
	defer started()
	began := time.Now()
	go tellStarting(starting, log, began)
	n, err := node.Start(starting, cfg, log)
	started()
	if err != nil {
		return err //nolint:wrapcheck // plain already
	}
	for name, addr := range n.Addrs() {
		log.LogAttrs(ctx, slog.LevelInfo, "listening", slog.String("listener", name), slog.String("addr", addr))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "embercast is up", slog.String("version", cfg.Version), slog.Duration("took", time.Since(began)))
	if err := greet(n, &cfg, log); err != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "admin token not shown", slog.String("error", err.Error()))
	}
	var failed error
	select {
	case <-ctx.Done():
		ended() // a second signal ends the process at once
		log.LogAttrs(context.Background(), slog.LevelInfo, "draining")
	case failed = <-n.Failed():
	}
	return stop(n, log, failed)
}

// tellStarting tells now and then that a start is still under way.
func tellStarting(starting context.Context, log *slog.Logger, began time.Time) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-starting.Done():
			return
		case <-tick.C:
			log.LogAttrs(starting, slog.LevelInfo, "still starting: the database is brought up to date or read", slog.Duration("took", time.Since(began).Round(time.Second)))
		}
	}
}

// logger makes the logger; what is wrong with it is told together with what is wrong with the rest.
func (o *options) logger(cfg *node.Config) (*slog.Logger, error) {
	log, err := telemetry.NewLogger(os.Stderr, o.LogLevel, o.logFormat())
	if err == nil {
		return log, nil
	}
	problems := node.Problems{err.Error()}
	if more, ok := errors.AsType[node.Problems](cfg.Validate()); ok {
		problems = append(problems, more...)
	}
	return nil, problems
}

// stop drains, for stopTimeout at most.
func stop(n *node.Node, log *slog.Logger, failed error) error {
	late := time.AfterFunc(stopTimeout, func() {
		log.LogAttrs(context.Background(), slog.LevelError, "not drained in time, leaving")
		os.Exit(1)
	})
	defer late.Stop()
	if err := n.Stop(context.Background()); err != nil {
		log.LogAttrs(context.Background(), slog.LevelWarn, "stopped with an error", slog.String("error", err.Error()))
	}
	if failed != nil {
		return fmt.Errorf("stopped: %w", failed)
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "stopped")
	return nil
}

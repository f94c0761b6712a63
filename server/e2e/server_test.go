package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/embercast/embercast/server/store/pgtest"
)

// server is the real binary, with data of its own.
type server struct {
	t       testing.TB
	dir     string            // of its data and its ready file
	env     map[string]string // without the prefix EMBERCAST_
	process *process
	admin   string // the admin token

	http, mqtt, https, mqtts string // host:port
}

const adminToken = "e2e-admin-token-of-no-secrecy"

// startServer starts a server on free ports. more are variables without the prefix EMBERCAST_.
func startServer(tb testing.TB, on store, more ...string) *server {
	tb.Helper()
	s := newServer(tb, on, more...)
	s.start()
	return s
}

// newServer prepares a server without starting it.
func newServer(tb testing.TB, on store, more ...string) *server {
	tb.Helper()
	dir := tb.TempDir()
	s := &server{t: tb, dir: dir, admin: adminToken, env: map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "MQTT_ADDR": "127.0.0.1:0", "DATA_DIR": filepath.Join(dir, "data"),
		"READY_FILE": filepath.Join(dir, "ready.json"), "ADMIN_TOKEN": adminToken, "LOG_LEVEL": "debug",
	}}
	if on == postgres {
		s.env["DATABASE_URL"] = pgtest.URL(tb)
	}
	for _, setting := range more {
		name, value, _ := strings.Cut(setting, "=")
		s.env[name] = value
	}
	return s
}

// with returns the server for a part of a test, whose failures are then that part's.
func (s *server) with(tb testing.TB) *server {
	tb.Helper()
	part := *s
	part.t = tb
	return &part
}

// command returns the server's command line with its environment, and nothing of ours that begins with EMBERCAST_.
func (s *server) command(args ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(serverBinary(s.t), args...)
	cmd.Dir = s.dir
	cmd.Env = cleanEnv()
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, "EMBERCAST_"+name+"="+value)
	}
	return cmd
}

func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "EMBERCAST_") {
			env = append(env, v)
		}
	}
	return env
}

// start starts the server and waits until it is ready. Its log is shown when the test fails; an error in it is a failure.
func (s *server) start() {
	s.t.Helper()
	s.process = startProcess(s.t, "the server", s.command())
	p := s.process
	s.t.Cleanup(func() {
		s.stop()
		s.checkLog(p)
	})
	s.awaitReady()
}

func (s *server) awaitReady() {
	s.t.Helper()
	var ready struct {
		PID       int               `json:"pid"`
		Listeners map[string]string `json:"listeners"`
	}
	eventually(s.t, patience, func() string {
		select {
		case <-s.process.ended:
			s.t.Fatalf("the server ended with %d:\n%s", s.process.cmd.ProcessState.ExitCode(), s.process.stderr.String())
		default:
		}
		text, err := os.ReadFile(s.env["READY_FILE"])
		if err != nil {
			return err.Error()
		}
		if err := json.Unmarshal(text, &ready); err != nil {
			return fmt.Sprintf("the ready file is not whole: %v\n%s", err, text)
		}
		if ready.PID != s.process.cmd.Process.Pid {
			return "the ready file is an older one"
		}
		return ""
	})
	s.http, s.mqtt = ready.Listeners["http"], ready.Listeners["mqtt"]
	s.https, s.mqtts = ready.Listeners["https"], ready.Listeners["mqtts"]
}

// stop stops the server in order, which must end well and in time.
func (s *server) stop() {
	s.t.Helper()
	select {
	case <-s.process.ended:
		return // killed by the story
	default:
	}
	s.process.signal(syscall.SIGTERM)
	select {
	case <-s.process.ended:
		if code := s.process.cmd.ProcessState.ExitCode(); code != 0 {
			s.t.Errorf("SIGTERM: the server ended with %d", code)
		}
	case <-time.After(patience):
		s.t.Errorf("SIGTERM: the server has not ended within %v", patience)
	}
}

// crash kills the server (SIGKILL) and waits until it is gone.
func (s *server) crash() { s.process.kill() }

func (s *server) checkLog(p *process) {
	s.t.Helper()
	for _, line := range p.stderr.all() {
		bad := strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, "panic") || strings.Contains(line, "DATA RACE")
		if bad {
			s.t.Errorf("in the server's log: %s", line)
		}
	}
}

var steadyPorts atomic.Int32

// steadyAddr returns a free address that is not of the range from which the system takes ports for connections, so that
// a server which is started again gets it again.
func steadyAddr(tb testing.TB) string {
	tb.Helper()
	for range 200 {
		port := 20_000 + (os.Getpid()*31+int(steadyPorts.Add(1)))%10_000
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			tb.Fatal(err)
		}
		return addr
	}
	tb.Fatal("no free port from 20000 to 30000")
	return ""
}

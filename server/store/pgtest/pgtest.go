// Package pgtest starts a throw-away Postgres for tests: one cluster a test binary, one database a test. Where the
// binaries are missing the test fails: no test is skipped for a missing Postgres.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cluster is a running Postgres.
type Cluster struct {
	Port int
	dir  string
	bin  string
	cred *syscall.SysProcAttr
}

var (
	shared    *Cluster     //nolint:gochecknoglobals // one cluster a test binary
	sharedErr error        //nolint:gochecknoglobals // as above
	once      sync.Once    //nolint:gochecknoglobals // as above
	number    atomic.Int64 //nolint:gochecknoglobals // numbers databases
)

// Main runs the tests and stops the shared cluster after them; call it from TestMain.
func Main(m *testing.M) { os.Exit(End(m.Run())) }

// End stops the shared cluster, for a TestMain that runs the tests itself, and returns its exit code.
func End(code int) int {
	if shared != nil {
		if err := shared.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		_ = os.RemoveAll(shared.dir) //nolint:errcheck // a temporary directory
	}
	return code
}

// Own returns a running cluster of the test's own, and the URL of an empty database on it.
func Own(tb testing.TB) (c *Cluster, url string) {
	tb.Helper()
	c, err := Start()
	if err != nil {
		tb.Fatalf("Postgres for tests: %v", err)
	}
	tb.Cleanup(func() {
		_ = c.Stop()            //nolint:errcheck // it may be stopped already
		_ = os.RemoveAll(c.dir) //nolint:errcheck // a temporary directory
	})
	c.admin(tb, "CREATE DATABASE own")
	return c, c.url("own")
}

// URL returns the URL of a fresh, empty database on the shared cluster.
func URL(tb testing.TB) string {
	tb.Helper()
	once.Do(func() { shared, sharedErr = Start() })
	if sharedErr != nil {
		tb.Fatalf("Postgres for tests: %v", sharedErr)
	}
	return shared.Database(tb)
}

// Start makes a cluster of its own, for tests that stop and start it.
func Start() (*Cluster, error) {
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(bins) == 0 {
		return nil, errors.New("no Postgres found in /usr/lib/postgresql: run make test, or .ci/setup")
	}
	slices.Sort(bins)
	c := &Cluster{bin: filepath.Dir(bins[len(bins)-1])}
	if c.dir, err = os.MkdirTemp("", "embercast-pg-"); err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	if err := c.owner(); err != nil {
		return nil, err
	}
	if c.Port, err = freePort(); err != nil {
		return nil, err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-N", "--no-instructions", "-E", "UTF8", "--locale=C.UTF-8"); err != nil {
		return nil, err
	}
	return c, c.Up()
}

// owner makes the cluster run as the user postgres where we are root, which initdb refuses.
func (c *Cluster) owner() error {
	c.cred = &syscall.SysProcAttr{}
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("user postgres: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return fmt.Errorf("user postgres: %w", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("user postgres: %w", err)
	}
	c.cred.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(c.dir, int(uid), int(gid)); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...) //nolint:gosec // Postgres' own programs
	cmd.Dir, cmd.SysProcAttr = "/", c.cred
	// pg_ctl leaves the server with our descriptors: its output must not keep a pipe open.
	log, err := os.CreateTemp("", "embercast-pg-*.log")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer os.Remove(log.Name()) //nolint:errcheck // a temporary file
	defer log.Close()           //nolint:errcheck // as above
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(log.Name()) //nolint:errcheck // the first error counts
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Up starts the cluster after Stop.
func (c *Cluster) Up() error {
	return c.run("pg_ctl", "-D", c.data(), "-w", "-l", filepath.Join(c.dir, "log"), "-o",
		fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories=%s", c.Port, c.dir), "start")
}

// Stop stops the cluster at once, its connections with it.
func (c *Cluster) Stop() error { return c.run("pg_ctl", "-D", c.data(), "-m", "fast", "-w", "stop") }

// Crash ends the cluster without a word to anybody, as a loss of its machine does; Up then recovers it.
func (c *Cluster) Crash() error {
	return c.run("pg_ctl", "-D", c.data(), "-m", "immediate", "-w", "stop")
}

// Database makes a fresh database and returns its URL; it goes with the test.
func (c *Cluster) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d", number.Add(1))
	c.admin(tb, "CREATE DATABASE "+name)
	tb.Cleanup(func() { c.admin(tb, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return c.url(name)
}

func (c *Cluster) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", c.Port, database)
}

func (c *Cluster) admin(tb testing.TB, text string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		tb.Fatalf("connect to the test cluster: %v", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is open
	if _, err := conn.Exec(ctx, text); err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
}

func freePort() (int, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	defer ln.Close() //nolint:errcheck // a listener that accepted nothing
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("free port: no TCP address")
	}
	return addr.Port, nil
}

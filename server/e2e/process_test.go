package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test has started. It ends with the test, whatever happens.
type process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout inbox[string] // lines
	stderr text
	ended  chan struct{} // closed when it is
}

// text is what a program has written, line by line.
type text struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (x *text) add(line string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.lines = append(x.lines, line)
}

func (x *text) all() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]string(nil), x.lines...)
}

// String returns the lines as they were written.
func (x *text) String() string { return strings.Join(x.all(), "\n") }

// lineWriter hands on whole lines.
type lineWriter struct {
	to   func(string)
	rest []byte
}

// Write implements io.Writer.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.to(string(line))
		w.rest = rest
	}
}

// startProcess starts cmd in a process group of its own.
func startProcess(tb testing.TB, name string, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{t: tb, name: name, cmd: cmd, ended: make(chan struct{})}
	out, errs := &lineWriter{to: p.stdout.put}, &lineWriter{to: p.stderr.add}
	cmd.Stdout, cmd.Stderr = out, errs
	// Where it leaves children that keep its output open, their time is short.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithTest(cmd.SysProcAttr)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v; %s", name, err, install)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() //nolint:errcheck // the exit code is looked at
		for w, add := range map[*lineWriter]func(string){out: p.stdout.put, errs: p.stderr.add} {
			if len(w.rest) > 0 {
				add(string(w.rest))
			}
		}
	}()
	tb.Cleanup(func() {
		p.kill()
		if tb.Failed() && len(p.stderr.all()) > 0 {
			tb.Logf("%s said:\n%s", name, p.stderr.String())
		}
	})
	return p
}

// kill ends it at once, with the children it has left in its group.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.ended:
		return
	default:
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("signal %v to %s: %v", s, p.name, err)
	}
}

// wait returns its exit code when it has ended by itself.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("%s did not end within %v; it said:\n%s", p.name, within, p.stderr.String())
		return -1
	}
}

// line returns its next line on stdout.
func (p *process) line() string {
	p.t.Helper()
	line, ok := p.stdout.next(patience)
	if !ok {
		p.t.Fatalf("%s wrote no line; on stderr it said:\n%s", p.name, p.stderr.String())
	}
	return line
}

// lineWith returns the next line that holds part.
func (p *process) lineWith(part string) string {
	p.t.Helper()
	for {
		line := p.line()
		if strings.Contains(line, part) {
			return line
		}
	}
}

// result is what a program that ran to its end has said.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a program to its end.
func run(tb testing.TB, name string, cmd *exec.Cmd) result {
	tb.Helper()
	p := startProcess(tb, name, cmd)
	if err := p.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		tb.Fatal(err)
	}
	code := p.wait(patience)
	return result{code, strings.Join(p.stdout.all(), "\n"), p.stderr.String()}
}

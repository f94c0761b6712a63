package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/embercast/embercast/server/e2e/history"
)

// world is a server that is killed and started again, and the peers that live with that.
type world struct {
	t    testing.TB
	h    *history.History
	seed uint64
	rng  *rand.Rand // of the one who kills
	s    *server
	app  *app
	mqtt string // the server's address, always the same

	peers []*peer
	posts []*poster
	wg    sync.WaitGroup
	stop  context.CancelFunc

	mu       sync.Mutex    // guards what follows
	up       chan struct{} // closed while the server is up
	quiet    chan struct{} // closed while the peers are calm
	awaited  string        // what the next kill waits for
	left     int           // how many of it
	happened chan struct{} // closed when it has happened

	expects []string // what the server's log may tell of

	isCalm  atomic.Bool
	ending  atomic.Bool // the server was told to end
	victim  *victim
	kills   int
	started time.Duration // how long all starts took
}

// newWorld starts a server, with an app in which everything is allowed and whose log keeps no more than it must. more are
// variables without the prefix EMBERCAST_.
func newWorld(t story, seed uint64, more ...string) *world {
	t.Helper()
	w := &world{t: t.T, h: history.New(), seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), up: make(chan struct{}), quiet: make(chan struct{})}
	w.s = newServer(t.T, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t), "LOG_LEVEL=warn", "LOG_FORMAT=json")
	for _, setting := range more {
		name, value, _ := strings.Cut(setting, "=")
		w.s.env[name] = value
	}
	w.mqtt = w.s.env["MQTT_ADDR"]
	t.Cleanup(func() {
		w.end()
		if w.victim != nil {
			w.victim.signal(syscall.SIGKILL)
		}
	})
	w.start()
	w.app = w.s.newApp("crash", append(anything, allow("share", "#"))...)
	w.app.set(`{"history_seconds":1}`)
	return w
}

// join adds a peer, which lives from now on.
func (w *world) join(name string, b behaviour) {
	w.t.Helper()
	w.peers = append(w.peers, w.newPeer(name, w.app.token(name, 24*time.Hour, ""), b))
}

// run lets the peers live.
func (w *world) run() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	for _, p := range w.peers {
		w.wg.Go(func() { p.run(ctx) })
	}
	for _, p := range w.posts {
		w.wg.Go(func() { p.run(ctx) })
	}
}

// end ends the peers.
func (w *world) end() {
	if w.stop != nil {
		w.stop()
		w.wg.Wait()
	}
}

// victim is one run of the server.
type victim struct {
	w     *world
	cmd   *exec.Cmd
	log   text
	ended chan struct{}
}

// launch starts the server and does not wait for it.
func (w *world) launch() {
	w.t.Helper()
	v := &victim{w: w, cmd: w.s.command(), ended: make(chan struct{})}
	v.cmd.Stderr = &lineWriter{to: v.log.add}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithTest(v.cmd.SysProcAttr)
	if err := v.cmd.Start(); err != nil {
		w.t.Fatalf("start the server: %v", err)
	}
	go func() {
		defer close(v.ended)
		_ = v.cmd.Wait() //nolint:errcheck // the exit code is looked at
	}()
	w.victim = v
}

// start starts the server and lets the peers know when it is ready.
func (w *world) start() {
	w.t.Helper()
	began := time.Now()
	w.launch()
	w.awaitReady()
	w.started += time.Since(began)
	w.mu.Lock()
	close(w.up)
	w.mu.Unlock()
}

func (w *world) awaitReady() {
	w.t.Helper()
	eventually(w.t, patience, func() string {
		select {
		case <-w.victim.ended:
			w.t.Fatalf("seed %d, after %d kills: the server ended with %d:\n%s", w.seed, w.kills, w.victim.cmd.ProcessState.ExitCode(), w.victim.log.String())
		case <-time.After(time.Millisecond):
		}
		var ready struct {
			PID       int
			Listeners map[string]string
		}
		text, err := os.ReadFile(w.s.env["READY_FILE"])
		if err != nil {
			return err.Error()
		}
		if err := json.Unmarshal(text, &ready); err != nil || ready.PID != w.victim.cmd.Process.Pid {
			return "the ready file is of an earlier start"
		}
		w.s.http = ready.Listeners["http"]
		return ""
	})
}

func (v *victim) signal(s syscall.Signal) {
	_ = syscall.Kill(-v.cmd.Process.Pid, s) //nolint:errcheck // it may have ended
	select {
	case <-v.ended:
	case <-time.After(patience):
		v.w.t.Errorf("seed %d: the server has not ended %v after %v", v.w.seed, patience, s)
	}
	for _, line := range v.log.all() {
		if slices.ContainsFunc(v.w.expects, func(part string) bool { return strings.Contains(line, part) }) {
			continue
		}
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, "panic") || strings.Contains(line, "DATA RACE") {
			v.w.t.Errorf("seed %d, after %d kills: in the server's log: %s", v.w.seed, v.w.kills, v.log.String())
			return
		}
	}
}

// kill ends the server.
func (w *world) kill(s syscall.Signal) {
	w.t.Helper()
	select {
	case <-w.victim.ended:
		w.t.Fatalf("seed %d, after %d kills: the server ended by itself with %d:\n%s", w.seed, w.kills, w.victim.cmd.ProcessState.ExitCode(), w.victim.log.String())
	default:
	}
	w.mu.Lock()
	select {
	case <-w.up:
		w.up = make(chan struct{})
	default: // it was not ready yet, and who waits goes on waiting
	}
	w.mu.Unlock()
	w.ending.Store(s == syscall.SIGTERM)
	w.victim.signal(s)
	w.ending.Store(false)
	w.h.Crashed()
	w.kills++
}

// killWhileStarting starts the server and kills it before it is ready, or soon after.
func (w *world) killWhileStarting() {
	w.t.Helper()
	w.launch()
	<-time.After(w.draw(0, 400))
	w.kill(syscall.SIGKILL)
}

func (w *world) draw(from, to int) time.Duration {
	return time.Duration(from+w.rng.IntN(to-from)) * time.Millisecond
}

// moments are what a kill may wait for.
var moments = []string{"connack", "resumed", "puback", "pubrec", "pubrel", "pubcomp", "suback", "unsuback", "publish2"}

// round lets the server live for a moment and kills it: at a time, or when something happens for the n-th time.
func (w *world) round() {
	w.t.Helper()
	limit := w.draw(20, 600)
	if w.rng.IntN(10) == 0 {
		limit = w.draw(1000, 2500) // the housekeeper comes by each second
	}
	var happened chan struct{}
	if w.rng.IntN(2) == 0 {
		happened = w.await(moments[w.rng.IntN(len(moments))], 1+w.rng.IntN(10))
	}
	select {
	case <-happened:
	case <-time.After(limit):
	case <-w.h.Faulty():
		return
	}
	w.await("", 0)
	signal := syscall.SIGKILL
	if w.rng.IntN(12) == 0 {
		signal = syscall.SIGTERM // which must not be worse
	}
	w.kill(signal)
	if w.rng.IntN(8) == 0 {
		w.killWhileStarting()
	}
	w.start()
	if w.rng.IntN(4) == 0 {
		w.checkRetained()
	}
}

func (w *world) await(what string, times int) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awaited, w.left, w.happened = what, times, make(chan struct{})
	return w.happened
}

// sees tells that something has happened that a kill may wait for.
func (w *world) sees(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.awaited != what || w.left == 0 {
		return
	}
	if w.left--; w.left == 0 {
		close(w.happened)
	}
}

// awaitUp waits until the server is up, and reports false when ctx is done.
func (w *world) awaitUp(ctx context.Context) bool {
	w.mu.Lock()
	up := w.up
	w.mu.Unlock()
	select {
	case <-up:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// calm reports whether the peers are to become quiet.
func (w *world) calm() bool { return w.isCalm.Load() }

// stayAway waits, at most until the peers are to become quiet.
func (w *world) stayAway(ctx context.Context, d time.Duration) {
	w.mu.Lock()
	quiet := w.quiet
	w.mu.Unlock()
	if w.calm() {
		d = min(d, time.Millisecond)
	}
	select {
	case <-time.After(d):
	case <-quiet:
	case <-ctx.Done():
	}
}

// settle lets all come to rest, and judges what came of it.
func (w *world) settle() {
	w.t.Helper()
	w.isCalm.Store(true)
	w.mu.Lock()
	close(w.quiet)
	w.mu.Unlock()
	// On a slow disk it takes its time; but something must come of it all the while.
	deadline, last, seen := time.Now().Add(patience), time.Now().Add(6*patience), w.h.Counts()
	for problem := w.unrest(); problem != "" && len(w.h.Faults()) == 0; problem = w.unrest() {
		if counts := w.h.Counts(); counts != seen {
			deadline, seen = time.Now().Add(patience), counts
		}
		if now := time.Now(); now.After(deadline) || now.After(last) {
			w.h.Settle() // which says what is missing
			w.t.Errorf("seed %d, after %d kills: no rest within %v: %s", w.seed, w.kills, patience, problem)
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if len(w.h.Faults()) > 0 {
		return
	}
	w.checkRetained()
	w.h.Settle()
	w.mu.Lock()
	w.quiet = make(chan struct{})
	w.mu.Unlock()
	w.isCalm.Store(false)
}

func (w *world) unrest() string {
	for _, p := range w.peers {
		if busy := *p.busy.Load(); busy != "" {
			return p.name + " is not at rest: " + busy
		}
	}
	for _, p := range w.posts {
		if p.open.Load() {
			return p.name + " waits for an answer"
		}
	}
	if n := w.h.Outstanding(); n > 0 {
		return fmt.Sprintf("%d messages have not come", n)
	}
	return ""
}

// checkRetained reads what is retained by REST.
func (w *world) checkRetained() {
	w.t.Helper()
	reading := w.h.Read()
	values := map[string]history.ID{}
	for topic, payload := range w.app.retained("#") {
		id, ok := idOf(payload)
		if !ok {
			w.t.Errorf("seed %d: retained at %s is %q, which nobody sent", w.seed, topic, payload)
		}
		values[topic] = id
	}
	w.h.Retained(reading, values)
}

// verdict reports what the history says.
func (w *world) verdict() {
	w.t.Helper()
	for _, f := range w.h.Faults() {
		w.t.Errorf("seed %d, after %d kills: %s", w.seed, w.kills, f)
	}
}

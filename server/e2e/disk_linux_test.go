package e2e

import (
	"bufio"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traced makes a server run under strace, which writes to path what the server does to files and says over sockets. The
// server is the process that is started, and strace a bystander that ends after it, for which the returned function waits.
func traced(tb testing.TB, cmd *exec.Cmd, path string) (awaitEnd func()) {
	tb.Helper()
	calls := []string{
		"open", "openat", "creat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "fsync", "fdatasync", "unlink", "unlinkat", "rename", "renameat",
		"renameat2", "fallocate", "mmap", "msync", "sync_file_range", "copy_file_range", "sendfile",
	}
	args := []string{"strace", "-DD", "-f", "-yy", "-q", "-xx", "--seccomp-bpf", "-s", "1000000", "-e", "signal=none", "-e", "trace=" + strings.Join(calls, ","), "-o", path, "--", cmd.Path}
	cmd.Args = append(args, cmd.Args[1:]...)
	cmd.Path = program(tb, "strace", "")
	// Open in both for as long as they live.
	alive, end, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = alive.Close(), end.Close() }) //nolint:errcheck // of a test
	cmd.ExtraFiles = []*os.File{end}
	return func() {
		tb.Helper()
		_ = end.Close() //nolint:errcheck // nothing was written
		if err := alive.SetReadDeadline(time.Now().Add(patience)); err != nil {
			tb.Fatal(err)
		}
		if _, err := alive.Read(make([]byte, 1)); err != io.EOF {
			tb.Fatalf("strace has not ended: %v", err)
		}
	}
}

// call is a line of the trace. Where another thread's lines came in between, a call is two of them: it has ended only in
// the second.
type call struct {
	name  string
	args  []string // paths and bytes decoded
	fd    string   // what the first argument stands for: a path, or TCP:[from->to]
	begun bool     // the line shows the call's beginning
	ended bool     // and its end, with success
	value int      // what it returned
	begin *call    // of a call that ended later
}

var (
	lineForm   = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed>)(.*)$`)
	fdForm     = regexp.MustCompile(`^\d+<(.*)>$`)
	resultForm = regexp.MustCompile(`\) += (-?\d+)`)
)

// readTrace calls each for every line of a trace, in order.
func readTrace(tb testing.TB, path string, each func(*call)) {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()              //nolint:errcheck // it is read only
	under := map[string]string{} // what has begun, by thread
	begun := map[string]*call{}
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return
		}
		if err != nil {
			tb.Fatal(err)
		}
		m := lineForm.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue // the end of a thread
		}
		thread, name, rest := m[1], m[2], m[3]
		text, unfinished := strings.CutSuffix(rest, " <unfinished ...>")
		resumed := strings.HasPrefix(line[len(thread):], " <...") || strings.Contains(line[:min(len(line), 40)], " resumed>")
		if resumed {
			text = under[thread] + text
		}
		if unfinished {
			under[thread] = text
			c := parseCall(name, text)
			c.begun = true
			begun[thread] = c
			each(c)
			continue
		}
		c := parseCall(name, text)
		if resumed {
			c.begin = begun[thread]
		} else {
			c.begun = true
		}
		if r := resultForm.FindAllStringSubmatch(text, -1); len(r) > 0 {
			c.value, _ = strconv.Atoi(r[len(r)-1][1]) //nolint:errcheck // digits
			c.ended = c.value >= 0
		}
		each(c)
	}
}

// parseCall splits the arguments. Text is in hex throughout, so that a comma only separates.
func parseCall(name, text string) *call {
	c := &call{name: name}
	if i := strings.LastIndex(text, ") "); i >= 0 {
		text = text[:i]
	}
	for arg := range strings.SplitSeq(text, ", ") {
		if m := fdForm.FindStringSubmatch(arg); m != nil && len(c.args) == 0 {
			c.fd = unhexed(m[1])
		}
		c.args = append(c.args, unhexed(strings.Trim(arg, `"`)))
	}
	return c
}

// unhexed decodes the \xNN of strace.
func unhexed(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s)/4+1)
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			n, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err == nil {
				b = append(b, byte(n))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// disk is a directory as it is on a disk whose machine may lose its power: what was written is there when its file was
// synced after it, and a file when its directory was.
type disk struct {
	t       testing.TB
	dir     string
	entries map[string]*inode // as the system shows them
	durable map[string]*inode // as they are after a loss of power
	// syncing is what a sync that has begun will have made durable.
	syncing map[*call]func()
}

// inode is a file's content.
type inode struct {
	now      []byte
	synced   []byte
	unsynced []func([]byte) []byte // the changes since
	done     int                   // changes that are synced
	syncs    int
	topics   []*written // in unsynced changes
	told     int        // topics that are synced
}

func newDisk(tb testing.TB, dir string) *disk {
	tb.Helper()
	return &disk{t: tb, dir: dir, entries: map[string]*inode{}, durable: map[string]*inode{}, syncing: map[*call]func(){}}
}

func (d *disk) inside(path string) (name string, ok bool) {
	name, ok = strings.CutPrefix(path, d.dir+"/")
	return name, ok && !strings.HasSuffix(name, "-shm") // which is made anew
}

// see takes a call into account.
func (d *disk) see(c *call) {
	d.t.Helper()
	switch c.name {
	case "fsync", "fdatasync":
		d.sync(c)
		return
	case "open", "openat":
		path, flags := arg(c, 0), arg(c, 1)
		if c.name == "openat" {
			path, flags = arg(c, 1), arg(c, 2)
		}
		if name, ok := d.inside(path); ok && c.ended && d.entries[name] == nil {
			if !strings.Contains(flags, "O_CREAT") {
				d.t.Fatalf("%s was opened, and nobody made it", name)
			}
			d.entries[name] = &inode{}
		}
		return
	case "rename", "renameat", "renameat2":
		from, to := arg(c, 0), arg(c, 1)
		if c.name != "rename" {
			from, to = arg(c, 1), arg(c, 3)
		}
		if name, ok := d.inside(from); ok && c.ended {
			target, _ := d.inside(to)
			d.entries[target] = d.entries[name]
			delete(d.entries, name)
		}
		return
	case "unlink", "unlinkat":
		path := arg(c, 0)
		if c.name == "unlinkat" {
			path = arg(c, 1)
		}
		if name, ok := d.inside(path); ok && c.ended {
			delete(d.entries, name)
		}
		return
	}
	if name, ok := d.inside(c.fd); ok && c.ended && c.value >= 0 {
		d.change(c, name)
	}
}

func arg(c *call, i int) string {
	if i < len(c.args) {
		return c.args[i]
	}
	return ""
}

func (d *disk) change(c *call, name string) {
	d.t.Helper()
	f := d.entries[name]
	if f == nil {
		d.t.Fatalf("%s of %s, which is not there", c.name, name)
	}
	var do func([]byte) []byte
	switch c.name {
	case "write":
		b := arg(c, 1)[:c.value]
		do = func(now []byte) []byte { return append(now, b...) } // nobody seeks
	case "pwrite64":
		at, err := strconv.Atoi(arg(c, 3))
		if err != nil {
			d.t.Fatalf("pwrite64 at %q", arg(c, 3))
		}
		b := arg(c, 1)[:c.value]
		do = func(now []byte) []byte {
			now = sized(now, max(len(now), at+len(b)))
			copy(now[at:], b)
			return now
		}
	case "ftruncate":
		size, err := strconv.Atoi(arg(c, 1))
		if err != nil {
			d.t.Fatalf("ftruncate to %q", arg(c, 1))
		}
		do = func(now []byte) []byte { return sized(now, size) }
	default:
		d.t.Fatalf("%s of %s: this disk does not know what that does", c.name, name)
	}
	f.now = do(f.now)
	f.unsynced = append(f.unsynced, do)
}

func sized(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

// sync makes durable what had been done when the call began, once it has ended.
func (d *disk) sync(c *call) {
	if c.begun {
		d.syncing[c] = d.begin(c)
	}
	began := c
	if c.begin != nil {
		began = c.begin
	}
	if c.ended && d.syncing[began] != nil {
		d.syncing[began]()
	}
	if !c.begun || c.ended {
		delete(d.syncing, began)
	}
}

func (d *disk) begin(c *call) func() {
	if c.fd == d.dir {
		entries := maps.Clone(d.entries)
		return func() { d.durable = entries }
	}
	name, ok := d.inside(c.fd)
	f := d.entries[name]
	if !ok || f == nil {
		return nil
	}
	// Two syncs of one file may overlap, and the later one end first: what is synced is counted from the beginning.
	content, done, topics := append([]byte(nil), f.now...), f.done+len(f.unsynced), f.told+len(f.topics)
	return func() {
		f.syncs++
		if more := done - f.done; more > 0 {
			f.synced, f.unsynced, f.done = content, f.unsynced[more:], done
		}
		if more := topics - f.told; more > 0 {
			for _, w := range f.topics[:more] {
				w.synced = true
			}
			f.topics, f.told = f.topics[more:], topics
		}
	}
}

// writeTo makes the files as they are after a loss of power. Of what was not synced nothing is there, or, with a lottery,
// some, in any order: a disk may have come to it.
func (d *disk) writeTo(dir string, lottery *rand.Rand) {
	d.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	for name, f := range d.durable {
		content := append([]byte(nil), f.synced...)
		if lottery != nil {
			for _, i := range lottery.Perm(len(f.unsynced)) {
				if lottery.IntN(2) == 0 {
					content = f.unsynced[i](content)
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// asRoot runs mount or umount.
func asRoot(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		name, args = "sudo", append([]string{"-n", name}, args...)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v\n%s\nfile systems must be mounted here, which needs root or sudo without a password", name, args, err, out)
	}
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(tb testing.TB, bytes int) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	asRoot(tb, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0777", bytes), "tmpfs", dir)
	tb.Cleanup(func() { asRoot(tb, "umount", "-l", dir) })
	return dir
}

// fill leaves no byte free where dir is, and returns what makes room again.
func fill(tb testing.TB, dir string) (free func()) {
	tb.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		tb.Fatal(err)
	}
	for n := 1 << 20; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, syscall.ENOSPC) {
			n /= 2
		} else if err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	return func() {
		tb.Helper()
		if err := os.Remove(f.Name()); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestAFullDiskIsToldAndServiceResumes is of CONTRACT section 4, storage refuses for good: 3.1.1 is closed, 5.0 gets 0x80,
// REST 507; nobody sees what was refused, and what needs no storage goes on.
func TestAFullDiskIsToldAndServiceResumes(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 24<<20)
	s := newServer(t, sqlite, "DATA_DIR="+filepath.Join(dir, "data"))
	s.startAnyhow()
	a := s.newApp("full", anything...)
	token := a.token("user", time.Hour, "")
	a.publish("kept/before", "p", true)
	watcher := a.connectWire("watcher", token)
	watcher.subscribe("#")
	if m := next[*packet.Publish](watcher); string(m.Topic) != "kept/before" {
		t.Fatalf("got %s", m.Topic)
	}
	watcher.send(&packet.Ack{Kind: packet.TypePuback, PacketID: 1})

	kept := map[string]string{"kept/before": "p"}
	large := strings.Repeat("x", 200<<10) // so that the log must grow
	for round := range 2 {
		free := fill(t, dir)
		began := time.Now()
		refusedByREST := 0
		for i := 0; refusedByREST < 3; i++ {
			topic := fmt.Sprintf("kept/rest-%d-%d", round, i)
			switch answer := a.s.call(http.MethodPost, a.path("/publish"), s.admin, map[string]any{"topic": topic, "payload": large, "retain": true}); answer.status {
			case http.StatusOK: // there was room in the log
				kept[topic] = large
			case http.StatusInsufficientStorage:
				refusedByREST++
				if p := answer.problem(http.StatusInsufficientStorage); p.Code != "store_refused" {
					t.Errorf("code %s, want store_refused", p.Code)
				}
			default:
				t.Fatalf("%s: %d %s", topic, answer.status, answer.body)
			}
		}
		five := a.connectWire("five", token)
		for id := range uint16(3) {
			five.send(&packet.Publish{Topic: []byte("kept/five"), Payload: []byte(large), QoS: 1 + byte(id%2), PacketID: 1 + id, Retain: true})
			if ack := next[*packet.Ack](five); ack.Reason != packet.UnspecifiedError || ack.PacketID != 1+id {
				t.Errorf("acknowledged with %+v, want 0x80", ack)
			}
		}
		old := dialWire(t, s.mqtt)
		old.speak(packet.V311)
		old.send(connectPacket(a, packet.V311, "old", token))
		next[*packet.Connack](old)
		old.send(&packet.Publish{Topic: []byte("kept/old"), Payload: []byte(large), QoS: 1, PacketID: 1, Retain: true})
		old.wantClosed()
		s.call(http.MethodPost, a.path("/keys"), s.admin, map[string]any{"kind": "device", "name": large[:200]})
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("the refusals took %v: nobody is to be held, as while the database is away", took)
		}
		five.send(&packet.Publish{Topic: []byte("live"), Payload: fmt.Append(nil, round)})

		free()
		topic := fmt.Sprintf("kept/after-%d", round)
		five.send(&packet.Publish{Topic: []byte(topic), Payload: []byte(large), QoS: 1, PacketID: 9, Retain: true})
		if ack := next[*packet.Ack](five); ack.Reason != packet.Success {
			t.Errorf("with room again: %+v", ack)
		}
		kept[topic] = large
		five.send(&packet.Disconnect{})
		s.call("GET", "/readyz", "", nil).want(http.StatusOK)

		// The watcher has seen what was kept, what was live, and nothing else.
		for got := map[string]bool{}; !got[topic]; {
			m := next[*packet.Publish](watcher)
			got[string(m.Topic)] = true
			if string(m.Topic) != "live" && kept[string(m.Topic)] == "" {
				t.Errorf("%s was refused, and is seen", m.Topic)
			}
			if m.QoS > 0 {
				watcher.send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
			}
			if string(m.Topic) == topic && !got["live"] {
				t.Errorf("live traffic did not go on")
			}
		}
	}
	now := a.retained("#")
	s.crash()
	s.startAnyhow()
	for when, got := range map[string]map[string]string{"before": now, "after": a.retained("#")} {
		for topic := range kept {
			if got[topic] != kept[topic] {
				t.Errorf("%s the restart, %s is not what was acknowledged", when, topic)
			}
		}
		if len(got) != len(kept) {
			t.Errorf("%s the restart, %d are kept, want the %d that were acknowledged", when, len(got), len(kept))
		}
	}
}

// TestAStartThatCannotWriteIsRefusedPlainly: it says what is wrong and what to do, changes nothing, and goes well when
// the cause is gone.
func TestAStartThatCannotWriteIsRefusedPlainly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fresh bool // there is no data yet
		wrong func(t *testing.T, dir string) (right func())
		says  []string
	}{
		"a full disk, the first time": {
			true, func(t *testing.T, dir string) func() { t.Helper(); return fill(t, dir) },
			[]string{"no space left", "make room", "--data-dir"},
		},
		"a disk with little room, the first time": {true, func(t *testing.T, dir string) func() {
			t.Helper()
			free := fill(t, dir)
			if err := os.Truncate(filepath.Join(dir, "ballast"), diskBytes-(80<<10)); err != nil {
				t.Fatal(err)
			}
			return free
		}, []string{"the disk is full", "make room", "embercast.db"}},
		"a full disk": {
			false, func(t *testing.T, dir string) func() { t.Helper(); return fill(t, dir) },
			[]string{"embercast.db", "is it full"},
		},
		"a disk that is mounted read-only": {false, func(t *testing.T, dir string) func() {
			t.Helper()
			asRoot(t, "mount", "-o", "remount,ro", dir)
			return func() { asRoot(t, "mount", "-o", "remount,rw", dir) }
		}, []string{"cannot be written", "read-only file system", "--data-dir"}},
		"a database file that is read-only": {false, func(t *testing.T, dir string) func() {
			t.Helper()
			file := filepath.Join(dir, "data", "embercast.db")
			asRoot(t, "mount", "--bind", file, file)
			asRoot(t, "mount", "-o", "remount,bind,ro", file)
			return func() { asRoot(t, "umount", file) }
		}, []string{"embercast.db", "cannot be written", "check owner and permissions"}},
		"a damaged database": {false, func(t *testing.T, dir string) func() {
			t.Helper()
			file := filepath.Join(dir, "data", "embercast.db")
			good, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := append([]byte(nil), good...)
			clear(bad[len(bad)/2:])
			write := func(b []byte) {
				if err := os.WriteFile(file, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(bad)
			return func() {
				if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, bad) {
					t.Errorf("the damaged file was changed: %v", err)
				}
				write(good)
			}
		}, []string{"damaged", "restore it from a backup", "nothing was changed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := smallDisk(t, diskBytes)
			s := newServer(t, sqlite, "DATA_DIR="+filepath.Join(dir, "data"))
			delete(s.env, "ADMIN_TOKEN") // which would leave only the other secret to be written
			kept := map[string]string{}
			var a *app
			if !c.fresh {
				s.env["ADMIN_TOKEN"] = adminToken
				s.start()
				a = s.newApp("here", anything...)
				for i := range 20 {
					topic := fmt.Sprint("kept/", i)
					a.publish(topic, strings.Repeat("x", 10_000), true)
					kept[topic] = strings.Repeat("x", 10_000)
				}
				s.stop()
			}
			right := c.wrong(t, dir)
			run(t, "embercast", s.command()).failsWith(t, c.says...)
			right()
			s.start()
			if a == nil {
				return
			}
			if got := a.retained("#"); !maps.Equal(got, kept) {
				t.Errorf("after all this %d messages are kept, want the %d of before", len(got), len(kept))
			}
		})
	}
}

const diskBytes = 8 << 20

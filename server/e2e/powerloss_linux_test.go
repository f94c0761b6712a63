package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// TestWhatWasAcknowledgedWasSyncedBefore is what SIGKILL cannot show, which leaves the system's memory of the files as it
// is: a server is watched by strace, and the files are made anew as a loss of power would have left them (ARCHITECTURE
// section 3). Postgres does this on its own (TestPostgresIsAskedToSync).
func TestWhatWasAcknowledgedWasSyncedBefore(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqlite)
	trace := filepath.Join(s.dir, "trace")
	cmd := s.command()
	awaitStrace := traced(t, cmd, trace)
	s.process = startProcess(t, "the server under strace", cmd)
	s.awaitReady()
	a := s.newApp("power", anything...)
	acknowledged := publishFromAllSides(t, a)
	commits := s.metric("embercast_commits_total", `outcome="ok"`)
	s.crash()
	s.checkLog(s.process)
	awaitStrace()

	// What was acknowledged, in the server's own order.
	w := watch(t, s, trace, nil)
	for topic := range acknowledged {
		if !w.acked[topic] {
			t.Errorf("%s was acknowledged to its publisher, which strace has not seen", topic)
		}
	}
	if wal := w.disk.entries["embercast.db-wal"]; wal == nil || float64(wal.syncs) < commits {
		t.Errorf("the log was synced %d times for %v commits", wal.syncs, commits)
	} else {
		t.Logf("%d acknowledgements, %v commits, %d syncs of the log", len(w.acked), commits, wal.syncs)
	}
	if len(w.acked) < 500 || commits < 20 {
		t.Fatalf("%d acknowledgements in %v commits are too few to tell anything", len(w.acked), commits)
	}

	// The power fails right after some of the acknowledgements, the last among them.
	const losses = 4
	lossAfter := map[int]bool{len(w.acked): true}
	for i := range losses - 1 {
		lossAfter[1+len(w.acked)*i/(losses-1)+rand.IntN(len(w.acked)/losses)] = true
	}
	watch(t, s, trace, func(w *watched) {
		if !lossAfter[len(w.acked)] {
			return
		}
		delete(lossAfter, len(w.acked))
		for _, lottery := range []*rand.Rand{nil, rand.New(rand.NewPCG(rand.Uint64(), 0))} {
			dir := filepath.Join(t.TempDir(), "data")
			w.disk.writeTo(dir, lottery)
			after := startServer(t, sqlite, "DATA_DIR="+dir)
			kept := (&app{after, a.id}).retained("#")
			for topic := range w.acked {
				if kept[topic] != "p" {
					t.Errorf("%s was acknowledged before the power failed, and is gone (%d others were)", topic, len(w.acked))
				}
			}
			after.stop()
		}
	})
	if len(lossAfter) != 0 {
		t.Errorf("the power did not fail after %v of %d acknowledgements", lossAfter, len(w.acked))
	}
}

// publishFromAllSides publishes retained messages, each to a topic of its own, at QoS 1 and 2 and by REST, and returns the
// topics of those that were acknowledged.
func publishFromAllSides(t *testing.T, a *app) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	acked := map[string]bool{}
	add := func(topic string) {
		mu.Lock()
		defer mu.Unlock()
		acked[topic] = true
	}
	var all sync.WaitGroup
	for publisher := range 3 {
		qos := byte(1 + publisher/2)
		w := a.connectWire(fmt.Sprint("publisher-", publisher), a.token(fmt.Sprint("publisher-", publisher), time.Hour, ""))
		first := 1 + publisher*10_000
		all.Go(func() {
			const messages, window = 300, 10
			send := func(id int) {
				w.send(&packet.Publish{Topic: []byte(topicOf(id)), Payload: []byte("p"), QoS: qos, PacketID: uint16(id), Retain: true})
			}
			for id := first; id < first+window; id++ {
				send(id)
			}
			for done := 0; done < messages; {
				ack := next[*packet.Ack](w)
				if ack.Kind == packet.TypePubrec {
					w.send(&packet.Ack{Kind: packet.TypePubrel, PacketID: ack.PacketID})
				}
				if ack.Kind != packet.TypePubcomp {
					add(topicOf(int(ack.PacketID)))
				}
				if ack.Kind != packet.TypePubrec {
					if done++; done <= messages-window {
						send(first + window + done - 1)
					}
				}
			}
		})
	}
	all.Go(func() {
		for i := range 50 {
			a.s.call(http.MethodPost, a.path("/publish"), a.s.admin, map[string]any{"topic": restTopic(i), "payload": "p", "retain": true}).want(http.StatusOK)
			add(restTopic(i))
		}
	})
	all.Wait()
	return acked
}

func topicOf(id int) string  { return fmt.Sprintf("kept/mqtt-%05d", id) }
func restTopic(i int) string { return fmt.Sprintf("kept/rest-%05d", i) }

// watched is a server's run as strace has seen it, up to some point.
type watched struct {
	t        *testing.T
	s        *server
	disk     *disk
	written  map[string]*written // by topic
	acked    map[string]bool
	rest     int
	decoders map[string]*packet.Decoder // by connection
}

// written is the first time that a topic was written.
type written struct{ synced bool }

// watch goes through a trace, checks that each acknowledgement followed the sync of what it is for, and calls after each.
func watch(t *testing.T, s *server, trace string, after func(*watched)) *watched {
	t.Helper()
	w := &watched{t: t, s: s, disk: newDisk(t, s.env["DATA_DIR"]), written: map[string]*written{}, acked: map[string]bool{}, decoders: map[string]*packet.Decoder{}}
	readTrace(t, trace, func(c *call) {
		w.disk.see(c)
		if !strings.HasPrefix(c.fd, "TCP") {
			w.writes(c)
			return
		}
		if c.name != "write" || !c.begun {
			return
		}
		for _, topic := range w.acknowledges(c) {
			w.acked[topic] = true
			if first := w.written[topic]; first == nil || !first.synced {
				t.Errorf("%s was acknowledged and not synced", topic)
			}
			if after != nil {
				after(w)
			}
		}
	})
	return w
}

var topicForm = regexp.MustCompile(`kept/(mqtt|rest)-\d{5}`)

// writes notes where topics are written.
func (w *watched) writes(c *call) {
	name, ok := w.disk.inside(c.fd)
	if !ok || c.name != "pwrite64" || !c.ended {
		return
	}
	for _, topic := range topicForm.FindAllString(arg(c, 1), -1) {
		if w.written[topic] == nil {
			f := w.disk.entries[name]
			w.written[topic] = &written{}
			f.topics = append(f.topics, w.written[topic])
		}
	}
}

// acknowledges returns the topics of the acknowledgements in what the server says.
func (w *watched) acknowledges(c *call) []string {
	switch {
	case strings.Contains(c.fd, "["+w.s.mqtt+"->"):
		d := w.decoders[c.fd]
		if d == nil {
			d = packet.NewDecoder(1 << 20)
			d.SetVersion(packet.V5)
			w.decoders[c.fd] = d
		}
		d.Feed([]byte(arg(c, 1)))
		var topics []string
		for {
			p, err := d.Next()
			if err != nil {
				w.t.Fatalf("what the server said is no MQTT: %v", err)
			}
			if p == nil {
				return topics
			}
			if ack, ok := p.(*packet.Ack); ok && (ack.Kind == packet.TypePuback || ack.Kind == packet.TypePubrec) {
				topics = append(topics, topicOf(int(ack.PacketID)))
			}
		}
	case strings.Contains(c.fd, "["+w.s.http+"->") && strings.Contains(arg(c, 1), `{"seq":`):
		w.rest++
		return []string{restTopic(w.rest - 1)}
	}
	return nil
}

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/store/pgtest"
)

const (
	databaseAway   = "database is away"
	outcomeUnknown = "outcome of a commit is unknown"
)

// TestNothingAcknowledgedIsLostWhenPostgresStopsAndStarts: the database ends again and again in the middle of a commit or
// beside one, in order or without a word, and is back before anybody has waited for too long. Nobody notices: what is
// acknowledged is there, QoS 2 comes once, in order. A commit whose outcome was unknown is found out (ARCHITECTURE section 3).
func TestNothingAcknowledgedIsLostWhenPostgresStopsAndStarts(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	cluster, url := pgtest.Own(t)
	w := newWorld(story{t, sqlite}, seed, "DATABASE_URL="+url)
	w.expects = []string{databaseAway}
	populate(w)
	w.run()
	unknown := func() int { return strings.Count(w.victim.log.String(), outcomeUnknown) }
	const roundsMin, roundsMax = 6, 40
	rounds := 0
	for ; rounds < roundsMax && (rounds < roundsMin || unknown() == 0) && len(w.h.Faults()) == 0; rounds++ {
		select {
		case <-time.After(w.draw(100, 1000)):
		case <-w.h.Faulty():
		}
		end := cluster.Crash
		if rounds%3 == 2 {
			end = cluster.Stop
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Up(); err != nil {
			t.Fatal(err)
		}
		w.checkRetained()
		if rounds%3 == 1 {
			w.settle()
		}
	}
	if len(w.h.Faults()) == 0 {
		w.settle()
	}
	w.end()
	w.verdict()
	t.Logf("seed %d: %d outages, %d commits of unknown outcome: %+v", seed, rounds, unknown(), w.h.Counts())
	if unknown() == 0 && !t.Failed() {
		t.Errorf("in %d outages no commit's outcome was unknown", rounds)
	}
}

// TestWhilePostgresIsAwayWhatNeedsACommitIsHeldAndRefused is CONTRACT section 4's line "storage away": held for 10 s, then 5.0
// gets 0x88, 3.1.1 the close and REST 503, never an untrue acknowledgement; what needs no commit goes on, and service
// resumes by itself.
func TestWhilePostgresIsAwayWhatNeedsACommitIsHeldAndRefused(t *testing.T) {
	t.Parallel()
	for how, end := range map[string]func(*pgtest.Cluster) error{"stopped": (*pgtest.Cluster).Stop, "crashed": (*pgtest.Cluster).Crash} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cluster, url := pgtest.Own(t)
			s := newServer(t, sqlite, "DATABASE_URL="+url)
			s.startAnyhow()
			a := s.newApp("away", anything...)
			token := a.token("user", time.Hour, "")
			a.publish("kept/before", "p", true)
			listener := a.connectWire("listener", token)
			listener.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "live"}}})
			next[*packet.Suback](listener)
			five, old := a.connectWire("five", token), dialWire(t, s.mqtt)
			old.speak(packet.V311)
			old.send(connectPacket(a, packet.V311, "old", token))
			next[*packet.Connack](old)
			if err := end(cluster); err != nil {
				t.Fatal(err)
			}

			began := time.Now()
			for _, w := range []*wire{five, old} {
				w.send(&packet.Publish{Topic: []byte("kept/held"), Payload: []byte("p"), QoS: 1, PacketID: 1, Retain: true})
			}
			session := dialWire(t, s.mqtt)
			lasting := connectPacket(a, packet.V5, "lasting", token)
			lasting.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 60}
			session.send(lasting)
			statuses := make(chan int, 1)
			go func() {
				statuses <- s.call(http.MethodPost, a.path("/publish"), s.admin, map[string]any{"topic": "kept/rest", "payload": "p", "retain": true}).status
			}()
			// Clean sessions connect, and live traffic goes on.
			for i := range 5 {
				w := a.connectWire(fmt.Sprint("new-", i), token)
				w.send(&packet.Publish{Topic: []byte("live"), Payload: fmt.Append(nil, i)})
				if m := next[*packet.Publish](listener); string(m.Payload) != fmt.Sprint(i) {
					t.Errorf("live: got %s, want %d", m.Payload, i)
				}
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("live traffic took %v", took)
			}
			s.call("GET", "/healthz", "", nil).want(http.StatusOK)
			s.call("GET", "/readyz", "", nil).want(http.StatusServiceUnavailable)

			if d := next[*packet.Disconnect](five); d.Reason != packet.ServerBusy {
				t.Errorf("DISCONNECT %v, want 0x89", d.Reason)
			}
			if took := time.Since(began); took < 9*time.Second || took > 20*time.Second {
				t.Errorf("refused after %v, want about 10 s", took)
			}
			old.wantClosed()
			if ack := next[*packet.Connack](session); ack.Reason != packet.ServerUnavailable {
				t.Errorf("CONNACK of a session that is to last %v, want 0x88", ack.Reason)
			}
			if status := <-statuses; status != http.StatusServiceUnavailable {
				t.Errorf("REST answers %d, want 503", status)
			}

			if err := cluster.Up(); err != nil {
				t.Fatal(err)
			}
			eventually(t, patience, func() string {
				if answer := s.call(http.MethodPost, a.path("/publish"), s.admin, map[string]any{"topic": "kept/after", "payload": "p", "retain": true}); answer.status != http.StatusOK {
					return fmt.Sprint("REST answers ", answer.status)
				}
				return ""
			})
			s.call("GET", "/readyz", "", nil).want(http.StatusOK)
			w := a.connectWire("again", token)
			w.send(&packet.Publish{Topic: []byte("kept/again"), Payload: []byte("p"), QoS: 2, PacketID: 1, Retain: true})
			if ack := next[*packet.Ack](w); ack.Kind != packet.TypePubrec || ack.Reason != packet.Success {
				t.Errorf("acknowledged with %+v", ack)
			}
			s.crash()
			s.startAnyhow()
			kept := a.retained("#")
			for _, topic := range []string{"kept/before", "kept/after", "kept/again"} {
				if kept[topic] != "p" {
					t.Errorf("%s was acknowledged, and is gone", topic)
				}
			}
		})
	}
}

// startAnyhow is start for a server whose log may tell of errors.
func (s *server) startAnyhow() {
	s.t.Helper()
	s.process = startProcess(s.t, "the server", s.command())
	s.t.Cleanup(s.stop)
	s.awaitReady()
}

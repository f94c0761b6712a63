package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"
)

func TestWhatWasAcknowledgedIsThereAfterKill9AndRestart(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t))
		a := s.newApp("load", anything...)
		a.publish("before", "all this", true)
		for round := range 2 {
			flood := startFlood(t.T, a, round)
			flood.until(500)
			s.crash()
			flood.end()
			s.start()
			flood.check(a.retained("#"))
		}
		kept := a.retained("#")
		if kept["before"] != "all this" {
			t.Errorf("retained before = %q, want what was there before the crashes", kept["before"])
		}
		// MQTT shows the same as REST, and the server goes on.
		late := paho.connect(t, "late", login{app: a, password: a.token("late", time.Hour, "")}).follow("#")
		got := map[string]string{}
		for range kept {
			m := late.next()
			got[m.Topic] = m.Payload
		}
		for topic, want := range kept {
			if got[topic] != want {
				t.Errorf("a late subscriber got %q at %s, REST shows %q", got[topic], topic, want)
			}
		}
		late.publishWith("after", "all this", 1, true)
		late.hearsNothingBut(a, "fence", "after all this")
	})
}

// flood is several clients that publish retained numbers as fast as they are acknowledged.
type flood struct {
	t       *testing.T
	clients []*client
	answers []<-chan reply
	acked   map[string]int // the last acknowledged number of each topic
	sent    map[string]int // the last number that the client of a topic has sent, by client
}

const (
	floodTopics = 20 // of each client
	floodWindow = 20 // unacknowledged at a time
)

func startFlood(t *testing.T, a *app, round int) *flood {
	t.Helper()
	f := &flood{t: t, acked: map[string]int{}, sent: map[string]int{}}
	for i, l := range []library{mqttJS, paho, mqttJS, paho} {
		name := fmt.Sprintf("flood-%d-%d", round, i)
		as := login{app: a, password: a.token(name, time.Hour, "")}
		if i > 1 {
			as.transport = "tcp"
		}
		f.clients = append(f.clients, l.connect(t, name, as))
	}
	for _, c := range f.clients {
		f.answers = append(f.answers, c.ask("flood", map[string]any{"base": c.id, "topics": floodTopics, "window": floodWindow}))
	}
	return f
}

// until waits until so many were acknowledged, some of every client.
func (f *flood) until(count int) {
	f.t.Helper()
	eventually(f.t, patience, func() string {
		total := 0
		for _, c := range f.clients {
			n := f.collect(c)
			if n == 0 {
				return c.name + " got no acknowledgement"
			}
			total += n
		}
		if total < count {
			return fmt.Sprintf("%d acknowledgements, want %d", total, count)
		}
		return ""
	})
}

// collect takes the acknowledgements of a client and returns the last number among all so far.
func (f *flood) collect(c *client) int {
	for _, n := range c.acked.all() {
		f.acked[n.Topic] = max(f.acked[n.Topic], n.Value)
	}
	last := 0
	for i := range floodTopics {
		last = max(last, f.acked[fmt.Sprintf("%s/%d", c.id, i)])
	}
	return last
}

// end waits until all clients know that the server is gone.
func (f *flood) end() {
	f.t.Helper()
	for i, c := range f.clients {
		r := c.await("flood", f.answers[i])
		var of struct{ Sent int }
		decode(f.t, r.OK, &of)
		f.sent[c.id] = of.Sent
		f.collect(c)
	}
}

// check holds what is kept against what was acknowledged: the same number, or a later one that was sent.
func (f *flood) check(kept map[string]string) {
	f.t.Helper()
	total := 0
	for _, c := range f.clients {
		for i := range floodTopics {
			topic := fmt.Sprintf("%s/%d", c.id, i)
			got, _ := strconv.Atoi(kept[topic]) //nolint:errcheck // nothing there is 0
			if got < f.acked[topic] || got > f.sent[c.id] {
				f.t.Errorf("%s holds %d, acknowledged was %d, sent at most %d", topic, got, f.acked[topic], f.sent[c.id])
			}
		}
		total += f.collect(c)
	}
	f.t.Logf("about %d acknowledged when the server was killed", total)
}

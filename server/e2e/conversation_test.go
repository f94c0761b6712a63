package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// conversation is two clients that go on talking to each other while a test does something else.
type conversation struct {
	t        *testing.T
	ada, bob *client
	stop     chan struct{}
	over     sync.WaitGroup
	rounds   int
	longest  time.Duration
	problem  string
}

// converse starts a conversation in the app, which lets them.
func converse(t *testing.T, a *app) *conversation {
	t.Helper()
	c := &conversation{t: t, stop: make(chan struct{})}
	c.ada = mqttJS.connect(t, "talking-ada", login{app: a, password: a.token("talking-ada", time.Hour, "")}).follow("talk/bob")
	c.bob = paho.connect(t, "talking-bob", login{app: a, password: a.token("talking-bob", time.Hour, ""), transport: "tcp"}).follow("talk/ada")
	c.over.Go(func() {
		for c.problem == "" {
			select {
			case <-c.stop:
				return
			default:
				c.round()
			}
		}
	})
	return c
}

// round is a question and an answer. It runs beside the test: what is wrong is kept for goesOn.
func (c *conversation) round() {
	began := time.Now()
	c.rounds++
	for _, turn := range []struct {
		from, to *client
		topic    string
	}{{c.ada, c.bob, "talk/ada"}, {c.bob, c.ada, "talk/bob"}} {
		text := fmt.Sprintf("round %d", c.rounds)
		answer := turn.from.ask("publish", map[string]any{"topic": turn.topic, "payload": text, "qos": 1, "retain": false})
		m, ok := turn.to.messages.next(patience)
		if !ok || m.says() != turn.topic+" "+text {
			c.problem = fmt.Sprintf("in %s %s heard %+v", text, turn.to.name, m)
			return
		}
		select {
		case r := <-answer:
			if r.Error != "" {
				c.problem = fmt.Sprintf("in %s %s could not speak: %s", text, turn.from.name, r.Error)
				return
			}
		case <-time.After(patience):
			c.problem = fmt.Sprintf("in %s %s got no acknowledgement", text, turn.from.name)
			return
		}
	}
	c.longest = max(c.longest, time.Since(began))
}

// goesOn ends the conversation, which must have gone on until then: nothing missing, nothing twice, nobody disconnected.
func (c *conversation) goesOn() {
	c.t.Helper()
	close(c.stop)
	c.over.Wait()
	c.t.Logf("meanwhile %d rounds of talk, the longest took %v", c.rounds, c.longest.Round(time.Millisecond))
	if c.problem != "" {
		c.t.Errorf("others were disturbed: %s", c.problem)
	}
	if c.rounds < 3 {
		c.t.Errorf("the conversation had %d rounds", c.rounds)
	}
	for _, one := range []*client{c.ada, c.bob} {
		select {
		case <-one.ended:
			c.t.Errorf("%s was disconnected (%#x)", one.name, one.endCode)
		default:
		}
	}
}

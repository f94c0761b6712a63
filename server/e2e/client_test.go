package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// actor is a program of web/e2e that is driven by lines: commands go in, answers and events come out.
type actor struct {
	t       testing.TB
	name    string
	process *process
	event   func(line []byte, event string)

	mu      sync.Mutex // guards what follows
	asked   int
	answers map[int]chan reply
}

// reply answers a command.
type reply struct {
	ID    int
	OK    json.RawMessage
	Error string
	Code  int
}

func startActor(tb testing.TB, name string, cmd *exec.Cmd, event func(line []byte, event string)) *actor {
	tb.Helper()
	a := &actor{t: tb, name: name, event: event, answers: map[int]chan reply{}}
	a.process = startProcess(tb, name, cmd)
	go a.listen()
	return a
}

// listen takes lines until the process has ended.
func (a *actor) listen() {
	for {
		line, ok, changed := a.process.stdout.take()
		if ok {
			a.take([]byte(line))
			continue
		}
		select {
		case <-changed:
		case <-a.process.ended:
			for _, line := range a.process.stdout.all() {
				a.take([]byte(line))
			}
			return
		}
	}
}

func (a *actor) take(line []byte) {
	var head struct {
		reply
		Event string
	}
	if err := json.Unmarshal(line, &head); err != nil {
		a.t.Errorf("%s said what is no JSON: %s", a.name, line)
		return
	}
	if head.Event != "" {
		a.event(line, head.Event)
		return
	}
	a.mu.Lock()
	answer := a.answers[head.ID]
	delete(a.answers, head.ID)
	a.mu.Unlock()
	if answer != nil {
		answer <- head.reply
	}
}

// ask gives a command and returns where its answer comes.
func (a *actor) ask(do string, of map[string]any) <-chan reply {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	answer := make(chan reply, 1)
	a.answers[a.asked] = answer
	order := maps.Clone(of)
	if order == nil {
		order = map[string]any{}
	}
	order["id"], order["do"] = a.asked, do
	line, err := json.Marshal(order)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.process.stdin.Write(append(line, '\n')); err != nil {
		a.t.Fatalf("%s takes no commands: %v\n%s", a.name, err, a.process.stderr.String())
	}
	return answer
}

// await waits for an answer.
func (a *actor) await(do string, answer <-chan reply) reply {
	a.t.Helper()
	select {
	case r := <-answer:
		return r
	case <-a.process.ended:
		a.t.Fatalf("%s ended while asked to %s:\n%s", a.name, do, a.process.stderr.String())
	case <-time.After(2 * patience):
		a.t.Fatalf("%s does not answer to %s; it said:\n%s", a.name, do, a.process.stderr.String())
	}
	return reply{}
}

// do gives a command that must succeed, and decodes its answer into v, if that is not nil.
func (a *actor) do(do string, of map[string]any, v any) {
	a.t.Helper()
	r := a.await(do, a.ask(do, of))
	if r.Error != "" {
		a.t.Fatalf("%s cannot %s %v: %s (%#x)", a.name, do, of, r.Error, r.Code)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(r.OK, v); err != nil {
		a.t.Fatalf("%s: %s: %v", a.name, r.OK, err)
	}
}

// library is an MQTT client library.
type library struct {
	name    string
	command func(t testing.TB) *exec.Cmd
}

var (
	mqttJS = library{"mqtt.js", func(tb testing.TB) *exec.Cmd { tb.Helper(); return node(tb, "mqttjs.mjs") }}
	paho   = library{"Paho", func(tb testing.TB) *exec.Cmd {
		tb.Helper()
		return python(tb, filepath.Join(webDir, "e2e", "paho_client.py"))
	}}
)

// message is a message that a client got.
type message struct {
	Topic, Payload string
	QoS            int
	Retain, Dup    bool
}

// says is the message as stories compare it.
func (m message) says() string { return m.Topic + " " + m.Payload }

// acked is a number that was acknowledged to a flooding client.
type acked struct {
	Topic string
	Value int
}

// client is one MQTT client in a process of its own, with one connection in its life.
type client struct {
	*actor
	id       string
	messages inbox[message]
	acked    inbox[acked]
	sessions inbox[bool]   // for each CONNACK, whether a session was present
	ended    chan struct{} // closed when the network is gone
	endOnce  sync.Once
	endCode  int // of the server's DISCONNECT; 0: there was none; read it after ended
}

// start starts a client; its name is its Client Identifier too.
func (l library) start(tb testing.TB, name string) *client {
	tb.Helper()
	c := &client{id: name, ended: make(chan struct{})}
	c.actor = startActor(tb, name+" ("+l.name+")", l.command(tb), c.take)
	return c
}

func (c *client) take(line []byte, event string) {
	var of struct {
		message
		acked
		Code    int
		Present bool `json:"session_present"`
		// Both have a topic; the outer one takes it.
		Topic string
	}
	if err := json.Unmarshal(line, &of); err != nil {
		c.t.Errorf("%s: %v: %s", c.name, err, line)
		return
	}
	switch event {
	case "message":
		of.message.Topic = of.Topic
		c.messages.put(of.message)
	case "acked":
		c.acked.put(acked{of.Topic, of.Value})
	case "connected":
		c.sessions.put(of.Present)
	case "disconnect":
		c.endCode = of.Code
	case "close":
		c.endOnce.Do(func() { close(c.ended) })
	}
}

// will is a Will Message.
type will struct {
	Topic   string `json:"topic"`
	Payload string `json:"payload"`
	QoS     int    `json:"qos"`
	Retain  bool   `json:"retain"`
}

// login is how a client connects: by WebSocket and MQTT 5 to an app if nothing else is said.
type login struct {
	app       *app
	password  string
	transport string // "ws", "tcp", "wss" or "tls"
	version   int
	clientID  string // the client's name if empty
	username  string // the app's id if empty
	keepAlive int    // seconds
	will      *will
	lasts     bool   // the session outlives the connection, and the client connects again by itself
	ca        string // PEM file
}

func (l login) url() string {
	s := l.app.s
	switch l.transport {
	case "tcp":
		return "mqtt://" + s.mqtt
	case "tls":
		return "mqtts://" + s.mqtts
	case "wss":
		return "wss://" + s.https + "/mqtt/" + l.app.id
	}
	return "ws://" + s.http + "/mqtt/" + l.app.id
}

// connectTo connects and returns what came of it.
func (c *client) connectTo(l login) reply {
	c.t.Helper()
	of := map[string]any{"url": l.url(), "client_id": c.id, "username": l.app.id, "password": l.password, "version": 5, "clean": true, "keep_alive": 60}
	if l.version != 0 {
		of["version"] = l.version
	}
	if l.clientID != "" {
		of["client_id"], c.id = l.clientID, l.clientID
	}
	if l.username != "" {
		of["username"] = l.username
	}
	if l.keepAlive != 0 {
		of["keep_alive"] = l.keepAlive
	}
	if l.lasts {
		of["clean"], of["expiry"], of["reconnect"] = false, 3600, 50
	}
	if l.will != nil {
		of["will"] = l.will
	}
	if l.ca != "" {
		of["ca"] = l.ca
		if strings.HasPrefix(c.name, c.id+" (mqtt.js") {
			of["ca"] = readFile(c.t, l.ca)
		}
	}
	return c.await("connect", c.ask("connect", of))
}

// connect connects, which must succeed.
func (c *client) connect(l login) *client {
	c.t.Helper()
	if r := c.connectTo(l); r.Error != "" {
		c.t.Fatalf("%s cannot connect to %s: %s (%#x)", c.name, l.url(), r.Error, r.Code)
	}
	return c
}

// connect starts a client and connects it.
func (l library) connect(tb testing.TB, name string, as login) *client {
	tb.Helper()
	return l.start(tb, name).connect(as)
}

// subscribe asks for filters with QoS 1 and returns the codes of SUBACK.
func (c *client) subscribe(filters ...string) []int {
	c.t.Helper()
	return c.subscribeWith(1, 0, filters...)
}

func (c *client) subscribeWith(qos, retainHandling int, filters ...string) []int {
	c.t.Helper()
	var ok struct{ Codes []int }
	c.do("subscribe", map[string]any{"filters": filters, "qos": qos, "retain_handling": retainHandling}, &ok)
	return ok.Codes
}

// follow subscribes with QoS 1, which must be granted.
func (c *client) follow(filters ...string) *client {
	c.t.Helper()
	if codes := c.subscribe(filters...); slices.Max(codes) > 2 {
		c.t.Fatalf("%s: subscribe %q = %#x, want it granted", c.name, filters, codes)
	}
	return c
}

// publish publishes with QoS 1 and returns the code of PUBACK (0 before 5.0).
func (c *client) publish(topic, payload string) int {
	c.t.Helper()
	return c.publishWith(topic, payload, 1, false)
}

func (c *client) publishWith(topic, payload string, qos int, retain bool) int {
	c.t.Helper()
	var ok struct{ Codes []int }
	c.do("publish", map[string]any{"topic": topic, "payload": payload, "qos": qos, "retain": retain}, &ok)
	return ok.Codes[0]
}

// say publishes with QoS 1, which must be taken.
func (c *client) say(topic, payload string) {
	c.t.Helper()
	if code := c.publish(topic, payload); code != 0 && code != 0x10 {
		c.t.Fatalf("%s: publish %q to %q = %#x, want it taken", c.name, payload, topic, code)
	}
}

// fence begins the payload of messages that only mark a point in time.
const fence = "fence-"

// next returns the next message, but for fences.
func (c *client) next() message {
	c.t.Helper()
	for {
		m, ok := c.messages.next(patience)
		if !ok {
			c.t.Fatalf("%s got no message within %v", c.name, patience)
		}
		if !strings.HasPrefix(m.Payload, fence) {
			return m
		}
	}
}

// hears checks that the next messages are these, "topic payload" each, in this order.
func (c *client) hears(want ...string) {
	c.t.Helper()
	for i, w := range want {
		if got := c.next(); got.says() != w {
			c.t.Fatalf("%s: message %d is %q, want %q (of %q)", c.name, i, got.says(), w, want)
		}
	}
}

// hearsNothingBut sets a fence on a topic that the client follows, and checks that nothing else came before it but what is
// wanted: what was on its way would have come.
func (c *client) hearsNothingBut(a *app, topic string, want ...string) {
	c.t.Helper()
	last := fmt.Sprintf("%s%s-%d", fence, c.id, time.Now().UnixNano())
	a.publish(topic, last, false)
	got := []string{}
	for {
		m, ok := c.messages.next(patience)
		if !ok {
			c.t.Fatalf("%s heard %q, and not the fence at %s", c.name, got, topic)
		}
		if m.Payload == last {
			break
		}
		if !strings.HasPrefix(m.Payload, fence) {
			got = append(got, m.says())
		}
	}
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		c.t.Fatalf("%s heard %q, want %q and nothing else", c.name, got, want)
	}
}

// endsWith waits until the network is gone, and checks with which code the server said so; 0: it said nothing.
func (c *client) endsWith(code int) {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("%s is still connected, want the connection ended (%#x)", c.name, code)
	}
	if c.endCode != code {
		c.t.Fatalf("%s: DISCONNECT %#x, want %#x", c.name, c.endCode, code)
	}
}

// disconnect leaves in good order.
func (c *client) disconnect() { c.t.Helper(); c.do("disconnect", nil, nil) }

func decode(tb testing.TB, raw []byte, v any) {
	tb.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		tb.Fatalf("%v: %s", err, raw)
	}
}

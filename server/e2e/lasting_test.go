package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// lasting is a client that people have, with a session that outlives its connections.
type lasting interface {
	// begin connects for the first time, and subscribes to in/# with QoS 2.
	begin()
	// leave ends the connection; the session stays.
	leave()
	// comeBack connects again after leave, and says whether the session was present.
	comeBack() (present bool)
	// returned waits until it has connected by itself after the server was started again, and says whether the session was
	// present.
	returned() (present bool)
	// next returns the next message.
	next() message
	// say publishes with QoS 2. Where there is no connection, a client that keeps what is under way sends it when there is one.
	say(topic, payload string)
	keeps() bool
}

// restart ends the server, by a signal, and starts it again.
func (s *server) restart(how syscall.Signal) {
	s.t.Helper()
	s.end(how)
	s.start()
}

func (s *server) end(how syscall.Signal) {
	s.t.Helper()
	if how == syscall.SIGKILL {
		s.crash()
		return
	}
	s.stop()
}

// playLasting is the story of a client that goes away, comes back, sees the server end twice, and has something to say while
// it is down.
func playLasting(t *testing.T, a *app, c lasting) {
	t.Helper()
	number := 0
	// Half of them have QoS 1, so that both kinds stand in one order.
	publish := func(count int) {
		t.Helper()
		for range count {
			number++
			a.s.call("POST", a.path("/publish"), a.s.admin, map[string]any{
				"topic": "in/box", "payload": fmt.Sprint(number), "qos": 1 + number%2, // odd ones 2
			}).want(200)
		}
	}
	// Clients show a message of QoS 2 when it is released, and so after those of QoS 1 that follow it: each QoS has its order.
	// One of QoS 1 may come again, where the server has not heard or not kept that it was acknowledged.
	heard := [3]int{1: 0, 2: -1}
	hears := func(when string) {
		t.Helper()
		for max(heard[1], heard[2]) < number || min(heard[1], heard[2]) < number-1 {
			m := c.next()
			n, err := strconv.Atoi(m.Payload)
			if want := heard[m.QoS] + 2; err != nil || n > want || n < want && m.QoS == 2 {
				t.Fatalf("%s: the next message of QoS %d is %q, want %d", when, m.QoS, m.Payload, want)
			}
			heard[m.QoS] = max(heard[m.QoS], n)
		}
	}
	box := a.openMailbox(t, "watcher", "out/#")

	c.begin()
	publish(5)
	hears("while it is there")
	c.leave()
	publish(20)
	a.s.restart(syscall.SIGKILL)
	publish(5)
	if !c.comeBack() {
		t.Fatal("it comes back after kill -9 and its session is not present")
	}
	publish(5)
	hears("after it was away")

	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		publish(5)
		if !c.keeps() {
			// What it has been sent at QoS 2 and not been told to take by PUBREL, it forgets when it ends with the server.
			hears("before the server ends")
		}
		a.s.end(how)
		if !c.keeps() {
			a.s.start()
		}
		said := []string{}
		for i := range 10 {
			said = append(said, fmt.Sprintf("said %d when the server had ended by %v", i, how))
			c.say("out/box", said[i])
		}
		if c.keeps() {
			a.s.start()
		}
		publish(5)
		if !c.returned() {
			t.Fatalf("it connects by itself after %v and its session is not present", how)
		}
		publish(5)
		hears(fmt.Sprint("after the server ended by ", how))
		if got := box.collect(len(said)); !slices.Equal(got, said) {
			t.Errorf("the watcher got %q, want %q", got, said)
		}
	}
	// What came twice would have come by now, or comes before this.
	publish(1)
	hears("at the end")
	if got := box.collect(0); len(got) > 0 {
		t.Errorf("the watcher got %q again", got)
	}
}

// mailbox is a session that is looked at now and then.
type mailbox struct {
	t        testing.TB
	a        *app
	id       string
	password string
	wire     *wire
}

// openMailbox makes a session with a subscription, and leaves it to itself.
func (a *app) openMailbox(tb testing.TB, id, filter string) *mailbox {
	tb.Helper()
	b := &mailbox{t: tb, a: a, id: id, password: a.token(id, time.Hour, "")}
	if b.open() {
		tb.Fatalf("the session of %s is present before it began", id)
	}
	b.wire.send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: filter, QoS: 2}}})
	if ack := next[*packet.Suback](b.wire); ack.Reasons[0] != packet.GrantedQoS2 {
		tb.Fatalf("SUBACK %v, want QoS 2", ack.Reasons)
	}
	b.close()
	return b
}

func (b *mailbox) open() (present bool) {
	b.t.Helper()
	b.wire = dialWire(b.t, b.a.s.mqtt)
	c := connectPacket(b.a, packet.V5, b.id, b.password)
	c.CleanStart = false
	c.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 3600}
	b.wire.send(c)
	ack := next[*packet.Connack](b.wire)
	if ack.Reason != packet.Success {
		b.t.Fatalf("CONNACK %v, want Success", ack.Reason)
	}
	return ack.SessionPresent
}

func (b *mailbox) close() {
	b.t.Helper()
	b.wire.send(&packet.Disconnect{})
	b.wire.wantClosed()
}

// collect takes so many messages, and what comes beside them before the answer to a PINGREQ.
func (b *mailbox) collect(count int) []string {
	b.t.Helper()
	if !b.open() {
		b.t.Fatalf("the session of %s is not present", b.id)
	}
	defer b.close()
	var got []string
	released, pinged := 0, false
	for {
		if len(got) >= count && released == len(got) && !pinged {
			b.wire.send(&packet.Ping{Kind: packet.TypePingreq})
			pinged = true
		}
		p, err := b.wire.read(patience)
		if err != nil {
			b.t.Fatalf("%s got %q, want %d messages: %v", b.id, got, count, err)
		}
		switch p := p.(type) {
		case *packet.Publish:
			got = append(got, string(p.Payload))
			b.wire.send(&packet.Ack{Kind: packet.TypePubrec, PacketID: p.PacketID})
		case *packet.Ack:
			released++
			b.wire.send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: p.PacketID})
		case *packet.Ping:
			return got
		}
	}
}

// lastingLibrary is mqtt.js or Paho.
type lastingLibrary struct {
	*client
	as login
}

func (c *lastingLibrary) begin() {
	c.t.Helper()
	if r := c.connectTo(c.as); r.Error != "" {
		c.t.Fatalf("%s cannot connect: %s", c.name, r.Error)
	}
	if present := c.returned(); present {
		c.t.Errorf("the session of %s is present before it began", c.name)
	}
	if codes := c.subscribeWith(2, 0, "in/#"); codes[0] != 2 {
		c.t.Fatalf("SUBACK %#x, want QoS 2", codes)
	}
}

func (c *lastingLibrary) leave() { c.t.Helper(); c.disconnect() }

func (c *lastingLibrary) comeBack() bool {
	c.t.Helper()
	c.do("back", nil, nil)
	return c.returned()
}

func (c *lastingLibrary) returned() bool {
	c.t.Helper()
	present, ok := c.sessions.next(patience)
	if !ok {
		c.t.Fatalf("%s has not connected within %v", c.name, patience)
	}
	return present
}

func (c *lastingLibrary) say(topic, payload string) {
	c.t.Helper()
	c.ask("publish", map[string]any{"topic": topic, "payload": payload, "qos": 2, "retain": false})
}

func (*lastingLibrary) keeps() bool { return true }

func playLastingLibrary(t story, l library, transport string, version int) {
	t.Helper()
	s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t))
	a := s.newApp("lasting", anything...)
	as := login{app: a, password: a.token("roamer", time.Hour, ""), transport: transport, version: version, lasts: true}
	playLasting(t.T, a, &lastingLibrary{l.start(t, "roamer"), as})
}

func TestASessionOfMQTTjsOutlivesItsConnectionAndTheServer(t *testing.T) {
	onBothStores(t, func(t story) { playLastingLibrary(t, mqttJS, "ws", 5) })
}

func TestASessionOfPahoOutlivesItsConnectionAndTheServer(t *testing.T) {
	onBothStores(t, func(t story) { playLastingLibrary(t, paho, "tcp", 4) })
}

// lastingMosquitto is mosquitto_sub, and mosquitto_pub for each thing that it says. It does not tell of Session Present.
type lastingMosquitto struct {
	t   *testing.T
	as  login
	sub *process
	got []string // lines of one that has ended
}

func (c *lastingMosquitto) begin() {
	c.t.Helper()
	c.sub = startProcess(c.t, "mosquitto_sub", mosquitto(c.t, "mosquitto_sub", c.as, "-c", "-x", "3600", "-t", "in/#", "-q", "2", "-F", "%q %t %p"))
	c.as.app.awaitSubscribed(c.as.clientID)
}

func (c *lastingMosquitto) leave() { c.sub.kill() }

func (c *lastingMosquitto) comeBack() bool {
	c.t.Helper()
	c.begin()
	return c.returned()
}

// returned starts it again where it has ended: the server's DISCONNECT is the end for it, a broken connection is not.
func (c *lastingMosquitto) returned() bool {
	c.t.Helper()
	eventually(c.t, patience, func() string {
		select {
		case <-c.sub.ended:
			c.got = append(c.got, c.sub.stdout.all()...)
			c.begin()
		default:
		}
		if !slices.Contains(c.as.app.connected(), c.as.clientID) {
			return "mosquitto_sub has not connected"
		}
		return ""
	})
	return true
}

func (c *lastingMosquitto) next() message {
	c.t.Helper()
	var m message
	line := ""
	if len(c.got) > 0 {
		line, c.got = c.got[0], c.got[1:]
	} else {
		line = c.sub.line()
	}
	if _, err := fmt.Sscanf(line, "%d %s %s", &m.QoS, &m.Topic, &m.Payload); err != nil {
		c.t.Fatalf("mosquitto_sub says %q: %v", line, err)
	}
	return m
}

func (*lastingMosquitto) keeps() bool { return false }

func (c *lastingMosquitto) say(topic, payload string) {
	c.t.Helper()
	as := c.as
	as.clientID = "roamer-says"
	if r := mosquittoPub(c.t, as, "-t", topic, "-m", payload, "-q", "2"); r.code != 0 {
		c.t.Fatalf("mosquitto_pub: %+v", r)
	}
}

func TestASessionOfMosquittoOutlivesItsConnectionAndTheServer(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t))
		a := s.newApp("lasting", anything...)
		playLasting(t.T, a, &lastingMosquitto{t: t.T, as: login{app: a, password: a.token("roamer", time.Hour, ""), clientID: "roamer"}})
	})
}

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// sessionStory is a test of one client's session, by hand: what clients of 3.1.1 and 5.0 are owed by the statements
// about sessions that outlive their connection.
type sessionStory struct {
	*testing.T
	app       *app
	version   packet.Version
	id        string // of the client, and the beginning of every topic
	password  string
	publisher *wire
	aside     map[*wire][]packet.Packet // what came before what was waited for
}

// take returns the next packet of one kind, and keeps those of others for later: messages, and the PUBRELs of earlier
// ones, come as they may.
func take[P packet.Packet](t sessionStory, w *wire) P {
	t.Helper()
	for i, p := range t.aside[w] {
		if as, ok := p.(P); ok {
			t.aside[w] = slices.Delete(t.aside[w], i, i+1)
			return as
		}
	}
	for {
		p, err := w.read(patience)
		if err != nil {
			t.Fatalf("read: %v, want a %T", err, *new(P))
		}
		if m, ok := p.(*packet.Publish); ok { // of which the decoder keeps a view
			kept := *m
			kept.Topic, kept.Payload = bytes.Clone(m.Topic), bytes.Clone(m.Payload)
			p = &kept
		}
		if as, ok := p.(P); ok {
			return as
		}
		t.aside[w] = append(t.aside[w], p)
	}
}

// topic is one of the story's own.
func (t sessionStory) topic(rest string) string { return t.id + "/" + rest }

// sessionExpiry asks for a session of some seconds, where the version can.
func sessionExpiry(seconds uint32) func(*packet.Connect) {
	return func(p *packet.Connect) {
		if p.Version != packet.V5 {
			return
		}
		if p.Properties == nil {
			p.Properties = &packet.Properties{}
		}
		p.Properties.Has |= packet.PropSessionExpiry
		p.Properties.SessionExpiry = seconds
	}
}

// connectAs connects a client and tells whether its session was there. The session outlives the connection, unless
// changed or, in 3.1.1, begun with a clean start.
func (t sessionStory) connectAs(id string, cleanStart bool, change ...func(*packet.Connect)) (w *wire, present bool) {
	t.Helper()
	w = dialWire(t.T, t.app.s.mqtt)
	w.speak(t.version)
	p := connectPacket(t.app, t.version, id, t.password)
	p.CleanStart = cleanStart
	sessionExpiry(3600)(p)
	for _, f := range change {
		f(p)
	}
	w.send(p)
	ack := next[*packet.Connack](w)
	if ack.Reason != packet.Success {
		t.Fatalf("CONNACK %v, want Success", ack.Reason)
	}
	return w, ack.SessionPresent
}

// begin begins the session, subscribed to a topic at QoS 2.
func (t sessionStory) begin(topic string, change ...func(*packet.Connect)) *wire {
	t.Helper()
	w, present := t.connectAs(t.id, false, change...)
	if present {
		t.Fatal("Session Present 1 for a client that was never there")
	}
	t.subscribe(w, topic)
	return w
}

// resume connects with Clean Start 0 and wants the session to be there, or not.
func (t sessionStory) resume(want bool, change ...func(*packet.Connect)) *wire {
	t.Helper()
	w, present := t.connectAs(t.id, false, change...)
	if present != want {
		t.Fatalf("Session Present %v, want %v", present, want)
	}
	return w
}

func (t sessionStory) subscribe(w *wire, filter string) {
	t.Helper()
	w.send(&packet.Subscribe{PacketID: 9, Subscriptions: []packet.Subscription{{Filter: filter, QoS: 2}}})
	if ack := next[*packet.Suback](w); !slices.Equal(ack.Reasons, []packet.ReasonCode{packet.GrantedQoS2}) {
		t.Fatalf("SUBACK %v, want QoS 2", ack.Reasons)
	}
}

// lose closes a client's connection without DISCONNECT, and waits until the server knows.
func (t sessionStory) lose(w *wire, id string) {
	t.Helper()
	if err := w.net.Close(); err != nil {
		t.Fatal(err)
	}
	t.awaitAway(id)
}

func (t sessionStory) awaitAway(id string) {
	t.Helper()
	eventually(t.T, patience, func() string {
		if slices.Contains(t.app.connected(), id) {
			return id + " is still connected"
		}
		return ""
	})
}

// awaitForgotten waits until the server has no session of a client any more.
func (t sessionStory) awaitForgotten(id string) {
	t.Helper()
	eventually(t.T, patience, func() string {
		if status := t.app.s.call("GET", t.app.path("/clients/"+id), t.app.s.admin, nil).status; status != http.StatusNotFound {
			return fmt.Sprintf("the session of %s is still there: status %d", id, status)
		}
		return ""
	})
}

// passes waits until some time has passed since a moment.
func (t sessionStory) passes(what time.Duration, since time.Time) {
	t.Helper()
	eventually(t.T, what+patience, func() string {
		if past := time.Since(since); past < what {
			return fmt.Sprintf("only %v have passed", past)
		}
		return ""
	})
}

// say publishes at a QoS, to the end of the handshake.
func (t sessionStory) say(topic, payload string, qos byte, change ...func(*packet.Publish)) {
	t.Helper()
	p := &packet.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
	if qos > 0 {
		p.PacketID = 7
	}
	for _, f := range change {
		f(p)
	}
	t.publisher.send(p)
	for _, answer := range [][]packet.Type{{}, {packet.TypePuback}, {packet.TypePubrec, packet.TypePubcomp}}[qos] {
		if ack := next[*packet.Ack](t.publisher); ack.Kind != answer || ack.Reason != packet.Success {
			t.Fatalf("%v %v to a publish at QoS %d", ack.Kind, ack.Reason, qos)
		}
		if answer == packet.TypePubrec {
			t.publisher.send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 7})
		}
	}
}

func expires(seconds uint32) func(*packet.Publish) {
	return func(p *packet.Publish) {
		p.Properties = &packet.Properties{Has: packet.PropMessageExpiry, MessageExpiry: seconds}
	}
}

// message takes the next packet, which must be this message.
func (t sessionStory) message(w *wire, payload string, qos byte, dup bool) packet.Publish {
	t.Helper()
	m := *take[*packet.Publish](t, w)
	if string(m.Payload) != payload || m.QoS != qos || m.Dup != dup || (m.PacketID == 0) != (qos == 0) {
		t.Fatalf("got %s %q at QoS %d, DUP %v, identifier %d; want %q at QoS %d, DUP %v",
			m.Topic, m.Payload, m.QoS, m.Dup, m.PacketID, payload, qos, dup)
	}
	return m
}

// acknowledge answers a message as a client has to.
func (t sessionStory) acknowledge(w *wire, m packet.Publish) {
	t.Helper()
	switch m.QoS {
	case 1:
		w.send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
	case 2:
		w.send(&packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
		t.ack(w, packet.TypePubrel, m.PacketID)
		w.send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: m.PacketID})
	}
}

// ack takes the next packet, which must be this acknowledgement.
func (t sessionStory) ack(w *wire, kind packet.Type, id uint16) {
	t.Helper()
	if a := take[*packet.Ack](t, w); a.Kind != kind || a.PacketID != id || a.Reason != packet.Success {
		t.Fatalf("got %v of %d, reason %v; want %v of %d", a.Kind, a.PacketID, a.Reason, kind, id)
	}
}

// nothingMore wants nothing to come before a message that is published now to a topic the client is subscribed to: all
// that was to come before has its place before it.
func (t sessionStory) nothingMore(w *wire, topic string) {
	t.Helper()
	t.say(topic, "the fence", 2)
	t.acknowledge(w, t.message(w, "the fence", 2, false))
	t.ping(w)
	if rest := t.aside[w]; len(rest) > 0 {
		t.Fatalf("got %T %+v as well", rest[0], rest[0])
	}
}

// ping wants an answer: the server has read all that was sent.
func (t sessionStory) ping(w *wire) {
	t.Helper()
	w.send(&packet.Ping{Kind: packet.TypePingreq})
	take[*packet.Ping](t, w)
}

// The stories, by what they show. Those of one version say so.
var sessionStories = map[string]func(t sessionStory){ //nolint:gochecknoglobals // a table
	"is resumed with its subscriptions and, in order, what came meanwhile " +
		"[MQTT5-3.1.2-5] [MQTT5-3.1.2-23] [MQTT5-3.2.2-3] [MQTT5-4.5.0-1] " +
		"[MQTT311-3.1.2-4] [MQTT311-3.1.2-5] [MQTT311-3.2.2-2] [MQTT311-4.1.0-1] [MQTT311-4.5.0-1]": resumed,
	"remembers the identifiers of QoS 2 messages it has taken over " +
		"[MQTT5-3.1.2-23] [MQTT5-4.3.3-10] [MQTT311-4.1.0-1] [MQTT311-4.3.3-2]": remembersInbound,
	"is discarded by a clean start, whose own ends with its connection " +
		"[MQTT5-3.1.2-4] [MQTT5-3.1.4-4] [MQTT5-3.2.2-2] [MQTT311-3.1.2-6] [MQTT311-3.1.4-3] [MQTT311-3.2.2-1]": discarded,
	"ends without the retained messages that it published [MQTT311-3.1.2-7]": leavesRetained,
	"sends again what was not acknowledged, in order, with DUP and under its identifiers; PUBREL where PUBREC has come; and once " +
		"[MQTT5-4.4.0-1] [MQTT5-3.3.1-1] [MQTT5-4.6.0-1] [MQTT5-4.3.3-6] " +
		"[MQTT311-4.4.0-1] [MQTT311-3.3.1-1] [MQTT311-4.6.0-1] [MQTT311-4.3.3-1]": sendsAgain,
	"is taken over with all it has by a second connection [MQTT5-3.1.2-5] [MQTT5-3.1.3-2] [MQTT311-3.1.2-4] [MQTT311-3.1.3-2]": takenOver,
	"5.0: does not send again what was refused [MQTT5-4.4.0-2]":                                                                refused,
	"5.0: drops what expires unsent, tells what time is left, and sends again what expired on its way " +
		"[MQTT5-3.3.2-5] [MQTT5-3.3.2-6] [MQTT5-4.3.3-7]": expired,
	"5.0: ends when its Session Expiry Interval has passed, or with a DISCONNECT that says 0 [MQTT5-4.1.0-2]": ends,
	"5.0: sends again no more at a time than the Receive Maximum of the new connection [MQTT5-4.9.0-1]":       resumedWithLess,
	"brings what came meanwhile at the QoS that was granted, and once where subscriptions overlap " +
		"[MQTT5-3.8.4-8] [MQTT5-3.3.4-2] [MQTT311-3.8.4-6] [MQTT311-3.3.5-1]": atGrantedQoS,
	"5.0: brings what came meanwhile, and again what was under way, with everything that belongs to it " +
		"[MQTT5-3.3.4-3] [MQTT5-3.3.4-4] [MQTT5-3.3.1-13] [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] " +
		"[MQTT5-3.3.2-18] [MQTT5-3.3.2-20]": wholeMessages,
	"5.0: does not bring what its own client has published, where No Local was asked for [MQTT5-3.8.3-3]":                nothingOfItsOwn,
	"5.0: drops what is too large for the new connection, and goes on [MQTT5-3.1.2-24] [MQTT5-3.1.2-25]":                 nothingTooLarge,
	"5.0: keeps no Topic Alias [MQTT5-3.3.2-7]":                                                                          keepsNoAlias,
	"5.0: sends no will when the client is back within the Will Delay Interval [MQTT5-3.1.3-9]":                          noWill,
	"5.0: sends no will when the client is back in time with a clean start [MQTT5-3.1.2-8] [MQTT5-3.1.2-4]":              noWillOfTheDiscarded,
	"5.0: sends the will after its delay, or when it ends before that, as it was given [MQTT5-3.1.2-8] [MQTT5-3.1.3-10]": delayedWill,
	"5.0: of a member of a Shared Subscription completes its QoS 2 message when the member is back, and it goes to no other " +
		"[MQTT5-4.8.2-4]": sharedIsCompleted,
	"5.0: of a member of a Shared Subscription that ends takes its QoS 2 message with it [MQTT5-4.8.2-5]": sharedEnds,
}

func TestASession(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("sessions", allow("publish subscribe share", "#"))
		n := 0
		for name, tell := range sessionStories {
			for _, v := range []packet.Version{packet.V311, packet.V5} {
				only5 := strings.HasPrefix(name, "5.0: ")
				if only5 && v != packet.V5 {
					continue
				}
				n++
				id := fmt.Sprint("client-", n)
				t.Run(fmt.Sprintf("%s, version %d", name, v), func(t *testing.T) {
					t.Parallel()
					a := a.with(t)
					password := a.token(id, time.Hour, "")
					tell(sessionStory{
						T: t, app: a, version: v, id: id, password: password,
						publisher: a.connectWire(id+"-publisher", password), aside: map[*wire][]packet.Packet{},
					})
				})
			}
		}
	})
}

func resumed(t sessionStory) {
	w := t.begin(t.topic("+"))
	t.lose(w, t.id)
	for i := range 10 {
		t.say(t.topic(fmt.Sprint(i%2)), fmt.Sprint(i), 1+byte(i%2))
	}
	w = t.resume(true)
	for i := range 10 {
		t.acknowledge(w, t.message(w, fmt.Sprint(i), 1+byte(i%2), false))
	}
	t.nothingMore(w, t.topic("live"))
	t.lose(w, t.id)
	t.nothingMore(t.resume(true), t.topic("live"))
}

func remembersInbound(t sessionStory) {
	w := t.begin(t.topic("own"))
	watcher, _ := t.connectAs(t.id+"-watcher", true)
	t.subscribe(watcher, t.topic("said"))
	p := &packet.Publish{Topic: []byte(t.topic("said")), Payload: []byte("once"), QoS: 2, PacketID: 300}
	w.send(p)
	t.ack(w, packet.TypePubrec, 300)
	t.acknowledge(watcher, t.message(watcher, "once", 2, false))
	t.lose(w, t.id)
	w = t.resume(true)
	p.Dup = true
	w.send(p)
	t.ack(w, packet.TypePubrec, 300)
	t.nothingMore(watcher, t.topic("said"))
	w.send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 300})
	t.ack(w, packet.TypePubcomp, 300)
	w.send(p) // a new message now
	t.ack(w, packet.TypePubrec, 300)
	t.acknowledge(watcher, t.message(watcher, "once", 2, false))
}

func discarded(t sessionStory) {
	w := t.begin(t.topic("old"))
	t.say(t.topic("old"), "under way", 2)
	t.message(w, "under way", 2, false)
	t.lose(w, t.id)
	t.say(t.topic("old"), "while away", 1)
	w, present := t.connectAs(t.id, true, sessionExpiry(0))
	if present {
		t.Fatal("Session Present 1 after a clean start")
	}
	t.say(t.topic("old"), "nobody is subscribed", 1)
	t.subscribe(w, t.topic("new"))
	t.nothingMore(w, t.topic("new"))
	t.lose(w, t.id)
	t.say(t.topic("new"), "while away", 1)
	w = t.resume(false)
	t.subscribe(w, t.topic("fence"))
	t.nothingMore(w, t.topic("fence"))
}

func leavesRetained(t sessionStory) {
	w := t.begin(t.topic("own"))
	w.send(&packet.Publish{Topic: []byte(t.topic("kept")), Payload: []byte("value"), QoS: 1, PacketID: 5, Retain: true})
	t.ack(w, packet.TypePuback, 5)
	t.lose(w, t.id)
	w, _ = t.connectAs(t.id, true, sessionExpiry(0))
	t.lose(w, t.id)
	t.awaitForgotten(t.id)
	w, _ = t.connectAs(t.id+"-late", true, sessionExpiry(0))
	t.subscribe(w, t.topic("kept"))
	if m := t.message(w, "value", 1, false); !m.Retain {
		t.Error("it came without RETAIN")
	}
}

func sendsAgain(t sessionStory) {
	w := t.begin(t.topic("a"))
	qos := []byte{1, 2, 2, 1, 1, 2}
	var sent []packet.Publish
	for i, q := range qos {
		t.say(t.topic("a"), fmt.Sprint(i), q)
		sent = append(sent, t.message(w, fmt.Sprint(i), q, false))
	}
	w.send(&packet.Ack{Kind: packet.TypePubrec, PacketID: sent[2].PacketID}) // and no PUBCOMP
	t.ack(w, packet.TypePubrel, sent[2].PacketID)
	t.acknowledge(w, sent[3])
	t.acknowledge(w, sent[5])
	t.ping(w)
	for range 2 { // as often as the client comes back
		t.lose(w, t.id)
		w = t.resume(true)
		var ids, released []uint16
		for range 4 {
			p, err := w.read(patience)
			if err != nil {
				t.Fatal(err)
			}
			switch p := p.(type) {
			case *packet.Publish:
				if i := int(p.Payload[0] - '0'); !p.Dup || p.PacketID != sent[i].PacketID || p.QoS != sent[i].QoS {
					t.Fatalf("%q came again at QoS %d, DUP %v, identifier %d; first it was %d, %d", p.Payload, p.QoS, p.Dup, p.PacketID, sent[i].QoS, sent[i].PacketID)
				}
				ids = append(ids, p.PacketID)
			case *packet.Ack:
				if p.Kind != packet.TypePubrel {
					t.Fatalf("got %v", p.Kind)
				}
				released = append(released, p.PacketID)
			default:
				t.Fatalf("got %T", p)
			}
		}
		if want := []uint16{sent[0].PacketID, sent[1].PacketID, sent[4].PacketID}; !slices.Equal(ids, want) {
			t.Fatalf("sent again = %v, want %v in the order of sending", ids, want)
		}
		if want := []uint16{sent[2].PacketID}; !slices.Equal(released, want) {
			t.Fatalf("PUBREL of %v, want of %v", released, want)
		}
		t.nothingMore(w, t.topic("a")) // nor is any of it sent once more while the connection lasts
	}
	for _, i := range []int{0, 1, 4} {
		t.acknowledge(w, sent[i])
	}
	w.send(&packet.Ack{Kind: packet.TypePubcomp, PacketID: sent[2].PacketID})
	t.nothingMore(w, t.topic("a"))
	t.lose(w, t.id)
	t.nothingMore(t.resume(true), t.topic("a"))
}

func takenOver(t sessionStory) {
	w := t.begin(t.topic("a"))
	t.say(t.topic("a"), "under way", 2)
	first := t.message(w, "under way", 2, false)
	again := t.resume(true)
	if t.version == packet.V5 {
		if d := next[*packet.Disconnect](w); d.Reason != packet.SessionTakenOver {
			t.Errorf("DISCONNECT %v, want Session taken over", d.Reason)
		}
	}
	w.wantClosed()
	if m := t.message(again, "under way", 2, true); m.PacketID != first.PacketID {
		t.Errorf("identifier %d, want %d as before", m.PacketID, first.PacketID)
	}
	t.acknowledge(again, first)
	t.nothingMore(again, t.topic("a"))
}

func refused(t sessionStory) {
	w := t.begin(t.topic("a"))
	for qos, kind := range map[byte]packet.Type{1: packet.TypePuback, 2: packet.TypePubrec} {
		t.say(t.topic("a"), "refused", qos)
		m := t.message(w, "refused", qos, false)
		w.send(&packet.Ack{Kind: kind, PacketID: m.PacketID, Reason: packet.QuotaExceeded})
	}
	t.nothingMore(w, t.topic("a"))
	t.lose(w, t.id)
	t.nothingMore(t.resume(true), t.topic("a"))
}

func expired(t sessionStory) {
	w := t.begin(t.topic("a"))
	said := time.Now()
	t.say(t.topic("a"), "on its way", 2, expires(4))
	first := t.message(w, "on its way", 2, false)
	t.lose(w, t.id)
	t.say(t.topic("a"), "too late", 1, expires(1))
	t.say(t.topic("a"), "in time", 1, expires(1000))
	t.passes(5*time.Second, said)
	w = t.resume(true)
	if m := t.message(w, "on its way", 2, true); m.PacketID != first.PacketID {
		t.Errorf("identifier %d, want %d as before", m.PacketID, first.PacketID)
	}
	t.acknowledge(w, first)
	m := t.message(w, "in time", 1, false)
	if m.Properties == nil || m.Properties.MessageExpiry > 998 || m.Properties.MessageExpiry < 900 {
		t.Errorf("properties = %+v, want what is left of 1000 seconds", m.Properties)
	}
	t.acknowledge(w, m)
	t.nothingMore(w, t.topic("a"))
}

func ends(t sessionStory) {
	w := t.begin(t.topic("a"))
	t.lose(w, t.id)
	w = t.resume(true, sessionExpiry(2)) // the new connection's counts
	closed := time.Now()
	t.lose(w, t.id)
	t.awaitForgotten(t.id)
	if took := time.Since(closed); took < 2*time.Second {
		t.Errorf("forgotten after %v, want 2 s at least", took)
	}
	w = t.resume(false)
	t.subscribe(w, t.topic("fence"))
	t.nothingMore(w, t.topic("fence"))
	w.send(&packet.Disconnect{Properties: &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 0}})
	w.wantClosed()
	t.awaitForgotten(t.id)
	t.resume(false)
}

func resumedWithLess(t sessionStory) {
	w := t.begin(t.topic("a"))
	var sent []packet.Publish
	for i := range 4 {
		t.say(t.topic("a"), fmt.Sprint(i), 1+byte(i%2))
		sent = append(sent, t.message(w, fmt.Sprint(i), 1+byte(i%2), false))
	}
	t.lose(w, t.id)
	w = t.resume(true, func(p *packet.Connect) {
		p.Properties.Has |= packet.PropReceiveMaximum
		p.Properties.ReceiveMaximum = 2
	})
	t.message(w, "0", 1, true)
	t.message(w, "1", 2, true)
	for i := range 2 {
		t.ping(w)
		if n := len(t.aside[w]); n > 0 {
			t.Fatalf("%d more than two at a time", n)
		}
		t.acknowledge(w, sent[i])
		t.message(w, fmt.Sprint(i+2), 1+byte(i%2), true)
	}
}

func keepsNoAlias(t sessionStory) {
	w := t.begin(t.topic("own"))
	alias := &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: 1}
	w.send(&packet.Publish{Topic: []byte(t.topic("a")), QoS: 1, PacketID: 1, Properties: alias})
	t.ack(w, packet.TypePuback, 1)
	w.send(&packet.Publish{QoS: 1, PacketID: 2, Properties: alias})
	t.ack(w, packet.TypePuback, 2)
	t.lose(w, t.id)
	w = t.resume(true)
	w.send(&packet.Publish{QoS: 1, PacketID: 3, Properties: alias})
	if d := next[*packet.Disconnect](w); d.Reason != packet.ProtocolError {
		t.Errorf("DISCONNECT %v, want Protocol error", d.Reason)
	}
	w.wantClosed()
}

func atGrantedQoS(t sessionStory) {
	w := t.begin(t.topic("fence"))
	for filter, qos := range map[string]byte{t.topic("one"): 1, t.topic("both/#"): 1, t.topic("both/+"): 2, t.topic("+/both"): 0} {
		w.send(&packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{{Filter: filter, QoS: qos}}})
		take[*packet.Suback](t, w)
	}
	t.lose(w, t.id)
	t.say(t.topic("one"), "1", 2)
	t.say(t.topic("one"), "2", 1)
	t.say(t.topic("both/both"), "3", 2)
	t.say(t.topic("both/both"), "4", 1)
	w = t.resume(true)
	for i, qos := range []byte{1, 1, 2, 1} {
		t.acknowledge(w, t.message(w, fmt.Sprint(i+1), qos, false))
	}
	t.nothingMore(w, t.topic("fence"))
}

func wholeMessages(t sessionStory) {
	w := t.begin(t.topic("fence"))
	for id, filter := range map[uint32]string{5: t.topic("a/#"), 268_435_455: t.topic("+/b"), 9: t.topic("other")} {
		w.send(&packet.Subscribe{
			PacketID: 3, Subscriptions: []packet.Subscription{{Filter: filter, QoS: 2, RetainAsPublished: true}},
			Properties: &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{id}},
		})
		take[*packet.Suback](t, w)
	}
	t.lose(w, t.id)
	want := packet.Properties{
		Has: packet.PropPayloadFormat | packet.PropContentType | packet.PropResponseTopic | packet.PropCorrelationData |
			packet.PropUser | packet.PropSubscriptionID,
		PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "answers/to", CorrelationData: []byte{0, 255, 1},
		User:            []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: ""}},
		SubscriptionIDs: []uint32{5, 268_435_455},
	}
	sent := want
	sent.Has &^= packet.PropSubscriptionID
	for i, retain := range []bool{true, false} {
		t.say(t.topic("a/b"), fmt.Sprint(i), 1+byte(i), func(p *packet.Publish) { p.Retain, p.Properties = retain, &sent })
	}
	for _, again := range []bool{false, true, true} {
		w = t.resume(true)
		for i, retain := range []bool{true, false} {
			m := t.message(w, fmt.Sprint(i), 1+byte(i), again)
			if m.Properties != nil {
				slices.Sort(m.Properties.SubscriptionIDs)
			}
			if m.Retain != retain || m.Properties == nil || !reflect.DeepEqual(*m.Properties, want) {
				t.Errorf("RETAIN %v, properties %+v; want %v, %+v", m.Retain, m.Properties, retain, want)
			}
		}
		t.lose(w, t.id)
	}
}

func nothingOfItsOwn(t sessionStory) {
	w := t.begin(t.topic("fence"))
	w.send(&packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{{Filter: t.topic("a"), QoS: 2, NoLocal: true}}})
	take[*packet.Suback](t, w)
	for round := range 2 {
		for i := range byte(3) {
			w.send(&packet.Publish{Topic: []byte(t.topic("a")), Payload: []byte("own"), QoS: i, PacketID: uint16(i) * uint16(10+round)})
		}
		t.ack(w, packet.TypePuback, uint16(10+round))
		t.ack(w, packet.TypePubrec, uint16(20+2*round))
		t.lose(w, t.id)
		t.say(t.topic("a"), "another's", 1)
		w = t.resume(true)
		t.acknowledge(w, t.message(w, "another's", 1, false))
		t.nothingMore(w, t.topic("fence"))
	}
}

func nothingTooLarge(t sessionStory) {
	large := strings.Repeat("x", 1000)
	w := t.begin(t.topic("a"))
	for qos := range byte(2) {
		t.say(t.topic("a"), large, 1+qos)
		t.message(w, large, 1+qos, false)
	}
	t.lose(w, t.id)
	for qos := range byte(2) {
		t.say(t.topic("a"), large, 1+qos)
		t.say(t.topic("a"), "fits", 1+qos)
	}
	w = t.resume(true, func(p *packet.Connect) {
		p.Properties.Has |= packet.PropMaximumPacketSize | packet.PropReceiveMaximum
		p.Properties.MaximumPacketSize, p.Properties.ReceiveMaximum = 200, 1
	})
	for qos := range byte(2) {
		t.acknowledge(w, t.message(w, "fits", 1+qos, false))
	}
	t.nothingMore(w, t.topic("a"))
	t.lose(w, t.id)
	t.nothingMore(t.resume(true), t.topic("a"))
}

// withDelayedWill gives a CONNECT a will that waits.
func withDelayedWill(topic string, seconds uint32) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.Will = &packet.Will{
			Topic: topic, Payload: []byte("gone"), QoS: 1,
			Properties: &packet.Properties{Has: packet.PropWillDelay | packet.PropUser, WillDelay: seconds, User: willProperties},
		}
	}
}

var willProperties = []packet.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "0"}} //nolint:gochecknoglobals // a table

func noWill(t sessionStory) {
	watcher, _ := t.connectAs(t.id+"-watcher", true)
	t.subscribe(watcher, t.topic("will"))
	w := t.begin(t.topic("own"), withDelayedWill(t.topic("will"), 5))
	lost := time.Now()
	t.lose(w, t.id)
	w = t.resume(true)
	if took := time.Since(lost); took > 4*time.Second {
		t.Logf("the machine is slow: back after %v", took)
	}
	t.passes(7*time.Second, lost)
	t.nothingMore(watcher, t.topic("will"))
	w.send(&packet.Disconnect{})
	w.wantClosed()
	t.nothingMore(watcher, t.topic("will"))
}

func delayedWill(t sessionStory) {
	watcher, _ := t.connectAs(t.id+"-watcher", true)
	t.subscribe(watcher, t.topic("will"))
	for _, c := range []struct{ delay, expiry uint32 }{{2, 3600}, {3600, 2}} {
		w, _ := t.connectAs(t.id, true, sessionExpiry(c.expiry), withDelayedWill(t.topic("will"), c.delay))
		t.lose(w, t.id)
		lost := time.Now()
		m := t.message(watcher, "gone", 1, false)
		if want := (packet.Properties{Has: packet.PropUser, User: willProperties}); m.Properties == nil || !reflect.DeepEqual(*m.Properties, want) {
			t.Errorf("properties %+v, want %+v", m.Properties, want)
		}
		t.acknowledge(watcher, m)
		if took := time.Since(lost); took < time.Second { // it was lost a little before that was known
			t.Errorf("the will came after %v, want 2 s (delay %d s, session %d s)", took, c.delay, c.expiry)
		}
		t.nothingMore(watcher, t.topic("will"))
	}
}

func noWillOfTheDiscarded(t sessionStory) {
	watcher, _ := t.connectAs(t.id+"-watcher", true)
	t.subscribe(watcher, t.topic("will"))
	w := t.begin(t.topic("own"), withDelayedWill(t.topic("will"), 3600))
	t.lose(w, t.id)
	t.nothingMore(watcher, t.topic("will"))
	w, _ = t.connectAs(t.id, true)
	t.nothingMore(watcher, t.topic("will"))
	t.lose(w, t.id)
	t.nothingMore(watcher, t.topic("will"))
}

func sharedIsCompleted(t sessionStory) {
	shared := "$share/group/" + t.topic("a")
	w := t.begin(shared)
	t.say(t.topic("a"), "under way", 2)
	first := t.message(w, "under way", 2, false)
	other, _ := t.connectAs(t.id+"-other", false)
	t.subscribe(other, shared)
	t.lose(w, t.id)
	t.nothingMore(other, t.topic("a"))
	w = t.resume(true)
	if m := t.message(w, "under way", 2, true); m.PacketID != first.PacketID {
		t.Errorf("identifier %d, want %d as before", m.PacketID, first.PacketID)
	}
	t.acknowledge(w, first)
}

func sharedEnds(t sessionStory) {
	shared := "$share/group/" + t.topic("a")
	other, _ := t.connectAs(t.id+"-other", false)
	for _, end := range []func(){
		func() { t.awaitForgotten(t.id) }, // its time passes
		func() { // a clean start discards it
			w, _ := t.connectAs(t.id, true, sessionExpiry(0))
			t.ping(w)
			t.lose(w, t.id)
		},
	} {
		w := t.begin(shared, sessionExpiry(1))
		t.say(t.topic("a"), "under way", 2)
		t.message(w, "under way", 2, false)
		t.subscribe(other, shared)
		t.lose(w, t.id)
		end()
		t.nothingMore(other, t.topic("a"))
		other.send(&packet.Unsubscribe{PacketID: 3, Filters: []string{shared}})
		take[*packet.Unsuback](t, other)
	}
}

package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// The crash model: a client, a server that holds its Session, and a store. The client publishes messages, which the
// server puts into the store's log, and is subscribed to all of the log, so that each message goes both ways. Between
// any two things that happen the server may crash, or the connection may break. What was committed stays; what was
// only in memory, or on its way, is gone. The client is a correct one and forgets nothing.
//
// Whatever the server does that matters is an effect: a commit, or a packet that leaves. Effects happen one by one, in
// the order in which they were decided, as docs/architecture.md ("Durable state") wants it.

// kind is the kind of a packet.
type kind string

const (
	publish kind = "PUBLISH"
	puback  kind = "PUBACK"
	pubrec  kind = "PUBREC"
	pubrel  kind = "PUBREL"
	pubcomp kind = "PUBCOMP"
)

// pkt is a packet on its way. Its message is a number, by which it is told apart.
type pkt struct {
	kind kind
	id   uint16
	qos  byte
	msg  int
}

// fault is a wrong order, to see whether the model notices.
type fault string

const (
	none                fault = ""
	ackBeforeMessage    fault = "PUBACK before its message is committed"
	recBeforeMessage    fault = "PUBREC before its message is committed"
	idAfterMessage      fault = "the packet id of a QoS 2 message not in the same transaction, but later"
	idKeptAtOnce        fault = "the packet id of a QoS 2 message in whatever is committed since it arrived"
	idBeforeMessage     fault = "the packet id of a QoS 2 message not in the same transaction, but before"
	compBeforeDeletion  fault = "PUBCOMP before the packet id's deletion is committed"
	publishBeforeRow    fault = "PUBLISH of QoS 2 before its window row is committed"
	relBeforeState      fault = "PUBREL before the state rel is committed"
	publishAfterRel     fault = "PUBLISH sent again though PUBREL was sent"
	cursorBeforeWindow  fault = "the cursor committed as far as was sent, without the window"
	duplicateAtOnce     fault = "a duplicate answered before what it duplicates is committed"
	windowOutOfOrder    fault = "unacknowledged messages sent again in another order"
	newIdentifierResent fault = "unacknowledged QoS 2 messages sent again with new packet ids"
)

// logEntry is a message in the log; its position is its index plus 1.
type logEntry struct {
	msg int
	qos byte
}

// store is what survives a crash.
type store struct {
	log    []logEntry
	cursor uint64
	window []byte
	ids    []byte
	last   uint16
}

// effect is a commit or a packet that leaves.
type effect struct {
	name   string
	commit func(*store)
	send   *pkt
}

// client is the other side, correct and with a good memory.
type client struct {
	qos      []byte         // of the messages 1, 2, …
	next     int            // the message to publish next
	inflight []flight       // published and not acknowledged, in order
	holds    map[uint16]int // the QoS 2 messages received whose PUBREL has not come
	got      []int          // the messages received, as they are handed to the application
}

type flight struct {
	id  uint16
	msg int
	rel bool
}

// world is all there is.
type world struct {
	fault      fault
	receiveMax uint16
	store      store
	s          *Session // nil: the server is down
	read       int      // how many entries of the log the session has taken
	effects    []effect
	dirty      bool // what may be flushed lazily is not
	expired    bool // the time of the messages that expire has come
	client     client
	connected  bool
	toServer   []pkt
	toClient   []pkt
	lastEffect string
	crashedAt  map[string]bool // between which effects the server crashed
}

func newWorld(f fault, qos []byte, last uint16) *world {
	return &world{
		fault: f, receiveMax: 3, store: store{last: last}, client: client{qos: qos, next: 1, holds: map[uint16]int{}},
		crashedAt: map[string]bool{},
	}
}

// expires tells which messages expire when the time comes.
func (w *world) expires(msg int) bool { return msg%3 == 1 }

// --- the client

func (w *world) clientPublishes() {
	c := &w.client
	id := uint16(1)
	for slices.ContainsFunc(c.inflight, func(f flight) bool { return f.id == id }) {
		id++
	}
	c.inflight = append(c.inflight, flight{id: id, msg: c.next})
	w.toServer = append(w.toServer, pkt{publish, id, c.qos[c.next-1], c.next})
	c.next++
}

func (w *world) clientTakes(p pkt) {
	c := &w.client
	i := slices.IndexFunc(c.inflight, func(f flight) bool { return f.id == p.id })
	answer := pkt{id: p.id}
	switch p.kind {
	case publish:
		answer.kind = puback
		if p.qos == 2 {
			answer.kind = pubrec
		}
		if _, duplicate := c.holds[p.id]; p.qos == 1 || !duplicate {
			c.got = append(c.got, p.msg)
		}
		if p.qos == 2 {
			c.holds[p.id] = p.msg
		}
	case pubrel:
		delete(c.holds, p.id)
		answer.kind = pubcomp
	case pubrec:
		if i >= 0 {
			c.inflight[i].rel = true
		}
		answer.kind = pubrel
	case puback, pubcomp:
		if i >= 0 {
			c.inflight = slices.Delete(c.inflight, i, i+1)
		}
		return
	}
	w.toServer = append(w.toServer, answer)
}

// --- the server

// then decides what happens next: the commit, then the packet; the other way round if that is the fault.
func (w *world) then(wrong fault, name string, commit func(*store), p pkt) {
	both := []effect{{name: name, commit: commit}, {name: string(p.kind), send: &p}}
	if w.fault == wrong {
		slices.Reverse(both)
	}
	w.effects = append(w.effects, both...)
}

// answer sends a packet that needs no commit of its own, but none of those under way is overtaken.
func (w *world) answer(p pkt) {
	if w.fault == duplicateAtOnce {
		w.toClient = append(w.toClient, p)
		return
	}
	w.effects = append(w.effects, effect{name: string(p.kind), send: &p})
}

// row commits the session as it is when the batch is made.
func (w *world) row(s *store) {
	st := w.s.State()
	s.window, s.ids = AppendWindow(nil, st.Window), AppendPacketIDs(nil, st.Inbound)
	s.cursor, s.last = st.Cursor.Seq, st.NextPacketID
	if w.fault == cursorBeforeWindow {
		s.cursor, s.window = uint64(w.read), nil
	}
	w.dirty = false
}

func (w *world) serverTakes(p pkt) {
	switch p.kind {
	case publish:
		w.serverTakesPublish(p)
	case puback:
		w.s.Puback(p.id)
		w.dirty = true
	case pubcomp:
		w.s.Pubcomp(p.id)
		w.dirty = true
	case pubrec:
		if w.s.Pubrec(p.id, false) == PubrecRelease {
			w.then(relBeforeState, "state rel", w.row, pkt{kind: pubrel, id: p.id})
		} else {
			w.answer(pkt{kind: pubrel, id: p.id})
		}
	case pubrel:
		if w.s.Release(p.id) {
			w.then(compBeforeDeletion, "id's deletion", w.row, pkt{kind: pubcomp, id: p.id})
		} else {
			w.answer(pkt{kind: pubcomp, id: p.id})
		}
	}
}

func (w *world) serverTakesPublish(p pkt) {
	entry := logEntry{p.msg, p.qos}
	if p.qos == 1 {
		w.then(ackBeforeMessage, "message", func(s *store) { s.log = append(s.log, entry) }, pkt{kind: puback, id: p.id})
		return
	}
	if w.s.Receive(p.id) {
		w.answer(pkt{kind: pubrec, id: p.id})
		return
	}
	kept := func(s *store) {
		w.s.Keep(p.id)
		w.row(s)
	}
	commit := func(s *store) {
		kept(s)
		s.log = append(s.log, entry)
	}
	switch w.fault {
	case idKeptAtOnce:
		w.s.Keep(p.id)
	case idBeforeMessage:
		w.effects = append(w.effects, effect{name: "id", commit: kept})
	case idAfterMessage:
		commit = func(s *store) {
			w.s.Keep(p.id)
			w.dirty = true
			s.log = append(s.log, entry)
		}
	default:
	}
	w.then(recBeforeMessage, "message and id", commit, pkt{kind: pubrec, id: p.id})
}

// serverSends takes the next entry of the log, and sends it unless it has expired.
func (w *world) serverSends() {
	e := w.store.log[w.read]
	w.read++
	if w.expired && w.expires(e.msg) {
		if w.s.Outstanding() == 0 {
			w.s.AdvanceCursor(at(uint64(w.read)))
		}
		return
	}
	p := pkt{kind: publish, qos: e.qos, msg: e.msg}
	p.id = w.s.Send(Entry{Position: at(uint64(w.read)), QoS: e.qos})
	if e.qos == 1 {
		w.dirty = true
		w.effects = append(w.effects, effect{name: "PUBLISH QoS 1", send: &p})
		return
	}
	w.then(publishBeforeRow, "window row", w.row, p)
}

func (w *world) takeEffect() {
	e := w.effects[0]
	w.effects = w.effects[1:]
	if e.commit != nil {
		e.commit(&w.store)
	} else {
		w.toClient = append(w.toClient, *e.send)
	}
	w.lastEffect = e.name
}

// --- the connection and the crash

// drop breaks the connection: packets on their way are gone, commits under way are not.
func (w *world) drop() {
	w.connected = false
	w.toServer, w.toClient = nil, nil
	w.effects = slices.DeleteFunc(w.effects, func(e effect) bool { return e.send != nil })
}

func (w *world) crash() {
	next := "nothing"
	if len(w.effects) > 0 {
		next = w.effects[0].name
	}
	w.crashedAt[w.lastEffect+", then "+next] = true
	w.drop()
	w.effects, w.s, w.dirty = nil, nil, false
}

// connect is a CONNECT with clean start 0: both sides send again what is not acknowledged [MQTT5-4.4.0-1].
func (w *world) connect(t *testing.T) {
	t.Helper()
	w.connected = true
	if w.s == nil {
		w.restore(t)
	}
	w.s.SetReceiveMaximum(w.receiveMax)
	first := len(w.effects)
	w.s.Resend(func(e *Entry) bool {
		p := pkt{kind: publish, id: e.PacketID, qos: e.QoS, msg: w.store.log[e.Position.Seq-1].msg}
		if e.State == StateRel && w.fault != publishAfterRel {
			p.kind = pubrel
		}
		if e.State == StateSent && w.fault == newIdentifierResent {
			p.id += 100
		}
		w.effects = append(w.effects, effect{name: string(p.kind) + " again", send: &p})
		return true
	})
	if w.fault == windowOutOfOrder {
		slices.Reverse(w.effects[first:])
	}
	for _, f := range w.client.inflight {
		p := pkt{publish, f.id, w.client.qos[f.msg-1], f.msg}
		if f.rel {
			p.kind = pubrel
		}
		w.toServer = append(w.toServer, p)
	}
}

// restore makes the session of what the store holds. It reads the log on behind what the window holds and the cursor.
func (w *world) restore(t *testing.T) {
	t.Helper()
	window, err := ParseWindow(w.store.window)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParsePacketIDs(w.store.ids)
	if err != nil {
		t.Fatal(err)
	}
	w.s, err = Restore(State{Cursor: at(w.store.cursor), Window: window, Inbound: ids, NextPacketID: w.store.last})
	if err != nil {
		t.Fatal(err)
	}
	w.read = int(w.store.cursor)
	for _, e := range window {
		w.read = max(w.read, int(e.Position.Seq))
	}
}

// --- what may happen

// action is something that may happen now.
type action struct {
	name string
	do   func()
}

// actions returns what may happen now, but for crashes and broken connections.
func (w *world) actions(t *testing.T) []action {
	t.Helper()
	var all []action
	may := func(condition bool, name string, do func()) {
		if condition {
			all = append(all, action{name, do})
		}
	}
	c, up := &w.client, w.s != nil
	may(len(w.effects) > 0, "effect", w.takeEffect)
	may(len(w.toClient) > 0, "to client", func() {
		p := w.toClient[0]
		w.toClient = w.toClient[1:]
		w.clientTakes(p)
	})
	may(len(w.toServer) > 0, "to server", func() {
		p := w.toServer[0]
		w.toServer = w.toServer[1:]
		w.serverTakes(p)
	})
	may(w.connected && w.read < len(w.store.log) && w.s.Quota() > 0, "send", w.serverSends)
	may(w.connected && c.next <= len(c.qos) && len(c.inflight) < 3, "publish", w.clientPublishes)
	may(!w.connected, "connect", func() { w.connect(t) })
	may(up && w.dirty, "flush", func() {
		w.dirty = false
		w.effects = append(w.effects, effect{name: "flush", commit: w.row})
	})
	return all
}

// --- the judge

// violations says what is wrong when nothing more can happen.
func (w *world) violations() []string {
	var wrong []string
	var logged []int
	for _, e := range w.store.log {
		logged = append(logged, e.msg)
	}
	for _, way := range []struct {
		name string
		msgs []int
	}{{"published", logged}, {"delivered", w.client.got}} {
		seen := map[int]int{}
		last := 0
		for _, msg := range way.msgs {
			if seen[msg]++; seen[msg] > 1 {
				continue
			}
			if msg < last {
				wrong = append(wrong, fmt.Sprintf("message %d was %s out of order", msg, way.name))
			}
			last = msg
		}
		for i, qos := range w.client.qos {
			msg := i + 1
			mayBeMissing := way.name == "delivered" && w.expired && w.expires(msg)
			if seen[msg] == 0 && !mayBeMissing {
				wrong = append(wrong, fmt.Sprintf("message %d of QoS %d was never %s", msg, qos, way.name))
			}
			if qos == 2 && seen[msg] > 1 {
				wrong = append(wrong, fmt.Sprintf("message %d of QoS 2 was %s %d times", msg, way.name, seen[msg]))
			}
		}
	}
	return wrong
}

// play lets random things happen until all is done, with at most so many crashes and broken connections; while the
// client is away messages may expire.
func (w *world) play(t *testing.T, random *rand.Rand, crashes, drops int) []string {
	t.Helper()
	for range 5000 {
		all := w.actions(t)
		if len(all) == 0 {
			return w.violations()
		}
		switch n := random.IntN(60); {
		case n < 2 && crashes > 0 && w.s != nil:
			crashes--
			w.crash()
			w.expired = w.expired || random.IntN(2) == 0 // time passes until the server is up again
		case n == 2 && drops > 0 && w.connected:
			drops--
			w.drop()
			w.expired = w.expired || random.IntN(4) == 0
		default:
			all[random.IntN(len(all))].do()
		}
	}
	return []string{"it goes on forever"}
}

// playInOrder lets the first thing that may happen happen, from the rotation on, and breaks off before the steps of
// ends: a crash, or a broken connection where the step is negative. It also returns how many steps it took.
func (w *world) playInOrder(t *testing.T, rotation int, ends ...int) (wrong []string, steps int) {
	t.Helper()
	for ; steps < 5000; steps++ {
		for len(ends) > 0 && max(ends[0], -ends[0]) == steps {
			if ends[0] < 0 {
				w.drop()
			} else {
				w.crash()
			}
			ends = ends[1:]
		}
		all := w.actions(t)
		if len(all) == 0 {
			return w.violations(), steps
		}
		all[rotation%len(all)].do()
	}
	return []string{"it goes on forever"}, steps
}

package conn_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// chaos is a world in which publishers and subscribers with sessions come and go, take over, and lose their network
// while the store fails in every way it can and the server crashes. What they have seen is compared with what MQTT
// promises: nothing acknowledged is lost, QoS 2 comes exactly once, and all in order.
type chaos struct {
	w *world

	server gate // a crash replaces it

	log       sync.Mutex // guards what follows
	rand      *rand.Rand
	calm      bool
	refuses   bool // the store refuses for good now and then: a 5.0 client is told, and its next message may be taken
	awayUntil time.Time
	sent      []*sentMessage
	all       map[string]*sentMessage // by payload
	ended     bool                    // everything is published
	problems  []string
	trace     []string // what the clients have seen, in order
}

// sentMessage is one that a publisher has sent.
type sentMessage struct {
	payload   string
	topic     string
	publisher string
	number    int // of its publisher
	qos       byte
	index     int // in the order of first being sent
	attempts  int
	accepted  bool
	refused   bool
	v5        bool
}

func (x *chaos) problem(format string, args ...any) {
	x.log.Lock()
	defer x.log.Unlock()
	x.problems = append(x.problems, fmt.Sprintf(format, args...))
}

func (x *chaos) note(format string, args ...any) {
	x.log.Lock()
	defer x.log.Unlock()
	x.trace = append(x.trace, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (x *chaos) chance(percent float64) bool {
	x.log.Lock()
	defer x.log.Unlock()
	return x.rand.Float64()*100 < percent
}

func (x *chaos) number(n int) int {
	x.log.Lock()
	defer x.log.Unlock()
	return x.rand.IntN(n)
}

// gate is a lock for which one may wait in virtual time.
type gate chan struct{}

func (g gate) lock()   { g <- struct{}{} }
func (g gate) unlock() { <-g }

func pause(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // virtual time

// store has a store fail; the lock is held from before a commit until after it, so that a crash is no part of one.
func (x *chaos) store(s *brokertest.Store) (crash func() *brokertest.Store) {
	committing := make(gate, 1)
	dead := false
	s.BeforeCommit = func(broker.Batch) error {
		committing.lock()
		err := x.failure()
		if dead {
			err = broker.ErrStoreRefused
		}
		if err != nil {
			committing.unlock()
		}
		return err
	}
	s.AfterCommit = func(broker.Batch) error {
		committing.unlock()
		if x.chance(4) {
			return broker.ErrOutcomeUnknown // it was committed
		}
		return nil
	}
	return func() *brokertest.Store {
		committing.lock()
		defer committing.unlock()
		dead = true
		return s.Copy()
	}
}

func (x *chaos) failure() error {
	if x.chance(10) {
		pause(time.Duration(x.number(20)) * time.Millisecond)
	}
	x.log.Lock()
	defer x.log.Unlock()
	if x.calm {
		return nil
	}
	if time.Now().Before(x.awayUntil) {
		return broker.ErrStoreUnavailable
	}
	switch p := x.rand.Float64() * 100; {
	case p < 4:
		return broker.ErrStoreUnavailable
	case p < 6 && x.refuses:
		return broker.ErrStoreRefused
	case p < 9:
		return broker.ErrOutcomeUnknown // it was not committed
	case p < 9.3:
		x.awayUntil = time.Now().Add(time.Duration(8+x.rand.IntN(8)) * time.Second)
	}
	return nil
}

// dial connects; nil: it was refused.
func (x *chaos) dial(v packet.Version, id string, clean bool) (c *brokertest.Client, present bool) {
	x.server.lock()
	c = x.w.dial(v)
	x.server.unlock()
	p := &packet.Connect{Version: v, ClientID: id}
	durable(p)
	p.CleanStart = clean
	if v == packet.V5 && x.chance(50) {
		p.Properties.Has |= packet.PropReceiveMaximum
		p.Properties.ReceiveMaximum = uint16(1 + x.number(8))
	}
	if v != packet.V5 && clean {
		p.CleanStart = false
	}
	if !c.TrySend(p.Append(nil, v)) {
		c.Close()
		return nil, false
	}
	next, err := c.Next()
	ack, ok := next.(*packet.Connack)
	if err != nil || !ok || ack.Reason.Failed() {
		c.Close()
		return nil, false
	}
	return c, ack.SessionPresent
}

// leave ends a connection in one of the ways in which they end.
func (x *chaos) leave(c *brokertest.Client, v packet.Version) {
	switch x.number(3) {
	case 0:
		c.Close()
	case 1:
		c.TrySend((&packet.Disconnect{}).Append(nil, v))
		c.Close()
	case 2: // it is taken over
		x.w.tb.Cleanup(c.Close)
	}
}

// publisher has a session, and sends n messages, each until it is acknowledged or refused.
type publisher struct {
	x       *chaos
	id      string
	v       packet.Version
	n, sent int
	flights []*flight // in the order of sending
	known   bool
	lastID  uint16
}

// flight is a message under way.
type flight struct {
	id       uint16
	m        *sentMessage
	released bool
}

func (p *publisher) run() {
	for p.sent < p.n || len(p.flights) > 0 {
		p.connection()
	}
}

func (p *publisher) bytes(f *flight, dup bool) []byte {
	if f.released {
		return (&packet.Ack{Kind: packet.TypePubrel, PacketID: f.id}).Append(nil, p.v)
	}
	m := &packet.Publish{Topic: []byte(f.m.topic), Payload: []byte(f.m.payload), QoS: f.m.qos, PacketID: f.id, Dup: dup}
	return m.Append(nil, p.v)
}

// connection is one connection of p.
func (p *publisher) connection() {
	x := p.x
	c, present := x.dial(p.v, p.id, false)
	if c == nil {
		pause(20 * time.Millisecond)
		return
	}
	if p.known && !present {
		x.problem("%s: the session is gone", p.id)
	}
	p.known = true
	x.note("%s connected", p.id)
	for _, f := range p.flights {
		x.note("%s again %s id %d released %v", p.id, f.m.payload, f.id, f.released)
		f.m.attempts++
		if !c.TrySend(p.bytes(f, true)) {
			c.Close()
			return
		}
	}
	for p.sent < p.n || len(p.flights) > 0 {
		if x.chance(1.5) {
			x.leave(c, p.v)
			return
		}
		if !p.step(c) {
			break
		}
	}
	c.Close()
}

// step sends a message or reads an answer; false: the connection has ended.
func (p *publisher) step(c *brokertest.Client) bool {
	if p.sent < p.n && len(p.flights) < 5 && (len(p.flights) == 0 || p.x.chance(40)) {
		return c.TrySend(p.bytes(p.newFlight(), false))
	}
	next, err := c.Next()
	if err != nil {
		return false
	}
	p.x.note("%s gets %T %+v", p.id, next, next)
	a, ok := next.(*packet.Ack)
	if !ok {
		return true // DISCONNECT
	}
	answer := p.take(a)
	return answer == nil || c.TrySend(answer)
}

func (p *publisher) newFlight() *flight {
	const ids = 20 // an identifier is soon used again
	for used := true; used; {
		p.lastID = p.lastID%ids + 1
		used = slices.ContainsFunc(p.flights, func(f *flight) bool { return f.id == p.lastID })
	}
	x := p.x
	m := &sentMessage{
		payload: fmt.Sprintf("%s-%d", p.id, p.sent), topic: fmt.Sprint("t/", x.number(3)), publisher: p.id, number: p.sent,
		qos: byte(1 + x.number(2)), attempts: 1, v5: p.v == packet.V5,
	}
	p.sent++
	f := &flight{id: p.lastID, m: m}
	p.flights = append(p.flights, f)
	x.log.Lock()
	m.index = len(x.sent)
	x.sent = append(x.sent, m)
	x.all[m.payload] = m
	x.log.Unlock()
	x.note("%s sends %s id %d qos %d", p.id, m.payload, f.id, m.qos)
	return f
}

func (p *publisher) take(a *packet.Ack) (answer []byte) {
	i := slices.IndexFunc(p.flights, func(f *flight) bool { return f.id == a.PacketID })
	if i < 0 {
		p.x.problem("%s: %v of nothing", p.id, a)
		return nil
	}
	f := p.flights[i]
	switch {
	case a.Kind == packet.TypePubcomp && f.released:
	case a.Reason.Failed() && !f.released:
		f.m.refused = f.m.attempts == 1
	case a.Kind == packet.TypePuback && f.m.qos == 1:
		f.m.accepted = true
	case a.Kind == packet.TypePubrec && f.m.qos == 2:
		f.m.accepted, f.released = true, true
		return p.bytes(f, false)
	default:
		p.x.problem("%s: %v of %s, released %v", p.id, a, f.m.payload, f.released)
	}
	p.flights = slices.Delete(p.flights, i, i+1)
	return nil
}

// subscriber has a session, and sees what comes to it.
type subscriber struct {
	x        *chaos
	id       string
	v        packet.Version
	cleans   bool // it starts anew now and then
	known    bool
	since    int // index of the first message that it has to get; -1: not subscribed
	received map[uint16]bool
	got      map[string]int
	order    []string
	acks     [][]byte
}

func (s *subscriber) anew() {
	s.since, s.received, s.got, s.order = -1, map[uint16]bool{}, map[string]int{}, nil
}

// run sees messages until everything has come, or nothing comes any more.
func (s *subscriber) run() {
	s.anew()
	for idle := 0; idle < 3 && !s.complete(); {
		if s.connection() {
			idle++
		}
	}
}

func (s *subscriber) complete() bool {
	s.x.log.Lock()
	defer s.x.log.Unlock()
	return s.x.ended && s.since >= 0 && len(s.missing()) == 0
}

func (s *subscriber) missing() (all []string) {
	for _, m := range s.x.sent {
		if m.accepted && m.index >= s.since && s.got[m.payload] == 0 {
			all = append(all, m.payload)
		}
	}
	return all
}

// connection is one connection of s; idle: nothing came for a long time though everything is published.
func (s *subscriber) connection() (idle bool) {
	x := s.x
	x.log.Lock()
	ended := x.ended
	x.log.Unlock()
	clean := s.cleans && s.known && !ended && x.chance(30)
	c, present := x.dial(s.v, s.id, clean && s.v == packet.V5)
	if c == nil {
		if clean {
			s.anew() // the old session may be gone, or not
			s.known = false
		}
		pause(20 * time.Millisecond)
		return false
	}
	s.acks = nil
	x.note("%s connected, present %v", s.id, present)
	switch {
	case present && clean:
		x.problem("%s: a session though the start is clean", s.id)
	case !present:
		if s.known && !clean {
			x.problem("%s: the session is gone", s.id)
		}
		s.anew()
	}
	s.known = true
	send := func(p packet.Packet) bool { return c.TrySend(p.Append(nil, s.v)) }
	if s.since < 0 && !send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "t/#", QoS: 2}}}) {
		c.Close()
		return false
	}
	for !s.complete() {
		if !x.settled() && x.chance(1.5) {
			x.leave(c, s.v)
			return false
		}
		for len(s.acks) > 0 && (x.settled() || x.chance(60)) {
			if !c.TrySend(s.acks[0]) {
				c.Close()
				return false
			}
			s.acks = s.acks[1:]
		}
		if !x.settled() && s.since >= 0 && x.chance(2) && !s.change(send) {
			c.Close()
			return false
		}
		if len(s.acks) > 5 || len(s.acks) > 0 && x.chance(50) {
			continue
		}
		next, err := c.Next()
		if err != nil {
			c.Close()
			return ended
		}
		s.take(next)
	}
	c.Close()
	return false
}

// settled reports whether everything is published.
func (x *chaos) settled() bool {
	x.log.Lock()
	defer x.log.Unlock()
	return x.ended
}

// change subscribes anew, or to what overlaps, or unsubscribes from that.
func (s *subscriber) change(send func(packet.Packet) bool) bool {
	sub := packet.Subscription{Filter: "t/#", QoS: 2}
	if s.v == packet.V5 {
		sub.RetainHandling, sub.RetainAsPublished = byte(s.x.number(3)), s.x.chance(50)
	}
	switch s.x.number(4) {
	case 0:
	case 1:
		sub.Filter, sub.QoS = "t/1", byte(s.x.number(3))
	case 2:
		sub.Filter = fmt.Sprint("other/", s.x.number(3))
	case 3:
		return send(&packet.Unsubscribe{PacketID: 3, Filters: []string{"t/1", fmt.Sprint("other/", s.x.number(3))}})
	}
	return send(&packet.Subscribe{PacketID: 2, Subscriptions: []packet.Subscription{sub}})
}

func (s *subscriber) take(next packet.Packet) {
	if p, ok := next.(*packet.Publish); ok {
		s.x.note("%s gets PUBLISH %s id %d qos %d dup %v", s.id, p.Payload, p.PacketID, p.QoS, p.Dup)
	} else {
		s.x.note("%s gets %T %+v", s.id, next, next)
	}
	switch p := next.(type) {
	case *packet.Suback:
		if s.since < 0 {
			s.x.log.Lock()
			s.since = len(s.x.sent)
			s.x.log.Unlock()
		}
	case *packet.Publish:
		payload := string(p.Payload)
		switch p.QoS {
		case 0:
			s.x.problem("%s: %s comes at QoS 0", s.id, payload)
		case 1:
			s.see(payload)
			s.acks = append(s.acks, (&packet.Ack{Kind: packet.TypePuback, PacketID: p.PacketID}).Append(nil, s.v))
		case 2:
			if !s.received[p.PacketID] {
				s.received[p.PacketID] = true
				s.see(payload)
			} else if !p.Dup {
				s.x.problem("%s: %s comes with identifier %d, which is in use", s.id, payload, p.PacketID)
			}
			s.acks = append(s.acks, (&packet.Ack{Kind: packet.TypePubrec, PacketID: p.PacketID}).Append(nil, s.v))
		}
	case *packet.Ack:
		if p.Kind == packet.TypePubrel {
			delete(s.received, p.PacketID)
			s.acks = append(s.acks, (&packet.Ack{Kind: packet.TypePubcomp, PacketID: p.PacketID}).Append(nil, s.v))
		}
	}
}

func (s *subscriber) see(payload string) {
	s.got[payload]++
	if s.got[payload] == 1 {
		s.order = append(s.order, payload)
	}
}

// judge compares what s has seen with what was promised.
func (s *subscriber) judge() {
	x := s.x
	if missing := s.missing(); len(missing) > 0 {
		x.problem("%s: %d of %d are missing: %s", s.id, len(missing), len(x.sent), strings.Join(missing[:min(len(missing), 5)], " "))
	}
	last := map[string]*sentMessage{}
	for _, payload := range s.order {
		m := x.all[payload]
		if m == nil {
			x.problem("%s: %s was never sent", s.id, payload)
			continue
		}
		if m.refused {
			x.problem("%s: %s was refused", s.id, payload)
		}
		if m.qos == 2 && s.got[payload] > 1 {
			x.problem("%s: %s came %d times", s.id, payload, s.got[payload])
		}
		if m.index < s.since {
			continue // sent before the subscription; what came again may have come late
		}
		of := m.publisher + " " + m.topic
		if before := last[of]; before != nil && before.number > m.number && (!x.refuses || !m.v5) {
			x.problem("%s: %s came behind %s", s.id, payload, before.payload)
		}
		last[of] = m
	}
}

// crash ends the server; its clients notice by their network.
func (x *chaos) crash(kill func() *brokertest.Store) func() *brokertest.Store {
	left := kill()
	x.server.lock()
	defer x.server.unlock()
	stop := x.w.stop
	stop()
	x.w.store = left
	kill = x.store(left)
	x.w.start()
	return kill
}

func runChaos(t *testing.T, seed uint64) {
	t.Helper()
	w := newWorld(t)
	x := &chaos{w: w, server: make(gate, 1), rand: rand.New(rand.NewPCG(seed, 1)), all: map[string]*sentMessage{}}
	x.refuses = x.chance(50)
	kill := x.store(w.store)
	version := func() packet.Version {
		if x.chance(50) {
			return packet.V311
		}
		return packet.V5
	}
	var subscribers []*subscriber
	var subscribing sync.WaitGroup
	for i := range 3 {
		s := &subscriber{x: x, id: fmt.Sprint("s", i), v: version()}
		if s.cleans = i == 2; s.cleans {
			s.v = packet.V5
		}
		subscribers = append(subscribers, s)
		subscribing.Go(s.run)
	}
	var publishing sync.WaitGroup
	for i := range 2 {
		p := &publisher{x: x, id: fmt.Sprint("p", i), v: version(), n: 60}
		publishing.Go(p.run)
	}
	published := make(chan struct{})
	go func() {
		publishing.Wait()
		x.log.Lock()
		x.ended, x.calm = true, true
		x.log.Unlock()
		close(published)
	}()
	for running := true; running; {
		select {
		case <-published:
			running = false
		case <-time.After(time.Duration(1+x.number(2_000)) * time.Millisecond):
			if x.chance(30) {
				kill = x.crash(kill)
			}
		}
	}
	subscribing.Wait()
	for _, s := range subscribers {
		s.judge()
	}
	if len(x.problems) > 0 {
		t.Logf("seed %d:\n%s", seed, strings.Join(x.trace, "\n"))
	}
	require.Empty(t, x.problems)
}

// TestDurableSessionsInChaos needs no luck to pass: with a fault or without, the promises hold.
func TestDurableSessionsInChaos(t *testing.T) {
	t.Parallel()
	began := time.Now()
	first := rand.Uint64() >> 32
	for i := range uint64(40) {
		if time.Since(began) > 5*time.Second {
			break
		}
		seed := first + i
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runChaos(t, seed) })
		})
	}
}

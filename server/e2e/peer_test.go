package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/e2e/history"
)

// peer is an MQTT client that keeps its part of a session as the standard wants it kept, in memory: it outlives the server.
// What it sends and gets goes into a history. It is one goroutine.
type peer struct {
	behaviour
	w        *world
	name     string
	password string
	rng      *rand.Rand
	session  *history.Session
	consumer *history.Session       // who is owed what its subscriptions bring: its session, or the group
	busy     atomic.Pointer[string] // what keeps it from being at rest; empty when it is connected and nothing is under way

	// The session, which survives the connection.
	out       []*outgoing          // in the order in which they were sent first
	in        map[uint16]*incoming // of QoS 2, not released
	held      map[string]bool      // filters that were granted
	lastID    uint16
	count     int  // messages so far
	wills     int  // so far
	begun     int  // connections of this session
	ended     bool // the next CONNECT has Clean Start
	leftGroup bool // it has ended its session as a member, and CONNACK has not come yet
	stale     *link

	// The connection.
	link  *link
	acks  []*packet.Ack       // held back
	open  map[uint16]bool     // what has come by this connection and was not acknowledged to the end
	asked map[uint16]question // SUBSCRIBE and UNSUBSCRIBE under way
	bye   string              // why it ends the connection
}

// behaviour is what a peer is like.
type behaviour struct {
	version  packet.Version
	lasts    bool     // its session outlives its connections
	topics   []string // it publishes to them; those below r/ and k/ are retained, and k/ is cleared now and then
	qos      []byte   // of which each message has one
	window   int      // messages under way at a time
	filters  []string // its subscriptions
	toggles  []string // those that come and go
	granted  byte     // the QoS of its subscriptions
	group    string   // its filters are shared under this name
	holds    int      // acknowledgements held back at a time
	receives uint16   // Receive Maximum; 0: no word of it
	leaves   int      // one step of so many ends the connection; 0: none does
	away     time.Duration
	ends     bool // its session is ended now and then
	will     bool
	reuses   bool // the lowest free Packet Identifier comes next, and not the one after the last
}

// outgoing is a message under way to the server.
type outgoing struct {
	history.Message
	packetID uint16
	payload  []byte
	received bool // PUBREC has come: from now on, only PUBREL goes
	released int  // how often PUBREL was sent
}

// incoming is a message of QoS 2 under way from the server.
type incoming struct {
	id        history.ID
	confirmed bool // PUBREC was sent
}

// question is a SUBSCRIBE or UNSUBSCRIBE under way.
type question struct {
	filter string
	off    bool
}

const pauseMax = 20 * time.Millisecond // between two steps

func (w *world) newPeer(name, password string, b behaviour) *peer {
	p := &peer{
		behaviour: b, w: w, name: name, password: password, session: w.h.Session(name),
		in: map[uint16]*incoming{}, held: map[string]bool{},
	}
	p.is("not there yet")
	p.consumer = p.session
	if b.group != "" {
		p.consumer = w.h.Group("group " + b.group)
	}
	sum := uint64(0)
	for _, c := range name {
		sum = sum*31 + uint64(c)
	}
	p.rng = rand.New(rand.NewPCG(w.seed, sum))
	return p
}

// link is one network connection.
type link struct {
	conn    net.Conn
	version packet.Version
	packets chan packet.Packet // closed with the connection
	gone    chan struct{}      // closed when nobody reads packets any more
	buf     []byte             // what the next flush sends
}

func dialLink(addr string, v packet.Version) (*link, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	l := &link{conn: c, version: v, packets: make(chan packet.Packet, 256), gone: make(chan struct{})}
	go l.read()
	return l, nil
}

func (l *link) read() {
	defer close(l.packets)
	d := packet.NewDecoder(1 << 20)
	d.SetVersion(l.version)
	buf := make([]byte, 16<<10)
	for {
		n, err := l.conn.Read(buf)
		if err != nil {
			return
		}
		d.Feed(buf[:n])
		for {
			p, err := d.Next()
			if err != nil {
				l.pass(malformed{err})
				return
			}
			if p == nil {
				break
			}
			if !l.pass(own(p)) {
				return
			}
		}
	}
}

// malformed stands for bytes that are no packet.
type malformed struct{ error }

func (malformed) Type() packet.Type                          { return 0 }
func (malformed) Append(dst []byte, _ packet.Version) []byte { return dst }

// own copies what the decoder will overwrite.
func own(p packet.Packet) packet.Packet {
	switch p := p.(type) {
	case *packet.Publish:
		m := *p
		m.Topic, m.Payload, m.RawProperties = slices.Clone(p.Topic), slices.Clone(p.Payload), nil
		return &m
	case *packet.Ack:
		a := *p
		return &a
	}
	return p
}

func (l *link) pass(p packet.Packet) bool {
	select {
	case l.packets <- p:
		return true
	case <-l.gone:
		return false
	}
}

func (l *link) send(p packet.Packet) { l.buf = p.Append(l.buf, l.version) }

func (l *link) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	err := l.conn.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = l.conn.Write(l.buf)
	}
	l.buf = l.buf[:0]
	return err
}

// close ends the connection and waits for its reader.
func (l *link) close() {
	close(l.gone)
	_ = l.conn.Close()    //nolint:errcheck // the server may have been first
	for range l.packets { // until the reader has ended
	}
}

// run lives until ctx is done.
func (p *peer) run(ctx context.Context) {
	defer func() {
		if p.stale != nil {
			p.stale.close()
		}
	}()
	for p.w.awaitUp(ctx) {
		if err := p.live(ctx); err != nil {
			p.session.Closed(err.Error())
		}
		p.is("away: " + p.bye)
		p.w.stayAway(ctx, p.between())
	}
}

// between is how long it stays away now.
func (p *peer) between() time.Duration {
	if p.bye == "" || p.away == 0 {
		return time.Millisecond
	}
	return rand.N(p.away)
}

// live connects and does what such a peer does until the connection ends.
func (p *peer) live(ctx context.Context) (ended error) {
	l, err := dialLink(p.w.mqtt, p.version)
	if err != nil {
		p.bye = ""
		return nil // it never began
	}
	p.link, p.acks, p.open, p.asked, p.bye = l, nil, map[uint16]bool{}, map[uint16]question{}, ""
	defer func() {
		if p.bye == "is taken over" && ended == nil {
			p.stale, ended = l, errors.New(p.bye)
			return
		}
		l.close()
	}()
	if err := p.connect(); err != nil {
		return err
	}
	if p.bye != "" {
		return errors.Join(errors.New(p.bye), l.flush())
	}
	p.resume()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case in, ok := <-l.packets:
			if !ok {
				return io.EOF
			}
			p.take(in)
		case <-timer.C:
			p.step()
			timer.Reset(rand.N(pauseMax))
		case <-ctx.Done():
			return ctx.Err()
		}
		if p.bye == "is taken over" {
			return nil
		}
		if err := l.flush(); err != nil {
			return err
		}
		if p.bye != "" {
			return errors.New(p.bye)
		}
		p.is(p.underWay())
	}
}

func (p *peer) is(busy string) { p.busy.Store(&busy) }

// underWay says what is between the peer and rest.
func (p *peer) underWay() string {
	text := ""
	for _, o := range p.out {
		text += "sends " + o.ID.String() + "; "
	}
	for id, in := range p.in {
		text += fmt.Sprintf("has %v by %d; ", in.id, id)
	}
	for _, f := range p.filters {
		if !p.held[f] {
			text += "wants " + f + "; "
		}
	}
	if n := len(p.acks) + len(p.open) + len(p.asked); n > 0 {
		text += fmt.Sprintf("%d acknowledgements, %d open, %d asked", len(p.acks), len(p.open), len(p.asked))
	}
	return text
}

// fault tells of something that the server must not do.
func (p *peer) fault(id history.ID, format string, args ...any) {
	p.w.h.Fault(p.name, fmt.Sprintf(format, args...), id)
}

// connect sends CONNECT and takes CONNACK.
func (p *peer) connect() error {
	clean := !p.lasts || p.ended
	c := &packet.Connect{
		Version: p.version, CleanStart: clean, ClientID: p.name, HasUsername: true, Username: p.w.app.id, HasPassword: true, Password: []byte(p.password),
		KeepAlive: 60,
	}
	if p.version == packet.V5 {
		c.Properties = &packet.Properties{Has: packet.PropTopicAliasMaximum, TopicAliasMaximum: 0}
		if p.lasts {
			c.Properties.Has |= packet.PropSessionExpiry
			c.Properties.SessionExpiry = 3600
		}
		if p.receives > 0 {
			c.Properties.Has |= packet.PropReceiveMaximum
			c.Properties.ReceiveMaximum = p.receives
		}
	}
	// With 3.1.1, a session that begins by a clean one ends with it.
	outlives := p.lasts && (p.version == packet.V5 || !clean)
	if p.will {
		p.wills++
		id := history.ID{From: "will of " + p.name, N: p.wills}
		will := history.Message{ID: id, Topic: "will/" + p.name, QoS: 2, Will: true}
		p.w.h.Sent(will)
		c.Will = &packet.Will{Topic: will.Topic, Payload: payloadOf(id, 0), QoS: will.QoS}
	}
	p.session.Connecting(clean)
	p.link.send(c)
	if err := p.link.flush(); err != nil {
		return err
	}
	var ack *packet.Connack
	select {
	case in := <-p.link.packets:
		if in == nil {
			return io.EOF
		}
		ok := false
		if ack, ok = in.(*packet.Connack); !ok {
			p.fault(history.ID{}, "got a %T before CONNACK", in)
			return errors.New("no CONNACK")
		}
	case <-time.After(patience):
		p.fault(history.ID{}, "got no CONNACK within %v", patience)
		return errors.New("no CONNACK")
	}
	if ack.Reason != packet.Success {
		// Storage that was away, or too slow, for 10 s is said so, and no fault: all must come to rest in the end.
		if ack.Reason == packet.ServerUnavailable || p.w.ending.Load() && ack.Reason == packet.ServerShuttingDown {
			return errors.New(ack.Reason.String())
		}
		p.fault(history.ID{}, "CONNACK says %v", ack.Reason)
		return errors.New(ack.Reason.String())
	}
	if pr := ack.Properties; outlives && pr != nil && pr.Has.Contains(packet.PropSessionExpiry) && pr.SessionExpiry < 3600 {
		p.fault(history.ID{}, "CONNACK says Session Expiry Interval %d", pr.SessionExpiry)
	}
	if p.stale != nil {
		p.stale.close()
		p.stale = nil
	}
	p.session.Connected(ack.SessionPresent, outlives)
	p.connected(ack.SessionPresent, outlives)
	return nil
}

// connected makes the session fit CONNACK.
func (p *peer) connected(present, outlives bool) {
	for n := p.wills - 1; n > 0 && n >= p.wills-3; n-- {
		p.w.h.Abandoned(history.ID{From: "will of " + p.name, N: n})
	}
	p.begun++
	p.w.sees("connack")
	if present {
		p.w.sees("resumed")
	} else {
		for _, o := range p.out {
			p.w.h.Abandoned(o.ID)
		}
		p.out, p.in, p.held, p.begun = nil, map[uint16]*incoming{}, map[string]bool{}, 1
		if p.leftGroup {
			p.consumer.MemberLeft()
			p.leftGroup = false
		}
	}
	// A 3.1.1 session that has begun clean is only there to end the one before.
	p.ended = false
	if p.lasts && !outlives {
		p.leave("leaves what it began clean", &packet.Disconnect{})
	}
}

// resume sends again what is under way, in its order and with its identifiers [MQTT5-4.4.0-1], and asks for its
// subscriptions where they are not granted.
func (p *peer) resume() {
	for _, o := range p.out {
		if o.received {
			p.release(o)
		} else {
			p.transmit(o, true)
		}
	}
	for _, f := range p.filters {
		if !p.held[f] {
			p.subscribe(f)
		}
	}
}

func (p *peer) transmit(o *outgoing, again bool) {
	p.w.h.Sent(o.Message)
	m := &packet.Publish{Dup: again, QoS: o.QoS, Retain: o.Retain, Topic: []byte(o.Topic), PacketID: o.packetID, Payload: o.payload}
	if o.Clear && p.version == packet.V5 {
		m.Properties = &packet.Properties{Has: packet.PropUser, User: []packet.UserProperty{{Key: "id", Value: string(payloadOf(o.ID, 0))}}}
	}
	p.link.send(m)
}

func (p *peer) release(o *outgoing) {
	o.released++
	p.w.h.Note(p.name, fmt.Sprintf("sends PUBREL of %v", o.ID))
	p.link.send(&packet.Ack{Kind: packet.TypePubrel, PacketID: o.packetID})
}

// payloadOf is a payload by which a message is known again.
func payloadOf(id history.ID, padding int) []byte {
	return []byte(id.From + " " + strconv.Itoa(id.N) + "." + strings.Repeat("x", padding))
}

// idOf is the opposite of payloadOf.
func idOf(payload string) (history.ID, bool) {
	text, _, found := strings.Cut(payload, ".")
	i := strings.LastIndexByte(text, ' ')
	if !found || i < 0 {
		return history.ID{}, false
	}
	n, err := strconv.Atoi(text[i+1:])
	return history.ID{From: text[:i], N: n}, err == nil
}

// freeID returns a Packet Identifier that is not in use.
func (p *peer) freeID() uint16 {
	id := p.lastID
	if p.reuses {
		id = 0
	}
	for {
		if id++; id == 0 {
			continue
		}
		_, used := p.asked[id]
		if !used && !slices.ContainsFunc(p.out, func(o *outgoing) bool { return o.packetID == id }) {
			p.lastID = id
			return id
		}
	}
}

// step does something by itself.
func (p *peer) step() {
	calm := p.w.calm()
	if calm || p.rng.IntN(2) == 0 {
		p.flushAcks(0)
	}
	if calm {
		p.settle()
		return
	}
	for range p.rng.IntN(3) {
		if len(p.topics) > 0 && len(p.out) < p.window {
			p.publish()
		}
	}
	if len(p.toggles) > 0 && p.rng.IntN(10) == 0 {
		p.toggle(p.toggles[p.rng.IntN(len(p.toggles))])
	}
	if p.leaves > 0 && p.rng.IntN(p.leaves) == 0 {
		p.depart()
	}
}

// settle is what a step does while all is to become quiet: what was interrupted is asked again.
func (p *peer) settle() {
	for _, f := range p.filters {
		if !p.held[f] {
			p.subscribe(f)
		}
	}
}

func (p *peer) publish() {
	p.count++
	topic := p.topics[p.rng.IntN(len(p.topics))]
	m := history.Message{ID: history.ID{From: p.name, N: p.count}, Topic: topic, QoS: p.qos[p.rng.IntN(len(p.qos))], Retain: topic[0] != 'c'}
	m.Clear = topic[0] == 'k' && p.rng.IntN(4) == 0
	o := &outgoing{Message: m}
	switch {
	case m.Clear:
	case p.rng.IntN(20) == 0:
		o.payload = payloadOf(m.ID, p.rng.IntN(3000))
	default:
		o.payload = payloadOf(m.ID, p.rng.IntN(20))
	}
	if m.QoS > 0 {
		o.packetID = p.freeID()
		o.Note = fmt.Sprint(" by ", o.packetID)
		p.out = append(p.out, o)
	}
	p.transmit(o, false)
}

func (p *peer) inner(filter string) string {
	if p.group == "" {
		return filter
	}
	return "$share/" + p.group + "/" + filter
}

func (p *peer) isAsked(filter string) bool {
	for _, q := range p.asked {
		if q.filter == filter {
			return true
		}
	}
	return false
}

func (p *peer) subscribe(filter string) {
	if p.isAsked(filter) {
		return
	}
	snapshot := p.group == "" && (p.version != packet.V5 || p.rng.IntN(3) > 0)
	id := p.freeID()
	p.asked[id] = question{filter: filter}
	p.consumer.Subscribing(filter, p.granted, snapshot)
	sub := packet.Subscription{Filter: p.inner(filter), QoS: p.granted}
	if !snapshot && p.version == packet.V5 {
		sub.RetainHandling = 2
	}
	p.link.send(&packet.Subscribe{PacketID: id, Subscriptions: []packet.Subscription{sub}})
}

func (p *peer) toggle(filter string) {
	if !p.held[filter] || p.rng.IntN(4) == 0 {
		p.subscribe(filter)
		return
	}
	if p.isAsked(filter) {
		return
	}
	id := p.freeID()
	p.asked[id] = question{filter, true}
	p.consumer.Unsubscribing(filter)
	p.link.send(&packet.Unsubscribe{PacketID: id, Filters: []string{p.inner(filter)}})
}

// depart ends the connection in one of the ways in which connections end.
func (p *peer) depart() {
	switch n := p.rng.IntN(8); {
	case n == 0 && p.ends && p.version == packet.V5:
		p.session.Ends()
		p.ended, p.leftGroup = true, p.group != ""
		p.leave("leaves for good", &packet.Disconnect{Properties: &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 0}})
	case n == 1 && p.ends:
		p.ended, p.leftGroup = true, p.group != ""
		p.leave("is gone, and will begin anew", nil)
	case n < 4:
		p.flushAcks(0)
		p.leave("leaves", &packet.Disconnect{})
	case n < 6:
		p.leave("is gone", nil)
	default:
		p.bye = "is taken over"
	}
}

func (p *peer) leave(why string, last packet.Packet) {
	p.bye = why
	if last != nil {
		p.link.send(last)
	}
}

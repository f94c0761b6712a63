package conn_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// The steps of a script. Each takes the bytes that it needs.
const (
	stepConnect byte = iota
	stepPublish
	stepSubscribe
	stepUnsubscribe
	stepAck
	stepPing
	stepDisconnect
	stepAuth
	stepRaw
	stepCut
	stepOther
	stepWait
	stepCrash
	stepDial
	fuzzSteps
)

// FuzzConnection has one client say any sequence of packets, valid and not, over one connection after another, while
// somebody else publishes, connections are cut and taken over, time passes and the server crashes. After every step, what
// the server has said is what fuzzModel says: nothing less and nothing more. Time is virtual, and each step is over before
// the next begins.
func FuzzConnection(f *testing.F) {
	const v5, clean, stored, limited, v311 = 1, 4, 8, 0x10, 2
	f.Add([]byte{stepConnect, v5 | clean, 0, stepSubscribe, 0, 2, 0, stepPublish, 1, 1, stepPublish, 6, 1, stepAck, 0, 1, stepPing, stepDisconnect, 0})
	f.Add([]byte{stepConnect, v5 | stored, 0, stepSubscribe, 4, 2, 0, stepOther, 2, 0, stepOther, 1, 0, stepAck, 1, 1, stepCut, stepOther, 2, 1, stepConnect, v5 | stored | limited, 1, stepAck, 3, 1, stepAck, 0, 2})
	f.Add([]byte{stepConnect, v311, 0, stepSubscribe, 4, 1, 0, stepOther, 1, 0, stepCrash, stepOther, 1, 1, stepConnect, v311, 0, stepAck, 0, 1, stepAck, 0, 2})
	f.Add([]byte{stepConnect, v5 | stored | 0x20, 0, stepSubscribe, 2, 1, 0, stepDial, stepConnect, v5 | stored, 0, stepWait, 1, stepConnect, v5, 0})
	f.Add([]byte{stepConnect, v5 | clean, 0, stepPublish, 0x42, 1, stepPublish, 0x7A, 1, stepPublish, 2, 2, stepPublish, 2, 3, stepPublish, 2, 4, stepPublish, 2, 5})
	f.Add([]byte{stepConnect, v5, 0, stepRaw, 3, 0xC0, 0, 0xE0, stepConnect, v5, 0, stepRaw, 2, 0x62, 9, stepPublish, 1, 1, stepAuth})
	f.Add([]byte{stepConnect, v311 | 0x20, 0, stepCrash, stepWait, 0, stepConnect, v5 | clean, 0, stepSubscribe, 4, 2, 0, stepUnsubscribe, 4, stepUnsubscribe, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) { newFuzzClient(t, script).run() })
	})
}

// TestConnectionAgreesWithItsModel takes scripts that get further than most that the fuzzer finds in a short time: the
// client is connected and subscribed, and acknowledges what is under way.
func TestConnectionAgreesWithItsModel(t *testing.T) {
	t.Parallel()
	const scripts = 500
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range scripts {
		script := likelyScript(r)
		synctest.Test(t, func(t *testing.T) { newFuzzClient(t, script).run() })
	}
}

func likelyScript(r *rand.Rand) (script []byte) {
	steps := []byte{
		stepOther, stepOther, stepOther, stepAck, stepAck, stepAck, stepAck, stepPublish, stepPublish, stepSubscribe, stepUnsubscribe,
		stepCut, stepCrash, stepDial, stepWait, stepDisconnect, stepRaw,
	}
	for range 5 + r.IntN(40) {
		if len(script) == 0 || r.IntN(6) == 0 {
			script = append(script, []byte{stepCut, stepCut, stepDial, stepCrash}[r.IntN(4)])
			script = append(script, stepConnect, []byte{1 | 8, 1 | 8 | 0x20, 2, 1 | 8 | 0x10, 1 | 4, byte(r.Uint32())}[r.IntN(6)], byte(r.IntN(8)))
			script = append(script, stepSubscribe, byte(r.Uint32()), byte(r.IntN(3))|4, 0)
		}
		step := steps[r.IntN(len(steps))]
		script = append(script, step)
		switch step {
		case stepRaw:
			script = append(script, 1, byte(r.Uint32()))
		case stepAck:
			script = append(script, byte(r.IntN(4))|byte(r.IntN(4))<<4, byte(1+r.IntN(5)))
		case stepOther, stepPublish:
			script = append(script, byte(r.IntN(32)), byte(1+r.IntN(4)))
		case stepSubscribe:
			script = append(script, byte(r.Uint32()), byte(r.IntN(3))|4, byte(r.Uint32()))
		case stepUnsubscribe, stepWait, stepDisconnect:
			script = append(script, byte(r.Uint32()))
		}
	}
	return script
}

// The topics and filters are few, so that much meets.
var (
	fuzzTopics  = []string{"a", "a/b", "b", "$x", "a/+", "", "a", "b"}                      //nolint:gochecknoglobals // a table
	fuzzFilters = []string{"a", "a/#", "b", "+/b", "#", "a/#/b", "a/b/+/d", "#"}            //nolint:gochecknoglobals // a table
	fuzzEnds    = []packet.ReasonCode{0, packet.DisconnectWithWill, packet.MalformedPacket} //nolint:gochecknoglobals // a table
)

// fuzzKinds name what a server says.
var fuzzKinds = map[packet.Type]string{ //nolint:gochecknoglobals // a table
	packet.TypeConnack: "CONNACK", packet.TypePublish: "PUBLISH", packet.TypePuback: "PUBACK", packet.TypePubrec: "PUBREC",
	packet.TypePubrel: "PUBREL", packet.TypePubcomp: "PUBCOMP", packet.TypeSuback: "SUBACK", packet.TypeUnsuback: "UNSUBACK",
	packet.TypePingresp: "PINGRESP", packet.TypeDisconnect: "DISCONNECT",
}

// fuzzClient carries out a script, and holds the server against the model.
type fuzzClient struct {
	t      *testing.T
	w      *world
	model  *fuzzModel
	script []byte
	link   *fuzzLink
	sent   int
	trace  []string
	over   bool // what follows is beyond the model
}

func newFuzzClient(t *testing.T, script []byte) *fuzzClient {
	t.Helper()
	w := newWorld(t)
	l := brokertest.Limits()
	l.ReceiveMaximum, l.TopicAliasMaximum, l.SubscriptionsPerClientMax = fuzzReceiveMaximum, fuzzAliasMaximum, fuzzSubscriptions
	l.SessionExpiryMax, l.TopicLevelsMax = fuzzExpiryMax, fuzzLevelsMax
	w.SetLimits(l)
	return &fuzzClient{t: t, w: w, model: newFuzzModel(), script: script}
}

func (c *fuzzClient) run() {
	for len(c.script) > 0 && !c.over {
		c.step()
		c.check()
	}
	if c.over {
		c.hangUp()
		return
	}
	c.cut()
	c.check()
	c.checkRetained()
}

func (c *fuzzClient) byte() byte {
	if len(c.script) == 0 {
		return 0
	}
	b := c.script[0]
	c.script = c.script[1:]
	return b
}

func (c *fuzzClient) step() {
	step := c.byte() % fuzzSteps
	if c.link == nil && step < stepCut {
		c.dial()
	}
	c.trace = append(c.trace, fmt.Sprint("step ", step))
	switch step {
	case stepPublish:
		c.sayPublish(c.byte(), c.byte())
	case stepSubscribe:
		c.saySubscribe(c.byte(), c.byte(), c.byte())
	case stepUnsubscribe:
		if f := c.filter(c.byte()); c.model.quiet() {
			c.say(&packet.Unsubscribe{PacketID: 7, Filters: []string{f}})
		}
	case stepAck:
		c.sayAck(c.byte(), c.byte())
	case stepPing:
		c.say(&packet.Ping{Kind: packet.TypePingreq})
	case stepDisconnect:
		c.sayDisconnect(c.byte())
	case stepAuth:
		c.say(&packet.Auth{Reason: packet.ReAuthenticate})
	case stepRaw:
		n := min(int(c.byte()%16), len(c.script))
		b := c.script[:n]
		c.script = c.script[n:]
		c.hear(b, true)
	case stepConnect:
		c.sayConnect(c.byte(), c.byte())
	default:
		c.happen(step)
	}
}

// filter chooses one of the session's filters, or any.
func (c *fuzzClient) filter(which byte) string {
	if held := c.model.filters(); which&0x80 != 0 && len(held) > 0 {
		return held[int(which)%len(held)]
	}
	return fuzzFilters[which%8]
}

// happen is what the client has no part in.
func (c *fuzzClient) happen(step byte) {
	switch step {
	case stepCut:
		c.cut()
	case stepOther:
		c.other(c.byte(), c.byte())
	case stepWait:
		pause([]time.Duration{2 * time.Minute, 4 * time.Minute}[c.byte()%2])
		synctest.Wait()
		c.model.expire(time.Now())
	case stepCrash:
		pause(3 * time.Second) // what is committed lazily is
		c.w.crash()
		c.model.crash(time.Now())
		c.hangUp()
	case stepDial:
		c.dial()
	}
}

// other has somebody else publish.
func (c *fuzzClient) other(how, where byte) {
	c.sent++
	m := &message.Message{Topic: fuzzTopics[where%3], Payload: fmt.Append(nil, c.sent), QoS: how % 3, Retain: how&0x10 != 0, Arrived: time.Now()}
	if m.Retain && how&0x20 != 0 {
		m.Payload = nil
	}
	_, err := c.w.broker.Publish(c.t.Context(), broker.Publication{App: 1, Messages: []*message.Message{m}})
	require.NoError(c.t, err)
	c.model.publish(modelMessage{m.Topic, string(m.Payload), m.QoS, false}, m.Retain)
}

// fuzzLink is one connection, as its client sees it.
type fuzzLink struct {
	conn    *conn.Conn
	wire    *fuzzWire
	answers *packet.Decoder
	heard   *packet.Decoder // reads what the client says as the server does
	version packet.Version
	aliases map[uint16]string
	model   *modelLink
	before  *fuzzLink // that may be taken over
	over    bool
}

func (c *fuzzClient) dial() {
	wire := &fuzzWire{slow: c.sent&1 == 1}
	l := &fuzzLink{
		wire: wire, answers: packet.NewDecoder(1 << 20), heard: packet.NewDecoder(16 << 10), aliases: map[uint16]string{}, version: packet.V5,
		conn: conn.New(conn.Config{Broker: c.w.broker, Observer: c.w.observer, Logger: slog.New(slog.DiscardHandler)}, wire, conn.Meta{Transport: "tcp"}),
	}
	switch {
	case c.link == nil:
	case c.link.model != nil && !c.link.over:
		l.before = c.link
	default:
		l.before = c.link.before
		c.link.end()
	}
	c.link = l
}

func (c *fuzzClient) say(p packet.Packet) { c.hear(p.Append(nil, c.link.version), false) }

// hear lets the server hear bytes one by one, so that the model can follow it from packet to packet.
func (c *fuzzClient) hear(b []byte, raw bool) {
	for i := range b {
		l := c.link
		if l.over {
			return
		}
		l.heard.Feed(b[i : i+1])
		p, err := l.heard.Next()
		if _, isConnect := p.(*packet.Connect); isConnect && raw || raw && p != nil && c.beyond(p) {
			c.over = true
			return
		}
		if p, ok := p.(*packet.Connect); ok {
			l.version = p.Version
		}
		was := l.conn.Receive([]byte{b[i]})
		synctest.Wait()
		c.predict(p, err)
		c.check()
		if l.over {
			require.Error(c.t, was, "the server reads on after %+v", p)
		} else {
			require.NoError(c.t, was, "after %+v", p)
		}
	}
}

// beyond reports whether a packet is none that the model knows all of.
func (c *fuzzClient) beyond(p packet.Packet) bool {
	switch p := p.(type) {
	case *packet.Publish:
		return string(p.Topic) == "$auth/token"
	case *packet.Subscribe, *packet.Unsubscribe:
		return true
	}
	return false
}

// predict has the model say what comes of what the server has just read.
func (c *fuzzClient) predict(p packet.Packet, err error) {
	l, now := c.link, time.Now()
	connect, isConnect := p.(*packet.Connect)
	switch {
	case err != nil:
		l.over = true
		c.predictBreach(err)
	case p == nil:
	case isConnect:
		c.trace = append(c.trace, fmt.Sprintf("%+v", connect))
		if !c.model.refuses(connect) {
			c.takeOver()
		}
		if l.model = c.model.connect(connect, now); l.model == nil {
			l.over = true
			return
		}
		l.heard.SetPacketBytesMax(1 << 20)
	default:
		c.trace = append(c.trace, fmt.Sprintf("%T%+v", p, p))
		l.over = !c.model.hear(p, now)
	}
	if l.over {
		l.conn.Ended(io.EOF)
	}
}

func (c *fuzzClient) predictBreach(err error) {
	reason := packet.MalformedPacket
	if d, ok := err.(*packet.DecodeError); ok { //nolint:errorlint // the decoder's own
		reason = d.Reason
	}
	l := c.link
	switch {
	case l.model != nil:
		c.model.fail(reason, time.Now())
	case l.heard.Version() == packet.V5:
		c.model.say(packet.TypeConnack, "%v", reason)
	case reason == packet.UnsupportedProtocolVersion:
		l.version = packet.V311
		c.model.say(packet.TypeConnack, "%v", reason)
	}
}

// takeOver ends the connection before, if there is one [MQTT5-3.1.4-3].
func (c *fuzzClient) takeOver() {
	old := c.link.before
	if old == nil {
		return
	}
	c.link.before = nil
	if old.version == packet.V5 {
		require.Equal(c.t, []string{packet.SessionTakenOver.String()}, old.read(c.t)[fuzzKinds[packet.TypeDisconnect]], "%v", c.trace)
	}
	c.model.end(true, time.Now())
	old.end()
}

func (l *fuzzLink) end() {
	l.over = true
	l.conn.Ended(io.EOF)
	synctest.Wait()
	l.conn.Close()
}

// cut ends the connections as a network does.
func (c *fuzzClient) cut() {
	c.hangUp()
	c.model.end(true, time.Now())
}

func (c *fuzzClient) hangUp() {
	for l := c.link; l != nil; l = l.before {
		l.end()
	}
	c.link = nil
	synctest.Wait()
}

// check holds what the server has said against the model.
func (c *fuzzClient) check() {
	synctest.Wait()
	want := c.model.take()
	if c.link == nil { // nobody is there to hear it
		return
	}
	got := c.link.read(c.t)
	for l := c.link; l.before != nil; l = l.before {
		if l.model == nil { // the connection before still has the session
			for kind, said := range l.before.read(c.t) {
				got[kind] = append(got[kind], said...)
			}
		}
	}
	require.Equal(c.t, want, got, "%v", c.trace)
}

func (c *fuzzClient) checkRetained() {
	want, got := map[string]string{}, map[string]string{}
	for name, m := range c.model.retained {
		want[name] = m.payload
	}
	all, err := c.w.broker.Retained(1, "#", "", 100)
	require.NoError(c.t, err)
	for _, m := range all {
		got[m.Topic] = string(m.Payload)
	}
	require.Equal(c.t, want, got, "%v", c.trace)
}

// read returns what the server has said, by the type of the packet; QoS 0 messages come in no order with others.
func (l *fuzzLink) read(t *testing.T) map[string][]string {
	t.Helper()
	said := map[string][]string{}
	l.answers.SetVersion(l.version)
	l.answers.Feed(l.wire.take())
	for {
		p, err := l.answers.Next()
		require.NoError(t, err, "the server said what is no MQTT")
		if p == nil {
			return said
		}
		kind, text := fuzzKinds[p.Type()], l.describe(t, p)
		if m, ok := p.(*packet.Publish); ok && m.QoS == 0 {
			kind = "QoS 0"
		}
		said[kind] = append(said[kind], text)
	}
}

func (l *fuzzLink) describe(t *testing.T, p packet.Packet) string {
	t.Helper()
	switch p := p.(type) {
	case *packet.Connack:
		if p.Reason.Failed() {
			return p.Reason.String()
		}
		return fmt.Sprintf("%v present %v", p.Reason, p.SessionPresent)
	case *packet.Disconnect:
		return p.Reason.String()
	case *packet.Suback:
		return fmt.Sprintf("%d %v", p.PacketID, p.Reasons)
	case *packet.Unsuback:
		return fmt.Sprintf("%d %v", p.PacketID, p.Reasons)
	case *packet.Ack:
		if p.Kind == packet.TypePuback || p.Kind == packet.TypePubrec {
			return fmt.Sprintf("%d %v", p.PacketID, p.Reason)
		}
		require.Equal(t, packet.Success, p.Reason)
		return fmt.Sprint(p.PacketID)
	case *packet.Publish:
		return l.describePublish(t, p)
	}
	return ""
}

func (l *fuzzLink) describePublish(t *testing.T, p *packet.Publish) string {
	t.Helper()
	name := string(p.Topic)
	if p.Properties != nil && p.Properties.TopicAlias != 0 {
		require.EqualValues(t, 1, p.Properties.TopicAlias, "[MQTT5-3.1.2-26]")
		if name == "" {
			name = l.aliases[1]
		}
		l.aliases[1] = name
	}
	text := fmt.Sprintf("%s %q qos %d retain %v", name, p.Payload, p.QoS, p.Retain)
	if p.QoS == 0 {
		return text
	}
	return fmt.Sprintf("%s id %d dup %v", text, p.PacketID, p.Dup)
}

func (c *fuzzClient) sayConnect(how, more byte) {
	p := &packet.Connect{
		Version:    []packet.Version{packet.V31, packet.V5, packet.V311, packet.V5}[how%4],
		CleanStart: how&4 != 0, ClientID: "c",
	}
	if how&0x20 != 0 {
		c.sent++
		p.Will = &packet.Will{Topic: "b", Payload: fmt.Append(nil, "will ", c.sent), QoS: how >> 6 & 1, Retain: true}
	}
	if p.Version == packet.V5 {
		p.Properties = &packet.Properties{}
		if how&8 != 0 {
			p.Properties.Has |= packet.PropSessionExpiry
			p.Properties.SessionExpiry = 61
		}
		if how&0x10 != 0 {
			p.Properties.Has |= packet.PropReceiveMaximum
			p.Properties.ReceiveMaximum = uint16(1 + more%3)
		}
		if more&4 != 0 {
			p.Properties.Has |= packet.PropTopicAliasMaximum
			p.Properties.TopicAliasMaximum = 1
		}
		if more >= 0xF8 {
			p.Properties.Has |= packet.PropAuthMethod
			p.Properties.AuthMethod = "magic"
		}
	}
	c.hear(p.Append(nil, p.Version), false)
}

func (c *fuzzClient) sayPublish(how, id byte) {
	c.sent++
	p := &packet.Publish{
		QoS: how & 3, Retain: how&4 != 0, Topic: []byte(fuzzTopics[how>>3%8]), Payload: fmt.Append(nil, c.sent),
		PacketID: uint16(id % 8), Dup: how&0x80 != 0,
	}
	if how&0x40 != 0 && c.link.version == packet.V5 {
		p.Properties = &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: uint16(id % 4)}
	}
	c.say(p)
}

func (c *fuzzClient) saySubscribe(filter, how, options byte) {
	p := &packet.Subscribe{PacketID: uint16(how >> 2 & 3)}
	for i := range 1 + int(how>>7) {
		s := packet.Subscription{Filter: fuzzFilters[(int(filter)+i)%8], QoS: how & 3}
		if c.link.version == packet.V5 {
			s.NoLocal, s.RetainAsPublished, s.RetainHandling = options&1 != 0, options&2 != 0, options>>2%3
			// What waits is judged by the options of when it is sent: taken off, No Local lets come what was passed over, unless
			// the cursor is behind it already.
			s.NoLocal = s.NoLocal || c.model.session != nil && c.model.session.subs[s.Filter].noLocal
		}
		p.Subscriptions = append(p.Subscriptions, s)
	}
	if c.model.quiet() || c.link.model == nil {
		c.say(p)
	}
}

// sayAck acknowledges what is under way, as is right or not, or what is not.
func (c *fuzzClient) sayAck(how, which byte) {
	if id, kind := c.model.underWay(which); how&0x20 != 0 && id != 0 {
		a := &packet.Ack{Kind: kind, PacketID: id}
		if how&0x10 != 0 && c.link.version == packet.V5 {
			a.Kind, a.Reason = packet.TypePubrec, packet.UnspecifiedError // a second one changes nothing
		}
		c.say(a)
		return
	}
	kind := []packet.Type{packet.TypePuback, packet.TypePubrec, packet.TypePubrel, packet.TypePubcomp}[how%4]
	a := &packet.Ack{Kind: kind, PacketID: uint16(which % 8)}
	if how&0x10 != 0 && c.link.version == packet.V5 && kind != packet.TypePubrel && kind != packet.TypePubcomp {
		a.Reason = packet.UnspecifiedError
	}
	c.say(a)
}

func (c *fuzzClient) sayDisconnect(how byte) {
	p := &packet.Disconnect{}
	if c.link.version == packet.V5 {
		p.Reason = fuzzEnds[how%3]
		if how&0x10 != 0 {
			p.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: uint32(how>>6) * 31}
		}
	}
	c.say(p)
}

// fuzzWire takes everything, at once or, when it is slow, in two pieces.
type fuzzWire struct {
	slow bool

	mu     sync.Mutex // guards what follows
	out    []byte
	closed bool
}

func (w *fuzzWire) put(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	w.out = append(w.out, b...)
	return len(b), nil
}

func (w *fuzzWire) take() (b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, w.out = w.out, nil
	return b
}

// TryWrite implements conn.Wire.
func (w *fuzzWire) TryWrite(b []byte) (int, error) {
	if w.slow {
		b = b[:len(b)/2]
	}
	return w.put(b)
}

// Write implements conn.Wire.
func (w *fuzzWire) Write(b []byte) (int, error) { return w.put(b) }

// Frame implements conn.Wire.
func (*fuzzWire) Frame(buf []byte) []byte { return buf[conn.HeadroomBytes:] }

// Farewell implements conn.Wire.
func (*fuzzWire) Farewell(packet.ReasonCode) []byte { return nil }

// Waiting implements conn.Wire.
func (*fuzzWire) Waiting() int { return 0 }

// Interrupt implements conn.Wire.
func (*fuzzWire) Interrupt() bool { return false }

// CloseWrite implements conn.Wire.
func (*fuzzWire) CloseWrite() error { return nil }

// Close implements conn.Wire.
func (w *fuzzWire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return nil
}

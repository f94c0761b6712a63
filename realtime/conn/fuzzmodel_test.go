package conn_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/topic"
)

// The limits that the fuzzed app has.
const (
	fuzzReceiveMaximum = 3
	fuzzAliasMaximum   = 2
	fuzzSubscriptions  = 4
	fuzzLevelsMax      = 3
	fuzzExpiryMax      = 187 * time.Second
	fuzzWillWait       = time.Minute // after a crash, wills are sent before this has passed
)

// fuzzModel says what the server must say to one client, whose packets come one at a time. It knows one session and one
// connection, and nothing of how the server is made.
type fuzzModel struct {
	session  *modelSession
	retained map[string]modelMessage
	link     *modelLink // the connection that has the session, or nil
	said     map[string][]string
}

type modelMessage struct {
	topic, payload string
	qos            byte
	own            bool // the client has published it
}

type modelSub struct {
	qos                        byte
	noLocal, retainAsPublished bool
}

// takes reports whether a subscription to a filter gets a message [MQTT5-3.8.3-3].
func (s modelSub) takes(filter string, p *modelMessage) bool {
	return topic.Match(filter, p.topic) && (!s.noLocal || !p.own)
}

type modelEntry struct {
	id       uint16
	qos      byte
	released bool // PUBREL was sent
	done     bool
	text     string
}

// modelDelivery is a message on its way: as it was routed to the connection and, where it was not sent there, as it is read
// from the log, for which subscriptions at QoS 0 have kept nothing.
type modelDelivery struct {
	qos          byte
	text, stored string
}

// modelSession is what is kept of a client.
type modelSession struct {
	subs    map[string]modelSub
	window  []modelEntry
	queue   []modelDelivery // of QoS 1 and 2, not sent yet
	nextID  uint16
	inbound map[uint16]bool // QoS 2 messages of the client: whether the message, and with it the identifier, is stored
	durable bool            // what its subscriptions match is stored
	expiry  time.Duration
	endedAt time.Time
	will    *modelMessage // left by a crash, sent a while after
	crashed time.Time     // the last time
	only    bool          // it is kept for its will alone
}

// modelLink is a connection that was accepted.
type modelLink struct {
	version    packet.Version
	expiry     time.Duration
	asked      bool // a session that outlives the connection was asked for
	receiveMax int
	before     int // QoS 2 messages of the client that a connection before has left
	will       *modelMessage
	aliases    map[uint16]string
	resend     []uint16
}

func newFuzzModel() *fuzzModel {
	return &fuzzModel{retained: map[string]modelMessage{}, said: map[string][]string{}}
}

func (m *fuzzModel) say(p packet.Type, format string, args ...any) {
	m.said[fuzzKinds[p]] = append(m.said[fuzzKinds[p]], fmt.Sprintf(format, args...))
}

// take returns what the server must have said since.
func (m *fuzzModel) take() (said map[string][]string) {
	said, m.said = m.said, map[string][]string{}
	return said
}

// connect is a CONNECT on a fresh connection; nil: it is refused.
func (m *fuzzModel) connect(p *packet.Connect, now time.Time) *modelLink {
	if m.refuses(p) {
		m.say(packet.TypeConnack, "%v", packet.BadAuthenticationMethod) // [MQTT5-4.12.0-1]
		return nil
	}
	l := &modelLink{version: p.Version, receiveMax: 65_535, aliases: map[uint16]string{}, expiry: modelExpiry(p)}
	l.asked = p.Properties != nil && p.Properties.SessionExpiry > 0
	if p.Properties != nil && p.Properties.Has.Contains(packet.PropReceiveMaximum) {
		l.receiveMax = int(p.Properties.ReceiveMaximum)
	}
	if p.Will != nil {
		l.will = &modelMessage{p.Will.Topic, string(p.Will.Payload), p.Will.QoS, true}
	}
	m.expire(now)
	present := m.resume(p.CleanStart, l)
	m.link = l
	m.say(packet.TypeConnack, "%v present %v", packet.Success, present && p.Version != packet.V31)
	if present {
		l.before = len(m.session.inbound)
		for _, e := range m.session.window {
			if !e.done {
				l.resend = append(l.resend, e.id)
			}
		}
		if len(l.resend) > l.receiveMax {
			slices.SortStableFunc(l.resend, func(a, b uint16) int { return m.session.later(a) - m.session.later(b) })
		}
	}
	m.pump()
	return l
}

// refuses reports whether a CONNECT names an authentication method: none is known.
func (*fuzzModel) refuses(p *packet.Connect) bool {
	return p.Properties != nil && p.Properties.Has.Contains(packet.PropAuthMethod)
}

func modelExpiry(p *packet.Connect) time.Duration {
	switch {
	case p.Version != packet.V5 && !p.CleanStart:
		return fuzzExpiryMax
	case p.Properties == nil:
		return 0
	}
	return min(time.Duration(p.Properties.SessionExpiry)*time.Second, fuzzExpiryMax)
}

// resume gives the connection the session that was there, or another [MQTT5-3.1.2-4, MQTT5-3.1.2-5].
func (m *fuzzModel) resume(clean bool, l *modelLink) (present bool) {
	old := m.session
	if old != nil && (clean || old.only) {
		m.session = nil // what a crash has left of its will is not sent: the client is back
	}
	if m.session == nil {
		m.session = &modelSession{subs: map[string]modelSub{}, inbound: map[uint16]bool{}, only: l.expiry == 0}
	} else {
		present = true
		m.session.will = nil // [MQTT5-3.1.3-9]
	}
	m.session.expiry, m.session.durable = l.expiry, present || l.expiry > 0
	return present
}

// later orders what is sent again where not all of it may leave: a PUBREL first.
func (s *modelSession) later(id uint16) int {
	if s.find(id).released {
		return 0
	}
	return 1
}

func (s *modelSession) find(id uint16) *modelEntry {
	for i := range s.window {
		if s.window[i].id == id {
			return &s.window[i]
		}
	}
	return nil
}

func (s *modelSession) outstanding() (n int) {
	for _, e := range s.window {
		if !e.done {
			n++
		}
	}
	return n
}

// leave lets what is done leave in order; what is not keeps its identifier in use.
func (s *modelSession) leave() {
	for len(s.window) > 0 && s.window[0].done {
		s.window = s.window[1:]
	}
}

// pump sends what may be sent now: first what a connection before has sent [MQTT5-4.4.0-1], within the client's Receive
// Maximum [MQTT5-3.3.4-9].
func (m *fuzzModel) pump() {
	l, s := m.link, m.session
	if l == nil {
		return
	}
	for len(l.resend) > 0 {
		e := s.find(l.resend[0])
		sent := e != nil && !e.done && !e.released
		if sent && s.outstanding()-len(l.resend) >= l.receiveMax {
			return
		}
		l.resend = l.resend[1:]
		switch {
		case sent:
			m.say(packet.TypePublish, "%s id %d dup true", e.text, e.id) // [MQTT5-3.3.1-1]
		case e != nil && !e.done:
			m.say(packet.TypePubrel, "%d", e.id)
		}
	}
	for len(s.queue) > 0 && s.outstanding() < l.receiveMax {
		d := s.queue[0]
		s.queue, s.nextID = s.queue[1:], s.nextID+1
		s.window = append(s.window, modelEntry{id: s.nextID, qos: d.qos, text: d.text})
		m.say(packet.TypePublish, "%s id %d dup false", d.text, s.nextID)
	}
}

// publish routes a message to the client, and keeps it where it is retained; without a payload it clears.
func (m *fuzzModel) publish(p modelMessage, retain bool) {
	if retain && p.payload == "" {
		delete(m.retained, p.topic)
	} else if retain {
		m.retained[p.topic] = p
	}
	if m.session == nil || m.session.only && m.link == nil {
		return
	}
	matched, qos, live, stored := false, byte(0), false, false
	for f, sub := range m.session.subs {
		if sub.takes(f, &p) {
			matched, qos = true, max(qos, min(p.qos, sub.qos))
			live = live || retain && sub.retainAsPublished
			stored = stored || retain && sub.retainAsPublished && sub.qos > 0
		}
	}
	if matched {
		m.deliver(modelDelivery{qos, p.text(qos, live), p.text(qos, stored)})
	}
}

func (p modelMessage) text(qos byte, retain bool) string {
	return fmt.Sprintf("%s %q qos %d retain %v", p.topic, p.payload, qos, retain)
}

func (m *fuzzModel) deliver(d modelDelivery) {
	switch {
	case d.qos > 0 && m.link == nil:
		d.text = d.stored
		m.session.queue = append(m.session.queue, d)
	case d.qos > 0:
		m.session.queue = append(m.session.queue, d)
		m.pump()
	case m.link != nil:
		m.said["QoS 0"] = append(m.said["QoS 0"], d.text)
	}
}

// keeps reports whether a message at QoS 1 or 2 is stored for the session.
func (s *modelSession) keeps(name string) bool {
	for f, sub := range s.subs {
		if s.durable && sub.qos > 0 && topic.Match(f, name) {
			return true
		}
	}
	return false
}

// unsent leaves to the log what was not sent.
func (s *modelSession) unsent() {
	for i := range s.queue {
		s.queue[i].text = s.queue[i].stored
	}
}

// hear is a packet after CONNECT; false: the connection is over.
func (m *fuzzModel) hear(p packet.Packet, now time.Time) bool {
	switch p := p.(type) {
	case *packet.Publish:
		return m.hearPublish(p, now)
	case *packet.Subscribe:
		return m.subscribe(p, now)
	case *packet.Unsubscribe:
		return m.unsubscribe(p, now)
	case *packet.Ack:
		return m.acknowledge(p, now)
	case *packet.Ping:
		m.say(packet.TypePingresp, "")
	case *packet.Disconnect:
		return m.disconnect(p, now)
	default:
		return m.fail(packet.ProtocolError, now)
	}
	return true
}

// fail ends the connection from the server's side [MQTT5-4.13.1-1].
func (m *fuzzModel) fail(reason packet.ReasonCode, now time.Time) bool {
	if m.link.version == packet.V5 {
		m.say(packet.TypeDisconnect, "%v", reason)
	}
	m.end(true, now)
	return false
}

// end takes the connection from the session, and sends its will [MQTT5-3.1.2-8].
func (m *fuzzModel) end(withWill bool, now time.Time) {
	l := m.link
	if l == nil {
		return
	}
	m.link = nil
	m.session.endedAt = now
	m.session.unsent()
	if m.session.expiry == 0 {
		m.session = nil
	}
	if withWill && l.will != nil {
		m.publish(*l.will, true)
	}
}

func (m *fuzzModel) disconnect(p *packet.Disconnect, now time.Time) bool {
	if props := p.Properties; props != nil && props.Has.Contains(packet.PropSessionExpiry) {
		if props.SessionExpiry != 0 && !m.link.asked {
			return m.fail(packet.ProtocolError, now)
		}
		m.session.expiry = min(time.Duration(props.SessionExpiry)*time.Second, fuzzExpiryMax)
	}
	m.end(p.Reason != packet.Success, now)
	return false
}

func (m *fuzzModel) hearPublish(p *packet.Publish, now time.Time) bool {
	l, s := m.link, m.session
	name, reason := l.topicOf(p)
	if reason.Failed() {
		return m.fail(reason, now)
	}
	under := 0
	if p.QoS == 1 {
		under = 1
	}
	_, again := s.inbound[p.PacketID]
	if again = again && p.QoS == 2; p.QoS == 2 && !again {
		s.inbound[p.PacketID] = false
	}
	if p.QoS > 0 && l.version == packet.V5 && under+len(s.inbound)-min(l.before, len(s.inbound)) > fuzzReceiveMaximum {
		delete(s.inbound, p.PacketID)
		return m.fail(packet.ReceiveMaximumExceeded, now) // [MQTT5-3.3.4-7]
	}
	reason = packet.Success
	if !again && name[0] == '$' {
		reason = packet.NotAuthorized
	} else if !again {
		if p.QoS == 2 {
			s.inbound[p.PacketID] = p.Retain || s.keeps(name)
		}
		m.publish(modelMessage{name, string(p.Payload), p.QoS, true}, p.Retain)
	}
	if l.version != packet.V5 {
		reason = packet.Success
	}
	switch p.QoS {
	case 1:
		m.say(packet.TypePuback, "%d %v", p.PacketID, reason)
	case 2:
		if reason.Failed() {
			delete(s.inbound, p.PacketID) // [MQTT5-4.3.3-9]
		}
		m.say(packet.TypePubrec, "%d %v", p.PacketID, reason)
	}
	return true
}

func (l *modelLink) topicOf(p *packet.Publish) (name string, reason packet.ReasonCode) {
	if p.Properties == nil || p.Properties.TopicAlias == 0 {
		return string(p.Topic), packet.Success
	}
	alias := p.Properties.TopicAlias
	if alias > fuzzAliasMaximum {
		return "", packet.TopicAliasInvalid
	}
	if len(p.Topic) > 0 {
		l.aliases[alias] = string(p.Topic)
	}
	if l.aliases[alias] == "" {
		return "", packet.ProtocolError
	}
	return l.aliases[alias], packet.Success
}

func (m *fuzzModel) subscribe(p *packet.Subscribe, now time.Time) bool {
	for _, s := range p.Subscriptions {
		if topic.ValidateFilter(s.Filter, topic.Limits{}) != nil {
			return m.fail(packet.MalformedPacket, now)
		}
	}
	var reasons []packet.ReasonCode
	var snapshots []func()
	for _, s := range p.Subscriptions {
		_, existed := m.session.subs[s.Filter]
		reason := packet.ReasonCode(s.QoS)
		switch {
		case topic.ValidateFilter(s.Filter, topic.Limits{LevelsMax: fuzzLevelsMax}) != nil:
			reason = packet.TopicFilterInvalid
		case !existed && len(m.session.subs) >= fuzzSubscriptions:
			reason = packet.QuotaExceeded
		default:
			sub := modelSub{s.QoS, s.NoLocal, s.RetainAsPublished}
			m.session.subs[s.Filter] = sub
			if s.RetainHandling == 0 || s.RetainHandling == 1 && !existed {
				snapshots = append(snapshots, func() { m.snapshot(s.Filter, sub) })
			}
		}
		if reason.Failed() && m.link.version != packet.V5 {
			reason = packet.UnspecifiedError
		}
		reasons = append(reasons, reason)
	}
	m.say(packet.TypeSuback, "%d %v", p.PacketID, reasons)
	for _, send := range snapshots {
		send()
	}
	return true
}

// snapshot sends the retained messages in the order of their topics [MQTT5-3.3.1-9, MQTT5-3.3.1-10].
func (m *fuzzModel) snapshot(filter string, sub modelSub) {
	for _, name := range slices.Sorted(maps.Keys(m.retained)) {
		if r := m.retained[name]; sub.takes(filter, &r) {
			qos := min(r.qos, sub.qos)
			m.deliver(modelDelivery{qos, r.text(qos, true), r.text(qos, true)})
		}
	}
}

func (m *fuzzModel) unsubscribe(p *packet.Unsubscribe, now time.Time) bool {
	var reasons []packet.ReasonCode
	for _, f := range p.Filters {
		if topic.ValidateFilter(f, topic.Limits{}) != nil {
			return m.fail(packet.MalformedPacket, now)
		}
		reason := packet.NoSubscriptionExisted
		if _, there := m.session.subs[f]; there {
			reason = packet.Success
		}
		delete(m.session.subs, f)
		if m.link.version == packet.V5 {
			reasons = append(reasons, reason)
		}
	}
	m.say(packet.TypeUnsuback, "%d %v", p.PacketID, reasons)
	return true
}

// acknowledge is an acknowledgement of the client's. One of what is not under way is none of the server's business, but
// that it is released once more; one of another QoS than the message's is a Protocol Error.
func (m *fuzzModel) acknowledge(p *packet.Ack, now time.Time) bool {
	if p.Kind == packet.TypePubrel {
		delete(m.session.inbound, p.PacketID)
		m.say(packet.TypePubcomp, "%d", p.PacketID)
		return true
	}
	e := m.session.find(p.PacketID)
	if e == nil || e.done {
		if p.Kind == packet.TypePubrec && !p.Reason.Failed() {
			m.say(packet.TypePubrel, "%d", p.PacketID)
		}
		return true
	}
	wrong := map[packet.Type]bool{packet.TypePuback: e.qos != 1, packet.TypePubrec: e.qos != 2, packet.TypePubcomp: !e.released}
	if wrong[p.Kind] {
		return m.fail(packet.ProtocolError, now)
	}
	if p.Kind == packet.TypePubrec && (e.released || !p.Reason.Failed()) {
		e.released = true // [MQTT5-4.3.3-6]
		m.say(packet.TypePubrel, "%d", p.PacketID)
	} else {
		e.done = true
	}
	m.session.leave()
	m.pump()
	return true
}

// underWay returns one of the messages under way, and the acknowledgement that is next; 0: there is none.
func (m *fuzzModel) underWay(which byte) (id uint16, next packet.Type) {
	if m.session == nil || len(m.session.window) == 0 {
		return 0, 0
	}
	e := m.session.window[int(which)%len(m.session.window)]
	switch {
	case e.qos == 1:
		next = packet.TypePuback
	case e.released:
		next = packet.TypePubcomp
	default:
		next = packet.TypePubrec
	}
	return e.id, next
}

// filters are those of the session, in order.
func (m *fuzzModel) filters() []string {
	if m.session == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(m.session.subs))
}

// quiet reports whether a change of subscriptions acts on nothing that is already on its way: there the standard leaves
// a choice to the server [MQTT5-3.10.4-3].
func (m *fuzzModel) quiet() bool {
	const most = 8 // retained messages by as many subscriptions as a packet holds
	return m.link != nil && len(m.session.queue) == 0 && len(m.link.resend) == 0 && m.session.outstanding()+most < m.link.receiveMax
}

// crash ends the server and its connections; what outlives a connection outlives it.
func (m *fuzzModel) crash(now time.Time) {
	l, s := m.link, m.session
	m.link = nil
	if s != nil {
		s.crashed = now
		maps.DeleteFunc(s.inbound, func(_ uint16, stored bool) bool { return !stored })
	}
	if l == nil {
		return
	}
	s.endedAt, s.will = now, l.will
	s.unsent()
	if s.only = s.expiry == 0; s.only && s.will == nil {
		m.session = nil
	}
}

// expire lets time pass.
func (m *fuzzModel) expire(now time.Time) {
	s := m.session
	if s == nil || m.link != nil {
		return
	}
	over := now.Sub(s.endedAt) >= s.expiry
	if w := s.will; w != nil && now.Sub(s.crashed) >= fuzzWillWait {
		s.will = nil
		if s.only || over {
			m.session = nil
		}
		m.publish(*w, true)
	}
	if over && !s.only {
		m.session = nil
	}
}

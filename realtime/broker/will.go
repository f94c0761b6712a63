package broker

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// Will is the Will Message of a connection and its Will Delay Interval.
type Will struct {
	Message *message.Message
	Delay   time.Duration
	Expires bool          // it has a Message Expiry Interval
	Expiry  time.Duration // counted from when it is sent
}

// storedWill is a Will as the session's row keeps it: with the grant by which it is judged once more when it is sent.
type storedWill struct {
	will    *Will
	encoded []byte
	grant   Grant  // nil after a restart, until it is needed
	proof   []byte // of the grant
}

// willRow is the column will.
type willRow struct {
	Topic      string `json:"topic"`
	Payload    []byte `json:"payload"`
	Properties []byte `json:"properties,omitempty"`
	QoS        byte   `json:"qos"`
	Retain     bool   `json:"retain,omitempty"`
	DelayMS    int64  `json:"delay_ms,omitempty"`
	Expires    bool   `json:"expires,omitempty"`
	ExpiryMS   int64  `json:"expiry_ms,omitempty"`
	Grant      []byte `json:"grant"`
}

func newStoredWill(w *Will, g Grant) *storedWill {
	if w == nil {
		return nil
	}
	m := w.Message
	s := &storedWill{will: w, grant: g, proof: g.Encode()}
	encoded, err := json.Marshal(willRow{
		Topic: m.Topic, Payload: m.Payload, Properties: m.Properties, QoS: m.QoS, Retain: m.Retain,
		DelayMS: w.Delay.Milliseconds(), Expires: w.Expires, ExpiryMS: w.Expiry.Milliseconds(), Grant: s.proof,
	})
	if err != nil {
		panic("broker: a will cannot be encoded: " + err.Error())
	}
	s.encoded = encoded
	return s
}

func parseStoredWill(encoded []byte) (*storedWill, error) {
	var r willRow
	if err := json.Unmarshal(encoded, &r); err != nil {
		return nil, fmt.Errorf("will: %w", err)
	}
	return &storedWill{encoded: encoded, proof: r.Grant, will: &Will{
		Message: &message.Message{Topic: r.Topic, Payload: r.Payload, Properties: r.Properties, QoS: r.QoS, Retain: r.Retain},
		Delay:   time.Duration(r.DelayMS) * time.Millisecond,
		Expires: r.Expires, Expiry: time.Duration(r.ExpiryMS) * time.Millisecond,
	}}, nil
}

// judgeWill checks a Will Message at CONNECT.
func (b *Broker) judgeWill(g Grant, w *Will) error {
	a := b.app(g.App())
	if a == nil {
		return ErrBadCredentials
	}
	limits := g.Limits()
	if err := b.judgePublish(a, g, &limits, w.Message); err != nil {
		return err
	}
	parts := []Part{{Message: w.Message}}
	if a.reserve(&limits, parts) >= 0 {
		return ErrQuotaExceeded
	}
	a.release(parts) // it is reserved when the will is sent
	return nil
}

// readyWill judges a will that is due, and makes the message of it; nil: it is no longer allowed.
func (b *Broker) readyWill(a *app, g Grant, publisher string, w *Will) (*message.Message, *Limits) {
	if !g.Alive() {
		return nil, nil
	}
	limits := g.Limits()
	// A message is published once; a will may be sent again, when its commit has failed.
	old := w.Message
	m := &message.Message{
		Topic: old.Topic, Payload: old.Payload, Properties: old.Properties, QoS: old.QoS, Retain: old.Retain,
		Publisher: publisher, Arrived: b.now(),
	}
	if w.Expires {
		m.Expires = m.Arrived.Add(w.Expiry)
	}
	if b.judgePublish(a, g, &limits, m) != nil {
		return nil, nil
	}
	return m, &limits
}

// sendWill publishes the Will Message of a connection that has just ended, if it is still allowed.
func (b *Broker) sendWill(c *Client, w *Will) {
	m, limits := b.readyWill(c.app, c.Grant(), c.id, w)
	if m == nil {
		return
	}
	u := &underWay{client: c, app: c.app}
	wr := &write{app: c.app, origin: u, behind: c.underWay.Load() > 0}
	b.sendWillBy(wr, u, m, limits)
}

// sendStoredWill publishes the will of a persistent session, and takes it out of its row by the same write. With gone
// the session has ended, and its row goes. Behind tells that what its client has published is still under way: the will
// is the last of that [MQTT5-4.6.0-6].
func (b *Broker) sendStoredWill(p *persistentSession, w *storedWill, behind bool, gone *SessionChange) {
	wr := &write{app: p.app, change: gone, behind: behind}
	if gone == nil {
		if !p.sendsWill(w) {
			return
		}
		wr.session, wr.keep, wr.endsWill = p, true, w
	} else {
		wr.ends = &unended{session: p}
	}
	wr.stored = true
	g := w.grant
	if g == nil {
		var err error
		if g, err = b.cfg.Authenticator.Restore(p.app.uid, w.proof); err != nil {
			b.committer.put(wr)
			return
		}
	}
	m, limits := b.readyWill(p.app, g, p.clientID, w.will)
	if m == nil {
		b.committer.put(wr)
		return
	}
	if gone != nil {
		wr.ends.will = w
	}
	u := &underWay{app: p.app}
	wr.origin = u
	b.sendWillBy(wr, u, m, limits)
}

// sendWillBy puts a will's message into its write, which may have something to commit beside it. A message that need not
// be stored does not wait for that.
func (b *Broker) sendWillBy(wr *write, u *underWay, m *message.Message, limits *Limits) {
	if !m.Retain && !wr.behind && !wr.app.durable.matches(m) {
		k := NewMarks()
		wr.app.route(m, k)
		k.Release()
		if wr.endsWill != nil { // sent it is, whatever becomes of the row
			wr.session.endWill(wr.endsWill)
			wr.endsWill = nil
		}
		if wr.ends != nil {
			wr.ends.will = nil
		}
		if wr.stored {
			b.committer.put(wr)
		}
		return
	}
	wr.one[0].Message = m
	wr.parts = wr.one[:]
	if m.Retain {
		if wr.app.reserve(limits, wr.parts) >= 0 {
			// No room: it is not published, but what is to be committed beside it is.
			if wr.parts = nil; wr.stored {
				if wr.ends != nil {
					wr.ends.will = nil
				}
				b.committer.put(wr)
			}
			return
		}
		u.parts = wr.parts
	}
	if u.client != nil {
		u.client.underWay.Add(1)
	}
	wr.behind = true
	if _, err := b.place(wr, false); err != nil {
		u.Committed(0, err)
	}
}

// armWill has a waiting will sent after its delay, or when the session ends [MQTT5-3.1.3-9].
func (b *Broker) armWill(p *persistentSession, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopTimerLocked()
	if p.will == nil || p.dead || p.client != nil {
		return
	}
	p.timer = time.AfterFunc(max(0, after), func() { b.willDue(p) })
}

// willDue sends a will whose delay has passed, unless the client is back.
func (b *Broker) willDue(p *persistentSession) {
	if b.draining.Load() {
		return // it stays in its row
	}
	p.mu.Lock()
	w := p.will
	back := p.client != nil || p.dead
	p.mu.Unlock()
	switch {
	case w == nil || back:
	case p.willOnly:
		p.app.mu.Lock()
		p.app.forgetLocked(p)
		p.app.mu.Unlock()
		b.endSession(p, true)
	default:
		b.sendStoredWill(p, w, false, nil)
	}
}

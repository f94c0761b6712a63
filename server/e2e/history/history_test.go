package history

import (
	"strings"
	"testing"
)

// past is a made-up history.
type past struct {
	*History
	a, b *Session
}

func id(n int) ID { return ID{"p", n} }

// sends sends messages of QoS 2, numbered, to a topic.
func (p past) sends(topic string, numbers ...int) past {
	return p.sendsWith(topic, 2, false, numbers...)
}

func (p past) sendsWith(topic string, qos byte, retain bool, numbers ...int) past {
	for _, n := range numbers {
		p.Sent(Message{ID: id(n), Topic: topic, QoS: qos, Retain: retain})
	}
	return p
}

func (p past) acked(numbers ...int) past {
	for _, n := range numbers {
		p.Acked(id(n))
	}
	return p
}

// gets delivers messages of QoS 2 to session a.
func (p past) gets(topic string, numbers ...int) past {
	return p.getsWith(Delivery{Topic: topic, QoS: 2}, numbers...)
}

func (p past) getsWith(d Delivery, numbers ...int) past {
	for _, n := range numbers {
		d.ID = id(n)
		p.a.Delivered(d)
	}
	return p
}

// crashes kills the server, and both sessions go on.
func (p past) crashes() past {
	p.a.Closed("killed")
	p.b.Closed("killed")
	p.Crashed()
	for _, s := range []*Session{p.a, p.b} {
		s.Connecting(false)
		s.Connected(true, true)
	}
	return p
}

func (p past) settles() past { p.Settle(); return p }

func (p past) subscribes(s *Session, filter string, snapshot bool) past {
	s.Subscribing(filter, 2, snapshot)
	s.Subscribed(filter)
	return p
}

// read reads one retained message; 0 is none.
func (p past) read(topic string, n int) past {
	values := map[string]ID{}
	if n > 0 {
		values[topic] = id(n)
	}
	p.Retained(p.Read(), values)
	return p
}

// newPast begins with two sessions that outlive their connections; a has subscribed to t/#, b to nothing.
func newPast() past {
	h := New()
	p := past{h, h.Session("a"), h.Session("b")}
	for _, s := range []*Session{p.a, p.b} {
		s.Connecting(false)
		s.Connected(false, true)
	}
	return p.subscribes(p.a, "t/#", true)
}

const retained = true

func TestAHistory(t *testing.T) {
	t.Parallel()
	qos1 := Delivery{Topic: "t/1", QoS: 1}
	asRetained := Delivery{Topic: "t/1", QoS: 2, Retain: true}
	for _, c := range []struct {
		name  string
		want  string // what its first fault says; empty: there is none
		plays func(p past) past
	}{
		{"where all comes in order is without fault", "", func(p past) past {
			return p.sends("t/1", 1, 2).acked(1).gets("t/1", 1).crashes().sends("t/1", 2).acked(2).gets("t/1", 2).settles()
		}},
		{"where what was not acknowledged does not come is without fault", "", func(p past) past {
			p.sends("t/1", 1).crashes().Abandoned(id(1))
			return p.sends("t/1", 2).acked(2).gets("t/1", 2).settles()
		}},
		{"where a message of QoS 1 comes again after a crash is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, false, 1, 2).acked(1, 2).getsWith(qos1, 1, 2)
			return p.crashes().getsWith(qos1, 1, 2).settles()
		}},
		{"where a message of QoS 1 that was sent twice comes twice is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, false, 1, 2).crashes().sendsWith("t/1", 1, false, 1, 2).acked(1, 2)
			return p.getsWith(qos1, 1, 2, 1, 2).settles()
		}},
		{"where a message of QoS 1 comes again long after is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, false, 1).acked(1).getsWith(qos1, 1)
			return p.settles().settles().crashes().getsWith(qos1, 1)
		}},
		{"where an acknowledged message never comes", "a never got p#1 (t/1)", func(p past) past {
			return p.sends("t/1", 1).acked(1).crashes().settles()
		}},
		{"where a message is left out", "a got p#2 (t/1), and not p#1 before it", func(p past) past {
			return p.sends("t/1", 1, 2).acked(1, 2).gets("t/1", 2)
		}},
		{"where a message is left out that was not acknowledged yet and is sent again later", "a got p#2 (t/1), and not p#1 before it", func(p past) past {
			return p.sends("t/1", 1, 2).gets("t/1", 2)
		}},
		{"where two messages come in the wrong order", "a got p#1 (t/1) after #2", func(p past) past {
			p.sends("t/1", 1).crashes().Abandoned(id(1))
			return p.sends("t/1", 2).acked(2).gets("t/1", 2, 1)
		}},
		{"where two messages come again in the wrong order", "a got p#1 (t/1) after #2 by one connection", func(p past) past {
			p.sendsWith("t/1", 1, false, 1, 2).acked(1, 2).getsWith(qos1, 1, 2)
			return p.crashes().getsWith(qos1, 2, 1)
		}},
		{"where messages to several topics come in any order is without fault", "", func(p past) past {
			return p.sends("t/1", 1).sends("t/2", 2).acked(1, 2).gets("t/2", 2).gets("t/1", 1).settles()
		}},
		{"where a message of QoS 2 comes twice", "a got p#1 (t/1) with QoS 2 more than once", func(p past) past {
			return p.sends("t/1", 1).acked(1).gets("t/1", 1).crashes().gets("t/1", 1)
		}},
		{"where a message of QoS 2 comes again to the client's next session after a crash is without fault", "", func(p past) past {
			p.sends("t/1", 1).a.Connecting(true)
			p.a.Connected(false, false)
			p.subscribes(p.a, "t/#", true).gets("t/1", 1)
			p.a.Closed("lost")
			p.Crashed()
			p.a.Connecting(true)
			p.a.Connected(false, false)
			return p.subscribes(p.a, "t/#", true).gets("t/1", 1).acked(1)
		}},
		{"where a message of QoS 2 comes to two sessions of a client without a crash", "more than once", func(p past) past {
			p.sends("t/1", 1).a.Connecting(true)
			p.a.Connected(false, false)
			p.subscribes(p.a, "t/#", true).gets("t/1", 1)
			p.a.Closed("lost")
			p.a.Connecting(true)
			p.a.Connected(false, false)
			return p.subscribes(p.a, "t/#", true).gets("t/1", 1).acked(1)
		}},
		{"where a message of QoS 2 that was given up comes twice", "more than once", func(p past) past {
			p.sends("t/1", 1).gets("t/1", 1).Abandoned(id(1))
			return p.gets("t/1", 1)
		}},
		{"where a message of QoS 2 comes again long after", "a got p#1 (t/1), which was never sent or is long settled", func(p past) past {
			return p.sends("t/1", 1).acked(1).gets("t/1", 1).settles().settles().crashes().gets("t/1", 1)
		}},
		{"where a message of QoS 1 comes twice by one connection", "a got p#1 (t/1) 2 times by one connection, and it was sent 1 times", func(p past) past {
			return p.sendsWith("t/1", 1, false, 1).acked(1).getsWith(qos1, 1, 1)
		}},
		{"where a message of QoS 2 comes with QoS 1", "a got p#1 (t/1) with QoS 1, want 2", func(p past) past {
			return p.sends("t/1", 1).acked(1).getsWith(qos1, 1)
		}},
		{"where a message of QoS 1 comes with QoS 2", "a got p#1 with QoS 2, which was sent with QoS 1", func(p past) past {
			return p.sendsWith("t/1", 1, false, 1).acked(1).gets("t/1", 1)
		}},
		{"where a message comes at another topic", "a got p#1 at t/2, which was sent to t/1", func(p past) past {
			return p.sends("t/1", 1).acked(1).gets("t/2", 1)
		}},
		{"where a message comes that nobody sent", "never sent", func(p past) past { return p.gets("t/1", 1) }},
		{"where a refused message comes", "a got p#1 (t/1), which was refused", func(p past) past {
			p.sends("t/1", 1).Refused(id(1), "Quota exceeded")
			return p.gets("t/1", 1)
		}},
		{"where a session is gone", "the session of a is lost", func(p past) past {
			p.a.Closed("killed")
			p.a.Connecting(false)
			p.a.Connected(false, true)
			return p
		}},
		{"where an ended session rises again", "a asked for Clean Start, and CONNACK says Session Present", func(p past) past {
			p.a.Connecting(true)
			p.a.Connected(true, true)
			return p
		}},
		{"where a session that ended with its connection rises again", "a has no session, and CONNACK says Session Present", func(p past) past {
			p.a.Connecting(true)
			p.a.Connected(false, false)
			p.a.Closed("")
			p.a.Connecting(false)
			p.a.Connected(true, true)
			return p
		}},
		{"where the subscriptions of an ended session rise again", "to which it had no subscription", func(p past) past {
			p.a.Connecting(true)
			p.a.Connected(false, true)
			return p.sends("t/1", 1).gets("t/1", 1)
		}},
		{"where nothing is owed to an ended session is without fault", "", func(p past) past {
			p.sends("t/1", 1).acked(1)
			p.a.Connecting(true)
			return p.settles()
		}},
		{"where the session of one who ended it by DISCONNECT is gone is without fault", "", func(p past) past {
			p.a.Ends()
			p.a.Closed("")
			p.a.Connecting(true)
			p.a.Connected(false, true)
			return p.sends("t/1", 1).acked(1).settles()
		}},
		{"where something comes after UNSUBACK", "a got p#1 (t/1), to which it had no subscription", func(p past) past {
			p.a.Unsubscribing("t/#")
			p.a.Unsubscribed("t/#")
			return p.sends("t/1", 1).acked(1).gets("t/1", 1)
		}},
		{"where something under way comes after UNSUBACK is without fault", "", func(p past) past {
			p.sends("t/1", 1).a.Unsubscribing("t/#")
			p.a.Unsubscribed("t/#")
			return p.acked(1).gets("t/1", 1).settles()
		}},
		{"where nothing comes while UNSUBSCRIBE is under way is without fault", "", func(p past) past {
			p.sends("t/1", 1).acked(1).a.Unsubscribing("t/#")
			return p.sends("t/1", 2).acked(2).crashes().settles()
		}},
		{"where a subscription that was acknowledged is gone", "a never got p#1", func(p past) past {
			p.a.Unsubscribing("t/#")
			p.a.Unsubscribed("t/#")
			p.subscribes(p.a, "t/#", false).crashes()
			return p.sends("t/1", 1).acked(1).settles()
		}},
		{"where something from before SUBSCRIBE comes", "b got p#1", func(p past) past {
			p.sends("t/1", 1).acked(1).gets("t/1", 1).subscribes(p.b, "t/#", false)
			p.b.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2})
			return p
		}},
		{"where one of two overlapping subscriptions is left and nothing comes", "a never got p#1", func(p past) past {
			p.subscribes(p.a, "t/1", false).sends("t/1", 1).acked(1).a.Unsubscribing("t/#")
			return p.settles()
		}},
		{"where the retained message is the last acknowledged or a later one is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, retained, 1, 2, 3).acked(1, 2).read("t/1", 2).read("t/1", 3)
			return p
		}},
		{"where the retained message is an old one", "p#1 is retained at t/1, though p#2 was acknowledged after it", func(p past) past {
			return p.sendsWith("t/1", 2, retained, 1, 2).acked(1, 2).read("t/1", 1)
		}},
		{"where the retained message is older than one that somebody has seen", "p#1 is retained at t/1", func(p past) past {
			return p.sends("t/0", 9).sendsWith("t/1", 2, retained, 1, 2).acked(1).gets("t/1", 1, 2).read("t/1", 1)
		}},
		{"where the retained message is an old one of another publisher", "q#1 is retained at t/1, though p#1 was acknowledged after it", func(p past) past {
			q := ID{"q", 1}
			p.Sent(Message{ID: q, Topic: "t/1", QoS: 1, Retain: true})
			p.Acked(q)
			p.sendsWith("t/1", 1, retained, 1).acked(1)
			p.Retained(p.Read(), map[string]ID{"t/1": q})
			return p
		}},
		{"where two publish at a time, either's message is without fault", "", func(p past) past {
			q := ID{"q", 1}
			p.Sent(Message{ID: q, Topic: "t/1", QoS: 1, Retain: true})
			p.sendsWith("t/1", 1, retained, 1).acked(1).Acked(q)
			p.Retained(p.Read(), map[string]ID{"t/1": q})
			return p.read("t/1", 1)
		}},
		{"where a message of QoS 1 that is sent again replaces one of QoS 2 that is not is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, retained, 1).sendsWith("t/1", 2, retained, 2).crashes()
			return p.sendsWith("t/1", 1, retained, 1).sendsWith("t/1", 2, retained, 2).acked(1, 2).read("t/1", 1)
		}},
		{"where a message of QoS 1 that is sent again replaces one that is sent again behind it", "p#1 is retained at t/1", func(p past) past {
			p.sendsWith("t/1", 1, retained, 1, 2).crashes()
			return p.sendsWith("t/1", 1, retained, 1, 2).acked(1, 2).read("t/1", 1)
		}},
		{"where the retained message is gone", "nothing is retained at t/1, though p#1 was acknowledged", func(p past) past {
			return p.sendsWith("t/1", 1, retained, 1).acked(1).read("t/1", 0)
		}},
		{"where the retained message was cleared is without fault", "", func(p past) past {
			p.sendsWith("t/1", 1, retained, 1).acked(1).Sent(Message{ID: id(2), Topic: "t/1", QoS: 1, Retain: true, Clear: true})
			return p.read("t/1", 0).read("t/1", 1)
		}},
		{"where a cleared message is retained again", "p#1 is retained at t/1", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).Sent(Message{ID: id(2), Topic: "t/1", QoS: 2, Retain: true, Clear: true})
			return p.acked(2).read("t/1", 1)
		}},
		{"where something is retained that was not sent to be", "p#1 is retained at t/1", func(p past) past {
			return p.sends("t/1", 1).acked(1).gets("t/1", 1).read("t/1", 1)
		}},
		{"where SUBSCRIBE brings no retained message", "b never got the retained message of t/1, p#1 or a later one", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).subscribes(p.b, "t/#", true)
			return p.crashes().settles()
		}},
		{"where SUBSCRIBE brings the retained message after a crash is without fault", "", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).subscribes(p.b, "t/#", true).crashes()
			p.b.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, Retain: true})
			return p.settles()
		}},
		{"where SUBSCRIBE brings what has come meanwhile is without fault", "", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).subscribes(p.b, "t/#", true)
			p.sendsWith("t/1", 2, retained, 2).acked(2).gets("t/1", 2).b.Delivered(Delivery{ID: id(2), Topic: "t/1", QoS: 2})
			return p.settles()
		}},
		{"where SUBSCRIBE does not bring what is cleared meanwhile is without fault", "", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).subscribes(p.b, "t/#", true)
			p.Sent(Message{ID: id(2), Topic: "t/1", QoS: 2, Retain: true, Clear: true})
			p.acked(2).gets("t/1", 2).b.Delivered(Delivery{ID: id(2), Topic: "t/1", QoS: 2})
			return p.settles()
		}},
		{"where a SUBSCRIBE that may not have arrived brings no retained message is without fault", "", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).b.Subscribing("t/#", 2, true)
			return p.crashes().subscribes(p.b, "t/#", false).settles()
		}},
		{"where SUBSCRIBE brings an old retained message", "b got p#1 (t/1) as retained, though p#2 was acknowledged before its SUBSCRIBE", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1, 2).acked(1, 2).gets("t/1", 1, 2).subscribes(p.b, "t/#", true)
			p.b.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, Retain: true})
			return p
		}},
		{"where a retained message comes to one who has not subscribed", "b got p#1 (t/1) as retained without having subscribed", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1)
			p.b.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, Retain: true})
			return p
		}},
		{"where a retained message that is kept for long is without fault", "", func(p past) past {
			p.sendsWith("t/1", 2, retained, 1).acked(1).gets("t/1", 1).settles().settles().settles().read("t/1", 1)
			p.subscribes(p.a, "t/#", true).getsWith(asRetained, 1)
			return p.settles()
		}},
		{"where a Will is not published is without fault", "", func(p past) past {
			p.Sent(Message{ID: id(1), Topic: "t/will", QoS: 2, Will: true})
			return p.settles()
		}},
		{"where a Will is published twice", "more than once", func(p past) past {
			p.Sent(Message{ID: id(1), Topic: "t/will", QoS: 2, Will: true})
			return p.gets("t/will", 1).crashes().gets("t/will", 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := c.plays(newPast()).Faults()
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("it is judged %q, want no fault", got)
			case c.want != "" && len(got) == 0:
				t.Errorf("it is judged without fault, want %q", c.want)
			case c.want != "" && !strings.Contains(got[0], c.want):
				t.Errorf("it is judged %q, want %q", got[0], c.want)
			}
		})
	}
}

func TestAGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		plays      func(h *History, g *Session)
	}{
		{"gets every message once, in any order, without fault", "", func(h *History, g *Session) {
			g.Delivered(Delivery{ID: id(2), Topic: "t/1", QoS: 2, To: "a"})
			g.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, To: "b"})
		}},
		{"misses a message", "g never got p#1", func(h *History, g *Session) {
			g.Delivered(Delivery{ID: id(2), Topic: "t/1", QoS: 2, To: "a"})
		}},
		{"gets a message of QoS 2 by two members", "more than once", func(h *History, g *Session) {
			g.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, To: "a"})
			g.Delivered(Delivery{ID: id(1), Topic: "t/1", QoS: 2, To: "b"})
		}},
		{"may miss what was on its way with QoS 2 to a member that left", "", func(h *History, g *Session) { g.MemberLeft() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := New()
			g := h.Group("g")
			g.Subscribing("t/#", 2, false)
			g.Subscribed("t/#")
			p := past{History: h}
			p.sends("t/1", 1, 2).acked(1, 2)
			c.plays(h, g)
			h.Settle()
			got := strings.Join(h.Faults(), "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("it is judged %q, want %q", got, c.want)
			}
		})
	}
}

func TestAFaultIsToldWithWhatBelongsToIt(t *testing.T) {
	t.Parallel()
	p := newPast()
	p.sends("t/1", 1, 2).acked(1).gets("t/1", 1).crashes().sends("t/1", 2).acked(2).gets("t/1", 2, 2)
	text := p.Faults()[0]
	for _, want := range []string{
		"a got p#2 (t/1) with QoS 2 more than once", "sends p#2 (t/1 QoS 2)", "killed", "sends again p#2", "is told it is taken p#2",
		"gets p#2 (t/1 QoS 2)", "has subscribed (t/#)", "is connected (Session Present)", "run 2",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	select {
	case <-p.Faulty():
	default:
		t.Error("Faulty is not closed")
	}
}

package conn

import (
	"errors"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
)

// problemLocked returns the Reason String that goes with a failure, or nil: for a client that does not want any
// [MQTT5-3.1.2-29], and before 5.0.
func (c *Conn) problemLocked(sentence string) *packet.Properties {
	if c.version != packet.V5 || !c.problemInfo || sentence == "" {
		return nil
	}
	return &packet.Properties{Has: packet.PropReasonString, ReasonString: sentence}
}

// ackProblemLocked is the same for a PUBLISH whose outcome was not good; nil where it was. Nor is it said of topics that
// begin with $: no rule can change it, and suites and simple clients that try are not prepared for more than the code.
func (c *Conn) ackProblemLocked(o *broker.Outcome) *packet.Properties {
	if o == nil || !o.Reason.Failed() || errors.Is(o.Err, broker.ErrTopicReserved) {
		return nil
	}
	return c.problemLocked(o.Sentence)
}

// subscribeProblems are what is said of filters that were refused.
var subscribeProblems = map[packet.ReasonCode]string{ //nolint:gochecknoglobals // a table
	packet.NotAuthorized:      broker.OutcomeOf(broker.ErrNotAuthorized).Sentence,
	packet.TopicFilterInvalid: broker.OutcomeOf(broker.ErrFilterInvalid).Sentence,
	packet.QuotaExceeded:      "The client has as many subscriptions as it may: end some, or have subscriptions_per_client_max raised.",
}

// subackProblemLocked speaks of the first filter that was refused: a SUBACK has room for one Reason String.
func (c *Conn) subackProblemLocked(reasons []packet.ReasonCode) *packet.Properties {
	for _, r := range reasons {
		if r.Failed() {
			return c.problemLocked(subscribeProblems[r])
		}
	}
	return nil
}

// withoutExtras drops what a packet may go without where it is too large with it [MQTT5-3.2.2-19, MQTT5-3.4.2-2,
// MQTT5-3.5.2-2, MQTT5-3.9.2-1, MQTT5-3.11.2-1, MQTT5-3.14.2-3]. It reports whether there was anything.
func withoutExtras(p packet.Packet) bool {
	var props *packet.Properties
	switch p := p.(type) {
	case *packet.Connack:
		props = p.Properties
	case *packet.Ack:
		props = p.Properties
	case *packet.Suback:
		props = p.Properties
	case *packet.Unsuback:
		props = p.Properties
	case *packet.Disconnect:
		props = p.Properties
	}
	const extras = packet.PropReasonString | packet.PropResponseInfo
	if props == nil || props.Has&extras == 0 {
		return false
	}
	props.Has &^= extras
	return true
}

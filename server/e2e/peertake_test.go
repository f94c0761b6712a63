package e2e

import (
	"fmt"
	"slices"

	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/server/e2e/history"
)

// take takes a packet.
func (p *peer) take(in packet.Packet) {
	switch in := in.(type) {
	case *packet.Publish:
		p.takePublish(in)
		p.flushAcks(p.holds)
	case *packet.Ack:
		p.takeAck(in)
		p.flushAcks(p.holds)
	case *packet.Suback:
		p.takeAnswer(in.PacketID, false, in.Reasons)
	case *packet.Unsuback:
		p.takeAnswer(in.PacketID, true, in.Reasons)
	case *packet.Disconnect:
		if !p.w.ending.Load() || in.Reason != packet.ServerShuttingDown {
			p.fault(history.ID{}, "the server says DISCONNECT %v", in.Reason)
		}
		p.w.h.Note(p.name, "is told DISCONNECT "+in.Reason.String())
	case malformed:
		p.fault(history.ID{}, "the server sent what is no MQTT: %v", in)
	default:
		p.fault(history.ID{}, "the server sent a %T", in)
	}
}

func (p *peer) takePublish(m *packet.Publish) {
	d := history.Delivery{Topic: string(m.Topic), QoS: m.QoS, Retain: m.Retain, Dup: m.Dup}
	if p.group != "" {
		d.To = p.name
	}
	text := string(m.Payload)
	if text == "" && m.Properties != nil && len(m.Properties.User) > 0 {
		text = m.Properties.User[0].Value
	}
	id, ok := idOf(text)
	if !ok && text != "" {
		p.fault(id, "got a payload that nobody sent, at %s: %q", m.Topic, m.Payload)
		return
	}
	d.ID = id
	if m.Dup && p.begun == 1 {
		p.fault(id, "got %v marked as a duplicate by the first connection of its session", id)
	}
	switch m.QoS {
	case 0:
		p.consumer.Delivered(d)
	case 1:
		if p.open[m.PacketID] || p.in[m.PacketID] != nil {
			p.fault(id, "got %v with the Packet Identifier %d, which is in use", id, m.PacketID)
		}
		p.opens(m.PacketID)
		p.consumer.Delivered(d)
		p.acks = append(p.acks, &packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
	default:
		p.takeQoS2(m, d)
	}
}

// opens counts what the server may have under way by this connection [MQTT5-3.3.4-9].
func (p *peer) opens(packetID uint16) {
	p.open[packetID] = true
	if p.receives > 0 && len(p.open) > int(p.receives) {
		p.fault(history.ID{}, "the server has %d messages under way, Receive Maximum is %d", len(p.open), p.receives)
	}
}

func (p *peer) takeQoS2(m *packet.Publish, d history.Delivery) {
	known, inUse := p.in[m.PacketID], p.open[m.PacketID]
	p.opens(m.PacketID)
	switch {
	case known == nil && inUse:
		p.fault(d.ID, "got %v with the Packet Identifier %d, which is in use", d.ID, m.PacketID)
	case known == nil:
		p.in[m.PacketID] = &incoming{id: d.ID}
		p.consumer.Delivered(d)
	case known.id != d.ID:
		p.fault(d.ID, "got %v with the Packet Identifier %d, which %v has not released", d.ID, m.PacketID, known.id)
	case !m.Dup:
		p.fault(d.ID, "got %v again by the Packet Identifier %d, and it is not marked as a duplicate", d.ID, m.PacketID)
	default:
		p.w.h.Note(p.name, "gets "+d.ID.String()+" again, and knows it by its Packet Identifier")
	}
	p.acks = append(p.acks, &packet.Ack{Kind: packet.TypePubrec, PacketID: m.PacketID})
	p.w.sees("publish2")
}

// flushAcks sends the acknowledgements held back, if there are more than keep.
func (p *peer) flushAcks(keep int) {
	if len(p.acks) <= keep {
		return
	}
	for _, a := range p.acks {
		if a.Kind != packet.TypePubrec {
			delete(p.open, a.PacketID)
		} else if in := p.in[a.PacketID]; in != nil {
			in.confirmed = true
		}
		p.link.send(a)
	}
	p.acks = p.acks[:0]
}

func (p *peer) takeAck(a *packet.Ack) {
	if a.Kind == packet.TypePubrel {
		p.takeRelease(a)
		return
	}
	// Of each kind, acknowledgements come in the order in which the messages were sent [MQTT5-4.6.0-2, -3, -4].
	i := slices.IndexFunc(p.out, func(o *outgoing) bool {
		return a.Kind == packet.TypePuback && o.QoS == 1 || a.Kind == packet.TypePubrec && o.QoS == 2 && !o.received ||
			a.Kind == packet.TypePubcomp && o.received
	})
	if i < 0 || p.out[i].packetID != a.PacketID {
		p.fault(history.ID{}, "got %v for the Packet Identifier %d, want one for another; it %s", a.Kind, a.PacketID, p.underWay())
		return
	}
	o := p.out[i]
	switch {
	case a.Kind == packet.TypePubcomp:
		if a.Reason != packet.Success && o.released == 1 {
			p.fault(o.ID, "PUBCOMP for %v says %v", o.ID, a.Reason)
		}
		p.w.h.Note(p.name, fmt.Sprintf("gets PUBCOMP of %v, %v", o.ID, a.Reason))
		p.out = slices.Delete(p.out, i, i+1)
		p.w.sees("pubcomp")
	case a.Reason.Failed():
		p.w.h.Refused(o.ID, a.Reason.String())
		p.fault(o.ID, "%v is refused: %v", o.ID, a.Reason)
		p.out = slices.Delete(p.out, i, i+1)
	case a.Kind == packet.TypePuback:
		p.w.h.Acked(o.ID)
		p.out = slices.Delete(p.out, i, i+1)
		p.w.sees("puback")
	default:
		p.w.h.Acked(o.ID)
		o.received = true
		p.release(o)
		p.w.sees("pubrec")
	}
}

func (p *peer) takeRelease(a *packet.Ack) {
	reply := &packet.Ack{Kind: packet.TypePubcomp, PacketID: a.PacketID}
	switch in := p.in[a.PacketID]; {
	case in == nil:
		if p.begun == 1 {
			p.fault(history.ID{}, "got PUBREL for the Packet Identifier %d, by which nothing came", a.PacketID)
		}
		reply.Reason = packet.PacketIdentifierNotFound
	case !in.confirmed:
		p.fault(in.id, "got PUBREL for %v, to which no PUBREC was sent", in.id)
	}
	delete(p.in, a.PacketID)
	p.acks = append(p.acks, reply)
	p.w.sees("pubrel")
}

func (p *peer) takeAnswer(packetID uint16, off bool, reasons []packet.ReasonCode) {
	q, ok := p.asked[packetID]
	if !ok || q.off != off {
		p.fault(history.ID{}, "got SUBACK or UNSUBACK for the Packet Identifier %d, by which it did not ask", packetID)
		return
	}
	delete(p.asked, packetID)
	for _, r := range reasons {
		if r.Failed() || !off && byte(r) != p.granted {
			p.fault(history.ID{}, "asks about %s and is told %v", q.filter, r)
			return
		}
	}
	if off {
		delete(p.held, q.filter)
		p.consumer.Unsubscribed(q.filter)
		p.w.sees("unsuback")
		return
	}
	p.held[q.filter] = true
	p.consumer.Subscribed(q.filter)
	p.w.sees("suback")
}

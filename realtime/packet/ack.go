package packet

import "slices"

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP packet (MQTT 5.0 sections 3.4 to 3.7).
type Ack struct {
	Kind       Type
	PacketID   uint16
	Reason     ReasonCode
	Properties *Properties
}

// Type returns the kind of acknowledgement.
func (a *Ack) Type() Type { return a.Kind }

// Reason Codes that acknowledgements may carry, and the statements that say so.
var (
	publishReasons = []ReasonCode{
		Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError, NotAuthorized, TopicNameInvalid,
		PacketIdentifierInUse, QuotaExceeded, PayloadFormatInvalid,
	}
	releaseReasons = []ReasonCode{Success, PacketIdentifierNotFound}

	ackReasons = map[Type]struct {
		reasons   []ReasonCode
		statement string
	}{
		TypePuback: {publishReasons, "MQTT5-3.4.2-1"}, TypePubrec: {publishReasons, "MQTT5-3.5.2-1"},
		TypePubrel: {releaseReasons, "MQTT5-3.6.2-1"}, TypePubcomp: {releaseReasons, "MQTT5-3.7.2-1"},
	}
)

// OfPuback reports whether PUBACK and PUBREC may say r [MQTT5-3.4.2-1, MQTT5-3.5.2-1].
func (r ReasonCode) OfPuback() bool { return slices.Contains(publishReasons, r) }

func decodeAck(r *reader, a *Ack, kind Type, v Version) {
	*a = Ack{Kind: kind}
	a.PacketID = r.packetID()
	if v != V5 || len(r.b) == 0 {
		r.end()
		return
	}
	a.Reason = ReasonCode(r.byte())
	if may := ackReasons[kind]; !slices.Contains(may.reasons, a.Reason) {
		r.fail(protocolError(may.statement, "Reason Code does not belong to this packet"))
		return
	}
	if len(r.b) > 0 {
		a.Properties, _ = r.properties(kind)
	}
	r.end()
}

// Append implements Packet. Reason Code and properties are left out where they say nothing: some clients know only
// the short form.
func (a *Ack) Append(dst []byte, v Version) []byte {
	first := byte(a.Kind) << 4
	if a.Kind == TypePubrel {
		first |= 2 // [MQTT5-3.6.1-1]
	}
	withProperties := a.Properties != nil && a.Properties.Has != 0
	switch {
	case v != V5 || a.Reason == Success && !withProperties:
		return appendUint16(append(dst, first, 2), a.PacketID)
	case !withProperties:
		return append(appendUint16(append(dst, first, 3), a.PacketID), byte(a.Reason))
	}
	return appendFixed(dst, first, func(dst []byte) []byte {
		dst = append(appendUint16(dst, a.PacketID), byte(a.Reason))
		return a.Properties.appendTo(dst)
	})
}

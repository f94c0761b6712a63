package packet

import "slices"

// Ping is a PINGREQ or PINGRESP packet (MQTT 5.0 sections 3.12 and 3.13).
type Ping struct{ Kind Type }

// Type returns TypePingreq or TypePingresp.
func (p *Ping) Type() Type { return p.Kind }

// Append implements Packet.
func (p *Ping) Append(dst []byte, _ Version) []byte { return append(dst, byte(p.Kind)<<4, 0) }

// Disconnect is a DISCONNECT packet (MQTT 5.0 section 3.14).
type Disconnect struct {
	Reason     ReasonCode
	Properties *Properties
}

// Type returns TypeDisconnect.
func (*Disconnect) Type() Type { return TypeDisconnect }

// clientDisconnects are the Reason Codes that a client may send (MQTT 5.0 table 3-10).
var clientDisconnects = []ReasonCode{
	Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecificError,
	TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge, MessageRateTooHigh, QuotaExceeded,
	AdministrativeAction, PayloadFormatInvalid,
}

// serverDisconnects are the Reason Codes that a server may send (the same table).
var serverDisconnects = []ReasonCode{
	Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecificError, NotAuthorized, ServerBusy,
	ServerShuttingDown, KeepAliveTimeout, SessionTakenOver, TopicFilterInvalid, TopicNameInvalid, ReceiveMaximumExceeded,
	TopicAliasInvalid, PacketTooLarge, MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid,
	RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved, SharedSubscriptionsNotSupported,
	ConnectionRateExceeded, MaximumConnectTime, SubscriptionIdentifiersNotSupported, WildcardSubscriptionsNotSupported,
}

// OfDisconnect returns the Reason Code that says r in a server's DISCONNECT: r itself, if that may hold it
// [MQTT5-3.14.2-1]. Clients refuse packets with others.
func (r ReasonCode) OfDisconnect() ReasonCode {
	switch {
	case slices.Contains(serverDisconnects, r):
		return r
	case r == ServerUnavailable: // CONNACK's word for it
		return ServerBusy
	default:
		return UnspecifiedError
	}
}

func decodeDisconnect(r *reader, v Version, fromClient bool) *Disconnect {
	d := &Disconnect{}
	if v != V5 || len(r.b) == 0 {
		r.end()
		return d
	}
	d.Reason = ReasonCode(r.byte())
	may, whose := serverDisconnects, "a server's"
	if fromClient {
		may, whose = clientDisconnects, "a client's"
	}
	if !slices.Contains(may, d.Reason) {
		r.fail(protocolError("MQTT5-3.14.2-1", "Reason Code does not belong to "+whose+" DISCONNECT"))
		return d
	}
	if len(r.b) > 0 {
		d.Properties, _ = r.properties(TypeDisconnect)
	}
	if r.err == nil && d.Properties != nil {
		switch {
		case fromClient && d.Properties.Has.Contains(PropServerReference):
			r.fail(protocolError("", "Server Reference from a client"))
		case !fromClient && d.Properties.Has.Contains(PropSessionExpiry):
			r.fail(protocolError("MQTT5-3.14.2-2", "Session Expiry Interval from a server"))
		}
	}
	r.end()
	return d
}

// Append implements Packet.
func (d *Disconnect) Append(dst []byte, v Version) []byte {
	withProperties := d.Properties != nil && d.Properties.Has != 0
	switch {
	case v != V5 || d.Reason == Success && !withProperties:
		return append(dst, byte(TypeDisconnect)<<4, 0)
	case !withProperties:
		return append(dst, byte(TypeDisconnect)<<4, 1, byte(d.Reason))
	}
	return appendFixed(dst, byte(TypeDisconnect)<<4, func(dst []byte) []byte {
		return d.Properties.appendTo(append(dst, byte(d.Reason)))
	})
}

// Auth is an AUTH packet (MQTT 5.0 section 3.15).
type Auth struct {
	Reason     ReasonCode
	Properties *Properties
}

// Type returns TypeAuth.
func (*Auth) Type() Type { return TypeAuth }

func decodeAuth(r *reader) *Auth {
	a := &Auth{}
	if len(r.b) == 0 {
		return a
	}
	a.Reason = ReasonCode(r.byte())
	if a.Reason != Success && a.Reason != ContinueAuthentication && a.Reason != ReAuthenticate {
		r.fail(protocolError("MQTT5-3.15.2-1", "Reason Code does not belong to AUTH"))
		return a
	}
	a.Properties, _ = r.properties(TypeAuth)
	if r.err == nil && (a.Properties == nil || !a.Properties.Has.Contains(PropAuthMethod)) {
		r.fail(protocolError("", "AUTH without Authentication Method"))
	}
	r.end()
	return a
}

// Append implements Packet.
func (a *Auth) Append(dst []byte, _ Version) []byte {
	if a.Reason == Success && (a.Properties == nil || a.Properties.Has == 0) {
		return append(dst, byte(TypeAuth)<<4, 0)
	}
	return appendFixed(dst, byte(TypeAuth)<<4, func(dst []byte) []byte {
		return a.Properties.appendTo(append(dst, byte(a.Reason)))
	})
}

package packet

// UserProperty is a name and value pair; names may occur several times, and order counts.
type UserProperty struct{ Key, Value string }

// PropertySet tells which properties are there.
type PropertySet uint32

// The properties of MQTT 5.0, table 2-4, as members of a PropertySet.
const (
	PropPayloadFormat PropertySet = 1 << iota
	PropMessageExpiry
	PropContentType
	PropResponseTopic
	PropCorrelationData
	PropSubscriptionID
	PropSessionExpiry
	PropAssignedClientID
	PropServerKeepAlive
	PropAuthMethod
	PropAuthData
	PropRequestProblemInfo
	PropWillDelay
	PropRequestResponseInfo
	PropResponseInfo
	PropServerReference
	PropReasonString
	PropReceiveMaximum
	PropTopicAliasMaximum
	PropTopicAlias
	PropMaximumQoS
	PropRetainAvailable
	PropUser
	PropMaximumPacketSize
	PropWildcardAvailable
	PropSubscriptionIDAvailable
	PropSharedAvailable
)

// Contains reports whether all of p are in the set.
func (s PropertySet) Contains(p PropertySet) bool { return s&p == p }

// Properties are the properties of one packet. Has tells which fields count; a nil *Properties has none.
type Properties struct {
	Has                     PropertySet
	PayloadFormat           byte
	MessageExpiry           uint32 // seconds
	ContentType             string
	ResponseTopic           string
	CorrelationData         []byte
	SubscriptionIDs         []uint32
	SessionExpiry           uint32 // seconds; 0xFFFFFFFF: never
	AssignedClientID        string
	ServerKeepAlive         uint16 // seconds
	AuthMethod              string
	AuthData                []byte
	RequestProblemInfo      byte
	WillDelay               uint32 // seconds
	RequestResponseInfo     byte
	ResponseInfo            string
	ServerReference         string
	ReasonString            string
	ReceiveMaximum          uint16
	TopicAliasMaximum       uint16
	TopicAlias              uint16
	MaximumQoS              byte
	RetainAvailable         byte
	User                    []UserProperty
	MaximumPacketSize       uint32 // bytes
	WildcardAvailable       byte
	SubscriptionIDAvailable byte
	SharedAvailable         byte
}

// propertyOf maps identifiers to members of a PropertySet; 0 where there is no such property.
var propertyOf = [0x2B]PropertySet{
	0x01: PropPayloadFormat, 0x02: PropMessageExpiry, 0x03: PropContentType, 0x08: PropResponseTopic,
	0x09: PropCorrelationData, 0x0B: PropSubscriptionID, 0x11: PropSessionExpiry, 0x12: PropAssignedClientID,
	0x13: PropServerKeepAlive, 0x15: PropAuthMethod, 0x16: PropAuthData, 0x17: PropRequestProblemInfo,
	0x18: PropWillDelay, 0x19: PropRequestResponseInfo, 0x1A: PropResponseInfo, 0x1C: PropServerReference,
	0x1F: PropReasonString, 0x21: PropReceiveMaximum, 0x22: PropTopicAliasMaximum, 0x23: PropTopicAlias,
	0x24: PropMaximumQoS, 0x25: PropRetainAvailable, 0x26: PropUser, 0x27: PropMaximumPacketSize,
	0x28: PropWildcardAvailable, 0x29: PropSubscriptionIDAvailable, 0x2A: PropSharedAvailable,
}

// typeWill stands for the Will Properties, which are no packet of their own.
const typeWill Type = 16

const ackProperties = PropReasonString | PropUser

// allowed maps a packet type to the properties it may have (MQTT 5.0 table 2-4).
var allowed = [17]PropertySet{
	TypeConnect: PropSessionExpiry | PropReceiveMaximum | PropMaximumPacketSize | PropTopicAliasMaximum |
		PropRequestResponseInfo | PropRequestProblemInfo | PropUser | PropAuthMethod | PropAuthData,
	TypeConnack: PropSessionExpiry | PropReceiveMaximum | PropMaximumQoS | PropRetainAvailable | PropMaximumPacketSize |
		PropAssignedClientID | PropTopicAliasMaximum | PropReasonString | PropUser | PropWildcardAvailable |
		PropSubscriptionIDAvailable | PropSharedAvailable | PropServerKeepAlive | PropResponseInfo |
		PropServerReference | PropAuthMethod | PropAuthData,
	TypePublish: PropPayloadFormat | PropMessageExpiry | PropTopicAlias | PropResponseTopic | PropCorrelationData |
		PropUser | PropSubscriptionID | PropContentType,
	TypePuback: ackProperties, TypePubrec: ackProperties, TypePubrel: ackProperties, TypePubcomp: ackProperties,
	TypeSubscribe: PropSubscriptionID | PropUser, TypeSuback: ackProperties,
	TypeUnsubscribe: PropUser, TypeUnsuback: ackProperties,
	TypeDisconnect: PropSessionExpiry | PropReasonString | PropUser | PropServerReference,
	TypeAuth:       PropAuthMethod | PropAuthData | PropReasonString | PropUser,
	typeWill: PropWillDelay | PropPayloadFormat | PropMessageExpiry | PropContentType | PropResponseTopic |
		PropCorrelationData | PropUser,
}

// forwarded are the properties of a PUBLISH that reach the subscribers unaltered [MQTT5-3.3.2-4, -15, -16, -17, -20].
const forwarded = PropPayloadFormat | PropContentType | PropResponseTopic | PropCorrelationData | PropUser

// ParseProperties decodes the property bytes (without their length) of a packet type.
func ParseProperties(raw []byte, t Type) (*Properties, error) {
	p, err := parseProperties(raw, t)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// properties reads a Property Length and that many bytes of properties; raw is a view of them. Nil when there are none.
func (r *reader) properties(t Type) (p *Properties, raw []byte) {
	n := r.varint()
	if r.err != nil || n == 0 {
		return nil, nil
	}
	if uint64(n) > uint64(len(r.b)) {
		r.short()
		return nil, nil
	}
	raw = r.b[:n:n]
	r.b = r.b[n:]
	p, err := parseProperties(raw, t)
	if err != nil {
		r.fail(err)
		return nil, nil
	}
	return p, raw
}

func parseProperties(raw []byte, t Type) (*Properties, *DecodeError) {
	p := &Properties{}
	r := &reader{b: raw}
	for len(r.b) > 0 {
		id := r.varint()
		if id >= uint32(len(propertyOf)) || propertyOf[id] == 0 {
			r.fail(malformed("", "unknown property"))
			break
		}
		which := propertyOf[id]
		if allowed[t]&which == 0 {
			// Malformed, by MQTT 5.0 section 2.2.2.2; what follows is about values, a Protocol Error.
			r.fail(malformed("", "property does not belong to this packet"))
			break
		}
		if p.Has&which != 0 && which != PropUser && (which != PropSubscriptionID || t != TypePublish) {
			r.fail(protocolError("", "property occurs twice"))
			break
		}
		p.Has |= which
		p.read(r, which)
	}
	if r.err == nil && p.Has.Contains(PropAuthData) && !p.Has.Contains(PropAuthMethod) {
		r.fail(protocolError("", "Authentication Data without Authentication Method"))
	}
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}

func (p *Properties) read(r *reader, which PropertySet) {
	switch which {
	case PropPayloadFormat:
		p.PayloadFormat = r.bit()
	case PropMessageExpiry:
		p.MessageExpiry = r.uint32()
	case PropContentType:
		p.ContentType = r.string()
	case PropResponseTopic:
		p.ResponseTopic = string(r.name())
		if r.err == nil && !wildcardFree(p.ResponseTopic) {
			r.fail(protocolError("MQTT5-3.3.2-14", "Response Topic holds a wildcard"))
		}
	case PropCorrelationData:
		p.CorrelationData = r.bytes()
	case PropSubscriptionID:
		id := r.varint()
		if r.err == nil && id == 0 {
			r.fail(protocolError("", "Subscription Identifier is 0"))
		}
		p.SubscriptionIDs = append(p.SubscriptionIDs, id)
	case PropUser:
		key := r.string()
		p.User = append(p.User, UserProperty{key, r.string()})
	case PropReasonString:
		p.ReasonString = r.string()
	default:
		p.readConnection(r, which)
	}
}

// readConnection reads the properties of CONNECT, CONNACK, AUTH, DISCONNECT and of aliases.
func (p *Properties) readConnection(r *reader, which PropertySet) {
	switch which {
	case PropSessionExpiry:
		p.SessionExpiry = r.uint32()
	case PropAssignedClientID:
		p.AssignedClientID = r.string()
	case PropServerKeepAlive:
		p.ServerKeepAlive = r.uint16()
	case PropAuthMethod:
		p.AuthMethod = r.string()
	case PropAuthData:
		p.AuthData = r.bytes()
	case PropRequestProblemInfo:
		p.RequestProblemInfo = r.bit()
	case PropWillDelay:
		p.WillDelay = r.uint32()
	case PropRequestResponseInfo:
		p.RequestResponseInfo = r.bit()
	case PropResponseInfo:
		p.ResponseInfo = r.string()
	case PropServerReference:
		p.ServerReference = r.string()
	case PropReceiveMaximum:
		if p.ReceiveMaximum = r.uint16(); r.err == nil && p.ReceiveMaximum == 0 {
			r.fail(protocolError("", "Receive Maximum is 0"))
		}
	case PropTopicAliasMaximum:
		p.TopicAliasMaximum = r.uint16()
	case PropTopicAlias:
		if p.TopicAlias = r.uint16(); r.err == nil && p.TopicAlias == 0 {
			r.fail(&DecodeError{TopicAliasInvalid, "MQTT5-3.3.2-8", "Topic Alias is 0"})
		}
	case PropMaximumQoS:
		p.MaximumQoS = r.bit()
	case PropRetainAvailable:
		p.RetainAvailable = r.bit()
	case PropMaximumPacketSize:
		if p.MaximumPacketSize = r.uint32(); r.err == nil && p.MaximumPacketSize == 0 {
			r.fail(protocolError("", "Maximum Packet Size is 0"))
		}
	case PropWildcardAvailable:
		p.WildcardAvailable = r.bit()
	case PropSubscriptionIDAvailable:
		p.SubscriptionIDAvailable = r.bit()
	default:
		p.SharedAvailable = r.bit()
	}
}

// bit reads a byte that may be 0 or 1.
func (r *reader) bit() byte {
	v := r.byte()
	if r.err == nil && v > 1 {
		r.fail(protocolError("", "property may be 0 or 1 only"))
	}
	return v
}

func wildcardFree(name string) bool {
	for i := range len(name) {
		if name[i] == '+' || name[i] == '#' {
			return false
		}
	}
	return true
}

// appendTo appends the Property Length and the properties.
func (p *Properties) appendTo(dst []byte) []byte {
	if p == nil || p.Has == 0 {
		return append(dst, 0)
	}
	start := len(dst)
	dst = append(dst, 0)
	dst = p.append(dst, p.Has)
	n := len(dst) - start - 1
	if extra := VarintSize(uint32(n)) - 1; extra > 0 { //nolint:gosec // below 256 MiB
		dst = append(dst, make([]byte, extra)...)
		copy(dst[start+1+extra:], dst[start+1:len(dst)-extra])
	}
	AppendVarint(dst[start:start], uint32(n)) //nolint:gosec // below 256 MiB
	return dst
}

// AppendForwarded appends those properties of a PUBLISH or a will that reach the subscribers unaltered.
func (p *Properties) AppendForwarded(dst []byte) []byte {
	if p == nil {
		return dst
	}
	return p.append(dst, p.Has&forwarded)
}

func (p *Properties) append(dst []byte, which PropertySet) []byte {
	for id, one := range propertyOf {
		if one == 0 || which&one == 0 {
			continue
		}
		switch one {
		case PropSubscriptionID:
			for _, v := range p.SubscriptionIDs {
				dst = AppendVarint(append(dst, byte(id)), v)
			}
		case PropUser:
			for _, u := range p.User {
				dst = appendString(append(dst, byte(id)), u.Key)
				dst = appendString(dst, u.Value)
			}
		default:
			dst = p.appendOne(append(dst, byte(id)), one)
		}
	}
	return dst
}

func (p *Properties) appendOne(dst []byte, which PropertySet) []byte {
	switch which {
	case PropMessageExpiry:
		return appendUint32(dst, p.MessageExpiry)
	case PropSessionExpiry:
		return appendUint32(dst, p.SessionExpiry)
	case PropWillDelay:
		return appendUint32(dst, p.WillDelay)
	case PropMaximumPacketSize:
		return appendUint32(dst, p.MaximumPacketSize)
	case PropServerKeepAlive:
		return appendUint16(dst, p.ServerKeepAlive)
	case PropReceiveMaximum:
		return appendUint16(dst, p.ReceiveMaximum)
	case PropTopicAliasMaximum:
		return appendUint16(dst, p.TopicAliasMaximum)
	case PropTopicAlias:
		return appendUint16(dst, p.TopicAlias)
	case PropCorrelationData:
		return appendString(dst, p.CorrelationData)
	case PropAuthData:
		return appendString(dst, p.AuthData)
	case PropPayloadFormat:
		return append(dst, p.PayloadFormat)
	case PropRequestProblemInfo:
		return append(dst, p.RequestProblemInfo)
	case PropRequestResponseInfo:
		return append(dst, p.RequestResponseInfo)
	case PropMaximumQoS:
		return append(dst, p.MaximumQoS)
	case PropRetainAvailable:
		return append(dst, p.RetainAvailable)
	case PropWildcardAvailable:
		return append(dst, p.WildcardAvailable)
	case PropSubscriptionIDAvailable:
		return append(dst, p.SubscriptionIDAvailable)
	case PropSharedAvailable:
		return append(dst, p.SharedAvailable)
	default:
		return appendString(dst, p.text(which))
	}
}

func (p *Properties) text(which PropertySet) string {
	switch which {
	case PropContentType:
		return p.ContentType
	case PropResponseTopic:
		return p.ResponseTopic
	case PropAssignedClientID:
		return p.AssignedClientID
	case PropAuthMethod:
		return p.AuthMethod
	case PropResponseInfo:
		return p.ResponseInfo
	case PropServerReference:
		return p.ServerReference
	default:
		return p.ReasonString
	}
}

// skip passes over the value of one property of a PUBLISH.
func (r *reader) skip(which PropertySet) {
	switch which {
	case PropPayloadFormat:
		r.byte()
	case PropMessageExpiry:
		r.uint32()
	case PropTopicAlias:
		r.uint16()
	case PropSubscriptionID:
		r.varint()
	case PropUser:
		r.binary()
		r.binary()
	default:
		r.binary()
	}
}

// ForwardedProperties returns those of the property bytes of a decoded PUBLISH that reach the subscribers, unaltered
// and in order. The result is raw itself where all do.
func ForwardedProperties(raw []byte) []byte {
	var kept []byte
	whole := true
	for r := (&reader{b: raw}); len(r.b) > 0 && r.err == nil; {
		one := r.b
		which := propertyOf[r.varint()]
		r.skip(which)
		one = one[:len(one)-len(r.b)]
		at := len(raw) - len(r.b) - len(one)
		switch keep := forwarded&which != 0; {
		case keep && !whole:
			kept = append(kept, one...)
		case !keep && whole:
			whole = false
			kept = append(make([]byte, 0, len(raw)), raw[:at]...)
		}
	}
	if whole {
		return raw
	}
	return kept
}

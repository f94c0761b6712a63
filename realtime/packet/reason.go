package packet

// ReasonCode is the result of an operation (MQTT 5.0 section 2.4).
type ReasonCode byte

// The Reason Codes of MQTT 5.0, table 2-6.
const (
	Success                             ReasonCode = 0x00
	GrantedQoS0                         ReasonCode = 0x00
	GrantedQoS1                         ReasonCode = 0x01
	GrantedQoS2                         ReasonCode = 0x02
	DisconnectWithWill                  ReasonCode = 0x04
	NoMatchingSubscribers               ReasonCode = 0x10
	NoSubscriptionExisted               ReasonCode = 0x11
	ContinueAuthentication              ReasonCode = 0x18
	ReAuthenticate                      ReasonCode = 0x19
	UnspecifiedError                    ReasonCode = 0x80
	MalformedPacket                     ReasonCode = 0x81
	ProtocolError                       ReasonCode = 0x82
	ImplementationSpecificError         ReasonCode = 0x83
	UnsupportedProtocolVersion          ReasonCode = 0x84
	ClientIdentifierNotValid            ReasonCode = 0x85
	BadUserNameOrPassword               ReasonCode = 0x86
	NotAuthorized                       ReasonCode = 0x87
	ServerUnavailable                   ReasonCode = 0x88
	ServerBusy                          ReasonCode = 0x89
	Banned                              ReasonCode = 0x8A
	ServerShuttingDown                  ReasonCode = 0x8B
	BadAuthenticationMethod             ReasonCode = 0x8C
	KeepAliveTimeout                    ReasonCode = 0x8D
	SessionTakenOver                    ReasonCode = 0x8E
	TopicFilterInvalid                  ReasonCode = 0x8F
	TopicNameInvalid                    ReasonCode = 0x90
	PacketIdentifierInUse               ReasonCode = 0x91
	PacketIdentifierNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded              ReasonCode = 0x93
	TopicAliasInvalid                   ReasonCode = 0x94
	PacketTooLarge                      ReasonCode = 0x95
	MessageRateTooHigh                  ReasonCode = 0x96
	QuotaExceeded                       ReasonCode = 0x97
	AdministrativeAction                ReasonCode = 0x98
	PayloadFormatInvalid                ReasonCode = 0x99
	RetainNotSupported                  ReasonCode = 0x9A
	QoSNotSupported                     ReasonCode = 0x9B
	UseAnotherServer                    ReasonCode = 0x9C
	ServerMoved                         ReasonCode = 0x9D
	SharedSubscriptionsNotSupported     ReasonCode = 0x9E
	ConnectionRateExceeded              ReasonCode = 0x9F
	MaximumConnectTime                  ReasonCode = 0xA0
	SubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	WildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

var reasonNames = map[ReasonCode]string{ //nolint:gosec // no credentials, but the standard's words about them
	Success: "Success", GrantedQoS1: "Granted QoS 1", GrantedQoS2: "Granted QoS 2",
	DisconnectWithWill: "Disconnect with Will Message", NoMatchingSubscribers: "No matching subscribers",
	NoSubscriptionExisted: "No subscription existed", ContinueAuthentication: "Continue authentication",
	ReAuthenticate: "Re-authenticate", UnspecifiedError: "Unspecified error", MalformedPacket: "Malformed Packet",
	ProtocolError: "Protocol Error", ImplementationSpecificError: "Implementation specific error",
	UnsupportedProtocolVersion: "Unsupported Protocol Version", ClientIdentifierNotValid: "Client Identifier not valid",
	BadUserNameOrPassword: "Bad User Name or Password", NotAuthorized: "Not authorized",
	ServerUnavailable: "Server unavailable", ServerBusy: "Server busy", Banned: "Banned",
	ServerShuttingDown: "Server shutting down", BadAuthenticationMethod: "Bad authentication method",
	KeepAliveTimeout: "Keep Alive timeout", SessionTakenOver: "Session taken over",
	TopicFilterInvalid: "Topic Filter invalid", TopicNameInvalid: "Topic Name invalid",
	PacketIdentifierInUse: "Packet Identifier in use", PacketIdentifierNotFound: "Packet Identifier not found",
	ReceiveMaximumExceeded: "Receive Maximum exceeded", TopicAliasInvalid: "Topic Alias invalid",
	PacketTooLarge: "Packet too large", MessageRateTooHigh: "Message rate too high", QuotaExceeded: "Quota exceeded",
	AdministrativeAction: "Administrative action", PayloadFormatInvalid: "Payload format invalid",
	RetainNotSupported: "Retain not supported", QoSNotSupported: "QoS not supported",
	UseAnotherServer: "Use another server", ServerMoved: "Server moved",
	SharedSubscriptionsNotSupported: "Shared Subscriptions not supported", ConnectionRateExceeded: "Connection rate exceeded",
	MaximumConnectTime: "Maximum connect time", SubscriptionIdentifiersNotSupported: "Subscription Identifiers not supported",
	WildcardSubscriptionsNotSupported: "Wildcard Subscriptions not supported",
}

// String returns the standard's name of the Reason Code.
func (r ReasonCode) String() string {
	if name, ok := reasonNames[r]; ok {
		return name
	}
	const hex = "0123456789ABCDEF"
	return "Reason Code 0x" + string([]byte{hex[r>>4], hex[r&15]})
}

// Failed reports whether the Reason Code tells of a failure: 0x80 and above.
func (r ReasonCode) Failed() bool { return r >= 0x80 }

// returnCodes are the Reason Codes that stand for the Connect Return Codes of MQTT 3.1 and 3.1.1 (MQTT 3.1.1 table 3.1).
var returnCodes = [6]ReasonCode{
	Success, UnsupportedProtocolVersion, ClientIdentifierNotValid, ServerUnavailable, BadUserNameOrPassword, NotAuthorized,
}

// V3Connack returns the Connect Return Code of MQTT 3.1 and 3.1.1 that says the same.
func (r ReasonCode) V3Connack() byte {
	switch r {
	case Success:
		return 0
	case UnsupportedProtocolVersion:
		return 1
	case ClientIdentifierNotValid:
		return 2
	case BadUserNameOrPassword:
		return 4
	case NotAuthorized, Banned:
		return 5
	default:
		return 3
	}
}

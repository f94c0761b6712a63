package broker

import "github.com/embercast/embercast/realtime/packet"

// Why the broker ends a connection, as the log says it.
const (
	causeTakenOver    = "taken over"
	causeKicked       = "kicked"
	causeDrains       = "server drains"
	causeExpired      = "token expired"
	causeRevoked      = "subscription revoked"
	causeAppDeleted   = "app deleted"
	causeKeyDeleted   = "key deleted"
	causeNotTaken     = "credentials no longer taken"
	causeGoneMeantime = "credentials deleted while connecting"
	causeGoneRenewed  = "credentials deleted while renewing"
)

// CauseAnswer is why a connection ends to which an answer cannot be sent.
const CauseAnswer = "an answer is larger than the client's Maximum Packet Size"

// farewells are what a client is told of that, where the Reason Code alone does not say what to do.
var farewells = map[string]string{
	causeExpired:    "The token has expired: connect again with a new one.",
	causeRevoked:    "The app's rules no longer allow one of the subscriptions: connect again without it.",
	causeAppDeleted: "The app was deleted.",
	CauseAnswer:     "An answer is larger than the Maximum Packet Size of CONNECT: allow more, or ask for less at once.",
}

// farewellsByReason are what a client is told of every other end.
var farewellsByReason = map[packet.ReasonCode]string{
	packet.NotAuthorized:          "The credentials are no longer valid: connect again with others.",
	packet.ServerBusy:             "The server's storage is away: connect again in a moment, and send again what was not acknowledged.",
	packet.ServerShuttingDown:     "The server is shutting down: connect again in a moment.",
	packet.KeepAliveTimeout:       "Nothing came for one and a half times the Keep Alive: send PINGREQ in time.",
	packet.SessionTakenOver:       "Another connection uses this Client Identifier now: give each client one of its own.",
	packet.ReceiveMaximumExceeded: "More QoS 1 and 2 messages were under way than the Receive Maximum of CONNACK: await acknowledgements.",
	packet.TopicAliasInvalid:      "The Topic Alias is 0, or above the Topic Alias Maximum of CONNACK.",
	packet.PacketTooLarge:         "The packet is larger than the Maximum Packet Size of CONNACK (of a CONNECT: than 16 KiB).",
	packet.MessageRateTooHigh:     "For 10 seconds more than twice as much came as publish_rate_max and publish_bytes_rate_max allow: send less.",
	packet.QuotaExceeded:          "This client takes what is sent to it too slowly, and its queue is full: subscribe to less, or read faster.",
	packet.RetainNotSupported:     "The app keeps no retained messages, as CONNACK has said: publish without the retain flag.",
	packet.AdministrativeAction:   "An administrator has ended this connection.",
	packet.UnspecifiedError:       "Something went wrong in the server: its log says what.",
}

// Farewell says in a plain sentence why the server ends a connection and what to do about it. cause is what the log
// says: a client that breaks the protocol is told that, for it is about its own bytes.
func Farewell(reason packet.ReasonCode, cause string) string {
	switch reason {
	case packet.MalformedPacket, packet.ProtocolError, packet.UnsupportedProtocolVersion:
		return "What came is not as the standard wants it: " + cause + "."
	default:
		if text, ok := farewells[cause]; ok {
			return text
		}
		return farewellsByReason[reason]
	}
}

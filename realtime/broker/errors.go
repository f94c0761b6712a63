package broker

import (
	"errors"
	"net/http"

	"github.com/embercast/embercast/realtime/packet"
)

// The errors that callers tell apart. OutcomeOf gives each its Reason Code, HTTP status and stable code.
var (
	ErrBadCredentials   = errors.New("unknown app or bad credentials")
	ErrNotAllowed       = errors.New("these credentials are not allowed here")
	ErrClientIDNotValid = errors.New("client id is not valid for these credentials")
	ErrNotAuthorized    = errors.New("not authorized by the app's rules")
	ErrTopicReserved    = errors.New("topics that begin with $ are the server's")
	ErrTokenRefused     = errors.New("token is not valid for this connection")
	ErrStoreUnavailable = errors.New("storage is not available")
	ErrStoreRefused     = errors.New("storage refuses to write")
	ErrOutcomeUnknown   = errors.New("the outcome of a commit is unknown")
	ErrQuotaExceeded    = errors.New("a limit of the app is reached")
	ErrConnectionsMax   = errors.New("the app has reached its connections")
	ErrSessionsMax      = errors.New("the app has reached its sessions")
	ErrTopicNameInvalid = errors.New("topic name is not valid")
	ErrTopicTooLong     = errors.New("topic is longer or deeper than the app's limit")
	ErrFilterInvalid    = errors.New("topic filter is not valid")
	ErrPacketTooLarge   = errors.New("message is larger than the app's limit")
	ErrNoSuchApp        = errors.New("no such app")
	ErrNoSuchClient     = errors.New("no such client")
	ErrDraining         = errors.New("server is shutting down")
	ErrPayloadFormat    = errors.New("payload is not the UTF-8 text that its format indicator promises")
)

// ErrEnding refuses what a client publishes behind a message whose commit has failed, or has waited to publish until its
// connection was taken over: that has ended, or is about to.
var ErrEnding = errors.New("the connection is ending")

// EndsConnection reports whether a failed commit ends the connection of whoever has published: PUBACK knows
// no word for a store that is away, and before 5.0 none at all. Without an acknowledgement the client sends the message
// again.
func EndsConnection(err error, v packet.Version) bool {
	return err != nil && (v != packet.V5 || !OutcomeOf(err).Reason.OfPuback())
}

// Outcome is how an error is told: by MQTT, by HTTP, and as a stable code. Sentence says what happened and what to do,
// in words for whoever caused it: nothing of the server's inside.
type Outcome struct {
	Err      error
	Reason   packet.ReasonCode
	Status   int
	Code     string
	Sentence string
}

// outcomes is the one table of how the broker's errors are told; api has one of its own for the control plane's.
var outcomes = []Outcome{
	{
		ErrBadCredentials, packet.BadUserNameOrPassword, http.StatusUnauthorized, "bad_credentials",
		"The app or the credentials are not known here: check the path, the user name and the password.",
	},
	{
		ErrNotAllowed, packet.NotAuthorized, http.StatusForbidden, "not_allowed",
		"These credentials are not allowed here: use others.",
	},
	{
		ErrClientIDNotValid, packet.ClientIdentifierNotValid, http.StatusForbidden, "client_id_not_valid",
		"The Client Identifier belongs to somebody else, or is not the one that the credentials name: use another.",
	},
	{
		ErrNotAuthorized, packet.NotAuthorized, http.StatusForbidden, "not_authorized",
		"The app's rules do not allow this: have one added that does, or use other credentials.",
	},
	{
		ErrTopicReserved, packet.NotAuthorized, http.StatusForbidden, "not_authorized",
		"Topics that begin with $ are the server's own, whatever the rules say: publish to another.",
	},
	{
		ErrTokenRefused, packet.NotAuthorized, http.StatusForbidden, "token_refused",
		"The token is not valid, or not for this user and client: publish another.",
	},
	{
		ErrStoreUnavailable, packet.ServerUnavailable, http.StatusServiceUnavailable, "store_unavailable",
		"The server's storage is away: try again in a moment.",
	},
	{
		ErrStoreRefused, packet.UnspecifiedError, http.StatusInsufficientStorage, "store_refused",
		"The server's storage takes no more: whoever runs the server has to see to it.",
	},
	{
		ErrOutcomeUnknown, packet.ServerUnavailable, http.StatusServiceUnavailable, "outcome_unknown",
		"The server's storage went away, and it is not known yet whether this was stored: look, or send it again.",
	},
	{
		ErrQuotaExceeded, packet.QuotaExceeded, http.StatusTooManyRequests, "quota_exceeded",
		"The app holds as much as it may: clear retained messages, or have its limits raised.",
	},
	{
		ErrConnectionsMax, packet.QuotaExceeded, http.StatusTooManyRequests, "connections_max",
		"The app has as many connections as it may: try again later, or have its limit connections_max raised.",
	},
	{
		ErrSessionsMax, packet.QuotaExceeded, http.StatusTooManyRequests, "sessions_max",
		"The app stores as many sessions as it may: connect without one that outlives the connection, or have sessions_max raised.",
	},
	{
		ErrTopicNameInvalid, packet.TopicNameInvalid, http.StatusUnprocessableEntity, "topic_name_invalid",
		"The Topic Name is not valid: it is empty, or holds +, # or a control character.",
	},
	{
		ErrTopicTooLong, packet.TopicNameInvalid, http.StatusBadRequest, "topic_too_long",
		"The topic is longer or deeper than the app allows: shorten it, or have topic_bytes_max or topic_levels_max raised.",
	},
	{
		ErrFilterInvalid, packet.TopicFilterInvalid, http.StatusUnprocessableEntity, "topic_filter_invalid",
		"The Topic Filter is not valid (# is a level of its own and the last, + a level of its own), or longer or deeper than the app allows.",
	},
	{
		ErrPacketTooLarge, packet.PacketTooLarge, http.StatusRequestEntityTooLarge, "packet_too_large",
		"The message is larger than the app allows: send less at once, or have packet_bytes_max raised.",
	},
	{ErrNoSuchApp, packet.UnspecifiedError, http.StatusNotFound, "no_such_app", "There is no such app."},
	{ErrNoSuchClient, packet.UnspecifiedError, http.StatusNotFound, "no_such_client", "There is no such client."},
	{
		ErrDraining, packet.ServerShuttingDown, http.StatusServiceUnavailable, "draining",
		"The server is shutting down: try again in a moment.",
	},
	{
		ErrPayloadFormat, packet.PayloadFormatInvalid, http.StatusUnprocessableEntity, "payload_format_invalid",
		"The payload is not UTF-8, though its Payload Format Indicator says so: correct one of the two.",
	},
}

// OutcomeOf looks err up; what is not in the table is an unspecified error of ours. The Outcome must not be changed.
func OutcomeOf(err error) *Outcome {
	for i := range outcomes {
		if errors.Is(err, outcomes[i].Err) {
			return &outcomes[i]
		}
	}
	return &Outcome{
		err, packet.UnspecifiedError, http.StatusInternalServerError, "internal",
		"Something went wrong in the server: its log says what.",
	}
}

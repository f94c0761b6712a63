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
	ErrStoreUnavailable = errors.New("storage is not available")
	ErrStoreRefused     = errors.New("storage refuses to write")
	ErrOutcomeUnknown   = errors.New("the outcome of a commit is unknown")
	ErrQuotaExceeded    = errors.New("a limit of the app is reached")
	ErrConnectionsMax   = errors.New("the app has reached its connections")
	ErrTopicNameInvalid = errors.New("topic name is not valid")
	ErrTopicTooLong     = errors.New("topic is longer or deeper than the app's limit")
	ErrFilterInvalid    = errors.New("topic filter is not valid")
	ErrPacketTooLarge   = errors.New("message is larger than the app's limit")
	ErrNoSuchApp        = errors.New("no such app")
	ErrNoSuchClient     = errors.New("no such client")
	ErrDraining         = errors.New("server is shutting down")
	ErrPayloadFormat    = errors.New("payload is not the UTF-8 text that its format indicator promises")
)

// Outcome is how an error is told: by MQTT, by HTTP, and as a stable code.
type Outcome struct {
	Err    error
	Reason packet.ReasonCode
	Status int
	Code   string
}

// outcomes is the one table of how the broker's errors are told; api has one of its own for the control plane's.
var outcomes = []Outcome{
	{ErrBadCredentials, packet.BadUserNameOrPassword, http.StatusUnauthorized, "bad_credentials"},
	{ErrNotAllowed, packet.NotAuthorized, http.StatusForbidden, "not_allowed"},
	{ErrClientIDNotValid, packet.ClientIdentifierNotValid, http.StatusForbidden, "client_id_not_valid"},
	{ErrNotAuthorized, packet.NotAuthorized, http.StatusForbidden, "not_authorized"},
	{ErrStoreUnavailable, packet.ServerUnavailable, http.StatusServiceUnavailable, "store_unavailable"},
	{ErrStoreRefused, packet.UnspecifiedError, http.StatusInsufficientStorage, "store_refused"},
	{ErrOutcomeUnknown, packet.ServerUnavailable, http.StatusServiceUnavailable, "outcome_unknown"},
	{ErrQuotaExceeded, packet.QuotaExceeded, http.StatusTooManyRequests, "quota_exceeded"},
	{ErrConnectionsMax, packet.QuotaExceeded, http.StatusTooManyRequests, "connections_max"},
	{ErrTopicNameInvalid, packet.TopicNameInvalid, http.StatusUnprocessableEntity, "topic_name_invalid"},
	{ErrTopicTooLong, packet.TopicNameInvalid, http.StatusBadRequest, "topic_too_long"},
	{ErrFilterInvalid, packet.TopicFilterInvalid, http.StatusUnprocessableEntity, "topic_filter_invalid"},
	{ErrPacketTooLarge, packet.PacketTooLarge, http.StatusRequestEntityTooLarge, "packet_too_large"},
	{ErrNoSuchApp, packet.UnspecifiedError, http.StatusNotFound, "no_such_app"},
	{ErrNoSuchClient, packet.UnspecifiedError, http.StatusNotFound, "no_such_client"},
	{ErrDraining, packet.ServerShuttingDown, http.StatusServiceUnavailable, "draining"},
	{ErrPayloadFormat, packet.PayloadFormatInvalid, http.StatusUnprocessableEntity, "payload_format_invalid"},
}

// OutcomeOf looks err up; what is not in the table is an unspecified error of ours.
func OutcomeOf(err error) Outcome {
	for _, o := range outcomes {
		if errors.Is(err, o.Err) {
			return o
		}
	}
	return Outcome{err, packet.UnspecifiedError, http.StatusInternalServerError, "internal"}
}

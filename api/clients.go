package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
)

// Client is a connected client, or one whose session is stored.
type Client struct {
	ClientID             string     `json:"client_id"`
	Sub                  string     `json:"sub"`
	Connected            bool       `json:"connected"`
	Protocol             string     `json:"protocol,omitempty" enum:"3.1,3.1.1,5.0" doc:"Of a connected client, as transport, remote and connected_at."`
	Transport            string     `json:"transport,omitempty" enum:"tcp,tls,ws,wss"`
	Remote               string     `json:"remote,omitempty" doc:"Address and port."`
	ConnectedAt          *time.Time `json:"connected_at,omitempty"`
	EndedAt              *time.Time `json:"ended_at,omitempty" doc:"When its connection ended, of a stored session that nobody holds."`
	KeepAliveSeconds     int        `json:"keep_alive_seconds"`
	SessionExpirySeconds int64      `json:"session_expiry_seconds"`
	CleanStart           bool       `json:"clean_start"`
	SubscriptionCount    int        `json:"subscription_count"`
	QueuedMessages       int        `json:"queued_messages" doc:"Waiting to be sent, or in the log for a stored session."`
	QueuedBytes          int64      `json:"queued_bytes"`
	Inflight             int        `json:"inflight" doc:"QoS 1 and 2 messages sent and not acknowledged."`
	FallenOut            int64      `json:"fallen_out" doc:"Messages that the limits dropped from the session."`
}

// ClientDetail is a client with its subscriptions.
type ClientDetail struct {
	Client
	Subscriptions []Subscription `json:"subscriptions" nullable:"false" doc:"In the order of filters."`
}

// Subscription is one subscription of a client.
type Subscription struct {
	Filter            string `json:"filter"`
	QoS               int    `json:"qos"`
	NoLocal           bool   `json:"no_local"`
	RetainAsPublished bool   `json:"retain_as_published"`
	RetainHandling    int    `json:"retain_handling"`
	ID                uint32 `json:"subscription_identifier,omitempty"`
	Suspended         bool   `json:"suspended" doc:"The rules no longer allow it."`
}

var protocolNames = map[packet.Version]string{packet.V31: "3.1", packet.V311: "3.1.1", packet.V5: "5.0"} //nolint:gochecknoglobals // a table

func clientOf(i broker.ClientInfo) Client {
	c := Client{
		ClientID: i.ClientID, Sub: i.Subject, Connected: i.Connected, Protocol: protocolNames[i.Version], Transport: i.Transport,
		Remote: i.Remote, KeepAliveSeconds: int(i.KeepAlive / time.Second),
		SessionExpirySeconds: int64(i.SessionExpiry / time.Second), CleanStart: i.CleanStart,
		SubscriptionCount: len(i.Subscriptions), QueuedMessages: i.QueuedMessages, QueuedBytes: i.QueuedBytes,
		Inflight: i.Inflight, FallenOut: i.FallenOut,
	}
	if !i.ConnectedAt.IsZero() {
		c.ConnectedAt = &i.ConnectedAt
	}
	if !i.EndedAt.IsZero() {
		c.EndedAt = &i.EndedAt
	}
	return c
}

func detailOf(i broker.ClientInfo) ClientDetail {
	d := ClientDetail{Client: clientOf(i), Subscriptions: make([]Subscription, len(i.Subscriptions))}
	for n, s := range i.Subscriptions {
		d.Subscriptions[n] = Subscription{s.Filter, int(s.QoS), s.NoLocal, s.RetainAsPublished, int(s.RetainHandling), s.ID, s.Suspended}
	}
	return d
}

type listClientsInput struct {
	AppPath
	ListQuery
}

type clientsOutput struct{ Body list[Client] }

// ClientPath is a client in a path.
type ClientPath struct {
	AppPath
	ClientID string `path:"client_id" doc:"Percent-encoded."`
}

type clientOutput struct{ Body ClientDetail }

type kickInput struct {
	ClientPath
	Session bool `query:"session" doc:"Forget its stored session too."`
}

func (s *service) clients() {
	register(s, clients, huma.Operation{
		OperationID: "list-clients", Method: http.MethodGet, Path: "/v1/apps/{app}/clients", Summary: "List clients", Tags: []string{"Clients"},
	}, func(ctx context.Context, in *listClientsInput) (*clientsOutput, error) {
		after, err := decodeCursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		all, err := s.cfg.Engine.Clients(broker.AppUID(calling(ctx).who.App.UID), after, in.Limit+1)
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &clientsOutput{page(all, in.Limit, func(i broker.ClientInfo) string { return i.ClientID }, clientOf)}, nil
	})
	register(s, clients, huma.Operation{
		OperationID: "get-client", Method: http.MethodGet, Path: "/v1/apps/{app}/clients/{client_id}", Summary: "Get a client with its subscriptions", Tags: []string{"Clients"},
	}, func(ctx context.Context, in *ClientPath) (*clientOutput, error) {
		i, err := s.cfg.Engine.Client(broker.AppUID(calling(ctx).who.App.UID), in.ClientID)
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		return &clientOutput{detailOf(i)}, nil
	})
	register(s, clients, huma.Operation{
		OperationID: "kick-client", Method: http.MethodDelete, Path: "/v1/apps/{app}/clients/{client_id}", Summary: "Disconnect a client", Tags: []string{"Clients"},
		Description: "It is told Administrative action (0x98) and may come back: delete its key, or change the rules, to keep it out.", DefaultStatus: http.StatusNoContent,
	}, func(ctx context.Context, in *kickInput) (*struct{}, error) {
		return nil, s.cfg.Engine.Kick(ctx, broker.AppUID(calling(ctx).who.App.UID), in.ClientID, in.Session) //nolint:wrapcheck // told by register
	})
}

package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// retainedBytesMax bounds the payloads of one page; a page holds at least one message.
const retainedBytesMax = 8 << 20

// RetainedMessage is the message kept at a topic, as it was published.
type RetainedMessage struct {
	Topic         string     `json:"topic"`
	PayloadBase64 string     `json:"payload_base64"`
	QoS           int        `json:"qos"`
	Seq           uint64     `json:"seq" doc:"Where it stands in the app's log."`
	Part          uint32     `json:"part"`
	Publisher     string     `json:"publisher,omitempty" doc:"The client id; none when it came by REST."`
	ArrivedAt     time.Time  `json:"arrived_at"`
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	Properties
}

func retainedOf(m *message.Message) RetainedMessage {
	r := RetainedMessage{
		Topic: m.Topic, PayloadBase64: base64.StdEncoding.EncodeToString(m.Payload), QoS: int(m.QoS), Seq: m.Position.Seq,
		Part: m.Position.Part, Publisher: m.Publisher, ArrivedAt: m.Arrived,
	}
	if !m.Expires.IsZero() {
		r.ExpiresAt = &m.Expires
	}
	p, err := packet.ParseProperties(m.Properties, packet.TypePublish)
	if err != nil {
		return r // they were valid when they came in
	}
	r.ContentType, r.ResponseTopic = p.ContentType, p.ResponseTopic
	r.CorrelationData = base64.StdEncoding.EncodeToString(p.CorrelationData)
	if p.Has.Contains(packet.PropPayloadFormat) {
		r.PayloadFormat = new(int(p.PayloadFormat))
	}
	for _, u := range p.User {
		r.UserProperties = append(r.UserProperties, UserProperty{Name: u.Key, Value: u.Value})
	}
	return r
}

type listRetainedInput struct {
	AppPath
	ListQuery
	Filter string `query:"filter" maxLength:"65535" default:"#" doc:"A Topic Filter."`
}

type retainedOutput struct{ Body list[RetainedMessage] }

type clearRetainedInput struct {
	AppPath
	Topic string `query:"topic" required:"true" maxLength:"65535" doc:"The Topic Name, whatever its form."`
}

func (s *service) retained() {
	register(s, data, huma.Operation{
		OperationID: "list-retained", Method: http.MethodGet, Path: "/v1/apps/{app}/retained", Summary: "List retained messages by topic filter", Tags: []string{"Messages"},
		Description: "In the order of topics, level by level. A page ends early where its payloads exceed 8 MiB.",
		Errors:      []int{http.StatusUnprocessableEntity},
	}, s.listRetained)
	register(s, data, huma.Operation{
		OperationID: "clear-retained", Method: http.MethodDelete, Path: "/v1/apps/{app}/retained", Summary: "Clear the retained message of a topic", Tags: []string{"Messages"},
		Description: "Subscribers get the empty message. A topic without one is left as it is.", DefaultStatus: http.StatusNoContent,
		Errors: []int{http.StatusUnprocessableEntity},
	}, s.clearRetained)
}

func (s *service) listRetained(ctx context.Context, in *listRetainedInput) (*retainedOutput, error) {
	after, err := decodeCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Engine.Retained(broker.AppUID(calling(ctx).who.App.UID), in.Filter, after, in.Limit+1)
	if err != nil {
		return nil, err //nolint:wrapcheck // told by register
	}
	limit, bytes := 0, 0
	for limit < min(in.Limit, len(all)) && (limit == 0 || bytes+len(all[limit].Payload) <= retainedBytesMax) {
		bytes += len(all[limit].Payload)
		limit++
	}
	return &retainedOutput{page(all, limit, func(m *message.Message) string { return m.Topic }, retainedOf)}, nil
}

func (s *service) clearRetained(ctx context.Context, in *clearRetainedInput) (*struct{}, error) {
	who := &calling(ctx).who
	app := broker.AppUID(who.App.UID)
	there, err := s.cfg.Engine.RetainedAt(app, in.Topic)
	if err != nil || !there {
		return nil, err //nolint:wrapcheck // told by register
	}
	_, err = s.cfg.Engine.Publish(ctx, broker.Publication{
		App: app, Messages: []*message.Message{{Topic: in.Topic, Retain: true, QoS: 1, Arrived: s.cfg.Now().UTC()}},
	})
	return nil, err //nolint:wrapcheck // told by register
}

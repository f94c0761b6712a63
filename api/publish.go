package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/topic"
)

// Bounds of one publish call (chosen: a batch of the group commit holds that many messages).
const (
	textBytesMax      = 65_535 // of a string in MQTT
	publicationsMax   = 1_000
	publishBodyBytes  = 16 << 20
	publishBodyExcess = 64 << 10 // what JSON and properties add to one payload
)

// UserProperty is a user property of MQTT 5.0; names may occur several times, and order counts.
type UserProperty struct {
	Name  string `json:"name" maxLength:"65535"`
	Value string `json:"value" maxLength:"65535"`
}

// Properties are those of a PUBLISH that reach subscribers (MQTT 5.0 section 3.3.2.3).
type Properties struct {
	ContentType           string         `json:"content_type,omitempty" maxLength:"65535" doc:"With json the default is application/json."`
	ResponseTopic         string         `json:"response_topic,omitempty" maxLength:"65535"`
	CorrelationData       string         `json:"correlation_data,omitempty" doc:"In base64."`
	MessageExpiryInterval *uint32        `json:"message_expiry_interval,omitempty" maximum:"4294967295" doc:"Seconds; none: it does not expire."`
	PayloadFormat         *int           `json:"payload_format_indicator,omitempty" minimum:"0" maximum:"1" doc:"1: the payload is UTF-8 text."`
	UserProperties        []UserProperty `json:"user_properties,omitempty" maxItems:"1000"`
}

// Message is a message to publish. Its payload comes in one of three forms, or is empty.
type Message struct {
	Topic         string          `json:"topic" doc:"A Topic Name."`
	Payload       *string         `json:"payload,omitempty" doc:"Text."`
	JSON          json.RawMessage `json:"json,omitempty" doc:"Any JSON value; sent compact."`
	PayloadBase64 *string         `json:"payload_base64,omitempty" doc:"Bytes."`
	QoS           int             `json:"qos,omitempty" minimum:"0" maximum:"2"`
	Retain        bool            `json:"retain,omitempty" doc:"Keep it as the value of its topic; an empty payload clears that."`
	Properties
}

type publishInput struct {
	AppPath
	RawBody []byte `contentType:"application/json"`
}

type publishOutput struct {
	Body struct {
		Seq *uint64 `json:"seq" doc:"The step of the app's log in which the messages stand; null when nothing had to be stored."`
	}
}

func (s *service) publishing() {
	one := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Message](), true, "Message")
	body := &huma.Schema{OneOf: []*huma.Schema{one, {Type: huma.TypeArray, Items: one, MinItems: new(1), MaxItems: new(publicationsMax)}}}
	register(s, publish, huma.Operation{
		OperationID: "publish", Method: http.MethodPost, Path: "/v1/apps/{app}/publish", Summary: "Publish a message, or several as one transaction", Tags: []string{"Messages"},
		Description: "Answers when what has to be stored is committed. An array is published all or nothing, in one step.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: body}}},
		Errors: []int{
			http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
			http.StatusInsufficientStorage,
		},
		SkipValidateBody: true, // done by parsePublications, for each message
		Metadata: map[string]any{lateClaim: true, bodyLimitKey: bodyLimit(func(a auth.App) int {
			return max(publishBodyBytes, a.Settings.Limits.PacketBytesMax/3*4+publishBodyExcess)
		})},
	}, func(ctx context.Context, in *publishInput) (*publishOutput, error) { return s.publish(ctx, in, one) })
}

func (s *service) publish(ctx context.Context, in *publishInput, schema *huma.Schema) (*publishOutput, error) {
	messages, err := s.parsePublications(in.RawBody, schema)
	if err != nil {
		return nil, err
	}
	c := calling(ctx)
	who := &c.who
	if wait := s.takeRate(c, messages); wait > 0 {
		return nil, tooMany(wait, "Messages come faster than the app's publish_rate_max or publish_bytes_rate_max allows one publisher.")
	}
	p := broker.Publication{App: broker.AppUID(who.App.UID), Messages: messages}
	limits := s.cfg.Limits(who.App.Settings.Limits)
	p.Limits = &limits
	if err := s.judge(ctx, who, &p); err != nil {
		return nil, err
	}
	seq, err := s.cfg.Engine.Publish(ctx, p)
	if errors.Is(err, broker.ErrOutcomeUnknown) {
		leaveOpen(ctx)
	}
	if err != nil {
		told := s.tell(ctx, err)
		var part *broker.PartError
		if errors.As(err, &part) && firstByte(in.RawBody) == '[' {
			told.Errors = []auth.FieldError{{Pointer: "/" + strconv.Itoa(part.Index), Message: part.Err.Error()}}
		}
		return nil, told
	}
	out := &publishOutput{}
	if seq != 0 {
		out.Body.Seq = &seq
	}
	return out, nil
}

// judge lets the rules judge before an Idempotency-Key is claimed; what they allow claims it.
func (s *service) judge(ctx context.Context, who *auth.Principal, p *broker.Publication) error {
	if who.Grant == nil {
		return s.claim(ctx)
	}
	p.Grant = s.cfg.Grant(who.Grant)
	for _, m := range p.Messages {
		if !who.Grant.MayPublish(m.Topic) {
			p.Grant = judged{p.Grant, m.Topic}
			return nil // the engine refuses it, and counts that
		}
	}
	return s.claim(ctx)
}

// judged is a grant that has denied a topic, and stays with it whatever the rules say a moment later: the call has
// claimed no Idempotency-Key.
type judged struct {
	broker.Grant
	denied string
}

// MayPublish implements broker.Grant.
func (j judged) MayPublish(name string) bool { return name != j.denied && j.Grant.MayPublish(name) }

// takeRate holds each publisher to the app's rates, as a connection is: an app's admin or key, or one user of it. It
// returns 0, or how long to wait.
func (s *service) takeRate(c *call, messages []*message.Message) time.Duration {
	publisher := fmt.Sprintf("%d %s ", c.who.App.UID, c.who.KeyID)
	switch {
	case c.who.Kind == auth.PrincipalNone:
		publisher += c.network()
	case c.who.Grant != nil:
		publisher += c.who.Grant.Subject()
	}
	bytes := 0
	for _, m := range messages {
		bytes += len(m.Topic) + len(m.Payload) + len(m.Properties)
	}
	l := c.who.App.Settings.Limits
	one := time.Second / time.Duration(l.PublishRateMax)
	return s.publishers.take(
		debt{publisher + " messages", one * time.Duration(len(messages)), time.Second - one},
		debt{publisher + " bytes", time.Duration(float64(time.Second) * float64(bytes) / float64(l.PublishBytesRateMax)), time.Second},
	)
}

// parsePublications reads one message or an array of them, and tells everything that is wrong with any.
func (s *service) parsePublications(raw []byte, schema *huma.Schema) ([]*message.Message, error) {
	var items []json.RawMessage
	single := firstByte(raw) != '['
	if single {
		items = []json.RawMessage{raw}
	} else if err := json.Unmarshal(raw, &items); err != nil {
		return nil, malformed("The body is not JSON.") // readBody has seen that it is
	}
	if len(items) == 0 || len(items) > publicationsMax {
		return nil, unprocessable("", fmt.Sprintf("must hold 1 to %d messages", publicationsMax))
	}
	var wrong []auth.FieldError
	messages := make([]*message.Message, len(items))
	now := s.cfg.Now().UTC().Truncate(time.Microsecond) // as precise as the store
	for i, item := range items {
		at := "/" + strconv.Itoa(i)
		if single {
			at = ""
		}
		m, problems := s.parseMessage(item, schema, at, now)
		wrong = append(wrong, problems...)
		messages[i] = m
	}
	if len(wrong) > 0 {
		return nil, &auth.ValidationError{Fields: wrong}
	}
	return messages, nil
}

func firstByte(raw []byte) byte {
	for _, c := range raw {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c
		}
	}
	return 0
}

// parseMessage judges one message by the schema that the OpenAPI document shows, and by what that cannot say.
func (s *service) parseMessage(raw []byte, schema *huma.Schema, at string, now time.Time) (*message.Message, []auth.FieldError) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, []auth.FieldError{{Pointer: at, Message: "is not JSON"}} // readBody has seen that it is
	}
	var wrong []auth.FieldError
	res := huma.ValidateResult{}
	huma.Validate(s.api.OpenAPI().Components.Schemas, schema, huma.NewPathBuffer([]byte("body"), len("body")), huma.ModeWriteToServer, value, &res)
	if len(res.Errors) > 0 {
		return nil, fieldErrors(res.Errors, at)
	}
	var in Message
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, decodingErrors(err, at)
	}
	m := &message.Message{Topic: in.Topic, QoS: byte(in.QoS), Retain: in.Retain, Arrived: now} //nolint:gosec // 0 to 2 by the schema
	add := func(member, text string) { wrong = append(wrong, auth.FieldError{Pointer: at + member, Message: text}) }
	in.setPayload(m, add)
	in.setProperties(m, add)
	return m, wrong
}

func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw // it was decoded before: it is valid
	}
	return b.Bytes()
}

func (in *Message) setPayload(m *message.Message, add func(member, text string)) {
	forms := 0
	if in.Payload != nil {
		forms++
		m.Payload = []byte(*in.Payload)
	}
	if in.JSON != nil {
		forms++
		m.Payload = compact(in.JSON)
		if in.ContentType == "" {
			in.ContentType = "application/json"
		}
	}
	if in.PayloadBase64 != nil {
		forms++
		var err error
		if m.Payload, err = base64.StdEncoding.DecodeString(*in.PayloadBase64); err != nil {
			add("/payload_base64", "must be base64 (RFC 4648 section 4, with padding)")
		}
	}
	if forms > 1 {
		add("", "must have only one of payload, json and payload_base64")
	}
}

func (in *Message) setProperties(m *message.Message, add func(member, text string)) {
	p := packet.Properties{}
	text := func(member, value string) string {
		if len(value) > textBytesMax || strings.ContainsRune(value, 0) {
			add(member, "must have at most 65,535 bytes, none of them U+0000")
			return ""
		}
		return value
	}
	if in.ContentType != "" {
		p.Has |= packet.PropContentType
		p.ContentType = text("/content_type", in.ContentType)
	}
	if in.ResponseTopic != "" {
		p.Has |= packet.PropResponseTopic
		if p.ResponseTopic = in.ResponseTopic; topic.ValidateName(in.ResponseTopic, topic.Limits{}) != nil {
			add("/response_topic", "must be a Topic Name: no wildcards, at most 65,535 bytes")
			return
		}
	}
	if in.CorrelationData != "" {
		data, err := base64.StdEncoding.DecodeString(in.CorrelationData)
		if err != nil || len(data) > textBytesMax {
			add("/correlation_data", "must be base64 of at most 65,535 bytes")
			return
		}
		p.Has |= packet.PropCorrelationData
		p.CorrelationData = data
	}
	if in.PayloadFormat != nil {
		p.Has |= packet.PropPayloadFormat
		p.PayloadFormat = byte(*in.PayloadFormat) //nolint:gosec // 0 or 1 by the schema
		if p.PayloadFormat == 1 && !utf8.Valid(m.Payload) {
			add("/payload_format_indicator", "promises UTF-8 text, and the payload is not")
		}
	}
	for i, u := range in.UserProperties {
		p.Has |= packet.PropUser
		at := fmt.Sprintf("/user_properties/%d", i)
		p.User = append(p.User, packet.UserProperty{Key: text(at+"/name", u.Name), Value: text(at+"/value", u.Value)})
	}
	m.Properties = p.AppendForwarded(nil)
	if _, err := packet.ParseProperties(m.Properties, packet.TypePublish); err != nil {
		add("", "has properties that MQTT cannot carry")
	}
	if in.MessageExpiryInterval != nil {
		m.Expires = m.Arrived.Add(time.Duration(*in.MessageExpiryInterval) * time.Second)
	}
}

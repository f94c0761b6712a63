package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

// retained returns what is kept at a topic, or nil.
func (s *server) retained(app, topic string) object {
	s.t.Helper()
	var list struct{ Items []object }
	s.get("/v1/apps/" + app + "/retained?filter=" + topic).want(http.StatusOK).into(&list)
	if len(list.Items) == 0 {
		return nil
	}
	require.Len(s.t, list.Items, 1)
	return list.Items[0]
}

func payload(t *testing.T, message object) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(fmt.Sprint(message["payload_base64"]))
	require.NoError(t, err)
	return string(b)
}

const publishPath = "/v1/apps/shop/publish"

func TestPublishPayloads(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, c := range map[string]struct{ members, want, contentType string }{
		"text":                      {`"payload":"grüße\n"`, "grüße\n", ""},
		"json":                      {`"json": { "a" : [ 1, 2.50, 12345678901234567890 ], "b": "<&>" }`, `{"a":[1,2.50,12345678901234567890],"b":"<&>"}`, "application/json"},
		"json_null":                 {`"json":null`, `null`, "application/json"},
		"json_false":                {`"json":false`, `false`, "application/json"},
		"json_text":                 {`"json":"x"`, `"x"`, "application/json"},
		"json_with_a_type_of_yours": {`"json":1,"content_type":"text/plain"`, `1`, "text/plain"},
		"base64":                    {`"payload_base64":"AP/+"`, "\x00\xff\xfe", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			a := s.post(publishPath, `{"topic":"p/`+name+`","retain":true,"qos":1,`+c.members+`}`).want(http.StatusOK)
			require.NotNil(t, a.object()["seq"])
			m := s.retained("shop", "p/"+name)
			require.Equal(t, c.want, payload(t, m))
			if c.contentType == "" {
				require.Nil(t, m["content_type"])
			} else {
				require.Equal(t, c.contentType, m["content_type"])
			}
		})
	}
	for name, members := range map[string]string{"none": ``, "empty_text": `,"payload":""`, "empty_base64": `,"payload_base64":""`} {
		s.post(publishPath, `{"topic":"p/text","retain":true,"payload":"x"}`).want(http.StatusOK)
		s.post(publishPath, `{"topic":"p/text","retain":true`+members+`}`).want(http.StatusOK)
		require.Nil(t, s.retained("shop", "p/text"), "%s: an empty payload clears", name)
	}
	a := s.post(publishPath, object{"topic": "p/live", "payload": "x", "qos": 2}).want(http.StatusOK)
	require.JSONEq(t, `{"seq":null}`, string(a.body), "nothing had to be stored")
}

// TestPublishReachesSubscribers with all its properties.
func TestPublishReachesSubscribers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("#", "subscribe"))
	c := s.client("shop", "c1", s.token("shop", object{"sub": "alice"}))
	require.Equal(t, packet.GrantedQoS1, c.Subscribe("a/#", 1))
	other := s.client("other", "c1", s.token("other", object{"sub": "alice"}))
	s.rules("other", allow("#", "subscribe"))
	require.Equal(t, packet.Success, other.Subscribe("a/#", 0))
	message := object{
		"topic": "a/b", "payload": "hello", "qos": 1, "retain": true, "content_type": "text/plain", "response_topic": "reply/here",
		"correlation_data": base64.StdEncoding.EncodeToString([]byte{0, 1, 255}), "message_expiry_interval": 3600, "payload_format_indicator": 1,
		"user_properties": []object{{"name": "n", "value": "1"}, {"name": "n", "value": "2"}},
	}
	s.post(publishPath, message).want(http.StatusOK)
	got := c.ExpectMessage("a/b", "hello")
	require.Equal(t, byte(1), got.QoS)
	require.False(t, got.Retain, "live")
	p := got.Properties
	require.NotNil(t, p)
	require.Equal(t, "text/plain", p.ContentType)
	require.Equal(t, "reply/here", p.ResponseTopic)
	require.Equal(t, []byte{0, 1, 255}, p.CorrelationData)
	require.Equal(t, byte(1), p.PayloadFormat)
	require.InDelta(t, 3600, p.MessageExpiry, 60)
	require.Equal(t, []packet.UserProperty{{Key: "n", Value: "1"}, {Key: "n", Value: "2"}}, p.User)
	other.ExpectNothing()

	kept := s.retained("shop", "a/b")
	for _, member := range []string{"topic", "qos", "content_type", "response_topic", "correlation_data", "payload_format_indicator"} {
		require.EqualValues(t, message[member], kept[member], member)
	}
	require.Equal(t, []any{map[string]any{"name": "n", "value": "1"}, map[string]any{"name": "n", "value": "2"}}, kept["user_properties"])
	expires, err := time.Parse(time.RFC3339, fmt.Sprint(kept["expires_at"]))
	require.NoError(t, err)
	require.WithinDuration(t, s.now().Add(time.Hour), expires, time.Minute)
	require.Nil(t, kept["publisher"], "by REST there is no client id")
}

func TestPublishRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, c := range map[string]struct {
		body any
		want []string
	}{
		"nothing":              {object{}, []string{"/topic"}},
		"no_object":            {`"x"`, []string{""}},
		"null":                 {`null`, []string{""}},
		"unknown_member":       {object{"topic": "a", "data": 1}, []string{"/data"}},
		"topic_of_a_kind":      {object{"topic": 5}, []string{"/topic"}},
		"payload_of_a_kind":    {object{"topic": "a", "payload": object{}}, []string{"/payload"}},
		"base64":               {object{"topic": "a", "payload_base64": "***"}, []string{"/payload_base64"}},
		"base64_for_urls":      {object{"topic": "a", "payload_base64": "AP_-"}, []string{"/payload_base64"}},
		"two_payloads":         {object{"topic": "a", "payload": "x", "json": 1}, []string{""}},
		"three_payloads":       {object{"topic": "a", "payload": "x", "json": nil, "payload_base64": ""}, []string{""}},
		"qos":                  {object{"topic": "a", "qos": 3}, []string{"/qos"}},
		"qos_of_a_kind":        {object{"topic": "a", "qos": "1"}, []string{"/qos"}},
		"qos_fraction":         {object{"topic": "a", "qos": 0.5}, []string{"/qos"}},
		"retain_of_a_kind":     {object{"topic": "a", "retain": 1}, []string{"/retain"}},
		"format":               {object{"topic": "a", "payload_format_indicator": 2}, []string{"/payload_format_indicator"}},
		"expiry":               {object{"topic": "a", "message_expiry_interval": -1}, []string{"/message_expiry_interval"}},
		"expiry_beyond":        {`{"topic":"a","message_expiry_interval":4294967296}`, []string{"/message_expiry_interval"}},
		"correlation":          {object{"topic": "a", "correlation_data": "*"}, []string{"/correlation_data"}},
		"user_property":        {object{"topic": "a", "user_properties": []object{{"name": "x", "valeu": "y"}}}, []string{"/user_properties/0/valeu", "/user_properties/0/value"}},
		"response_wildcard":    {object{"topic": "a", "response_topic": "a/+"}, []string{"/response_topic"}},
		"nul_in_a_property":    {object{"topic": "a", "content_type": "a\x00"}, []string{"/content_type"}},
		"nul_in_user_property": {object{"topic": "a", "user_properties": []object{{"name": "a\x00", "value": ""}}}, []string{"/user_properties/0/name"}},
		"all_together":         {object{"topic": 1, "qos": 9, "retain": "x"}, []string{"/qos", "/retain", "/topic"}},
		"empty_list":           {`[]`, []string{""}},
		"in_a_list":            {`[{"topic":"a"},{"topic":"a","qos":5},7,{"topic":"b","payload":"x","payload_base64":"eA=="}]`, []string{"/1/qos", "/2", "/3"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.post(publishPath, c.body).invalid(c.want...)
		})
	}
	s.post(publishPath, `[`+strings.Repeat(`{"topic":"a"},`, 1000)+`{"topic":"a"}]`).invalid("")
	for _, topic := range []string{"", "a/+", "#", "a\x00"} {
		s.post(publishPath, object{"topic": topic}).refused(http.StatusUnprocessableEntity, "topic_name_invalid")
	}
	s.post(publishPath, object{"topic": "a", "payload_base64": "/w==", "payload_format_indicator": 1}).invalid("/payload_format_indicator")
}

// TestPublishLimits: each limit of the app that a message can meet has its status (CONTRACT section 3).
func TestPublishLimits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	set := func(limits object) {
		s.patch("/v1/apps/shop", object{"settings": object{"limits": nil}}).want(http.StatusOK)
		s.patch("/v1/apps/shop", object{"settings": object{"limits": limits}}).want(http.StatusOK)
	}
	set(object{"topic_levels_max": 2, "topic_bytes_max": 10})
	s.post(publishPath, object{"topic": "a/b"}).want(http.StatusOK)
	s.post(publishPath, object{"topic": "a/b/c"}).refused(http.StatusBadRequest, "topic_too_long")
	s.post(publishPath, object{"topic": "0123456789a"}).refused(http.StatusBadRequest, "topic_too_long")

	set(object{"packet_bytes_max": 1024})
	s.post(publishPath, object{"topic": "a", "payload": strings.Repeat("x", 1023)}).want(http.StatusOK)
	s.post(publishPath, object{"topic": "a", "payload": strings.Repeat("x", 1024)}).refused(http.StatusRequestEntityTooLarge, "packet_too_large")

	set(object{"retained_count_max": 1})
	s.post(publishPath, object{"topic": "one", "payload": "x", "retain": true}).want(http.StatusOK)
	s.post(publishPath, object{"topic": "one", "payload": "y", "retain": true}).want(http.StatusOK)
	s.post(publishPath, object{"topic": "two", "payload": "x", "retain": true}).refused(http.StatusTooManyRequests, "quota_exceeded")
	s.post(publishPath, object{"topic": "two", "retain": true}).want(http.StatusOK)
	set(object{"retained_bytes_max": 100})
	s.post(publishPath, object{"topic": "one", "payload": strings.Repeat("x", 200), "retain": true}).refused(http.StatusTooManyRequests, "quota_exceeded")
	s.post(publishPath, object{"topic": "one", "retain": true}).want(http.StatusOK)
}

// TestPublishRate holds each publisher to the app's rates.
func TestPublishRate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.freeze()
	s.rules("shop", allow("#", "publish"))
	alice, bob := s.token("shop", object{"sub": "alice"}), s.token("shop", object{"sub": "bob"})
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"publish_rate_max": 5}}}).want(http.StatusOK)
	message := object{"topic": "a", "payload": "x"}
	for range 5 {
		s.post(publishPath, message, as(alice)).want(http.StatusOK)
	}
	a := s.post(publishPath, message, as(alice)).refused(http.StatusTooManyRequests, "rate_exceeded")
	require.Equal(t, "1", a.header.Get("Retry-After"))
	s.post(publishPath, message, as(bob)).want(http.StatusOK)
	s.pass(time.Second)
	// A list counts as what it holds: it goes through, and what follows waits for as long.
	s.post(publishPath, []object{message, message, message, message, message, message, message, message, message, message}, as(alice)).want(http.StatusOK)
	a = s.post(publishPath, message, as(alice)).refused(http.StatusTooManyRequests, "rate_exceeded")
	require.Equal(t, "2", a.header.Get("Retry-After"))
	s.pass(time.Second + 300*time.Millisecond)
	s.post(publishPath, message, as(alice)).want(http.StatusOK)

	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"publish_rate_max": nil, "publish_bytes_rate_max": 1024}}}).want(http.StatusOK)
	s.pass(time.Minute)
	large := object{"topic": "a", "payload": strings.Repeat("x", 4096)}
	s.post(publishPath, large).want(http.StatusOK)
	a = s.post(publishPath, message).refused(http.StatusTooManyRequests, "rate_exceeded")
	require.Equal(t, "4", a.header.Get("Retry-After"))
	s.pass(4 * time.Second)
	s.post(publishPath, message).want(http.StatusOK)
}

// TestPublishLists: all or nothing, in one step, and the refused one is named.
func TestPublishLists(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	keep := func(topic string) object { return object{"topic": topic, "payload": "x", "retain": true} }
	a := s.post(publishPath, []object{keep("a"), keep("b"), {"topic": "live", "payload": "x"}, keep("c")}).want(http.StatusOK)
	seq := a.object()["seq"]
	require.Equal(t, []any{"a", "b", "c"}, s.items("/v1/apps/shop/retained", 10, "topic"))
	require.Equal(t, []any{seq, seq, seq}, s.items("/v1/apps/shop/retained", 10, "seq"), "one step")
	require.Equal(t, []any{0.0, 1.0, 3.0}, s.items("/v1/apps/shop/retained", 10, "part"))

	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"topic_bytes_max": 5}}}).want(http.StatusOK)
	for name, c := range map[string]struct {
		last any
		want int
		at   string
	}{
		"too_long":  {keep("toolong"), http.StatusBadRequest, "/2"},
		"not_valid": {keep("d/+"), http.StatusUnprocessableEntity, "/2"},
		"form":      {object{"topic": "e", "qos": 7}, http.StatusUnprocessableEntity, "/2/qos"},
		"dollar":    {keep("$e"), http.StatusForbidden, "/2"},
	} {
		a := s.post(publishPath, []any{keep("x"), keep("y"), c.last}).want(c.want)
		require.Equal(t, c.at, a.problem().Errors[0].Pointer, name)
		require.Equal(t, []any{"a", "b", "c"}, s.items("/v1/apps/shop/retained", 10, "topic"), "%s: nothing was published", name)
	}
	s.rules("shop", allow("f", "publish"))
	a = s.post(publishPath, []object{keep("f"), keep("g")}, as(s.token("shop", object{"sub": "alice"}))).refused(http.StatusForbidden, "not_authorized")
	require.Equal(t, "/1", a.problem().Errors[0].Pointer)
	require.Nil(t, s.retained("shop", "f"))
	// A list of one is a list.
	a = s.post(publishPath, []object{keep("d/+")})
	require.Equal(t, "/0", a.problem().Errors[0].Pointer)
}

// TestPublishSizes: the body may hold what the app's messages may.
func TestPublishSizes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"packet_bytes_max": 14 << 20}}}).want(http.StatusOK)
	big := base64.StdEncoding.EncodeToString(make([]byte, 13<<20))
	s.post(publishPath, object{"topic": "a", "payload_base64": big}).want(http.StatusOK)
	s.post("/v1/apps/other/publish", object{"topic": "a", "payload_base64": big}).refused(http.StatusRequestEntityTooLarge, "body_too_large")
	s.post("/v1/apps/other/publish", object{"topic": "a", "payload": strings.Repeat("x", 2<<20)}).refused(http.StatusRequestEntityTooLarge, "packet_too_large")
}

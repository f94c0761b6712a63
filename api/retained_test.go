package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

const retainedPath = "/v1/apps/shop/retained"

func TestRetained(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	// In the order of topics, level by level.
	topics := []any{"a", "a/", "a/b", "a/b/c", "a b", "a-b", "b", "ü", "日本/東京"}
	var keep []object
	for _, topic := range topics {
		keep = append(keep, object{"topic": topic, "payload": topic, "retain": true})
	}
	s.post(publishPath, keep).want(http.StatusOK)
	for _, limit := range []int{1, 2, 4, 8, 9, 1000} {
		require.Equal(t, topics, s.items(retainedPath, limit, "topic"), "limit %d", limit)
	}
	for filter, want := range map[string][]any{
		"#": topics, "a/#": {"a", "a/", "a/b", "a/b/c"}, "a/+": {"a/", "a/b"}, "+": {"a", "a b", "a-b", "b", "ü"}, "ü": {"ü"}, "日本/+": {"日本/東京"}, "nothing": nil,
	} {
		for _, limit := range []int{1, 2, 100} {
			require.Equal(t, want, s.items(retainedPath+"?filter="+url.QueryEscape(filter), limit, "topic"), "filter %q", filter)
		}
	}
	for _, filter := range []string{"a/#/b", "a+", "%00", "%ff"} {
		if strings.Contains(filter, "%") {
			s.get(retainedPath+"?filter="+filter).refused(http.StatusUnprocessableEntity, "topic_filter_invalid")
			continue
		}
		s.get(retainedPath+"?filter="+url.QueryEscape(filter)).refused(http.StatusUnprocessableEntity, "topic_filter_invalid")
	}
	// Another app has nothing of it.
	require.Empty(t, s.items("/v1/apps/other/retained", 10, "topic"))
}

// TestRetainedByMQTT: what a device keeps is shown whatever its payload is, and cleared.
func TestRetainedByMQTT(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("#", "publish", "subscribe"))
	c := s.client("shop", "lamp-1", s.token("shop", object{"sub": "alice"}))
	c.Publish("state", "\xff\x00raw", brokertest.QoS(1, 1), brokertest.Retained)
	c.ExpectAck(packet.TypePuback, 1, packet.Success)
	m := s.retained("shop", "state")
	require.Equal(t, "\xff\x00raw", payload(t, m))
	require.Equal(t, "lamp-1", m["publisher"])
	require.EqualValues(t, 1, m["qos"])

	require.Equal(t, packet.GrantedQoS1, c.Subscribe("#", 1))
	c.ExpectMessage("state", "\xff\x00raw")
	require.Empty(t, s.del(retainedPath+"?topic=state").want(http.StatusNoContent).body)
	c.ExpectMessage("state", "")
	require.Nil(t, s.retained("shop", "state"))
	s.del(retainedPath + "?topic=state").want(http.StatusNoContent)
	c.ExpectNothing()
}

// TestClearRetained by topics of any form.
func TestClearRetained(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	topics := []string{"a/b", "/", "//", "a/", "a b", "a%2Fb", "a+b?c&d=e", "ü/日本", "a#"}
	for _, topic := range topics {
		valid := !strings.ContainsAny(topic, "+#")
		if valid {
			s.post(publishPath, object{"topic": topic, "payload": "x", "retain": true}).want(http.StatusOK)
		}
		a := s.del(retainedPath + "?topic=" + url.QueryEscape(topic))
		if !valid {
			a.refused(http.StatusUnprocessableEntity, "topic_name_invalid")
			continue
		}
		a.want(http.StatusNoContent)
		require.Empty(t, s.items(retainedPath, 10, "topic"), topic)
	}
	s.del(retainedPath).invalid("query.topic")
	s.del(retainedPath + "?topic=").invalid("query.topic")
	// Longer than the app's limit since then: it can still be cleared.
	s.post(publishPath, object{"topic": "a/long/topic", "payload": "x", "retain": true}).want(http.StatusOK)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"topic_bytes_max": 3, "topic_levels_max": 1}}}).want(http.StatusOK)
	s.del(retainedPath + "?topic=a/long/topic").want(http.StatusNoContent)
	require.Empty(t, s.items(retainedPath, 10, "topic"))
}

// TestLongTopics: the longest topic that an app may allow fits the calls that name it, and their cursors.
func TestLongTopics(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"topic_bytes_max": 8192}}}).want(http.StatusOK)
	topics := []any{strings.Repeat("日", 8192/3-1) + "a", strings.Repeat("日", 8192/3-1) + "b"}
	for _, topic := range topics {
		s.post(publishPath, object{"topic": topic, "payload": "x", "retain": true}).want(http.StatusOK)
	}
	require.Equal(t, topics, s.items(retainedPath, 1, "topic"))
	for _, topic := range topics {
		s.del(retainedPath + "?topic=" + url.QueryEscape(fmt.Sprint(topic))).want(http.StatusNoContent)
	}
	require.Empty(t, s.items(retainedPath, 1, "topic"))
}

package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCeilings: a bound is the last that passes.
func TestCeilings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	rule := allow("a", "publish")
	for name, c := range map[string]struct {
		method, path string
		body         func(n int) object
		most, over   int // what is at the bound, and the status of one more
	}{
		"topic_levels": {"POST", publishPath, func(n int) object { return object{"topic": strings.Repeat("/", n-1)} }, 32, 400},
		"topic_bytes":  {"POST", publishPath, func(n int) object { return object{"topic": strings.Repeat("x", n)} }, 1_024, 400},
		"packet_bytes": {"POST", publishPath, func(n int) object { return object{"topic": "a", "payload": strings.Repeat("x", n-1)} }, 1 << 20, 413},
		"ttl":          {"POST", "/v1/apps/shop/tokens", func(n int) object { return object{"sub": "a", "ttl": n} }, 30 * 24 * 3600, 422},
		"bypass_ttl":   {"POST", "/v1/apps/shop/tokens", func(n int) object { return object{"sub": "a", "ttl": n, "bypass_rules": true} }, 900, 422},
		"acl":          {"POST", "/v1/apps/shop/tokens", func(n int) object { return object{"sub": "a", "ttl": 60, "acl": slices.Repeat([]object{rule}, n)} }, 50, 422},
		"sub":          {"POST", "/v1/apps/shop/tokens", func(n int) object { return object{"sub": strings.Repeat("x", n), "ttl": 60} }, 512, 422},
		"name":         {"POST", "/v1/apps/shop/keys", func(n int) object { return object{"kind": "secret", "name": strings.Repeat("é", n)} }, 128, 422},
		"device_rules": {"POST", "/v1/apps/shop/keys", func(n int) object {
			return object{"kind": "device", "name": "x", "rules": slices.Repeat([]object{rule}, n)}
		}, 50, 422},
		"origins": {"POST", "/v1/apps/shop/keys", func(n int) object {
			return object{"kind": "publishable", "name": "x", "origins": slices.Repeat([]string{"https://a.example"}, n)}
		}, 100, 422},
		"app_id":      {"POST", "/v1/apps", func(n int) object { return object{"id": strings.Repeat("a", n)} }, 63, 422},
		"connections": {"PATCH", "/v1/apps/other", func(n int) object { return object{"settings": object{"limits": object{"connections_max": n}}} }, 1_000_000, 422},
		"keep_alive":  {"PATCH", "/v1/apps/other", func(n int) object { return object{"settings": object{"limits": object{"keep_alive_max_seconds": n}}} }, 65_535, 422},
		"session_expiry": {"PATCH", "/v1/apps/other", func(n int) object {
			return object{"settings": object{"limits": object{"session_expiry_max_seconds": n}}}
		}, 0xFFFFFFFE, 422},
		"user_properties": {"POST", publishPath, func(n int) object {
			return object{"topic": "a", "user_properties": slices.Repeat([]object{{"name": "n", "value": "v"}}, n)}
		}, 1_000, 422},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			if a := s.do(c.method, c.path, c.body(c.most), showing); a.status >= http.StatusMultipleChoices {
				t.Errorf("at the bound: %d %s", a.status, a.body)
			}
			s.do(c.method, c.path, c.body(c.most+1), showing).want(c.over)
		})
	}
	s.post(publishPath, slices.Repeat([]object{{"topic": "a"}}, 1_000)).want(http.StatusOK)
	s.pass(time.Minute)
	s.post(publishPath, slices.Repeat([]object{{"topic": "a"}}, 1_001)).want(http.StatusUnprocessableEntity)
	s.put("/v1/apps/shop/rules", slices.Repeat([]object{rule}, 10_000)).want(http.StatusOK)
	s.put("/v1/apps/shop/rules", slices.Repeat([]object{rule}, 10_001)).want(http.StatusUnprocessableEntity)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"retained_count_max": 2}}}).want(http.StatusOK)
	keep := func(topic string) *answer {
		return s.post(publishPath, object{"topic": topic, "payload": "x", "retain": true})
	}
	keep("a").want(http.StatusOK)
	keep("b").want(http.StatusOK)
	keep("c").refused(http.StatusTooManyRequests, "quota_exceeded")
	keep("b").want(http.StatusOK)
	s.post(publishPath, object{"topic": "a", "retain": true}).want(http.StatusOK)
	keep("c").want(http.StatusOK)
}

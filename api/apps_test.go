package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

func TestApps(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	created := s.post("/v1/apps", object{"id": "chat", "name": "Chat & Co", "settings": object{"anonymous": true}}).want(http.StatusCreated)
	require.Equal(t, "/v1/apps/chat", created.header.Get("Location"))
	require.Equal(t, "application/json", created.header.Get("Content-Type"))
	require.Equal(t, "no-store", created.header.Get("Cache-Control"))
	o := created.object()
	require.Equal(t, "chat", o["id"])
	require.Equal(t, "Chat & Co", o["name"])
	require.Contains(t, string(created.body), `"Chat & Co"`, "JSON is compact and readable")
	require.NotContains(t, string(created.body), "\n")
	settings, ok := o["settings"].(map[string]any)
	require.True(t, ok)
	require.Equal(t, true, settings["anonymous"])
	require.Equal(t, "ack", settings["denied_publish"], "the defaults are shown too")
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`, o["created_at"], "times are RFC 3339 in UTC")

	got := s.get("/v1/apps/chat").want(http.StatusOK)
	require.JSONEq(t, string(created.body), string(got.body))
	s.get("/v1/apps/%63hat").want(http.StatusOK)
	require.Empty(t, s.do(http.MethodHead, "/v1/apps/chat", nil).want(http.StatusOK).body)

	patched := s.patch("/v1/apps/chat", object{"name": "Talk", "settings": object{"anonymous": nil, "limits": object{"receive_maximum": 7}}}).want(http.StatusOK)
	require.Equal(t, "Talk", patched.text("name"))
	require.Contains(t, string(patched.body), `"receive_maximum":7`)
	require.Contains(t, string(patched.body), `"anonymous":false`)
	s.patch("/v1/apps/chat", object{"settings": object{"history_seconds": 5}}, header("Content-Type", "application/merge-patch+json")).want(http.StatusOK)
	reset := s.patch("/v1/apps/chat", object{"settings": nil}).want(http.StatusOK)
	require.Contains(t, string(reset.body), `"receive_maximum":100`, "null takes all back (RFC 7396)")
	require.Equal(t, "Talk", reset.text("name"))

	s.del("/v1/apps/chat").invalid("query.confirm")
	s.del("/v1/apps/chat?confirm=Chat").invalid("query.confirm")
	s.get("/v1/apps/chat").want(http.StatusOK)
	require.Empty(t, s.del("/v1/apps/chat?confirm=chat").want(http.StatusNoContent).body)
	for _, a := range []*answer{s.get("/v1/apps/chat"), s.patch("/v1/apps/chat", object{}), s.del("/v1/apps/chat?confirm=chat")} {
		a.refused(http.StatusNotFound, "not_found")
	}
}

func TestAppsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.post("/v1/apps", object{"id": "shop"}).refused(http.StatusConflict, "taken")
	for name, c := range map[string]struct {
		body any
		want []string
	}{
		"nothing":           {object{}, []string{"/id"}},
		"id":                {object{"id": "No"}, []string{"/id"}},
		"id_of_a_kind":      {object{"id": 5}, []string{"/id"}},
		"id_of_null":        {object{"id": nil}, []string{"/id"}},
		"unknown_member":    {object{"id": "x", "owner": "me"}, []string{"/owner"}},
		"case_of_a_member":  {object{"ID": "x"}, []string{"/ID", "/id"}},
		"a_list":            {[]string{"x"}, []string{""}},
		"text":              {`"x"`, []string{""}},
		"null":              {"null", []string{""}},
		"settings_no_list":  {object{"id": "x", "settings": []int{}}, []string{"/settings"}},
		"unknown_setting":   {object{"id": "x", "settings": object{"theme": 1, "limits": object{"speed": 1}}}, []string{"/settings/limits/speed", "/settings/theme"}},
		"all_together":      {object{"id": "No", "name": "a\tb", "settings": object{"anonymous": 1}}, []string{"/id", "/name", "/settings/anonymous"}},
		"form_all_together": {object{"name": 5, "x": 1}, []string{"/id", "/name", "/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.post("/v1/apps", c.body).invalid(c.want...)
		})
	}
	p := s.post("/v1/apps", object{"id": "No"}).problem()
	require.Equal(t, "must have 1 to 63 characters of a-z, 0-9 and -, the first of them not -", p.Errors[0].Message)
	p = s.post("/v1/apps", object{"name": 5, "x": 1}).problem()
	require.Equal(t, []string{"is missing", "must be text", "is not known here"}, []string{p.Errors[0].Message, p.Errors[1].Message, p.Errors[2].Message})
	s.patch("/v1/apps/shop", object{"name": ""}).invalid("/name")
	s.patch("/v1/apps/shop", object{"id": "other"}).invalid("/id")
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"connections_max": 0}}}).invalid("/settings/limits/connections_max")
}

// TestDeletedApps: every trace is gone, and its clients with it.
func TestDeletedApps(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("#", "publish", "subscribe"))
	_, key := s.key("shop", object{"kind": "secret"})
	token := s.token("shop", object{"sub": "alice"})
	s.post("/v1/apps/shop/publish", object{"topic": "a", "payload": "x", "retain": true}).want(http.StatusOK)
	c := s.client("shop", "c1", token)
	s.del("/v1/apps/shop?confirm=shop").want(http.StatusNoContent)
	c.ExpectEnd(packet.NotAuthorized)
	for _, credential := range []string{key, token} {
		s.get("/v1/apps/shop/retained", as(credential)).refused(http.StatusUnauthorized, "bad_credentials")
	}
	s.post("/v1/apps", object{"id": "shop"}).want(http.StatusCreated)
	require.Empty(t, s.items("/v1/apps/shop/retained", 10, "topic"), "an app made again under the same id starts empty")
	s.get("/v1/apps/shop/retained", as(key)).refused(http.StatusUnauthorized, "bad_credentials")
	require.Equal(t, `[]`, string(s.get("/v1/apps/shop/rules").want(http.StatusOK).body))
}

func TestListApps(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	want := []any{"other", "shop"}
	for i := range 9 {
		id := fmt.Sprintf("a-%d", i)
		s.post("/v1/apps", object{"id": id}).want(http.StatusCreated)
		want = append(want[:i], append([]any{id}, want[i:]...)...)
	}
	for _, limit := range []int{1, 2, 3, 10, 11, 12, 1000} {
		require.Equal(t, want, s.items("/v1/apps", limit, "id"), "limit %d", limit)
	}
	// A cursor stays good while what it names goes and others come.
	first := s.get("/v1/apps?limit=3").want(http.StatusOK).text("next_cursor")
	s.del("/v1/apps/a-2?confirm=a-2").want(http.StatusNoContent)
	s.post("/v1/apps", object{"id": "a-21"}).want(http.StatusCreated)
	next := s.get("/v1/apps?limit=1&cursor=" + first).want(http.StatusOK)
	require.Contains(t, string(next.body), `"id":"a-21"`)
}

// TestListQueries: limit and cursor are judged alike by every list.
func TestListQueries(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	lists := 0
	for _, op := range documented().operations {
		if op.method != http.MethodGet || !strings.Contains(fmt.Sprint(op.raw["parameters"]), "cursor") {
			continue
		}
		lists++
		path := strings.ReplaceAll(op.path, "{app}", "shop")
		for _, limit := range []string{"1", "50", "1000", ""} {
			a := s.get(path + "?limit=" + limit).want(http.StatusOK)
			require.Contains(t, string(a.body), `"items":[`)
		}
		for _, limit := range []string{"0", "-1", "1001", "x", "1.5", "99999999999999999999"} {
			s.get(path + "?limit=" + limit).invalid("query.limit")
		}
		for _, cursor := range []string{"x", "%21", "garbage", "AAAA", "MQ%3D%3D", strings.Repeat("A", 2000)} {
			a := s.get(path + "?cursor=" + cursor)
			a.invalid("query.cursor")
		}
		s.get(path + "?limit=0&cursor=x").invalid("query.limit")
	}
	require.Equal(t, 7, lists)
}

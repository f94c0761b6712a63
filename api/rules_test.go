package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

func TestRules(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const path = "/v1/apps/shop/rules"
	a := s.get(path).want(http.StatusOK)
	require.Equal(t, `[]`, string(a.body))
	require.Equal(t, `"1"`, a.header.Get("ETag"))

	list := `[{"effect":"allow","actions":["publish","subscribe"],"topic":"a/${sub}/#","until":"2099-01-01T01:00:00+01:00"},{"effect":"deny","actions":["share"],"topic":"b"}]`
	want := `[{"effect":"allow","actions":["publish","subscribe"],"topic":"a/${sub}/#","until":"2099-01-01T00:00:00Z"},{"effect":"deny","actions":["share"],"topic":"b"}]`
	a = s.put(path, list).want(http.StatusOK)
	require.Equal(t, want, string(a.body), "times are in UTC")
	require.Equal(t, `"2"`, a.header.Get("ETag"))
	a = s.get(path).want(http.StatusOK)
	require.Equal(t, want, string(a.body))
	require.Equal(t, `"2"`, a.header.Get("ETag"))

	for tag, status := range map[string]int{
		`"1"`: 412, `"3"`: 412, `2`: 412, `W/"2"`: 412, `"garbage"`: 412, `garbage`: 412, `"02"`: 412, `"1", "3"`: 412, `""`: 412,
	} {
		s.put(path, []object{}, header("If-Match", tag)).want(status)
	}
	s.put(path, []object{}, header("If-Match", `"1"`)).refused(http.StatusPreconditionFailed, "changed")
	version := 2
	for _, tag := range []string{`"2"`, `"1", "3"`, ` "4" `, `*`} {
		a = s.put(path, list, header("If-Match", tag)).want(http.StatusOK)
		version++
		require.Equal(t, `"`+string(rune('0'+version))+`"`, a.header.Get("ETag"))
	}

	require.Equal(t, []any{6.0, 5.0, 4.0, 3.0, 2.0, 1.0}, s.items(path+"/versions", 2, "version"), "newest first")
	require.Equal(t, []any{"admin", "admin", "admin", "admin", "admin", "admin"}, s.items(path+"/versions", 100, "actor"))
	versions := s.get(path + "/versions?limit=1").want(http.StatusOK)
	require.Contains(t, string(versions.body), `"rules":`+want)
}

// TestRulesRefused tells everything that is wrong, at its place, once.
func TestRulesRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const path = "/v1/apps/shop/rules"
	a := s.put(path, `[{"effect":"permit","actions":["read"],"topic":"a/#/b","when":"true","who":"me"},{"effect":"allow","actions":["publish"],"topic":"a"},{},7]`)
	a.invalid("/0/who", "/0/effect", "/0/actions/0", "/0/when", "/0/topic", "/2/effect", "/2/actions", "/2/topic", "/3")
	require.Equal(t, "conditions are not built yet: a rule with one is refused", a.problem().Errors[3].Message)
	s.put(path, `{}`).invalid("")
	s.put(path, `null`).invalid("")
	s.put(path, `{"rules":[]}`).invalid("")
	s.put(path, `[`).refused(http.StatusBadRequest, "malformed")
	s.put(path, "["+strings.Repeat(`{},`, 10_000)+"{}]").invalid("")
	require.Equal(t, `"1"`, s.get(path).header.Get("ETag"), "nothing was stored")
	s.put(path, `[`+strings.Repeat(" ", 1<<20)+`]`).want(http.StatusRequestEntityTooLarge)
}

// TestRulesActOnLiveConnections within a second.
func TestRulesActOnLiveConnections(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("#", "publish", "subscribe"))
	c := s.client("shop", "c1", s.token("shop", object{"sub": "alice"}))
	require.Equal(t, packet.Success, c.Subscribe("a", 0))
	s.post("/v1/apps/shop/publish", object{"topic": "a", "payload": "1"}).want(http.StatusOK)
	c.ExpectMessage("a", "1")
	s.rules("shop", allow("b", "publish"))
	s.post("/v1/apps/shop/publish", object{"topic": "a", "payload": "2"}).want(http.StatusOK)
	c.ExpectNothing()
	s.rules("shop", allow("a", "subscribe"))
	s.post("/v1/apps/shop/publish", object{"topic": "a", "payload": "3"}).want(http.StatusOK)
	c.ExpectMessage("a", "3")
}

package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

const clientsPath = "/v1/apps/shop/clients"

func TestClients(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("#", "publish", "subscribe", "share"))
	token := s.token("shop", object{"sub": "alice"})
	c := s.client("shop", "phone", token)
	require.Equal(t, packet.GrantedQoS1, c.Subscribe("b", 1, func(sub *packet.Subscription) { sub.NoLocal, sub.RetainHandling = true, 2 }))
	require.Equal(t, packet.Success, c.Subscribe("a/+", 0))
	other := s.client("other", "phone", s.token("other", object{"sub": "bob"}))

	a := s.get(clientsPath + "/phone").want(http.StatusOK)
	o := a.object()
	require.Equal(t, "phone", o["client_id"])
	require.Equal(t, "alice", o["sub"])
	require.Equal(t, true, o["connected"])
	require.Equal(t, "5.0", o["protocol"])
	require.Equal(t, "tcp", o["transport"])
	require.Contains(t, o["remote"], "127.0.0.1:")
	require.EqualValues(t, 2, o["subscription_count"])
	require.Nil(t, o["ended_at"])
	require.Contains(t, string(a.body), `"subscriptions":[{"filter":"a/+","qos":0,"no_local":false,"retain_as_published":false,"retain_handling":0,"suspended":false},`+
		`{"filter":"b","qos":1,"no_local":true,"retain_as_published":false,"retain_handling":2,"suspended":false}]`)
	require.NotContains(t, string(s.get(clientsPath).body), `"subscriptions"`)

	s.rules("shop", allow("b", "subscribe"))
	s.eventually(func() bool {
		return string(s.get(clientsPath+"/phone").body) != "" && s.get(clientsPath + "/phone").object()["subscriptions"].([]any)[0].(map[string]any)["suspended"] == true //nolint:errcheck // it panics
	}, "the subscription to a/+ is suspended")

	require.Empty(t, s.del(clientsPath+"/phone").want(http.StatusNoContent).body)
	c.ExpectEnd(packet.AdministrativeAction)
	s.get(clientsPath+"/phone").refused(http.StatusNotFound, "no_such_client")
	s.del(clientsPath+"/phone").refused(http.StatusNotFound, "no_such_client")
	s.del(clientsPath + "/phone?session=maybe").invalid("query.session")
	other.ExpectNothing()
	s.client("shop", "phone", token).ExpectNothing() // it may come back
}

// TestClientIDsInPaths are percent-decoded once.
func TestClientIDsInPaths(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token("shop", object{"sub": "alice"})
	for _, id := range []string{"a/b", "a%2Fb", "a b", "ü", "a?b", "a&b=c", "a+b", "...", "%", "a;b", "日本"} {
		c := s.client("shop", id, token)
		a := s.get(clientsPath + "/" + url.PathEscape(id)).want(http.StatusOK)
		require.Equal(t, id, a.text("client_id"))
		s.del(clientsPath + "/" + url.PathEscape(id)).want(http.StatusNoContent)
		c.ExpectEnd(packet.AdministrativeAction)
	}
	c := s.client("shop", "a%2Fb", token)
	s.get(clientsPath+"/a%2Fb").refused(http.StatusNotFound, "no_such_client")
	s.get(clientsPath + "/a%252Fb").want(http.StatusOK)
	c.ExpectNothing()
	for _, bad := range []string{"%", "%zz", "a%2"} {
		s.get(clientsPath+"/"+bad).refused(http.StatusBadRequest, "malformed")
	}
}

func TestListClients(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token("shop", object{"sub": "alice"})
	var want []any
	for i := range 7 {
		id := fmt.Sprintf("c/%d", i)
		want = append(want, id)
		s.client("shop", id, token)
	}
	for _, limit := range []int{1, 3, 7, 8} {
		require.Equal(t, want, s.items(clientsPath, limit, "client_id"), "limit %d", limit)
	}
}

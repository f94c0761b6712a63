package api_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

func TestStats(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const path = "/v1/apps/shop/stats"
	s.post(publishPath, []object{{"topic": "a", "payload": "12345", "retain": true}, {"topic": "b", "payload": "1"}}).want(http.StatusOK)
	s.post(publishPath, object{"topic": "a", "payload": "x"}, as(s.token("shop", object{"sub": "alice"}))).want(http.StatusForbidden)
	s.client("shop", "c1", s.token("shop", object{"sub": "alice"}))
	o := s.get(path).want(http.StatusOK).object()
	require.EqualValues(t, 1, o["connections"])
	require.EqualValues(t, 1, o["sessions"])
	require.EqualValues(t, 0, o["subscriptions"])
	require.EqualValues(t, 1, o["retained"])
	require.EqualValues(t, 6, o["retained_bytes"])
	require.EqualValues(t, 1, o["seq"])
	require.Equal(t, map[string]any{"messages_in": 2.0, "messages_out": 0.0, "bytes_in": 6.0, "bytes_out": 0.0, "dropped": 0.0, "denied": 1.0}, o["total"])
	require.NotNil(t, o["minutes"])
	require.NotNil(t, o["window"])
	require.EqualValues(t, 0, s.get("/v1/apps/other/stats").object()["retained"])
	for _, window := range []string{"60", "3600", "600"} {
		s.get(path + "?window=" + window).want(http.StatusOK)
	}
	for _, window := range []string{"59", "3601", "x", "-1"} {
		s.get(path + "?window=" + window).invalid("query.window")
	}
}

// TestAudit: every change of the control plane, who made it, before and after, without secrets.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id, value := s.key("shop", object{"kind": "secret", "name": "boss", "scopes": []string{"manage"}})
	before := len(s.items("/v1/audit", 1000, "id"))
	s.patch("/v1/apps/shop", object{"name": "Shop", "settings": object{"anonymous": true}}).want(http.StatusOK)
	key, _ := s.key("shop", object{"kind": "signing", "name": "second", "secret": "a secret of one's own, long enough"})
	s.hide("a secret of one's own, long enough")
	s.put("/v1/apps/shop/rules", []object{allow("a", "publish")}, as(value)).want(http.StatusOK)
	s.token("shop", object{"sub": "alice"})
	s.token("shop", object{"sub": "tool", "ttl": 60, "bypass_rules": true})
	s.del("/v1/apps/shop/keys/"+key, as(value)).want(http.StatusNoContent)
	s.del("/v1/apps/other?confirm=other").want(http.StatusNoContent)
	// What is refused, or changes nothing, is no change.
	s.patch("/v1/apps/shop", object{"name": ""}).want(http.StatusUnprocessableEntity)
	s.get("/v1/apps/shop/rules").want(http.StatusOK)

	var all struct{ Items []object }
	a := s.get(fmt.Sprintf("/v1/audit?limit=%d", len(s.items("/v1/audit", 1000, "id"))-before)).want(http.StatusOK)
	a.into(&all)
	var got []string
	for _, item := range all.Items {
		got = append(got, fmt.Sprint(item["actor"], " ", item["action"], " ", item["app"], " ", item["target"]))
	}
	boss := "key:boss (" + id + ")"
	require.Equal(t, []string{
		"admin app.delete other other", boss + " key.delete shop " + key, "admin token.bypass shop tool", boss + " rules.put shop 2",
		"admin key.create shop " + key, "admin app.update shop shop",
	}, got, "newest first")
	require.Equal(t, map[string]any{"name": "shop", "settings": map[string]any{}}, all.Items[5]["before"])
	require.Equal(t, map[string]any{"name": "Shop", "settings": map[string]any{"anonymous": true}}, all.Items[5]["after"])
	require.Nil(t, all.Items[4]["before"])

	ids := s.items("/v1/audit", 1000, "id")
	require.Equal(t, ids, s.items("/v1/audit", 2, "id"), "page by page")
	ofShop := s.items("/v1/apps/shop/audit", 2, "app")
	require.Len(t, ofShop, 7)
	for _, app := range ofShop {
		require.Equal(t, "shop", app)
	}
	s.get("/v1/apps/other/audit").want(http.StatusNotFound)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		a := s.get(path, nobody).want(http.StatusOK)
		require.JSONEq(t, `{"status":"ok"}`, string(a.body))
		require.Empty(t, s.do(http.MethodHead, path, nil, nobody).want(http.StatusOK).body)
		require.Equal(t, "GET, HEAD", s.post(path, object{}).want(http.StatusMethodNotAllowed).header.Get("Allow"))
	}
	s.store.away.Store(true)
	s.get("/healthz", nobody).want(http.StatusOK)
	s.get("/readyz", nobody).refused(http.StatusServiceUnavailable, "not_ready")
	s.do(http.MethodHead, "/readyz", nil, nobody).want(http.StatusServiceUnavailable)
}

func TestServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	o := s.get("/v1/server").want(http.StatusOK).object()
	require.Equal(t, "test", o["version"])
	require.Equal(t, map[string]any{"kind": "sqlite", "version": "3"}, o["store"])
	require.Equal(t, true, o["healthy"])
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, credential := range []string{metricsToken, adminToken} {
		a := s.get("/metrics", as(credential)).want(http.StatusOK)
		require.Equal(t, "embercast_up 1\n", string(a.body))
		s.do(http.MethodHead, "/metrics", nil, as(credential)).want(http.StatusOK)
	}
	for _, o := range []option{nobody, as("x"), as(metricsToken + "x"), header("Authorization", metricsToken), header("Authorization", "Basic "+metricsToken)} {
		s.get("/metrics", o).refused(http.StatusUnauthorized, "bad_credentials")
	}
	s.get("/metrics?token="+metricsToken, nobody).want(http.StatusUnauthorized)
	s.post("/metrics", object{}, as(metricsToken)).want(http.StatusMethodNotAllowed)
}

// TestStoreAway: what needs the database is told 503 and when to come again; nothing is said of the database.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id, value := s.key("shop", object{"kind": "secret", "scopes": []string{"publish", "data", "tokens", "clients", "read", "manage"}})
	s.post(publishPath, object{"topic": "a", "payload": "x", "retain": true}).want(http.StatusOK)
	s.store.away.Store(true)
	for _, a := range []*answer{
		s.post("/v1/apps", object{"id": "new"}),
		s.patch("/v1/apps/shop", object{"name": "x"}),
		s.del("/v1/apps/shop?confirm=shop"),
		s.post("/v1/apps/shop/keys", object{"kind": "secret", "name": "x"}),
		s.del("/v1/apps/shop/keys/" + id),
		s.put("/v1/apps/shop/rules", []object{}),
		s.get("/v1/apps/shop/rules/versions"),
		s.get("/v1/audit"),
		s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60, "bypass_rules": true}),
		s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60}, header("Idempotency-Key", "k")),
		s.post(publishPath, object{"topic": "b", "payload": "x", "retain": true}),
		s.del("/v1/apps/shop/retained?topic=a"),
	} {
		a.refused(http.StatusServiceUnavailable, "store_unavailable")
		require.Equal(t, "1", a.header.Get("Retry-After"))
	}
	// What memory holds is served.
	for _, a := range []*answer{
		s.get("/v1/apps"), s.get("/v1/apps/shop/keys"), s.get("/v1/apps/shop/rules"), s.get("/v1/apps/shop/retained", as(value)),
		s.get("/v1/apps/shop/stats"), s.get("/v1/apps/shop/clients"), s.post(publishPath, object{"topic": "live", "payload": "x"}, as(value)),
	} {
		a.want(http.StatusOK)
	}
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60}).want(http.StatusCreated)
	s.store.away.Store(false)
	s.post(publishPath, object{"topic": "b", "payload": "x", "retain": true}).want(http.StatusOK)
	s.get("/v1/apps/shop").want(http.StatusOK)
	s.get("/v1/apps/new").want(http.StatusNotFound)
}

// TestUnknownOutcome: what was committed although it failed reaches live connections without anybody asking.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id, value := s.key("shop", object{"kind": "secret"})
	c := s.client("shop", "c1", value)
	s.store.losing.Store(true)
	s.del("/v1/apps/shop/keys/"+id).refused(http.StatusServiceUnavailable, "store_unavailable")
	c.ExpectEnd(packet.NotAuthorized)
	s.get("/v1/apps/shop/stats", as(value)).refused(http.StatusUnauthorized, "bad_credentials")

	s.del("/v1/apps/other?confirm=other").refused(http.StatusServiceUnavailable, "store_unavailable")
	s.eventually(func() bool { return s.get("/v1/apps/other").status == http.StatusNotFound }, "the app is gone")
	s.post("/v1/apps", object{"id": "other"}).want(http.StatusCreated)
}

// TestAppNotDeleted: an app that could not be deleted serves again when the database is back.
func TestAppNotDeleted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.post(publishPath, object{"topic": "a", "payload": "x", "retain": true}).want(http.StatusOK)
	s.store.away.Store(true)
	s.del("/v1/apps/shop?confirm=shop").refused(http.StatusServiceUnavailable, "store_unavailable")
	s.store.away.Store(false)
	s.eventually(func() bool { return s.post(publishPath, object{"topic": "b"}).status == http.StatusOK }, "the app is open")
	require.Equal(t, []any{"a"}, s.items(retainedPath, 10, "topic"))
}

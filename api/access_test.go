package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who reaches an operation, by CONTRACT section 3. Everybody else who is known is told 403.
const (
	everybody = "everybody"
	admin     = "admin"
	metrics   = "metrics"
)

// cell is an operation as each credential calls it: a harmless request, and what comes back to who reaches it.
type row struct {
	reach   string // admin, the scope of secret keys, device, client, anonymous, publishable
	path    string
	body    any
	reached int
	rest    string // of the reach in the document's words: x-embercast-access
}

// rows has a row for every operation; {app} is the app's id. The requests change nothing that another cell needs: what
// deletes names what is not there, or leaves its confirmation out.
var rows = map[string]row{
	"create-app": {admin, "/v1/apps", object{"id": "Not Valid"}, 422, "admin token"},
	"list-apps":  {admin, "/v1/apps", nil, 200, "admin token"},
	"get-app":    {admin, "/v1/apps/{app}", nil, 200, "admin token"},
	"update-app": {admin, "/v1/apps/{app}", object{}, 200, "admin token"},
	"delete-app": {admin, "/v1/apps/{app}", nil, 422, "admin token"},

	"create-key": {"admin manage", "/v1/apps/{app}/keys", object{"kind": "x", "name": "x"}, 422, "admin token, secret key with scope manage"},
	"list-keys":  {"admin manage", "/v1/apps/{app}/keys", nil, 200, "admin token, secret key with scope manage"},
	"delete-key": {"admin manage", "/v1/apps/{app}/keys/nothing", nil, 404, "admin token, secret key with scope manage"},

	"create-token":           {"admin tokens", "/v1/apps/{app}/tokens", object{"sub": "alice", "ttl": 60}, 201, "admin token, secret key with scope tokens"},
	"create-anonymous-token": {"publishable", "/v1/apps/{app}/tokens/anonymous", nil, 201, "publishable key"},

	"get-rules":           {"admin manage", "/v1/apps/{app}/rules", nil, 200, "admin token, secret key with scope manage"},
	"put-rules":           {"admin manage", "/v1/apps/{app}/rules", []object{allow("open", "publish")}, 200, "admin token, secret key with scope manage"},
	"list-rules-versions": {"admin manage", "/v1/apps/{app}/rules/versions", nil, 200, "admin token, secret key with scope manage"},

	"publish": {
		reach: "admin publish device client anonymous", path: "/v1/apps/{app}/publish", body: object{"topic": "open", "payload": "x"}, reached: 200,
		rest: "admin token, secret key with scope publish, device key under the rules, client token under the rules, no credential, under the rules, where the app's setting anonymous is true",
	},
	"list-retained":  {"admin data", "/v1/apps/{app}/retained", nil, 200, "admin token, secret key with scope data"},
	"clear-retained": {"admin data", "/v1/apps/{app}/retained?topic=nothing", nil, 204, "admin token, secret key with scope data"},

	"list-clients": {"admin clients", "/v1/apps/{app}/clients", nil, 200, "admin token, secret key with scope clients"},
	"get-client":   {"admin clients", "/v1/apps/{app}/clients/nobody", nil, 404, "admin token, secret key with scope clients"},
	"kick-client":  {"admin clients", "/v1/apps/{app}/clients/nobody", nil, 404, "admin token, secret key with scope clients"},

	"get-stats":      {"admin read", "/v1/apps/{app}/stats", nil, 200, "admin token, secret key with scope read"},
	"list-app-audit": {admin, "/v1/apps/{app}/audit", nil, 200, "admin token"},
	"list-audit":     {admin, "/v1/audit", nil, 200, "admin token"},
	"get-server":     {admin, "/v1/server", nil, 200, "admin token"},

	"healthz": {everybody, "/healthz", nil, 200, "none"},
	"readyz":  {everybody, "/readyz", nil, 200, "none"},
	"metrics": {admin + " " + metrics, "/metrics", nil, 200, "admin token, metrics token"},
}

// caller is a column of the table: a credential of the app "shop" and how it is shown.
type caller struct {
	kind string // as in row.reach; "" reaches nothing
	how  option
	url  string // what is added to the path
	// unknown: the credential is none, or not valid.
	unknown bool
	code    string // of the 401, when unknown
}

func callers(s *server) map[string]caller {
	_, device := s.key("shop", object{"kind": "device"})
	_, page := s.key("shop", object{"kind": "publishable"})
	_, signing := s.key("shop", object{"kind": "signing"})
	gone, goneValue := s.key("shop", object{"kind": "secret", "scopes": []string{"publish", "data", "tokens", "clients", "read", "manage"}})
	s.del("/v1/apps/shop/keys/" + gone).want(http.StatusNoContent)
	_, full := s.key("shop", object{"kind": "secret", "scopes": []string{"publish", "data", "tokens", "clients", "read", "manage"}})
	_, usual := s.key("shop", object{"kind": "secret"})
	token := s.token("shop", object{"sub": "alice"})
	all := map[string]caller{
		"admin":                 {kind: admin, how: as(adminToken)},
		"admin_in_lower_case":   {kind: admin, how: header("Authorization", "bearer  "+adminToken)},
		"metrics":               {kind: metrics, how: as(metricsToken), unknown: true, code: "bad_credentials"},
		"secret_with_all":       {kind: "publish data tokens clients read manage", how: as(full)},
		"secret_as_usual":       {kind: "publish data tokens clients read", how: as(usual)},
		"device":                {kind: "device", how: as(device)},
		"client":                {kind: "client", how: as(token)},
		"client_in_auth":        {kind: "client", how: nobody, url: "auth=" + token},
		"client_in_token":       {kind: "client", how: nobody, url: "token=" + token},
		"publishable":           {kind: "publishable", how: as(page)},
		"none":                  {how: nobody, unknown: true, code: "no_credentials"},
		"secret_in_auth":        {how: nobody, url: "auth=" + full, unknown: true, code: "key_in_url"},
		"secret_in_token":       {how: nobody, url: "token=" + full, unknown: true, code: "key_in_url"},
		"device_in_auth":        {how: nobody, url: "auth=" + device, unknown: true, code: "key_in_url"},
		"publishable_in_auth":   {how: nobody, url: "auth=" + page, unknown: true, code: "key_in_url"},
		"admin_in_auth":         {how: nobody, url: "auth=" + adminToken, unknown: true, code: "key_in_url"},
		"secret_beside_token":   {how: nobody, url: "auth=" + token + "&token=" + full, unknown: true, code: "key_in_url"},
		"secret_after_token":    {how: nobody, url: "token=" + token + "&token=" + full, unknown: true, code: "key_in_url"},
		"secret_beside_admin":   {how: as(adminToken), url: "auth=" + full, unknown: true, code: "key_in_url"},
		"garbage":               {how: as("garbage"), unknown: true, code: "bad_credentials"},
		"garbage_of_the_form":   {how: as("ek_aaaaaaaaaaaaaaaa_garbagegarbage"), unknown: true, code: "bad_credentials"},
		"garbage_token":         {how: as("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."), unknown: true, code: "bad_credentials"},
		"garbage_token_in_auth": {how: nobody, url: "auth=eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", unknown: true, code: "bad_credentials"},
		"signing_key":           {how: as(signing), unknown: true, code: "bad_credentials"},
		"deleted_key":           {how: as(goneValue), unknown: true, code: "bad_credentials"},
		"basic":                 {how: header("Authorization", "Basic YWRtaW46eA=="), unknown: true, code: "bad_credentials"},
		"bearer_of_nothing":     {how: header("Authorization", "Bearer "), unknown: true, code: "bad_credentials"},
	}
	for _, scope := range []string{"publish", "data", "tokens", "clients", "read", "manage"} {
		_, value := s.key("shop", object{"kind": "secret", "scopes": []string{scope}})
		all["secret_with_"+scope] = caller{kind: scope, how: as(value)}
	}
	return all
}

// reaches compares by hand what the contract says.
func (c caller) reaches(reach string) bool {
	for kind := range strings.FieldsSeq(c.kind) {
		if slices.Contains(strings.Fields(reach), kind) {
			return true
		}
	}
	return false
}

// TestAccess is the table of credentials and operations, cell by cell: in the credential's own app, against another
// app, and against an app that does not exist.
func TestAccess(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, app := range []string{"shop", "other"} {
		s.rules(app, allow("open", "publish"))
	}
	all := callers(s)
	for _, op := range documented().operations {
		row, ok := rows[op.id]
		require.True(t, ok, "the operation %s has no row: say who reaches it", op.id)
		require.Equal(t, row.rest, strings.Join(op.access, ", "), "what the document says of %s", op.id)
		for name, c := range all {
			t.Run(op.id+"/"+name, func(t *testing.T) {
				s := s.in(t)
				for _, app := range []string{"shop", "other", "nowhere"} {
					if app != "shop" && !strings.Contains(row.path, "{app}") {
						continue
					}
					path := strings.ReplaceAll(row.path, "{app}", app)
					if c.url != "" {
						path = strings.Replace(path+map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]+c.url, "??", "?", 1)
					}
					a := s.do(op.method, path, row.body, c.how, showing)
					status, why := expected(row, c, app)
					require.Equal(t, status, a.status, "%s: %s: %s", path, why, a.body)
					switch {
					case row.reach == everybody || strings.Contains(row.reach, metrics):
					case status == http.StatusUnauthorized:
						require.Equal(t, c.code, a.problem().Code, "%s: %s", path, a.body)
					case status == http.StatusNotFound && why == otherTenant:
						require.Equal(t, "There is no such app.", a.problem().Detail, path)
					case status == http.StatusNotFound:
						require.NotEqual(t, "There is no such app.", a.problem().Detail, path)
					case status == http.StatusForbidden:
						require.Equal(t, "not_allowed", a.problem().Code, path)
					}
				}
			})
		}
	}
	for id := range rows {
		require.True(t, slices.ContainsFunc(documented().operations, func(op operation) bool { return op.id == id }), "there is no operation %s", id)
	}
}

const otherTenant = "another tenant's thing"

// expected is CONTRACT section 3: "401 without valid credentials, 403 when they do not suffice, 404 for another tenant's
// things".
func expected(r row, c caller, app string) (status int, why string) {
	ofApp := strings.Contains(r.path, "{app}")
	isAdmin := c.kind == admin
	switch {
	case r.reach == everybody:
		return r.reached, "everybody"
	case strings.Contains(r.reach, metrics): // it looks at the header alone
		if shown := c.header(); shown == adminToken || shown == metricsToken {
			return r.reached, "metrics"
		}
		return http.StatusUnauthorized, "metrics"
	case c.unknown:
		return http.StatusUnauthorized, "not known"
	case ofApp && (app == "nowhere" || app == "other" && !isAdmin):
		return http.StatusNotFound, otherTenant
	case c.reaches(r.reach):
		return r.reached, "reached"
	}
	return http.StatusForbidden, "known, and not enough"
}

// header is the bearer credential in the caller's header.
func (c caller) header() string {
	r := &http.Request{Header: http.Header{}}
	c.how(r)
	_, credential, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(credential)
}

// TestAnonymousAccess: where an app allows anonymous clients, no credential reaches what stands under the rules.
func TestAnonymousAccess(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("open", "publish"))
	s.patch("/v1/apps/shop", object{"settings": object{"anonymous": true}}).want(http.StatusOK)
	for _, op := range documented().operations {
		row := rows[op.id]
		if row.reach == everybody {
			continue
		}
		a := s.do(op.method, strings.ReplaceAll(row.path, "{app}", "shop"), row.body, nobody)
		if strings.Contains(row.reach, "anonymous") {
			a.want(row.reached)
			continue
		}
		a.want(http.StatusUnauthorized)
	}
	s.post("/v1/apps/shop/publish", object{"topic": "closed"}, nobody).refused(http.StatusForbidden, "not_authorized")
	s.post("/v1/apps/shop/publish", object{"topic": "open"}, as("garbage")).refused(http.StatusUnauthorized, "bad_credentials")
	s.post("/v1/apps/other/publish", object{"topic": "open"}, nobody).refused(http.StatusUnauthorized, "no_credentials")
	s.post("/v1/apps/nowhere/publish", object{"topic": "open"}, nobody).refused(http.StatusUnauthorized, "no_credentials")
}

// TestUnderTheRules: devices and clients publish by REST what they may publish by MQTT.
func TestUnderTheRules(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.rules("shop", allow("from/${sub}", "publish"), allow("by/${client_id}", "publish"), deny("from/device:mute", "publish"))
	_, lamp := s.key("shop", object{"kind": "device", "name": "lamp", "client_id": "lamp-1", "rules": []object{allow("own", "publish")}})
	_, mute := s.key("shop", object{"kind": "device", "name": "mute"})
	_, backend := s.key("shop", object{"kind": "secret"})
	alice := s.token("shop", object{"sub": "alice"})
	limited := s.token("shop", object{"sub": "bob", "acl": []object{deny("from/bob", "publish"), allow("acl", "publish")}})
	tool := s.token("shop", object{"sub": "tool", "bypass_rules": true, "ttl": 60})
	for name, c := range map[string]struct {
		credential, topic string
		want              int
	}{
		"device":                     {lamp, "from/device:lamp", 200},
		"device_by_its_client_id":    {lamp, "by/lamp-1", 200},
		"device_by_its_own_rules":    {lamp, "own", 200},
		"device_elsewhere":           {lamp, "from/alice", 403},
		"device_denied":              {mute, "from/device:mute", 403},
		"client":                     {alice, "from/alice", 200},
		"client_elsewhere":           {alice, "from/bob", 403},
		"client_without_a_client_id": {alice, "by/alice", 403},
		"client_denied_by_its_acl":   {limited, "from/bob", 403},
		"client_allowed_by_its_acl":  {limited, "acl", 200},
		"secret_key_is_above":        {backend, "anything", 200},
		"bypass_is_above":            {tool, "anything", 200},
		"admin_is_above":             {adminToken, "anything", 200},
		"nobody_publishes_to_dollar": {adminToken, "$SYS/x", 403},
	} {
		a := s.post("/v1/apps/shop/publish", object{"topic": c.topic, "payload": "x"}, as(c.credential))
		require.Equal(t, c.want, a.status, "%s: %s", name, a.body)
	}
}

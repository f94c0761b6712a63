package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/api"
)

// TestBodies: what is no JSON is malformed, before its members are looked at, and after the caller is known.
func TestBodies(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	contentType := func(v string) option { return header("Content-Type", v) }
	bodies := 0
	for _, op := range documented().operations {
		if op.raw["requestBody"] == nil {
			continue
		}
		bodies++
		path := strings.ReplaceAll(op.path, "{app}", "shop")
		who := as(adminToken)
		if op.id == "create-anonymous-token" {
			_, key := s.key("shop", object{"kind": "publishable"})
			who = as(key)
		} else {
			s.do(op.method, path, "", who).refused(http.StatusBadRequest, "malformed")
		}
		for _, body := range []string{`{`, `{"a":1,}`, `{"a":1} x`, `{'a':1}`, `x`, "\xff", "{\"a\":\"\xff\"}", `{"a":01}`, "\ufeff{}", `{"a":"` + "\n" + `"}`} {
			a := s.do(op.method, path, body, who).refused(http.StatusBadRequest, "malformed")
			require.NotEmpty(t, a.problem().Detail)
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "garbage", "application/cbor"} {
			a := s.do(op.method, path, `{}`, who, contentType(kind)).refused(http.StatusUnsupportedMediaType, "not_json")
			require.Contains(t, a.problem().Detail, "Content-Type: application/json")
		}
		s.do(op.method, path, `{}`, who, header("Content-Encoding", "gzip")).refused(http.StatusUnsupportedMediaType, "encoded")
		size := 1 << 20
		if op.id == "publish" {
			size = 16 << 20
		}
		large := `{"a":"` + strings.Repeat("x", size) + `"}`
		s.do(op.method, path, large, who).refused(http.StatusRequestEntityTooLarge, "body_too_large")
		s.do(op.method, path, large, as("garbage")).refused(http.StatusUnauthorized, "bad_credentials")
		s.do(op.method, path, `{`, as("garbage")).refused(http.StatusUnauthorized, "bad_credentials")
		s.do(op.method, path, `{`, nobody).refused(http.StatusUnauthorized, "no_credentials")
	}
	require.Equal(t, 7, bodies)
	require.Contains(t, s.post("/v1/apps", `{"id" "x"}`).problem().Detail, "at byte 7")
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON", "application/problem+json", ""} {
		s.patch("/v1/apps/shop", object{}, contentType(kind)).want(http.StatusOK)
	}
}

// TestLargeBodiesOfStrangers are not read.
func TestLargeBodiesOfStrangers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.base, "http://"))
	require.NoError(t, err)
	defer c.Close() //nolint:errcheck // of a test
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(c, "POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", 1<<40, strings.Repeat("x", 16<<10))
	require.NoError(t, err)
	status, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, status, "401", "when a few kilobytes have arrived")
}

func TestPaths(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{
		"/v1", "/v1/", "/v1/apps/", "/v1/apps/shop/", "/v1/apps/shop/keys/", "/v1/apps/shop/clients/", "/v1/nothing", "/v1/apps/shop/nothing", "/v1//apps",
		"/V1/apps", "/v1/Apps", "/v1/apps/shop/keys/x/y", "/healthz/", "/v1/apps/../apps", "/v1/./apps", "/v1/apps/shop%2Fkeys", "/v2/apps",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			a := s.do(method, path, nil)
			if a.status == http.StatusMethodNotAllowed { // one segment that holds a slash
				require.Contains(t, path, "%2F", a.what)
				continue
			}
			require.Equal(t, http.StatusNotFound, a.status, "%s: %s", a.what, a.body)
		}
	}
	// Other methods of what is there.
	for path, allow := range map[string]string{
		"/v1/apps": "GET, HEAD, POST", "/v1/apps/shop": "GET, HEAD, PATCH, DELETE", "/v1/apps/shop/keys/x": "DELETE", "/v1/apps/shop/tokens": "POST",
		"/v1/apps/shop/rules": "GET, HEAD, PUT", "/v1/apps/shop/clients/a%2Fb": "GET, HEAD, DELETE", "/v1/audit": "GET, HEAD", "/docs": "GET, HEAD",
	} {
		for _, method := range []string{http.MethodOptions, "TRACE"} {
			a := s.do(method, path, nil, nobody).want(http.StatusMethodNotAllowed)
			require.Equal(t, allow, a.header.Get("Allow"), path)
			require.Contains(t, a.problem().Detail, allow)
		}
	}
	s.get("/v1/apps/%73hop/stats").want(http.StatusOK)
	s.get("/v1/apps/shop%00/stats").want(http.StatusNotFound)
	s.get("/v1/apps/..%2Fshop").want(http.StatusNotFound)
	s.get("/v1/apps/%zz").refused(http.StatusBadRequest, "malformed")
}

// TestIdempotency: a POST with a key happens once; a repetition gets the same answer.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	key := func(v string) option { return header("Idempotency-Key", v) }
	_, page := s.key("shop", object{"kind": "publishable"})
	posts := 0
	for _, op := range documented().operations {
		if op.method != http.MethodPost {
			continue
		}
		posts++
		require.Contains(t, fmt.Sprint(op.raw["parameters"]), "Idempotency-Key", op.id)
		path := strings.ReplaceAll(op.path, "{app}", "shop")
		body, another, who := object{"topic": "a", "payload": "x", "retain": true}, object{"topic": "b"}, as(adminToken)
		switch op.id {
		case "create-app":
			body, another = object{"id": "new"}, object{"id": "newer"}
		case "create-key":
			body, another = object{"kind": "secret", "name": "x"}, object{"kind": "secret", "name": "y"}
		case "create-token":
			body, another = object{"sub": "a", "ttl": 60}, object{"sub": "b", "ttl": 60}
		case "create-anonymous-token":
			body, another, who = object{}, object{"token": ""}, as(page)
		}
		first := s.post(path, body, key(op.id), who, showing)
		require.Less(t, first.status, 300, "%s: %s", op.id, first.body)
		require.Empty(t, first.header.Get("Idempotency-Replayed"))
		again := s.post(path, body, key(op.id), who, showing).want(first.status)
		require.Equal(t, "true", again.header.Get("Idempotency-Replayed"), op.id)
		require.Equal(t, string(first.body), string(again.body), op.id)
		for _, name := range []string{"Content-Type", "Location", "Cache-Control"} {
			require.Equal(t, first.header.Get(name), again.header.Get(name), "%s: %s", op.id, name)
		}
		s.post(path, another, key(op.id), who).invalid("header.Idempotency-Key")
		fresh := s.post(path, body, key(op.id+" 2"), who, showing)
		require.Empty(t, fresh.header.Get("Idempotency-Replayed"))
	}
	require.Equal(t, 5, posts)
	require.Equal(t, []any{"a"}, s.items(retainedPath, 10, "topic"))
	require.Equal(t, []any{"default", "test", "x", "x"}, s.items("/v1/apps/shop/keys", 10, "name"))
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	key := func(v string) option { return header("Idempotency-Key", v) }
	_, one := s.key("shop", object{"kind": "secret"})
	_, two := s.key("shop", object{"kind": "secret"})
	body := object{"topic": "a", "payload": "x"}
	replayed := func(a *answer) bool { return a.want(http.StatusOK).header.Get("Idempotency-Replayed") == "true" }
	require.False(t, replayed(s.post(publishPath, body, key("k"), as(one))))
	require.True(t, replayed(s.post(publishPath, body, key("k"), as(one))))
	require.False(t, replayed(s.post(publishPath, body, key("k"), as(two))), "each caller has keys of its own")
	require.False(t, replayed(s.post(publishPath, body, key("k"))))
	s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60}, key("k"), as(one)).invalid("header.Idempotency-Key")
	s.post(publishPath, body, key(strings.Repeat("k", 256))).invalid("header.Idempotency-Key")
	require.False(t, replayed(s.post(publishPath, body, key(strings.Repeat("k", 255)))))

	// Visitors share a key, and are told apart by their address.
	_, page := s.key("shop", object{"kind": "publishable"})
	visitor := func(address string) string {
		return s.post("/v1/apps/shop/tokens/anonymous", object{}, key("k"), as(page), header("X-Test-Remote", address)).want(http.StatusCreated).text("token")
	}
	seven, eight := visitor("192.0.2.7"), visitor("192.0.2.8")
	require.NotEqual(t, seven, eight)
	require.Equal(t, seven, visitor("192.0.2.7"))

	// A client that has renewed its token is the same caller; its neighbour is not.
	s.rules("shop", allow("a", "publish"))
	first, second := s.token("shop", object{"sub": "alice"}), s.token("shop", object{"sub": "alice", "ttl": 7200})
	require.False(t, replayed(s.post(publishPath+"?auth="+first, body, nobody, key("k"))))
	require.True(t, replayed(s.post(publishPath+"?auth="+second, body, nobody, key("k"))))
	require.False(t, replayed(s.post(publishPath, body, as(s.token("shop", object{"sub": "bob"})), key("k"))))

	// Answers to what was refused are not kept.
	for range 2 {
		a := s.post("/v1/apps", object{"id": "shop"}, key("taken")).refused(http.StatusConflict, "taken")
		require.Empty(t, a.header.Get("Idempotency-Replayed"))
	}
	s.post("/v1/apps", object{"id": "free"}, key("taken")).want(http.StatusCreated)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": object{"retained_count_max": 0}}}).want(http.StatusOK)
	keep := object{"topic": "a", "payload": "x", "retain": true}
	s.post(publishPath, keep, key("quota")).want(http.StatusTooManyRequests)
	s.patch("/v1/apps/shop", object{"settings": object{"limits": nil}}).want(http.StatusOK)
	require.False(t, replayed(s.post(publishPath, keep, key("quota"))))

	// An app made again under the same id has keys of its own.
	s.post("/v1/apps/other/tokens", object{"sub": "a", "ttl": 60}, key("k2")).want(http.StatusCreated)
	s.del("/v1/apps/other?confirm=other").want(http.StatusNoContent)
	s.post("/v1/apps", object{"id": "other"}).want(http.StatusCreated)
	a := s.post("/v1/apps/other/tokens", object{"sub": "a", "ttl": 60}, key("k2")).want(http.StatusCreated)
	require.Empty(t, a.header.Get("Idempotency-Replayed"))

	// GET takes no notice.
	require.Empty(t, s.get("/v1/apps", key("k")).want(http.StatusOK).header.Get("Idempotency-Replayed"))
}

// TestRefusedCallsWriteNothing: whoever may do nothing cannot fill the database by Idempotency-Keys.
func TestRefusedCallsWriteNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.patch("/v1/apps/shop", object{"settings": object{"anonymous": true, "limits": object{"publish_rate_max": 3}}}).want(http.StatusOK)
	s.rules("shop", allow("open", "publish"))
	alice, path := s.token("shop", object{"sub": "alice"}), "/v1/apps/shop/tokens/anonymous"
	_, page := s.key("shop", object{"kind": "publishable", "origins": []string{"https://shop.example"}})
	s.freeze()
	n := 0
	fresh := func(r *http.Request) {
		n++
		r.Header.Set("Idempotency-Key", fmt.Sprint(n))
	}
	claims := s.store.claims.Load()
	for _, who := range []option{nobody, as(alice)} {
		s.post(publishPath, object{"topic": "open", "qos": 3}, who, fresh).invalid("/qos")
		s.post(publishPath, object{"topic": "closed"}, who, fresh).refused(http.StatusForbidden, "not_authorized")
		refused := s.post(publishPath, []object{{"topic": "open"}, {"topic": "closed"}}, who, fresh).refused(http.StatusForbidden, "not_authorized")
		require.Equal(t, "/1", refused.problem().Errors[0].Pointer)
		s.post(publishPath, object{"topic": "open"}, who, fresh).refused(http.StatusTooManyRequests, "rate_exceeded")
		s.post("/v1/apps/shop/keys", object{}, who, fresh)
	}
	s.post(path, object{"token": "x"}, as(page), fresh).invalid("/token")
	s.post(path, object{}, as(page), fresh, header("Origin", "https://evil.example")).refused(http.StatusForbidden, "origin")
	s.post("/v1/apps", object{"id": 5}, fresh).invalid("/id")
	require.Equal(t, claims, s.store.claims.Load())
	s.pass(time.Minute)
	s.post(publishPath, object{"topic": "open"}, as(alice), fresh).want(http.StatusOK)
	require.Equal(t, claims+1, s.store.claims.Load())
}

// TestKeptAnswersAreBounded for each caller, and for an app.
func TestKeptAnswersAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *api.Config) { c.KeptAnswers = api.KeptAnswers{OfServers: 5, OfOthers: 4, OfEach: 2} })
	s.freeze()
	s.rules("shop", allow("a", "publish"))
	publish := func(who option, key string) *answer {
		t.Helper()
		return s.post(publishPath, object{"topic": "a"}, who, header("Idempotency-Key", key))
	}
	tokens := map[string]option{}
	for _, sub := range []string{"alice", "bob", "carol"} {
		tokens[sub] = as(s.token("shop", object{"sub": sub, "ttl": 24 * 3600}))
	}
	publish(tokens["alice"], "1").want(http.StatusOK)
	for range 5 {
		a := publish(tokens["alice"], "1").want(http.StatusOK)
		require.Equal(t, "true", a.header.Get("Idempotency-Replayed"), "a repetition takes no room")
	}
	publish(tokens["alice"], "2").want(http.StatusOK)
	a := publish(tokens["alice"], "3").refused(http.StatusTooManyRequests, "rate_exceeded")
	require.Equal(t, fmt.Sprint(12*3600), a.header.Get("Retry-After"))
	s.post(publishPath, object{"topic": "a"}, tokens["alice"]).want(http.StatusOK)
	publish(tokens["bob"], "1").want(http.StatusOK)
	publish(tokens["bob"], "2").want(http.StatusOK)
	publish(tokens["carol"], "1").refused(http.StatusTooManyRequests, "rate_exceeded")
	for i := range 5 {
		publish(as(adminToken), fmt.Sprint(i)).want(http.StatusOK)
	}
	publish(as(adminToken), "5").refused(http.StatusTooManyRequests, "rate_exceeded")
	s.post("/v1/apps/other/publish", object{"topic": "a"}, header("Idempotency-Key", "1")).want(http.StatusOK)
	s.pass(12 * time.Hour)
	publish(tokens["alice"], "3").want(http.StatusOK)
	publish(tokens["alice"], "4").refused(http.StatusTooManyRequests, "rate_exceeded")
}

// TestIdempotencyUnderWay: while the first request is under way, a repetition is told so, and not carried out.
func TestIdempotencyUnderWay(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var all sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		all.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+publishPath, strings.NewReader(`{"topic":"a","payload":"x","retain":true}`))
			if err != nil {
				return
			}
			r.Header.Set("Authorization", "Bearer "+adminToken)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", "same")
			res, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, res.Body) //nolint:errcheck // only the status counts
			_ = res.Body.Close()                 //nolint:errcheck // read to its end
			statuses[i] = res.StatusCode
		})
	}
	all.Wait()
	for _, status := range statuses {
		require.Contains(t, []int{http.StatusOK, http.StatusConflict}, status)
	}
	require.Contains(t, statuses, http.StatusOK)
	require.EqualValues(t, 1, s.get("/v1/apps/shop/stats").object()["seq"], "it happened once")
}

// TestAnswersAreSealed looks for a key's value in the files of the database and in the log.
func TestAnswersAreSealed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const own = "a secret of one's own that nobody may find"
	var secrets []string
	for i, kind := range []string{"secret", "signing", "device", "publishable"} {
		a := s.post("/v1/apps/shop/keys", object{"kind": kind, "name": "x"}, header("Idempotency-Key", fmt.Sprint(i)), showing).want(http.StatusCreated)
		secrets = append(secrets, s.hide(a.text("value")))
	}
	s.post("/v1/apps/shop/keys", object{"kind": "signing", "name": "x", "secret": own}, header("Idempotency-Key", "own")).want(http.StatusCreated)
	a := s.post("/v1/apps/shop/tokens", object{"sub": "a", "ttl": 60}, header("Idempotency-Key", "token"), showing).want(http.StatusCreated)
	secrets = append(secrets, own, s.hide(a.text("token")), adminToken, metricsToken)
	s.post("/v1/apps/shop/stats?auth="+secrets[0], nil).want(http.StatusMethodNotAllowed)
	s.get("/v1/apps/shop/stats?auth="+secrets[0], nobody).want(http.StatusUnauthorized)
	files, err := filepath.Glob(s.path + "*")
	require.NoError(t, err)
	found := false
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		found = found || strings.Contains(string(content), "publishable")
		for _, secret := range secrets {
			require.NotContains(t, string(content), secret, file)
			if rest, ours := strings.CutPrefix(secret, "ek_"); ours {
				_, random, _ := strings.Cut(rest, "_")
				require.NotContains(t, string(content), random, file)
			}
		}
	}
	require.True(t, found, "these are the files")
	for _, secret := range secrets {
		require.NotContains(t, s.log.String(), secret)
	}
}

// TestCORS: pages of the app's origins reach tokens/anonymous, and nothing else.
func TestCORS(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const path = "/v1/apps/shop/tokens/anonymous"
	_, key := s.key("shop", object{"kind": "publishable"})
	s.patch("/v1/apps/shop", object{"settings": object{"cors_origins": []string{"https://shop.example"}}}).want(http.StatusOK)
	preflight := func(path, origin string) *answer {
		return s.do(http.MethodOptions, path, nil, nobody, header("Origin", origin), header("Access-Control-Request-Method", "POST"),
			header("Access-Control-Request-Headers", "authorization,content-type"))
	}
	a := preflight(path, "https://shop.example").want(http.StatusNoContent)
	require.Equal(t, "https://shop.example", a.header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "POST", a.header.Get("Access-Control-Allow-Methods"))
	require.Contains(t, a.header.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Contains(t, a.header.Get("Vary"), "Origin")
	require.Empty(t, a.header.Get("Access-Control-Allow-Credentials"))
	preflight("/v1/apps/%73hop/tokens/anonymous", "https://shop.example").want(http.StatusNoContent)

	simple := s.post(path, nil, as(key), header("Origin", "https://shop.example")).want(http.StatusCreated)
	require.Equal(t, "https://shop.example", simple.header.Get("Access-Control-Allow-Origin"))
	refused := s.post(path, nil, as("garbage"), header("Origin", "https://shop.example")).want(http.StatusUnauthorized)
	require.Equal(t, "https://shop.example", refused.header.Get("Access-Control-Allow-Origin"), "a page may read why it was refused")
	require.Contains(t, refused.header.Get("Access-Control-Expose-Headers"), "Retry-After")

	for _, a := range []*answer{
		preflight(path, "https://evil.example"), preflight(path, "null"), preflight("/v1/apps/nowhere/tokens/anonymous", "https://shop.example"),
		s.do(http.MethodOptions, path, nil, nobody, header("Origin", "https://shop.example")),
	} {
		a.want(http.StatusMethodNotAllowed)
	}
	for _, op := range documented().operations {
		if op.id == "create-anonymous-token" {
			continue
		}
		path := strings.NewReplacer("{app}", "shop", "{client_id}", "x", "{id}", "x").Replace(op.path)
		for _, origin := range []string{"https://shop.example", "https://evil.example"} {
			a := preflight(path, origin).want(http.StatusMethodNotAllowed)
			b := s.do(op.method, path, nil, header("Origin", origin))
			for _, a := range []*answer{a, b} {
				require.Empty(t, a.header.Get("Access-Control-Allow-Origin"), a.what)
			}
		}
	}
	evil := s.post(path, nil, as(key), header("Origin", "https://evil.example")).want(http.StatusCreated)
	require.Empty(t, evil.header.Get("Access-Control-Allow-Origin"), "its page cannot read the answer")
	require.Contains(t, evil.header.Get("Vary"), "Origin")
	s.patch("/v1/apps/shop", object{"settings": object{"cors_origins": nil}}).want(http.StatusOK)
	require.Equal(t, "https://anywhere.example", preflight(path, "https://anywhere.example").want(http.StatusNoContent).header.Get("Access-Control-Allow-Origin"))
}

// TestHeaders that every answer has.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{"/v1/apps", "/v1/nothing", "/healthz", "/docs", "/openapi.json"} {
		a := s.get(path)
		require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"), path)
		require.Equal(t, "no-referrer", a.header.Get("Referrer-Policy"), path)
		require.Empty(t, a.header.Get("Server"), path)
	}
	require.Contains(t, s.get("/v1/apps", nobody).header.Get("WWW-Authenticate"), `Bearer realm="embercast"`)
	require.NotContains(t, s.get("/v1/apps", nobody).header.Get("WWW-Authenticate"), "error=")
	require.Contains(t, s.get("/v1/apps", as("x")).header.Get("WWW-Authenticate"), `error="invalid_token"`)
}

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answer is what REST has answered.
type answer struct {
	t      testing.TB
	call   string
	status int
	header http.Header
	body   []byte
}

var httpClient = &http.Client{
	Timeout:   patience,
	Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Second, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}},
}

// call makes a REST call. body is JSON text as it stands, or a value to encode, or nil.
func (s *server) call(method, path, credential string, body any) answer {
	s.t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			s.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, "http://"+s.http+path, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := httpClient.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close() //nolint:errcheck // it is read whole
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{s.t, method + " " + path, res.StatusCode, res.Header, text}
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d\n%s", a.call, a.status, status, a.body)
	}
	return a
}

// into decodes the body.
func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v\n%s", a.call, err, a.body)
	}
}

// problem is a problem document.
type problem struct {
	Type, Title, Detail, Code string
	Status                    int
	Errors                    []struct{ Pointer, Message string }
}

// problem checks that the answer is a whole problem document of this status.
func (a answer) problem(status int) problem {
	a.t.Helper()
	a.want(status)
	var p problem
	a.into(&p)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: Content-Type %q, want application/problem+json", a.call, got)
	}
	if p.Status != status || p.Title != http.StatusText(status) || p.Type == "" || p.Detail == "" {
		a.t.Errorf("%s: the problem document is not whole: %s", a.call, a.body)
	}
	return p
}

// rule is a topic rule.
type rule struct {
	Effect  string   `json:"effect"`
	Actions []string `json:"actions"`
	Topic   string   `json:"topic"`
}

// allow makes a rule; actions are separated by spaces.
func allow(actions, topic string) rule { return rule{"allow", strings.Fields(actions), topic} }

// app is an app of a server.
type app struct {
	s  *server
	id string
}

// newApp creates an app with rules; one without rules denies everything.
func (s *server) newApp(id string, rules ...rule) *app {
	s.t.Helper()
	s.call("POST", "/v1/apps", s.admin, map[string]any{"id": id, "name": id}).want(http.StatusCreated)
	a := &app{s, id}
	if len(rules) > 0 {
		a.setRules(rules...)
	}
	return a
}

// with returns the app for a part of a test.
func (a *app) with(tb testing.TB) *app { tb.Helper(); return &app{a.s.with(tb), a.id} }

func (a *app) path(rest string) string { return "/v1/apps/" + a.id + rest }

func (a *app) setRules(rules ...rule) {
	a.s.t.Helper()
	if rules == nil {
		rules = []rule{}
	}
	a.s.call("PUT", a.path("/rules"), a.s.admin, rules).want(http.StatusOK)
}

// set changes settings; patch is JSON.
func (a *app) set(patch string) {
	a.s.t.Helper()
	a.s.call("PATCH", a.path(""), a.s.admin, `{"settings":`+patch+`}`).want(http.StatusOK)
}

// key is a key, with the value that is shown once.
type key struct{ ID, Value string }

// newKey creates a key; more is JSON members, or empty.
func (a *app) newKey(kind, name, more string) key {
	a.s.t.Helper()
	if more != "" {
		more = "," + more
	}
	var k key
	a.s.call("POST", a.path("/keys"), a.s.admin, `{"kind":"`+kind+`","name":"`+name+`"`+more+`}`).want(http.StatusCreated).into(&k)
	return k
}

func (a *app) deleteKey(id string) {
	a.s.t.Helper()
	a.s.call("DELETE", a.path("/keys/"+id), a.s.admin, nil).want(http.StatusNoContent)
}

// token makes a client token; more is JSON members such as "claims", or empty.
func (a *app) token(sub string, ttl time.Duration, more string) string {
	a.s.t.Helper()
	if more != "" {
		more = "," + more
	}
	body := `{"sub":"` + sub + `","ttl":` + strconv.Itoa(int(ttl/time.Second)) + more + `}`
	var made struct{ Token string }
	a.s.call("POST", a.path("/tokens"), a.s.admin, body).want(http.StatusCreated).into(&made)
	return made.Token
}

// publish publishes by REST with the admin token, above the rules, and returns when it is committed.
func (a *app) publish(topic, payload string, retain bool) {
	a.s.t.Helper()
	a.s.call("POST", a.path("/publish"), a.s.admin, map[string]any{"topic": topic, "payload": payload, "retain": retain, "qos": 1}).want(http.StatusOK)
}

// retained returns the payloads that are kept, by topic.
func (a *app) retained(filter string) map[string]string {
	a.s.t.Helper()
	kept := map[string]string{}
	for cursor := ""; ; {
		var page struct {
			Items []struct {
				Topic   string
				Payload string `json:"payload_base64"`
			}
			Next string `json:"next_cursor"`
		}
		a.s.call("GET", a.path("/retained?limit=1000&filter="+url.QueryEscape(filter)+"&cursor="+cursor), a.s.admin, nil).want(http.StatusOK).into(&page)
		for _, m := range page.Items {
			payload, err := base64.StdEncoding.DecodeString(m.Payload)
			if err != nil {
				a.s.t.Fatal(err)
			}
			kept[m.Topic] = string(payload)
		}
		if page.Next == "" {
			return kept
		}
		cursor = url.QueryEscape(page.Next)
	}
}

// connected returns the ids of the clients that are connected.
func (a *app) connected() []string {
	a.s.t.Helper()
	var page struct {
		Items []struct {
			ClientID  string `json:"client_id"`
			Connected bool
		}
	}
	a.s.call("GET", a.path("/clients?limit=1000"), a.s.admin, nil).want(http.StatusOK).into(&page)
	ids := []string{}
	for _, c := range page.Items {
		if c.Connected {
			ids = append(ids, c.ClientID)
		}
	}
	return ids
}

// awaitDisconnected waits until the server has no such client any more.
func (a *app) awaitDisconnected(clientID string) {
	a.s.t.Helper()
	eventually(a.s.t, patience, func() string {
		if status := a.s.call("GET", a.path("/clients/"+url.PathEscape(clientID)), a.s.admin, nil).status; status != http.StatusNotFound {
			return "the server still has the client " + clientID + ": status " + strconv.Itoa(status)
		}
		return ""
	})
}

// awaitSubscribed waits until a client has a subscription.
func (a *app) awaitSubscribed(clientID string) {
	a.s.t.Helper()
	eventually(a.s.t, patience, func() string {
		var c struct {
			Count int `json:"subscription_count"`
		}
		answer := a.s.call("GET", a.path("/clients/"+url.PathEscape(clientID)), a.s.admin, nil)
		if answer.status == http.StatusOK {
			answer.into(&c)
		}
		if c.Count == 0 {
			return clientID + " has not subscribed: status " + strconv.Itoa(answer.status)
		}
		return ""
	})
}

// awaitSubscriber waits until some client has subscribed to a filter.
func (a *app) awaitSubscriber(filter string) {
	a.s.t.Helper()
	eventually(a.s.t, patience, func() string {
		for _, id := range a.connected() {
			found := a.s.call("GET", a.path("/clients/"+url.PathEscape(id)), a.s.admin, nil)
			if found.status == http.StatusOK && strings.Contains(string(found.body), `"filter":"`+filter+`"`) {
				return ""
			}
		}
		return "nobody has subscribed to " + filter
	})
}

// metric returns the sum of a counter's lines, or of those whose labels hold label (such as cause="auth_failed").
func (s *server) metric(name, label string) float64 {
	s.t.Helper()
	text := s.call("GET", "/metrics", s.admin, nil).want(http.StatusOK).body
	sum := 0.0
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		if label != "" && !strings.Contains(m[1], label) {
			continue
		}
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			s.t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// refused counts connections and packets refused for a cause.
func (s *server) refused(cause string) float64 {
	s.t.Helper()
	return s.metric("embercast_refusals_total", `cause="`+cause+`"`)
}

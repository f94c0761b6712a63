package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/embercast/embercast/realtime/packet"
)

// refuses checks that a call is refused by a problem document, and counted.
func (s *server) refuses(t *testing.T, status int, what func() answer) problem {
	t.Helper()
	label := `status="` + strconv.Itoa(status) + `"`
	before := s.metric("embercast_http_answers_total", label)
	p := what().problem(status)
	if after := s.metric("embercast_http_answers_total", label); after != before+1 {
		t.Errorf("embercast_http_answers_total{%s} grew by %v, want 1", label, after-before)
	}
	return p
}

func TestBadRESTGetsItsAnswerAndDisturbsNobody(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("rest", anything...)
		other := s.newApp("other")
		talk := converse(t.T, a)
		secret, device := a.newKey("secret", "s", `"scopes":["read"]`).Value, a.newKey("device", "d", "").Value
		apps, publish := "/v1/apps", a.path("/publish")
		for name, c := range map[string]struct {
			method, path, credential, body string
			status                         int
			pointer                        string // of the first error, if any
		}{
			"malformed JSON":                 {"POST", apps, s.admin, `{"id":"x"`, 400, ""},
			"JSON of the wrong kind":         {"POST", apps, s.admin, `[]`, 422, ""},
			"no body":                        {"POST", apps, s.admin, ``, 400, ""},
			"an unknown field":               {"POST", apps, s.admin, `{"id":"x1","color":"red"}`, 422, "/color"},
			"an invalid id":                  {"POST", apps, s.admin, `{"id":"No Good!"}`, 422, "/id"},
			"an id that is too long":         {"POST", apps, s.admin, `{"id":"` + strings.Repeat("x", 64) + `"}`, 422, "/id"},
			"an id that is taken":            {"POST", apps, s.admin, `{"id":"rest"}`, 409, ""},
			"a rule with an unknown member":  {"PUT", a.path("/rules"), s.admin, `[{"effect":"allow","actions":["publish"],"topic":"x","unless":"y"}]`, 422, "/0/unless"},
			"a rule with a condition":        {"PUT", a.path("/rules"), s.admin, `[{"effect":"allow","actions":["publish"],"topic":"x","when":"true"}]`, 422, "/0/when"},
			"a publish without a topic":      {"POST", publish, s.admin, `{"payload":"x"}`, 422, ""},
			"a publish to a wildcard":        {"POST", publish, s.admin, `{"topic":"a/#","payload":"x"}`, 422, ""},
			"a publish of two payloads":      {"POST", publish, s.admin, `{"topic":"a","payload":"x","json":1}`, 422, ""},
			"a publish that is wrong inside": {"POST", publish, s.admin, `[{"topic":"talk/bob","payload":"all or nothing"},{"topic":"b","qos":3}]`, 422, "/1/qos"},
			"a token of no time":             {"POST", a.path("/tokens"), s.admin, `{"sub":"x","ttl":0}`, 422, "/ttl"},
			"a setting that is none":         {"PATCH", a.path(""), s.admin, `{"settings":{"colour":"red"}}`, 422, "/settings/colour"},
			"no credential":                  {"GET", apps, "", "", 401, ""},
			"a wrong token":                  {"GET", apps, "wrong", "", 401, ""},
			"a key where an admin is needed": {"GET", apps, secret, "", 403, ""},
			"a key without the scope":        {"POST", publish, secret, `{"topic":"a","payload":"x"}`, 403, ""},
			"a device at management":         {"GET", a.path("/keys"), device, "", 403, ""},
			"another tenant's app":           {"GET", other.path("/stats"), secret, "", 404, ""},
			"an app that is not there":       {"GET", "/v1/apps/nowhere", s.admin, "", 404, ""},
			"a key in the URL":               {"POST", publish + "?auth=" + device, "", `{"topic":"a","payload":"x"}`, 401, ""},
			"a path that is not there":       {"GET", "/v1/nothing", s.admin, "", 404, ""},
			"a trailing slash":               {"GET", apps + "/", s.admin, "", 404, ""},
			"a method that is not there":     {"PUT", apps, s.admin, "{}", 405, ""},
			"a body above the limit":         {"PUT", a.path("/rules"), s.admin, `["` + strings.Repeat("x", 2<<20) + `"]`, 413, ""},
			"a message above the limit":      {"POST", publish, s.admin, `{"topic":"a","payload":"` + strings.Repeat("x", 1<<20) + `"}`, 413, ""},
			"a cursor that is none":          {"GET", apps + "?cursor=%00", s.admin, "", 422, "query.cursor"},
			"a limit that is none":           {"GET", apps + "?limit=0", s.admin, "", 422, ""},
		} {
			t.Run(name, func(t *testing.T) {
				s := s.with(t)
				var body any
				if c.body != "" {
					body = c.body
				}
				p := s.refuses(t, c.status, func() answer { return s.call(c.method, c.path, c.credential, body) })
				if c.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer || p.Errors[0].Message == "") {
					t.Errorf("errors = %+v, want one at %s", p.Errors, c.pointer)
				}
			})
		}
		if h := s.call("GET", apps, "wrong", nil).header.Get("WWW-Authenticate"); !strings.HasPrefix(h, "Bearer") {
			t.Errorf("WWW-Authenticate = %q, want Bearer", h)
		}
		if kept := a.retained("#"); len(kept) != 0 {
			t.Errorf("retained = %v, want nothing", kept)
		}
		talk.goesOn() // and with it: nobody heard the first half of the transaction
	})
}

func TestATokenOfAWrongAlgorithmOrTimeLetsNobodyIn(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("jwt", anything...)
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		text, err := json.Marshal(string(public))
		if err != nil {
			t.Fatal(err)
		}
		imported := a.newKey("signing", "ours", `"alg":"RS256","public_key":`+string(text))
		generated := signingKeyOfHere(t.T, a)
		in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
		claims := func(exp int64) jwt.MapClaims { return jwt.MapClaims{"sub": "ada", "exp": exp} }
		sign := func(m jwt.SigningMethod, key any, kid string, c jwt.MapClaims) string {
			token := jwt.NewWithClaims(m, c)
			if kid != "" {
				token.Header["kid"] = kid
			}
			signed, err := token.SignedString(key)
			if err != nil {
				t.Fatal(err)
			}
			return signed
		}
		good := sign(jwt.SigningMethodRS256, private, imported.ID, claims(in(time.Hour)))
		mqttJS.connect(t, "ada", login{app: a, password: good}).say("x", "y")
		parts := strings.Split(good, ".")
		for name, token := range map[string]string{
			"algorithm none":                             sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", claims(in(time.Hour))),
			"algorithm none, named key":                  sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, imported.ID, claims(in(time.Hour))),
			"HS256 with the RSA public key":              sign(jwt.SigningMethodHS256, public, imported.ID, claims(in(time.Hour))),
			"HS256 with its bytes":                       sign(jwt.SigningMethodHS256, der, imported.ID, claims(in(time.Hour))),
			"HS256 with the key's id":                    sign(jwt.SigningMethodHS256, []byte(generated), generated, claims(in(time.Hour))),
			"RS512 by the right key":                     sign(jwt.SigningMethodRS512, private, imported.ID, claims(in(time.Hour))),
			"expired":                                    sign(jwt.SigningMethodRS256, private, imported.ID, claims(in(-time.Minute))),
			"without an end":                             sign(jwt.SigningMethodRS256, private, imported.ID, jwt.MapClaims{"sub": "ada"}),
			"without a subject":                          sign(jwt.SigningMethodRS256, private, imported.ID, jwt.MapClaims{"exp": in(time.Hour)}),
			"with a subject of the server's":             sign(jwt.SigningMethodRS256, private, imported.ID, jwt.MapClaims{"sub": "key:backend", "exp": in(time.Hour)}),
			"for another audience":                       sign(jwt.SigningMethodRS256, private, imported.ID, jwt.MapClaims{"sub": "ada", "aud": "other", "exp": in(time.Hour)}),
			"with claims changed":                        parts[0] + "." + strings.Split(sign(jwt.SigningMethodRS256, private, imported.ID, jwt.MapClaims{"sub": "eve", "exp": in(time.Hour)}), ".")[1] + "." + parts[2],
			"by a stranger's key":                        sign(jwt.SigningMethodRS256, strangersKey(t.T), imported.ID, claims(in(time.Hour))),
			"that asks to be above the rules, elsewhere": sign(jwt.SigningMethodHS256, []byte("0123456789abcdef0123456789abcdef"), "", jwt.MapClaims{"sub": "ada", "bypass_rules": true, "exp": in(time.Hour)}),
		} {
			t.Run(name, func(t *testing.T) {
				s, a := s.with(t), a.with(t)
				s.grows(t, "auth_failed", func() {
					if got := connackOf(a, packet.V5, "c", a.id, token); got != packet.BadUserNameOrPassword {
						t.Errorf("CONNACK %v, want Bad User Name or Password", got)
					}
				})
				s.refuses(t, http.StatusUnauthorized, func() answer { return s.call("POST", a.path("/publish"), token, `{"topic":"x","payload":"y"}`) })
			})
		}
	})
}

// signingKeyOfHere returns the id of the signing key that a new app has.
func signingKeyOfHere(t *testing.T, a *app) string {
	t.Helper()
	var page struct {
		Items []struct {
			ID, Kind string
			Imported bool
		}
	}
	a.s.call("GET", a.path("/keys"), a.s.admin, nil).want(http.StatusOK).into(&page)
	for _, k := range page.Items {
		if k.Kind == "signing" && !k.Imported {
			return k.ID
		}
	}
	t.Fatal("a new app has no signing key")
	return ""
}

func strangersKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

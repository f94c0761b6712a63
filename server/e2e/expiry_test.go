package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestATokenThatExpiresEndsTheConnectionAndTheWillIsSent(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("short", anything...)
		watcher := paho.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("gone/#")
		cases := []struct {
			library
			transport     string
			version, code int
		}{{mqttJS, "ws", 5, 0x87}, {paho, "tcp", 5, 0x87}, {mqttJS, "tcp", 4, 0}, {paho, "ws", 4, 0}}
		var clients []*client
		for i, c := range cases { // started first: the tokens are short
			clients = append(clients, c.start(t, fmt.Sprintf("c%d", i)))
		}
		renewed := mqttJS.start(t, "renewed")
		for _, c := range append(clients, renewed) {
			c.do("hello", nil, nil)
		}
		const ttl = 15 * time.Second // all must have connected by then, however busy the machine is
		minted := time.Now()
		var want, got []string
		for i, c := range clients {
			w := &will{Topic: "gone/" + c.id, Payload: "expired", QoS: 1}
			c.connect(login{app: a, password: a.token(c.id, ttl, ""), transport: cases[i].transport, version: cases[i].version, will: w})
			want = append(want, "gone/"+c.id+" expired")
		}
		renewed.connect(login{app: a, password: a.token("renewed", ttl, ""), will: &will{Topic: "gone/renewed", Payload: "no"}}).follow("$auth/result", "fence")
		renews(t.T, a, renewed)

		for i, c := range clients {
			c.endsWith(cases[i].code)
			got = append(got, watcher.next().says())
		}
		if took := time.Since(minted); took < ttl-time.Second {
			t.Errorf("the connections ended after %v, want not before the tokens, %v", took, ttl)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("wills = %q, want %q", got, want)
		}
		// The one that was renewed is still there, after its first token's time.
		renewed.hearsNothingBut(a, "fence")
		watcher.hearsNothingBut(a, "gone/fence")

		// An expired token lets nobody in.
		expired := a.token("late", time.Second, "")
		late := mqttJS.start(t, "late")
		eventually(t, patience, func() string {
			if s.call("POST", a.path("/publish"), expired, `{"topic":"x","payload":"y"}`).status != 401 {
				return "the token is still good"
			}
			return ""
		})
		if r := late.connectTo(login{app: a, password: expired}); r.Code != 0x86 {
			t.Errorf("connect with an expired token = %#x %s, want 0x86", r.Code, r.Error)
		}
	})
}

// renews puts a longer token in the place of a client's, as one does that cannot send AUTH; it must be the same user's.
func renews(t *testing.T, a *app, c *client) {
	t.Helper()
	for _, wrong := range []string{a.token("somebody-else", time.Hour, ""), a.token(c.id, time.Hour, `"client_id":"another"`), "eyJ.no.token"} {
		if code := c.publish("$auth/token", wrong); code != 0x87 {
			t.Errorf("renewal with a token of somebody else = %#x, want 0x87", code)
		}
		c.hears(`$auth/result {"event":"token_refused"}`)
	}
	if code := c.publish("$auth/token", a.token(c.id, time.Hour, "")); code != 0 {
		t.Errorf("renewal = %#x, want success", code)
	}
	c.hears(`$auth/result {"event":"token_renewed"}`)
}

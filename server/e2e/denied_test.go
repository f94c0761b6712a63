package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestWhoMayNotIsToldSoInEveryVersionAndOverEveryTransport(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("rules", allow("publish subscribe", "open/#"))
		watcher := paho.connect(t, "watcher", login{app: a, password: a.newKey("secret", "watcher", "").Value}).follow("#")
		var heard []string
		for _, l := range []library{mqttJS, paho} {
			for _, transport := range []string{"ws", "tcp"} {
				for _, version := range []int{4, 5} {
					name := fmt.Sprintf("%s-%s-%d", l.name, transport, version)
					c := l.connect(t, name, login{app: a, password: a.token(name, time.Hour, ""), transport: transport, version: version})
					isRefused(t.T, s, c, version)
					c.say("open/"+name, "hello")
					heard = append(heard, "open/"+name+" hello")
				}
			}
		}
		watcher.hearsNothingBut(a, "fence", heard...)
		if kept := a.retained("#"); len(kept) != 0 {
			t.Errorf("retained = %v, want nothing: what was denied must not be kept", kept)
		}
	})
}

// isRefused checks what a client is told of what it may not do; its connection stays.
func isRefused(t *testing.T, s *server, c *client, version int) {
	t.Helper()
	published, failed := 0, 0x80 // 3.1.1: acknowledged and dropped; a subscription fails
	if version == 5 {
		published, failed = 0x87, 0x87
	}
	before := s.metric("embercast_denials_total", "")
	for _, retain := range []bool{false, true} {
		if code := c.publishWith("closed/x", "secret", 1, retain); code != published {
			t.Errorf("%s publishes (retain %v) = %#x, want %#x", c.name, retain, code, published)
		}
	}
	want := []int{failed, 1, failed}
	if codes := c.subscribe("closed/#", "open/mine", "#"); !slices.Equal(codes, want) {
		t.Errorf("%s subscribes = %#x, want %#x", c.name, codes, want)
	}
	if after := s.metric("embercast_denials_total", ""); after != before+4 {
		t.Errorf("%s: embercast_denials_total grew by %v, want 4", c.name, after-before)
	}
}

func TestAnAppMayWantAnOldClientDisconnectedForADeniedPublish(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("strict", allow("publish", "open/#"))
		a.set(`{"denied_publish":"disconnect"}`)
		c := mqttJS.connect(t, "old", login{app: a, password: a.token("old", time.Hour, ""), transport: "tcp", version: 4})
		c.say("open/x", "fine")
		c.ask("publish", map[string]any{"topic": "closed/x", "payload": "no", "qos": 1, "retain": false})
		c.endsWith(0)
	})
}

func TestAnAppWithoutRulesDeniesEverything(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("bare")
		watcher := paho.connect(t, "watcher", login{app: a, password: a.newKey("secret", "watcher", "").Value, transport: "tcp"}).follow("#")
		for _, as := range []login{
			{app: a, password: a.token("ada", time.Hour, "")},
			{app: a, password: a.newKey("device", "lamp", "").Value, transport: "tcp"},
		} {
			c := mqttJS.connect(t, "client-"+as.transport, as)
			if code := c.publish("x", "y"); code != 0x87 {
				t.Errorf("publish = %#x, want 0x87", code)
			}
			if codes := c.subscribe("x", "#"); !slices.Equal(codes, []int{0x87, 0x87}) {
				t.Errorf("subscribe = %#x, want 0x87 twice", codes)
			}
		}
		watcher.hearsNothingBut(a, "fence")
	})
}

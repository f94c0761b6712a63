package e2e

import (
	"maps"
	"testing"
	"time"
)

// anything lets everybody do everything in an app.
var anything = []rule{allow("publish subscribe", "#")}

func TestARetainedValueIsThereForALateSubscriber(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("kept", anything...)
		ada := mqttJS.connect(t, "ada", login{app: a, password: a.token("ada", time.Hour, "")}).follow("room/#")
		for _, topic := range []string{"tea", "coffee"} {
			if code := ada.publishWith("room/topic", topic, 1, true); code != 0 {
				t.Fatalf("publish = %#x", code)
			}
		}
		ada.say("room/chat", "not kept")

		// Who was there heard all of it as it happened, and nothing of it as kept.
		for _, want := range []string{"room/topic tea", "room/topic coffee", "room/chat not kept"} {
			if m := ada.next(); m.says() != want || m.Retain {
				t.Errorf("ada heard %+v, want %q, live", m, want)
			}
		}
		// Who comes late hears the last value, as kept.
		late := paho.connect(t, "late", login{app: a, password: a.token("late", time.Hour, ""), transport: "tcp"}).follow("room/#")
		if m := late.next(); m.says() != "room/topic coffee" || !m.Retain {
			t.Errorf("the late subscriber heard %+v, want coffee, kept", m)
		}
		late.hearsNothingBut(a, "room/fence")
		listener := startMosquittoSub(t, login{app: a, password: a.token("cli", time.Hour, ""), clientID: "cli"}, "-t", "room/+", "-F", "%t %p %r")
		if got := listener.line(); got != "room/topic coffee 1" {
			t.Errorf("mosquitto_sub got %q, want the kept value", got)
		}

		// An empty one takes it away, for those who come after.
		if r := mosquittoPub(t, login{app: a, password: a.token("cli", time.Hour, "")}, "-t", "room/topic", "-r", "-n"); r.code != 0 {
			t.Fatalf("mosquitto_pub: %+v", r)
		}
		late.hears("room/topic ")
		if kept := a.retained("#"); len(kept) != 0 {
			t.Errorf("retained = %v, want nothing", kept)
		}
		last := paho.connect(t, "last", login{app: a, password: a.token("last", time.Hour, "")}).follow("room/#")
		last.hearsNothingBut(a, "room/fence")
	})
}

func TestASubscriberChoosesWhichRetainedValuesItGets(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("kept", anything...)
		a.publish("value", "1", true)
		c := paho.connect(t, "c", login{app: a, password: a.token("c", time.Hour, "")}).follow("fence")
		for _, step := range []struct {
			handling    int
			unsubscribe bool
			got         []string
		}{
			{handling: 0, got: []string{"value 1"}},
			{handling: 0, got: []string{"value 1"}},
			{handling: 1}, // it has the subscription already
			{handling: 2},
			{handling: 1, unsubscribe: true, got: []string{"value 1"}},
			{handling: 2, unsubscribe: true},
		} {
			if step.unsubscribe {
				c.do("unsubscribe", map[string]any{"filters": []string{"value"}}, nil)
			}
			c.subscribeWith(1, step.handling, "value")
			c.hears(step.got...)
			c.hearsNothingBut(a, "fence")
		}
	})
}

func TestRetainedValuesOutliveARestart(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("kept", anything...)
		ada := mqttJS.connect(t, "ada", login{app: a, password: a.token("ada", time.Hour, "")})
		want := map[string]string{}
		for _, topic := range []string{"a", "a/b", "a/b/c", "ü/雪"} {
			ada.publishWith(topic, "value of "+topic, 1, true)
			want[topic] = "value of " + topic
		}
		ada.publishWith("gone", "soon", 1, true)
		ada.publishWith("gone", "", 1, true)
		s.stop()
		ada.endsWith(0x8B)

		s.start()
		if got := a.retained("#"); !maps.Equal(got, want) {
			t.Errorf("retained after a restart = %v, want %v", got, want)
		}
		bob := paho.connect(t, "bob", login{app: a, password: a.token("bob", time.Hour, "")}).follow("a/#")
		bob.hears("a value of a", "a/b value of a/b", "a/b/c value of a/b/c")
	})
}

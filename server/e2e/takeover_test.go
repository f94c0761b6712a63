package e2e

import (
	"slices"
	"testing"
	"time"
)

func TestASecondConnectionOfAClientIDTakesTheFirstOnesPlace(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("take", anything...)
		watcher := paho.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("#")
		as := login{app: a, password: a.token("ada", time.Hour, ""), clientID: "phone", will: &will{Topic: "will", Payload: "taken over", QoS: 1}}
		tcp := as
		tcp.transport = "tcp"
		old := as
		old.version = 4

		first := mqttJS.connect(t, "first", as).follow("to/phone")
		second := paho.connect(t, "second", tcp).follow("to/phone")
		first.endsWith(0x8E)
		watcher.hears("will taken over")
		if got := a.connected(); !slices.Equal(got, []string{"phone", "watcher"}) {
			t.Errorf("connected = %v, want one phone and the watcher", got)
		}
		third := mqttJS.connect(t, "third", old).follow("to/phone")
		second.endsWith(0x8E)
		fourth := paho.connect(t, "fourth", as).follow("to/phone")
		third.endsWith(0) // 3.1.1 has no word for it

		watcher.say("to/phone", "hello")
		fourth.hears("to/phone hello")
		for _, c := range []*client{first, second, third} {
			if got := c.messages.all(); len(got) != 0 {
				t.Errorf("%s, which is gone, heard %v", c.name, got)
			}
		}
		watcher.hears("will taken over", "will taken over", "to/phone hello")

		// Another user does not get it.
		mallory := login{app: a, password: a.token("mallory", time.Hour, ""), clientID: "phone"}
		if r := mqttJS.start(t, "mallory").connectTo(mallory); r.Code != 0x85 {
			t.Errorf("connect with another user's client id = %#x %s, want 0x85", r.Code, r.Error)
		}
		mallory.version = 4
		if r := paho.start(t, "mallory").connectTo(mallory); r.Code != 2 {
			t.Errorf("connect by 3.1.1 with another user's client id = %#x %s, want 2", r.Code, r.Error)
		}
		watcher.say("to/phone", "hello again")
		fourth.hears("to/phone hello again")
	})
}

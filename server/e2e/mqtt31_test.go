package e2e

import (
	"testing"
	"time"
)

// TestClientsOfMQTT31AreServed: Mosquitto's clients speak the oldest version too, in one conversation with the newest.
func TestClientsOfMQTT31AreServed(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("old", anything...)
		watcher := mqttJS.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("#")
		as := func(name string) login {
			return login{app: a, password: a.token(name, time.Hour, ""), version: 3, clientID: name}
		}
		sub := startMosquittoSub(t, as("a-client-id-of-more-than-23-characters"), "-t", "rooms/#", "-v",
			"--will-topic", "will/31", "--will-payload", "gone", "--will-qos", "1")
		for _, qos := range []string{"0", "1", "2"} {
			if r := mosquittoPub(t, as("publisher"), "-t", "rooms/"+qos, "-m", "hello", "-q", qos, "-r"); r.code != 0 {
				t.Fatalf("mosquitto_pub -V mqttv31 -q %s: %+v", qos, r)
			}
			if line := sub.line(); line != "rooms/"+qos+" hello" {
				t.Errorf("mosquitto_sub -V mqttv31 got %q", line)
			}
			watcher.hears("rooms/" + qos + " hello")
		}
		watcher.say("rooms/5", "from the newest")
		watcher.hears("rooms/5 from the newest")
		if line := sub.line(); line != "rooms/5 from the newest" {
			t.Errorf("mosquitto_sub -V mqttv31 got %q", line)
		}
		sub.kill()
		watcher.hears("will/31 gone")
		late := startMosquittoSub(t, as("late"), "-t", "rooms/2", "-v")
		if line := late.line(); line != "rooms/2 hello" {
			t.Errorf("a late subscriber got %q, want the retained message", line)
		}
		wrong := as("wrong")
		wrong.password = "no"
		if r := mosquittoPub(t, wrong, "-t", "x", "-m", "y"); r.code == 0 {
			t.Errorf("mosquitto_pub -V mqttv31 with a wrong password: %+v, want a failure", r)
		}
	})
}

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFiguresOnSysAreForThoseWhoseRulesNameThem: an app's own, to a Mosquitto client, at once and every 10 seconds.
func TestFiguresOnSysAreForThoseWhoseRulesNameThem(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		watched := s.newApp("watched", rule{"allow", []string{"subscribe"}, "$SYS/#"}, allow("publish subscribe", "#"))
		crowd := s.newApp("crowd", anything...)
		for _, name := range []string{"one", "two", "three"} {
			paho.connect(t, name, login{app: crowd, password: crowd.token(name, time.Hour, "")})
		}
		watched.publish("kept", "here", true)

		// Who may do all that # reaches does not reach these.
		outsider := mqttJS.connect(t, "outsider", login{app: crowd, password: crowd.token("outsider", time.Hour, "")})
		if codes := outsider.subscribe("$SYS/#", "$SYS/broker/uptime"); !slices.Equal(codes, []int{0x87, 0x87}) {
			t.Errorf("$SYS without a rule = %#x, want 0x87", codes)
		}
		for _, version := range []int{4, 5} {
			as := login{app: watched, password: watched.token("watcher", time.Hour, ""), version: version}
			sub := startMosquittoSub(t, as, "-t", "$SYS/#", "-F", "%r %q %t %p")
			for _, want := range []string{
				"1 0 $SYS/broker/version embercast version ", "1 0 $SYS/broker/uptime ", "1 0 $SYS/broker/clients/connected 1",
				"1 0 $SYS/broker/clients/total 1", "1 0 $SYS/broker/subscriptions/count 1", "1 0 $SYS/broker/retained messages/count 1",
				"1 0 $SYS/broker/messages/received 1", "1 0 $SYS/broker/bytes/received 4", "1 0 $SYS/broker/load/bytes/sent/15min ",
			} {
				if line := sub.lineWith(want[:strings.LastIndex(want, " ")+1]); !strings.HasPrefix(line, want) {
					t.Errorf("MQTT %d: got %q, want %q", version, line, want)
				}
			}
			sub.lineWith("0 0 $SYS/broker/uptime ")
			sub.kill()
			watched.awaitDisconnected("mosquitto-sub")
		}
		if kept := watched.retained("#"); len(kept) != 1 {
			t.Errorf("retained = %v, want the one message that was published", kept)
		}
	})
}

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// room is the rule of a chat: everybody in the room that the token names, each in a place of their own.
var room = []rule{
	allow("subscribe", "rooms/${token.room}/#"),
	allow("publish", "rooms/${token.room}/${sub}/chat"),
}

func inRoom(name string) string { return `"claims":{"room":"` + name + `"}` }

func TestTwoUsersChatUnderRulesAndAThirdInAnotherRoomHearsNothing(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("chat", room...)
		ada := mqttJS.connect(t, "ada", login{app: a, password: a.token("ada", time.Hour, inRoom("red"))}).follow("rooms/red/+/chat")
		bob := paho.connect(t, "bob", login{app: a, password: a.token("bob", time.Hour, inRoom("red")), transport: "tcp"}).follow("rooms/red/#")
		eve := paho.connect(t, "eve", login{app: a, password: a.token("eve", time.Hour, inRoom("blue"))}).follow("rooms/blue/#")

		var want []string
		for i := range 10 {
			ada.say("rooms/red/ada/chat", fmt.Sprintf("question %d", i))
			bob.say("rooms/red/bob/chat", fmt.Sprintf("answer %d", i))
			want = append(want, fmt.Sprintf("rooms/red/ada/chat question %d", i), fmt.Sprintf("rooms/red/bob/chat answer %d", i))
		}
		ada.hears(want...)
		bob.hears(want...)
		eve.hearsNothingBut(a, "rooms/blue/notice")

		// Nor does she get there by asking.
		if codes := eve.subscribe("rooms/red/#", "rooms/+/bob/chat", "#"); codes[0] != 0x87 || codes[1] != 0x87 || codes[2] != 0x87 {
			t.Errorf("eve subscribes beyond her room = %#x, want 0x87 for each", codes)
		}
		for _, topic := range []string{"rooms/red/eve/chat", "rooms/blue/bob/chat"} {
			if code := eve.publish(topic, "boo"); code != 0x87 {
				t.Errorf("eve publishes to %s = %#x, want 0x87", topic, code)
			}
		}
		ada.say("rooms/red/ada/chat", "bye")
		bob.hears("rooms/red/ada/chat bye")
		ada.hears("rooms/red/ada/chat bye")
		eve.hearsNothingBut(a, "rooms/blue/notice")
	})
}

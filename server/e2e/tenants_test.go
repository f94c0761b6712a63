package e2e

import (
	"maps"
	"net/http"
	"testing"
	"time"
)

func TestTwoAppsWithTheSameTopicsAndClientIDsNeverMeet(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		one, two := s.newApp("one", anything...), s.newApp("two", anything...)
		apps := []*app{one, two}
		ada, bob := map[*app]*client{}, map[*app]*client{}
		for _, a := range apps { // the same ids, the same users, the same topics, at the same time
			ada[a] = mqttJS.connect(t, "ada", login{app: a, password: a.token("ada", time.Hour, "")}).follow("room/#")
			bob[a] = paho.connect(t, "bob", login{app: a, password: a.token("bob", time.Hour, ""), transport: "tcp"}).follow("#")
		}
		for _, a := range apps {
			ada[a].say("room/chat", "ada in "+a.id)
			bob[a].say("room/chat", "bob in "+a.id)
			ada[a].publishWith("room/topic", "topic of "+a.id, 1, true)
		}
		for _, a := range apps {
			want := []string{"room/chat ada in " + a.id, "room/chat bob in " + a.id, "room/topic topic of " + a.id}
			ada[a].hearsNothingBut(a, "room/fence", want...)
			bob[a].hearsNothingBut(a, "room/fence", want...)
			if kept := a.retained("#"); !maps.Equal(kept, map[string]string{"room/topic": "topic of " + a.id}) {
				t.Errorf("retained in %s = %v, want its own topic", a.id, kept)
			}
			late := paho.connect(t, "late", login{app: a, password: a.token("late", time.Hour, "")}).follow("room/#")
			late.hears("room/topic topic of " + a.id)
			late.hearsNothingBut(a, "room/fence")
			late.disconnect()
		}
		credentialsStayInTheirApp(t.T, one, two)

		// What is done to the one does nothing to its namesake.
		s.call("DELETE", one.path("/clients/ada"), s.admin, nil).want(http.StatusNoContent)
		ada[one].endsWith(0x98)
		s.call("DELETE", one.path("?confirm=one"), s.admin, nil).want(http.StatusNoContent)
		<-bob[one].ended
		ada[two].say("room/chat", "still here")
		bob[two].hearsNothingBut(two, "room/fence", "room/chat still here")
		if kept := two.retained("#"); len(kept) != 1 {
			t.Errorf("retained in two after one was deleted = %v", kept)
		}
		// An app of the same name begins empty.
		again := s.newApp("one", anything...)
		if kept := again.retained("#"); len(kept) != 0 {
			t.Errorf("retained in a new app of a deleted one's name = %v, want nothing", kept)
		}
	})
}

func credentialsStayInTheirApp(t *testing.T, one, two *app) {
	t.Helper()
	key := one.newKey("secret", "server", "")
	for _, password := range []string{one.token("mallory", time.Hour, ""), key.Value, one.newKey("device", "lamp", "").Value} {
		if r := mqttJS.start(t, "mallory").connectTo(login{app: two, password: password}); r.Code != 0x86 {
			t.Errorf("connect to two with a credential of one = %#x %s, want 0x86", r.Code, r.Error)
		}
		one.s.call("POST", two.path("/publish"), password, `{"topic":"x","payload":"y"}`).problem(http.StatusNotFound)
	}
}

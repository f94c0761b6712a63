package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

func TestEachKindOfCredentialReachesWhatItIsFor(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("who", allow("publish subscribe", "user/${sub}/#"), allow("subscribe", "public/#"))
		server := paho.connect(t, "server", login{app: a, password: a.newKey("secret", "backend", "").Value, transport: "tcp"}).follow("#")

		// A user's token: the user's own place, and no other.
		ada := mqttJS.connect(t, "ada", login{app: a, password: a.token("ada", time.Hour, "")})
		ada.say("user/ada/x", "mine")
		if code := ada.publish("user/bob/x", "not mine"); code != 0x87 {
			t.Errorf("ada publishes as bob = %#x, want 0x87", code)
		}
		// A device's key: its own rules beside the app's, under its sub, whatever the client id.
		lamp := a.newKey("device", "lamp", `"rules":[{"effect":"allow","actions":["publish"],"topic":"lamps/${client_id}"}]`)
		device := paho.connect(t, "lamp-7", login{app: a, password: lamp.Value, transport: "tcp", version: 4})
		device.say("lamps/lamp-7", "on")
		device.publish("lamps/lamp-8", "on") // acknowledged and dropped
		device.follow("user/device:lamp/#", "public/#")
		// A server's key: above the rules.
		server.say("anywhere", "said")
		server.hearsNothingBut(a, "fence", "user/ada/x mine", "lamps/lamp-7 on", "anywhere said")

		var me struct{ Sub string }
		for id, want := range map[string]string{"server": "key:backend", "ada": "ada", "lamp-7": "device:lamp"} {
			s.call("GET", a.path("/clients/"+id), s.admin, nil).want(http.StatusOK).into(&me)
			if me.Sub != want {
				t.Errorf("%s is %q, want %q", id, me.Sub, want)
			}
		}
		// By WebSocket a token may stand in the URL.
		inURL := mqttJS.start(t, "in-url")
		inURL.do("connect", map[string]any{
			"url": "ws://" + s.http + "/mqtt/who?token=" + a.token("url", time.Hour, ""), "client_id": "in-url", "version": 4, "clean": true, "keep_alive": 30,
		}, nil)
		inURL.say("user/url/x", "hello")
		server.hears("user/url/x hello")
	})
}

func TestAClientIDBelongsToTheCredentialThatNamesIt(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("ids", anything...)
		bound := a.token("ada", time.Hour, `"client_id":"adas-phone"`)
		device := a.newKey("device", "lamp", `"client_id":"lamp-1"`).Value
		mqttJS.connect(t, "adas-phone", login{app: a, password: bound})
		paho.connect(t, "lamp-1", login{app: a, password: device, transport: "tcp"})
		for name, as := range map[string]login{
			"a token with another client id":        {password: bound, clientID: "other"},
			"a device key with another client id":   {password: device, clientID: "lamp-2"},
			"a device's reserved client id":         {password: a.token("bob", time.Hour, ""), clientID: "lamp-1"},
			"the client id .":                       {password: a.token("bob", time.Hour, ""), clientID: "."},
			"another user's client id in use":       {password: a.token("bob", time.Hour, ""), clientID: "adas-phone"},
			"a token with no client id at all (v5)": {password: bound, clientID: ""},
		} {
			for version, want := range map[packet.Version]packet.ReasonCode{packet.V311: packet.ClientIdentifierNotValid, packet.V5: packet.ClientIdentifierNotValid} {
				if got := connackOf(a, version, as.clientID, a.id, as.password); got != want {
					t.Errorf("%s, version %d: CONNACK %v, want %v", name, version, got, want)
				}
			}
		}
	})
}

// connackOf connects over TCP by hand and returns what CONNACK says; before 5.0 its few codes are told in 5.0's words.
func connackOf(a *app, v packet.Version, clientID, username, password string) packet.ReasonCode {
	a.s.t.Helper()
	w := dialWire(a.s.t, a.s.mqtt)
	w.speak(v)
	p := connectPacket(a, v, clientID, password)
	p.Username = username
	w.send(p)
	ack := next[*packet.Connack](w)
	if ack.Reason != packet.Success {
		w.wantClosed()
	}
	return ack.Reason
}

func TestAWrongAppTokenOrKeyIsToldAlikeAndCounted(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("door", anything...)
		key := a.newKey("secret", "k", "")
		good := a.token("ada", time.Hour, "")
		for name, of := range map[string]struct{ username, password string }{
			"no such app":                  {"nowhere", good},
			"no app at all":                {"", good},
			"an app id that is none":       {"No App!", good},
			"a token that is cut":          {"door", good[:len(good)-4]},
			"a key that is cut":            {"door", key.Value[:len(key.Value)-4]},
			"a key of another id":          {"door", "ek_aaaaaaaaaaaaaaaa_" + key.Value[20:]},
			"a publishable key":            {"door", a.newKey("publishable", "p", "").Value},
			"the admin token":              {"door", s.admin},
			"nothing":                      {"door", ""},
			"a word":                       {"door", "password"},
			"what only looks like a token": {"door", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"},
		} {
			before := s.refused("auth_failed")
			for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
				if got := connackOf(a, v, "c", of.username, of.password); got != packet.BadUserNameOrPassword {
					t.Errorf("%s, version %d: CONNACK %v, want Bad User Name or Password", name, v, got)
				}
			}
			if after := s.refused("auth_failed"); after != before+3 {
				t.Errorf("%s: embercast_refusals_total{cause=auth_failed} grew by %v, want 3", name, after-before)
			}
		}
		// Real clients say so too.
		as := login{app: a, password: "wrong", transport: "tcp"}
		if r := mosquittoPub(t, as, "-t", "x", "-m", "y"); r.code == 0 {
			t.Errorf("mosquitto_pub with a wrong password: %+v, want a failure", r)
		}
		if r := paho.start(t, "py").connectTo(as); r.Code != 0x86 {
			t.Errorf("Paho with a wrong password = %#x, want 0x86", r.Code)
		}
		as.version, as.transport = 4, "ws"
		if r := mqttJS.start(t, "js").connectTo(as); r.Code != 4 {
			t.Errorf("mqtt.js with a wrong password by 3.1.1 = %d, want 4", r.Code)
		}
	})
}

func TestClientsWithoutCredentialsComeInWhereTheAppAllowsIt(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("open", allow("publish subscribe", "hello/#"))
		nobody := login{app: a, transport: "tcp"}
		if r := mosquittoPub(t, nobody, "-t", "hello/x", "-m", "hi"); r.code == 0 {
			t.Fatal("mosquitto_pub without credentials was let in before the app allowed it")
		}
		a.set(`{"anonymous":true}`)
		sub := startMosquittoSub(t, nobody, "-t", "hello/#", "-v")
		if r := mosquittoPub(t, nobody, "-t", "hello/x", "-m", "hi"); r.code != 0 {
			t.Fatalf("mosquitto_pub without credentials: %+v", r)
		}
		if got := sub.line(); got != "hello/x hi" {
			t.Errorf("mosquitto_sub got %q", got)
		}
		c := mqttJS.connect(t, "visitor", login{app: a})
		if codes := c.subscribe("hello/#", "secret/#"); !slices.Equal(codes, []int{1, 0x87}) {
			t.Errorf("subscribe = %#x, want it under the rules", codes)
		}
		// Who shows a credential must show a good one.
		for _, password := range []string{"eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "ek_aaaaaaaaaaaaaaaa_AAAAAAAAAAAA"} {
			if got := connackOf(a, packet.V5, "bad", a.id, password); got != packet.BadUserNameOrPassword {
				t.Errorf("connect with a bad credential = %v, want it refused", got)
			}
		}
		a.set(`{"anonymous":false}`)
		c.endsWith(0x87)
	})
}

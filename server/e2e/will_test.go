package e2e

import (
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestAWillIsSentWhenAClientIsKilledAndNotWhenItLeavesInGoodOrder(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("wills", anything...)
		watcher := mqttJS.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("will/#")
		as := func(name, transport string, version int) login {
			return login{
				app: a, password: a.token(name, time.Hour, ""), transport: transport, version: version,
				will: &will{Topic: "will/" + name, Payload: "lost", QoS: 1, Retain: true},
			}
		}
		leaving := []*client{mqttJS.connect(t, "leaves-js", as("leaves-js", "ws", 5)), paho.connect(t, "leaves-py", as("leaves-py", "tcp", 4))}
		dying := []*client{
			mqttJS.connect(t, "dies-js-ws", as("dies-js-ws", "ws", 5)), mqttJS.connect(t, "dies-js-tcp", as("dies-js-tcp", "tcp", 4)),
			paho.connect(t, "dies-py-ws", as("dies-py-ws", "ws", 4)), paho.connect(t, "dies-py-tcp", as("dies-py-tcp", "tcp", 5)),
		}
		cli := as("dies-cli", "tcp", 5)
		cli.clientID = "dies-cli"
		sub := startMosquittoSub(t, cli, "-t", "nothing", "--will-topic", "will/dies-cli", "--will-payload", "lost", "--will-retain")

		for _, c := range leaving {
			c.disconnect()
			a.awaitDisconnected(c.id)
		}
		watcher.hearsNothingBut(a, "will/fence")

		want := []string{"will/dies-cli lost"}
		for _, c := range dying {
			c.process.kill()
			want = append(want, "will/"+c.id+" lost")
		}
		sub.kill()
		got := []string{}
		for range want {
			got = append(got, watcher.next().says())
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("wills = %q, want %q", got, want)
		}
		watcher.hearsNothingBut(a, "will/fence")
		if kept := a.retained("will/#"); len(kept) != len(want) {
			t.Errorf("kept wills = %v, want those of the %d that were killed", kept, len(want))
		}
	})
}

func TestAWillIsSentWhenAClientFallsSilent(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("wills", anything...)
		watcher := paho.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("will/#")
		sleeper := mqttJS.connect(t, "sleeper", login{
			app: a, password: a.token("sleeper", time.Hour, ""), keepAlive: 2, will: &will{Topic: "will/sleeper", Payload: "silent", QoS: 1},
		})
		sleeper.process.signal(syscall.SIGSTOP) // neither data nor an end: only time tells
		stopped := time.Now()
		watcher.hears("will/sleeper silent")
		if took := time.Since(stopped); took < time.Second {
			t.Errorf("the will came after %v, want about one and a half Keep Alives, 3 s", took)
		}
		sleeper.process.signal(syscall.SIGCONT)
		sleeper.endsWith(0x8D)
	})
}

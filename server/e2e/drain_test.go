package e2e

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestSIGTERMDrains(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t))
		a := s.newApp("drain", anything...)
		as := func(name, transport string, version int) login {
			return login{
				app: a, password: a.token(name, time.Hour, ""), transport: transport, version: version,
				will: &will{Topic: "will/" + name, Payload: "drained", QoS: 1, Retain: true},
			}
		}
		js, py := mqttJS.connect(t, "js", as("js", "ws", 5)), paho.connect(t, "py", as("py", "tcp", 5))
		old := mqttJS.connect(t, "old", as("old", "tcp", 4))
		silent := a.connectWire("silent", a.token("silent", time.Hour, "")) // reads nothing, and does not hold the others up
		flood := startFlood(t.T, a, 0)
		flood.until(100)

		s.process.signal(syscall.SIGTERM)
		began := time.Now()
		js.endsWith(0x8B)
		py.endsWith(0x8B)
		old.endsWith(0)
		flood.end()
		if code := s.process.wait(patience); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		took := time.Since(began)
		t.Logf("the drain took %v", took.Round(time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("the drain took %v, want at most 10 s", took)
		}
		if _, err := os.Stat(s.env["READY_FILE"]); !os.IsNotExist(err) {
			t.Errorf("the ready file is still there: %v", err)
		}
		for _, addr := range []string{s.http, s.mqtt} {
			if c, err := net.Dial("tcp", addr); err == nil {
				t.Errorf("%s still takes connections", addr)
				_ = c.Close() //nolint:errcheck // it should not be there
			}
		}
		_ = silent.net.Close() //nolint:errcheck // the server has

		s.start()
		flood.check(a.retained("#"))
		// The clients had not left by themselves, and have half a minute to come back: then their wills go out.
		eventually(t, 2*patience, func() string {
			kept := a.retained("will/#")
			for _, name := range []string{"js", "py", "old"} {
				if kept["will/"+name] != "drained" {
					return fmt.Sprintf("the will of %s is %q", name, kept["will/"+name])
				}
			}
			return ""
		})
	})
}

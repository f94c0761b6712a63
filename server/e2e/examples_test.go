package e2e

import (
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// exampleKeys runs the commands of the examples' README, as they stand but for the address, and returns the keys that they
// make: for pages, for the device, for the server.
func exampleKeys(t *testing.T, s *server) (page, device, backend string) {
	t.Helper()
	block := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(readFile(t, filepath.Join(webDir, "examples", "README.md")))
	if block == nil {
		t.Fatal("the examples' README shows no commands")
	}
	shell := exec.Command(program(t, "bash", ""), "-euo", "pipefail", "-c", strings.ReplaceAll(block[1], "localhost:8080", s.http))
	shell.Env = append(cleanEnv(), "ADMIN_TOKEN="+s.admin)
	r := run(t, "the README's commands", shell)
	values := regexp.MustCompile(`"value":"(ek_[^"]+)"`).FindAllStringSubmatch(r.stdout, -1)
	if r.code != 0 || len(values) != 3 || strings.Contains(r.stdout, "about:blank") {
		t.Fatalf("the README's commands do not do what they say: %+v", r)
	}
	return values[0][1], values[1][1], values[2][1]
}

// example returns the command of an example, as it stands.
func example(t *testing.T, name, key string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(webDir, "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".py") {
		return python(t, path, args...)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = cleanEnv()
	if key != "" {
		cmd.Env = append(cmd.Env, "EMBERCAST_KEY="+key)
	}
	return cmd
}

func TestTheExamplesRunAsTheyStand(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		pageKey, deviceKey, serverKey := exampleKeys(t.T, s)
		a := &app{s, "demo"}
		base := "http://" + s.http
		web := mqttJS.connect(t, "web", login{app: a, password: a.token("web", time.Hour, "")}).follow("rooms/lobby/+")

		py := startProcess(t, "chat.py", example(t.T, "chat.py", "", base, "demo", pageKey, "lobby", "Grace"))
		py.lineWith("You are in room lobby as Grace.")
		if _, err := py.stdin.Write([]byte("Hello from Python\n")); err != nil {
			t.Fatal(err)
		}
		if m := web.next(); m.Topic != "rooms/lobby/chat" || said(t.T, m) != "Grace: Hello from Python" {
			t.Errorf("web heard %+v", m)
		}
		web.say("rooms/lobby/chat", "no JSON") // which is nobody's business
		web.say("rooms/lobby/chat", `{"id":"1","from":"Web","text":"Hello Grace"}`)
		if got := py.line(); got != "Web: Hello Grace" {
			t.Errorf("chat.py shows %q", got)
		}
		web.hears("rooms/lobby/chat no JSON", `rooms/lobby/chat {"id":"1","from":"Web","text":"Hello Grace"}`)

		r := run(t, "server.sh", example(t.T, "server.sh", serverKey, base, "demo"))
		if r.code != 0 || !strings.Contains(r.stdout, `"topic":"rooms/lobby/topic"`) || !strings.Contains(r.stdout, `"client_id":"web"`) {
			t.Errorf("server.sh: %+v", r)
		}
		for _, want := range []string{"Server: Hello from curl", "Topic: Set by curl"} {
			if got := py.line(); got != want {
				t.Errorf("chat.py shows %q, want %q", got, want)
			}
		}
		if m := web.next(); said(t.T, m) != "Server: Hello from curl" {
			t.Errorf("web heard %+v", m)
		}
		if err := py.stdin.Close(); err != nil {
			t.Fatal(err)
		}
		if code := py.wait(patience); code != 0 {
			t.Errorf("chat.py ends with %d:\n%s", code, py.stderr.String())
		}
		thermostat(t.T, a, deviceKey)
	})
}

// said reads a chat message.
func said(t *testing.T, m message) string {
	t.Helper()
	var of struct{ From, Text string }
	if err := json.Unmarshal([]byte(m.Payload), &of); err != nil {
		t.Errorf("%v: %+v", err, m)
	}
	return of.From + ": " + of.Text
}

// thermostat plays with device.sh: a kept state, a command, nonsense, and the will.
func thermostat(t *testing.T, a *app, key string) {
	t.Helper()
	_, port, err := net.SplitHostPort(a.s.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	const topic = "devices/thermostat-1/"
	keeps := func(want string) {
		t.Helper()
		eventually(t, patience, func() string {
			if got := a.retained("devices/#")[topic+"state"]; got != want {
				return "the state kept is " + got + ", want " + want
			}
			return ""
		})
	}
	device := startProcess(t, "device.sh", example(t, "device.sh", key, "demo", "thermostat-1", "127.0.0.1", port))
	device.lineWith("waits for numbers at devices/thermostat-1/set")
	keeps(`{"on":true,"celsius":19}`)
	a.awaitSubscriber(topic + "set") // what is said before that is not kept for it
	a.publish(topic+"set", "21.5", false)
	device.lineWith("set to 21.5")
	keeps(`{"on":true,"celsius":21.5}`)
	a.publish(topic+"set", "'; rm -rf /", false)
	a.publish(topic+"set", "-3", false)
	device.lineWith("set to -3")
	if !strings.Contains(device.stderr.String(), "not a number") {
		t.Errorf("device.sh says nothing of nonsense: %s", device.stderr.String())
	}
	device.kill() // with mosquitto_sub, which had no time to say goodbye
	keeps(`{"on":false}`)
}

func TestTheExamplesSayHowTheyAreUsed(t *testing.T) {
	t.Parallel()
	s := startServer(t, sqlite)
	a := s.newApp("demo")
	base := "http://" + s.http
	key := a.newKey("publishable", "page", "").Value
	device := a.newKey("device", "d", "").Value
	_, port, err := net.SplitHostPort(s.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, key string
		args      []string
		want      string
	}{
		{"chat.py", "", nil, "python3 chat.py http://localhost:8080 demo"},
		{"chat.py", "", []string{"localhost", "demo", key}, "is not the address of a server"},
		{"chat.py", "", []string{"http://127.0.0.1:1", "demo", key}, "cannot be reached"},
		{"chat.py", "", []string{base, "demo", "ek_wrong"}, "no token: The credential is not valid"},
		{"chat.py", "", []string{base, "demo", key}, "the app's rules do not let you into room lobby"},
		{"device.sh", "", []string{"demo", "thermostat-1"}, "EMBERCAST_KEY=ek_… ./device.sh demo thermostat-1"},
		{"device.sh", device, nil, "EMBERCAST_KEY=ek_… ./device.sh demo thermostat-1"},
		{"device.sh", "ek_wrong", []string{"demo", "thermostat-1", "127.0.0.1", port}, "Bad User Name or Password"},
		{"server.sh", "", []string{base, "demo"}, "EMBERCAST_KEY=ek_… ./server.sh http://localhost:8080 demo"},
		{"server.sh", "ek_wrong", []string{base, "demo"}, "that did not work"},
	} {
		p := startProcess(t, c.name, example(t, c.name, c.key, c.args...)) // its stdin stays open, as a terminal's
		if code := p.wait(patience); code == 0 || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("%s %q = %d, says %q, want %q", c.name, c.args, code, p.stderr.String(), c.want)
		}
	}
}

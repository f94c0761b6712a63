package e2e

import (
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// runnable are the shell blocks that a document marks to be run.
var runnable = regexp.MustCompile("(?s)<!-- run -->\n```sh\n(.*?)```")

// TestReadme types what the README says, one block after another in one shell, against a server that was started with
// nothing set but its addresses.
func TestReadme(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqlite)
	delete(s.env, "ADMIN_TOKEN")
	s.start()
	_, mqttPort, err := net.SplitHostPort(s.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	blocks := runnable.FindAllStringSubmatch(readFile(t, "../../README.md"), -1)
	if len(blocks) < 4 {
		t.Fatalf("the README marks %d blocks to be run", len(blocks))
	}
	script := "set -euo pipefail\n"
	for _, block := range blocks {
		script += block[1]
	}
	script += "echo \"token $TOKEN\"\n"
	for _, name := range []string{"mosquitto_pub", "mosquitto_sub"} {
		program(t, name, "")
		script = strings.ReplaceAll(script, name, name+" -p "+mqttPort)
	}
	script = strings.ReplaceAll(script, "localhost:8080", s.http)
	shell := exec.Command(program(t, "bash", ""), "-c", script)
	shell.Dir, shell.Env = s.dir, cleanEnv()
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	for _, want := range []string{
		`"id":"demo"`, "/examples/?app=demo&key=ek_", `{"seq":1}`, `"topic":"rooms/lobby/topic"`,
		`devices/thermostat-1/state {"celsius": 21.5}`, "token eyJ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the README's commands do not show %q:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "about:blank") {
		t.Errorf("one of the README's commands was refused:\n%s", out)
	}
}

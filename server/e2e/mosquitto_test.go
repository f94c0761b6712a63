package e2e

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// mosquitto returns the command line of a Mosquitto client, over TCP or TLS. The password comes by its configuration file.
func mosquitto(tb testing.TB, name string, as login, args ...string) *exec.Cmd {
	tb.Helper()
	dir := tb.TempDir()
	addr, version := as.app.s.mqtt, "5"
	if as.transport == "tls" {
		addr = as.app.s.mqtts
	}
	switch as.version {
	case 3:
		version = "mqttv31"
	case 4:
		version = "311"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	options := []string{"-h " + host, "-p " + port, "-u " + as.app.id, "-V " + version, "-q 1"}
	if as.password != "" {
		options = append(options, "-P "+as.password)
	}
	if as.ca != "" {
		options = append(options, "--cafile "+as.ca)
	}
	if as.clientID != "" {
		options = append(options, "-i "+as.clientID)
	}
	if err := os.WriteFile(dir+"/"+name, []byte(strings.Join(options, "\n")+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(program(tb, name, ""), args...)
	cmd.Env = append(cleanEnv(), "XDG_CONFIG_HOME="+dir)
	return cmd
}

// mosquittoPub publishes and returns what came of it.
func mosquittoPub(tb testing.TB, as login, args ...string) result {
	tb.Helper()
	return run(tb, "mosquitto_pub", mosquitto(tb, "mosquitto_pub", as, args...))
}

// startMosquittoSub starts a subscriber whose messages come as lines. Its subscription stands when this returns.
func startMosquittoSub(tb testing.TB, as login, args ...string) *process {
	tb.Helper()
	if as.clientID == "" {
		as.clientID = "mosquitto-sub"
	}
	p := startProcess(tb, "mosquitto_sub", mosquitto(tb, "mosquitto_sub", as, args...))
	as.app.awaitSubscribed(as.clientID)
	return p
}

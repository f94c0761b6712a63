package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// install is what to do where something is missing.
const install = "run make test, or .ci/setup"

// serverBinary returns the path of the server, built once a test run. It lies beside the test binary, in the folder that
// `go test` removes.
func serverBinary(tb testing.TB) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatalf("the server cannot be built: %v", err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(own), "embercast-e2e")
	args := append([]string{"build", "-o", path}, buildFlags...)
	if out, err := exec.Command("go", append(args, "../../server")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// program returns the path of a program of the system, which override, an environment variable, may name.
func program(tb testing.TB, name, override string) string {
	tb.Helper()
	if path := os.Getenv(override); override != "" && path != "" {
		name = path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is missing: %s", name, install)
	}
	return path
}

// node returns the command that runs a script of web/e2e.
func node(tb testing.TB, script string) *exec.Cmd {
	tb.Helper()
	for _, module := range []string{"mqtt", "playwright-core"} {
		if _, err := os.Stat(filepath.Join(webDir, "node_modules", module)); err != nil {
			tb.Fatalf("the npm package %s is missing in web/: %s", module, install)
		}
	}
	cmd := exec.Command(program(tb, "node", ""), script)
	cmd.Dir = filepath.Join(webDir, "e2e")
	return cmd
}

var pahoMissing = sync.OnceValue(func() error {
	path := os.Getenv("PYTHON3")
	if path == "" {
		path = python3
	}
	return exec.Command(path, "-c", "import paho.mqtt.client").Run()
})

const python3 = "/usr/bin/python3"

// python returns the command that runs a Python script with Paho.
func python(tb testing.TB, script string, args ...string) *exec.Cmd {
	tb.Helper()
	path := program(tb, python3, "PYTHON3")
	if err := pahoMissing(); err != nil {
		tb.Fatalf("paho-mqtt for %s is missing (%v): %s", path, err, install)
	}
	return exec.Command(path, append([]string{script}, args...)...)
}

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stack is docker-compose.yml, up and running under a project name of its own.
type stack struct {
	t       *testing.T
	command []string // docker compose, or docker-compose
	http    string
	mqtt    string
	token   string
}

// TestComposeUp builds the image and types what docs/self-hosting.md says. COMPOSE_FILE may add files to the project's.
func TestComposeUp(t *testing.T) {
	if os.Getenv("EMBERCAST_TEST_ENGINE") == "" {
		t.Skip("the step deploy of .ci/test runs this where there is a container engine: allowed in CI")
	}
	s := newStack(t)
	s.compose("up", "-d")
	s.await()
	s.token = s.compose("exec", "-T", "server", "/embercast", "admin-token")
	require.Contains(t, s.call(http.MethodGet, "/v1/server", "", http.StatusOK), `"store":{"kind":"postgres"`)
	require.Contains(t, s.call(http.MethodGet, "/v1/server", "", http.StatusOK), `"version":"of-the-test"`)
	s.call(http.MethodPost, "/v1/apps", `{"id":"one"}`, http.StatusCreated)
	s.call(http.MethodPost, "/v1/apps/one/publish", `{"topic":"a/b","payload":"kept","retain":true}`, http.StatusOK)
	s.binary()
	s.confined()
	s.answersMQTT()

	s.compose("kill", "server")
	s.compose("up", "-d")
	s.await()
	s.kept()

	_, err := s.try("run", "--rm", "--no-deps", "-e", "EMBERCAST_DATA_DIR=/tmp/data", "server")
	require.ErrorContains(t, err, "another Embercast server")

	began := time.Now()
	s.compose("stop", "server")
	require.Less(t, time.Since(began), 15*time.Second)
	require.Equal(t, "0", s.inspect("server", "{{.State.ExitCode}}"))

	s.compose("down")
	s.compose("up", "-d")
	s.await()
	require.Equal(t, s.token, s.compose("exec", "-T", "server", "/embercast", "admin-token"))
	s.kept()
}

func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, command: []string{"docker", "compose"}, http: freePort(t), mqtt: freePort(t)}
	if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() != nil {
		s.command = []string{"docker-compose"}
	}
	for key, value := range map[string]string{
		"COMPOSE_PROJECT_NAME": "embercast-test-" + strconv.Itoa(os.Getpid()), "EMBERCAST_VERSION": "of-the-test",
		"EMBERCAST_HTTP_PORT": s.http, "EMBERCAST_MQTT_PORT": s.mqtt, "EMBERCAST_NETWORK": "10.214." + strconv.Itoa(os.Getpid()%256),
	} {
		t.Setenv(key, value)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.try("logs", "--tail=50"))
		}
		if _, err := s.try("down", "--volumes", "--rmi=local", "--timeout=5"); err != nil {
			t.Error(err)
		}
	})
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return port
}

// try runs Compose at the root of the repository, and returns what it printed; all that it said is in the error.
func (s *stack) try(args ...string) (string, error) {
	// Cleanups run when the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	args = append(s.command[1:len(s.command):len(s.command)], args...)
	cmd := exec.CommandContext(ctx, s.command[0], args...)
	cmd.Dir = ".."
	var stdout, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &all), &all
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%v: %w: %s", args, err, all.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// compose is try that must succeed.
func (s *stack) compose(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	require.NoError(s.t, err)
	return out
}

func (s *stack) inspect(service, format string) string {
	s.t.Helper()
	out, err := exec.CommandContext(s.t.Context(), "docker", "inspect", "-f", format, s.compose("ps", "-a", "-q", service)).Output()
	require.NoError(s.t, err)
	return strings.TrimSpace(string(out))
}

// await waits until the health check is content.
func (s *stack) await() {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.inspect("server", "{{.State.Health.Status}}") == "healthy" }, time.Minute, time.Second)
}

func (s *stack) call(method, path, body string, want int) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://127.0.0.1:"+s.http+path, strings.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.token)
	answer, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer answer.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, want, answer.StatusCode, string(text))
	return string(text)
}

func (s *stack) kept() {
	s.t.Helper()
	require.Contains(s.t, s.call(http.MethodGet, "/v1/apps/one/retained", "", http.StatusOK), base64.StdEncoding.EncodeToString([]byte("kept")))
}

// binary looks at how the image's binary was built. Its linker flags are not told; the version has shown them.
func (s *stack) binary() {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "embercast")
	container := s.compose("ps", "-q", "server")
	require.NoError(s.t, exec.CommandContext(s.t.Context(), "docker", "cp", container+":/embercast", file).Run())
	info, err := buildinfo.ReadFile(file)
	require.NoError(s.t, err)
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	require.Equal(s.t, "0", settings["CGO_ENABLED"])
	require.Equal(s.t, "true", settings["-trimpath"])
}

// confined tries to write where only root or nobody may.
func (s *stack) confined() {
	s.t.Helper()
	for _, dir := range []string{"/x", "/secrets/x"} {
		_, err := s.try("exec", "-T", "server", "/embercast", "secrets", "--dir", dir)
		require.ErrorContains(s.t, err, "read-only file system")
	}
	require.Equal(s.t, "65532:65532", s.inspect("server", "{{.Config.User}}"))
	require.Equal(s.t, "map[]", s.inspect("postgres", "{{.HostConfig.PortBindings}}"))
}

// answersMQTT connects without credentials, and is refused in MQTT's own words (CONNACK 4).
func (s *stack) answersMQTT() {
	s.t.Helper()
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(s.t.Context(), "tcp", "127.0.0.1:"+s.mqtt)
	require.NoError(s.t, err)
	defer c.Close() //nolint:errcheck // the server closes it
	require.NoError(s.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"))
	require.NoError(s.t, err)
	answer, err := io.ReadAll(c)
	require.NoError(s.t, err)
	require.Equal(s.t, []byte{0x20, 2, 0, 4}, answer)
}

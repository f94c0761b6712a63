package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/embercast/embercast/server/store/pgtest"
)

// embercast runs a command of the binary to its end, in dir, with these variables of ours and no other.
func embercast(tb testing.TB, dir string, env []string, args ...string) result {
	tb.Helper()
	cmd := exec.Command(serverBinary(tb), args...)
	cmd.Dir, cmd.Env = dir, append(cleanEnv(), env...)
	return run(tb, "embercast "+strings.Join(args, " "), cmd)
}

// failsWith checks that a command has ended with code 1, and plainly: every part is in what it says, and no trace of
// the program's insides.
func (r result) failsWith(tb testing.TB, parts ...string) {
	tb.Helper()
	if r.code != 1 {
		tb.Errorf("exit code %d, want 1; it said:\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, part := range parts {
		if !strings.Contains(r.stderr, part) {
			tb.Errorf("it does not say %q:\n%s", part, r.stderr)
		}
	}
	for _, part := range []string{"panic", "goroutine", ".go:"} {
		if strings.Contains(r.stderr, part) {
			tb.Errorf("it says %q:\n%s", part, r.stderr)
		}
	}
}

func TestTheFirstStartNeedsNothingAndKeepsItsSecretsToItself(t *testing.T) {
	t.Parallel()
	s := newServer(t, sqlite)
	s.env = map[string]string{"READY_FILE": s.env["READY_FILE"]}
	command := s.command("--http-addr", "127.0.0.1:0", "--mqtt-addr", "127.0.0.1:0")
	began := time.Now()
	s.process = startProcess(t, "the server", command)
	p := s.process
	t.Cleanup(func() { s.stop(); s.checkLog(p) })
	s.awaitReady()
	took := time.Since(began)
	t.Logf("the first start took %v", took.Round(time.Millisecond))
	if took > 10*time.Second { // a second, on a machine that does nothing else
		t.Errorf("the first start took %v, want about a second", took)
	}

	for path, mode := range map[string]os.FileMode{"data": 0o700 | os.ModeDir, "data/admin-token": 0o600, "data/secret-key": 0o600, "data/embercast.db": 0o600} {
		info, err := os.Stat(filepath.Join(s.dir, path))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), mode)
		}
	}
	token := strings.TrimSpace(readFile(t, filepath.Join(s.dir, "data", "admin-token")))
	if r := embercast(t, s.dir, nil, "admin-token"); r.code != 0 || r.stdout != token {
		t.Errorf("embercast admin-token = %+v, want %s", r, token)
	}
	s.call("GET", "/v1/apps", token, nil).want(http.StatusOK)
	s.call("GET", "/v1/apps", adminToken, nil).problem(http.StatusUnauthorized)
	if said := p.stderr.String() + strings.Join(p.stdout.all(), "\n"); strings.Contains(said, token) {
		t.Errorf("the admin token stands in the log:\n%s", said)
	}
}

func TestOnATerminalItShowsTheFirstThreeCommandsAndTheyWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	command := fmt.Sprintf("%s --http-addr 127.0.0.1:0 --mqtt-addr 127.0.0.1:0 --ready-file %s", serverBinary(t), ready)
	cmd := exec.Command(program(t, "script", ""), "-qefc", command, "/dev/null")
	cmd.Dir, cmd.Env = dir, cleanEnv()
	terminal := startProcess(t, "the server on a terminal", cmd)
	s := &server{t: t, dir: dir}
	var commands []string
	for len(commands) < 3 {
		if line := strings.TrimSpace(terminal.line()); strings.HasPrefix(line, "curl ") {
			commands = append(commands, line)
		}
	}
	for i, command := range commands {
		r := run(t, command, exec.Command(program(t, "bash", ""), "-c", strings.Replace(command, "curl ", "curl --silent --show-error --fail-with-body ", 1)))
		if r.code != 0 {
			t.Errorf("command %d fails: %+v\n%s", i+1, r, command)
		}
		if i == 2 && r.stdout != `{"seq":1}` {
			t.Errorf("the last command answers %s, want the message kept at step 1", r.stdout)
		}
	}
	s.admin = strings.TrimSpace(readFile(t, filepath.Join(dir, "data", "admin-token")))
	s.http = regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(readFile(t, ready))
	if kept := (&app{s, "demo"}).retained("#"); kept["hello/world"] != "hi" {
		t.Errorf("retained = %v, want hi at hello/world", kept)
	}
}

func TestASecondServerOnTheSameDataIsRefused(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("first", anything...)
		env := []string{
			"EMBERCAST_DATA_DIR=" + s.env["DATA_DIR"], "EMBERCAST_DATABASE_URL=" + s.env["DATABASE_URL"],
			"EMBERCAST_HTTP_ADDR=127.0.0.1:0", "EMBERCAST_MQTT_ADDR=127.0.0.1:0", "EMBERCAST_READY_FILE=" + s.env["READY_FILE"],
		}
		embercast(t, s.dir, env).failsWith(t, s.env["DATA_DIR"], "stop that one first")
		if t.on == postgres { // the same database from another machine, so to say
			embercast(t, s.dir, append(env, "EMBERCAST_DATA_DIR="+t.TempDir())).failsWith(t, "Postgres", "stop that one first")
		}
		// The first one does not notice, and still stands in its ready file.
		a.publish("x", "y", true)
		if readFile(t, s.env["READY_FILE"]) == "" {
			t.Error("the ready file is empty")
		}
		s.stop()
		s.start()
		if kept := a.retained("#"); kept["x"] != "y" {
			t.Errorf("retained after all this = %v", kept)
		}
	})
}

func TestATakenPortAnUnreachableDatabaseAndABadDirectoryAreNamedPlainly(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // nobody connects
	addr := taken.Addr().String()
	dir := t.TempDir()
	free := []string{"EMBERCAST_HTTP_ADDR=127.0.0.1:0", "EMBERCAST_MQTT_ADDR=127.0.0.1:0"}

	embercast(t, dir, []string{"EMBERCAST_HTTP_ADDR=" + addr, "EMBERCAST_MQTT_ADDR=" + addr}).failsWith(t,
		addr+" (for http) is taken", "--http-addr", addr+" (for mqtt) is taken", "EMBERCAST_MQTT_ADDR")

	r := embercast(t, dir, append(free, "EMBERCAST_DATABASE_URL=postgres://ember:hunter2secret@127.0.0.1:1/nowhere?connect_timeout=5"))
	r.failsWith(t, "EMBERCAST_DATABASE_URL", "Postgres", "127.0.0.1")
	if strings.Contains(r.stderr, "hunter2secret") {
		t.Errorf("the password is shown:\n%s", r.stderr)
	}

	file := filepath.Join(dir, "a-file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	embercast(t, dir, append(free, "EMBERCAST_DATA_DIR="+filepath.Join(file, "data"))).failsWith(t, file, "EMBERCAST_DATA_DIR")
	embercast(t, dir, append(free, "EMBERCAST_MQTTS_ADDR=127.0.0.1:0", "EMBERCAST_TLS_CERT="+file, "EMBERCAST_TLS_KEY="+file)).failsWith(t, file, "EMBERCAST_TLS_CERT")
}

func TestAllProblemsOfAConfigurationAreToldTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := embercast(t, dir, []string{
		"EMBERCAST_HTTP_ADDR=nonsense", "EMBERCAST_MQTT_ADDR=1883", "EMBERCAST_MQTTS_ADDR=:0", "EMBERCAST_ADMIN_TOKEN=short",
		"EMBERCAST_SECRET_KEY=abc", "EMBERCAST_DATABASE_URL=mysql://root:hunter2secret@db/x", "EMBERCAST_TRUSTED_PROXIES=10.0.0.0/99",
		"EMBERCAST_LOG_LEVEL=loud",
	})
	r.failsWith(t, "EMBERCAST_HTTP_ADDR", "EMBERCAST_MQTT_ADDR", "EMBERCAST_TLS_CERT", "EMBERCAST_ADMIN_TOKEN", "EMBERCAST_SECRET_KEY",
		"EMBERCAST_DATABASE_URL", "EMBERCAST_TRUSTED_PROXIES", "EMBERCAST_LOG_LEVEL")
	for _, secret := range []string{"hunter2secret", `"short"`, `"abc"`} {
		if strings.Contains(r.stderr, secret) {
			t.Errorf("it shows %s:\n%s", secret, r.stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
		t.Errorf("it made a data directory before it refused: %v", err)
	}
	if r := embercast(t, dir, nil, "--no-such-flag"); r.code != 2 || !strings.Contains(r.stderr, "no-such-flag") {
		t.Errorf("an unknown flag: %+v, want code 2", r)
	}
}

func TestASecretMayStandInAFile(t *testing.T) {
	onBothStores(t, func(t story) {
		dir := t.TempDir()
		file := func(name, text string) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		s := newServer(t, t.on)
		url := s.env["DATABASE_URL"]
		if t.on == sqlite {
			url = "sqlite://" + filepath.Join(dir, "elsewhere.db")
		}
		delete(s.env, "DATABASE_URL")
		delete(s.env, "ADMIN_TOKEN")
		s.env["DATABASE_URL_FILE"] = file("url", url)
		s.env["ADMIN_TOKEN_FILE"] = file("admin", adminToken)
		s.env["SECRET_KEY_FILE"] = file("key", strings.Repeat("ab", 32))
		s.env["METRICS_TOKEN_FILE"] = file("metrics", "token-of-the-metrics-reader")
		s.start()
		a := s.newApp("files", anything...)
		a.publish("x", "y", true)
		s.call("GET", "/metrics", "token-of-the-metrics-reader", nil).want(http.StatusOK)
		s.call("GET", "/v1/apps", "token-of-the-metrics-reader", nil).problem(http.StatusUnauthorized)
		for _, name := range []string{"admin-token", "secret-key"} {
			if _, err := os.Stat(filepath.Join(s.env["DATA_DIR"], name)); !os.IsNotExist(err) {
				t.Errorf("%s was made though it was given: %v", name, err)
			}
		}
		if r := embercast(t, dir, []string{"EMBERCAST_ADMIN_TOKEN_FILE=" + s.env["ADMIN_TOKEN_FILE"]}, "admin-token"); r.stdout != adminToken {
			t.Errorf("embercast admin-token = %+v", r)
		}
		for _, wrong := range [][]string{
			{"EMBERCAST_ADMIN_TOKEN=" + adminToken, "EMBERCAST_ADMIN_TOKEN_FILE=" + s.env["ADMIN_TOKEN_FILE"]},
			{"EMBERCAST_ADMIN_TOKEN_FILE=" + filepath.Join(dir, "not-there")},
		} {
			if r := embercast(t, dir, wrong); r.code == 0 || !strings.Contains(r.stderr, "EMBERCAST_ADMIN_TOKEN_FILE") {
				t.Errorf("%v: %+v, want it refused by name", wrong, r)
			}
		}
	})
}

func TestTheCommandsBesideServeDoWhatTheySay(t *testing.T) {
	onBothStores(t, func(t story) {
		dir := t.TempDir()
		env := []string{"EMBERCAST_DATA_DIR=" + filepath.Join(dir, "data")}
		kind := "sqlite"
		if t.on == postgres {
			env, kind = append(env, "EMBERCAST_DATABASE_URL="+pgtest.URL(t)), "postgres"
		}
		if r := embercast(t, dir, env, "version"); r.code != 0 || !regexp.MustCompile(`^embercast \S+$`).MatchString(r.stdout) {
			t.Errorf("version: %+v", r)
		}
		if r := embercast(t, dir, env, "--help"); r.code != 0 || !strings.Contains(r.stdout, "EMBERCAST_DATABASE_URL") {
			t.Errorf("--help: %+v", r)
		}
		for range 2 { // the second time there is nothing to do
			if r := embercast(t, dir, env, "migrate"); r.code != 0 || !strings.Contains(strings.ToLower(r.stdout), kind+" database is up to date") {
				t.Errorf("migrate: %+v", r)
			}
		}
		embercast(t, dir, env, "admin-token").failsWith(t, "admin-token", "start the server once")
		embercast(t, dir, append(env, "EMBERCAST_HTTP_ADDR=127.0.0.1:1"), "healthcheck").failsWith(t, "healthcheck")

		s := newServer(t, t.on)
		delete(s.env, "ADMIN_TOKEN")
		for _, v := range env {
			name, value, _ := strings.Cut(v, "=")
			s.env[strings.TrimPrefix(name, "EMBERCAST_")] = value
		}
		s.start()
		if r := embercast(t, dir, append(env, "EMBERCAST_HTTP_ADDR="+s.http), "healthcheck"); r.code != 0 {
			t.Errorf("healthcheck of a running server: %+v", r)
		}
		first := embercast(t, dir, env, "admin-token").stdout
		rotated := embercast(t, dir, env, "admin-token", "--rotate")
		if rotated.code != 0 || rotated.stdout == first || rotated.stdout == "" {
			t.Errorf("admin-token --rotate: %+v, want another token than %s", rotated, first)
		}
		if r := embercast(t, dir, env, "admin-token"); r.stdout != rotated.stdout {
			t.Errorf("admin-token after --rotate = %s, want %s", r.stdout, rotated.stdout)
		}
		s.call("GET", "/v1/apps", first, nil).want(http.StatusOK) // until it is started again
		s.stop()
		s.start()
		s.call("GET", "/v1/apps", first, nil).problem(http.StatusUnauthorized)
		s.call("GET", "/v1/apps", rotated.stdout, nil).want(http.StatusOK)
	})
}

// Package e2e plays stories on the real binary, on both stores, with the clients that people have: mqtt.js in Node and in
// Chromium, Paho in Python, Mosquitto's command-line clients, and curl. A story states what every side has seen, and what
// it must not have seen. The clients' side is in web/e2e; bytes that no client would send come from wire_test.go.
//
// Nothing is skipped: what is missing fails the test, and .ci/setup installs it. CHROMIUM and PYTHON3 name other programs
// than /usr/bin/chromium and /usr/bin/python3; UPDATE_SCREENSHOTS=1 writes docs/images/chat.png anew.
package e2e

import (
	"os"
	"testing"
	"time"

	// So that `go test` has compiled what the binary is made of before it is built, with the same flags.
	_ "github.com/embercast/embercast/server/node"
	"github.com/embercast/embercast/server/store/pgtest"
)

// patience is how long anything may take that should happen at once: the machine may be busy.
const patience = 40 * time.Second

func TestMain(m *testing.M) { pgtest.Main(m) }

// store is a kind of database.
type store string

const (
	sqlite   store = "sqlite"
	postgres store = "postgres"
)

// onBothStores plays a story on each kind of database, side by side.
func onBothStores(t *testing.T, story func(t *testing.T, on store)) {
	t.Helper()
	t.Parallel()
	for _, on := range []store{sqlite, postgres} {
		t.Run(string(on), func(t *testing.T) {
			t.Parallel()
			story(t, on)
		})
	}
}

// eventually waits until check says nothing; what it said last is the failure.
func eventually(t testing.TB, within time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, problem)
		}
		<-time.After(wait)
	}
}

// webDir is the folder of the clients, seen from here.
const webDir = "../../web"

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

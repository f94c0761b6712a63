// Package e2e plays stories on the real binary, on both stores, with the clients that people have: mqtt.js in Node and in
// Chromium, Paho in Python, Mosquitto's command-line clients, and curl. A story states what every side has seen, and what
// it must not have seen. The clients' side is in web/e2e; bytes that no client would send come from wire_test.go.
//
// Nothing is skipped: what is missing fails the test, and .ci/setup installs it. CHROMIUM and PYTHON3 name other programs
// than /usr/bin/chromium and /usr/bin/python3; UPDATE_SCREENSHOTS=1 writes docs/images/chat.png anew.
package e2e

import (
	"flag"
	"os"
	"testing"
	"time"

	// So that `go test` has compiled what the binary is made of before it is built, with the same flags.
	_ "github.com/embercast/embercast/server/node"
	"github.com/embercast/embercast/server/store/pgtest"
)

// patience is how long anything may take that should happen at once: the machine may be busy.
const patience = 40 * time.Second

// storiesAtATime is how many stories are played side by side where -parallel says nothing: they wait most of their time.
const storiesAtATime = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", storiesAtATime); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m)
}

// store is a kind of database.
type store string

const (
	sqlite   store = "sqlite"
	postgres store = "postgres"
)

// story is a test on one kind of database.
type story struct {
	*testing.T
	on store
}

// onBothStores plays a story on each kind of database, side by side.
func onBothStores(t *testing.T, play func(t story)) {
	t.Helper()
	t.Parallel()
	for _, on := range []store{sqlite, postgres} {
		t.Run(string(on), func(t *testing.T) {
			t.Parallel()
			play(story{t, on})
		})
	}
}

// eventually waits until check says nothing; what it said last is the failure.
func eventually(tb testing.TB, within time.Duration, check func() string) {
	tb.Helper()
	deadline := time.Now().Add(within)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", within, problem)
		}
		<-time.After(wait)
	}
}

// webDir is the folder of the clients, seen from here.
const webDir = "../../web"

func readFile(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

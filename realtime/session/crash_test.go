package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// randomQoS returns the QoS of n messages.
func randomQoS(random *rand.Rand, n int) []byte {
	qos := make([]byte, n)
	for i := range qos {
		qos[i] = byte(1 + random.IntN(2))
	}
	return qos
}

// randomWorld plays one random story and returns what went wrong.
func randomWorld(t *testing.T, f fault, seed uint64) []string {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	// Some begin where the server's identifiers soon wrap.
	w := newWorld(f, randomQoS(random, 8), []uint16{0, 65_533}[random.IntN(2)])
	return w.play(t, random, 4, 3)
}

// randomWorlds is how many random stories are tried.
const randomWorlds = 2000

func TestCrash_at_any_time_keeps_at_least_once_exactly_once_and_order(t *testing.T) {
	t.Parallel()
	for seed := range uint64(randomWorlds) {
		if wrong := randomWorld(t, none, seed); len(wrong) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(wrong, "; "))
		}
	}
}

// TestCrash_at_every_step breaks one story off before each of its steps, twice, in any combination of crash and broken
// connection, and sees that this was also between each commit and the packet that it must precede.
func TestCrash_at_every_step(t *testing.T) {
	t.Parallel()
	qos := []byte{2, 1, 2}
	seen := map[string]bool{}
	for rotation := range 2 {
		wrong, steps := newWorld(none, qos, 0).playInOrder(t, rotation)
		require.Empty(t, wrong)
		for first := range steps {
			for second := first; second < first+steps; second++ {
				for _, ends := range [][]int{{first, second}, {-first, second}, {first, -second}} {
					w := newWorld(none, qos, 0)
					if wrong, _ := w.playInOrder(t, rotation, ends...); len(wrong) > 0 {
						t.Fatalf("rotation %d, broken off at %v: %s", rotation, ends, strings.Join(wrong, "; "))
					}
					for at := range w.crashedAt {
						seen[at] = true
					}
				}
			}
		}
	}
	for _, row := range []string{
		"message, then PUBACK", "message and id, then PUBREC", "id's deletion, then PUBCOMP", "window row, then PUBLISH",
		"state rel, then PUBREL", "PUBREL, then nothing", "PUBLISH QoS 1, then nothing", "flush, then nothing",
	} {
		require.True(t, seen[row], "no crash between %s", row)
	}
}

// TestCrash_model_notices_the_wrong_order shows that the two tests above would fail, each row of the table by row.
func TestCrash_model_notices_the_wrong_order(t *testing.T) {
	t.Parallel()
	for f, want := range map[fault]string{
		ackBeforeMessage:    "of QoS 1 was never published",
		recBeforeMessage:    "of QoS 2 was never published",
		idAfterMessage:      "of QoS 2 was published 2 times",
		idKeptAtOnce:        "of QoS 2 was never published",
		idBeforeMessage:     "of QoS 2 was never published",
		compBeforeDeletion:  "of QoS 2 was never published",
		publishBeforeRow:    "of QoS 2 was never delivered",
		relBeforeState:      "of QoS 2 was delivered 2 times",
		publishAfterRel:     "of QoS 2 was delivered 2 times",
		cursorBeforeWindow:  "was never delivered",
		duplicateAtOnce:     "of QoS 2 was never published",
		windowOutOfOrder:    "was delivered out of order",
		newIdentifierResent: "of QoS 2 was delivered 2 times",
	} {
		t.Run(fmt.Sprintf("%s: a message %s", f, want), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(randomWorlds) {
				if slices.ContainsFunc(randomWorld(t, f, seed), func(wrong string) bool { return strings.Contains(wrong, want) }) {
					return
				}
			}
			t.Fatalf("%d stories, and no message %s", randomWorlds, want)
		})
	}
}

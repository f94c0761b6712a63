package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rows of the table that are about the session itself: what SUBACK, UNSUBACK and CONNACK promise is committed
// before they leave. A client asks for one thing after the other; whenever the server crashes, it connects again and
// asks again for what was not acknowledged.

// request is what the client asks for.
type request struct {
	name string // of the packet that acknowledges it
	do   func(s *Session) *Session
}

func connectRequest(clean bool) request {
	return request{"CONNACK", func(s *Session) *Session {
		if clean {
			return New()
		}
		return s
	}}
}

func subscribeRequest(filter string) request {
	return request{"SUBACK", func(s *Session) *Session {
		s.Subscribe(Subscription{Filter: filter, QoS: 1})
		return s
	}}
}

func unsubscribeRequest(filter string) request {
	return request{"UNSUBACK", func(s *Session) *Session {
		s.Unsubscribe(filter)
		return s
	}}
}

// controlScript asks for all that can be asked for, more than once.
var controlScript = []request{
	connectRequest(false), subscribeRequest("a"), subscribeRequest("b"), unsubscribeRequest("a"), subscribeRequest("c"),
	connectRequest(true), subscribeRequest("d"), connectRequest(false), unsubscribeRequest("d"),
}

// filtersOf returns what a stored session is subscribed to; "none" when there is none.
func filtersOf(st *State) string {
	if st == nil {
		return "none"
	}
	var filters []string
	for _, sub := range st.Subscriptions {
		filters = append(filters, sub.Filter)
	}
	return fmt.Sprintf("session %v", filters)
}

// apply returns what the store must hold after the first n requests.
func apply(n int) *State {
	if n == 0 {
		return nil
	}
	s := New()
	for _, r := range controlScript[:n] {
		s = r.do(s)
	}
	st := s.State()
	return &st
}

// playControl plays the script, with crashes before the effects of those numbers. wrong names the acknowledgement that
// leaves before its commit.
func playControl(t *testing.T, wrong string, crashes ...int) (violations []string, effects int) {
	t.Helper()
	var stored *State
	acknowledged := 0
	crashed := func() bool {
		effects++
		return slices.Contains(crashes, effects-1)
	}
	for acknowledged < len(controlScript) {
		// The server is up again, with what was stored; the client asks for what was not acknowledged.
		if before, after := filtersOf(apply(acknowledged)), filtersOf(apply(acknowledged+1)); !slices.Contains([]string{before, after}, filtersOf(stored)) {
			return append(violations, fmt.Sprintf("%s, where the client was told of %s", filtersOf(stored), before)), effects
		}
		s := New()
		if stored != nil {
			var err error
			s, err = Restore(*stored)
			require.NoError(t, err)
		}
		for up := true; up && acknowledged < len(controlScript); {
			r := controlScript[acknowledged]
			s = r.do(s)
			st := s.State()
			both := []func(){func() { stored = &st }, func() { acknowledged++ }}
			if r.name == wrong {
				slices.Reverse(both)
			}
			for _, effect := range both {
				if up = !crashed(); !up {
					break
				}
				effect()
			}
		}
	}
	if got, want := filtersOf(stored), filtersOf(apply(acknowledged)); got != want {
		violations = append(violations, fmt.Sprintf("%s at the end, want %s", got, want))
	}
	return violations, effects
}

// crashesEverywhere plays the script with every one and every two crashes, and returns what went wrong first.
func crashesEverywhere(t *testing.T, wrong string) []string {
	t.Helper()
	violations, effects := playControl(t, wrong)
	require.Empty(t, violations, "without a crash the order does not show")
	for first := range effects {
		for second := first; second < effects+2; second++ {
			if violations, _ = playControl(t, wrong, first, second); len(violations) > 0 {
				return violations
			}
		}
	}
	return nil
}

func TestCrash_before_and_after_SUBACK_UNSUBACK_and_CONNACK_leaves_what_was_acknowledged(t *testing.T) {
	t.Parallel()
	require.Empty(t, crashesEverywhere(t, ""))
}

func TestCrash_model_notices_an_acknowledgement_before_its_commit(t *testing.T) {
	t.Parallel()
	for wrong, want := range map[string]string{
		"SUBACK":   "session [], where the client was told of session [a]",
		"UNSUBACK": "session [a b], where the client was told of session [b]",
		"CONNACK":  "none, where the client was told of session []",
	} {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, strings.Join(crashesEverywhere(t, wrong), "; "), want)
		})
	}
}

// TestCrash_after_a_clean_start_does_not_raise_the_old_session is the row of CONNACK told alone: what rises again when
// the deletion is not committed first.
func TestCrash_after_a_clean_start_does_not_raise_the_old_session(t *testing.T) {
	t.Parallel()
	const connect = 5 // the clean start in the script
	before := 2 * connect
	for crash := before; crash < before+4; crash++ {
		violations, _ := playControl(t, "", crash)
		require.Empty(t, violations)
	}
	violations, _ := playControl(t, "CONNACK", before+1)
	require.Equal(t, []string{"session [b c], where the client was told of session []"}, violations)
}

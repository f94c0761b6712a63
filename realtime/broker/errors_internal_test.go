package broker

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/packet"
)

// requireSentence wants text for people: short enough for the smallest of packets to carry.
func requireSentence(t *testing.T, text string) {
	t.Helper()
	require.Regexp(t, `^[A-Z][^\n]*\.$`, text)
	require.LessOrEqual(t, len(text), 160, text)
}

func TestEveryOutcomeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, o := range outcomes {
		requireSentence(t, o.Sentence)
		require.True(t, o.Reason.Failed())
		require.Same(t, OutcomeOf(o.Err), OutcomeOf(fmt.Errorf("wrapped: %w", o.Err)))
	}
	unknown := OutcomeOf(errors.New("pq: password authentication failed for user root"))
	require.Equal(t, "internal", unknown.Code)
	require.NotContains(t, unknown.Sentence, "root", "nothing of the server's inside is told")
	requireSentence(t, unknown.Sentence)
}

func TestEveryFarewellSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for reason, text := range farewellsByReason {
		requireSentence(t, text)
		require.Equal(t, text, Farewell(reason, "any other cause"))
	}
	for cause, text := range farewells {
		requireSentence(t, text)
		require.Equal(t, text, Farewell(packet.NotAuthorized, cause))
	}
	require.Equal(t, "What came is not as the standard wants it: second CONNECT [MQTT5-3.1.0-2].",
		Farewell(packet.ProtocolError, "second CONNECT [MQTT5-3.1.0-2]"))
}

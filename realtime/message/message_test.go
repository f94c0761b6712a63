package message

import (
	"cmp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPosition_Compare(t *testing.T) {
	t.Parallel()
	ascending := []Position{{}, {0, 1}, {1, 0}, {1, 1}, {1, 1<<32 - 1}, {2, 0}, {1<<64 - 1, 0}, {1<<64 - 1, 1<<32 - 1}}
	for i, p := range ascending {
		for j, q := range ascending {
			require.Equal(t, cmp.Compare(i, j), p.Compare(q), "%v and %v", p, q)
		}
	}
	position := rapid.Custom(func(t *rapid.T) Position {
		return Position{rapid.Uint64().Draw(t, "seq"), rapid.Uint32().Draw(t, "part")}
	})
	rapid.Check(t, func(t *rapid.T) {
		p, q := position.Draw(t, "p"), position.Draw(t, "q")
		require.Equal(t, cmp.Or(cmp.Compare(p.Seq, q.Seq), cmp.Compare(p.Part, q.Part)), p.Compare(q))
	})
}

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func TestExpired(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		expires time.Time
		want    bool
	}{
		{"never", time.Time{}, false},
		{"later", noon.Add(1), false},
		{"now [MQTT5-3.3.2-5]", noon, true},
		{"before", noon.Add(-1), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, (&Message{Expires: c.expires}).Expired(noon))
		})
	}
}

func TestClears_is_a_retained_message_without_payload(t *testing.T) {
	t.Parallel()
	require.True(t, (&Message{Retain: true}).Clears(), "[MQTT5-3.3.1-6]")
	require.True(t, (&Message{Retain: true, Payload: []byte{}}).Clears())
	require.False(t, (&Message{}).Clears(), "[MQTT5-3.3.1-8]")
	require.False(t, (&Message{Retain: true, Payload: []byte("0")}).Clears())
}

package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInbound(t *testing.T) {
	t.Parallel()
	t.Run("a QoS 2 message is new once, until its PUBREL [MQTT5-4.3.3-10]", func(t *testing.T) {
		t.Parallel()
		s := New()
		require.False(t, s.Receive(7))
		require.True(t, s.Receive(7))
		require.False(t, s.Receive(8))
		require.Equal(t, 2, s.InboundCount())
	})
	t.Run("after PUBREL the identifier is that of a new message [MQTT5-4.3.3-12]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Receive(7)
		require.True(t, s.Release(7))
		require.False(t, s.Receive(7))
	})
	t.Run("a PUBREL of an unknown identifier is told apart", func(t *testing.T) {
		t.Parallel()
		s := New()
		require.False(t, s.Release(7))
		s.Receive(7)
		require.True(t, s.Release(7))
		require.False(t, s.Release(7))
		require.Zero(t, s.InboundCount())
	})
	t.Run("after a refusal the identifier is that of a new message [MQTT5-4.3.3-9]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Receive(7)
		s.Forget(7)
		require.False(t, s.Receive(7))
	})
	t.Run("identifiers of the client are no business of the server's own [MQTT5-2.2.1-3]", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Receive(1)
		require.Equal(t, uint16(1), s.Send(Entry{QoS: 2}))
		require.True(t, s.Release(1))
		require.Equal(t, PubrecRelease, s.Pubrec(1, false))
	})
	t.Run("only what is kept with its message, or behind it, is committed", func(t *testing.T) {
		t.Parallel()
		s := New()
		s.Receive(7)
		require.False(t, s.Kept(7))
		require.Empty(t, s.State().Inbound)
		require.True(t, s.Keep(7))
		require.True(t, s.Kept(7))
		require.Equal(t, []uint16{7}, s.State().Inbound)
		require.False(t, s.Keep(8), "an identifier that was not received")
		require.False(t, s.Queued(8))
	})
}

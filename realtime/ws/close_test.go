package ws

import (
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
)

// A browser calls a second close frame, or any frame after the first, a broken connection (RFC 6455 section 5.5.1).
func TestNothingFollowsTheServersCloseFrame(t *testing.T) {
	t.Parallel()
	// Each its own: what is fed is unmasked in place.
	clientClose := func() []byte { return []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8} }
	clientPing := func() []byte { return []byte{0x89, 0x80, 0, 0, 0, 0} }
	for name, test := range map[string]struct {
		happens func(*endpoint)
		sent    []byte
	}{
		"when the client's close crosses it": {func(e *endpoint) {
			e.mqtt.TimedOut()
			_ = e.feed(clientClose()) //nolint:errcheck // what is sent is judged
		}, closeFrame(closePolicy)},
		"when the client's ping crosses it": {func(e *endpoint) {
			e.mqtt.TimedOut()
			_ = e.feed(clientPing()) //nolint:errcheck // as above
		}, closeFrame(closePolicy)},
		"when the client closed first": {func(e *endpoint) {
			_ = e.feed(clientClose()) //nolint:errcheck // as above
			e.mqtt.WriteRaw(newFrame(opPong, nil))
			e.mqtt.TimedOut()
		}, closeFrame(closeNormal)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, client := net.Pipe() // takes nothing before it is read
			e := newEndpoint(conn.Config{Observer: &brokertest.Observer{}, Logger: slog.New(slog.DiscardHandler)}, server, conn.Meta{})
			test.happens(e)
			require.NoError(t, client.SetDeadline(time.Now().Add(brokertest.Patience)))
			got, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Equal(t, test.sent, got)
		})
	}
}

package driver_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/driver"
	"github.com/embercast/embercast/realtime/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type wire struct{ *conn.NetWire }

func (wire) Frame(buf []byte) []byte           { return buf[conn.HeadroomBytes:] }
func (wire) Farewell(packet.ReasonCode) []byte { return nil }

// drive hands one end of a connection to s and returns the other.
func drive(t *testing.T, s *driver.Set) net.Conn {
	t.Helper()
	log, observer := slog.New(slog.DiscardHandler), &brokertest.Observer{}
	b := broker.New(broker.Config{Store: brokertest.NewStore(1), Authenticator: brokertest.NewWorld(), Observer: observer, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		b.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	require.NoError(t, b.OpenApp(ctx, broker.AppConfig{UID: 1, ID: "app"}))
	here, there := net.Pipe()
	c := conn.New(conn.Config{Broker: b, Observer: observer, Logger: log}, wire{conn.NewNetWire(there, time.Second)}, conn.Meta{})
	go s.Drive(there, c, c.Receive)
	t.Cleanup(func() { _ = here.Close() }) //nolint:errcheck // it may be closed already
	return here
}

func established(t *testing.T, s *driver.Set) net.Conn {
	t.Helper()
	c := drive(t, s)
	client := brokertest.NewClient(t, c, packet.V5)
	client.Connect("c")
	client.Send(&packet.Ping{Kind: packet.TypePingreq}) // answered by who reads on after CONNECT
	brokertest.Expect[*packet.Ping](client)
	return c
}

func TestClose(t *testing.T) {
	t.Parallel()
	t.Run("waits for connections to end by themselves", func(t *testing.T) {
		t.Parallel()
		var s driver.Set
		c := established(t, &s)
		closed := make(chan struct{})
		go func() {
			s.Close(context.Background())
			close(closed)
		}()
		require.NoError(t, c.Close())
		<-closed
	})
	t.Run("closes those that stay when its time is over, and those that come later", func(t *testing.T) {
		t.Parallel()
		var s driver.Set
		stays := established(t, &s)
		over, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(over)
		_, err := stays.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		late := drive(t, &s)
		_, err = late.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
	t.Run("does not wait for those that have not said CONNECT", func(t *testing.T) {
		t.Parallel()
		var s driver.Set
		silent := drive(t, &s)
		_, err := silent.Write([]byte{0x10}) // it is live from here on
		require.NoError(t, err)
		s.Close(context.Background())
		_, err = silent.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

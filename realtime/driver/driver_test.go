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

func drive(s *driver.Set) net.Conn {
	here, there := net.Pipe()
	cfg := conn.Config{
		Broker:   broker.New(broker.Config{Store: brokertest.NewStore(), Authenticator: brokertest.NewWorld(), Observer: &brokertest.Observer{}, Logger: slog.New(slog.DiscardHandler)}),
		Observer: &brokertest.Observer{}, Logger: slog.New(slog.DiscardHandler),
	}
	c := conn.New(cfg, wire{conn.NewNetWire(there, time.Second)}, conn.Meta{})
	go s.Drive(there, c, c.Receive)
	return here
}

func TestClose(t *testing.T) {
	t.Parallel()
	t.Run("waits for connections to end by themselves", func(t *testing.T) {
		t.Parallel()
		var s driver.Set
		c := drive(&s)
		_, err := c.Write([]byte{0x10}) // it is live from here on
		require.NoError(t, err)
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
		stays := drive(&s)
		_, err := stays.Write([]byte{0x10})
		require.NoError(t, err)
		over, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(over)
		_, err = stays.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		late := drive(&s)
		_, err = late.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

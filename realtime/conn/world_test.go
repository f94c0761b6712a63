package conn_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
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

// world is a broker with two apps, in which everybody may do everything until told otherwise.
type world struct {
	*brokertest.World
	tb       testing.TB
	broker   *broker.Broker
	store    *brokertest.Store
	observer *brokertest.Observer
	live     *driver.Set
	stop     func()        // ends the broker that runs
	patience time.Duration // with a client that reads nothing
}

// crash ends the broker without a word to anybody, and starts another over what the store holds.
func (w *world) crash() {
	w.tb.Helper()
	stop, left := w.stop, w.store.Copy()
	w.store = left
	stop()
	w.start()
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{
		World: brokertest.NewWorld(), tb: tb, store: brokertest.NewStore(1, 2), observer: &brokertest.Observer{},
		patience: 5 * time.Second,
	}
	w.start()
	return w
}

// start runs a broker over the store; stopped by the test's end.
func (w *world) start() {
	w.broker = broker.New(broker.Config{
		Store: w.store, Authenticator: w.World, Observer: w.observer, Logger: slog.New(slog.DiscardHandler), Version: "1.2.3",
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		w.broker.Run(ctx)
		close(ended)
	}()
	w.live = &driver.Set{}
	b, live := w.broker, w.live
	w.stop = sync.OnceFunc(func() {
		b.Drain()
		closing, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		live.Close(closing)
		cancel()
		<-ended
	})
	w.tb.Cleanup(w.stop)
	for uid := range broker.AppUID(2) {
		require.NoError(w.tb, w.broker.OpenApp(context.Background(), broker.AppConfig{UID: uid + 1, ID: "app", Limits: brokertest.Limits()}))
	}
}

// wire is plain MQTT.
type wire struct{ *conn.NetWire }

func (wire) Frame(buf []byte) []byte           { return buf[conn.HeadroomBytes:] }
func (wire) Farewell(packet.ReasonCode) []byte { return nil }

// dial opens a connection to app 1; app "two" is the other.
func (w *world) dial(v packet.Version, app ...string) *brokertest.Client {
	w.tb.Helper()
	c, _ := w.dialSeen(v, app...)
	return c
}

// dialSeen is dial, with the server's side of the connection.
func (w *world) dialSeen(v packet.Version, app ...string) (*brokertest.Client, *conn.Conn) {
	w.tb.Helper()
	here, there := net.Pipe()
	meta := conn.Meta{Transport: "tcp"}
	if len(app) > 0 {
		meta.PathApp = app[0]
	}
	c := conn.New(conn.Config{Broker: w.broker, Observer: w.observer, Logger: slog.New(slog.DiscardHandler)},
		wire{conn.NewNetWire(there, w.patience)}, meta)
	go w.live.Drive(there, c, c.Receive)
	return brokertest.NewClient(w.tb, here, v), c
}

// client is a connection that has said CONNECT.
func (w *world) client(v packet.Version, id string) *brokertest.Client {
	w.tb.Helper()
	c := w.dial(v)
	c.Connect(id)
	return c
}

// versions are those for which what both have is tested.
var versions = map[string]packet.Version{"3.1.1": packet.V311, "5.0": packet.V5} //nolint:gochecknoglobals // a table

func user(name string) func(*packet.Connect) {
	return func(p *packet.Connect) { p.HasUsername, p.Username = true, name }
}

func password(text string) func(*packet.Connect) {
	return func(p *packet.Connect) {
		p.HasUsername, p.HasPassword, p.Password = true, true, []byte(text)
	}
}

func will(topic, payload string) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Will = &packet.Will{Topic: topic, Payload: []byte(payload)} }
}

func properties(props packet.Properties) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Properties = &props }
}

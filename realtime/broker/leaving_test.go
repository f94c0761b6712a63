package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// between is an observer that lets a test act in the middle of the end of a connection: when its place is free, and what
// becomes of its session and its will is still to be done.
type between struct {
	*brokertest.Observer
	act func()
}

// Disconnected implements broker.Observer.
func (o *between) Disconnected(reason packet.ReasonCode) {
	o.Observer.Disconnected(reason)
	if act := o.act; act != nil {
		o.act = nil
		act()
	}
}

// lasting lets a client in whose session outlives the connection, with a will.
func (w *world) lasting(out broker.Outbound, cleanStart bool, will string, delay time.Duration) *broker.Client {
	w.tb.Helper()
	g, err := w.Broker.Authenticate(context.Background(), broker.Credentials{ClientID: "c"})
	require.NoError(w.tb, err)
	c, err := w.Connect(g, broker.ConnectRequest{
		Credentials: broker.Credentials{ClientID: "c"}, Version: packet.V5, Out: out, SessionExpiry: time.Hour, CleanStart: cleanStart,
		Will: &broker.Will{Message: &message.Message{Topic: "will", Payload: []byte(will), QoS: 1}, Delay: delay},
	})
	require.NoError(w.tb, err)
	return c
}

func payloads(all []broker.Delivery) (texts []string) {
	for _, d := range all {
		texts = append(texts, string(d.Message.Payload))
	}
	return texts
}

func TestAWillIsThatOfItsConnectionThoughTheClientIsBackBeforeTheEndOfTheOneBeforeIsDone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lost, cleanStart bool
		delay            time.Duration
		want             []string
	}{
		{lost: false, cleanStart: false, want: nil},
		{lost: false, cleanStart: true, want: nil},
		{lost: true, cleanStart: false, want: []string{"first"}},
		{lost: true, cleanStart: true, want: []string{"first"}},
		{lost: true, cleanStart: false, delay: time.Minute, want: nil},
		{lost: true, cleanStart: true, delay: time.Minute, want: nil},
	} {
		t.Run(fmt.Sprintf("lost %v, clean start %v, delay %v [MQTT5-3.1.2-8] [MQTT5-3.1.2-10] [MQTT5-3.1.3-9]", c.lost, c.cleanStart, c.delay), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := &between{Observer: &brokertest.Observer{}}
				w := newWorld(t, func(cfg *broker.Config) { cfg.Observer = o })
				_, seen := w.connect("watcher", "will")
				first := w.lasting(&brokertest.Recorder{}, false, "first", c.delay)
				var second *broker.Client
				o.act = func() { second = w.lasting(&brokertest.Recorder{}, c.cleanStart, "second", 0) }
				w.End(first, broker.Ending{SendWill: c.lost})
				time.Sleep(2 * time.Minute) //nolint:forbidigo // virtual time
				require.Equal(t, c.want, payloads(seen.Got()))
				w.End(second, broker.Ending{SendWill: true})
				time.Sleep(2 * time.Minute) //nolint:forbidigo // virtual time
				require.Equal(t, append(c.want, "second"), payloads(seen.Got()))
			})
		})
	}
}

// backAtOnce is a connection whose client is back as soon as it is told to go.
type backAtOnce struct {
	*brokertest.Recorder
	again func()
}

// Disconnect implements broker.Outbound.
func (r *backAtOnce) Disconnect(reason packet.ReasonCode, cause string) {
	r.Recorder.Disconnect(reason, cause)
	if again := r.again; again != nil {
		r.again = nil
		again()
	}
}

func TestKickForgetsTheSessionThoughItsClientIsBackAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		second := &brokertest.Recorder{}
		var c *broker.Client
		first := &backAtOnce{Recorder: &brokertest.Recorder{}}
		first.again = func() { c = w.lasting(second, false, "second", 0) }
		w.lasting(first, false, "first", 0)
		require.NoError(t, w.Kick(t.Context(), 1, "c", true))
		require.True(t, c.Present())
		require.Equal(t, packet.AdministrativeAction, second.Ended())
		_, err := w.Client(1, "c")
		require.ErrorIs(t, err, broker.ErrNoSuchClient)
		_, there := w.store.Session(1, "c")
		require.False(t, there)
	})
}

package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a broker with the apps 1 and 2.
type world struct {
	*broker.Broker
	*brokertest.World
	tb       testing.TB
	store    *brokertest.Store
	observer *brokertest.Observer
}

func newWorld(tb testing.TB, change ...func(*broker.Config)) *world {
	tb.Helper()
	w := &world{World: brokertest.NewWorld(), tb: tb, store: brokertest.NewStore(1, 2), observer: &brokertest.Observer{}}
	cfg := broker.Config{Store: w.store, Authenticator: w.World, Observer: w.observer, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	w.Broker = broker.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		w.Run(ctx)
		close(ended)
	}()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	for uid := range broker.AppUID(2) {
		require.NoError(tb, w.OpenApp(ctx, broker.AppConfig{UID: uid + 1, ID: fmt.Sprint("app", uid+1)}))
	}
	return w
}

// connect lets a client in, subscribed to filters at QoS 1.
func (w *world) connect(id string, filters ...string) (*broker.Client, *brokertest.Recorder) {
	w.tb.Helper()
	g, err := w.Broker.Authenticate(context.Background(), broker.Credentials{ClientID: id})
	require.NoError(w.tb, err)
	r := &brokertest.Recorder{}
	c, err := w.Connect(g, broker.ConnectRequest{Credentials: broker.Credentials{ClientID: id}, Version: packet.V5, Out: r})
	require.NoError(w.tb, err)
	for _, f := range filters {
		results, err := w.Subscribe(c, []session.Subscription{{Filter: f, QoS: 1}})
		require.NoError(w.tb, err)
		require.False(w.tb, results[0].Reason.Failed())
	}
	return c, r
}

// TestExpire: a timer that was set before a renewal must not end who was renewed.
func TestExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g, err := w.Broker.Authenticate(t.Context(), broker.Credentials{ClientID: "c", Password: []byte("ttl:5s")})
		require.NoError(t, err)
		r := &brokertest.Recorder{}
		c, err := w.Connect(g, broker.ConnectRequest{Credentials: broker.Credentials{ClientID: "c"}, Version: packet.V5, Out: r})
		require.NoError(t, err)
		w.Expire(c)
		require.Zero(t, r.Ended(), "it has not expired")
		require.NoError(t, w.Broker.Renew(t.Context(), c, "user ttl:30s"))
		time.Sleep(5 * time.Second) //nolint:forbidigo // virtual time
		w.Expire(c)
		require.Zero(t, r.Ended(), "it was renewed")
		time.Sleep(25 * time.Second) //nolint:forbidigo // virtual time
		w.Expire(c)
		require.Equal(t, packet.NotAuthorized, r.Ended())
	})
}

func retained(topic, payload string) *message.Message {
	return &message.Message{Topic: topic, Payload: []byte(payload), Retain: true, QoS: 1, Arrived: time.Now().UTC()}
}

// publish publishes as a server does, above the rules.
func (w *world) publish(app broker.AppUID, messages ...*message.Message) (uint64, error) {
	return w.Publish(context.Background(), broker.Publication{App: app, Messages: messages}) //nolint:wrapcheck // of a test
}

func topics(all []broker.Delivery) (names []string) {
	for _, d := range all {
		names = append(names, d.Message.Topic)
	}
	return names
}

func TestPublish(t *testing.T) {
	t.Parallel()
	t.Run("all messages of a publication are one step of the log, or none is published", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		_, r := w.connect("c", "#")
		seq, err := w.publish(1, retained("a", "1"), retained("b", "2"), &message.Message{Topic: "live"})
		require.NoError(t, err)
		require.EqualValues(t, 1, seq)
		require.Equal(t, []string{"a", "b", "live"}, topics(r.Got()))
		require.Equal(t, 1, r.Flushes(), "one write for all of them")
		for i, d := range r.Got() {
			require.Equal(t, message.Position{Seq: 1, Part: uint32(i)}, d.Message.Position)
		}
		_, err = w.publish(1, retained("c", "1"), retained("wrong/+", "2"))
		require.ErrorIs(t, err, broker.ErrTopicNameInvalid)
		var part *broker.PartError
		require.ErrorAs(t, err, &part)
		require.Equal(t, 1, part.Index)
		require.Len(t, r.Got(), 3)
		require.Len(t, w.store.Log(1), 3)
	})
	t.Run("what need not be stored takes no step", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		_, r := w.connect("c", "#")
		seq, err := w.publish(1, &message.Message{Topic: "live"})
		require.NoError(t, err)
		require.Zero(t, seq)
		require.Len(t, r.Got(), 1)
		require.Zero(t, w.store.Batches())
	})
	t.Run("an app that is not there is told, before and after the commit", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		_, err := w.publish(9, retained("a", "1"))
		require.ErrorIs(t, err, broker.ErrNoSuchApp)
		w.store.Forget(2) // its rows went before the commit
		_, err = w.publish(2, retained("a", "1"))
		require.ErrorIs(t, err, broker.ErrNoSuchApp)
	})
	t.Run("nothing is published while draining", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.Drain()
		_, err := w.publish(1, retained("a", "1"))
		require.ErrorIs(t, err, broker.ErrDraining)
		g, err := w.World.Authenticate(t.Context(), broker.Credentials{})
		require.NoError(t, err)
		_, err = w.Connect(g, broker.ConnectRequest{Out: &brokertest.Recorder{}})
		require.ErrorIs(t, err, broker.ErrDraining)
	})
}

func TestGroupCommit(t *testing.T) {
	t.Parallel()
	t.Run("what arrives while a batch is committed is the next batch", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.store.BeforeCommit = func(broker.Batch) error {
				time.Sleep(time.Second) //nolint:forbidigo // virtual time: a slow disk
				return nil
			}
			errs := make(chan error, 100)
			for i := range 100 {
				go func() {
					_, err := w.publish(1, retained(fmt.Sprint("t/", i), "p"))
					errs <- err
				}()
			}
			for range 100 {
				require.NoError(t, <-errs)
			}
			require.LessOrEqual(t, w.store.Batches(), 3)
		})
	})
	t.Run("apps take turns: one that floods does not hold up another", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			var batches []broker.Batch
			w.store.BeforeCommit = func(b broker.Batch) error {
				batches = append(batches, b)
				time.Sleep(time.Second) //nolint:forbidigo // virtual time: a slow disk
				return nil
			}
			errs := make(chan error, 5_001)
			for range 5_000 {
				go func() {
					_, err := w.publish(1, retained("flood", "p"))
					errs <- err
				}()
			}
			synctest.Wait()
			go func() {
				_, err := w.publish(2, retained("quiet", "p"))
				errs <- err
			}()
			for range 5_001 {
				require.NoError(t, <-errs)
			}
			require.Contains(t, appsIn(batches[1]), broker.AppUID(2), "it was in the next batch")
		})
	})
	t.Run("a batch that fails fails what its apps have queued behind it, and no other app's", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			first := true
			w.store.BeforeCommit = func(broker.Batch) error {
				if !first {
					return nil
				}
				first = false
				time.Sleep(time.Second) //nolint:forbidigo // virtual time: a slow disk
				return broker.ErrStoreRefused
			}
			outcome := map[string]chan error{"failing": make(chan error, 1), "behind": make(chan error, 1), "other": make(chan error, 1)}
			publish := func(app broker.AppUID, name string) {
				go func() {
					_, err := w.publish(app, retained(name, "p"))
					outcome[name] <- err
				}()
				synctest.Wait()
			}
			publish(1, "failing")
			publish(1, "behind")
			publish(2, "other")
			require.ErrorIs(t, <-outcome["failing"], broker.ErrStoreRefused)
			require.ErrorIs(t, <-outcome["behind"], broker.ErrStoreRefused)
			require.NoError(t, <-outcome["other"])
			require.Empty(t, w.store.Log(1))
			_, err := w.publish(1, retained("again", "p"))
			require.NoError(t, err)
		})
	})
	t.Run("publishers wait while the queue is full", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(c *broker.Config) { c.CommitQueueMax = 4 })
			release := make(chan struct{})
			w.store.BeforeCommit = func(broker.Batch) error {
				<-release
				return nil
			}
			errs := make(chan error, 20)
			for range 20 {
				go func() {
					_, err := w.publish(1, retained("a", "p"))
					errs <- err
				}()
			}
			synctest.Wait()
			close(release)
			for range 20 {
				require.NoError(t, <-errs)
			}
			require.Len(t, w.store.Log(1), 20)
		})
	})
	t.Run("what was accepted is committed before the broker ends", func(t *testing.T) {
		t.Parallel()
		store := brokertest.NewStore(1)
		b := broker.New(broker.Config{Store: store, Authenticator: brokertest.NewWorld(), Observer: &brokertest.Observer{}, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, b.OpenApp(ctx, broker.AppConfig{UID: 1}))
		errs := make(chan error, 50)
		for range 50 {
			go func() {
				_, err := b.Publish(context.Background(), broker.Publication{App: 1, Messages: []*message.Message{retained("a", "p")}})
				errs <- err
			}()
		}
		accepted := 0
		ended := make(chan struct{})
		go func() {
			b.Run(ctx)
			close(ended)
		}()
		cancel()
		<-ended
		for range 50 {
			if err := <-errs; err == nil {
				accepted++
			} else {
				require.ErrorIs(t, err, broker.ErrDraining)
			}
		}
		require.Len(t, store.Log(1), accepted)
	})
}

// TestRetainedLimits: each message was judged against what was retained, and not against what was on its way.
func TestRetainedLimits(t *testing.T) {
	t.Parallel()
	limits := brokertest.Limits()
	limits.RetainedCountMax, limits.RetainedBytesMax = 2, 20
	t.Run("the messages of one publication count together", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		var part *broker.PartError
		for want, names := range map[int][]string{2: {"a", "b", "c"}, 1: {"a", "a-long-payload-here"}} {
			all := make([]*message.Message, len(names))
			for i, name := range names {
				all[i] = retained(name, name)
			}
			_, err := w.Publish(t.Context(), broker.Publication{App: 1, Limits: &limits, Messages: all})
			require.ErrorIs(t, err, broker.ErrQuotaExceeded)
			require.ErrorAs(t, err, &part)
			require.Equal(t, want, part.Index)
		}
		require.Empty(t, w.store.Log(1))
	})
	t.Run("what is on its way counts, until it has failed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			outcome := make(chan error)
			w.store.BeforeCommit = func(broker.Batch) error { return <-outcome }
			c, r := w.connect("c")
			k := broker.NewMarks()
			defer k.Release()
			accept := func(name string) error {
				_, err := w.Accept(c, broker.Inbound{Message: retained(name, "p"), Limits: &limits}, k)
				synctest.Wait()
				return err //nolint:wrapcheck // of a test
			}
			require.NoError(t, accept("a"))
			require.NoError(t, accept("b"))
			require.ErrorIs(t, accept("c"), broker.ErrQuotaExceeded)
			require.NoError(t, accept("b"), "a replacement takes no room")
			outcome <- broker.ErrStoreRefused
			synctest.Wait()
			require.Len(t, r.Outcomes(), 3)
			require.NoError(t, accept("c"))
			require.NoError(t, accept("d"))
			close(outcome)
			synctest.Wait()
			require.Len(t, w.store.Log(1), 2)
			require.ErrorIs(t, accept("e"), broker.ErrQuotaExceeded)
		})
	})
}

func appsIn(b broker.Batch) (apps []broker.AppUID) {
	for _, w := range b.Writes {
		apps = append(apps, w.App)
	}
	return apps
}

func TestRetained(t *testing.T) {
	t.Parallel()
	t.Run("is read from the log when an app is opened", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, m := range []*message.Message{retained("a", "old"), retained("a", "new"), retained("b", "gone"), retained("b", "")} {
			_, err := w.publish(1, m)
			require.NoError(t, err)
		}
		w.CloseApp(1)
		require.NoError(t, w.OpenApp(t.Context(), broker.AppConfig{UID: 1}))
		all, err := w.Retained(1, "#", "", 0)
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, "a new", all[0].Topic+" "+string(all[0].Payload))
		stats, err := w.Stats(1)
		require.NoError(t, err)
		require.Equal(t, 1, stats.Retained)
		require.EqualValues(t, 4, stats.Head)
	})
	t.Run("is listed in the order of topics, page by page", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		want := []string{"", "a", "a/", "a/b", "a/b/c", "a-b", "a0", "b/x"}
		for _, topic := range want[1:] {
			_, err := w.publish(1, retained(topic, "p"))
			require.NoError(t, err)
		}
		after := ""
		for _, topic := range want[1:] {
			page, err := w.Retained(1, "#", after, 1)
			require.NoError(t, err)
			require.Len(t, page, 1)
			require.Equal(t, topic, page[0].Topic)
			after = topic
		}
		page, err := w.Retained(1, "#", after, 1)
		require.NoError(t, err)
		require.Empty(t, page)
		_, err = w.Retained(1, "a/#/b", "", 1)
		require.ErrorIs(t, err, broker.ErrFilterInvalid)
	})
}

func TestHouse(t *testing.T) {
	t.Parallel()
	t.Run("the minutes of the last hour are kept", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.connect("c", "#")
			time.Sleep(30 * time.Second) //nolint:forbidigo // virtual time: each publish falls into the middle of a minute
			for range 70 {
				_, err := w.publish(1, &message.Message{Topic: "live", Payload: []byte("12345")})
				require.NoError(t, err)
				time.Sleep(time.Minute) //nolint:forbidigo // virtual time
			}
			stats, err := w.Stats(1)
			require.NoError(t, err)
			require.Len(t, stats.Minutes, 60)
			last := stats.Minutes[59]
			require.Equal(t, 1, last.Connections)
			require.EqualValues(t, 1, last.MessagesIn)
			require.EqualValues(t, 5, last.BytesIn)
			require.EqualValues(t, 70, stats.Total.MessagesIn)
		})
	})
}

// BenchmarkSubscribe subscribes again and again to 20,000 retained messages.
func BenchmarkSubscribe(b *testing.B) {
	w := newWorld(b)
	all := make([]*message.Message, 20_000)
	for i := range all {
		all[i] = retained(fmt.Sprintf("sites/%d/devices/%d", i/100, i%100), "p")
	}
	_, err := w.publish(1, all...)
	require.NoError(b, err)
	c, _ := w.connect("c")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Subscribe(c, []session.Subscription{{Filter: "#", QoS: 1}}); err != nil {
			b.Fatal(err)
		}
	}
}

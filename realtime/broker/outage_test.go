package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
)

// flaky is a store whose methods can be replaced.
type flaky struct {
	*brokertest.Store
	commit    func(ctx context.Context, b broker.Batch) ([]uint64, error)
	committed func(ctx context.Context, id [16]byte) (bool, error)
	compact   func(c broker.Compaction) (message.Position, int, error)
	drop      func() error
}

func (f *flaky) DropFilter(ctx context.Context, app broker.AppUID, filterID int64) error {
	if f.drop != nil {
		if err := f.drop(); err != nil {
			return err
		}
	}
	return f.Store.DropFilter(ctx, app, filterID) //nolint:wrapcheck // of a test
}

func (f *flaky) Commit(ctx context.Context, b broker.Batch) ([]uint64, error) {
	if f.commit != nil {
		return f.commit(ctx, b)
	}
	return f.Store.Commit(ctx, b) //nolint:wrapcheck // of a test
}

func (f *flaky) Committed(ctx context.Context, id [16]byte) (bool, error) {
	if f.committed != nil {
		return f.committed(ctx, id)
	}
	return f.Store.Committed(ctx, id) //nolint:wrapcheck // of a test
}

func (f *flaky) Compact(ctx context.Context, app broker.AppUID, c broker.Compaction) (message.Position, int, error) {
	if f.compact != nil && app == 1 {
		return f.compact(c)
	}
	return f.Store.Compact(ctx, app, c) //nolint:wrapcheck // of a test
}

// newFlaky makes a world with such a store.
func newFlaky(t *testing.T, change ...func(*broker.Config)) (*world, *flaky) {
	t.Helper()
	f := &flaky{}
	w := newWorld(t, append([]func(*broker.Config){func(c *broker.Config) {
		if s, ok := c.Store.(*brokertest.Store); ok {
			f.Store = s
		}
		c.Store = f
	}}, change...)...)
	return w, f
}

// later publishes without waiting for the outcome.
func (w *world) later(app broker.AppUID, topic string) <-chan error {
	outcome := make(chan error, 1)
	go func() {
		_, err := w.publish(app, retained(topic, "p"))
		outcome <- err
	}()
	synctest.Wait()
	return outcome
}

// blackHole is a store behind a network that swallows everything.
func blackHole(ctx context.Context, _ broker.Batch) ([]uint64, error) {
	<-ctx.Done()
	return nil, errors.Join(broker.ErrStoreUnavailable, ctx.Err())
}

func TestOutage(t *testing.T) {
	t.Parallel()
	t.Run("a commit that hears nothing is given up after ten seconds, and the next when its time is over", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t)
			store.commit = blackHole
			began := time.Now()
			first := w.later(1, "a")
			time.Sleep(time.Second) //nolint:forbidigo // virtual time
			second := w.later(2, "b")
			require.ErrorIs(t, <-first, broker.ErrStoreUnavailable)
			require.Equal(t, 10*time.Second, time.Since(began))
			require.ErrorIs(t, <-second, broker.ErrStoreUnavailable)
			require.Equal(t, 11*time.Second, time.Since(began))
		})
	})
	t.Run("an unknown outcome is told in time, and what was committed is seen when it is known", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t)
			_, r := w.connect("c", "#")
			var back atomic.Bool
			store.AfterCommit = func(broker.Batch) error {
				if back.Load() {
					return nil
				}
				return broker.ErrOutcomeUnknown
			}
			store.committed = func(ctx context.Context, id [16]byte) (bool, error) {
				if !back.Load() {
					<-ctx.Done()
					return false, broker.ErrStoreUnavailable
				}
				return store.Store.Committed(ctx, id) //nolint:wrapcheck // of a test
			}
			began := time.Now()
			doubtful := w.later(1, "doubtful")
			time.Sleep(5 * time.Second) //nolint:forbidigo // virtual time
			behind, other := w.later(1, "behind"), w.later(2, "other")
			require.ErrorIs(t, <-doubtful, broker.ErrOutcomeUnknown)
			require.Less(t, time.Since(began), 14*time.Second)
			require.ErrorIs(t, <-behind, broker.ErrStoreUnavailable)
			require.ErrorIs(t, <-other, broker.ErrStoreUnavailable)
			require.Less(t, time.Since(began), 19*time.Second)
			require.Empty(t, r.Got())
			back.Store(true)
			_, err := w.publish(1, retained("after", "p"))
			require.NoError(t, err)
			require.Equal(t, []string{"doubtful", "after"}, topics(r.Got()))
			require.EqualValues(t, 2, r.Got()[1].Message.Position.Seq)
		})
	})
	t.Run("a batch that turns out not to be there is not tried behind the back of who was told", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t)
			var back atomic.Bool
			store.commit = func(ctx context.Context, b broker.Batch) ([]uint64, error) {
				if back.Load() {
					return store.Store.Commit(ctx, b) //nolint:wrapcheck // of a test
				}
				return nil, broker.ErrOutcomeUnknown
			}
			store.committed = func(context.Context, [16]byte) (bool, error) {
				if !back.Load() {
					return false, broker.ErrStoreUnavailable
				}
				return false, nil
			}
			require.ErrorIs(t, <-w.later(1, "doubtful"), broker.ErrOutcomeUnknown)
			back.Store(true)
			time.Sleep(2 * time.Second) //nolint:forbidigo // virtual time: it asks again
			_, err := w.publish(1, retained("after", "p"))
			require.NoError(t, err)
			require.Len(t, store.Log(1), 1)
		})
	})
	t.Run("an app deleted while an outcome is unknown does not hold up the others", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t)
			store.AfterCommit = func(broker.Batch) error {
				store.AfterCommit = nil
				store.Forget(1)
				return broker.ErrOutcomeUnknown
			}
			require.ErrorIs(t, <-w.later(1, "gone"), broker.ErrNoSuchApp)
			require.NoError(t, <-w.later(2, "other"))
		})
	})
	t.Run("what a deleted app has queued is not stored", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t)
			release := make(chan struct{})
			store.BeforeCommit = func(broker.Batch) error {
				<-release
				return nil
			}
			first := w.later(2, "first")
			queued := w.later(1, "queued")
			w.CloseApp(1)
			close(release)
			require.NoError(t, <-first)
			require.ErrorIs(t, <-queued, broker.ErrNoSuchApp)
			require.Empty(t, store.Log(1))
		})
	})
	t.Run("publishers wait while the queue is full of bytes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t, func(c *broker.Config) { c.CommitQueueBytesMax = 10_000 })
			release := make(chan struct{})
			var sizes []int
			store.BeforeCommit = func(b broker.Batch) error {
				<-release
				sizes = append(sizes, len(b.Writes))
				return nil
			}
			errs := make(chan error, 20)
			for i := range 20 {
				go func() {
					_, err := w.publish(1, retained(fmt.Sprint("t/", i), strings.Repeat("x", 4_000)))
					errs <- err
				}()
				synctest.Wait()
			}
			close(release)
			for range 20 {
				require.NoError(t, <-errs)
			}
			require.Len(t, store.Log(1), 20)
			require.Equal(t, 1, sizes[0])
			for _, n := range sizes {
				require.LessOrEqual(t, n, 3, "no more than 10,000 bytes and the write that crosses them")
			}
		})
	})
	t.Run("a drain ends though the store is away and a full queue awaits it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, store := newFlaky(t, func(c *broker.Config) { c.CommitQueueMax = 1 })
			store.commit = blackHole
			g, err := w.Broker.Authenticate(t.Context(), broker.Credentials{ClientID: "c"})
			require.NoError(t, err)
			_, err = w.Connect(g, broker.ConnectRequest{
				Credentials: broker.Credentials{ClientID: "c"}, Out: &brokertest.Recorder{}, Will: &broker.Will{Message: retained("will", "w")},
			})
			require.NoError(t, err)
			first, second, third := w.later(1, "a"), w.later(1, "b"), w.later(1, "c")
			began := time.Now()
			w.Drain()
			for _, outcome := range []<-chan error{first, second, third} {
				require.Error(t, <-outcome)
			}
			require.LessOrEqual(t, time.Since(began), 5*time.Second)
		})
	})
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	t.Run("a walk that was interrupted goes on to where it began to lead, not to a newer head", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex // guards taken
			var taken []broker.Compaction
			steps := func() []broker.Compaction {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(taken)
			}
			w, _ := newFlaky(t, func(c *broker.Config) {
				store, ok := c.Store.(*flaky)
				require.True(t, ok)
				store.compact = func(c broker.Compaction) (message.Position, int, error) {
					mu.Lock()
					defer mu.Unlock()
					taken = append(taken, c)
					switch len(taken) {
					case 1:
						c.Remains("noted")
						return message.Position{Seq: 1}, 5, nil
					case 2:
						return c.After, 0, broker.ErrStoreUnavailable
					}
					return c.UpTo, 0, nil
				}
			})
			_, err := w.publish(1, retained("a", "live when passed"))
			require.NoError(t, err)
			_, err = w.publish(1, retained("b", "p"))
			require.NoError(t, err)
			time.Sleep(61 * time.Second) //nolint:forbidigo // virtual time
			synctest.Wait()
			require.Len(t, steps(), 2)
			require.Equal(t, 5, w.observer.Count("compacted"))
			require.EqualValues(t, 1, w.observer.Lag(), "the write behind where it stopped")
			_, err = w.publish(1, retained("a", ""))
			require.NoError(t, err)
			time.Sleep(time.Minute) //nolint:forbidigo // virtual time
			synctest.Wait()
			require.Len(t, steps(), 3)
			require.Equal(t, message.Position{Seq: 1}, steps()[2].After)
			require.EqualValues(t, 2, steps()[2].UpTo.Seq, "the clear is not reached before the value is looked at again")
			require.False(t, steps()[2].ClearMayGo("noted"))
			require.True(t, steps()[2].ClearMayGo("other"))
			time.Sleep(time.Minute) //nolint:forbidigo // virtual time
			synctest.Wait()
			require.Len(t, steps(), 4)
			require.Zero(t, steps()[3].After)
			require.EqualValues(t, 3, steps()[3].UpTo.Seq)
			require.True(t, steps()[3].ClearMayGo("noted"))
		})
	})
}

func TestWhatAConnectionHasWaitedToPublishDoesNotComeBehindThatOfTheOneThatHasTakenItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, store := newFlaky(t, func(c *broker.Config) { c.CommitQueueMax = 1 })
		release := make(chan struct{})
		store.commit = func(ctx context.Context, b broker.Batch) ([]uint64, error) {
			<-release
			return store.Store.Commit(ctx, b) //nolint:wrapcheck // of a test
		}
		c, _ := w.connect("c")
		publishing, queued := w.later(1, "under way"), w.later(1, "queued")
		waited := make(chan error, 1)
		go func() {
			limits := brokertest.Limits()
			k := broker.NewMarks()
			defer k.Release()
			_, err := w.Accept(c, broker.Inbound{Message: retained("waits for room", "p"), Limits: &limits, PacketID: 1, Token: 1}, k)
			waited <- err
		}()
		synctest.Wait()
		again := make(chan struct{})
		go func() {
			w.connect("c") // which sends it again
			close(again)
		}()
		time.Sleep(time.Second) //nolint:forbidigo // virtual time: it has taken the place
		close(release)
		<-again
		require.NoError(t, <-publishing)
		require.NoError(t, <-queued)
		require.ErrorIs(t, <-waited, broker.ErrEnding)
		synctest.Wait()
		require.Len(t, w.store.Log(1), 2)
	})
}

func TestOutage_is_timed_though_the_clock_is_set_back(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		w, store := newFlaky(t, func(c *broker.Config) {
			c.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		})
		store.commit = func(context.Context, broker.Batch) ([]uint64, error) { return nil, broker.ErrStoreUnavailable }
		began := time.Now()
		outcome := w.later(1, "a")
		back.Store(int64(time.Hour))
		require.ErrorIs(t, <-outcome, broker.ErrStoreUnavailable)
		require.LessOrEqual(t, time.Since(began), 11*time.Second)
	})
}

func TestADurableFilterThatCouldNotBeDroppedIsDroppedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, store := newFlaky(t)
		asked := 0
		store.drop = func() error {
			if asked++; asked == 1 {
				return broker.ErrStoreUnavailable
			}
			return nil
		}
		c := w.lasting(&brokertest.Recorder{}, false, "will", 0)
		_, err := w.Subscribe(c, []session.Subscription{{Filter: "a", QoS: 1}})
		require.NoError(t, err)
		_, err = w.publish(1, &message.Message{Topic: "a", Payload: []byte("kept"), QoS: 1, Arrived: time.Now()})
		require.NoError(t, err)
		_, err = w.Unsubscribe(c, []string{"a"})
		require.NoError(t, err)
		time.Sleep(3 * time.Minute) //nolint:forbidigo // virtual time
		filters, err := w.store.Filters(t.Context(), 1)
		require.NoError(t, err)
		require.Empty(t, filters)
		require.Equal(t, 2, asked)
	})
}

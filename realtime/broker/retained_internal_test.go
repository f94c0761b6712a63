package broker

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
)

// retainedIn is a retained message for a topic; without a payload it clears.
func retainedIn(name, payload string) *message.Message {
	return &message.Message{Topic: name, Payload: []byte(payload), Retain: true}
}

// kept is one that expires.
func kept(name, payload string, expires time.Time) *message.Message {
	m := retainedIn(name, payload)
	m.Expires = expires
	return m
}

// TestExpiry_holds_no_message_that_was_replaced_or_cleared: each publish to one topic left its message in memory until
// it would have expired.
func TestExpiry_holds_no_message_that_was_replaced_or_cleared(t *testing.T) {
	const size, publishes = 1 << 20, 300
	a := newApp(AppConfig{})
	tomorrow := time.Now().Add(24 * time.Hour)
	before := heapInUse()
	for range publishes {
		m := kept("a", "", tomorrow)
		m.Payload = make([]byte, size)
		a.setRetained(m)
	}
	require.Len(t, a.expiring.due, 1)
	require.Less(t, heapInUse()-before, int64(4*size))
	a.setRetained(retainedIn("a", ""))
	require.Empty(t, a.expiring.due)
	require.Empty(t, a.expiring.of)
	runtime.KeepAlive(a)
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestExpiry_agrees_with_a_naive_model(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			a, model, now := newApp(AppConfig{}), map[string]*message.Message{}, time.Unix(0, 0)
			for range 1_000 {
				now = now.Add(time.Duration(random.IntN(500)) * time.Millisecond)
				name := fmt.Sprint("t/", random.IntN(20))
				switch random.IntN(4) {
				case 0:
					a.setRetained(retainedIn(name, ""))
					delete(model, name)
				case 1:
					model[name] = retainedIn(name, "for good")
					a.setRetained(model[name])
				default:
					model[name] = kept(name, "for a while", now.Add(time.Duration(random.IntN(20_000))*time.Millisecond))
					a.setRetained(model[name])
				}
				want, got := dueIn(model, now), due(a, now)
				require.Equal(t, want, byTopic(got))
				for _, m := range got {
					a.setRetained(retainedIn(m.Topic, ""))
					delete(model, m.Topic)
				}
				expiring := 0
				for _, m := range model {
					if !m.Expires.IsZero() {
						expiring++
					}
				}
				require.Len(t, a.expiring.due, expiring)
				require.Len(t, a.expiring.of, expiring)
			}
		})
	}
}

func dueIn(model map[string]*message.Message, now time.Time) []*message.Message {
	var due []*message.Message
	for _, m := range model {
		if m.Expired(now) {
			due = append(due, m)
		}
	}
	return byTopic(due)
}

func byTopic(all []*message.Message) []*message.Message {
	slices.SortFunc(all, func(x, y *message.Message) int { return cmp.Compare(x.Topic, y.Topic) })
	return all
}

func TestExpiry_names_a_message_again_whose_clear_has_failed(t *testing.T) {
	t.Parallel()
	a, now := newApp(AppConfig{}), time.Unix(0, 0)
	m := kept("a", "p", now.Add(time.Second))
	a.setRetained(m)
	require.Empty(t, due(a, now))
	now = now.Add(time.Second)
	require.Equal(t, []*message.Message{m}, due(a, now))
	require.Empty(t, due(a, now.Add(expiryRetry-time.Nanosecond)), "its clear is under way")
	require.Equal(t, []*message.Message{m}, due(a, now.Add(expiryRetry)))
}

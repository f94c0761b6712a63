package broker

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/message"
)

// naiveReserved counts what reservations hold, from what is under way.
func naiveReserved(a *app, underWay [][]Part) (count int, bytes int64) {
	largest := map[string]int64{}
	for _, parts := range underWay {
		for _, p := range parts {
			if m := p.Message; !m.Clears() {
				largest[m.Topic] = max(largest[m.Topic], retainedSize(m))
			}
		}
	}
	for name, size := range largest {
		held := int64(0)
		if m, holds := a.retained.Get(name); holds {
			held = retainedSize(m)
		} else {
			count++
		}
		bytes += max(0, size-held)
	}
	return count, bytes
}

// TestReserve_keeps_to_the_limits lets writes of several messages be committed or fail, in any order.
func TestReserve_keeps_to_the_limits(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			limits := &Limits{RetainedCountMax: 8, RetainedBytesMax: 200}
			a := newApp(AppConfig{})
			var underWay [][]Part
			refused := 0
			settle := func() {
				i := random.IntN(len(underWay))
				parts := underWay[i]
				underWay = append(underWay[:i:i], underWay[i+1:]...)
				if random.IntN(3) > 0 {
					for _, p := range parts {
						a.setRetained(p.Message)
					}
				}
				a.release(parts)
			}
			for range 1_000 {
				if parts := randomParts(random); a.reserve(limits, parts) >= 0 {
					refused++
				} else {
					underWay = append(underWay, parts)
				}
				for len(underWay) > 0 && random.IntN(2) == 0 {
					settle()
				}
				require.LessOrEqual(t, a.retained.Len(), limits.RetainedCountMax)
				require.LessOrEqual(t, a.retainedBytes, limits.RetainedBytesMax)
				count, bytes := naiveReserved(a, underWay)
				// A topic's largest message counts until nothing of it is under way.
				require.Equal(t, count, a.reservations.count)
				require.GreaterOrEqual(t, a.reservations.bytes, bytes)
			}
			require.NotZero(t, refused)
			for len(underWay) > 0 {
				settle()
			}
			require.Zero(t, a.reservations.count)
			require.Zero(t, a.reservations.bytes)
			require.Empty(t, a.reservations.topics)
		})
	}
}

func randomParts(random *rand.Rand) []Part {
	parts := make([]Part, 1+random.IntN(3))
	for i := range parts {
		parts[i].Message = retainedIn(fmt.Sprint("t/", random.IntN(12)), strings.Repeat("x", random.IntN(40)))
	}
	return parts
}

// TestExpiry_clears_nothing_that_is_being_replaced: the clear would be committed behind the message that comes.
func TestExpiry_clears_nothing_that_is_being_replaced(t *testing.T) {
	t.Parallel()
	a, now := newApp(AppConfig{}), time.Unix(0, 0)
	old := kept("a", "old", now)
	a.setRetained(old)
	coming := []Part{{Message: retainedIn("a", "new")}}
	require.Negative(t, a.reserve(nil, coming))
	require.Empty(t, due(a, now))
	a.release(coming) // it has failed
	require.Equal(t, []*message.Message{old}, due(a, now.Add(expiryRetry)))
}

// TestExpiry_is_decided_before_a_replacement_or_after_it: what replaces an expiring message is queued behind its clear,
// if it was not there when the clear was decided on.
func TestExpiry_is_decided_before_a_replacement_or_after_it(t *testing.T) {
	t.Parallel()
	a, now := newApp(AppConfig{}), time.Unix(0, 0)
	a.setRetained(kept("a", "old", now))
	var queue []string
	reserved := make(chan struct{})
	a.expired(now, func(*message.Message) {
		go func() {
			a.reserve(nil, []Part{{Message: retainedIn("a", "new")}})
			queue = append(queue, "new")
			close(reserved)
		}()
		runtime.Gosched()
		queue = append(queue, "clear")
	})
	<-reserved
	require.Equal(t, []string{"clear", "new"}, queue)
}

func due(a *app, now time.Time) (all []*message.Message) {
	a.expired(now, func(m *message.Message) { all = append(all, m) })
	return all
}

func BenchmarkReserve(b *testing.B) {
	a := newApp(AppConfig{})
	for i := range 100_000 {
		a.setRetained(retainedIn(fmt.Sprintf("sites/%d/devices/%d", i/100, i%100), "p"))
	}
	limits := &Limits{RetainedCountMax: 1_000_000, RetainedBytesMax: 1 << 30}
	parts := []Part{{Message: retainedIn("sites/7/devices/7", "payload")}}
	b.ReportAllocs()
	for b.Loop() {
		a.reserve(limits, parts)
		a.setRetained(parts[0].Message)
		a.release(parts)
	}
}

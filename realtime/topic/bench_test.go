package topic

import (
	"fmt"
	"runtime"
	"testing"
)

// benchFilter is the filter of the i-th of n subscriptions: most are of one device's own, every tenth has a +, every
// tenth a #, and each thousand shares one filter.
func benchFilter(i int) string {
	switch i % 10 {
	case 0:
		return fmt.Sprintf("devices/%d/+/state", i)
	case 1:
		return fmt.Sprintf("rooms/%d/#", i)
	case 2:
		return fmt.Sprintf("news/%d", i/1000)
	default:
		return fmt.Sprintf("devices/%d/commands/reboot", i)
	}
}

// heap returns the bytes in use after a collection.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchTree returns a tree of n subscriptions and the bytes that each costs, its value aside.
func benchTree(n int) (tree *Tree[*int], bytesEach float64) {
	values := make([]int, n)
	before := heap()
	tree = &Tree[*int]{}
	for i := range n {
		tree.Add(benchFilter(i), &values[i])
	}
	bytesEach = float64(heap()-before) / float64(n)
	runtime.KeepAlive(values)
	return tree, bytesEach
}

func BenchmarkTree(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("match/%d", n), func(b *testing.B) {
			tree, bytesEach := benchTree(n)
			names := make([]string, 1024)
			for i := range names {
				names[i] = fmt.Sprintf("devices/%d/commands/reboot", i*n/len(names))
			}
			sets := make([][]*int, 0, 16)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				sets = tree.MatchSets(names[i%len(names)], sets[:0])
			}
			b.ReportMetric(bytesEach, "B/sub")
		})
	}
	b.Run("add and remove/100000", func(b *testing.B) {
		tree, _ := benchTree(100_000)
		v := new(int)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			filter := benchFilter(i % 100_000)
			tree.Add(filter, v)
			tree.Remove(filter, v)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Match("devices/+/state/#", "devices/0123456789/state/battery")
	}
}

// benchRetained returns n names with values and the bytes that each costs, its value aside. The names share parents:
// a hundred devices a site, ten values a device.
func benchRetained(n int) (r *Retained[*int], names []string, bytesEach float64) {
	names = make([]string, n)
	values := make([]int, n)
	for i := range names {
		names[i] = fmt.Sprintf("sites/%d/devices/%d/values/%d", i/1000, i/10%100, i%10)
	}
	before := heap()
	r = &Retained[*int]{}
	for i, name := range names {
		r.Set(name, &values[i])
	}
	bytesEach = float64(heap()-before) / float64(n)
	runtime.KeepAlive(values)
	return r, names, bytesEach
}

// flatName is a name below one parent that has all of them.
func flatName(i int) string { return fmt.Sprintf("flat/%d", i) }

func BenchmarkRetained(b *testing.B) {
	const n = 100_000
	r, names, bytesEach := benchRetained(n)
	v := new(int)
	b.Run("set/100000", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			r.Set(names[i*7919%n], v)
		}
		b.ReportMetric(bytesEach, "B/topic")
	})
	b.Run("set and delete/100000", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			name := names[i*7919%n]
			r.Delete(name)
			r.Set(name, v)
		}
	})
	b.Run("get/100000", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			r.Get(names[i*7919%n])
		}
	})
	for _, c := range []struct {
		filter string
		want   int
	}{{"#", n}, {"sites/7/#", 1000}, {"sites/+/devices/7/values/3", 100}, {"sites/7/devices/7/values/7", 1}} {
		b.Run("match/100000/"+c.filter, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				found := 0
				r.Match(c.filter, func(*int) bool {
					found++
					return true
				})
				if found != c.want {
					b.Fatalf("Match(%q) found %d, want %d", c.filter, found, c.want)
				}
			}
		})
	}
	b.Run("match one by one/100000", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			r.MatchAfter("#", names[i*7919%n], 100, func(*int) bool { return false })
		}
	})
	b.Run("set/flat/100000", func(b *testing.B) {
		flat, before := &Retained[*int]{}, heap()
		for i := range n {
			flat.Set(flatName(i), v)
		}
		bytesEach := float64(heap()-before) / n
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			flat.Set(flatName(i*7919%n), v)
		}
		b.ReportMetric(bytesEach, "B/topic")
	})
}

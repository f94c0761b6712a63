package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// unsafeString is a string that shares b, as a view into a reader's buffer does.
func unsafeString(b []byte) string { return unsafe.String(&b[0], len(b)) }

// named is a value that knows its name.
type named struct {
	name string
	v    int
}

// retainedModel is a Retained as a map.
type retainedModel map[string]int

// match returns the names that filter matches, in the documented order.
func (m retainedModel) match(filter string) []string {
	var names []string
	for name := range m {
		if naiveMatch(filter, name) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, naiveOrder)
	return names
}

// matchAll returns what Match yields.
func matchAll(t *testing.T, r *Retained[named], model retainedModel, filter string) []string {
	t.Helper()
	var names []string
	r.Match(filter, func(n named) bool {
		require.Equal(t, model[n.name], n.v, "the value at %q", n.name)
		names = append(names, n.name)
		return true
	})
	return names
}

// randomRetained changes a Retained and its model at random.
func randomRetained(t *testing.T, random *rand.Rand, names []string, changes int) (*Retained[named], retainedModel) {
	t.Helper()
	r, model := &Retained[named]{}, retainedModel{}
	for i := range changes {
		name := names[random.IntN(len(names))]
		old, there := model[name]
		if random.IntN(5) < 3 {
			got, replaced := r.Set(name, named{name, i})
			require.Equal(t, []any{old, there}, []any{got.v, replaced}, "Set(%q)", name)
			model[name] = i
		} else {
			got, deleted := r.Delete(name)
			require.Equal(t, []any{old, there}, []any{got.v, deleted}, "Delete(%q)", name)
			delete(model, name)
		}
		require.Equal(t, len(model), r.Len())
	}
	return r, model
}

// manyChildren returns names most of which stand below few parents.
func manyChildren(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("a/%d", i), fmt.Sprintf("a/%d/x", i%7), fmt.Sprintf("%d", i))
	}
	return append(names, "a", "$x/1", "$x/2", "/", "a/")
}

func TestRetained_agrees_with_a_map(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		title   string
		names   []string
		filters []string
		changes int
		resumed bool
	}{
		{"small names", namesUpTo(3), filtersUpTo(3), 600, true},
		{"many children", manyChildren(40), []string{"#", "+", "a/+", "a/#", "a/7", "a/+/x", "+/#", "+/+", "$x/+", "$x/#", "a/+/#"}, 1500, true},
		{"more children than fit a run", manyChildren(2 * runMax), []string{"#", "a/+", "a/+/x", "+"}, 8_000, false},
	} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s seed %d", c.title, seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 0))
				r, model := randomRetained(t, random, c.names, c.changes)
				for _, name := range c.names {
					v, ok := r.Get(name)
					want, there := model[name]
					require.Equal(t, []any{want, there}, []any{v.v, ok}, "Get(%q)", name)
				}
				for _, filter := range c.filters {
					require.Equal(t, model.match(filter), matchAll(t, r, model, filter), "Match(%q)", filter)
					if c.resumed {
						checkResumed(t, random, r, filter, model.match(filter))
					}
				}
				names := slices.Collect(maps.Keys(model))
				random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				for _, name := range names {
					_, deleted := r.Delete(name)
					require.True(t, deleted)
				}
				require.Equal(t, &Retained[named]{}, r, "an emptied tree has no nodes left")
			})
		}
	}
}

// checkResumed goes through a match in steps: after any name, there or not, and a few nodes at a time.
func checkResumed(t *testing.T, random *rand.Rand, r *Retained[named], filter string, want []string) {
	t.Helper()
	for _, after := range []string{"a", "a/", "a/1", "a/3/w", "$x", "~", anyOf(random, want)} {
		begin := slices.IndexFunc(want, func(name string) bool { return naiveOrder(name, after) > 0 })
		if begin < 0 {
			begin = len(want)
		}
		var got []string
		visits := 1 + random.IntN(10)
		for more := true; more; {
			before := after
			after, more = r.MatchAfter(filter, after, visits, func(n named) bool {
				got = append(got, n.name)
				return true
			})
			require.False(t, more && naiveOrder(after, before) <= 0, "MatchAfter(%q, %q) does not get on", filter, before)
		}
		require.Equal(t, append([]string(nil), want[begin:]...), got, "MatchAfter(%q)", filter)
	}
}

func anyOf(random *rand.Rand, names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return names[random.IntN(len(names))]
}

func TestRetained_Match_stops_when_it_is_told(t *testing.T) {
	t.Parallel()
	var r Retained[named]
	for _, name := range manyChildren(30) {
		r.Set(name, named{name, 1})
	}
	for _, filter := range []string{"#", "a/+", "a/#", "+", "+/+", "a/3/x"} {
		all := matchAll(t, &r, retainedOf(&r), filter)
		for stop := 1; stop <= len(all); stop++ {
			var got []string
			r.Match(filter, func(n named) bool {
				got = append(got, n.name)
				return len(got) < stop
			})
			require.Equal(t, all[:stop], got, "Match(%q), stopped after %d", filter, stop)
		}
	}
}

// retainedOf returns the model of a Retained whose values are all 1.
func retainedOf(r *Retained[named]) retainedModel {
	m := retainedModel{}
	for _, filter := range []string{"#", "$x/#"} {
		r.Match(filter, func(n named) bool {
			m[n.name] = 1
			return true
		})
	}
	return m
}

func TestRetained_order_is_level_by_level_and_a_name_before_those_below_it(t *testing.T) {
	t.Parallel()
	var r Retained[named]
	want := []string{"/", "/a", "a", "a/", "a/b", "a/b/c", "a/c", "a b", "a!", "ab", "b", "é"}
	slices.SortFunc(want, naiveOrder)
	for _, name := range want {
		r.Set(name, named{name, 1})
	}
	require.Equal(t, want, matchAll(t, &r, retainedOf(&r), "#"))
	require.Less(t, slices.Index(want, "a/b"), slices.Index(want, "a b"), "by levels, not by the bytes of the whole")
}

func TestRetained_of_the_zero_value_is_empty(t *testing.T) {
	t.Parallel()
	var r Retained[named]
	require.Zero(t, r.Len())
	_, ok := r.Get("a/b")
	require.False(t, ok)
	_, deleted := r.Delete("a/b")
	require.False(t, deleted)
	require.Empty(t, matchAll(t, &r, nil, "#"))
}

func TestRetained_Delete_of_an_inner_name_keeps_those_below_it(t *testing.T) {
	t.Parallel()
	var r Retained[named]
	r.Set("a", named{"a", 1})
	r.Set("a/b/c", named{"a/b/c", 1})
	_, deleted := r.Delete("a/b")
	require.False(t, deleted, "a level on the way is no name")
	_, deleted = r.Delete("a")
	require.True(t, deleted)
	require.Equal(t, []string{"a/b/c"}, matchAll(t, &r, retainedOf(&r), "#"))
}

// TestRetained_does_not_keep_the_names_it_was_given: a name is often a piece of a large packet.
func TestRetained_does_not_keep_the_names_it_was_given(t *testing.T) {
	t.Parallel()
	b := []byte("a/b")
	var r Retained[named]
	r.Set(unsafeString(b), named{})
	clear(b)
	_, ok := r.Get("a/b")
	require.True(t, ok)
}

func TestRetained_names_that_come_in_their_order_and_go_from_the_end(t *testing.T) {
	t.Parallel()
	var r Retained[named]
	var names []string
	for i := range 3*runMax + 1 {
		names = append(names, fmt.Sprintf("%04d", i))
		r.Set(names[i], named{names[i], 1})
	}
	for len(names) > 0 {
		if len(names)%(runMax/2) == 1 {
			require.Equal(t, names, matchAll(t, &r, retainedOf(&r), "+"))
		}
		_, deleted := r.Delete(names[len(names)-1])
		require.True(t, deleted)
		names = names[:len(names)-1]
	}
	require.Equal(t, Retained[named]{}, r)
}

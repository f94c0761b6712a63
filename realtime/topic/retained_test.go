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
func matchAll(t *testing.T, r *Retained[int], model retainedModel, filter string) []string {
	t.Helper()
	var names []string
	r.Match(filter, func(name string, v int) bool {
		require.Equal(t, model[name], v, "the value at %q", name)
		names = append(names, name)
		return true
	})
	return names
}

// randomRetained changes a Retained and its model at random.
func randomRetained(t *testing.T, random *rand.Rand, names []string, changes int) (*Retained[int], retainedModel) {
	t.Helper()
	r, model := &Retained[int]{}, retainedModel{}
	for i := range changes {
		name := names[random.IntN(len(names))]
		old, there := model[name]
		if random.IntN(5) < 3 {
			got, replaced := r.Set(name, i)
			require.Equal(t, []any{old, there}, []any{got, replaced}, "Set(%q)", name)
			model[name] = i
		} else {
			got, deleted := r.Delete(name)
			require.Equal(t, []any{old, there}, []any{got, deleted}, "Delete(%q)", name)
			delete(model, name)
		}
		require.Equal(t, len(model), r.Len())
	}
	return r, model
}

// manyChildren returns names most of which stand below few parents: more than mapFrom children, and back.
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
	}{
		{"small names", namesUpTo(3), filtersUpTo(3), 600},
		{"many children", manyChildren(40), []string{"#", "+", "a/+", "a/#", "a/7", "a/+/x", "+/#", "+/+", "$x/+", "$x/#", "a/+/#"}, 1500},
		{"about as many children as make a map", manyChildren(mapFrom), []string{"#", "a/+", "+"}, 1500},
	} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s seed %d", c.title, seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 0))
				r, model := randomRetained(t, random, c.names, c.changes)
				for _, name := range c.names {
					v, ok := r.Get(name)
					want, there := model[name]
					require.Equal(t, []any{want, there}, []any{v, ok}, "Get(%q)", name)
				}
				for _, filter := range c.filters {
					require.Equal(t, model.match(filter), matchAll(t, r, model, filter), "Match(%q)", filter)
				}
				names := slices.Collect(maps.Keys(model))
				random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				for _, name := range names {
					_, deleted := r.Delete(name)
					require.True(t, deleted)
				}
				require.Equal(t, &Retained[int]{}, r, "an emptied tree has no nodes left")
			})
		}
	}
}

func TestRetained_Match_stops_when_it_is_told(t *testing.T) {
	t.Parallel()
	var r Retained[int]
	for _, name := range manyChildren(30) {
		r.Set(name, 1)
	}
	for _, filter := range []string{"#", "a/+", "a/#", "+", "+/+", "a/3/x"} {
		all := matchAll(t, &r, retainedOf(&r), filter)
		for stop := 1; stop <= len(all); stop++ {
			var got []string
			r.Match(filter, func(name string, _ int) bool {
				got = append(got, name)
				return len(got) < stop
			})
			require.Equal(t, all[:stop], got, "Match(%q), stopped after %d", filter, stop)
		}
	}
}

// retainedOf returns the model of a Retained whose values are all 1.
func retainedOf(r *Retained[int]) retainedModel {
	m := retainedModel{}
	for _, filter := range []string{"#", "$x/#"} {
		r.Match(filter, func(name string, _ int) bool {
			m[name] = 1
			return true
		})
	}
	return m
}

func TestRetained_order_is_level_by_level_and_a_name_before_those_below_it(t *testing.T) {
	t.Parallel()
	var r Retained[int]
	want := []string{"/", "/a", "a", "a/", "a/b", "a/b/c", "a/c", "a b", "a!", "ab", "b", "é"}
	slices.SortFunc(want, naiveOrder)
	for _, name := range want {
		r.Set(name, 1)
	}
	require.Equal(t, want, matchAll(t, &r, retainedOf(&r), "#"))
	require.Less(t, slices.Index(want, "a/b"), slices.Index(want, "a b"), "by levels, not by the bytes of the whole")
}

func TestRetained_of_the_zero_value_is_empty(t *testing.T) {
	t.Parallel()
	var r Retained[int]
	require.Zero(t, r.Len())
	_, ok := r.Get("a/b")
	require.False(t, ok)
	_, deleted := r.Delete("a/b")
	require.False(t, deleted)
	require.Empty(t, matchAll(t, &r, nil, "#"))
}

func TestRetained_Delete_of_an_inner_name_keeps_those_below_it(t *testing.T) {
	t.Parallel()
	var r Retained[int]
	r.Set("a", 1)
	r.Set("a/b/c", 1)
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
	var r Retained[int]
	r.Set(unsafeString(b), 1)
	clear(b)
	_, ok := r.Get("a/b")
	require.True(t, ok)
}

package topic

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// treeModel is a Tree as a list of pairs.
type treeModel map[string]map[int]bool

func (m treeModel) match(name string) (values []int) {
	for filter, set := range m {
		if naiveMatch(filter, name) {
			values = slices.AppendSeq(values, maps.Keys(set))
		}
	}
	return values
}

func (m treeModel) len() (n int) {
	for _, set := range m {
		n += len(set)
	}
	return n
}

// dump writes a node down: two trees that hold the same in the same nodes have the same dump.
func dump(n *treeNode[int]) map[string]any {
	if n == nil {
		return nil
	}
	all := map[string]any{"values": sorted(n.values)}
	add := func(level string, c *treeNode[int]) {
		if c != nil {
			all["/"+level] = dump(c)
		}
	}
	add("+", n.plus)
	add("#", n.multi)
	add(n.onlyName, n.only)
	for level, c := range n.children {
		add(level, c)
	}
	return all
}

// randomTree changes a tree and its model at random, n times.
func randomTree(t *testing.T, random *rand.Rand, filters []string, values, n int) (*Tree[int], treeModel) {
	t.Helper()
	tree, model := &Tree[int]{}, treeModel{}
	for range n {
		filter, v := filters[random.IntN(len(filters))], random.IntN(values)
		there := model[filter][v]
		if random.IntN(5) < 3 {
			require.Equal(t, !there, tree.Add(filter, v), "Add(%q, %d)", filter, v)
			if model[filter] == nil {
				model[filter] = map[int]bool{}
			}
			model[filter][v] = true
		} else {
			require.Equal(t, there, tree.Remove(filter, v), "Remove(%q, %d)", filter, v)
			if delete(model[filter], v); len(model[filter]) == 0 {
				delete(model, filter)
			}
		}
		require.Equal(t, model.len(), tree.Len())
	}
	return tree, model
}

func TestTree_agrees_with_a_list_of_pairs(t *testing.T) {
	t.Parallel()
	all, names := filtersUpTo(4), namesUpTo(4)
	for _, c := range []struct{ filters, values, changes int }{
		{6, 100, 2000}, // many values a filter: the index
		{40, 10, 1000},
		{len(all), 3, 3000},
	} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%d filters %d values seed %d", c.filters, c.values, seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 0))
				filters := slices.Clone(all)
				random.Shuffle(len(filters), func(i, j int) { filters[i], filters[j] = filters[j], filters[i] })
				tree, model := randomTree(t, random, filters[:c.filters], c.values, c.changes)
				for _, name := range names {
					require.Equal(t, sorted(model.match(name)), sorted(tree.Match(name, nil)), "Match(%q)", name)
					for _, set := range tree.MatchSets(name, nil) {
						require.NotEmpty(t, set, "MatchSets(%q): no set is empty", name)
					}
				}
				for _, name := range names {
					level, _, _ := strings.Cut(name, "/")
					first := func(filter string) bool { f, _, _ := strings.Cut(filter, "/"); return f == level }
					require.Equal(t, slices.ContainsFunc(slices.Collect(maps.Keys(model)), first), tree.HasFirst(level), "HasFirst(%q)", level)
				}
				requireFresh(t, tree, model)
				requireEmptied(t, random, tree, model)
			})
		}
	}
}

// requireFresh checks that a tree's history leaves no trace.
func requireFresh(t *testing.T, tree *Tree[int], model treeModel) {
	t.Helper()
	fresh := &Tree[int]{}
	for filter, set := range model {
		for v := range set {
			fresh.Add(filter, v)
		}
	}
	require.Equal(t, dump(&fresh.root), dump(&tree.root))
}

// requireEmptied removes all, in any order, and checks that nothing is left.
func requireEmptied(t *testing.T, random *rand.Rand, tree *Tree[int], model treeModel) {
	t.Helper()
	type pair struct {
		filter string
		v      int
	}
	var pairs []pair
	for filter, set := range model {
		for v := range set {
			pairs = append(pairs, pair{filter, v})
		}
	}
	random.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	for _, p := range pairs {
		require.True(t, tree.Remove(p.filter, p.v))
	}
	require.Equal(t, &Tree[int]{}, tree)
}

func TestTree_of_the_zero_value_is_empty(t *testing.T) {
	t.Parallel()
	var tree Tree[int]
	require.Zero(t, tree.Len())
	require.Empty(t, tree.Match("a", nil))
	require.False(t, tree.Remove("a", 1))
	require.False(t, tree.Remove("+/#", 1))
}

func TestTree_Match_appends(t *testing.T) {
	t.Parallel()
	var tree Tree[int]
	tree.Add("a/#", 1)
	tree.Add("+", 1)
	require.Equal(t, []int{7, 1, 1}, tree.Match("a", []int{7}), "a value under two filters comes twice")
	require.Equal(t, [][]int{{7}, {1}}, tree.MatchSets("a/b", [][]int{{7}}))
}

// TestTree_does_not_keep_the_filters_it_was_given: a filter is often a piece of a large packet.
func TestTree_does_not_keep_the_filters_it_was_given(t *testing.T) {
	t.Parallel()
	b := []byte("a/b c/d")
	var tree Tree[int]
	for _, f := range []string{unsafeString(b[:3]), unsafeString(b[4:])} {
		tree.Add(f, 1)
	}
	clear(b)
	require.Equal(t, []int{1}, tree.Match("a/b", nil))
	require.Equal(t, []int{1}, tree.Match("c/d", nil))
}

func TestTree_allocates_nothing_to_match(t *testing.T) { // counts allocations: not in parallel
	var tree Tree[int]
	for i := range 1000 {
		tree.Add(fmt.Sprintf("a/%d/+", i), i)
		tree.Add("a/+/b/#", i)
	}
	tree.Add("#", 1)
	tree.Add("+/+/b", 1)
	sets := make([][]int, 0, 16)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if got := tree.MatchSets("a/7/b", sets); len(got) != 4 {
			t.Error(got)
		}
	}))
}

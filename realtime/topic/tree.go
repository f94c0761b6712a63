package topic

import "strings"

// Tree holds values under Topic Filters and finds those whose filter matches a Topic Name. The zero value is ready.
//
// It is not safe for concurrent use, but for any number of Match calls while nobody writes.
type Tree[T comparable] struct {
	root  treeNode[T]
	pairs int
}

// treeNode stands for the levels of a filter up to here. Most nodes have one value and one child or none, so both are
// kept inline and grow into a slice and a map only when there are more.
type treeNode[T comparable] struct {
	values   []T
	index    map[T]int // positions in values, from indexFrom values on
	plus     *treeNode[T]
	multi    *treeNode[T] // #
	onlyName string       // the single literal child
	only     *treeNode[T]
	children map[string]*treeNode[T] // from two literal children on
}

// indexFrom is the number of values from which removal looks a value up instead of searching for it (chosen: a
// search through 32 pointers costs less than a map access and 1 KiB of map).
const indexFrom = 32

// Len returns the number of pairs of filter and value.
func (t *Tree[T]) Len() int { return t.pairs }

// HasFirst reports whether there is a filter whose first level is this, which is no wildcard.
func (t *Tree[T]) HasFirst(level string) bool { return t.root.literal(level) != nil }

// Add puts v under filter and reports whether it was not there yet.
func (t *Tree[T]) Add(filter string, v T) bool {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.grow(level)
	}
	if n.find(v) >= 0 {
		return false
	}
	n.values = append(n.values, v)
	switch {
	case n.index != nil:
		n.index[v] = len(n.values) - 1
	case len(n.values) == indexFrom:
		n.index = make(map[T]int, 2*indexFrom)
		for i, w := range n.values {
			n.index[w] = i
		}
	}
	t.pairs++
	return true
}

// Remove takes v from under filter and reports whether it was there. Nodes left empty go.
func (t *Tree[T]) Remove(filter string, v T) bool {
	if !t.root.remove(filter, v) {
		return false
	}
	t.pairs--
	return true
}

func (n *treeNode[T]) remove(filter string, v T) bool {
	level, rest, more := strings.Cut(filter, "/")
	child := n.child(level)
	if child == nil {
		return false
	}
	if more {
		if !child.remove(rest, v) {
			return false
		}
	} else if !child.drop(v) {
		return false
	}
	if child.empty() {
		n.prune(level)
	}
	return true
}

func (n *treeNode[T]) find(v T) int {
	if n.index != nil {
		if i, ok := n.index[v]; ok {
			return i
		}
		return -1
	}
	for i, w := range n.values {
		if w == v {
			return i
		}
	}
	return -1
}

func (n *treeNode[T]) drop(v T) bool {
	i := n.find(v)
	if i < 0 {
		return false
	}
	last := len(n.values) - 1
	n.values[i] = n.values[last]
	if n.index != nil {
		n.index[n.values[i]] = i
		delete(n.index, v)
	}
	var zero T
	n.values[last] = zero
	if n.values = n.values[:last]; last == 0 {
		n.values, n.index = nil, nil
	}
	return true
}

func (n *treeNode[T]) empty() bool {
	return len(n.values) == 0 && n.plus == nil && n.multi == nil && n.only == nil && len(n.children) == 0
}

func (n *treeNode[T]) child(level string) *treeNode[T] {
	switch level {
	case "+":
		return n.plus
	case "#":
		return n.multi
	default:
		return n.literal(level)
	}
}

func (n *treeNode[T]) literal(level string) *treeNode[T] {
	if n.children != nil {
		return n.children[level]
	}
	if n.only != nil && n.onlyName == level {
		return n.only
	}
	return nil
}

func (n *treeNode[T]) grow(level string) *treeNode[T] {
	if c := n.child(level); c != nil {
		return c
	}
	c := &treeNode[T]{}
	switch {
	case level == "+":
		n.plus = c
	case level == "#":
		n.multi = c
	case n.children != nil:
		n.children[strings.Clone(level)] = c
	case n.only == nil:
		n.onlyName, n.only = strings.Clone(level), c
	default:
		n.children = map[string]*treeNode[T]{n.onlyName: n.only, strings.Clone(level): c}
		n.onlyName, n.only = "", nil
	}
	return c
}

func (n *treeNode[T]) prune(level string) {
	switch level {
	case "+":
		n.plus = nil
	case "#":
		n.multi = nil
	default:
		n.onlyName, n.only = "", nil
		if delete(n.children, level); len(n.children) == 0 {
			n.children = nil
		}
	}
}

// Match appends the values whose filter matches name. A value that stands under several matching filters comes
// several times. MatchSets does the same without copying.
func (t *Tree[T]) Match(name string, dst []T) []T {
	var room [16][]T
	for _, set := range t.root.matchSets(name, hidden(name), room[:0]) {
		dst = append(dst, set...)
	}
	return dst
}

// MatchSets appends, for each filter that matches name, the values under it. The sets are views, valid until the next
// write.
func (t *Tree[T]) MatchSets(name string, dst [][]T) [][]T {
	return t.root.matchSets(name, hidden(name), dst)
}

func (n *treeNode[T]) matchSets(name string, wildcardsHidden bool, dst [][]T) [][]T {
	if n.multi != nil && !wildcardsHidden {
		dst = append(dst, n.multi.values)
	}
	level, rest, more := strings.Cut(name, "/")
	if c := n.literal(level); c != nil {
		dst = c.matchRest(rest, more, dst)
	}
	if n.plus != nil && !wildcardsHidden {
		dst = n.plus.matchRest(rest, more, dst)
	}
	return dst
}

// matchRest goes on below a level that matched; at the end of the name, # matches the parent level too.
func (n *treeNode[T]) matchRest(rest string, more bool, dst [][]T) [][]T {
	if more {
		return n.matchSets(rest, false, dst)
	}
	if len(n.values) > 0 {
		dst = append(dst, n.values)
	}
	if n.multi != nil {
		dst = append(dst, n.multi.values)
	}
	return dst
}

package topic

import (
	"slices"
	"strings"
)

// Retained maps Topic Names to values, and finds by Topic Filter. The zero value is ready. It is not safe for
// concurrent use, but for any number of reads while nobody writes.
type Retained[T any] struct {
	root  retainedNode[T]
	count int
}

// retainedNode stands for the levels of a name up to here. A single child is kept inline, a few in a sorted slice,
// more in a map.
type retainedNode[T any] struct {
	level string
	value T
	set   bool
	only  *retainedNode[T]
	many  *retainedChildren[T]
}

type retainedChildren[T any] struct {
	sorted []*retainedNode[T]          // by level; nil when there is byName
	byName map[string]*retainedNode[T] // from mapFrom children on
}

// mapFrom is the number of children from which a map finds them.
const mapFrom = 16

// Len returns the number of names.
func (r *Retained[T]) Len() int { return r.count }

// Set puts v at name and returns what was there.
func (r *Retained[T]) Set(name string, v T) (old T, replaced bool) {
	n := &r.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.grow(level)
	}
	old, replaced = n.value, n.set
	n.value, n.set = v, true
	if !replaced {
		r.count++
	}
	return old, replaced
}

// Get returns the value at name.
func (r *Retained[T]) Get(name string) (v T, ok bool) {
	n := &r.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if n = n.child(level); n == nil {
			return v, false
		}
	}
	return n.value, n.set
}

// Delete takes name out and returns what was there. Nodes left empty go.
func (r *Retained[T]) Delete(name string) (old T, deleted bool) {
	old, deleted = r.root.remove(name)
	if deleted {
		r.count--
	}
	return old, deleted
}

func (n *retainedNode[T]) remove(name string) (old T, deleted bool) {
	level, rest, more := strings.Cut(name, "/")
	c := n.child(level)
	if c == nil {
		return old, false
	}
	if more {
		old, deleted = c.remove(rest)
	} else {
		old, deleted = c.value, c.set
		var zero T
		c.value, c.set = zero, false
	}
	if deleted && !c.set && c.only == nil && c.many == nil {
		n.prune(level)
	}
	return old, deleted
}

func (n *retainedNode[T]) child(level string) *retainedNode[T] {
	switch {
	case n.only != nil:
		if n.only.level == level {
			return n.only
		}
		return nil
	case n.many == nil:
		return nil
	case n.many.byName != nil:
		return n.many.byName[level]
	}
	if i, found := n.many.search(level); found {
		return n.many.sorted[i]
	}
	return nil
}

func (m *retainedChildren[T]) search(level string) (int, bool) {
	return slices.BinarySearchFunc(m.sorted, level, func(c *retainedNode[T], level string) int {
		return strings.Compare(c.level, level)
	})
}

func (n *retainedNode[T]) grow(level string) *retainedNode[T] {
	if c := n.child(level); c != nil {
		return c
	}
	c := &retainedNode[T]{level: strings.Clone(level)}
	if n.only == nil && n.many == nil {
		n.only = c
		return c
	}
	if n.only != nil {
		n.many = &retainedChildren[T]{sorted: []*retainedNode[T]{n.only}}
		n.only = nil
	}
	n.many.insert(c)
	return c
}

// insert keeps the order for a few children; many are sorted when they are asked for, so that adding 100,000 children
// in any order costs no 100,000 shifts.
func (m *retainedChildren[T]) insert(c *retainedNode[T]) {
	if m.byName != nil {
		m.byName[c.level] = c
		return
	}
	i, _ := m.search(c.level)
	m.sorted = slices.Insert(m.sorted, i, c)
	if len(m.sorted) >= mapFrom {
		m.byName = make(map[string]*retainedNode[T], 2*mapFrom)
		for _, c := range m.sorted {
			m.byName[c.level] = c
		}
		m.sorted = nil
	}
}

func (n *retainedNode[T]) prune(level string) {
	if n.only != nil {
		n.only = nil
		return
	}
	m := n.many
	if m.byName != nil {
		if delete(m.byName, level); len(m.byName) == 0 {
			n.many = nil
		}
		return
	}
	if i, found := m.search(level); found {
		m.sorted = slices.Delete(m.sorted, i, i+1)
	}
	if len(m.sorted) == 1 {
		n.only, n.many = m.sorted[0], nil
	}
}

// ordered returns the children by level. It writes nothing, so that reads may run side by side: a map's children are
// sorted into a slice of their own.
func (n *retainedNode[T]) ordered() []*retainedNode[T] {
	switch {
	case n.only != nil:
		return []*retainedNode[T]{n.only}
	case n.many == nil:
		return nil
	case n.many.byName == nil:
		return n.many.sorted
	}
	all := make([]*retainedNode[T], 0, len(n.many.byName))
	for _, c := range n.many.byName {
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y *retainedNode[T]) int { return strings.Compare(x.level, y.level) })
	return all
}

// Match calls yield with every name that filter matches, level by level in the order of bytes, a name before those
// below it, until yield returns false.
func (r *Retained[T]) Match(filter string, yield func(name string, v T) bool) {
	w := retainedWalk[T]{yield: yield}
	w.below(&r.root, filter, true)
}

type retainedWalk[T any] struct {
	yield func(name string, v T) bool
	path  []byte
}

// below goes through the children of n that filter matches, and reports whether to go on.
func (w *retainedWalk[T]) below(n *retainedNode[T], filter string, root bool) bool {
	level, rest, more := strings.Cut(filter, "/")
	if level != "+" && level != "#" {
		c := n.child(level)
		return c == nil || w.enter(c, rest, more, root)
	}
	for _, c := range n.ordered() {
		if root && hidden(c.level) {
			continue
		}
		if level == "#" {
			rest, more = "#", true
		}
		if !w.enter(c, rest, more, root) {
			return false
		}
	}
	return true
}

func (w *retainedWalk[T]) enter(c *retainedNode[T], rest string, more, root bool) bool {
	length := len(w.path)
	if !root {
		w.path = append(w.path, '/')
	}
	w.path = append(w.path, c.level...)
	defer func() { w.path = w.path[:length] }()
	// A filter that goes on with # alone matches its parent level too.
	if c.set && (!more || rest == "#") && !w.yield(string(w.path), c.value) {
		return false
	}
	return !more || w.below(c, rest, false)
}

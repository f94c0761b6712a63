package topic

import (
	"math"
	"slices"
	"strings"
)

// Retained maps Topic Names to values, and finds by Topic Filter. The zero value is ready. It is not safe for
// concurrent use, but for any number of reads while nobody writes.
type Retained[T any] struct {
	root  retainedNode[T]
	count int
}

// retainedNode stands for the levels of a name up to here. A single child is kept inline, more in sorted runs.
type retainedNode[T any] struct {
	level string
	value T
	set   bool
	only  *retainedNode[T]
	many  *retainedChildren[T]
}

// retainedChildren holds two children or more by level, in runs of at most runMax: adding one moves no more than a run,
// and a walk begins at any level without a look at those before it.
type retainedChildren[T any] struct {
	runs [][]*retainedNode[T] // none is empty
}

// runMax is chosen: 64 and 256 are no faster in BenchmarkRetained.
const runMax = 128

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
	}
	if run, i, found := n.many.search(level); found {
		return n.many.runs[run][i]
	}
	return nil
}

// search returns where level stands, or would have to be inserted.
func (m *retainedChildren[T]) search(level string) (run, i int, found bool) {
	run, found = slices.BinarySearchFunc(m.runs, level, func(r []*retainedNode[T], level string) int {
		return strings.Compare(r[0].level, level)
	})
	if !found && run > 0 {
		run-- // the last run that does not begin behind level
	}
	i, found = slices.BinarySearchFunc(m.runs[run], level, func(c *retainedNode[T], level string) int {
		return strings.Compare(c.level, level)
	})
	return run, i, found
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
		n.many = &retainedChildren[T]{runs: [][]*retainedNode[T]{{n.only}}}
		n.only = nil
	}
	n.many.insert(c)
	return c
}

func (m *retainedChildren[T]) insert(c *retainedNode[T]) {
	at, i, _ := m.search(c.level)
	if run := m.runs[at]; len(run) == runMax {
		if i == runMax && at == len(m.runs)-1 {
			// Names often come in their order: full runs then stay full.
			m.runs = append(m.runs, []*retainedNode[T]{c})
			return
		}
		const half = runMax / 2
		m.runs = slices.Insert(m.runs, at+1, slices.Clone(run[half:]))
		m.runs[at] = slices.Delete(run, half, runMax)
		if i > half {
			at, i = at+1, i-half
		}
	}
	m.runs[at] = slices.Insert(m.runs[at], i, c)
}

func (n *retainedNode[T]) prune(level string) {
	if n.only != nil {
		n.only = nil
		return
	}
	m := n.many
	at, i, _ := m.search(level)
	if m.runs[at] = slices.Delete(m.runs[at], i, i+1); len(m.runs[at]) == 0 {
		m.runs = slices.Delete(m.runs, at, at+1)
	}
	if len(m.runs) == 1 && len(m.runs[0]) == 1 {
		n.only, n.many = m.runs[0][0], nil
	}
}

// Match calls yield with the value of every name that filter matches, level by level in the order of bytes, a name
// before those below it, until yield returns false.
func (r *Retained[T]) Match(filter string, yield func(v T) bool) {
	r.MatchAfter(filter, "", math.MaxInt, yield)
}

// MatchAfter is Match for the names behind after (empty: all), which need not be there. It stops also when it has gone
// through visits nodes of the tree, and then returns the name behind which to go on.
func (r *Retained[T]) MatchAfter(filter, after string, visits int, yield func(v T) bool) (next string, more bool) {
	w := retainedWalk[T]{yield: yield, visits: visits}
	w.below(&r.root, filter, true, after, after != "")
	return w.next, w.tired
}

type retainedWalk[T any] struct {
	yield  func(v T) bool
	visits int // left
	tired  bool
	next   string // if tired: the last node's name, put together on the way up
}

// below goes through the children of n that filter matches, if bounded only those behind after, and reports whether
// to go on.
func (w *retainedWalk[T]) below(n *retainedNode[T], filter string, root bool, after string, bounded bool) bool {
	level, rest, more := strings.Cut(filter, "/")
	if level != "+" && level != "#" {
		c := n.child(level)
		return c == nil || w.child(c, rest, more, after, bounded)
	}
	if level == "#" {
		rest, more = "#", true
	}
	switch {
	case n.only != nil:
		return root && hidden(n.only.level) || w.child(n.only, rest, more, after, bounded)
	case n.many == nil:
		return true
	}
	run, i := 0, 0
	if bounded {
		from, _, _ := strings.Cut(after, "/")
		run, i, _ = n.many.search(from)
	}
	for ; run < len(n.many.runs); run++ {
		for ; i < len(n.many.runs[run]); i++ {
			c := n.many.runs[run][i]
			if (!root || !hidden(c.level)) && !w.child(c, rest, more, after, bounded) {
				return false
			}
		}
		i = 0
	}
	return true
}

// child enters c, or what is behind after in it.
func (w *retainedWalk[T]) child(c *retainedNode[T], rest string, more bool, after string, bounded bool) bool {
	if !bounded {
		return w.enter(c, rest, more) && w.deeper(c, rest, more, "", false)
	}
	level, after, bounded := strings.Cut(after, "/")
	switch order := strings.Compare(c.level, level); {
	case order < 0:
		return true
	case order > 0:
		return w.enter(c, rest, more) && w.deeper(c, rest, more, "", false)
	}
	// The name up to here is after, or stands before it.
	return w.deeper(c, rest, more, after, bounded)
}

func (w *retainedWalk[T]) enter(c *retainedNode[T], rest string, more bool) bool {
	// A filter that goes on with # alone matches its parent level too.
	if c.set && (!more || rest == "#") && !w.yield(c.value) {
		return false
	}
	// An empty level is no place to stop at: as a name it would mean the beginning.
	if w.visits--; w.visits <= 0 && c.level != "" {
		w.tired, w.next = true, c.level
		return false
	}
	return true
}

func (w *retainedWalk[T]) deeper(c *retainedNode[T], rest string, more bool, after string, bounded bool) bool {
	if !more || w.below(c, rest, false, after, bounded) {
		return true
	}
	if w.tired {
		w.next = c.level + "/" + w.next
	}
	return false
}

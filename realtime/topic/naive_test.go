package topic

import (
	"cmp"
	"slices"
	"strings"
)

// The naive model: MQTT 5.0 section 4.7 as it reads, over lists of levels.

// naiveMatch reports whether filter matches name, both valid.
func naiveMatch(filter, name string) bool {
	if name[0] == '$' && (filter[0] == '#' || filter[0] == '+') {
		return false // [MQTT5-4.7.2-1]
	}
	return naiveMatchLevels(strings.Split(filter, "/"), strings.Split(name, "/"))
}

func naiveMatchLevels(filter, name []string) bool {
	if len(filter) == 0 || len(name) == 0 {
		// # also stands for no level: "the multi-level wildcard represents the parent and any number of child levels".
		return len(filter) == len(name) || len(filter) == 1 && filter[0] == "#"
	}
	switch filter[0] {
	case "#":
		return true
	case "+", name[0]:
		return naiveMatchLevels(filter[1:], name[1:])
	}
	return false
}

// naiveOrder is the order of Retained.Match: level by level, by bytes, a name before those below it.
func naiveOrder(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }

// filtersUpTo returns all filters of at most depth levels; namesUpTo all names. "b" is a level like "a", so that
// there is always one that a filter does not name.
func filtersUpTo(depth int) []string {
	var all []string
	for _, prefix := range append([]string{""}, prefixes([]string{"", "$x", "a", "b", "+"}, depth-1)...) {
		for _, last := range []string{"", "$x", "a", "b", "+", "#"} {
			if prefix+last != "" {
				all = append(all, prefix+last)
			}
		}
	}
	return all
}

func namesUpTo(depth int) []string {
	var all []string
	for _, prefix := range append([]string{""}, prefixes([]string{"", "$x", "a", "b"}, depth-1)...) {
		for _, last := range []string{"", "$x", "a", "b"} {
			if prefix+last != "" {
				all = append(all, prefix+last)
			}
		}
	}
	return all
}

// prefixes returns all sequences of 1 to depth levels, each level with a slash behind it.
func prefixes(levels []string, depth int) []string {
	if depth == 0 {
		return nil
	}
	var all []string
	for _, level := range levels {
		all = append(all, level+"/")
		for _, rest := range prefixes(levels, depth-1) {
			all = append(all, level+"/"+rest)
		}
	}
	return all
}

// sorted returns a sorted copy, for comparing as multisets.
func sorted[T cmp.Ordered](list []T) []T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

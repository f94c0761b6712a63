package topic

import (
	"errors"
	"testing"
)

// FuzzMatch tries any filters and name. Whatever they are, nothing panics; valid ones are judged as the model does, by
// Match, by a Tree and by a Retained, and Covers and Overlaps say nothing that the name disproves.
func FuzzMatch(f *testing.F) {
	for _, seed := range [][3]string{
		{"+/#", "a/#", "a"},
		{"a/+/#", "#", "a/b"},
		{"#", "$x/+", "$x/a"},
		{"$share/g/a/+", "a", "a/"},
		{"/", "//", "/"},
		{"a#", "+a", "a\x00"},
		{"\xff", "$share", "$share/g"},
		{"", "", ""},
		{"é/+", "+/é", "é/é"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, a, b, name string) {
		Match(a, name)
		Covers(a, b)
		Overlaps(a, b)
		valid := ValidateName(name, Limits{}) == nil
		var matches []bool
		for _, filter := range []string{a, b} {
			if ValidateFilter(filter, Limits{}) != nil {
				valid = false
				continue
			}
			_, inner, _, err := ParseShared(filter)
			if err != nil || inner == "" {
				t.Fatalf("ParseShared(%q) = %q, %v: it is valid", filter, inner, err)
			}
			if valid {
				matches = append(matches, fuzzMatch(t, inner, name))
			}
		}
		if !valid {
			return
		}
		_, a, _, errA := ParseShared(a)
		_, b, _, errB := ParseShared(b)
		switch {
		case errors.Join(errA, errB) != nil:
			t.Fatal(errA, errB)
		case matches[1] && !matches[0] && Covers(a, b):
			t.Fatalf("%q covers %q, but %q", a, b, name)
		case matches[0] && matches[1] && (!Overlaps(a, b) || !Overlaps(b, a)):
			t.Fatalf("%q and %q do not overlap, but %q", a, b, name)
		case !Covers(a, a) || !Overlaps(a, a):
			t.Fatalf("%q does not cover itself", a)
		}
	})
}

// fuzzMatch judges by all means there are.
func fuzzMatch(t *testing.T, filter, name string) bool {
	t.Helper()
	want := naiveMatch(filter, name)
	if Match(filter, name) != want {
		t.Fatalf("Match(%q, %q) = %v", filter, name, !want)
	}
	var tree Tree[int]
	tree.Add(filter, 1)
	if found := len(tree.Match(name, nil)) == 1; found != want {
		t.Fatalf("Tree: %q of %q = %v", filter, name, found)
	}
	var r Retained[string]
	r.Set(name, name)
	found := false
	r.Match(filter, func(got string) bool {
		found = got == name
		return true
	})
	if found != want {
		t.Fatalf("Retained: %q of %q = %v", filter, name, found)
	}
	return want
}

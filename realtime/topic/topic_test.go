package topic

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter string
		name   string
		want   bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "A", false}, // [MQTT5-4.7.3-4]: nothing is normalized
		{"a", "a/b", false},
		{"a/b", "a", false},
		{"a", "/a", false},
		{"/a", "/a", true},
		{"a", "a/", false},
		{"a/", "a/", true},
		{"/", "/", true},
		{"/", "//", false},
		{"é", "e\u0301", false},
		{"a b", "a b", true},

		{"+", "a", true},
		{"+", "a/b", false},
		{"+", "/", false},
		{"+", "/a", false},
		{"+/+", "/a", true},
		{"/+", "/a", true},
		{"/+", "/", true},
		{"a/+", "a/", true},
		{"a/+", "a", false},
		{"a/+", "a/b", true},
		{"a/+", "a/b/c", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a//c", true},
		{"a/+/c", "a/c", false},
		{"+/b", "a/b", true},

		{"#", "a", true},
		{"#", "a/b/c", true},
		{"#", "/", true},
		{"a/#", "a", true}, // the parent level, MQTT 5.0 section 4.7.1.2
		{"a/#", "a/", true},
		{"a/#", "a/b", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"a/#", "b", false},
		{"/#", "/", true},
		{"/#", "/a", true},
		{"/#", "a", false},
		{"+/#", "a", true}, // defects found in other brokers
		{"+/#", "a/b", true},
		{"a/+/#", "a/b", true},
		{"a/+/#", "a/b/c", true},
		{"a/+/#", "a", false},
		{"+/+/#", "a", false},
		{"a/b/#", "a", false},

		{"#", "$SYS", false}, // [MQTT5-4.7.2-1]
		{"#", "$SYS/x", false},
		{"+", "$SYS", false},
		{"+/x", "$SYS/x", false},
		{"+/#", "$SYS/x", false},
		{"$SYS/#", "$SYS", true},
		{"$SYS/#", "$SYS/x", true},
		{"$SYS/+", "$SYS/x", true},
		{"$SYS/x", "$SYS/x", true},
		{"a/+", "a/$x", true},
		{"a/#", "a/$x", true},
		{"#", "a/$x", true},
	} {
		require.Equal(t, c.want, Match(c.filter, c.name), "Match(%q, %q)", c.filter, c.name)
		require.Equal(t, c.want, naiveMatch(c.filter, c.name), "the model, of %q and %q", c.filter, c.name)
	}
}

// matchSet tells which names a filter matches, by the naive model.
type matchSet []bool

func matchSets(filters, names []string) []matchSet {
	sets := make([]matchSet, len(filters))
	for i, f := range filters {
		sets[i] = make(matchSet, len(names))
		for j, n := range names {
			sets[i][j] = naiveMatch(f, n)
		}
	}
	return sets
}

func TestMatch_agrees_with_the_model_on_all_small_filters_and_names(t *testing.T) {
	t.Parallel()
	filters, names := filtersUpTo(4), namesUpTo(4)
	for i, set := range matchSets(filters, names) {
		for j, want := range set {
			if Match(filters[i], names[j]) != want {
				t.Errorf("Match(%q, %q) = %v, want %v", filters[i], names[j], !want, want)
			}
		}
	}
}

// TestCovers_and_Overlaps_agree_with_the_model asks for every two filters of up to three levels which names of up to
// four levels they match: deep and varied enough to tell any two such filters apart.
func TestCovers_and_Overlaps_agree_with_the_model_on_all_small_filters(t *testing.T) {
	t.Parallel()
	filters := filtersUpTo(3)
	names := namesUpTo(4)
	sets := matchSets(filters, names)
	for i, a := range filters {
		for j, b := range filters {
			covers, overlaps := true, false
			for k := range names {
				covers = covers && (sets[i][k] || !sets[j][k])
				overlaps = overlaps || sets[i][k] && sets[j][k]
			}
			if Covers(a, b) != covers {
				t.Errorf("Covers(%q, %q) = %v, want %v", a, b, !covers, covers)
			}
			if Overlaps(a, b) != overlaps {
				t.Errorf("Overlaps(%q, %q) = %v, want %v", a, b, !overlaps, overlaps)
			}
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		outer, inner string
		want         bool
	}{
		{"#", "#", true},
		{"#", "+/#", true},
		{"+/#", "#", true}, // each name has a level
		{"+/+/#", "#", false},
		{"a/+/#", "a/#", false},
		{"a/#", "a/+/#", true},
		{"a/#", "a", true},
		{"a/#", "a/+", true},
		{"+", "a", true},
		{"a", "+", false},
		{"#", "$SYS/#", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/+/x", true},
		{"$SYS/#", "#", false},
		{"a/+/c", "a/b/c", true},
		{"a/b/c", "a/+/c", false},
	} {
		require.Equal(t, c.want, Covers(c.outer, c.inner), "Covers(%q, %q)", c.outer, c.inner)
	}
}

func TestOverlaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"#", "a", true},
		{"#", "$SYS", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"a/+", "+/b", true},
		{"a/+/c", "+/b/#", true},
		{"a/#", "a", true},
		{"a/+", "a", false},
		{"a/b", "a/c", false},
		{"+", "+/+", false},
	} {
		require.Equal(t, c.want, Overlaps(c.a, c.b), "Overlaps(%q, %q)", c.a, c.b)
		require.Equal(t, c.want, Overlaps(c.b, c.a), "Overlaps(%q, %q)", c.b, c.a)
	}
}

func TestValidateName(t *testing.T) {
	t.Parallel()
	limits := Limits{LevelsMax: 3, BytesMax: 10}
	for _, c := range []struct {
		title  string
		name   string
		limits Limits
		want   error
	}{
		{"a word", "a", limits, nil},
		{"blanks, capitals and $", "$A b", limits, nil},
		{"a slash alone", "/", limits, nil},
		{"empty levels", "//", limits, nil},
		{"other characters of filters", "a*b?", limits, nil},
		{"nothing [MQTT5-4.7.3-1] [MQTT311-4.7.3-1]", "", limits, ErrEmpty},
		{"+ alone [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]", "+", limits, ErrWildcard},
		{"+ in a word [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]", "a+b", limits, ErrWildcard},
		{"# as a level [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]", "a/#", limits, ErrWildcard},
		{"# in a word [MQTT5-4.7.0-1] [MQTT311-4.7.1-1]", "a#", limits, ErrWildcard},
		{"U+0000 [MQTT5-4.7.3-2] [MQTT311-4.7.3-2]", "a\x00", limits, ErrInvalidUTF8},
		{"U+0000 at the beginning [MQTT5-4.7.3-2] [MQTT311-4.7.3-2]", "\x00a", limits, ErrInvalidUTF8},
		{"bytes that are no UTF-8", "a\xff", limits, ErrInvalidUTF8},
		{"a surrogate", "\xed\xa0\x80", limits, ErrInvalidUTF8},
		{"a control character", "a\n", limits, ErrControl},
		{"U+0001", "\x01", limits, ErrControl},
		{"U+001F", "a/\x1f", limits, ErrControl},
		{"U+007F", "\x7fa", limits, ErrControl},
		{"U+0080", "\u0080", limits, ErrControl},
		{"U+009F", "a\u009fb", limits, ErrControl},
		{"U+00A0, which is none", "\u00a0", limits, nil},
		{"a letter of the same first byte, and others", "Â/é/日", limits, nil},
		{"as many bytes as allowed", "0123456789", limits, nil},
		{"a byte too many", "0123456789a", limits, ErrTooLong},
		{"characters count as bytes", "ééééé", limits, nil},
		{"a character too many", "éééééé", limits, ErrTooLong},
		{"as many levels as allowed", "a/b/c", limits, nil},
		{"a level too many", "a/b/c/d", limits, ErrTooDeep},
		{"an empty level too many", "a/b/c/", limits, ErrTooDeep},
		{"all that MQTT can say [MQTT5-4.7.3-3] [MQTT311-4.7.3-3]", strings.Repeat("a", 65_535), Limits{}, nil},
		{"more than MQTT can say [MQTT5-4.7.3-3] [MQTT311-4.7.3-3]", strings.Repeat("a", 65_536), Limits{}, ErrTooLong},
		{"more than MQTT can say, whatever the limit", strings.Repeat("a", 65_536), Limits{BytesMax: 100_000}, ErrTooLong},
		{"any number of levels without a limit", strings.Repeat("/", 65_535), Limits{}, nil},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			require.ErrorIs(t, ValidateName(c.name, c.limits), c.want)
			if c.want != ErrWildcard { //nolint:errorlint // the table's own value
				require.ErrorIs(t, ValidateFilter(c.name, c.limits), c.want, "the same holds for a filter")
			}
		})
	}
}

func TestHasControl_is_Unicodes_category_Cc(t *testing.T) {
	t.Parallel()
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if text := "a" + string(r) + "b"; hasControl(text) != unicode.IsControl(r) {
			t.Errorf("hasControl(%q) = %v", text, !unicode.IsControl(r))
		}
	}
}

func TestValidateFilter(t *testing.T) {
	t.Parallel()
	limits := Limits{LevelsMax: 3, BytesMax: 20}
	for _, c := range []struct {
		title  string
		filter string
		want   error
	}{
		{"wildcards as whole levels", "+/a/#", nil},
		{"+ in the first, a middle and the last level [MQTT5-4.7.1-2] [MQTT311-4.7.1-3]", "+/+/+", nil},
		{"# alone [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "#", nil},
		{"# behind an empty level", "/#", nil},
		{"# that is not last [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "#/a", ErrMultiLevel},
		{"# before an empty level [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "a/#/", ErrMultiLevel},
		{"# in a level [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "a#", ErrMultiLevel},
		{"# at the beginning of a level [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "a/#b", ErrMultiLevel},
		{"## [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "##", ErrMultiLevel},
		{"+ in a level [MQTT5-4.7.1-2] [MQTT311-4.7.1-3]", "a+", ErrSingleLevel},
		{"+ at the beginning of a level [MQTT5-4.7.1-2] [MQTT311-4.7.1-3]", "a/+b/c", ErrSingleLevel},
		{"++ [MQTT5-4.7.1-2] [MQTT311-4.7.1-3]", "++", ErrSingleLevel},
		{"+# [MQTT5-4.7.1-1] [MQTT311-4.7.1-2]", "+#", ErrMultiLevel},

		{"a Shared Subscription [MQTT5-4.8.2-1]", "$share/g/a", nil},
		{"a Shared Subscription to all", "$share/g/#", nil},
		{"a Shared Subscription to an empty level", "$share/g//", nil},
		{"a Shared Subscription to $SYS", "$share/g/$SYS/#", nil},
		{"a Shared Subscription of as many levels as allowed", "$share/g/a/b/c", nil},
		{"a Shared Subscription of a level too many", "$share/g/a/b/c/d", ErrTooDeep},
		{"$share alone [MQTT5-4.8.2-1]", "$share", ErrShareName},
		{"$share without a name [MQTT5-4.8.2-1]", "$share/", ErrShareName},
		{"$share with an empty name [MQTT5-4.8.2-1]", "$share//a", ErrShareName},
		{"a name with + [MQTT5-4.8.2-2]", "$share/+/a", ErrShareName},
		{"a name with # [MQTT5-4.8.2-2]", "$share/g#/a", ErrShareName},
		{"# for a name [MQTT5-4.8.2-2]", "$share/#", ErrShareName},
		{"a name without a filter [MQTT5-4.8.2-2]", "$share/g", ErrSharedFilter},
		{"a name with an empty filter [MQTT5-4.8.2-2]", "$share/g/", ErrSharedFilter},
		{"a filter behind the name that is none", "$share/g/a#", ErrMultiLevel},
		{"a filter that only begins like $share", "$shared/+", nil},
		{"$SHARE is another topic", "$SHARE/g", nil},
	} {
		t.Run(c.title, func(t *testing.T) {
			t.Parallel()
			require.ErrorIs(t, ValidateFilter(c.filter, limits), c.want, c.filter)
		})
	}
}

func TestParseShared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, group, inner string
		shared               bool
		err                  error
	}{
		{"a/b", "", "a/b", false, nil},
		{"#", "", "#", false, nil},
		{"$SYS/a", "", "$SYS/a", false, nil},
		{"$shared/g/a", "", "$shared/g/a", false, nil},
		{"$share/g/a/b", "g", "a/b", true, nil},
		{"$share/g/a", "g", "a", true, nil},
		{"$share/g//", "g", "/", true, nil},
		{"$share/g//a", "g", "/a", true, nil},
		{"$share/$g/#", "$g", "#", true, nil},
		{"$share/g/$share/h/a", "g", "$share/h/a", true, nil},
		{"$share", "", "", true, ErrShareName},
		{"$share/", "", "", true, ErrShareName},
		{"$share//a", "", "", true, ErrShareName},
		{"$share/+/a", "", "", true, ErrShareName},
		{"$share/g", "", "", true, ErrSharedFilter},
		{"$share/g/", "", "", true, ErrSharedFilter},
	} {
		group, inner, shared, err := ParseShared(c.filter)
		require.ErrorIs(t, err, c.err, c.filter)
		require.Equal(t, []any{c.group, c.inner, c.shared}, []any{group, inner, shared}, c.filter)
	}
}

func TestMatch_keeps_to_the_standard(t *testing.T) {
	t.Parallel()
	t.Run("a wildcard at the beginning does not reach what begins with $ [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]", func(t *testing.T) {
		t.Parallel()
		for _, filter := range []string{"#", "+", "+/#", "+/x", "+/+"} {
			for _, name := range []string{"$SYS", "$SYS/x", "$share/g/x", "$"} {
				require.False(t, Match(filter, name), "Match(%q, %q)", filter, name)
			}
		}
		require.True(t, Match("$SYS/#", "$SYS/x"))
	})
	t.Run("nothing is normalized [MQTT5-4.7.3-4] [MQTT311-4.7.3-4]", func(t *testing.T) {
		t.Parallel()
		names := []string{"a", "A", "/a", "a/", "a//b", "a/b", "é", "e\u0301", "\ufeffa", "a ", " a", "a\u200b", "ﬁ", "fi", "%61", "a/./b", "a/../a"}
		for _, filter := range names {
			for _, name := range names {
				require.Equal(t, filter == name, Match(filter, name), "Match(%q, %q)", filter, name)
			}
		}
	})
}

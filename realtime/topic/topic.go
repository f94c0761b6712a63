// Package topic validates Topic Names and Filters, matches one against the other (MQTT 5.0 section 4.7), and holds
// values under filters (Tree) and under names (Retained).
package topic

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// BytesMax is the longest Topic Name or Filter that MQTT can say.
const BytesMax = 65_535

// What can be wrong with a Topic Name or Filter.
var (
	ErrEmpty        = errors.New("topic is empty")                              // [MQTT5-4.7.3-1]
	ErrInvalidUTF8  = errors.New("topic is not UTF-8 text without U+0000")      // [MQTT5-4.7.3-2]
	ErrControl      = errors.New("topic holds a control character")             // may be refused, MQTT 5.0 section 1.5.4
	ErrTooLong      = errors.New("topic has too many bytes")                    // [MQTT5-4.7.3-3]
	ErrTooDeep      = errors.New("topic has too many levels")                   // a limit of ours
	ErrWildcard     = errors.New("topic name holds a wildcard")                 // [MQTT5-4.7.1-1]
	ErrMultiLevel   = errors.New("# must be the last level, alone")             // [MQTT5-4.7.1-1]
	ErrSingleLevel  = errors.New("+ must be a whole level")                     // [MQTT5-4.7.1-2]
	ErrShareName    = errors.New("$share needs a name without wildcards")       // [MQTT5-4.8.2-1]
	ErrSharedFilter = errors.New("$share needs a topic filter behind its name") // [MQTT5-4.8.2-2]
)

// Limits bound names and filters; 0 means what the protocol allows.
type Limits struct{ LevelsMax, BytesMax int }

func (l Limits) check(s string) error {
	bytesMax := BytesMax
	if l.BytesMax > 0 {
		bytesMax = min(bytesMax, l.BytesMax)
	}
	switch {
	case s == "":
		return ErrEmpty
	case len(s) > bytesMax:
		return ErrTooLong
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return ErrInvalidUTF8
	case hasControl(s):
		return ErrControl
	}
	return nil
}

// hasControl reports whether UTF-8 text holds one of U+0000 to U+001F and U+007F to U+009F.
func hasControl(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7F || c == 0xC2 && s[i+1] < 0xA0 {
			return true
		}
	}
	return false
}

func (l Limits) checkLevels(s string) error {
	if l.LevelsMax > 0 && strings.Count(s, "/") >= l.LevelsMax {
		return ErrTooDeep
	}
	return nil
}

// ValidateName checks a Topic Name.
func ValidateName(name string, l Limits) error {
	if err := l.check(name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "+#") {
		return ErrWildcard
	}
	return l.checkLevels(name)
}

// ValidateFilter checks a Topic Filter; of a Shared Subscription's both the name and the filter behind it. The levels
// are those of the filter behind: a topic that can be subscribed to can be shared.
func ValidateFilter(filter string, l Limits) error {
	if err := l.check(filter); err != nil {
		return err
	}
	_, inner, _, err := ParseShared(filter)
	if err != nil {
		return err
	}
	for rest, more := inner, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case strings.IndexByte(level, '#') >= 0 && (level != "#" || more):
			return ErrMultiLevel
		case strings.IndexByte(level, '+') >= 0 && level != "+":
			return ErrSingleLevel
		}
	}
	return l.checkLevels(inner)
}

const sharePrefix = "$share/"

// ParseShared splits the filter of a Shared Subscription, $share/{name}/{filter}; of any other, inner is the filter.
func ParseShared(filter string) (group, inner string, shared bool, err error) {
	if filter == "$share" {
		return "", "", true, ErrShareName
	}
	rest, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return "", filter, false, nil
	}
	group, inner, _ = strings.Cut(rest, "/")
	if group == "" || strings.ContainsAny(group, "+#") {
		return "", "", true, ErrShareName
	}
	if inner == "" {
		return "", "", true, ErrSharedFilter
	}
	return group, inner, true, nil
}

// Match reports whether a Topic Name is matched by a Topic Filter, both valid. A wildcard at the first level does not
// match a name that begins with $ [MQTT5-4.7.2-1].
func Match(filter, name string) bool {
	if hidden(name) && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		n, nrest, nmore := strings.Cut(name, "/")
		if f != "+" && f != n {
			return false
		}
		switch {
		case !nmore:
			// a/# matches a: the parent level too (MQTT 5.0 section 4.7.1.2)
			return !fmore || frest == "#"
		case !fmore:
			return false
		}
		filter, name = frest, nrest
	}
}

func hidden(s string) bool { return s != "" && s[0] == '$' }

// Covers reports whether every Topic Name that filter inner matches is matched by filter outer.
func Covers(outer, inner string) bool {
	// A filter that begins with a wildcard reaches no name beginning with $; one that begins with $ only such.
	if hidden(inner) && outer != "" && (outer[0] == '+' || outer[0] == '#') {
		return false
	}
	whole := inner
	for depth := 0; ; depth++ {
		o, orest, omore := strings.Cut(outer, "/")
		if o == "#" {
			return true
		}
		i, irest, imore := strings.Cut(inner, "/")
		if i == "#" {
			// x/# also matches x, which x/+/# does not. But every name has a level, so that +/# matches all that # does;
			// and no name is empty, so that /+/# matches all that /# does.
			return o == "+" && orest == "#" && (depth == 0 || depth == 1 && whole[0] == '/')
		}
		if o != "+" && o != i {
			return false
		}
		switch {
		case !omore && !imore:
			return true
		case !imore:
			return orest == "#"
		case !omore:
			return false
		}
		outer, inner = orest, irest
	}
}

// Overlaps reports whether some Topic Name is matched by both filters.
func Overlaps(a, b string) bool {
	if hidden(a) != hidden(b) {
		return false
	}
	for depth := 0; ; depth++ {
		x, xrest, xmore := strings.Cut(a, "/")
		y, yrest, ymore := strings.Cut(b, "/")
		if x == "#" || y == "#" {
			return true
		}
		if x != "+" && y != "+" && x != y {
			return false
		}
		switch {
		case !xmore && !ymore:
			return true
		case depth == 0 && (x == "" || y == "") && (!xmore || !ymore):
			return false // only the empty name could match both, and there is none
		case !xmore:
			return yrest == "#"
		case !ymore:
			return xrest == "#"
		}
		a, b = xrest, yrest
	}
}

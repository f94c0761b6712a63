package auth_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// model judges as CONTRACT section 5 says it, in its words and without a thought for cost.
type model struct {
	rules  []auth.Rule
	values map[string]any // by variable, those that are missing left out
	names  [][]string     // every Topic Name there is, as levels
}

func (m *model) publish(name string) bool {
	// "Any matching deny wins; else any matching allow; else denied."
	n := [][]string{strings.Split(name, "/")}
	return !m.any("deny", "publish", n) && m.any("allow", "publish", n)
}

func (m *model) subscribe(filter string, share bool) bool {
	// "allowed when one allow rule covers every topic that its filter can match, and wholly refused when one deny covers it"
	can := m.matched(filter)
	allowed := m.any("allow", "subscribe", can) && !m.any("deny", "subscribe", can)
	// "share (joining a $share group, beside subscribe of its inner filter)"
	return allowed && (!share || m.any("allow", "share", can) && !m.any("deny", "share", can))
}

// "a deny that only overlaps it is kept to at delivery"
func (m *model) receive(name []string) bool { return !m.any("deny", "subscribe", [][]string{name}) }

// any reports whether one rule matches all names.
func (m *model) any(effect, action string, names [][]string) bool {
	return slices.ContainsFunc(m.rules, func(r auth.Rule) bool {
		filter := strings.Split(r.Topic, "/")
		misses := func(name []string) bool { return !m.matches(effect, filter, name) }
		return r.Effect == effect && slices.Contains(r.Actions, action) && !slices.ContainsFunc(names, misses)
	})
}

func (m *model) matched(filter string) (all [][]string) {
	for _, n := range m.names {
		if m.matches("", strings.Split(filter, "/"), n) {
			all = append(all, n)
		}
	}
	return all
}

func (m *model) matches(effect string, filter, levels []string) bool {
	for i, f := range filter {
		atDollar := i == 0 && strings.HasPrefix(levels[0], "$")
		if f == "#" { // the parent too, and never $…
			return !atDollar && i <= len(levels)
		}
		if i >= len(levels) {
			return false
		}
		if strings.HasPrefix(f, "${") {
			v, there := m.values[f]
			text, isText := v.(string) // true is "true" here, 1.5 and null are no text
			unusable := !isText || text == "" || strings.ContainsAny(text, "/+#\x00") || i == 0 && text[0] == '$'
			if !there || unusable && effect == "allow" {
				return false
			}
			if !unusable && text != levels[i] {
				return false
			}
			continue
		}
		if f == "+" && !atDollar {
			continue
		}
		if f != levels[i] || f == "+" {
			return false
		}
	}
	return len(filter) == len(levels)
}

// everyName is every Topic Name of up to four levels over an alphabet with a level that no filter names, the empty one,
// and at the first level two with $. The empty name is among them though it is no Topic Name, for /# is judged as if it
// were: it makes a rule for +/+/# too short for /#.
func everyName() (all [][]string) {
	var below func(prefix []string)
	below = func(prefix []string) {
		all = append(all, prefix)
		if len(prefix) < 4 {
			for _, level := range []string{"a", "b", "true", "other", ""} {
				below(append(slices.Clone(prefix), level))
			}
		}
	}
	for _, level := range []string{"a", "b", "true", "other", "", "$x", "$other"} {
		below([]string{level})
	}
	return all
}

// TestAgainstModel: 200 generated rule lists, and requests to each, are judged as the naive model does.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	names := everyName()
	w := newWorld(t)
	decided := map[string]int{}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		values := map[string]any{"${sub}": oneOf(r, "a", "b", "$x", "a/b", "#"), "${client_id}": oneOf(r, "a", "b", "$x", "", "+")}
		claims := map[string]any{}
		for _, name := range []string{"v", "o"} {
			v := oneOf[any](r, "a", "b", "other", "", "$x", "a+", 1.5, true, nil)
			if r.IntN(5) == 0 {
				continue
			}
			claims[name] = map[string]any{"w": v}
			if values["${token."+name+".w}"] = v; v == true {
				values["${token."+name+".w}"] = "true"
			}
		}
		m := &model{generateRules(r), values, names}
		w.putRules(m.rules)
		g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: fmt.Sprint(values["${sub}"]), Claims: claims}), fmt.Sprint(values["${client_id}"]))
		require.NoError(t, err)
		describe := func(what string, about string) string {
			text, _ := json.Marshal(m.rules) //nolint:errcheck,errchkjson // for a message
			return fmt.Sprintf("seed %d: %s %q with %s and values %v", seed, what, about, text, values)
		}
		for range 12 {
			name := strings.Join(names[r.IntN(len(names))], "/")
			want := m.publish(name)
			require.Equal(t, want, g.MayPublish(name), describe("publish", name))
			count(decided, "publish", want)

			filter := generateFilter(r, false)
			for _, share := range []bool{false, true} {
				want := m.subscribe(filter, share)
				require.Equal(t, want, g.MaySubscribe(filter, share), describe(fmt.Sprintf("subscribe, share %v", share), filter))
				count(decided, "subscribe", want)
			}
			m.requireReceive(t, g, filter, describe("receive of", filter))
		}
	}
	for what, n := range decided {
		require.Greater(t, n, 100, "the generator makes too few of: %s", what)
	}
}

// requireReceive compares a ReceiveFilter with every name that the filter matches.
func (m *model) requireReceive(t *testing.T, g *auth.Grant, filter, about string) {
	t.Helper()
	may := g.ReceiveFilter(filter)
	overlaps := false
	for _, name := range m.matched(filter) {
		want := m.receive(name)
		overlaps = overlaps || !want
		if got := may == nil || may(strings.Join(name, "/")); got != want {
			require.Equal(t, want, got, "%s: %q", about, name)
		}
	}
	require.Equal(t, overlaps, may != nil, "%s: a function is there exactly where a deny overlaps", about)
}

func count(decided map[string]int, what string, allowed bool) {
	decided[fmt.Sprintf("%s %v", what, allowed)]++
}

func oneOf[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func generateRules(r *rand.Rand) []auth.Rule {
	rules := make([]auth.Rule, r.IntN(8))
	for i := range rules {
		rules[i] = auth.Rule{Effect: oneOf(r, "allow", "allow", "deny"), Topic: generateFilter(r, true)}
		for _, a := range []string{"publish", "subscribe", "share"} {
			if r.IntN(3) > 0 {
				rules[i].Actions = append(rules[i].Actions, a)
			}
		}
		if rules[i].Actions == nil {
			rules[i].Actions = []string{"publish"}
		}
	}
	return rules
}

// generateFilter makes filters of up to three levels, half of them short and wide, so that questions are often met.
func generateFilter(r *rand.Rand, variables bool) string {
	var levels []string
	for i := range 1 + r.IntN(3) {
		level := oneOf(r, "a", "a", "b", "+", "+", "")
		switch {
		case i == 0 && r.IntN(8) == 0:
			level = "$x"
		case variables && r.IntN(4) == 0:
			level = oneOf(r, "${sub}", "${client_id}", "${token.v.w}", "${token.o.w}")
		}
		levels = append(levels, level)
		if r.IntN(4) == 0 {
			levels = append(levels, "#")
			break
		}
	}
	if filter := strings.Join(levels, "/"); filter != "" {
		return filter
	}
	return "#"
}

func (w *world) putRules(rules []auth.Rule) {
	w.t.Helper()
	_, err := w.PutRules(w.t.Context(), "admin", "shop", rules, 0)
	require.NoError(w.t, err)
}

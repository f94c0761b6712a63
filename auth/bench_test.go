package auth_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// rulesFor makes n rules, of which three concern the client of newWorld's grant with the claim room r7: a rule for
// everybody, one by its sub and one by its claim. The others are for rooms and users of their own.
func rulesFor(n int) []auth.Rule {
	rules := []auth.Rule{
		{Effect: "allow", Actions: []string{"publish", "subscribe"}, Topic: "rooms/${token.room}/+"},
		{Effect: "allow", Actions: []string{"publish"}, Topic: "users/${sub}/#"},
		{Effect: "deny", Actions: []string{"publish", "subscribe"}, Topic: "+/+/locked"},
	}
	for i := len(rules); i < n; i++ {
		rules = append(rules, []auth.Rule{
			{Effect: "allow", Actions: []string{"publish", "subscribe"}, Topic: fmt.Sprintf("rooms/other-%d/chat", i)},
			{Effect: "deny", Actions: []string{"publish", "subscribe"}, Topic: fmt.Sprintf("users/other-%d/+", i)},
			{Effect: "allow", Actions: []string{"publish"}, Topic: fmt.Sprintf("head-%d/#", i)},
		}[i%3])
	}
	return rules
}

// TestDecidingAllocatesNothing: a publish, a subscription and a delivery are judged without allocating, whatever the
// number of rules.
func TestDecidingAllocatesNothing(t *testing.T) {
	for _, n := range []int{20, 10_000} {
		w := newWorld(t)
		w.putRules(rulesFor(n))
		g := w.grant(map[string]any{"room": "r7"})
		require.True(t, g.MayPublish("rooms/r7/chat"))
		require.False(t, g.MayPublish("rooms/r7/locked"))
		require.True(t, g.MaySubscribe("rooms/r7/+", false))
		may := g.ReceiveFilter("rooms/r7/+")
		require.NotNil(t, may)
		for name, decide := range map[string]func(){
			"publish":        func() { g.MayPublish("rooms/r7/chat") },
			"denied publish": func() { g.MayPublish("rooms/r8/chat") },
			"fresh topic":    func() { g.MayPublish("users/alice/a/b/c") },
			"subscribe":      func() { g.MaySubscribe("rooms/r7/+", true) },
			"receive":        func() { may("rooms/r7/chat") },
		} {
			require.Zero(t, testing.AllocsPerRun(100, decide), "%s with %d rules", name, n)
		}
	}
}

// BenchmarkMayPublish: what three rules of 10,000 concern costs about what three of 20 do.
func BenchmarkMayPublish(b *testing.B) {
	for _, n := range []int{20, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			w := newWorld(b)
			w.putRules(rulesFor(n))
			g := w.grant(map[string]any{"room": "r7"})
			b.ReportAllocs()
			for b.Loop() {
				if !g.MayPublish("rooms/r7/chat") {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkMayPublishTwenty has 20 rules that all concern the client.
func BenchmarkMayPublishTwenty(b *testing.B) {
	w := newWorld(b)
	var rules []auth.Rule
	for i := range 20 {
		topic := []string{"rooms/${token.room}/+", "rooms/r7/#", "+/r7/chat", "rooms/+/chat", "#"}[i%5]
		rules = append(rules, auth.Rule{Effect: "allow", Actions: []string{"publish"}, Topic: topic})
	}
	w.putRules(rules)
	g := w.grant(map[string]any{"room": "r7"})
	b.ReportAllocs()
	for b.Loop() {
		if !g.MayPublish("rooms/r7/chat") {
			b.Fatal("denied")
		}
	}
}

func BenchmarkReceiveFilter(b *testing.B) {
	for _, n := range []int{20, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			w := newWorld(b)
			w.putRules(rulesFor(n))
			g := w.grant(map[string]any{"room": "r7"})
			may := g.ReceiveFilter("rooms/r7/+")
			b.ReportAllocs()
			for b.Loop() {
				if !may("rooms/r7/chat") {
					b.Fatal("denied")
				}
			}
		})
	}
}

func BenchmarkVerifyToken(b *testing.B) {
	w := newWorld(b)
	text := w.token("shop", auth.TokenRequest{Sub: "alice", Claims: map[string]any{"room": "r7"}})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.connect(text, "c1"); err != nil {
			b.Fatal(err)
		}
	}
}

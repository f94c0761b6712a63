package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// TestRules has a case for each sentence of CONTRACT section 5. The client is sub alice, client id c1.
func TestRules(t *testing.T) {
	t.Parallel()
	const (
		publish   = "publish"
		subscribe = "subscribe"
		share     = "share" // a Shared Subscription of the filter
		receive   = "receive"
	)
	type question struct {
		action, topic string
		want          bool
	}
	yes := func(action, topic string) question { return question{action, topic, true} }
	no := func(action, topic string) question { return question{action, topic, false} }
	rule := func(effect, actions, topic string) string {
		return fmt.Sprintf(`{"effect":%q,"actions":["%s"],"topic":%q}`, effect, strings.ReplaceAll(actions, " ", `","`), topic)
	}
	claims := func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m[fmt.Sprint(pairs[i])] = pairs[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name   string
		rules  []string
		claims map[string]any
		asks   []question
	}{
		{
			name: "no_rule_denies", rules: nil,
			asks: []question{no(publish, "a"), no(subscribe, "a"), no(subscribe, "#"), no(share, "a")},
		},
		{
			name: "no_rule_that_matches_denies", rules: []string{rule("allow", "publish subscribe", "a")},
			asks: []question{yes(publish, "a"), yes(subscribe, "a"), no(publish, "b"), no(subscribe, "b"), no(publish, "a/b"), no(publish, "A")},
		},
		{
			name: "any_deny_wins", rules: []string{rule("allow", "publish", "a/#"), rule("deny", "publish", "a/secret"), rule("allow", "publish", "a/secret")},
			asks: []question{yes(publish, "a/b"), no(publish, "a/secret")},
		},
		{
			name: "order_carries_no_meaning", rules: []string{rule("deny", "publish", "a/secret"), rule("allow", "publish", "a/#")},
			asks: []question{yes(publish, "a/b"), no(publish, "a/secret")},
		},
		{
			name: "publish_is_not_subscribe", rules: []string{rule("allow", "publish", "out"), rule("allow", "subscribe", "in")},
			asks: []question{yes(publish, "out"), no(subscribe, "out"), no(publish, "in"), yes(subscribe, "in")},
		},
		{
			name: "a_deny_of_one_action_leaves_the_other", rules: []string{rule("allow", "publish subscribe", "a"), rule("deny", "publish", "a")},
			asks: []question{no(publish, "a"), yes(subscribe, "a"), yes(receive, "a")},
		},
		{
			name: "share_stands_beside_subscribe", rules: []string{rule("allow", "subscribe", "a/#"), rule("allow", "share", "a/jobs")},
			asks: []question{yes(subscribe, "a/x"), no(share, "a/x"), yes(share, "a/jobs")},
		},
		{
			name: "share_alone_is_not_enough", rules: []string{rule("allow", "share", "jobs")},
			asks: []question{no(share, "jobs"), no(subscribe, "jobs")},
		},
		{
			name: "share_and_subscribe_may_come_from_two_rules", rules: []string{rule("allow", "share", "#"), rule("allow", "subscribe", "jobs")},
			asks: []question{yes(share, "jobs"), no(share, "other")},
		},
		{
			name: "a_deny_of_share_refuses_the_group_alone", rules: []string{rule("allow", "subscribe share", "#"), rule("deny", "share", "a/#")},
			asks: []question{yes(subscribe, "a/b"), no(share, "a/b"), yes(share, "b")},
		},
		{
			name: "a_deny_of_subscribe_refuses_the_group_too", rules: []string{rule("allow", "subscribe share", "#"), rule("deny", "subscribe", "a/#")},
			asks: []question{no(subscribe, "a/b"), no(share, "a/b")},
		},
		{
			name: "filters_match_as_MQTT_does", rules: []string{rule("allow", "publish subscribe", "a/+/c"), rule("allow", "publish", "d/#")},
			asks: []question{
				yes(publish, "a/b/c"), yes(publish, "a//c"), no(publish, "a/b/c/d"), no(publish, "a/c"), yes(publish, "d"), yes(publish, "d/"),
				yes(publish, "d/e/f"), no(publish, "dd"), yes(subscribe, "a/+/c"), yes(subscribe, "a/b/c"), no(subscribe, "a/#"), no(subscribe, "+/b/c"),
			},
		},
		{
			name: "wildcards_never_reach_dollar", rules: []string{rule("allow", "publish subscribe share", "#"), rule("allow", "publish subscribe", "+/x")},
			asks: []question{yes(publish, "a"), no(publish, "$SYS"), no(publish, "$SYS/x"), no(subscribe, "$SYS/#"), no(subscribe, "$SYS/x"), yes(subscribe, "#")},
		},
		{
			name: "dollar_is_reached_by_its_name", rules: []string{rule("allow", "publish subscribe", "$app/#"), rule("deny", "subscribe", "#")},
			asks: []question{yes(publish, "$app/x"), yes(subscribe, "$app/+"), yes(receive, "$app/x"), no(subscribe, "a")},
		},
		{
			name: "sub_stands_for_the_text_of_a_level", rules: []string{rule("allow", "publish subscribe", "users/${sub}/#")},
			asks: []question{yes(publish, "users/alice/inbox"), yes(subscribe, "users/alice/#"), no(publish, "users/bob/inbox"), no(subscribe, "users/+/inbox"), no(publish, "users/${sub}/inbox")},
		},
		{
			name: "client_id_stands_for_the_text_of_a_level", rules: []string{rule("allow", "publish", "devices/${client_id}")},
			asks: []question{yes(publish, "devices/c1"), no(publish, "devices/c2")},
		},
		{
			name: "claims_stand_for_the_text_of_a_level", rules: []string{rule("allow", "publish subscribe", "${token.org}/${token.user.team}/x")},
			claims: claims("org", "acme", "user", claims("team", "red")),
			asks:   []question{yes(publish, "acme/red/x"), yes(subscribe, "acme/red/x"), no(publish, "acme/blue/x"), no(publish, "evil/red/x"), no(subscribe, "+/red/x")},
		},
		{
			name: "integers_and_booleans_have_a_text", rules: []string{rule("allow", "publish", "n/${token.n}"), rule("allow", "publish", "b/${token.b}"), rule("allow", "publish", "big/${token.big}")},
			claims: claims("n", 42, "b", true, "big", json.Number("9007199254740993")),
			asks:   []question{yes(publish, "n/42"), yes(publish, "b/true"), yes(publish, "big/9007199254740993"), no(publish, "big/9007199254740992")},
		},
		{
			name: "an_integer_of_any_size_has_a_text", rules: []string{rule("allow", "publish", "${token.n}")},
			claims: claims("n", json.Number("123456789012345678901234567890")),
			asks:   []question{yes(publish, "123456789012345678901234567890")},
		},
		{
			name: "a_missing_claim_makes_an_allow_match_nothing", rules: []string{rule("allow", "publish subscribe", "a/${token.x}/#"), rule("allow", "publish", "b/${token.x.y}")},
			asks: []question{no(publish, "a/b"), no(publish, "a//"), no(subscribe, "a/b"), no(publish, "b/")},
		},
		{
			name: "a_missing_claim_makes_a_deny_match_nothing", rules: []string{rule("allow", "publish subscribe", "#"), rule("deny", "publish subscribe", "a/${token.x}"), rule("deny", "publish subscribe", "a/${token.user.x}")},
			claims: claims("user", claims("y", "z")),
			asks:   []question{yes(publish, "a/b"), yes(subscribe, "a/b"), yes(subscribe, "a/+"), yes(receive, "a/b")},
		},
		{
			name: "a_path_through_text_is_missing", rules: []string{rule("allow", "publish subscribe", "#"), rule("deny", "publish", "a/${token.x.y}"), rule("allow", "publish", "$q/${token.x.y}")},
			claims: claims("x", "text"),
			asks:   []question{yes(publish, "a/b"), no(publish, "$q/text")},
		},
		{
			name: "at_the_first_level_too", rules: []string{rule("allow", "publish", "${sub}"), rule("allow", "subscribe", "${sub}/#")},
			asks: []question{yes(publish, "alice"), no(publish, "bob"), yes(subscribe, "alice/#"), yes(subscribe, "alice"), no(subscribe, "#"), no(subscribe, "+/x")},
		},
		{
			name: "several_variables_and_wildcards", rules: []string{rule("allow", "publish subscribe", "${sub}/+/${token.room}/#"), rule("deny", "publish", "${sub}/x/${token.room}")},
			claims: claims("room", "r1"),
			asks:   []question{yes(publish, "alice/a/r1"), yes(publish, "alice/a/r1/b"), no(publish, "alice/x/r1"), yes(publish, "alice/x/r1/b"), no(publish, "alice/a/r2"), yes(subscribe, "alice/+/r1/#")},
		},
		{
			name: "a_subscription_needs_one_allow_that_covers_it", rules: []string{rule("allow", "subscribe", "a/b"), rule("allow", "subscribe", "a/c"), rule("allow", "subscribe", "a/+/x")},
			asks: []question{yes(subscribe, "a/b"), no(subscribe, "a/+"), no(subscribe, "a/#"), yes(subscribe, "a/+/x"), yes(subscribe, "a/b/x")},
		},
		{
			name: "two_allows_do_not_add_up", rules: []string{rule("allow", "subscribe", "a"), rule("allow", "subscribe", "a/+/#")},
			asks: []question{no(subscribe, "a/#"), yes(subscribe, "a/+/#"), yes(subscribe, "a")},
		},
		{
			name: "hash_covers_its_parent", rules: []string{rule("allow", "subscribe", "a/#")},
			asks: []question{yes(subscribe, "a"), yes(subscribe, "a/#"), yes(subscribe, "a/+/#"), yes(subscribe, "a/b/+"), no(subscribe, "+"), no(subscribe, "#")},
		},
		{
			name: "plus_hash_covers_hash", rules: []string{rule("allow", "subscribe", "+/#")},
			asks: []question{yes(subscribe, "#"), yes(subscribe, "+/#"), yes(subscribe, "a/#"), yes(subscribe, "a"), no(subscribe, "$a")},
		},
		{
			name: "a_deny_that_covers_refuses", rules: []string{rule("allow", "subscribe", "#"), rule("deny", "subscribe", "a/#")},
			asks: []question{no(subscribe, "a"), no(subscribe, "a/b"), no(subscribe, "a/+"), no(subscribe, "a/#"), yes(subscribe, "b")},
		},
		{
			name: "a_deny_that_overlaps_is_kept_to_at_delivery", rules: []string{rule("allow", "subscribe", "#"), rule("deny", "subscribe", "a/secret"), rule("deny", "subscribe", "+/hidden/#")},
			asks: []question{
				yes(subscribe, "#"), yes(subscribe, "a/+"), no(receive, "a/secret"), yes(receive, "a/b"), no(receive, "b/hidden"), no(receive, "b/hidden/x"), yes(receive, "b"),
				no(subscribe, "a/secret"), no(subscribe, "x/hidden/y"),
			},
		},
		{
			name: "an_overlapping_deny_by_a_variable", rules: []string{rule("allow", "subscribe", "#"), rule("deny", "subscribe", "log/${sub}/#")},
			asks: []question{yes(subscribe, "log/+/x"), no(receive, "log/alice"), no(receive, "log/alice/x"), yes(receive, "log/bob/x"), no(subscribe, "log/alice/x")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.rules("[" + strings.Join(c.rules, ",") + "]")
			g := w.grant(c.claims)
			for _, q := range c.asks {
				var got bool
				switch q.action {
				case publish:
					got = g.MayPublish(q.topic)
				case subscribe:
					got = g.MaySubscribe(q.topic, false)
				case share:
					got = g.MaySubscribe(q.topic, true)
				case receive:
					may := g.ReceiveFilter(q.topic)
					got = may == nil || may(q.topic)
				}
				require.Equal(t, q.want, got, "may %s %q", q.action, q.topic)
			}
		})
	}
}

// TestUnusableValues has what a claim may hold that is not the text of a level: an allow then matches nothing, a deny
// any text there.
func TestUnusableValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		value       any
		atFirstOnly bool // usable below the first level
	}{
		"number":         {value: 1.5},
		"exponent":       {value: json.Number("1e3")},
		"point_zero":     {value: json.Number("1.0")},
		"null":           {value: nil},
		"list":           {value: []string{"x"}},
		"object":         {value: map[string]any{"x": 1}},
		"empty":          {value: ""},
		"slash":          {value: "x/y"},
		"plus":           {value: "+"},
		"plus_inside":    {value: "a+b"},
		"hash":           {value: "#"},
		"hash_inside":    {value: "a#"},
		"nul":            {value: "a\x00b"},
		"leading_dollar": {value: "$x", atFirstOnly: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			claims := map[string]any{"v": c.value}
			text := fmt.Sprint(c.value)
			w.rules(`[{"effect":"allow","actions":["publish","subscribe"],"topic":"${token.v}/#"},
				{"effect":"allow","actions":["publish","subscribe"],"topic":"a/${token.v}/#"}]`)
			g := w.grant(claims)
			require.False(t, g.MayPublish(text+"/z"), "an allow at the first level")
			require.False(t, g.MayPublish("x/z"))
			require.False(t, g.MaySubscribe("#", false))
			require.False(t, g.MaySubscribe("+/z", false))
			require.Equal(t, c.atFirstOnly, g.MayPublish("a/"+text+"/z"), "an allow deeper")
			require.False(t, g.MaySubscribe("a/+/z", false))

			w.rules(`[{"effect":"allow","actions":["publish","subscribe"],"topic":"#"},{"effect":"allow","actions":["publish","subscribe"],"topic":"$x/#"},
				{"effect":"deny","actions":["publish","subscribe"],"topic":"${token.v}/z"}]`)
			require.False(t, g.MayPublish("anything/z"), "a deny matches any text")
			require.False(t, g.MayPublish("/z"), "also the empty one")
			require.False(t, g.MayPublish("$x/z"), "also one that a wildcard does not reach")
			require.True(t, g.MayPublish("anything/y"))
			require.False(t, g.MaySubscribe("+/z", false), "a deny covers")
			require.False(t, g.MaySubscribe("$x/z", false))
			require.True(t, g.MaySubscribe("#", false), "a deny only overlaps")
			require.False(t, g.ReceiveFilter("#")("b/z"))
			require.True(t, g.ReceiveFilter("#")("b/y"))
			require.NotNil(t, g.ReceiveFilter("$x/#"))
			require.Nil(t, g.ReceiveFilter("+/y"))

			w.rules(`[{"effect":"allow","actions":["publish"],"topic":"#"},{"effect":"deny","actions":["publish"],"topic":"a/${token.v}/z"}]`)
			require.Equal(t, c.atFirstOnly, g.MayPublish("a/q/z"), "a deny deeper")
			require.False(t, c.atFirstOnly && g.MayPublish("a/$x/z"))
			require.True(t, g.MayPublish("b/q/z"))
		})
	}
}

func TestUnusableClientID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rules(`[{"effect":"allow","actions":["publish"],"topic":"#"},{"effect":"deny","actions":["publish"],"topic":"by/${client_id}"}]`)
	for _, id := range []string{"a/b", "a+", "#", "", "x\x00"} {
		g, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice"}), id)
		require.NoError(t, err)
		require.False(t, g.MayPublish("by/anybody"), "client id %q", id)
		require.True(t, g.MayPublish("to/anybody"), "client id %q", id)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		end := func(after time.Duration) string { return time.Now().Add(after).Format(time.RFC3339Nano) }
		w.rules(`[{"effect":"allow","actions":["publish","subscribe"],"topic":"a/#","until":"` + end(10*time.Second) + `"},
			{"effect":"deny","actions":["publish","subscribe"],"topic":"a/b","until":"` + end(5*time.Second) + `"}]`)
		g := w.grant(nil)
		may := g.ReceiveFilter("a/#")
		require.False(t, g.MayPublish("a/b"))
		require.False(t, may("a/b"))
		require.True(t, g.MaySubscribe("a/c", false))

		pass(5 * time.Second)
		require.True(t, g.MayPublish("a/b"), "the deny has ended")
		require.True(t, may("a/b"))
		require.Nil(t, g.ReceiveFilter("a/#"))

		pass(5*time.Second - time.Nanosecond)
		require.True(t, g.MayPublish("a/b"))
		pass(time.Microsecond)
		require.False(t, g.MayPublish("a/b"), "the allow has ended")
		require.False(t, g.MaySubscribe("a/c", false))
	})
}

// TestUntilIsActedOn: rules that end are told to those who judge what is live.
func TestUntilIsActedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		run(t, w.Directory)
		w.rules(ends(time.Now().Add(90 * time.Second)))
		w.heard.take()
		pass(89 * time.Second)
		require.Empty(t, w.heard.take())
		pass(2 * time.Second)
		require.Equal(t, []string{"rules"}, w.heard.take())
		pass(time.Hour)
		require.Empty(t, w.heard.take())

		// A device key's own rules, found after a restart too.
		w.key("shop", auth.NewKey{Kind: auth.KindDevice, KeyAttributes: auth.KeyAttributes{Rules: parse(t, ends(time.Now().Add(time.Minute)))}})
		pass(59 * time.Second)
		require.Empty(t, w.heard.take())
		pass(3 * time.Second)
		require.Equal(t, []string{"rules"}, w.heard.take())

		// A token's acl, while the token lasts.
		acl := parse(t, ends(time.Now().Add(10*time.Second)))
		_, err := w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ACL: acl}), "c1")
		require.NoError(t, err)
		late := parse(t, ends(time.Now().Add(20*time.Second)))
		_, err = w.connect(w.token("shop", auth.TokenRequest{Sub: "alice", ACL: late, TTL: 5 * time.Second}), "c2")
		require.NoError(t, err)
		pass(9 * time.Second)
		require.Empty(t, w.heard.take())
		pass(3 * time.Second)
		require.Equal(t, []string{"rules"}, w.heard.take())
		pass(time.Hour)
		require.Empty(t, w.heard.take(), "the second token had ended before its rule did")
	})
}

func ends(at time.Time) string {
	return `[{"effect":"allow","actions":["subscribe"],"topic":"a","until":"` + at.Format(time.RFC3339) + `"}]`
}

func parse(tb testing.TB, rules string) []auth.Rule {
	tb.Helper()
	r, err := auth.ParseRules([]byte(rules))
	require.NoError(tb, err)
	return r
}

// run keeps house until the test ends.
func run(t *testing.T, d *auth.Directory) {
	t.Helper()
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() { require.NoError(t, <-done) })
}

func TestParseRulesRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rules string
		want  []string // pointers
	}{
		"no_list":             {`{}`, []string{""}},
		"null":                {`null`, []string{""}},
		"text":                {`"x"`, []string{""}},
		"no_object":           {`[1,null,"x",[]]`, []string{"/0", "/1", "/2", "/3"}},
		"nothing":             {`[{}]`, []string{"/0/effect", "/0/actions", "/0/topic"}},
		"when":                {`[{"effect":"allow","actions":["publish"],"topic":"a","when":"true"}]`, []string{"/0/when"}},
		"when_empty":          {`[{"effect":"allow","actions":["publish"],"topic":"a","when":""}]`, []string{"/0/when"}},
		"when_of_a_kind":      {`[{"effect":"allow","actions":["publish"],"topic":"a","when":1}]`, []string{"/0/when"}},
		"unknown_member":      {`[{"effect":"allow","actions":["publish"],"topic":"a","who":"me","a/b~c":1}]`, []string{"/0/a~1b~0c", "/0/who"}},
		"case_of_members":     {`[{"Effect":"allow","actions":["publish"],"topic":"a"}]`, []string{"/0/Effect", "/0/effect"}},
		"effect":              {`[{"effect":"permit","actions":["publish"],"topic":"a"}]`, []string{"/0/effect"}},
		"effect_of_a_kind":    {`[{"effect":5,"actions":["publish"],"topic":"a"}]`, []string{"/0/effect"}},
		"no_actions":          {`[{"effect":"allow","actions":[],"topic":"a"}]`, []string{"/0/actions"}},
		"actions_of_a_kind":   {`[{"effect":"allow","actions":"publish","topic":"a"}]`, []string{"/0/actions"}},
		"unknown_action":      {`[{"effect":"allow","actions":["publish","read"],"topic":"a"}]`, []string{"/0/actions/1"}},
		"topic_of_a_kind":     {`[{"effect":"allow","actions":["publish"],"topic":["a"]}]`, []string{"/0/topic"}},
		"empty_topic":         {`[{"effect":"allow","actions":["publish"],"topic":""}]`, []string{"/0/topic"}},
		"hash_inside":         {`[{"effect":"allow","actions":["publish"],"topic":"a/#/b"}]`, []string{"/0/topic"}},
		"plus_in_a_level":     {`[{"effect":"allow","actions":["publish"],"topic":"a+"}]`, []string{"/0/topic"}},
		"nul":                 {`[{"effect":"allow","actions":["publish"],"topic":"a\u0000"}]`, []string{"/0/topic"}},
		"share_filter":        {`[{"effect":"allow","actions":["subscribe"],"topic":"$share/g/a"}]`, []string{"/0/topic"}},
		"share_alone":         {`[{"effect":"allow","actions":["subscribe"],"topic":"$share"}]`, []string{"/0/topic"}},
		"unknown_variable":    {`[{"effect":"allow","actions":["publish"],"topic":"a/${user}"}]`, []string{"/0/topic"}},
		"variable_in_a_level": {`[{"effect":"allow","actions":["publish"],"topic":"a/x${sub}"}]`, []string{"/0/topic"}},
		"variable_open":       {`[{"effect":"allow","actions":["publish"],"topic":"a/${sub"}]`, []string{"/0/topic"}},
		"token_alone":         {`[{"effect":"allow","actions":["publish"],"topic":"a/${token}"}]`, []string{"/0/topic"}},
		"empty_claim":         {`[{"effect":"allow","actions":["publish"],"topic":"a/${token.}"}]`, []string{"/0/topic"}},
		"empty_step":          {`[{"effect":"allow","actions":["publish"],"topic":"a/${token.a..b}"}]`, []string{"/0/topic"}},
		"until_no_time":       {`[{"effect":"allow","actions":["publish"],"topic":"a","until":"tomorrow"}]`, []string{"/0/until"}},
		"until_of_a_kind":     {`[{"effect":"allow","actions":["publish"],"topic":"a","until":1893456000}]`, []string{"/0/until"}},
		"until_beyond":        {`[{"effect":"allow","actions":["publish"],"topic":"a","until":"9999-12-31T23:59:59-01:00"}]`, []string{"/0/until"}},
		"long_topic":          {`[{"effect":"allow","actions":["publish"],"topic":"` + strings.Repeat("a", 1025) + `"}]`, []string{"/0/topic"}},
		"deep_topic":          {`[{"effect":"allow","actions":["publish"],"topic":"` + strings.Repeat("a/", 64) + `a"}]`, []string{"/0/topic"}},
		"all_together":        {`[{"effect":"x","actions":[],"topic":"#/#","when":"y"},{"effect":"allow","actions":["publish"],"topic":"a"},{"effect":"allow","actions":["fly"],"topic":"a"}]`, []string{"/0/effect", "/0/actions", "/0/when", "/0/topic", "/2/actions/0"}},
		"too_many":            {"[" + strings.Repeat("{},", 10_000) + "{}]", []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := auth.ParseRules([]byte(c.rules))
			require.Equal(t, c.want, pointers(t, err), "%v", err)
		})
	}
}

func TestParseRulesAccepts(t *testing.T) {
	t.Parallel()
	rules := parse(t, `[{"effect":"deny","actions":["publish","subscribe","share"],"topic":"$shareholders/${token.a.b-c}/+/#","until":"2027-01-01T01:00:00+01:00"},
		{"topic":"a","until":null,"actions":["publish"],"effect":"allow"}]`)
	until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, []auth.Rule{
		{Effect: "deny", Actions: []string{"publish", "subscribe", "share"}, Topic: "$shareholders/${token.a.b-c}/+/#", Until: &until},
		{Effect: "allow", Actions: []string{"publish"}, Topic: "a"},
	}, rules)
	require.Empty(t, parse(t, `[]`))
	require.Len(t, parse(t, "["+strings.Repeat(`{"effect":"allow","actions":["publish"],"topic":"a"},`, 9_999)+`{"effect":"allow","actions":["publish"],"topic":"a"}]`), 10_000)
}

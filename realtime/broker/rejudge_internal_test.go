package broker

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/session"
)

// changingGrant says what a test says.
type changingGrant struct {
	Grant
	denied string // a Topic Filter
	judge  func(string) bool
}

func (g *changingGrant) MaySubscribe(filter string, _ bool) bool       { return filter != g.denied }
func (g *changingGrant) ReceiveFilter(filter string) func(string) bool { return g.judge }

// TestRejudge_replaces_only_what_has_changed: each change of the rules put every member of a share group behind the
// others, and every subscription out of the tree and in again.
func TestRejudge_replaces_only_what_has_changed(t *testing.T) {
	t.Parallel()
	a, g := newApp(AppConfig{}), &changingGrant{}
	var clients []*Client
	for _, id := range []string{"one", "two", "three"} {
		c := &Client{app: a, id: id, out: &sink{}}
		var grant Grant = g
		c.grant.Store(&grant)
		for _, filter := range []string{"$share/g/a", "b", "c"} {
			inner := filter[len(filter)-1:]
			_, _, reason := a.add(c, session.Subscription{Filter: filter}, inner, 10)
			require.False(t, reason.Failed())
		}
		clients = append(clients, c)
	}
	members := slices.Clone(a.groups[groupKey{"g", "a"}].members)
	b := clients[0].subs["b"]

	g.judge = func(topic string) bool { return topic != "b" }
	for _, c := range clients {
		require.Empty(t, a.rejudge(c))
	}
	require.Equal(t, members, a.groups[groupKey{"g", "a"}].members)
	require.Same(t, b, clients[0].subs["b"])
	require.False(t, b.takes(retainedIn("b", "p")), "the deny is in force")

	g.denied, g.judge = "c", nil
	require.Equal(t, []suspension{{"subscription_suspended", "c"}}, a.rejudge(clients[0]))
	require.Equal(t, members, a.groups[groupKey{"g", "a"}].members)
	require.Same(t, b, clients[0].subs["b"])
	require.True(t, b.takes(retainedIn("b", "p")))
	require.Len(t, a.tree.Match("c", nil), 2)

	g.denied = ""
	require.Equal(t, []suspension{{"subscription_resumed", "c"}}, a.rejudge(clients[0]))
	require.Empty(t, a.rejudge(clients[0]))
	require.Len(t, a.tree.Match("c", nil), 3)
	require.Equal(t, 9, a.subscriptions)
}

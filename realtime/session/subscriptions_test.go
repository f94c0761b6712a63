package session

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSubscribe(t *testing.T) {
	t.Parallel()
	old := Subscription{Filter: "a", QoS: 1, ID: 3, FilterID: 9, Begins: at(5), RetainedAfter: "a/b"}
	for _, c := range []struct {
		name      string
		old, sub  Subscription
		want      Subscription
		isReplace bool
	}{
		{
			name: "a new filter is as it was given",
			old:  Subscription{Filter: "b"},
			sub:  Subscription{Filter: "a", QoS: 2, NoLocal: true, Begins: at(7), FilterID: 9},
			want: Subscription{Filter: "a", QoS: 2, NoLocal: true, Begins: at(7), FilterID: 9},
		},
		{
			name: "the same filter replaces the options, not the beginning [MQTT5-3.8.4-3]",
			old:  old, isReplace: true,
			sub: Subscription{
				Filter: "a", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 4, Begins: at(8), Suspended: true,
			},
			want: Subscription{
				Filter: "a", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2, ID: 4, FilterID: 9, Begins: at(5),
				RetainedAfter: "a/b", Suspended: true,
			},
		},
		{
			name: "a Subscription Identifier that is not given again is gone [MQTT5-3.8.4-3]",
			old:  old, isReplace: true,
			sub:  Subscription{Filter: "a", QoS: 1, RetainHandling: 1},
			want: Subscription{Filter: "a", QoS: 1, RetainHandling: 1, FilterID: 9, Begins: at(5), RetainedAfter: "a/b"},
		},
		{
			name: "Retain Handling 0 begins the snapshot anew [MQTT5-3.8.4-4]",
			old:  old, isReplace: true,
			sub:  Subscription{Filter: "a", QoS: 1, Begins: at(8)},
			want: Subscription{Filter: "a", QoS: 1, FilterID: 9, Begins: at(5)},
		},
		{
			name: "the beginning is new where the QoS rises from 0, for nothing was kept before",
			old:  Subscription{Filter: "a", Begins: at(5)}, isReplace: true,
			sub:  Subscription{Filter: "a", QoS: 1, Begins: at(8), FilterID: 9},
			want: Subscription{Filter: "a", QoS: 1, Begins: at(8), FilterID: 9},
		},
		{
			name: "the beginning stays where the QoS stays 0",
			old:  Subscription{Filter: "a", Begins: at(5)}, isReplace: true,
			sub:  Subscription{Filter: "a", Begins: at(8)},
			want: Subscription{Filter: "a", Begins: at(5)},
		},
		{
			name: "the beginning stays where the QoS falls to 0",
			old:  old, isReplace: true,
			sub:  Subscription{Filter: "a", Begins: at(8), RetainHandling: 2},
			want: Subscription{Filter: "a", Begins: at(5), RetainHandling: 2, FilterID: 9, RetainedAfter: "a/b"},
		},
		{
			name: "a shared filter is another than its inner one",
			old:  Subscription{Filter: "$share/g/a", QoS: 1, Begins: at(5)},
			sub:  Subscription{Filter: "a", QoS: 1, Begins: at(8)},
			want: Subscription{Filter: "a", QoS: 1, Begins: at(8)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := New()
			s.Subscribe(c.old)
			previous, existed := s.Subscribe(c.sub)
			require.Equal(t, c.isReplace, existed)
			if existed {
				require.Equal(t, c.old, previous)
			}
			got, ok := s.Subscription("a")
			require.True(t, ok)
			require.Equal(t, c.want, got)
		})
	}
}

func TestUnsubscribe_compares_byte_by_byte(t *testing.T) {
	t.Parallel()
	s := New()
	for _, f := range []string{"a/+", "a/#", "A/+"} {
		s.Subscribe(Subscription{Filter: f})
	}
	_, ok := s.Unsubscribe("a/b")
	require.False(t, ok, "a filter that matches is another filter [MQTT5-3.10.4-1]")
	sub, ok := s.Unsubscribe("a/+")
	require.True(t, ok)
	require.Equal(t, "a/+", sub.Filter)
	_, ok = s.Unsubscribe("a/+")
	require.False(t, ok)
	_, ok = s.Subscription("a/+")
	require.False(t, ok)
	require.Equal(t, 2, s.SubscriptionCount())
}

func TestUnsubscribe_completes_what_was_sent(t *testing.T) {
	t.Parallel()
	s := New()
	s.Subscribe(Subscription{Filter: "a", QoS: 2})
	sendAll(s, 2)
	s.Unsubscribe("a")
	ids, _ := resent(s)
	require.Equal(t, []uint16{1}, ids, "[MQTT5-3.10.4-3]")
}

func TestSubscriptions_are_in_filter_order_and_copies(t *testing.T) {
	t.Parallel()
	s := New()
	for _, f := range []string{"b", "$share/g/a", "a", "#"} {
		s.Subscribe(Subscription{Filter: f})
	}
	var filters []string
	s.Subscriptions(func(sub *Subscription) bool {
		filters = append(filters, sub.Filter)
		sub.Suspended = true
		s.SubscriptionCount() // yield may use the session
		return len(filters) < 3
	})
	require.Equal(t, []string{"#", "$share/g/a", "a"}, filters)
	a, _ := s.Subscription("a")
	require.False(t, a.Suspended)
	a.Suspended = true
	again, _ := s.Subscription("a")
	require.False(t, again.Suspended, "Subscription returns a copy")
}

func TestRetainedSnapshot(t *testing.T) {
	t.Parallel()
	begun := func() *Session {
		s := New()
		s.Subscribe(Subscription{Filter: "a/#", QoS: 2, RetainedAfter: "\x01"})
		s.Subscribe(Subscription{Filter: "b/#", QoS: 1, RetainedAfter: "\x01"})
		return s
	}
	t.Run("its progress is committed with the window, once", func(t *testing.T) {
		t.Parallel()
		s := begun()
		require.Empty(t, s.Take().Moved)
		require.Equal(t, uint16(1), s.SendRetained(Entry{QoS: 2, Position: at(4)}, "a/#", "a/x"))
		taken := s.Take()
		require.Len(t, taken.Moved, 1)
		require.Equal(t, "a/x", taken.Moved[0].RetainedAfter)
		require.True(t, taken.State.Window[0].Snapshot)
		require.Empty(t, s.Take().Moved)
	})
	t.Run("is taken back when it was not committed", func(t *testing.T) {
		t.Parallel()
		s := begun()
		s.MoveRetained("a/#", "a/x")
		moved := s.Take().Moved
		s.Unsubscribe("b/#")
		s.PutBack(Taken{Moved: append(moved, Subscription{Filter: "b/#"})})
		require.Equal(t, moved, s.Take().Moved)
		restarted := begun()
		restarted.PutBack(Taken{Moved: moved})
		require.Len(t, restarted.Take().Moved, 1)
	})
	t.Run("ends, and is not there for a subscription that leaves", func(t *testing.T) {
		t.Parallel()
		s := begun()
		s.MoveRetained("a/#", "")
		s.MoveRetained("b/#", "b/x")
		s.MoveRetained("c/#", "c/x")
		s.Leave("b/#")
		s.Leave("c/#")
		s.MoveRetained("b/#", "b/y")
		moved := s.Take().Moved
		require.Len(t, moved, 1)
		require.Equal(t, "a/#", moved[0].Filter)
		require.Empty(t, moved[0].RetainedAfter)
	})
}

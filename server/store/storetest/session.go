package storetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/message"
)

// sessions writes an app's sessions as "client filter:begins filter:begins", with the subject in between where there is one.
func sessions(t *testing.T, s broker.Store, app broker.AppUID) (all []string) {
	t.Helper()
	require.NoError(t, s.Sessions(t.Context(), app, func(one broker.StoredSession) error {
		words := []string{one.Row.ClientID}
		if one.Row.Subject != "" {
			words = append(words, one.Row.Subject)
		}
		for _, u := range one.Subscriptions {
			begins := fmt.Sprintf("%d.%d", u.Begins.Seq, u.Begins.Part)
			if u.Begins.Part == math.MaxUint32 {
				begins = fmt.Sprintf("%d.end", u.Begins.Seq)
			}
			words = append(words, u.Filter+":"+begins)
		}
		all = append(all, strings.Join(words, " "))
		return nil
	}))
	return all
}

// changed is a write that only changes sessions.
func changed(app broker.AppUID, changes ...broker.SessionChange) broker.Write {
	for i := range changes {
		changes[i].App = app
	}
	return broker.Write{App: app, Sessions: changes}
}

// kept is a session's row that its subject tells from others.
func kept(client, subject string) *broker.SessionRow {
	return &broker.SessionRow{ClientID: client, Subject: subject}
}

// here are subscriptions that begin with their write.
func here(filters ...string) (all []broker.SubscriptionRow) {
	for i, f := range filters {
		all = append(all, broker.SubscriptionRow{Filter: f, FilterID: int64(i + 1), BeginsHere: true})
	}
	return all
}

func keepsSessions(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"f/1", "f/2"})
	require.NoError(t, err)
	row := broker.SessionRow{
		ClientID: "c", Subject: "u", Expiry: time.Hour, EndedAt: at, Will: []byte("will"), Cursor: message.Position{Seq: 7, Part: 2},
		Window: []byte{1, 2}, Inbound: []byte{3}, NextPacketID: 65_535, FallenOut: 9,
	}
	first := broker.SubscriptionRow{Filter: "f/1", FilterID: ids[0], Options: 0x2E, ID: 268_435_455, Begins: message.Position{Seq: 1, Part: 3}, RetainedAfter: "t"}
	second := broker.SubscriptionRow{Filter: "f/2", FilterID: ids[1]}
	change := func(c broker.SessionChange) {
		c.App = a
		commit(t, s, broker.Write{App: a, Sessions: []broker.SessionChange{c}})
	}
	change(broker.SessionChange{ClientID: "c", Keep: &row, Subscribe: []broker.SubscriptionRow{first, second}})
	change(broker.SessionChange{ClientID: "b", Keep: &broker.SessionRow{ClientID: "b", Subject: "u", Expiry: -1}})
	load := func() (all []broker.StoredSession) {
		require.NoError(t, s.Sessions(t.Context(), a, func(one broker.StoredSession) error { all = append(all, one); return nil }))
		return all
	}
	all := load()
	require.Len(t, all, 2)
	require.Equal(t, "b", all[0].Row.ClientID)
	require.Equal(t, broker.StoredSession{Row: row, Subscriptions: []broker.SubscriptionRow{first, second}}, all[1])
	row.Cursor.Seq, first.Options = 8, 1
	change(broker.SessionChange{ClientID: "c", Keep: &row, Subscribe: []broker.SubscriptionRow{first}, Unsubscribe: []string{"f/2"}})
	require.Equal(t, broker.StoredSession{Row: row, Subscriptions: []broker.SubscriptionRow{first}}, load()[1])
	require.ErrorIs(t, s.DropFilter(t.Context(), a, ids[0]), auth.ErrNotFound, "a filter in use stays")
	require.NoError(t, s.DropFilter(t.Context(), a, ids[1]))
	change(broker.SessionChange{ClientID: "c", Delete: true})
	require.Len(t, load(), 1)
	require.NoError(t, s.DropFilter(t.Context(), a, ids[0]))
}

func numbersSessions(t *testing.T, s Log) {
	a, b, gone := s.NewApp(t, "a"), s.NewApp(t, "b"), s.NewApp(t, "gone")
	s.DropApp(t, gone)
	c := broker.SessionChange{ClientID: "c", Keep: kept("c", "")}
	require.Equal(t, []uint64{0, 1, 1, 0, 1, 2, 2, 0, 0, 0}, commit(t, s,
		changed(a, c), // behind an empty log
		write(a, msg("x", "1", false)),
		changed(a, c, c),
		changed(b, c), // nothing of b's yet
		write(b, msg("x", "1", false)),
		write(a, msg("x", "2", false), msg("y", "2", false)),
		changed(a, c),
		broker.Write{App: a}, // has nothing to store
		changed(gone, c),
		write(gone, msg("x", "1", false))))
	require.Equal(t, []uint64{2, 1}, commit(t, s, changed(a, c), changed(b, c)), "in a batch without a message")
	seq, _, err := s.Head(t.Context(), a)
	require.NoError(t, err)
	require.EqualValues(t, 2, seq, "session changes take no number")
	require.Equal(t, []string{"c"}, sessions(t, s, a))
	require.Equal(t, []uint64{3}, commit(t, s, broker.Write{App: a, Parts: write(a, msg("x", "3", false)).Parts, Sessions: changed(a, c).Sessions}))
}

func beginsHere(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	with := func(w broker.Write, changes ...broker.SessionChange) broker.Write {
		w.Sessions = changed(w.App, changes...).Sessions
		return w
	}
	commit(t, s,
		changed(a, broker.SessionChange{ClientID: "0", Keep: kept("0", ""), Subscribe: here("f", "g")}),
		write(b, msg("x", "b", false)),
		with(write(a, msg("x", "1", false), msg("y", "1", false)), broker.SessionChange{ClientID: "1", Keep: kept("1", ""), Subscribe: here("f")}),
		write(a, msg("x", "2", false)),
		changed(a, broker.SessionChange{ClientID: "2", Keep: kept("2", ""), Subscribe: append(here("f"), broker.SubscriptionRow{Filter: "g", Begins: message.Position{Seq: 1, Part: 1}})}),
		write(a, msg("x", "3", false)),
		changed(b, broker.SessionChange{ClientID: "0", Keep: kept("0", ""), Subscribe: here("f")}),
		changed(a, broker.SessionChange{ClientID: "0", Subscribe: here("f")}))
	require.Equal(t, []string{"0 f:3.end g:0.end", "1 f:1.end", "2 f:2.end g:1.1"}, sessions(t, s, a))
	require.Equal(t, []string{"0 f:1.end"}, sessions(t, s, b))
	commit(t, s, changed(a, broker.SessionChange{ClientID: "1", Subscribe: here("h")}))
	require.Equal(t, "1 f:1.end h:3.end", sessions(t, s, a)[1])
	require.NoError(t, s.Sessions(t.Context(), a, func(one broker.StoredSession) error {
		for _, u := range one.Subscriptions {
			require.False(t, u.BeginsHere, "it is a position once it is stored")
		}
		return nil
	}))
}

func changesInOrder(t *testing.T, s Log) {
	type change = broker.SessionChange
	row := func(subject string) *broker.SessionRow { return &broker.SessionRow{Subject: subject} }
	cases := map[string]struct {
		changes []change
		want    string
	}{
		"the last row stays":                {[]change{{Keep: row("1")}, {Keep: row("2")}}, "2 a:1.end b:1.end"},
		"what is made is deleted":           {[]change{{Keep: row("1"), Subscribe: here("d")}, {Delete: true}}, ""},
		"what is deleted is made":           {[]change{{Delete: true}, {Keep: row("1"), Subscribe: here("b")}}, "1 b:2.end"},
		"deleted and made, twice":           {[]change{{Delete: true, Keep: row("1"), Subscribe: here("d")}, {Subscribe: here("e")}, {Delete: true, Keep: row("2"), Subscribe: here("f")}}, "2 f:2.end"},
		"unsubscribed and subscribed":       {[]change{{Unsubscribe: []string{"a"}}, {Subscribe: here("a")}}, "old a:2.end b:1.end"},
		"subscribed and unsubscribed":       {[]change{{Subscribe: here("a", "d")}, {Unsubscribe: []string{"a", "d"}}}, "old b:1.end"},
		"subscribed, then the row alone":    {[]change{{Subscribe: here("d")}, {Keep: row("1")}}, "1 a:1.end b:1.end d:2.end"},
		"made, subscribed, unsubscribed":    {[]change{{Delete: true}, {Keep: row("1")}, {Subscribe: here("a", "d")}, {Unsubscribe: []string{"d", "b"}}}, "1 a:2.end"},
		"unsubscribed, then all is deleted": {[]change{{Unsubscribe: []string{"a"}}, {Delete: true, Keep: row("1")}}, "1"},
	}
	for _, together := range []bool{true, false} {
		a := s.NewApp(t, fmt.Sprintf("together: %v", together))
		var begin []change
		for name := range cases {
			begin = append(begin, change{ClientID: name, Keep: row("old"), Subscribe: here("a", "b")})
		}
		commit(t, s, write(a, msg("x", "1", false)), changed(a, begin...), write(a, msg("x", "2", false)))
		var want []string
		for name, c := range cases {
			if c.want != "" {
				want = append(want, name+" "+c.want)
			}
			var batch []broker.Write
			for _, one := range c.changes {
				one.ClientID = name
				batch = append(batch, changed(a, one))
			}
			if together {
				commit(t, s, batch...)
				continue
			}
			for _, w := range batch {
				commit(t, s, w)
			}
		}
		slices.Sort(want)
		require.Equal(t, want, sessions(t, s, a), "together: %v", together)
	}
}

func changesWithin(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	commit(t, s, write(a, msg("x", "1", false)), changed(a, broker.SessionChange{ClientID: "c", Keep: kept("c", "1"), Subscribe: here("a", "b")}))
	commit(t, s, write(a, msg("x", "2", false)), changed(a, broker.SessionChange{ClientID: "c", Unsubscribe: []string{"a", "never"}, Subscribe: here("a")}))
	require.Equal(t, []string{"c 1 a:2.end b:1.end"}, sessions(t, s, a), "the row stays where it is not given")
	commit(t, s, changed(a, broker.SessionChange{ClientID: "c", Delete: true, Unsubscribe: []string{"b"}, Keep: kept("c", "2"), Subscribe: here("b")}))
	require.Equal(t, []string{"c 2 b:2.end"}, sessions(t, s, a))
	commit(t, s, changed(a, broker.SessionChange{ClientID: "c", Delete: true}, broker.SessionChange{ClientID: "never", Delete: true}))
	require.Empty(t, sessions(t, s, a))
	commit(t, s, changed(a, broker.SessionChange{ClientID: "c", Keep: kept("c", "3")}))
	require.Equal(t, []string{"c 3"}, sessions(t, s, a), "its subscriptions went with it")
}

func changesMany(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	var batch []broker.Write
	var want []string
	const n = 200
	for i := range n {
		id := fmt.Sprintf("c%03d", i)
		batch = append(batch, changed(a, broker.SessionChange{ClientID: id, Delete: true, Keep: kept(id, "1"), Subscribe: here("a", "b", id)}))
		want = append(want, id+" 1 a:0.end b:0.end "+id+":0.end")
	}
	commit(t, s, batch...)
	require.Equal(t, want, sessions(t, s, a))
	batch, want = nil, nil
	for i := range n {
		id := fmt.Sprintf("c%03d", i)
		c := broker.SessionChange{ClientID: id, Unsubscribe: []string{"a", id}}
		if c.Delete = i%2 == 0; !c.Delete {
			want = append(want, id+" 1 b:0.end")
		}
		batch = append(batch, changed(a, c))
	}
	commit(t, s, batch...)
	require.Equal(t, want, sessions(t, s, a))
}

func skipsGoneApp(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	ids := filterIDs(t, s, a, "f")
	s.DropApp(t, a)
	c := broker.SessionChange{ClientID: "c", Delete: true, Keep: kept("c", ""), Subscribe: []broker.SubscriptionRow{{Filter: "f", FilterID: ids[0], BeginsHere: true}}}
	w := changed(a, c)
	require.Equal(t, []uint64{0, 0, 0}, commit(t, s, w, broker.Write{App: a, Parts: write(a, msg("x", "1", true)).Parts, Sessions: w.Sessions}, changed(b, c)))
	require.Empty(t, sessions(t, s, a))
	require.Empty(t, retained(t, s, a))
	require.Equal(t, []string{"c f:0.end"}, sessions(t, s, b))
}

// changesLikeModel compares with the store in memory, which does one change after the other.
func changesLikeModel(t *testing.T, s Log) {
	random := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same each time
	app, model := s.NewApp(t, "a"), brokertest.NewStore(1)
	some := func() (filters []string) {
		for _, f := range []string{"a", "b", "c"} {
			if random.IntN(3) == 0 {
				filters = append(filters, f)
			}
		}
		return filters
	}
	for range 30 {
		var batch, same []broker.Write
		for range 1 + random.IntN(8) {
			c := broker.SessionChange{ClientID: fmt.Sprint(random.IntN(3)), Delete: random.IntN(4) == 0, Unsubscribe: some(), Subscribe: here(some()...)}
			if random.IntN(2) == 0 {
				c.Keep = kept(c.ClientID, fmt.Sprint(random.IntN(100)))
			}
			w := changed(app, c)
			if random.IntN(3) == 0 {
				w.Parts = write(app, msg("x", "p", false)).Parts
			}
			batch = append(batch, w)
			w.App = 1
			same = append(same, w)
		}
		require.Equal(t, commit(t, model, same...), commit(t, s, batch...))
		require.Equal(t, sessions(t, model, 1), sessions(t, s, app))
	}
}

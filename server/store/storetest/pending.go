package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// behind returns filters with one position for all.
func behind(after message.Position, filters ...int64) (from []broker.FilterFrom) {
	for _, f := range filters {
		from = append(from, broker.FilterFrom{ID: f, After: after})
	}
	return from
}

func pages(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"x/#", "x/+", "other", "x/#"})
	require.NoError(t, err)
	require.Equal(t, ids[0], ids[3])
	require.NotEqual(t, ids[0], ids[1])
	names, err := s.Filters(t.Context(), a)
	require.NoError(t, err)
	require.Equal(t, map[int64]string{ids[0]: "x/#", ids[1]: "x/+", ids[2]: "other"}, names)
	for i := range 10 {
		to := []int64{ids[0]}
		if i%2 == 0 {
			to = append(to, ids[1])
		}
		commit(t, s, filtered(a, to, msg(fmt.Sprintf("x/%d", i), "p", false)), filtered(a, []int64{ids[2]}, msg("other", "p", false)))
	}
	page := func(filters []int64, after message.Position, limit int) (topics string) {
		entries, err := s.Page(t.Context(), a, behind(after, filters...), limit)
		require.NoError(t, err)
		for _, e := range entries {
			topics += fmt.Sprintf("%s*%d ", e.Message.Topic[2:], len(e.Filters))
		}
		return topics
	}
	require.Equal(t, "0*2 1*1 2*2 ", page(ids[:2], message.Position{}, 3))
	require.Equal(t, "8*2 9*1 ", page(ids[:2], message.Position{Seq: 15}, 5))
	require.Equal(t, "0*1 2*1 4*1 6*1 8*1 ", page(ids[1:2], message.Position{}, 100))
	require.Empty(t, page(nil, message.Position{}, 100))
}

func settles(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"f", "g"})
	require.NoError(t, err)
	for range 5 {
		commit(t, s, filtered(a, ids, msg("f", "p", false)))
	}
	n, err := s.Settle(t.Context(), a, ids[0], message.Position{Seq: 3})
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	left, err := s.Page(t.Context(), a, behind(message.Position{}, ids[0]), 10)
	require.NoError(t, err)
	require.Len(t, left, 2)
	left, err = s.Page(t.Context(), a, behind(message.Position{}, ids[1]), 10)
	require.NoError(t, err)
	require.Len(t, left, 5)
}

func filterIDs(tb testing.TB, s broker.Store, app broker.AppUID, filters ...string) []int64 {
	tb.Helper()
	ids, err := s.FilterIDs(tb.Context(), app, filters)
	require.NoError(tb, err)
	require.Len(tb, ids, len(filters))
	return ids
}

// paged reads a page and writes it as "seq.part[filter filter] …", filters as their places in ids.
func paged(t *testing.T, s Log, app broker.AppUID, ids []int64, limit int, from ...broker.FilterFrom) string {
	t.Helper()
	entries, err := s.Page(t.Context(), app, from, limit)
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		places := make([]int, len(e.Filters))
		for i, id := range e.Filters {
			places[i] = slices.Index(ids, id)
		}
		all = append(all, fmt.Sprintf("%d.%d%v", e.Message.Position.Seq, e.Message.Position.Part, places))
	}
	return strings.Join(all, " ")
}

func namesFilters(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	first := filterIDs(t, s, a, "x", "y", "x", "Ä?'\"$1/#")
	require.Equal(t, first[0], first[2])
	require.Equal(t, []int64{first[1], first[3], first[0]}, filterIDs(t, s, a, "y", "Ä?'\"$1/#", "x"))
	require.NotContains(t, first, filterIDs(t, s, b, "x")[0])
	require.Empty(t, filterIDs(t, s, a))
	var many []string
	for i := range 1_000 {
		many = append(many, fmt.Sprintf("many/%d", i))
	}
	ids := filterIDs(t, s, a, many...)
	require.Equal(t, ids, filterIDs(t, s, a, many...))
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(ids))), 1_000)
	s.DropApp(t, a)
	for _, filters := range [][]string{{"x"}, {"new"}, nil} {
		_, err := s.FilterIDs(t.Context(), a, filters)
		require.ErrorIs(t, err, broker.ErrNoSuchApp)
	}
	names, err := s.Filters(t.Context(), a)
	require.NoError(t, err)
	require.Empty(t, names)
}

func pagesFromPositions(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	ids := filterIDs(t, s, a, "f", "g", "h")
	f, g, h := ids[0], ids[1], ids[2]
	commit(t, s, broker.Write{App: a, Parts: []broker.Part{ // 1
		{Message: msg("0", "p", false), Filters: []int64{f}},
		{Message: msg("1", "p", false), Filters: []int64{f, g}},
		{Message: msg("2", "p", false)},
		{Message: msg("3", "p", false), Filters: []int64{g}},
	}}, filtered(a, []int64{g, f}, msg("4", "p", false)), filtered(a, []int64{h}, msg("5", "p", false)), filtered(a, []int64{f}, msg("6", "p", false))) // 2, 3, 4
	commit(t, s, filtered(b, nil, msg("b", "b", false)))
	at := func(seq uint64, part uint32) message.Position { return message.Position{Seq: seq, Part: part} }
	require.Equal(t, "1.0[0] 1.1[0 1] 1.3[1] 2.0[0 1] 4.0[0]", paged(t, s, a, ids, 10, broker.FilterFrom{ID: g}, broker.FilterFrom{ID: f}))
	require.Equal(t, "1.1[1] 1.3[1] 2.0[0 1] 4.0[0]", paged(t, s, a, ids, 10, broker.FilterFrom{ID: f, After: at(1, 1)}, broker.FilterFrom{ID: g}))
	require.Equal(t, "1.1[1] 1.3[1] 2.0[0 1]", paged(t, s, a, ids, 3, broker.FilterFrom{ID: f, After: at(1, 1)}, broker.FilterFrom{ID: g}))
	require.Equal(t, "1.3[1]", paged(t, s, a, ids, 1, broker.FilterFrom{ID: f, After: at(1, 1)}, broker.FilterFrom{ID: g, After: at(1, 2)}))
	require.Equal(t, "2.0[1] 3.0[2] 4.0[0]", paged(t, s, a, ids, 10, broker.FilterFrom{ID: h, After: at(2, 1)},
		broker.FilterFrom{ID: f, After: at(2, 1<<32-1)}, broker.FilterFrom{ID: g, After: at(1, 1<<32-1)}))
	require.Empty(t, paged(t, s, a, ids, 10, behind(at(4, 0), ids...)...))
	require.Empty(t, paged(t, s, a, ids, 0, behind(at(0, 0), ids...)...))
	require.Empty(t, paged(t, s, b, ids, 10, behind(at(0, 0), ids...)...), "another app's filters")
}

// overlapping commits messages that match some of a number of filters each, and returns them as pages show them.
func overlapping(t *testing.T, s Log, app broker.AppUID, random *rand.Rand, ids []int64, writes int) (all []broker.PageEntry) {
	t.Helper()
	var batch []broker.Write
	for seq := range writes {
		w := broker.Write{App: app}
		for part := range 1 + random.IntN(3) {
			m := msg("t", strings.Repeat("x", random.IntN(40)), false)
			var to []int64
			for _, id := range ids {
				if random.IntN(3) == 0 {
					to = append(to, id)
				}
			}
			w.Parts = append(w.Parts, broker.Part{Message: m, Filters: to})
			all = append(all, broker.PageEntry{
				Message: &message.Message{Topic: m.Topic, Payload: m.Payload, Position: message.Position{Seq: uint64(seq + 1), Part: uint32(part)}},
				Filters: to,
			})
		}
		batch = append(batch, w)
	}
	commit(t, s, batch...)
	return all
}

// expected is what is pending for filters, by a model.
func expected(all []broker.PageEntry, from []broker.FilterFrom) (left []broker.PageEntry) {
	for _, e := range all {
		var matched []int64
		for _, f := range from {
			if slices.Contains(e.Filters, f.ID) && e.Message.Position.Compare(f.After) > 0 {
				matched = append(matched, f.ID)
			}
		}
		if slices.Sort(matched); len(matched) > 0 {
			left = append(left, broker.PageEntry{Message: e.Message, Filters: matched})
		}
	}
	return left
}

func pagesLikeModel(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	ids := filterIDs(t, s, a, "0", "1", "2", "3", "4", "5", "6", "7")
	all := overlapping(t, s, a, random, ids, 200)
	type row struct {
		position message.Position
		filters  []int64
	}
	rows := func(entries []broker.PageEntry) (rows []row) {
		for _, e := range entries {
			rows = append(rows, row{e.Message.Position, e.Filters})
		}
		return rows
	}
	for range 40 {
		var from []broker.FilterFrom
		for _, i := range random.Perm(len(ids))[:1+random.IntN(len(ids))] {
			from = append(from, broker.FilterFrom{ID: ids[i], After: message.Position{Seq: random.Uint64N(150), Part: random.Uint32N(3)}})
		}
		left := expected(all, from)
		limit := 1 + random.IntN(150)
		got, err := s.Page(t.Context(), a, from, limit)
		require.NoError(t, err)
		require.Equal(t, rows(left[:min(limit, len(left))]), rows(got), "limit %d of %v", limit, from)

		keep, keepBytes := random.IntN(len(left)+20), random.Int64N(int64(len(left)*25))
		want := broker.Backlog{}
		for i, e := range slices.Backward(left) {
			size := int64(len(e.Message.Topic) + len(e.Message.Payload))
			if want.Messages == keep || want.Bytes+size > keepBytes {
				want.Dropped, want.CutAt = i+1, e.Message.Position
				break
			}
			want.Messages++
			want.Bytes += size
		}
		backlog, err := s.Backlog(t.Context(), a, from, keep, keepBytes)
		require.NoError(t, err)
		require.Equal(t, want, backlog, "%d messages and %d bytes of %v", keep, keepBytes, from)
	}
}

func cutsBacklog(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	ids := filterIDs(t, s, a, "f", "g")
	for range 5 {
		m := msg("bär", "1234", false) // 4 bytes
		m.Properties = []byte{1, 2}
		commit(t, s, filtered(a, ids, m), filtered(a, ids[:1], msg("x", "", false))) // 10 bytes and 1 byte
	}
	commit(t, s, filtered(b, nil, msg("x", "", false)))
	for _, c := range []struct {
		after    uint64
		messages int
		bytes    int64
		want     broker.Backlog
	}{
		{0, 100, 1_000, broker.Backlog{Messages: 10, Bytes: 55}},
		{0, 10, 55, broker.Backlog{Messages: 10, Bytes: 55}},
		{0, 9, 55, broker.Backlog{Messages: 9, Bytes: 45, Dropped: 1, CutAt: message.Position{Seq: 1}}},
		{0, 10, 54, broker.Backlog{Messages: 9, Bytes: 45, Dropped: 1, CutAt: message.Position{Seq: 1}}},
		{0, 3, 1_000, broker.Backlog{Messages: 3, Bytes: 12, Dropped: 7, CutAt: message.Position{Seq: 7}}},
		{0, 100, 12, broker.Backlog{Messages: 3, Bytes: 12, Dropped: 7, CutAt: message.Position{Seq: 7}}},
		{0, 100, 11, broker.Backlog{Messages: 2, Bytes: 11, Dropped: 8, CutAt: message.Position{Seq: 8}}},
		{0, 0, 1_000, broker.Backlog{Dropped: 10, CutAt: message.Position{Seq: 10}}},
		{0, 100, 0, broker.Backlog{Dropped: 10, CutAt: message.Position{Seq: 10}}},
		{4, 3, 1_000, broker.Backlog{Messages: 3, Bytes: 12, Dropped: 3, CutAt: message.Position{Seq: 7}}},
		{7, 3, 1_000, broker.Backlog{Messages: 3, Bytes: 12}},
		{10, 0, 0, broker.Backlog{}},
	} {
		got, err := s.Backlog(t.Context(), a, behind(message.Position{Seq: c.after}, ids...), c.messages, c.bytes)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%d messages and %d bytes behind %d", c.messages, c.bytes, c.after)
	}
	got, err := s.Backlog(t.Context(), a, nil, 0, 0)
	require.NoError(t, err)
	require.Zero(t, got)
	got, err = s.Backlog(t.Context(), b, behind(message.Position{}, ids...), 0, 0)
	require.NoError(t, err)
	require.Zero(t, got, "another app's filters")
}

func measuresLongBacklog(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids := filterIDs(t, s, a, "f", "g")
	const n = 5_000
	var batch []broker.Write
	for i := range n {
		to := ids[:1+i%2]
		batch = append(batch, filtered(a, to, msg("t", "p", false)))
	}
	commit(t, s, batch...)
	got, err := s.Backlog(t.Context(), a, behind(message.Position{}, ids...), n, 2*n)
	require.NoError(t, err)
	require.Equal(t, broker.Backlog{Messages: n, Bytes: 2 * n}, got)
	got, err = s.Backlog(t.Context(), a, behind(message.Position{Seq: 100}, ids...), n, 2*4_000)
	require.NoError(t, err)
	require.Equal(t, broker.Backlog{Messages: 4_000, Bytes: 8_000, Dropped: 900, CutAt: message.Position{Seq: 1_000}}, got)
	got, err = s.Backlog(t.Context(), a, behind(message.Position{}, ids[1]), 2_400, 1<<40)
	require.NoError(t, err)
	require.Equal(t, broker.Backlog{Messages: 2_400, Bytes: 4_800, Dropped: 100, CutAt: message.Position{Seq: 200}}, got)
}

func settlesRows(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	ids := filterIDs(t, s, a, "f", "g")
	two := broker.Write{App: a, Parts: []broker.Part{{Message: msg("x", "p", false), Filters: ids}, {Message: msg("y", "p", false), Filters: ids}}}
	commit(t, s, two, two, two)
	at := func(filter int64, seq uint64, part uint32) broker.PendingRow {
		return broker.PendingRow{FilterID: filter, Position: message.Position{Seq: seq, Part: part}}
	}
	commit(t, s,
		broker.Write{App: a, Sessions: []broker.SessionChange{{App: a, ClientID: "c", Settle: []broker.PendingRow{at(ids[0], 1, 1), at(ids[0], 9, 0), at(ids[1], 2, 0)}}}},
		broker.Write{App: b, Sessions: []broker.SessionChange{{App: b, ClientID: "c", Settle: []broker.PendingRow{at(ids[0], 3, 0)}}}},
		broker.Write{App: a, Parts: two.Parts, Sessions: []broker.SessionChange{{App: a, ClientID: "d", Settle: []broker.PendingRow{at(ids[0], 1, 1), at(ids[0], 3, 1)}}}})
	require.Equal(t, "1.0[0 1] 1.1[1] 2.0[0] 2.1[0 1] 3.0[0 1] 3.1[1] 4.0[0 1] 4.1[0 1]", paged(t, s, a, ids, 100, behind(message.Position{}, ids...)...))
	var many []broker.PendingRow
	for seq := range uint64(4) {
		for part := range uint32(20) {
			many = append(many, at(ids[0], seq+1, part), at(ids[1], seq+1, part))
		}
	}
	commit(t, s, broker.Write{App: a, Sessions: []broker.SessionChange{{App: a, ClientID: "c", Settle: many}}})
	require.Empty(t, paged(t, s, a, ids, 100, behind(message.Position{}, ids...)...))
}

func findsMany(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	const n = 777
	var batch []broker.Write
	for i := range n {
		batch = append(batch, write(a, msg(fmt.Sprint(i+1), "p", false)))
	}
	commit(t, s, batch...)
	var positions []message.Position
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(2 * n) { //nolint:gosec // the same each time
		positions = append(positions, message.Position{Seq: uint64(i)}, message.Position{Seq: uint64(i)}) //nolint:gosec // small
	}
	found, err := s.Messages(t.Context(), a, positions)
	require.NoError(t, err)
	require.Len(t, found, n)
	for i, m := range found {
		require.Equal(t, fmt.Sprint(i+1), m.Topic)
		require.EqualValues(t, i+1, m.Position.Seq)
	}
	require.True(t, slices.IsSortedFunc(found, func(x, y *message.Message) int { return cmp.Compare(x.Position.Seq, y.Position.Seq) }))
	found, err = s.Messages(t.Context(), a, nil)
	require.NoError(t, err)
	require.Empty(t, found)
}

func leavesNothing(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	mine := filterIDs(t, s, a, "f")
	others := filterIDs(t, s, b, "f")
	for app, ids := range map[broker.AppUID][]int64{a: mine, b: others} {
		commit(t, s, broker.Write{
			App: app, Parts: []broker.Part{{Message: msg("x", "p", true), Filters: ids}},
			Sessions: []broker.SessionChange{{App: app, ClientID: "c", Keep: &broker.SessionRow{ClientID: "c"}, Subscribe: []broker.SubscriptionRow{{Filter: "f", FilterID: ids[0]}}}},
		})
	}
	s.DropApp(t, a)
	again := s.NewApp(t, "again")
	for _, app := range []broker.AppUID{a, again} {
		require.Empty(t, paged(t, s, app, mine, 10, behind(message.Position{}, mine...)...))
		n, err := s.Settle(t.Context(), app, mine[0], message.Position{Seq: 100})
		require.NoError(t, err)
		require.Zero(t, n)
		require.Empty(t, sessions(t, s, app))
		require.Empty(t, retained(t, s, app))
		names, err := s.Filters(t.Context(), app)
		require.NoError(t, err)
		require.Empty(t, names)
	}
	require.Equal(t, "1.0[0]", paged(t, s, b, others, 10, behind(message.Position{}, others...)...))
	require.Equal(t, []string{"c f:0.0"}, sessions(t, s, b))
}

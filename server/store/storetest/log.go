package storetest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

func numbersWrites(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	seqs := commit(t, s, write(b, msg("x", "1", true)), write(a, msg("x", "1", true), msg("y", "1", true)), broker.Write{App: a}, write(b, msg("x", "2", true)), write(a, msg("z", "3", true)))
	require.Equal(t, []uint64{1, 1, 0, 2, 2}, seqs)
	require.Equal(t, []uint64{3}, commit(t, s, write(a, msg("x", "4", true))))
	seq, epoch, err := s.Head(t.Context(), a)
	require.NoError(t, err)
	require.EqualValues(t, 3, seq)
	require.NotEmpty(t, epoch)
	require.Equal(t, []string{"1.1 y=1", "2.0 z=3", "3.0 x=4"}, retained(t, s, a))
}

func failsWhole(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	commit(t, s, write(a, msg("x", "1", true)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Commit(ctx, broker.Batch{Writes: []broker.Write{write(a, msg("x", "2", true))}})
	require.ErrorIs(t, err, broker.ErrStoreUnavailable, "a commit that is given up may be tried again")
	require.Equal(t, []string{"1.0 x=1"}, retained(t, s, a))
	require.Equal(t, []uint64{2}, commit(t, s, write(a, msg("x", "3", true))), "a failed batch takes no number")
}

func keepsRetained(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	commit(t, s, write(a, msg("x", "1", true)), write(a, msg("y", "1", true)), write(a, msg("x", "2", true)), write(a, msg("live", "no", false)), write(a, msg("y", "", true)))
	require.Equal(t, []string{"3.0 x=2"}, retained(t, s, a))
}

func roundTrips(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	want := []*message.Message{
		{Topic: "bin/är/日本/🔥", Payload: all, Properties: []byte{1, 1}, QoS: 2, Retain: true, Publisher: "pub", Arrived: at, Expires: at.Add(time.Hour)},
		{Topic: "?quoted'\"$1;--", Payload: []byte(strings.Repeat("x", 1<<20)), QoS: 0, Retain: true, Arrived: at},
	}
	commit(t, s, write(a, want...))
	var got []*message.Message
	require.NoError(t, s.Retained(t.Context(), a, func(m *message.Message) error { got = append(got, m); return nil }))
	require.Len(t, got, 2)
	for i, m := range got {
		require.Equal(t, message.Position{Seq: 1, Part: uint32(i)}, m.Position)
		require.Equal(t, want[i].Topic, m.Topic)
		require.Equal(t, want[i].Payload, m.Payload)
		require.Equal(t, string(want[i].Properties), string(m.Properties))
		require.Equal(t, want[i].QoS, m.QoS)
		require.Equal(t, want[i].Publisher, m.Publisher)
		require.Equal(t, want[i].Arrived, m.Arrived)
		require.True(t, want[i].Expires.Equal(m.Expires))
	}
	found, err := s.Messages(t.Context(), a, []message.Position{{Seq: 1, Part: 1}, {Seq: 9}, {Seq: 1}})
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Equal(t, want[0].Topic, found[0].Topic)
}

func filtered(app broker.AppUID, filters []int64, m *message.Message) broker.Write {
	return broker.Write{App: app, Parts: []broker.Part{{Message: m, Filters: filters}}}
}

func compacts(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"f"})
	require.NoError(t, err)
	commit(t, s, write(a, msg("old", "1", true)))        // 1: replaced
	commit(t, s, write(a, msg("old", "2", true)))        // 2: live
	commit(t, s, filtered(a, ids, msg("p", "p", false))) // 3: pending
	commit(t, s, write(a, msg("held", "h", false)))      // 4: in a window
	commit(t, s, write(a, msg("x", "", true)))           // 5: a clear
	commit(t, s, write(a, msg("gone", "g", false)))      // 6: nobody's
	young := msg("young", "y", false)
	young.Arrived = at.Add(time.Hour)
	commit(t, s, write(a, young)) // 7
	c := broker.Compaction{
		UpTo: message.Position{Seq: 7, Part: math.MaxInt32}, KeepSince: at.Add(time.Minute), Limit: 3,
		Live: func(topic string, p message.Position) bool { return topic == "old" && p.Seq == 2 },
		Held: func(p message.Position) bool { return p.Seq == 4 }, Remains: func(string) {}, ClearMayGo: func(string) bool { return true },
	}
	total := 0
	for c.After.Compare(c.UpTo) < 0 {
		looked, n, err := s.Compact(t.Context(), a, c)
		require.NoError(t, err)
		require.Positive(t, looked.Compare(c.After))
		c.After = looked
		total += n
	}
	require.Equal(t, 3, total)
	var left []message.Position
	for seq := range uint64(8) {
		left = append(left, message.Position{Seq: seq})
	}
	kept, err := s.Messages(t.Context(), a, left)
	require.NoError(t, err)
	require.Len(t, kept, 4)
	require.Equal(t, []string{"2.0 old=2"}, retained(t, s, a))
}

// keepsClears: an entry stays beyond its clear (pending, or young by a clock that was set back since).
func keepsClears(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"f"})
	require.NoError(t, err)
	young := msg("young", "y", true)
	young.Arrived = at.Add(time.Hour)
	commit(t, s, write(a, young))                                                                  // 1
	commit(t, s, filtered(a, ids, msg("pending", "p", true)))                                      // 2
	commit(t, s, write(a, msg("old", "o", true)))                                                  // 3
	commit(t, s, write(a, msg("young", "", true), msg("pending", "", true), msg("old", "", true))) // 4
	remains := map[string]bool{}
	looked, deleted, err := s.Compact(t.Context(), a, broker.Compaction{
		UpTo: message.Position{Seq: 4, Part: math.MaxInt32}, KeepSince: at.Add(time.Minute), Limit: 100,
		Live: func(string, message.Position) bool { return false }, Held: func(message.Position) bool { return false },
		Remains: func(topic string) { remains[topic] = true }, ClearMayGo: func(topic string) bool { return !remains[topic] },
	})
	require.NoError(t, err)
	require.EqualValues(t, 4, looked.Seq)
	require.Equal(t, map[string]bool{"young": true, "pending": true}, remains)
	require.Equal(t, 2, deleted, "the value of old and its clear")
	require.Empty(t, retained(t, s, a), "nothing that was cleared comes back")
}

func isolates(t *testing.T, s Log) {
	a, b := s.NewApp(t, "a"), s.NewApp(t, "b")
	commit(t, s, write(a, msg("same", "a", true)), write(b, msg("same", "b", true)))
	require.Equal(t, []string{"1.0 same=a"}, retained(t, s, a))
	require.Equal(t, []string{"1.0 same=b"}, retained(t, s, b))
	fa, err := s.FilterIDs(t.Context(), a, []string{"f"})
	require.NoError(t, err)
	fb, err := s.FilterIDs(t.Context(), b, []string{"f"})
	require.NoError(t, err)
	require.NotEqual(t, fa, fb)
	for _, app := range []broker.AppUID{a, b} {
		commit(t, s, broker.Write{App: app, Sessions: []broker.SessionChange{{App: app, ClientID: "same", Keep: &broker.SessionRow{ClientID: "same", Subject: fmt.Sprint(app)}}}})
	}
	s.DropApp(t, a)
	require.Equal(t, []string{"1.0 same=b"}, retained(t, s, b))
	n := 0
	require.NoError(t, s.Sessions(t.Context(), b, func(broker.StoredSession) error { n++; return nil }))
	require.Equal(t, 1, n)
	names, err := s.Filters(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, names, 1)
}

func knowsBatch(t *testing.T, s Log) {
	a := s.NewApp(t, "a")
	first, second := broker.Batch{ID: [16]byte{1}, Writes: []broker.Write{write(a, msg("x", "1", true))}}, [16]byte{2}
	there, err := s.Committed(t.Context(), first.ID)
	require.NoError(t, err)
	require.False(t, there)
	_, err = s.Commit(t.Context(), first)
	require.NoError(t, err)
	there, err = s.Committed(t.Context(), first.ID)
	require.NoError(t, err)
	require.True(t, there)
	there, err = s.Committed(t.Context(), second)
	require.NoError(t, err)
	require.False(t, there)
}

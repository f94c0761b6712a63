// Package storetest is the contract of the stores: the same cases, the same order, the same errors for both dialects.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Store is what a store has to be.
type Store interface {
	broker.Store
	auth.Store
	Ping(ctx context.Context) error
	Close() error
}

var at = time.Date(2026, 11, 24, 12, 0, 0, 123_456_000, time.UTC)

// Run tests the stores that open returns: each call an empty one, which it closes after the test.
func Run(t *testing.T, open func(t *testing.T) Store) {
	cases := map[string]func(*testing.T, Store){
		"an app is loaded with its keys and newest rules":              loadsApps,
		"an app id is taken once, and made again starts empty":         deletesApps,
		"rules have versions, and one version is put once":             versionsRules,
		"the audit is listed newest first, by app":                     listsAudit,
		"an idempotency key is claimed once":                           claimsIdempotency,
		"seqs are dense per app and in the order of the writes":        numbersWrites,
		"a batch fails as a whole":                                     failsWhole,
		"the newest retained entry of a topic is its retained message": keepsRetained,
		"messages come back as they were":                              roundTrips,
		"pages are ordered, without duplicates, after a position":      pages,
		"sessions come back with their subscriptions":                  keepsSessions,
		"pending rows are settled by filter and position":              settles,
		"compaction keeps what is live, pending, held or young":        compacts,
		"compaction keeps a clear for as long as what it cleared":      keepsClears,
		"apps do not see each other":                                   isolates,
		"the last batch is known by its id":                            knowsBatch,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			test(t, s)
		})
	}
}

func newApp(t *testing.T, s Store, id string) broker.AppUID {
	t.Helper()
	uid, err := s.CreateApp(t.Context(), auth.AppRow{ID: id, Name: id, Settings: []byte("{}"), CreatedAt: at, UpdatedAt: at},
		auth.KeyRow{ID: id + "-first", Kind: auth.KindSigning, Name: "default", Secret: []byte("sealed"), Attributes: []byte("{}"), CreatedAt: at},
		auth.Audit{At: at, Actor: "admin", AppID: id, Action: "app.create", Target: id})
	require.NoError(t, err)
	return broker.AppUID(uid)
}

func msg(topic, payload string, retain bool) *message.Message {
	return &message.Message{Topic: topic, Payload: []byte(payload), Retain: retain, QoS: 1, Arrived: at, Publisher: "c"}
}

func write(app broker.AppUID, messages ...*message.Message) broker.Write {
	w := broker.Write{App: app}
	for _, m := range messages {
		w.Parts = append(w.Parts, broker.Part{Message: m})
	}
	return w
}

func commit(t *testing.T, s Store, writes ...broker.Write) []uint64 {
	t.Helper()
	b := broker.Batch{Writes: writes}
	_, err := rand.Read(b.ID[:])
	require.NoError(t, err)
	seqs, err := s.Commit(t.Context(), b)
	require.NoError(t, err)
	return seqs
}

func retained(t *testing.T, s Store, app broker.AppUID) (all []string) {
	t.Helper()
	require.NoError(t, s.Retained(t.Context(), app, func(m *message.Message) error {
		all = append(all, fmt.Sprintf("%d.%d %s=%s", m.Position.Seq, m.Position.Part, m.Topic, m.Payload))
		return nil
	}))
	return all
}

func loadsApps(t *testing.T, s Store) {
	uid := newApp(t, s, "b")
	newApp(t, s, "a")
	require.NoError(t, s.CreateKey(t.Context(), auth.KeyRow{
		AppUID: int64(uid), ID: "k2", Kind: auth.KindSecret, Name: "two", Secret: []byte{0, 1, 255},
		Attributes: []byte(`{"scopes":["read"]}`), CreatedAt: at.Add(time.Second),
	}, auth.Audit{At: at, Actor: "admin", AppID: "b", Action: "key.create"}))
	require.NoError(t, s.TouchKeys(t.Context(), map[string]time.Time{"k2": at.Add(time.Minute)}))
	require.NoError(t, s.UpdateApp(t.Context(), auth.AppRow{UID: int64(uid), ID: "b", Name: "B", Settings: []byte(`{"anonymous":true}`), UpdatedAt: at},
		auth.Audit{At: at, AppID: "b", Action: "app.update"}))
	all, err := s.LoadApps(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "a", all[0].App.ID)
	b := all[1]
	require.Equal(t, "B", b.App.Name)
	require.JSONEq(t, `{"anonymous":true}`, string(b.App.Settings))
	require.Equal(t, at, b.App.CreatedAt)
	require.Len(t, b.Keys, 2)
	require.Equal(t, []byte{0, 1, 255}, b.Keys[1].Secret)
	require.Equal(t, at.Add(time.Minute), b.Keys[1].LastUsedAt)
	require.True(t, b.Keys[0].LastUsedAt.IsZero())
	require.EqualValues(t, 1, b.Rules.Version)
	require.NoError(t, s.DeleteKey(t.Context(), int64(uid), "k2", auth.Audit{At: at, AppID: "b", Action: "key.delete"}))
	require.ErrorIs(t, s.DeleteKey(t.Context(), int64(uid), "k2", auth.Audit{At: at}), auth.ErrNotFound)
}

func deletesApps(t *testing.T, s Store) {
	uid := newApp(t, s, "shop")
	_, err := s.CreateApp(t.Context(), auth.AppRow{ID: "shop", Name: "x", CreatedAt: at, UpdatedAt: at}, auth.KeyRow{ID: "other", CreatedAt: at}, auth.Audit{At: at})
	require.ErrorIs(t, err, auth.ErrTaken)
	commit(t, s, write(uid, msg("a", "1", true)))
	require.NoError(t, s.DeleteApp(t.Context(), int64(uid), auth.Audit{At: at, AppID: "shop", Action: "app.delete"}))
	require.ErrorIs(t, s.DeleteApp(t.Context(), int64(uid), auth.Audit{At: at}), auth.ErrNotFound)
	_, _, err = s.Head(t.Context(), uid)
	require.ErrorIs(t, err, broker.ErrNoSuchApp)
	require.Equal(t, []uint64{0}, commit(t, s, write(uid, msg("a", "2", true))), "writes to a deleted app are not stored")
	again := newApp(t, s, "shop")
	require.NotEqual(t, uid, again)
	require.Empty(t, retained(t, s, again))
	require.Empty(t, retained(t, s, uid))
}

func versionsRules(t *testing.T, s Store) {
	uid := int64(newApp(t, s, "a"))
	put := func(version int64) error {
		return s.PutRules(t.Context(), uid, auth.RulesRow{Version: version, Rules: fmt.Appendf(nil, "[%d]", version), CreatedAt: at, Actor: "admin"}, auth.Audit{At: at, AppID: "a"})
	}
	require.NoError(t, put(2))
	require.NoError(t, put(3))
	require.ErrorIs(t, put(3), auth.ErrConflict)
	all, err := s.RulesVersions(t.Context(), uid, 0, 2)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.EqualValues(t, 3, all[0].Version)
	require.Equal(t, "[3]", string(all[0].Rules))
	all, err = s.RulesVersions(t.Context(), uid, 1<<40, 2)
	require.NoError(t, err)
	require.Len(t, all, 2, "a cursor above 2^31")
	all, err = s.RulesVersions(t.Context(), uid, 2, 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func listsAudit(t *testing.T, s Store) {
	newApp(t, s, "a")
	newApp(t, s, "b")
	all, err := s.Audits(t.Context(), "", 0, 10)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "b", all[0].AppID)
	all, err = s.Audits(t.Context(), "", 1<<40, 10)
	require.NoError(t, err)
	require.Len(t, all, 2, "a cursor above 2^31")
	all, err = s.Audits(t.Context(), "a", 0, 10)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, at, all[0].At)
	all, err = s.Audits(t.Context(), "a", all[0].ID, 10)
	require.NoError(t, err)
	require.Empty(t, all)
	require.NoError(t, s.AppendAudit(t.Context(), auth.Audit{At: at, Actor: "admin", AppID: "a", Action: "token.bypass", Target: "u", After: []byte("{}")}))
	all, err = s.Audits(t.Context(), "a", 0, 1)
	require.NoError(t, err)
	require.Equal(t, "token.bypass", all[0].Action)
}

func claimsIdempotency(t *testing.T, s Store) {
	_, found, err := s.ClaimIdempotency(t.Context(), "k", []byte("f"), at)
	require.NoError(t, err)
	require.False(t, found)
	stored, found, err := s.ClaimIdempotency(t.Context(), "k", []byte("other"), at)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, auth.Answer{Fingerprint: []byte("f"), Body: stored.Body}, stored)
	require.NoError(t, s.FinishIdempotency(t.Context(), "k", auth.Answer{Status: 201, ContentType: "application/json", Body: []byte("{}")}))
	require.NoError(t, s.ReleaseIdempotency(t.Context(), "k"), "a finished one is not released")
	stored, found, err = s.ClaimIdempotency(t.Context(), "k", []byte("f"), at)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, auth.Answer{Fingerprint: []byte("f"), Status: 201, ContentType: "application/json", Body: []byte("{}")}, stored)
	require.NoError(t, s.ForgetIdempotency(t.Context(), at.Add(time.Second)))
	_, found, err = s.ClaimIdempotency(t.Context(), "k", []byte("g"), at)
	require.NoError(t, err)
	require.False(t, found)
}

func numbersWrites(t *testing.T, s Store) {
	a, b := newApp(t, s, "a"), newApp(t, s, "b")
	seqs := commit(t, s, write(b, msg("x", "1", true)), write(a, msg("x", "1", true), msg("y", "1", true)), broker.Write{App: a}, write(b, msg("x", "2", true)), write(a, msg("z", "3", true)))
	require.Equal(t, []uint64{1, 1, 0, 2, 2}, seqs)
	require.Equal(t, []uint64{3}, commit(t, s, write(a, msg("x", "4", true))))
	seq, epoch, err := s.Head(t.Context(), a)
	require.NoError(t, err)
	require.EqualValues(t, 3, seq)
	require.NotEmpty(t, epoch)
	require.Equal(t, []string{"1.1 y=1", "2.0 z=3", "3.0 x=4"}, retained(t, s, a))
}

func failsWhole(t *testing.T, s Store) {
	a := newApp(t, s, "a")
	commit(t, s, write(a, msg("x", "1", true)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Commit(ctx, broker.Batch{Writes: []broker.Write{write(a, msg("x", "2", true))}})
	require.ErrorIs(t, err, broker.ErrStoreUnavailable, "a commit that is given up may be tried again")
	require.Equal(t, []string{"1.0 x=1"}, retained(t, s, a))
	require.Equal(t, []uint64{2}, commit(t, s, write(a, msg("x", "3", true))), "a failed batch takes no number")
}

func keepsRetained(t *testing.T, s Store) {
	a := newApp(t, s, "a")
	commit(t, s, write(a, msg("x", "1", true)), write(a, msg("y", "1", true)), write(a, msg("x", "2", true)), write(a, msg("live", "no", false)), write(a, msg("y", "", true)))
	require.Equal(t, []string{"3.0 x=2"}, retained(t, s, a))
}

func roundTrips(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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

func pages(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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
		entries, err := s.Page(t.Context(), a, filters, after, limit)
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

func keepsSessions(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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
	change(broker.SessionChange{State: row, Subscribe: []broker.SubscriptionRow{first, second}})
	change(broker.SessionChange{State: broker.SessionRow{ClientID: "b", Subject: "u", Expiry: -1}})
	load := func() (all []broker.StoredSession) {
		require.NoError(t, s.Sessions(t.Context(), a, func(one broker.StoredSession) error { all = append(all, one); return nil }))
		return all
	}
	all := load()
	require.Len(t, all, 2)
	require.Equal(t, "b", all[0].Row.ClientID)
	require.Equal(t, broker.StoredSession{Row: row, Subscriptions: []broker.SubscriptionRow{first, second}}, all[1])
	row.Cursor.Seq, first.Options = 8, 1
	change(broker.SessionChange{State: row, Subscribe: []broker.SubscriptionRow{first}, Unsubscribe: []string{"f/2"}})
	require.Equal(t, broker.StoredSession{Row: row, Subscriptions: []broker.SubscriptionRow{first}}, load()[1])
	require.ErrorIs(t, s.DropFilter(t.Context(), a, ids[0]), auth.ErrNotFound, "a filter in use stays")
	require.NoError(t, s.DropFilter(t.Context(), a, ids[1]))
	change(broker.SessionChange{Delete: true, State: broker.SessionRow{ClientID: "c"}})
	require.Len(t, load(), 1)
	require.NoError(t, s.DropFilter(t.Context(), a, ids[0]))
}

func settles(t *testing.T, s Store) {
	a := newApp(t, s, "a")
	ids, err := s.FilterIDs(t.Context(), a, []string{"f", "g"})
	require.NoError(t, err)
	for range 5 {
		commit(t, s, filtered(a, ids, msg("f", "p", false)))
	}
	n, err := s.Settle(t.Context(), a, ids[0], message.Position{Seq: 3})
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	left, err := s.Page(t.Context(), a, ids[:1], message.Position{}, 10)
	require.NoError(t, err)
	require.Len(t, left, 2)
	left, err = s.Page(t.Context(), a, ids[1:], message.Position{}, 10)
	require.NoError(t, err)
	require.Len(t, left, 5)
}

func compacts(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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
func keepsClears(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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

func isolates(t *testing.T, s Store) {
	a, b := newApp(t, s, "a"), newApp(t, s, "b")
	commit(t, s, write(a, msg("same", "a", true)), write(b, msg("same", "b", true)))
	require.Equal(t, []string{"1.0 same=a"}, retained(t, s, a))
	require.Equal(t, []string{"1.0 same=b"}, retained(t, s, b))
	fa, err := s.FilterIDs(t.Context(), a, []string{"f"})
	require.NoError(t, err)
	fb, err := s.FilterIDs(t.Context(), b, []string{"f"})
	require.NoError(t, err)
	require.NotEqual(t, fa, fb)
	for _, app := range []broker.AppUID{a, b} {
		commit(t, s, broker.Write{App: app, Sessions: []broker.SessionChange{{App: app, State: broker.SessionRow{ClientID: "same", Subject: fmt.Sprint(app)}}}})
	}
	require.NoError(t, s.DeleteApp(t.Context(), int64(a), auth.Audit{At: at}))
	require.Equal(t, []string{"1.0 same=b"}, retained(t, s, b))
	n := 0
	require.NoError(t, s.Sessions(t.Context(), b, func(broker.StoredSession) error { n++; return nil }))
	require.Equal(t, 1, n)
	names, err := s.Filters(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, names, 1)
}

func knowsBatch(t *testing.T, s Store) {
	a := newApp(t, s, "a")
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

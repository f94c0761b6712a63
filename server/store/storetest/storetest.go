// Package storetest is the contract of the stores: the same cases, the same order, the same errors for both dialects.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
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

// Log is the part of a store that the engine uses, with apps that can be made and deleted.
type Log interface {
	broker.Store
	NewApp(t *testing.T, id string) broker.AppUID
	DropApp(t *testing.T, app broker.AppUID)
	Close() error
}

// Run tests the stores that open returns: each call an empty one, which it closes after the test.
func Run(t *testing.T, open func(tb testing.TB) Store) {
	cases := map[string]func(*testing.T, Store){
		"an app is loaded with its keys and newest rules":      loadsApps,
		"an app id is taken once, and made again starts empty": deletesApps,
		"rules have versions, and one version is put once":     versionsRules,
		"the audit is listed newest first, by app":             listsAudit,
		"an idempotency key is claimed once":                   claimsIdempotency,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			test(t, s)
		})
	}
	RunLog(t, func(tb testing.TB) Log {
		tb.Helper()
		return whole{open(tb)}
	})
}

// whole is a whole store as a Log.
type whole struct{ Store }

func (w whole) NewApp(t *testing.T, id string) broker.AppUID {
	t.Helper()
	return newApp(t, w, id)
}

func (w whole) DropApp(t *testing.T, app broker.AppUID) {
	t.Helper()
	require.NoError(t, w.DeleteApp(t.Context(), int64(app), auth.Audit{At: at}))
}

// RunLog tests the Logs that open returns: each call an empty one, which it closes after the test.
func RunLog(t *testing.T, open func(tb testing.TB) Log) {
	cases := map[string]func(*testing.T, Log){
		"seqs are dense per app and in the order of the writes":                  numbersWrites,
		"a write that only changes sessions gets the head that it stands behind": numbersSessions,
		"a batch fails as a whole":                                               failsWhole,
		"the newest retained entry of a topic is its retained message":           keepsRetained,
		"messages come back as they were":                                        roundTrips,
		"many messages are found by their positions":                             findsMany,
		"a filter has one id, which an app that is gone does not get":            namesFilters,
		"pages are ordered, without duplicates, after a position":                pages,
		"a page takes each filter from its own position":                         pagesFromPositions,
		"a page of many filters is the same as one of a model":                   pagesLikeModel,
		"a backlog is cut by messages and by bytes, the newest remain":           cutsBacklog,
		"a backlog of thousands is measured through":                             measuresLongBacklog,
		"sessions come back with their subscriptions":                            keepsSessions,
		"a subscription begins behind the write that it stands in":               beginsHere,
		"several changes of a session in one batch follow each other":            changesInOrder,
		"a session change does what it names in the order of its fields":         changesWithin,
		"random changes of sessions come to what they do one by one":             changesLikeModel,
		"many sessions are changed in one batch":                                 changesMany,
		"pending rows are settled by filter and position":                        settles,
		"pending rows are settled one by one, in a session change":               settlesRows,
		"session changes of an app that is gone are not written":                 skipsGoneApp,
		"an app that is deleted leaves nothing behind":                           leavesNothing,
		"compaction keeps what is live, pending, held or young":                  compacts,
		"compaction keeps a clear for as long as what it cleared":                keepsClears,
		"apps do not see each other":                                             isolates,
		"the last batch is known by its id":                                      knowsBatch,
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

func newApp(tb testing.TB, s Store, id string) broker.AppUID {
	tb.Helper()
	uid, err := s.CreateApp(tb.Context(), auth.AppRow{ID: id, Name: id, Settings: []byte("{}"), CreatedAt: at, UpdatedAt: at},
		auth.KeyRow{ID: id + "-first", Kind: auth.KindSigning, Name: "default", Secret: []byte("sealed"), Attributes: []byte("{}"), CreatedAt: at},
		auth.Audit{At: at, Actor: "admin", AppID: id, Action: "app.create", Target: id})
	require.NoError(tb, err)
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

func commit(tb testing.TB, s broker.Store, writes ...broker.Write) []uint64 {
	tb.Helper()
	b := broker.Batch{Writes: writes}
	_, err := rand.Read(b.ID[:])
	require.NoError(tb, err)
	seqs, err := s.Commit(tb.Context(), b)
	require.NoError(tb, err)
	return seqs
}

func retained(t *testing.T, s broker.Store, app broker.AppUID) (all []string) {
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

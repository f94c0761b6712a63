package postgres_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/pgtest"
	"github.com/embercast/embercast/server/store/postgres"
	"github.com/embercast/embercast/server/store/storetest"
)

// open opens a store that is closed with the test, and tells when it is lost.
func open(t *testing.T, url string) (s *postgres.Store, lost chan error) {
	t.Helper()
	lost = make(chan error, 9)
	cfg := config(url)
	cfg.Lost = func(err error) { lost <- err }
	s, err := postgres.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, lost
}

func query(t *testing.T, url, text string, into ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer c.Close(t.Context()) //nolint:errcheck // of a test
	if err = c.QueryRow(t.Context(), text).Scan(into...); len(into) > 0 {
		require.NoError(t, err)
	}
}

// endHolder ends the connection that holds the server's lock, and returns when it is gone.
func endHolder(t *testing.T, url string) {
	t.Helper()
	query(t, url, `SELECT pg_terminate_backend(l.pid, 10000) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()`)
}

func newApp(t *testing.T, s *postgres.Store, id string) broker.AppUID {
	t.Helper()
	now := time.Now()
	uid, err := s.CreateApp(t.Context(), auth.AppRow{ID: id, Name: id, CreatedAt: now, UpdatedAt: now},
		auth.KeyRow{ID: id + "-key", Kind: auth.KindSigning, CreatedAt: now}, auth.Audit{At: now, AppID: id})
	require.NoError(t, err)
	return broker.AppUID(uid)
}

func batch(app broker.AppUID, topic string) broker.Batch {
	b := broker.Batch{Writes: []broker.Write{{App: app, Parts: []broker.Part{{
		Message: &message.Message{Topic: topic, Payload: []byte("p"), Retain: true, QoS: 1, Arrived: time.Now()},
	}}}}}
	rand.Read(b.ID[:])
	return b
}

func topics(t *testing.T, s *postgres.Store, app broker.AppUID) (all []string) {
	t.Helper()
	require.NoError(t, s.Retained(t.Context(), app, func(m *message.Message) error {
		all = append(all, m.Topic)
		return nil
	}))
	return all
}

func putRules(t *testing.T, s *postgres.Store, app broker.AppUID, version int64) error {
	t.Helper()
	now := time.Now()
	return s.PutRules(t.Context(), int64(app), auth.RulesRow{Version: version, Rules: []byte("[]"), CreatedAt: now}, auth.Audit{At: now, Action: "rules.put"}) //nolint:wrapcheck // of a test
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	t.Run("a server that lost its lock to another never writes again, and says so", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		a, lost := open(t, url)
		app := newApp(t, a, "shop")
		_, err := a.Commit(t.Context(), batch(app, "by/a"))
		require.NoError(t, err)
		var b *postgres.Store
		for b == nil { // the first may be quicker to take its lock again
			endHolder(t, url)
			if b, err = postgres.Open(t.Context(), config(url)); err != nil {
				require.ErrorIs(t, err, store.ErrLocked)
				b = nil
			}
		}
		// Before it can have noticed, and after: neither door lets it write.
		require.ErrorIs(t, putRules(t, a, app, 2), auth.ErrUnavailable)
		_, err = a.FilterIDs(t.Context(), app, []string{"f"})
		require.ErrorIs(t, err, broker.ErrStoreUnavailable)
		_, err = a.Commit(t.Context(), batch(app, "split/brain"))
		require.ErrorIs(t, err, broker.ErrStoreUnavailable)
		require.NoError(t, putRules(t, b, app, 2))
		_, err = b.Commit(t.Context(), batch(app, "by/b"))
		require.NoError(t, err)
		require.NoError(t, b.Close())
		_, err = a.Commit(t.Context(), batch(app, "stale"))
		require.ErrorIs(t, err, broker.ErrStoreUnavailable, "the lock is free, but another has written")
		require.ErrorIs(t, err, store.ErrTakenOver)
		require.ErrorIs(t, putRules(t, a, app, 3), auth.ErrUnavailable)
		require.ErrorIs(t, a.Ping(t.Context()), store.ErrTakenOver)
		require.ErrorIs(t, <-lost, store.ErrTakenOver)
		require.Empty(t, lost, "told once")
		require.Equal(t, []string{"by/a", "by/b"}, topics(t, a, app))
	})
	t.Run("a server that nobody took over from goes on with its lock taken again", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, lost := open(t, url)
		app := newApp(t, s, "shop")
		endHolder(t, url)
		require.Eventually(t, func() bool {
			_, err := s.Commit(t.Context(), batch(app, "again"))
			return err == nil
		}, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, putRules(t, s, app, 2))
		require.Empty(t, lost)
	})
	t.Run("a database put in the place of the one that was opened is not written to", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, lost := open(t, url)
		app := newApp(t, s, "shop")
		query(t, url, `DROP TABLE writer`)
		endHolder(t, url)
		require.ErrorIs(t, <-lost, store.ErrTakenOver)
		_, err := s.Commit(t.Context(), batch(app, "stale"))
		require.ErrorIs(t, err, store.ErrTakenOver)
	})
}

// waitsForLock waits until somebody waits for a lock in a database.
func waitsForLock(t *testing.T, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		query(t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`, &waiting)
		return waiting == 1
	}, 10*time.Second, 10*time.Millisecond)
}

func TestDeleteApp(t *testing.T) {
	t.Parallel()
	t.Run("leaves nothing of a batch that was under way", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, _ := open(t, url)
		app := newApp(t, s, "shop")
		// A batch as the store writes it, stopped before its commit.
		c, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer c.Close(t.Context()) //nolint:errcheck // of a test
		tx, err := c.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `UPDATE app_head SET seq = seq + 1 WHERE app_uid = $1`, app)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `INSERT INTO messages (app_uid, seq, part, topic, payload, properties, qos, retain, publisher, arrived_at)
			VALUES ($1, 1, 0, 'late', 'p', '', 1, true, '', 0)`, app)
		require.NoError(t, err)
		deleted := make(chan error, 1)
		go func() { deleted <- s.DeleteApp(t.Context(), int64(app), auth.Audit{At: time.Now()}) }()
		waitsForLock(t, url)
		require.NoError(t, tx.Commit(t.Context()))
		require.NoError(t, <-deleted)
		var left int
		query(t, url, `SELECT count(*) FROM messages`, &left)
		require.Zero(t, left)
	})
	t.Run("leaves no row behind", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, pgtest.URL(t))
		storetest.Delete(t, s, s.Read)
	})
	t.Run("leaves no filter that is made meanwhile", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, _ := open(t, url)
		app := newApp(t, s, "shop")
		// A deletion, stopped before its commit.
		c, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer c.Close(t.Context()) //nolint:errcheck // of a test
		tx, err := c.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `DELETE FROM app_head WHERE app_uid = $1`, app)
		require.NoError(t, err)
		made := make(chan error, 1)
		go func() {
			_, err := s.FilterIDs(t.Context(), app, []string{"f"})
			made <- err
		}()
		waitsForLock(t, url)
		require.NoError(t, tx.Commit(t.Context()))
		require.ErrorIs(t, <-made, broker.ErrNoSuchApp)
		var left int
		query(t, url, `SELECT count(*) FROM filters`, &left)
		require.Zero(t, left)
	})
	t.Run("waits for a filter that is being made, commits do not", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, _ := open(t, url)
		app := newApp(t, s, "shop")
		// A filter as the store makes it, stopped before its commit.
		c, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer c.Close(t.Context()) //nolint:errcheck // of a test
		tx, err := c.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT 1 FROM app_head WHERE app_uid = $1 FOR KEY SHARE`, app)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `INSERT INTO filters (app_uid, filter) VALUES ($1, 'f')`, app)
		require.NoError(t, err)
		_, err = s.Commit(t.Context(), batch(app, "t"))
		require.NoError(t, err)
		deleted := make(chan error, 1)
		go func() { deleted <- s.DeleteApp(t.Context(), int64(app), auth.Audit{At: time.Now()}) }()
		waitsForLock(t, url)
		require.NoError(t, tx.Commit(t.Context()))
		require.NoError(t, <-deleted)
		var left int
		query(t, url, `SELECT count(*) FROM filters`, &left)
		require.Zero(t, left)
	})
}

func TestCommitted(t *testing.T) {
	t.Parallel()
	t.Run("what the connection broke in is known for certain once it is asked", func(t *testing.T) {
		t.Parallel()
		url := pgtest.URL(t)
		s, _ := open(t, url)
		app := newApp(t, s, "shop")
		// The commit waits at a deferred trigger, which is run by COMMIT itself, for a lock that the test holds.
		for _, text := range []string{
			`CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$`,
			`CREATE CONSTRAINT TRIGGER held AFTER INSERT ON messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held()`,
		} {
			query(t, url, text)
		}
		holder, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		defer holder.Close(t.Context()) //nolint:errcheck // of a test
		_, err = holder.Exec(t.Context(), `SELECT pg_advisory_lock(7)`)
		require.NoError(t, err)
		b := batch(app, "in/doubt")
		failed := make(chan error, 1)
		go func() {
			_, err := s.Commit(t.Context(), b)
			failed <- err
		}()
		var pid int
		require.Eventually(t, func() bool {
			var waiting int
			query(t, url, `SELECT count(*), coalesce(max(pid), 0) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted`, &waiting, &pid)
			return waiting == 1
		}, 10*time.Second, 10*time.Millisecond)
		_, err = holder.Exec(t.Context(), `SELECT pg_terminate_backend($1, 10000)`, pid)
		require.NoError(t, err)
		err = <-failed
		require.ErrorIs(t, err, broker.ErrOutcomeUnknown)
		require.NotErrorIs(t, err, broker.ErrStoreUnavailable, "it must not be tried again unasked")
		var there bool
		require.Eventually(t, func() bool {
			there, err = s.Committed(t.Context(), b.ID)
			return err == nil
		}, 10*time.Second, 10*time.Millisecond)
		require.False(t, there)
		_, err = holder.Exec(t.Context(), `SELECT pg_advisory_unlock(7)`)
		require.NoError(t, err)
		seqs, err := s.Commit(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, []uint64{1}, seqs)
		there, err = s.Committed(t.Context(), b.ID)
		require.NoError(t, err)
		require.True(t, there)
	})
}

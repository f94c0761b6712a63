package sqlite_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlite"
)

func batch(app broker.AppUID, topic string) broker.Batch {
	b := broker.Batch{Writes: []broker.Write{{App: app, Parts: []broker.Part{{
		Message: &message.Message{Topic: topic, Payload: make([]byte, 2_000), Retain: true, QoS: 1, Arrived: time.Now()},
	}}}}}
	rand.Read(b.ID[:])
	return b
}

// filled makes a database with a thousand messages and returns where its files are. After a crash, some of them are in the
// log alone.
func filled(t *testing.T, crashed bool) (path string, app broker.AppUID) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "embercast.db")
	for round := range 2 {
		s, err := sqlite.Open(t.Context(), config(path))
		require.NoError(t, err)
		if round == 0 {
			now := time.Now()
			uid, err := s.CreateApp(t.Context(), auth.AppRow{ID: "a", Name: "a", CreatedAt: now, UpdatedAt: now},
				auth.KeyRow{ID: "k", Kind: auth.KindSigning, CreatedAt: now}, auth.Audit{At: now, AppID: "a"})
			require.NoError(t, err)
			app = broker.AppUID(uid)
		}
		for i := range 100 {
			_, err := s.Commit(t.Context(), batch(app, fmt.Sprint(round, "/", i)))
			require.NoError(t, err)
		}
		if round == 1 && crashed {
			elsewhere := filepath.Join(t.TempDir(), "embercast.db")
			for _, end := range []string{"", "-wal"} {
				b, err := os.ReadFile(path + end)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(elsewhere+end, b, 0o600))
			}
			path = elsewhere
		}
		require.NoError(t, s.Close())
	}
	return path, app
}

func readAll(t *testing.T, s *sqlite.Store, app broker.AppUID) (n int, err error) {
	t.Helper()
	err = s.Retained(t.Context(), app, func(*message.Message) error { n++; return nil })
	return n, err //nolint:wrapcheck // of a test
}

func TestDamage(t *testing.T) {
	t.Parallel()
	garbage := func(at, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			rand.Read(b[at : at+n])
			return b
		}
	}
	for name, damage := range map[string]func([]byte) []byte{
		"cut short":                   func(b []byte) []byte { return b[:len(b)/2] },
		"cut to nothing":              func([]byte) []byte { return nil },
		"cut within the first page":   func(b []byte) []byte { return b[:1000] },
		"garbage instead of a header": garbage(0, 100),
		"tables of nothing": func(b []byte) []byte {
			clear(b[4096 : 12*4096])
			return b
		},
		"garbage among the messages": func(b []byte) []byte { return garbage(len(b)-40*4096, 20*4096)(b) },
		"garbage everywhere":         func(b []byte) []byte { return garbage(4096, len(b)-4096)(b) },
		"missing, with its log there": func([]byte) []byte {
			return nil
		},
	} {
		for _, crashed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after a crash: %v", name, crashed), func(t *testing.T) {
				t.Parallel()
				path, app := filled(t, crashed)
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				b = damage(b)
				require.NoError(t, os.WriteFile(path, b, 0o600))
				missing := name == "missing, with its log there"
				if missing {
					require.NoError(t, os.Remove(path))
					if !crashed {
						return // that is a new server
					}
				}
				log, err := os.ReadFile(path + "-wal")
				if !crashed {
					require.ErrorIs(t, err, os.ErrNotExist)
				}

				s, err := sqlite.Open(t.Context(), config(path))
				if err == nil {
					var n int
					n, err = readAll(t, s, app)
					if err == nil && crashed {
						require.Equal(t, 200, n, "what the log had made good again")
						require.NoError(t, s.Close())
						return
					}
					require.NoError(t, s.Close())
				} else {
					require.ErrorContains(t, err, path)
					require.ErrorContains(t, err, "nothing was changed")
				}
				require.ErrorIs(t, err, store.ErrDamaged)
				for end, before := range map[string][]byte{"": b, "-wal": log} {
					after, err := os.ReadFile(path + end)
					if before == nil && (missing || end != "") {
						require.True(t, os.IsNotExist(err) || len(after) == 0, "%s%s", path, end)
						continue
					}
					require.NoError(t, err)
					require.True(t, bytes.Equal(before, after), "%s%s was changed", path, end)
				}
			})
		}
	}
	t.Run("met by a commit, it refuses for good", func(t *testing.T) {
		t.Parallel()
		path, app := filled(t, false)
		s, err := sqlite.Open(t.Context(), config(path))
		require.NoError(t, err)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		b = garbage(4096, len(b)-4096)(b)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		for range 2 {
			_, err = s.Commit(t.Context(), batch(app, "t"))
			require.ErrorIs(t, err, broker.ErrStoreRefused)
			require.ErrorIs(t, err, store.ErrDamaged)
		}
		_, err = readAll(t, s, app)
		require.ErrorIs(t, err, broker.ErrStoreRefused)
		require.NoError(t, s.Close())
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, after))
	})
}

// TestANewDatabaseIsWholeOrNotThere: what a start has left that was killed while it made one is no database.
func TestANewDatabaseIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "embercast.db")
	for _, leftOver := range []string{".new", ".new-wal", ".new-journal"} {
		require.NoError(t, os.WriteFile(path+leftOver, []byte("half of it"), 0o600))
	}
	s, err := sqlite.Open(t.Context(), config(path))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	left, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	require.Equal(t, []string{path, path + ".lock"}, left)
}

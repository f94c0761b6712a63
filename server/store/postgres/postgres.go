// Package postgres keeps everything in a Postgres database. One connection holds the advisory lock of the server and
// commits the batches. The lock keeps a second server out; what keeps one that lost it unawares from writing is its
// name in the table writer, which every transaction that writes looks at (ADR 4).
package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/embercast/embercast/auth"
	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/server/store"
	"github.com/embercast/embercast/server/store/sqlstore"
)

// Config says where the database is.
type Config struct {
	URL    string
	Logger *slog.Logger
	// Lost is called once when the store must never write again (store.ErrTakenOver); nil is allowed.
	Lost func(error)
}

// Store is the Postgres store. Safe for concurrent use; Commit by one goroutine at a time.
type Store struct {
	*sqlstore.Store
	cfg      Config
	instance string // this run's name in the table writer
	pool     *pgxpool.Pool
	db       *sql.DB
	locked   atomic.Bool
	lost     atomic.Bool // for good

	turn   chan struct{}      // holds one token: whoever has it may use writer, and waits for it no longer than its context
	writer *pgx.Conn          // guarded by turn
	stop   context.CancelFunc // ends watch
	ended  sync.WaitGroup
}

// lockID names the server's advisory lock in a database ("ember").
const lockID = 0x656d626572

const (
	connectTimeout = 5 * time.Second
	watchEvery     = 2 * time.Second
	// controlTimeout bounds a transaction of the control plane: a network that swallows everything must not hold a REST
	// call for ever (CONTRACT section 4 holds for 10 s).
	controlTimeout = 10 * time.Second
)

// Open connects, locks and migrates the database. store.ErrLocked when another server holds it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errors.New("database URL cannot be read; it looks like postgres://user:password@host:5432/name")
	}
	pc.ConnConfig.ConnectTimeout = connectTimeout
	pc.MaxConns = max(pc.MaxConns, 8)
	pc.AfterConnect = prepareReader
	s := &Store{cfg: cfg, instance: rand.Text(), turn: make(chan struct{}, 1), stop: func() {}}
	s.turn <- struct{}{}
	if s.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, fmt.Errorf("open database: %w", redact(err))
	}
	s.db = stdlib.OpenDBFromPool(s.pool)
	s.Store = &sqlstore.Store{
		Read: s.db, Write: s.db, Dollar: true, Classify: classify, MayWrite: s.mayWrite, Fence: s.fence, Timeout: controlTimeout,
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	watching, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.ended.Go(func() { s.watch(watching) })
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	conn, err := s.lock(ctx)
	if err != nil {
		return err
	}
	s.writer = conn
	if err := s.warnUnsafe(ctx, conn); err != nil {
		return err
	}
	if err := sqlstore.Migrate(ctx, s.db, goose.DialectPostgres, "postgres"); err != nil {
		return fmt.Errorf("migrate: %w", redact(err))
	}
	// On the connection that holds the lock, and before anything is read: it waits for whatever a former holder still
	// has under way, and nothing of theirs is committed afterwards.
	if _, err := conn.Exec(ctx, `INSERT INTO writer (node, instance) VALUES ($1, $2)
		ON CONFLICT (node) DO UPDATE SET instance = excluded.instance`, sqlstore.Node, s.instance); err != nil {
		return fmt.Errorf("take over: %w", classify(err))
	}
	s.locked.Store(true)
	return nil
}

// lock opens a connection and takes the lock on it.
func (s *Store) lock(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	cc := s.pool.Config().ConnConfig
	cc.RuntimeParams["application_name"] = s.applicationName()
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", redact(err))
	}
	err = prepareWriter(ctx, conn)
	var got bool
	if err == nil {
		err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lockID)).Scan(&got)
	}
	if err == nil && !got {
		// A connection of our own that the network has swallowed may live on at the server, and hold the lock.
		_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
			WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.objid = $2 AND a.datname = current_database() AND a.application_name = $3`,
			uint32(lockID>>32), uint32(lockID&0xFFFFFFFF), s.applicationName())
		if err == nil {
			err = fmt.Errorf("%w: Postgres database %s", store.ErrLocked, conn.Config().Database)
		}
	}
	if err == nil {
		return conn, nil
	}
	_ = conn.Close(ctx) //nolint:errcheck // the first error counts
	if errors.Is(err, store.ErrLocked) {
		return nil, err
	}
	return nil, fmt.Errorf("connect to Postgres: %w", classify(err))
}

// applicationName tells in pg_stat_activity whose connection holds the lock.
func (s *Store) applicationName() string { return "embercast " + s.instance }

const (
	// readPlans have the planner read in the order of an index where one has it. What is read so has a LIMIT, but before
	// statistics tell how long a backlog is, the planner takes it for short, and would read all of it and sort that (4 s
	// for ten filters of 100,000 rows, instead of 40 ms). The compiler of plans goes by the same guesses.
	readPlans = `SELECT set_config('enable_sort', 'off', false), set_config('jit', 'off', false)`
	// writePlans have the planner go by keys alone, as all does that a batch writes. Plans are kept, and one that was made
	// for a table that was empty reads all of it when it no longer is.
	writePlans = `SELECT set_config(name, 'off', false)
		FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) AS name`
)

// prepareReader makes a connection of the pool fit for us.
func prepareReader(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, readPlans); err != nil {
		return err //nolint:wrapcheck // wrapped by the caller
	}
	return prepare(ctx, conn)
}

// prepareWriter makes the connection that commits fit for us.
func prepareWriter(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, writePlans); err != nil {
		return err //nolint:wrapcheck // wrapped by the caller
	}
	return prepare(ctx, conn)
}

// prepare makes a connection that is new fit for us.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	// A commit is on the disk when it is told (CONTRACT section 7), whatever the role, the database or the URL prefer. What
	// they may prefer beside off is at least that.
	if _, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`); err != nil {
		return err //nolint:wrapcheck // wrapped by the caller
	}
	return watchNetwork(ctx, conn)
}

// warnUnsafe tells of settings of the whole server that make commits unsafe and are not ours to change.
func (s *Store) warnUnsafe(ctx context.Context, conn *pgx.Conn) error {
	for _, name := range []string{"fsync", "full_page_writes"} {
		var value string
		if err := conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return fmt.Errorf("settings: %w", classify(err))
		}
		if value == "off" {
			s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "Postgres is set not to survive a loss of power: what was acknowledged may be lost, or the database; set it to on",
				slog.String("setting", name))
		}
	}
	return nil
}

// watchNetwork has Postgres notice within half a minute that we are gone, so that the lock, and the rows of an open
// transaction, come free: its own defaults take two hours. What a version or a platform does not have is left out.
func watchNetwork(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config(s.name, v.value, false) FROM pg_settings AS s JOIN (VALUES
		('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '20000'),
		('client_connection_check_interval', '10000'), ('idle_in_transaction_session_timeout', '20000')) AS v (name, value) ON v.name = s.name`)
	if _, refused := errors.AsType[*pgconn.PgError](err); refused {
		return nil
	}
	return err //nolint:wrapcheck // wrapped by the caller
}

// connectWriter takes the lock again after it was lost. Whether this run may go on stands in the database: when another
// has written meanwhile, our memory is stale and nothing is ever written again. The caller has the turn.
func (s *Store) connectWriter(ctx context.Context) error {
	if s.lost.Load() {
		return store.ErrTakenOver
	}
	conn, err := s.lock(ctx)
	if err != nil {
		return err
	}
	var instance string
	err = conn.QueryRow(ctx, `SELECT instance FROM writer WHERE node = $1`, sqlstore.Node).Scan(&instance)
	switch {
	case err == nil && instance == s.instance:
		s.writer = conn
		s.locked.Store(true)
		return nil
	case err == nil || errors.Is(err, pgx.ErrNoRows) || isUndefinedTable(err):
		// Another's name, or a database that was put in the place of ours.
		err = s.takenOver()
	default:
		err = fmt.Errorf("connect to Postgres: %w", classify(err))
	}
	closeNow(conn)
	return err
}

func isUndefinedTable(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "42P01"
}

// takenOver ends all writing, for good.
func (s *Store) takenOver() error {
	s.locked.Store(false)
	if !s.lost.Swap(true) && s.cfg.Lost != nil {
		s.cfg.Lost(store.ErrTakenOver)
	}
	return store.ErrTakenOver
}

// fence lets a transaction go on only while this run is the one that may write, and holds off whoever takes over until
// it has ended.
func (s *Store) fence(ctx context.Context, tx *sql.Tx) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM writer WHERE node = $1 AND instance = $2 FOR SHARE`, sqlstore.Node, s.instance).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, s.takenOver())
	}
	return err //nolint:wrapcheck // wrapped by the caller
}

// takeTurn waits for the writing connection; leaveTurn must follow where it returns nil.
func (s *Store) takeTurn(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, ctx.Err())
	}
}

func (s *Store) leaveTurn() { s.turn <- struct{}{} }

// watch notices a lost connection while nothing is committed, and takes the lock again as soon as it can be had.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case <-s.turn:
		default:
			continue // a commit is under way, and will notice
		}
		s.look(ctx)
		s.leaveTurn()
	}
}

// look asks whether the connection is still there, and else takes the lock again. The caller has the turn.
func (s *Store) look(ctx context.Context) {
	ping, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	if s.writer != nil && s.writer.Ping(ping) != nil {
		s.dropWriter()
	}
	if s.writer != nil || s.lost.Load() || ctx.Err() != nil {
		return
	}
	again, done := context.WithTimeout(ctx, connectTimeout)
	defer done()
	err := s.connectWriter(again)
	if errors.Is(err, store.ErrTakenOver) {
		return // Config.Lost has told
	}
	if err != nil {
		s.cfg.Logger.LogAttrs(again, slog.LevelError, "database is away: nothing is written until it is back",
			slog.String("error", err.Error()))
		return
	}
	s.cfg.Logger.LogAttrs(again, slog.LevelInfo, "database is back")
}

// dropWriter lets go of a broken connection. The caller has the turn.
func (s *Store) dropWriter() {
	s.locked.Store(false)
	if s.writer != nil {
		closeNow(s.writer)
		s.writer = nil
	}
}

// closeNow closes a connection without waiting for a network that may be gone.
func closeNow(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) //nolint:errcheck // it is given up
}

func (s *Store) mayWrite() error {
	if s.lost.Load() {
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, store.ErrTakenOver)
	}
	if !s.locked.Load() {
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable)
	}
	return nil
}

// Close gives up the lock and closes all connections.
func (s *Store) Close() error {
	s.stop()
	s.ended.Wait()
	<-s.turn
	s.dropWriter()
	s.leaveTurn()
	err := s.db.Close()
	s.pool.Close()
	return err //nolint:wrapcheck // closing has no more to say
}

// Ping reports whether the database answers and the lock is held.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.mayWrite(); err != nil {
		return err
	}
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("postgres: %w", classify(err))
	}
	return nil
}

// Info returns the kind and the version of the database.
func (s *Store) Info(ctx context.Context) (kind, version string) {
	if err := s.pool.QueryRow(ctx, `SHOW server_version`).Scan(&version); err != nil {
		return "postgres", ""
	}
	return "postgres", version
}

// redact keeps connection strings, which hold passwords, out of errors.
func redact(err error) error {
	if c, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return fmt.Errorf("%s:%d does not take the connection (%s)", c.Config.Host, c.Config.Port, reason(c.Unwrap()))
	}
	return err
}

func reason(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Message
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// classify makes of Postgres' errors those of broker and auth.
func classify(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "23505":
			return errors.Join(auth.ErrTaken, err)
		case pg.Code == "53100", pg.Code == "25006", strings.HasPrefix(pg.Code, "58"): // a full disk, a standby, a disk that fails
			return errors.Join(broker.ErrStoreRefused, err)
		case pg.Code == "XX001", pg.Code == "XX002":
			return errors.Join(broker.ErrStoreRefused, store.ErrDamaged, err)
		case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57"), strings.HasPrefix(pg.Code, "53"), strings.HasPrefix(pg.Code, "40"),
			pg.Code == "25P03": // idle in a transaction: we were cut off
			return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, err)
		}
		return err
	}
	if fromNetwork(err) {
		return errors.Join(broker.ErrStoreUnavailable, auth.ErrUnavailable, redact(err))
	}
	return err
}

// fromNetwork reports whether an error tells of the way to the database. Others, such as an argument that cannot be
// encoded, are mistakes of ours and do not go away by waiting.
func fromNetwork(err error) bool {
	var network net.Error
	for _, lost := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET, driver.ErrBadConn, sql.ErrConnDone,
		context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, lost) {
			return true
		}
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return connecting || errors.As(err, &network) || pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

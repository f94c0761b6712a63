package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// Config is what a Broker is made of. Store, Authenticator, Observer and Logger must be set.
type Config struct {
	Store         Store
	Authenticator Authenticator
	Observer      Observer
	Logger        *slog.Logger
	// Version is what $SYS/broker/version says.
	Version string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// CommitQueueMax bounds the writes of one app that wait for a commit; publishers wait when it is full.
	// 0 means 16,384 (chosen: a second of work at the rate the slower store commits).
	CommitQueueMax int
	// CommitQueueBytesMax bounds their bytes likewise; the write that crosses it still gets in. 0 means 64 MiB (chosen:
	// eight full batches, and as much as one session may have queued; by the count alone, writes of 1 MiB could be 16 GiB).
	CommitQueueBytesMax int
	// StoreWait is how long what needs a commit is held while the store is away; 0 means 10 s (CONTRACT section 4).
	StoreWait time.Duration
	// WillGrace is how long after a start the wills of before wait at least for their clients to come back; 0 means 30 s
	// (chosen: most clients reconnect within that).
	WillGrace time.Duration
}

// Broker routes application messages within each app. All methods are safe for concurrent use.
type Broker struct {
	cfg       Config
	log       *slog.Logger
	committer *committer
	started   time.Time
	draining  atomic.Bool
	lastID    atomic.Uint64 // numbers connections, for logs

	mu   sync.RWMutex // guards apps
	apps map[AppUID]*app

	readers readers
	stopped chan struct{} // closed when Run ends
}

// readers are the goroutines that read the log for sessions that are behind.
type readers struct {
	mu     sync.Mutex // guards closed; none is started once it is set
	closed bool
	all    sync.WaitGroup
}

// New returns a Broker without apps; Run makes it work.
func New(cfg Config) *Broker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CommitQueueMax == 0 {
		cfg.CommitQueueMax = 16_384
	}
	if cfg.CommitQueueBytesMax == 0 {
		cfg.CommitQueueBytesMax = commitQueueBytesMax
	}
	if cfg.StoreWait == 0 {
		cfg.StoreWait = 10 * time.Second
	}
	if cfg.WillGrace == 0 {
		cfg.WillGrace = 30 * time.Second
	}
	b := &Broker{stopped: make(chan struct{}), cfg: cfg, log: cfg.Logger, apps: map[AppUID]*app{}}
	b.started = b.now()
	b.committer = newCommitter(b)
	return b
}

// Run commits, routes what was committed, and keeps house, until ctx ends and what was queued is settled.
func (b *Broker) Run(ctx context.Context) {
	var g sync.WaitGroup
	g.Go(func() { b.committer.run(ctx) })
	g.Go(b.committer.apply)
	g.Go(func() { b.keepHouse(ctx) })
	g.Go(func() { b.keepLog(ctx) })
	g.Go(func() { b.keepSys(ctx) })
	g.Wait()
	b.readers.mu.Lock()
	b.readers.closed = true
	b.readers.mu.Unlock()
	close(b.stopped)
	for _, a := range b.openApps() {
		for _, c := range a.connected() {
			c.out.Disconnect(packet.ServerShuttingDown, "server has stopped")
			b.End(c, Ending{Reason: packet.ServerShuttingDown, Cause: "server has stopped"})
		}
		a.each((*persistentSession).stop)
	}
	b.readers.all.Wait()
}

// AppConfig is what the broker knows of an app beside what its grants say.
type AppConfig struct {
	UID     AppUID
	ID      string
	History time.Duration // how long the log keeps what is no longer needed (history_seconds)
	Limits  Limits        // for the sessions of clients that are away
}

// OpenApp reads the app's retained messages from the log and lets its clients in. Opening an open app only changes
// its configuration.
func (b *Broker) OpenApp(ctx context.Context, cfg AppConfig) error {
	if a := b.app(cfg.UID); a != nil {
		a.configure(cfg)
		return nil
	}
	a := newApp(cfg)
	head, epoch, err := b.cfg.Store.Head(ctx, cfg.UID)
	if err != nil {
		return fmt.Errorf("open app %s: %w", cfg.ID, err)
	}
	a.epoch = epoch
	a.head.Store(head)
	err = b.cfg.Store.Retained(ctx, cfg.UID, func(m *message.Message) error {
		a.setRetained(m)
		return nil
	})
	if err != nil {
		return fmt.Errorf("open app %s: %w", cfg.ID, err)
	}
	if err := b.restoreSessions(ctx, a); err != nil {
		return fmt.Errorf("open app %s: %w", cfg.ID, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, open := b.apps[cfg.UID]; !open {
		b.apps[cfg.UID] = a
	}
	return nil
}

// progressEach is how often a start that takes long says how far it has come (chosen).
const progressEach = 2 * time.Second

// restoreSessions reads the app's persistent sessions. Wills wait for their delay, and for the clients to come back.
func (b *Broker) restoreSessions(ctx context.Context, a *app) error {
	// Groups are opened when it is known where their logs begin.
	filters, err := b.cfg.Store.Filters(ctx, a.uid)
	if err != nil {
		return err //nolint:wrapcheck // the caller says what and where
	}
	if err := a.durable.load(filters); err != nil {
		return err
	}
	now := b.now()
	told := now
	err = b.cfg.Store.Sessions(ctx, a.uid, func(st StoredSession) error {
		p, err := restoreSession(a, st, now)
		if err != nil {
			return err
		}
		for _, sub := range st.Subscriptions {
			if sub.FilterID != 0 && a.durable.use(sub.FilterID) == nil {
				return fmt.Errorf("stored session of client %q: its filter %q is not there", p.clientID, sub.Filter)
			}
		}
		a.addSessionLocked(p) // nobody else knows the app yet
		if now := b.now(); now.Sub(told) >= progressEach {
			told = now
			b.log.LogAttrs(ctx, slog.LevelInfo, "restoring sessions", slog.String("app", a.id), slog.Int("sessions", len(a.all)))
		}
		return nil
	})
	if err != nil {
		return err //nolint:wrapcheck // the caller says what and where
	}
	for _, f := range a.durable.used() {
		f.last.CompareAndSwap(0, max(1, a.head.Load())) // what is pending is of no later write
	}
	b.restoreGroups(a)
	for _, p := range a.sessions {
		if p.will != nil {
			p.willRests = now.Add(b.cfg.WillGrace)
			b.armWill(p, max(p.endedAt.Add(p.will.will.Delay).Sub(now), b.cfg.WillGrace))
		}
	}
	return nil
}

// restoreGroups opens the groups of the stored sessions. All that is pending for one waits for it, whoever of its members
// has been there since when; what is under way to a member is nobody else's.
func (b *Broker) restoreGroups(a *app) {
	used := a.durable.used()
	a.durable.mu.Lock()
	for _, f := range used {
		b.openGroup(a, f, message.Position{})
	}
	a.durable.mu.Unlock()
	for _, p := range a.sessions {
		a.restoreAssigned(p)
	}
	a.durable.opened = func(f *durableFilter) { b.openGroup(a, f, endOfSeq(a.head.Load())) }
}

// CloseApp disconnects the app's clients, sends none of their wills, and forgets it. Its rows are the caller's to
// delete, before or after.
func (b *Broker) CloseApp(uid AppUID) {
	b.mu.Lock()
	a := b.apps[uid]
	delete(b.apps, uid)
	b.mu.Unlock()
	if a == nil {
		return
	}
	a.closed.Store(true)
	for _, c := range a.connected() {
		b.expel(c, expulsion{err: ErrNotAllowed, cause: causeAppDeleted, withoutWill: true})
	}
	a.each(func(p *persistentSession) { p.kill() })
	a.durable.close()
}

// app returns the open app, or nil.
func (b *Broker) app(uid AppUID) *app {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.apps[uid]
}

func (b *Broker) openApps() []*app {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]*app, 0, len(b.apps))
	for _, a := range b.apps {
		all = append(all, a)
	}
	return all
}

// now is as precise as the store.
func (b *Broker) now() time.Time { return b.cfg.Now().UTC().Truncate(time.Microsecond) }

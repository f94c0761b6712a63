package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/message"
)

// Config is what a Broker is made of. Store, Authenticator, Observer and Logger must be set.
type Config struct {
	Store         Store
	Authenticator Authenticator
	Observer      Observer
	Logger        *slog.Logger
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
}

// Broker routes application messages within each app. All methods are safe for concurrent use.
type Broker struct {
	cfg       Config
	log       *slog.Logger
	committer *committer
	draining  atomic.Bool
	lastID    atomic.Uint64 // numbers connections, for logs

	mu   sync.RWMutex // guards apps
	apps map[AppUID]*app
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
	b := &Broker{cfg: cfg, log: cfg.Logger, apps: map[AppUID]*app{}}
	b.committer = newCommitter(b)
	return b
}

// Run commits, routes what was committed, and keeps house, until ctx ends and what was queued is settled.
func (b *Broker) Run(ctx context.Context) {
	var g sync.WaitGroup
	g.Go(func() { b.committer.run(ctx) })
	g.Go(b.committer.apply)
	g.Go(func() { b.keepHouse(ctx) })
	g.Wait()
}

// AppConfig is what the broker knows of an app beside what its grants say.
type AppConfig struct {
	UID     AppUID
	ID      string
	History time.Duration // how long the log keeps what is no longer needed (history_seconds)
}

// OpenApp reads the app's retained messages from the log and lets its clients in. Opening an open app only changes
// its configuration.
func (b *Broker) OpenApp(ctx context.Context, cfg AppConfig) error {
	if a := b.app(cfg.UID); a != nil {
		a.history.Store(int64(cfg.History))
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
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, open := b.apps[cfg.UID]; !open {
		b.apps[cfg.UID] = a
	}
	return nil
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

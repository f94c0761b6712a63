package broker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/topic"
)

// pageEntries is how many messages of the log are read at a time for a session that is behind (chosen: a read costs
// well below a millisecond, and what is read waits in memory).
const pageEntries = 256

// pageBytes is what a page is meant to hold at most, by the size of the messages of the page before; pageFirst is how many
// messages the first one has (chosen: messages may be of a MiB each, and many sessions may be behind).
const (
	pageBytes = 4 << 20
	pageFirst = 16
)

// readerPause is how long a reader waits before it tries again to read from a store that is away.
const readerPause = 250 * time.Millisecond

// reader brings a persistent session that is behind to the head of the log: page by page, then, under the commit order,
// what is routed from then on joins behind what is still to be read.
type reader struct {
	b        *Broker
	c        *Client
	read     message.Position
	joined   bool
	joinedAt message.Position
	limit    int // messages of the next page
}

// startReader starts the reader of a client; it ends with the connection, or at the head.
func (b *Broker) startReader(c *Client) {
	b.startTask(func() {
		r := &reader{b: b, c: c, read: c.out.Taken(), limit: pageFirst}
		r.run()
	})
}

// startTask runs a goroutine that Run waits for.
func (b *Broker) startTask(do func()) {
	b.readers.mu.Lock()
	defer b.readers.mu.Unlock()
	if !b.readers.closed {
		b.readers.all.Go(do)
	}
}

// Save has the durable session of a client committed as it is when the next batch is made; Outbound.Saved tells.
func (b *Broker) Save(c *Client) {
	b.committer.saveSession(c.session)
	c.session.stir()
}

// Behind has the log read for a client whose connection could not keep what was routed to it.
func (b *Broker) Behind(c *Client) { b.startReader(c) }

func (r *reader) run() {
	for !r.c.ended.Load() {
		before, narrowed := r.read, r.c.out.Narrowed()
		page, err := r.page()
		if err != nil {
			r.b.log.LogAttrs(context.Background(), slog.LevelWarn, "reading the log for a session is put off",
				slog.String("app", r.c.app.id), slog.String("client_id", r.c.id), slog.String("error", err.Error()))
			timer := time.NewTimer(readerPause)
			<-timer.C
			continue
		}
		switch r.c.out.Feed(page.deliveries, r.read, narrowed) {
		case Over:
			return
		case Stale:
			r.read = before
			continue
		case Fed:
		}
		switch {
		case page.full:
		case !r.joined:
			r.join()
		case r.c.out.Live():
			return
		default:
			r.joined = false
		}
	}
}

// join has the connection keep what is routed from here on.
func (r *reader) join() {
	a := r.c.app
	a.order.Lock()
	defer a.order.Unlock()
	r.c.out.Join()
	r.joined, r.joinedAt = true, endOfSeq(a.head.Load())
}

// page is what was read of the log at once.
type page struct {
	deliveries []Delivery
	full       bool // there may be more
}

// page reads on behind what has been read. What is routed after the connection has joined is left out; before, what is
// committed and has still to be routed, for the connection may have joined by then. Nor is it read past the beginning of
// a subscription that is about to begin.
func (r *reader) page() (page, error) {
	upTo := r.joinedAt
	if !r.joined {
		upTo = endOfSeq(r.c.app.head.Load())
	}
	r.read = after(r.read, r.c.session.state.Cursor()) // it moves on when the backlog is cut
	subs, from := r.c.logged(r.read)
	if from = r.c.app.durable.waiting(from); len(from) == 0 {
		return page{}, nil
	}
	ctx, cancel := r.b.reading()
	defer cancel()
	entries, err := r.b.cfg.Store.Page(ctx, r.c.app.uid, from, r.limit)
	if err != nil {
		return page{}, err //nolint:wrapcheck // only logged
	}
	p := page{full: len(entries) == r.limit}
	r.limit = nextLimit(r.limit, entries)
	for _, e := range entries {
		if e.Message.Position.Compare(upTo) > 0 {
			p.full = false
			break
		}
		r.read = e.Message.Position
		if d, wanted := subs.delivery(e); wanted {
			p.deliveries = append(p.deliveries, d)
		}
	}
	return p, nil
}

// nextLimit is how many messages the page behind one may have.
func nextLimit(limit int, entries []PageEntry) int {
	size := int64(0)
	for i := range entries {
		size += retainedSize(entries[i].Message)
	}
	if len(entries) == 0 {
		return limit
	}
	fit := pageBytes / max(1, size/int64(len(entries)))
	return int(max(1, min(fit, int64(4*limit), pageEntries)))
}

// reading returns the context of one read for a client: it ends with the broker, whatever the store does.
func (b *Broker) reading() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.StoreWait)
	go func() {
		select {
		case <-b.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// logged are a client's subscriptions as the log concerns them.
type logged struct {
	kept map[int64]*subscriber // by the durable filter that the log keeps messages for
	live []*subscriber         // at QoS 0, with an identifier: they bring no message, but are named with one that they match
}

// logged returns those, and where reading begins for each durable filter.
func (c *Client) logged(read message.Position) (l logged, from []FilterFrom) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		switch {
		case s.sub.Suspended || s.inner != s.sub.Filter:
		case s.sub.QoS == 0:
			if s.sub.ID != 0 {
				l.live = append(l.live, s)
			}
		case s.sub.FilterID != 0:
			if l.kept == nil {
				l.kept = map[int64]*subscriber{}
			}
			l.kept[s.sub.FilterID] = s
			from = append(from, FilterFrom{ID: s.sub.FilterID, After: after(read, s.sub.Begins)})
		}
	}
	return l, from
}

// delivery merges the subscriptions that an entry matched as routeOverlapping does. All that match are named
// [MQTT5-3.3.4-4], but those at QoS 0 say nothing of how it comes.
func (l *logged) delivery(e PageEntry) (d Delivery, wanted bool) {
	takes := func(s *subscriber) bool {
		return s != nil && e.Message.Position.Compare(s.sub.Begins) > 0 && s.takes(e.Message)
	}
	for _, id := range e.Filters {
		s := l.kept[id]
		if !takes(s) {
			continue
		}
		one := deliveryFor(s, e.Message)
		if !wanted {
			d, wanted = one, true
			continue
		}
		d.QoS = max(d.QoS, one.QoS)
		d.Retain = d.Retain || one.Retain
		d.SubscriptionIDs = joinIDs(d.SubscriptionIDs, one.SubscriptionIDs)
	}
	if wanted {
		for _, s := range l.live {
			if topic.Match(s.inner, e.Message.Topic) && takes(s) {
				d.SubscriptionIDs = joinIDs(d.SubscriptionIDs, s.ids)
			}
		}
	}
	return d, wanted
}

// Narrow has the connection drop what of the log waits for none of the client's subscriptions as they are now. No
// subscription begins meanwhile.
func (c *Client) Narrow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var tree topic.Tree[*subscriber]
	var found []*subscriber
	once := sync.OnceFunc(func() {
		for _, s := range c.subs {
			if !s.sub.Suspended && s.inner == s.sub.Filter {
				tree.Add(s.inner, s)
			}
		}
	})
	c.out.Narrow(func(m *message.Message) bool {
		once() // most have nothing that waits
		found = tree.Match(m.Topic, found[:0])
		return slices.ContainsFunc(found, func(s *subscriber) bool { return s.takes(m) })
	})
}

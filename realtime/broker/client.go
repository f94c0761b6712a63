package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/session"
)

// Outbound is a connection as the broker sees it. Safe for concurrent use; no method waits for the network.
type Outbound interface {
	// Deliver queues a message for the client. It reports how that went, and whether the connection is newly marked:
	// the caller then owes it a Flush.
	Deliver(d Delivery) (v Verdict, marked bool)
	// Committed tells that the write with this token was committed (nil) or not; marked as for Deliver.
	Committed(token uint64, err error) (marked bool)
	// Flush writes what is queued, as far as the network takes it now; the rest follows by itself.
	Flush()
	// Disconnect ends the connection with a Reason Code; cause is for the log.
	Disconnect(reason packet.ReasonCode, cause string)
	// Notify sends a JSON text on $auth/result, if the client subscribed to it.
	Notify(payload []byte)
	// GrantChanged tells that limits, settings or expiry of the client's grant may have changed: it asks for them, so
	// that of two changes at once the later one stays.
	GrantChanged()
	// HearOut has what the client has sent until now handled; the channel is closed when it is, or the connection has ended.
	HearOut() <-chan struct{}
	// Queue tells what waits to be sent.
	Queue() (messages int, bytes int64, inflight int)

	// Offer gives the client a message of a Shared Subscription at QoS 1 or 2, if its Receive Maximum has room for it now.
	Offer(d Delivery, filterID int64) OfferVerdict

	// What follows concerns connections with a persistent session alone.

	// Saving is called when the session is about to be committed as it is: what the connection has done to it until now
	// is covered by the mark. Everything up to head has been routed; where nothing is outstanding the cursor moves there.
	Saving(head message.Position) (mark uint64)
	// Saved tells that a commit which covers mark has ended, well or not.
	Saved(mark uint64, err error) (marked bool)
	// Taken is where reading the log for the session begins.
	Taken() message.Position
	// Narrowed counts the calls of Narrow; what is read of the log is read for the subscriptions at such a count.
	Narrowed() uint64
	// Narrow tells that less is wanted than was: subscriptions have gone, or the oldest messages have fallen out. What of the log
	// waits, and is not taken any more, is dropped.
	Narrow(takes func(*message.Message) bool)
	// Feed hands over what the log holds up to a position. It waits until the connection has room for more.
	Feed(ds []Delivery, upTo message.Position, narrowed uint64) FeedVerdict
	// Join has what is routed from now on kept for the session, behind what is still to come by Feed. It is called under the app's commit order.
	Join()
	// Live ends the time of Feed; false: more was routed since Join than the connection keeps, and reading goes on.
	Live() bool
}

// Delivery is one message on its way to one client.
type Delivery struct {
	Message         *message.Message
	SubscriptionIDs []uint32
	QoS             byte
	Retain          bool
	Shared          bool // by a Shared Subscription
}

// Verdict is what became of a Delivery.
type Verdict int

// The verdicts: Queued, Dropped (QoS 0 beyond the queue, counted by the connection), Gone (the connection is ending).
const (
	Queued Verdict = iota
	Dropped
	Gone
)

// FeedVerdict is what became of a page of the log.
type FeedVerdict int

// The verdicts: Fed, Stale (the subscriptions have been narrowed since it was read: it is to be read again), Over (the
// connection has ended).
const (
	Fed FeedVerdict = iota
	Stale
	Over
)

// Client is one connected client: a session and the connection that holds it.
type Client struct {
	app         *app
	id          string
	number      uint64 // of the connection, for logs
	out         Outbound
	version     packet.Version
	transport   string
	remote      string
	connectedAt time.Time
	keepAlive   time.Duration
	expiry      time.Duration
	cleanStart  bool
	ended       atomic.Bool
	offered     atomic.Bool  // messages of Shared Subscriptions by their logs
	underWay    atomic.Int32 // messages of its own on their way through the commit
	broken      bool         // the commit of one has failed, and the connection is about to end; guarded by committer.mu
	grant       atomic.Pointer[Grant]
	session     *persistentSession // nil: the session ends with the connection, and nothing is stored of it
	trails      bool               // messages of the connection before are still on their way through the commit
	present     bool               // the session was there before
	resend      []session.Entry    // what was not acknowledged on the connection before
	gone        chan struct{}      // guarded by app.mu; made by whoever waits for the client's end, closed by that

	mu   sync.Mutex // guards what follows; taken after app.mu
	subs map[string]*subscriber
	will *Will
}

// ID returns the Client Identifier.
func (c *Client) ID() string { return c.id }

// Number returns the number of the connection, unique in this process.
func (c *Client) Number() uint64 { return c.number }

// Durable reports whether the session outlives the connection.
func (c *Client) Durable() bool { return c.session != nil && !c.session.willOnly }

// Present reports whether the session was there before this connection [MQTT5-3.2.2-3].
func (c *Client) Present() bool { return c.present }

// State returns the state of a durable session.
func (c *Client) State() *session.Session { return c.session.state }

// Resend returns what of a durable session has been sent and not acknowledged, in order; it is to be sent again
// [MQTT5-4.4.0-1]. Messages are there where they are needed.
func (c *Client) Resend() []session.Entry { return c.resend }

// Head returns the position up to which everything of the app has been routed.
func (c *Client) Head() message.Position { return endOfSeq(c.app.head.Load()) }

// SessionExpiry returns the Session Expiry Interval in force.
func (c *Client) SessionExpiry() time.Duration { return c.expiry }

// Touch tells that the durable session has changed: it is saved within a second.
func (c *Client) Touch() {
	c.session.dirty.Store(true)
	c.session.stir()
}

// Grant returns what the client may do now.
func (c *Client) Grant() Grant { return *c.grant.Load() }

// subscriber is what the topic tree holds: one subscription of one connected client, or a share group. It is
// immutable but for its atomic parts; another subscription to the same filter replaces it.
type subscriber struct {
	client *Client
	sub    session.Subscription
	inner  string // the Topic Filter without $share/…
	ids    []uint32
	judge  atomic.Pointer[func(topic string) bool] // nil: everything that matches may be delivered
	group  *shareGroup                             // set on the entry that stands for a group; client is nil then

	gone      atomic.Bool                // out of the tree: no retained message goes out for it any more, but
	successor atomic.Pointer[subscriber] // if set, for the one that took its place
}

func newSubscriber(c *Client, g Grant, sub session.Subscription, inner string) *subscriber {
	s := &subscriber{client: c, sub: sub, inner: inner}
	s.setJudge(g)
	if sub.ID != 0 {
		s.ids = []uint32{sub.ID}
	}
	return s
}

// setJudge takes over what the grant says now.
func (s *subscriber) setJudge(g Grant) {
	if judge := g.ReceiveFilter(s.inner); judge != nil {
		s.judge.Store(&judge)
	} else {
		s.judge.Store(nil)
	}
}

// takes reports whether the subscription may get m: No Local [MQTT5-3.8.3-3] and denies that overlap its filter.
func (s *subscriber) takes(m *message.Message) bool {
	if s.sub.NoLocal && m.Publisher == s.client.id && m.Publisher != "" {
		return false
	}
	judge := s.judge.Load()
	return judge == nil || (*judge)(m.Topic)
}

// Package broker is the engine: it takes published messages, has them stored where they must be, and routes them to
// the sessions that subscribed. It owns the apps' topic trees, retained messages, sessions and the order of commits;
// it leaves bytes to realtime/packet, connections to realtime/conn, identities and rules to auth, rows to the store.
//
// This file is all that the broker needs from the world.
package broker

import (
	"context"
	"net/netip"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/packet"
)

// AppUID numbers an app for its whole life and is never used again, so that an app made again under the same id
// starts empty.
type AppUID int64

// Credentials are what a client shows at CONNECT.
type Credentials struct {
	PathApp     string // the app in the WebSocket path, or empty
	QueryToken  string // ?token= of the WebSocket URL, or empty
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte
	ClientID    string // as sent; empty when the server is to assign one
	Origin      string // Origin header of the WebSocket handshake, or empty
	Remote      netip.AddrPort
	Transport   string // "ws", "wss", "tcp" or "tls"
}

// Authenticator tells who is connecting. It returns ErrBadCredentials, ErrNotAllowed, ErrClientIDNotValid, or a Grant.
// Safe for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Grant, error)
	// Renew verifies a new token for a live grant (same app, subject and client id) and returns the grant to use
	// from now on.
	Renew(ctx context.Context, g Grant, token string) (Grant, error)
	// Restore makes a grant again of what its Encode returned, without the credential: for a will that outlives its
	// connection, and is sent also after a token has expired. Expires is kept. It returns ErrNotAllowed when the app, the
	// key or the leave for anonymous clients is gone, or encoded is damaged.
	Restore(app AppUID, encoded []byte) (Grant, error)
}

// Grant is what one authenticated connection may do, in force as rules, keys and settings change. Safe for concurrent
// use.
type Grant interface {
	App() AppUID
	AppID() string
	Subject() string
	// HangsOn reports whether the credential ends when a key is deleted.
	HangsOn(keyID string) bool
	// Expires is when the credential ends; zero: never.
	Expires() time.Time
	// Alive reports whether what the grant hangs on (app, key, setting) is still there.
	Alive() bool
	// Limits are the app's, as of now.
	Limits() Limits
	// Settings are the app's, as of now.
	Settings() Settings
	// Encode returns what Authenticator.Restore needs to make the same grant again. It holds no secret.
	Encode() []byte
	// Assigned returns the grant for a client that the server has given its Client Identifier.
	Assigned(clientID string) Grant
	// MayPublish judges a PUBLISH to topic.
	MayPublish(topic string) bool
	// MaySubscribe judges a Topic Filter (without $share/…); share tells that it comes from a Shared Subscription.
	MaySubscribe(filter string, share bool) bool
	// ReceiveFilter returns nil when every message that matches filter may be delivered, else a function that judges
	// one topic: a deny rule overlaps the filter. It is valid until the rules change, which calls Broker.Reauthorize.
	ReceiveFilter(filter string) func(topic string) bool
}

// Limits of an app, CONTRACT section 3. Every number is in force; there is no "unlimited".
type Limits struct {
	ConnectionsMax            int
	SubscriptionsPerClientMax int
	PublishRateMax            int // messages a second and client
	PublishBytesRateMax       int // bytes a second and client
	PacketBytesMax            int
	TopicLevelsMax            int
	TopicBytesMax             int
	RetainedCountMax          int
	RetainedBytesMax          int64
	QueuedMessagesMax         int // of one session
	QueuedBytesMax            int64
	SessionsMax               int // that outlive their connection
	SessionExpiryMax          time.Duration
	KeepAliveMax              time.Duration // 0: the client's own
	ReceiveMaximum            uint16
	TopicAliasMaximum         uint16
}

// Retains reports whether the app may hold a retained message at all.
func (l *Limits) Retains() bool { return l.RetainedCountMax > 0 && l.RetainedBytesMax > 0 }

// Settings of an app that the engine acts on.
type Settings struct {
	DeniedPublishDisconnects       bool // 3.1.1: a denied publish ends the connection instead of being acknowledged
	RevokedSubscriptionDisconnects bool
}

// Observer counts. Every method is called on hot paths, must not block, and is safe for concurrent use.
type Observer interface {
	Connected(transport string, v packet.Version)
	Disconnected(reason packet.ReasonCode)
	// Refused counts refusals, by a closed set of causes: the codes of the table of outcomes (errors.go), "auth_failed",
	// "client_id", "protocol_error", "packet_too_large", "connect_timeout", "tls_handshake", "http_on_mqtt_port",
	// "origin".
	Refused(cause string)
	Received(qos byte, bytes int) // a PUBLISH came in
	// Delivered counts PUBLISH packets written to a client, by QoS, and the bytes of their payloads.
	Delivered(messages [3]int, bytes int64)
	Dropped(cause string, n int) // "queue_full", "expired", "packet_too_large", "refused"
	Denied(action string)        // "publish", "subscribe", "receive"
	Committed(messages int, took time.Duration, err error)
	// Compacted counts what the compactor deleted in a minute, and how many writes of all apps it has still to look at
	// before it is through.
	Compacted(deleted int, lag uint64)
}

// Part is one message of a write and the durable filters that it matched.
type Part struct {
	Message *message.Message
	Filters []int64 // filter ids: one pending row each
}

// Write is what one publisher (or one REST call) commits together: all its parts get one seq. A Write without parts
// that carries session changes takes no seq; Commit returns for it the app's head behind which it was committed, in the
// order of the batch. The head's row is locked for it too. Where the app is gone, neither parts nor session changes
// are written, and the Write gets 0; so does a session change behind an empty log, which is written.
type Write struct {
	App      AppUID
	Parts    []Part
	Sessions []SessionChange
}

// SessionChange is a change of a stored session that is committed with the write, or alone. In this order: Delete,
// Unsubscribe, Keep, Subscribe, Settle. Of several changes of one session, the later ones see what the earlier ones did.
type SessionChange struct {
	App         AppUID // that of its Write
	ClientID    string
	Delete      bool              // remove the session's row and subscriptions
	Unsubscribe []string          // Topic Filters as the client sent them
	Keep        *SessionRow       // insert or replace the session's row; nil: leave it as it is
	Subscribe   []SubscriptionRow // insert or replace
	Settle      []PendingRow      // delete these pending rows: a member of a Shared Subscription is done with them
}

// PendingRow is one row of the table pending.
type PendingRow struct {
	FilterID int64
	Position message.Position
}

// SessionRow is one row of the table sessions. Window and Inbound are encoded by realtime/session.
type SessionRow struct {
	ClientID     string
	Subject      string
	Expiry       time.Duration // Session Expiry Interval; 0: its will alone is stored
	EndedAt      time.Time     // when the connection ended; zero: connected, or ended by a crash
	Will         []byte        // encoded will that is still to be sent, or nil
	Cursor       message.Position
	Window       []byte
	Inbound      []byte
	NextPacketID uint16
	FallenOut    int64 // messages that the limits dropped
}

// SubscriptionRow is one row of the table subscriptions.
type SubscriptionRow struct {
	Filter        string // as the client sent it
	FilterID      int64
	Options       byte // QoS in bits 0-1, No Local bit 2, Retain As Published bit 3, Retain Handling bits 4-5
	ID            uint32
	Begins        message.Position
	BeginsHere    bool // Begins is not given: it is {seq of this write, math.MaxUint32}; written by Commit
	RetainedAfter string
}

// FilterFrom is a durable filter and the position behind which its pending messages count.
type FilterFrom struct {
	ID    int64
	After message.Position
}

// StoredSession is a session as it is read back.
type StoredSession struct {
	Row           SessionRow
	Subscriptions []SubscriptionRow // in filter order
}

// Batch is what one group commit writes, in order.
type Batch struct {
	ID     [16]byte // random; written with the batch, so that an unknown outcome can be found out
	Writes []Write
}

// Store is the durable memory of the engine. Errors: ErrStoreUnavailable when it is away and may come back,
// ErrStoreRefused when it refuses for good (disk full), ErrOutcomeUnknown when the connection broke during a commit.
// Safe for concurrent use, but Commit is called by one goroutine.
type Store interface {
	// Commit writes the batch in one transaction and returns the seq of each write, in the order of batch.Writes (see
	// Write). The seqs of an app's writes with parts are dense and in that order.
	Commit(ctx context.Context, batch Batch) (seqs []uint64, err error)
	// Committed reports whether the batch with this id was committed.
	Committed(ctx context.Context, id [16]byte) (bool, error)
	// Head returns the app's last seq and its epoch (a random text, new whenever the store is created or restored).
	Head(ctx context.Context, app AppUID) (seq uint64, epoch string, err error)
	// Retained calls yield with the newest retained message of each topic of the app (clears left out), in log order;
	// an error of yield ends it and is returned.
	Retained(ctx context.Context, app AppUID, yield func(*message.Message) error) error
	// FilterIDs returns the ids of durable filters, making those that are missing; ErrNoSuchApp where the app is gone.
	FilterIDs(ctx context.Context, app AppUID, filters []string) ([]int64, error)
	// Filters returns all durable filters of the app by id.
	Filters(ctx context.Context, app AppUID) (map[int64]string, error)
	// Page reads at most limit messages that are pending for any of the filters, each filter's behind its own position,
	// each message once, in order, with the filter ids that matched (ascending). Fewer than limit: there are no more.
	Page(ctx context.Context, app AppUID, from []FilterFrom, limit int) ([]PageEntry, error)
	// Backlog measures what is pending for any of the filters, each message once, and tells where to cut it so that at
	// most keepMessages and keepBytes (topic, payload, properties) of the newest remain.
	Backlog(ctx context.Context, app AppUID, from []FilterFrom, keepMessages int, keepBytes int64) (Backlog, error)
	// Messages reads the messages at the given positions, in order; missing ones are left out.
	Messages(ctx context.Context, app AppUID, positions []message.Position) ([]*message.Message, error)
	// Sessions calls yield with every stored session of the app, in the order of Client Identifiers.
	Sessions(ctx context.Context, app AppUID, yield func(StoredSession) error) error
	// Settle deletes the pending rows of a filter at or below a position, and returns how many.
	Settle(ctx context.Context, app AppUID, filterID int64, upTo message.Position) (int64, error)
	// DropFilter deletes a durable filter that no subscription uses, with its pending rows.
	DropFilter(ctx context.Context, app AppUID, filterID int64) error
	// Compact deletes at most limit log entries after a position and at or below upTo that arrived before keepSince
	// and are not the live retained message (live reports that), not pending and not in held. It returns how far it
	// looked and how many it deleted; looked equals upTo when it is through. A clear goes when it is reached, unless an older
	// retained entry of its topic remains (ClearMayGo).
	Compact(ctx context.Context, app AppUID, c Compaction) (looked message.Position, deleted int, err error)
}

// PageEntry is one message of a page and the durable filters it is pending for.
type PageEntry struct {
	Message *message.Message
	Filters []int64
}

// Backlog is what waits in the log for a session.
type Backlog struct {
	Messages int // that remain when it is cut
	Bytes    int64
	Dropped  int              // messages beyond that
	CutAt    message.Position // the newest of those dropped; zero: none
}

// Compaction is one step of the compactor.
type Compaction struct {
	After, UpTo message.Position
	KeepSince   time.Time
	Limit       int
	Live        func(topic string, p message.Position) bool // the live retained message of topic is the one at p
	Held        func(p message.Position) bool               // some session's window holds it
	// Remains is told of the topic of each retained entry that stays although it is not live (pending, held, young by a
	// clock that was set back): without the clear behind it, it would be taken for the topic's value. ClearMayGo asks
	// whether there was none.
	Remains    func(topic string)
	ClearMayGo func(topic string) bool
}

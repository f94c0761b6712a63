package brokertest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/topic"
)

// Limits are wide enough to be met by no test that does not set others.
func Limits() broker.Limits {
	return broker.Limits{
		ConnectionsMax: 10_000, SubscriptionsPerClientMax: 1_000, PublishRateMax: 1_000_000, PublishBytesRateMax: 1 << 30,
		PacketBytesMax: 1 << 20, TopicLevelsMax: 32, TopicBytesMax: 1_024, RetainedCountMax: 1_000_000,
		RetainedBytesMax: 1 << 30, QueuedMessagesMax: 100_000, QueuedBytesMax: 64 << 20, SessionsMax: 1_000_000,
		SessionExpiryMax: 7 * 24 * time.Hour, ReceiveMaximum: 100, TopicAliasMaximum: 100,
	}
}

// Rules say what a subject may do. They are replaced as a whole; the zero value allows everything.
type Rules struct {
	Publish   func(sub, topic string) bool
	Subscribe func(sub, filter string) bool
	Receive   func(sub, topic string) bool // asked for each message where it is set
}

// World is who may do what, as of now. Safe for concurrent use.
type World struct {
	rules    atomic.Pointer[Rules]
	limits   atomic.Pointer[broker.Limits]
	settings atomic.Pointer[broker.Settings]

	mu   sync.Mutex // guards what follows
	dead map[string]bool
}

// NewWorld returns a world in which everybody may do everything.
func NewWorld() *World {
	w := &World{dead: map[string]bool{}}
	w.SetRules(Rules{})
	w.SetLimits(Limits())
	w.settings.Store(&broker.Settings{})
	return w
}

// SetRules replaces the rules.
func (w *World) SetRules(r Rules) { w.rules.Store(&r) }

// SetLimits replaces the limits of all apps.
func (w *World) SetLimits(l broker.Limits) { w.limits.Store(&l) }

// SetSettings replaces the settings of all apps.
func (w *World) SetSettings(s broker.Settings) { w.settings.Store(&s) }

// DeleteKey makes the grants of a key dead.
func (w *World) DeleteKey(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[id] = true
}

// Authenticate implements broker.Authenticator. The user name names the subject (default: "user"), which is its key
// too; the password "wrong" is refused, and one of the form "ttl:5s" expires. The app is 2 for the path app "two",
// else 1.
func (w *World) Authenticate(_ context.Context, c broker.Credentials) (broker.Grant, error) {
	g := &grant{world: w, app: 1, sub: "user"}
	if c.PathApp == "two" {
		g.app = 2
	}
	if c.Username != "" {
		g.sub = c.Username
	}
	switch password := string(c.Password); {
	case password == "wrong":
		return nil, broker.ErrBadCredentials
	case strings.HasPrefix(password, "ttl:"):
		ttl, err := time.ParseDuration(password[len("ttl:"):])
		if err != nil {
			return nil, broker.ErrBadCredentials
		}
		g.expires = time.Now().Add(ttl)
	}
	return g, nil
}

// Renew implements broker.Authenticator: a token is "{sub} ttl:{duration}".
func (w *World) Renew(_ context.Context, old broker.Grant, token string) (broker.Grant, error) {
	sub, ttl, _ := strings.Cut(token, " ttl:")
	d, err := time.ParseDuration(ttl)
	if err != nil || sub != old.Subject() {
		return nil, broker.ErrNotAllowed
	}
	g, ok := old.(*grant)
	if !ok {
		return nil, broker.ErrNotAllowed
	}
	return &grant{world: w, app: g.app, sub: sub, expires: time.Now().Add(d)}, nil
}

// Restore implements broker.Authenticator.
func (w *World) Restore(app broker.AppUID, encoded []byte) (broker.Grant, error) {
	var s storedGrant
	if err := json.Unmarshal(encoded, &s); err != nil {
		return nil, broker.ErrNotAllowed
	}
	g := &grant{world: w, app: app, sub: s.Sub, expires: s.Expires}
	if !g.Alive() {
		return nil, broker.ErrNotAllowed
	}
	return g, nil
}

// storedGrant is a grant as Encode writes it.
type storedGrant struct {
	Sub     string    `json:"sub"`
	Expires time.Time `json:"expires,omitzero"`
}

type grant struct {
	world   *World
	app     broker.AppUID
	sub     string
	expires time.Time
}

func (g *grant) App() broker.AppUID        { return g.app }
func (g *grant) AppID() string             { return "app" }
func (g *grant) Subject() string           { return g.sub }
func (g *grant) HangsOn(key string) bool   { return g.sub == key }
func (g *grant) Expires() time.Time        { return g.expires }
func (g *grant) Limits() broker.Limits     { return *g.world.limits.Load() }
func (g *grant) Settings() broker.Settings { return *g.world.settings.Load() }

// Encode implements broker.Grant.
func (g *grant) Encode() []byte {
	encoded, err := json.Marshal(storedGrant{g.sub, g.expires})
	if err != nil {
		panic("brokertest: a grant cannot be encoded: " + err.Error())
	}
	return encoded
}

func (g *grant) Assigned(string) broker.Grant { return g }

func (g *grant) Alive() bool {
	g.world.mu.Lock()
	defer g.world.mu.Unlock()
	return !g.world.dead[g.sub]
}

func (g *grant) MayPublish(name string) bool {
	may := g.world.rules.Load().Publish
	return may == nil || may(g.sub, name)
}

func (g *grant) MaySubscribe(filter string, _ bool) bool {
	may := g.world.rules.Load().Subscribe
	return may == nil || may(g.sub, filter)
}

func (g *grant) ReceiveFilter(filter string) func(string) bool {
	may := g.world.rules.Load().Receive
	if may == nil {
		return nil
	}
	return func(name string) bool { return topic.Match(filter, name) && may(g.sub, name) }
}

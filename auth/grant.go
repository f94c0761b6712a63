package auth

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/realtime/topic"
)

// Grant is what one authenticated connection or caller may do in an app. It follows changes of rules, settings and
// keys. Safe for concurrent use.
type Grant struct {
	dir      *Directory
	app      *appState
	sub      string
	keyID    string
	clientID string // the connection's, for ${client_id}
	bound    string // the client id that the credential names, or empty
	claims   map[string]any
	expires  time.Time
	bypass   bool   // above the rules: secret keys, and tokens that say so
	own      []Rule // of the token's acl or of the device key

	mu      sync.Mutex // held while view is made anew
	current atomic.Pointer[grantView]
}

// grantView is the app's rules as this grant sees them: variables are replaced.
type grantView struct {
	set   *ruleSet
	own   *ruleSet
	mu    sync.RWMutex // guards heads
	heads map[string][]boundRule
}

// boundRule is a rule with the grant's values in the place of its variables.
type boundRule struct {
	*compiledRule
	filter string
}

// headsMax bounds what a grant keeps compiled, since first levels come from outside.
const headsMax = 64

// AppUID returns the app's number.
func (g *Grant) AppUID() int64 { return g.app.uid }

// AppID returns the app's id.
func (g *Grant) AppID() string { return g.app.snapshot().ID }

// Subject returns who it is.
func (g *Grant) Subject() string { return g.sub }

// KeyID returns the key that the credential hangs on, or "".
func (g *Grant) KeyID() string { return g.keyID }

// Expires returns when the credential ends; zero: never.
func (g *Grant) Expires() time.Time { return g.expires }

// BoundClientID returns the client id that the credential names, or "".
func (g *Grant) BoundClientID() string { return g.bound }

// Bypass reports whether the rules do not concern the grant.
func (g *Grant) Bypass() bool { return g.bypass }

// Settings returns the app's settings as of now.
func (g *Grant) Settings() Settings { return g.app.snapshot().Settings }

// Alive reports whether what the grant hangs on is still there: the app, and the key or the app's leave for anonymous
// clients.
func (g *Grant) Alive() bool {
	if g.app.deleted.Load() {
		return false
	}
	if g.keyID == "" {
		return g.app.snapshot().Settings.Anonymous
	}
	_, there := g.app.key(g.keyID)
	return there
}

// MayPublish judges a PUBLISH to a Topic Name. Any deny that matches wins; else any allow; else it is denied.
func (g *Grant) MayPublish(name string) bool {
	if g.bypass {
		return true
	}
	now := g.dir.now()
	allowed := false
	for _, r := range g.rulesFor(name) {
		if !r.publish || r.over(now) || !topic.Match(r.filter, name) {
			continue
		}
		if r.deny {
			return false
		}
		allowed = true
	}
	return allowed
}

// MaySubscribe judges a Topic Filter (without $share/…): one allow must cover all that it can match, and no deny may
// cover it as a whole. A Shared Subscription needs the action share too.
func (g *Grant) MaySubscribe(filter string, share bool) bool {
	if g.bypass {
		return true
	}
	now := g.dir.now()
	subscribe, join := false, !share
	for _, r := range g.rulesFor(filter) {
		if r.over(now) || !topic.Covers(r.filter, filter) {
			continue
		}
		if r.deny && (r.subscribe || share && r.share) {
			return false
		}
		subscribe = subscribe || r.subscribe && !r.deny
		join = join || r.share && !r.deny
	}
	return subscribe && join
}

// ReceiveFilter returns nil where no deny overlaps the filter; else a function that judges each topic delivered.
func (g *Grant) ReceiveFilter(filter string) func(name string) bool {
	if g.bypass {
		return nil
	}
	var denies []boundRule
	v := g.view()
	for _, set := range []*ruleSet{v.set, v.own} {
		set.each(func(r *compiledRule) {
			if !r.deny || !r.subscribe {
				return
			}
			if b, ok := g.bind(r); ok && topic.Overlaps(b.filter, filter) {
				denies = append(denies, b)
			}
		})
	}
	if len(denies) == 0 {
		return nil
	}
	return func(name string) bool {
		now := g.dir.now()
		for i := range denies {
			if !denies[i].over(now) && topic.Match(denies[i].filter, name) {
				return false
			}
		}
		return true
	}
}

func (s *ruleSet) each(yield func(*compiledRule)) {
	for _, r := range s.anyHead {
		yield(r)
	}
	for _, rules := range s.byFirst {
		for _, r := range rules {
			yield(r)
		}
	}
}

// view returns the grant's view of the rules in force.
func (g *Grant) view() *grantView {
	set := g.app.rules.Load()
	if v := g.current.Load(); v != nil && v.set == set {
		return v
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.current.Load(); v != nil && v.set == set {
		return v
	}
	v := &grantView{set: set, own: newRuleSet(0, g.own), heads: map[string][]boundRule{}}
	g.current.Store(v)
	return v
}

// rulesFor returns the rules that can concern a name or filter, by its first level: an app's other rules cost nothing.
func (g *Grant) rulesFor(name string) []boundRule {
	v := g.view()
	first, _, _ := strings.Cut(name, "/")
	v.mu.RLock()
	rules, ok := v.heads[first]
	v.mu.RUnlock()
	if ok {
		return rules
	}
	for _, set := range []*ruleSet{v.set, v.own} {
		if first == "+" || first == "#" {
			// A filter that begins with a wildcard is covered only by one that does.
			rules = g.bindAll(rules, set.anyHead)
			continue
		}
		rules = g.bindAll(rules, set.anyHead)
		rules = g.bindAll(rules, set.byFirst[first])
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.heads) < headsMax {
		v.heads[strings.Clone(first)] = rules
	}
	return rules
}

func (g *Grant) bindAll(dst []boundRule, rules []*compiledRule) []boundRule {
	for _, r := range rules {
		if b, ok := g.bind(r); ok {
			dst = append(dst, b)
		}
	}
	return dst
}

// bind replaces the variables of a rule. An unusable value makes an allow match nothing (ok false) and a deny match any
// text at that level, but a missing claim makes a deny match nothing too.
func (g *Grant) bind(r *compiledRule) (b boundRule, ok bool) {
	b = boundRule{r, r.filter}
	if !r.variables {
		return b, true
	}
	levels := strings.Split(r.filter, "/")
	for i, level := range levels {
		name, isVariable := variable(level)
		if !isVariable {
			continue
		}
		text, state := g.value(name)
		usable := state == valueText && text != "" && !strings.ContainsAny(text, "/+#\x00") && (i > 0 || text[0] != '$')
		switch {
		case usable:
			levels[i] = text
		case !r.deny || state == valueMissing:
			return b, false
		default:
			levels[i] = "+"
		}
	}
	b.filter = strings.Join(levels, "/")
	return b, true
}

type valueState int

const (
	valueMissing valueState = iota
	valueText
	valueOther // there, and not a string, integer or boolean
)

func (g *Grant) value(name string) (string, valueState) {
	switch name {
	case "sub":
		return g.sub, valueText
	case "client_id":
		return g.clientID, valueText
	}
	var v any = g.claims
	for step := range strings.SplitSeq(strings.TrimPrefix(name, "token."), ".") {
		object, ok := v.(map[string]any)
		if !ok {
			return "", valueMissing
		}
		if v, ok = object[step]; !ok {
			return "", valueMissing
		}
	}
	return textOf(v)
}

// textOf is the text of a string, an integer or a boolean.
func textOf(v any) (string, valueState) {
	switch v := v.(type) {
	case string:
		return v, valueText
	case bool:
		return strconv.FormatBool(v), valueText
	case jsonNumber:
		if _, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return v.String(), valueText
		}
	case float64:
		if v == float64(int64(v)) && v < 1<<53 && v > -1<<53 {
			return strconv.FormatInt(int64(v), 10), valueText
		}
	case nil:
		return "", valueOther
	}
	return "", valueOther
}

type jsonNumber interface {
	String() string
	Int64() (int64, error)
}

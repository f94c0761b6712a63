package auth

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Grant is what one authenticated connection or caller may do in an app. It follows changes of rules, settings and
// keys. Safe for concurrent use.
type Grant struct {
	dir      *Directory
	app      *appState
	sub      string
	keyID    string
	pageKey  string // the publishable key that a visitor's token was made by
	clientID string // the connection's, for ${client_id}
	bound    string // the client id that the credential names, or empty
	claims   map[string]any
	expires  time.Time
	bypass   bool     // above the rules: secret keys, and tokens that say so
	scopes   []string // of a secret key: what it may do, above the rules as it is; nil: everything
	own      *ruleSet // of the token's acl or of the device key; nil: none
}

// AppUID returns the app's number.
func (g *Grant) AppUID() int64 { return g.app.uid }

// AppID returns the app's id.
func (g *Grant) AppID() string { return g.app.snapshot().ID }

// Subject returns who it is.
func (g *Grant) Subject() string { return g.sub }

// HangsOn reports whether the credential ends with a key: it is that key, was signed by it, or was made for a visitor
// who showed it.
func (g *Grant) HangsOn(keyID string) bool {
	return keyID != "" && (g.keyID == keyID || g.pageKey == keyID)
}

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
	for _, id := range []string{g.keyID, g.pageKey} {
		if _, there := g.app.key(id); id != "" && !there {
			return false
		}
	}
	return true
}

// WithClientID returns the grant for another client id: one that the server assigned after it had authenticated.
func (g *Grant) WithClientID(id string) *Grant {
	assigned := *g
	assigned.clientID = id
	return &assigned
}

// MayPublish judges a PUBLISH to a Topic Name. Any deny that matches wins; else any allow; else it is denied.
func (g *Grant) MayPublish(name string) bool {
	if g.bypass {
		return g.hasScope(ScopePublish)
	}
	j := judgement{grant: g, wanted: publishAction}
	j.name(g.app.rules.Load().all, name, true, false)
	if g.own != nil {
		j.name(g.own.all, name, true, false)
	}
	return !j.denied && j.allowed != 0
}

// MaySubscribe judges a Topic Filter (without $share/…): one allow must cover all that it can match, and no deny may
// cover it as a whole. A Shared Subscription needs the action share too.
func (g *Grant) MaySubscribe(filter string, share bool) bool {
	if g.bypass {
		return g.hasScope(ScopeRead)
	}
	j := judgement{grant: g, wanted: subscribeAction}
	if share {
		j.wanted |= shareAction
	}
	j.covers(g.app.rules.Load().all, filter, true, false)
	if g.own != nil {
		j.covers(g.own.all, filter, true, false)
	}
	return !j.denied && j.allowed == j.wanted
}

func (g *Grant) hasScope(scope string) bool {
	return g.scopes == nil || slices.Contains(g.scopes, scope)
}

// ReceiveFilter returns nil where no deny overlaps the filter; else a function that judges each topic delivered.
func (g *Grant) ReceiveFilter(filter string) func(name string) bool {
	if g.bypass {
		return nil
	}
	j := judgement{grant: g, wanted: subscribeAction}
	for _, denies := range g.denies() {
		if denies != nil {
			j.overlaps(denies, filter, true)
		}
	}
	if !j.denied {
		return nil
	}
	return g.mayReceive
}

func (g *Grant) mayReceive(name string) bool {
	j := judgement{grant: g, wanted: subscribeAction}
	for _, denies := range g.denies() {
		if denies != nil {
			j.name(denies, name, true, false)
		}
	}
	return !j.denied
}

// denies are the trees of denies that are kept to at delivery; nil where there are none.
func (g *Grant) denies() [2]*ruleNode {
	trees := [2]*ruleNode{g.app.rules.Load().denies}
	if g.own != nil {
		trees[1] = g.own.denies
	}
	return trees
}

type valueState int

const (
	valueMissing  valueState = iota // an allow and a deny match nothing
	valueUnusable                   // an allow matches nothing, a deny any text
	valueText
)

// value is what stands for a variable in a level of a filter; first tells that it is the first.
func (g *Grant) value(v *variable, first bool) (string, valueState) {
	text, state := g.textOf(v)
	if state == valueText && (text == "" || strings.ContainsAny(text, "/+#\x00") || first && text[0] == '$') {
		return "", valueUnusable
	}
	return text, state
}

func (g *Grant) textOf(v *variable) (string, valueState) {
	switch v.name {
	case subVariable:
		return g.sub, valueText
	case clientIDVariable:
		return g.clientID, valueText
	}
	var claim any = g.claims
	for _, step := range v.path {
		object, ok := claim.(map[string]any)
		if !ok {
			return "", valueMissing
		}
		if claim, ok = object[step]; !ok {
			return "", valueMissing
		}
	}
	switch claim := claim.(type) {
	case string:
		return claim, valueText
	case bool:
		return strconv.FormatBool(claim), valueText
	case json.Number: // claims are read with numbers as they were written
		if !strings.ContainsAny(claim.String(), ".eE") {
			return claim.String(), valueText
		}
	}
	return "", valueUnusable
}

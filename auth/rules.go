package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/topic"
)

// Rule is one topic rule (CONTRACT section 5).
type Rule struct {
	Effect  string     `json:"effect" enum:"allow,deny"`
	Actions []string   `json:"actions" enum:"publish,subscribe,share"`
	Topic   string     `json:"topic" doc:"A Topic Filter; a level may be ${sub}, ${client_id} or ${token.claim.path}."`
	When    *string    `json:"when,omitempty" doc:"Refused until conditions exist."` // a pointer, so that an empty one is seen
	Until   *time.Time `json:"until,omitempty" doc:"The rule ends then."`
}

// The actions of rules.
const (
	ActionPublish   = "publish"
	ActionSubscribe = "subscribe"
	ActionShare     = "share"

	effectAllow = "allow"
	effectDeny  = "deny"
)

// Bounds of a rule list (chosen: 10,000 rules take a few megabytes and load in milliseconds).
const (
	rulesMax      = 10_000
	ruleTopicMax  = 1_024
	aclRulesMax   = 50
	ruleLevelsMax = 64
)

// ParseRules reads a rule list, strictly: what is not known is refused, never stored and ignored. All problems are
// told together in a *ValidationError, one for each place.
func ParseRules(raw []byte) ([]Rule, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || items == nil {
		return nil, invalid("", "must be a JSON array of rules")
	}
	return parseRuleItems(items, rulesMax, "")
}

func parseRuleItems(items []json.RawMessage, most int, at string) ([]Rule, error) {
	if len(items) > most {
		return nil, invalid(at, fmt.Sprintf("must hold at most %d rules, and holds %d", most, len(items)))
	}
	rules := make([]Rule, len(items))
	var p problems
	for i, item := range items {
		c := checkAt(&p, fmt.Sprintf("%s/%d", at, i))
		if rules[i].parse(c, item) {
			rules[i].check(c)
		}
	}
	return rules, p.err()
}

// ruleCheck gathers the problems of one rule, the first of each place.
type ruleCheck struct {
	p     *problems
	at    string
	first int // the rule's first problem among all
}

func checkAt(p *problems, at string) ruleCheck { return ruleCheck{p, at, len(*p)} }

func (c ruleCheck) add(member, message string) {
	pointer := c.at + member
	if !slices.ContainsFunc((*c.p)[c.first:], func(e FieldError) bool { return e.Pointer == pointer }) {
		c.p.add(pointer, message)
	}
}

// parse reads a rule member by member, so that every one that is wrong is told. It reports whether it was an object.
func (r *Rule) parse(c ruleCheck, raw json.RawMessage) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil || members == nil {
		c.add("", "must be a rule: an object with effect, actions and topic")
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		into, message := r.member(name)
		if into == nil {
			c.add("/"+escapePointer(name), "is no member of a rule: it has effect, actions, topic and until")
			continue
		}
		if json.Unmarshal(members[name], into) != nil {
			c.add("/"+name, message)
		}
	}
	return true
}

// member returns where a member of a rule goes, and what is said of a value that does not fit there.
func (r *Rule) member(name string) (into any, message string) {
	switch name {
	case "effect":
		return &r.Effect, effectMessage
	case "actions":
		return &r.Actions, actionsMessage
	case "topic":
		return &r.Topic, "must be text: a Topic Filter"
	case "when":
		return &r.When, whenMessage
	case "until":
		return &r.Until, "must be a time such as 2027-01-01T00:00:00Z"
	}
	return nil, ""
}

const (
	effectMessage  = "must be allow or deny"
	actionsMessage = "must be a list of publish, subscribe or share"
	whenMessage    = "conditions are not built yet: a rule with one is refused"
)

func (r *Rule) check(c ruleCheck) {
	if r.Effect != effectAllow && r.Effect != effectDeny {
		c.add("/effect", effectMessage)
	}
	if len(r.Actions) == 0 {
		c.add("/actions", actionsMessage)
	}
	for i, a := range r.Actions {
		if actionBit(a) == 0 {
			c.add(fmt.Sprintf("/actions/%d", i), "must be publish, subscribe or share")
		}
	}
	if r.When != nil {
		c.add("/when", whenMessage)
	}
	if message := checkRuleTopic(r.Topic); message != "" {
		c.add("/topic", message)
	}
	if r.Until != nil {
		until := r.Until.UTC()
		if r.Until = &until; until.Year() > 9999 { // what RFC 3339 can say
			c.add("/until", "must be before the year 10000 UTC")
		}
	}
}

func checkRuleTopic(filter string) string {
	if len(filter) > ruleTopicMax {
		return fmt.Sprintf("must have at most %d bytes", ruleTopicMax)
	}
	if filter == "$share" || strings.HasPrefix(filter, "$share/") {
		return "must be the filter without $share/…: sharing is an action"
	}
	if err := topic.ValidateFilter(filter, topic.Limits{LevelsMax: ruleLevelsMax}); err != nil {
		return "must be a Topic Filter: " + err.Error()
	}
	for level := range strings.SplitSeq(filter, "/") {
		if !strings.Contains(level, "${") {
			continue
		}
		if _, ok := parseVariable(level); !ok {
			return "must have each ${…} as a whole level, and know it: ${sub}, ${client_id} or ${token.…}"
		}
	}
	return ""
}

// checkRules checks rules that have been decoded, at a place of what was sent.
func checkRules(p *problems, at string, rules []Rule) {
	if len(rules) > aclRulesMax {
		p.add(at, fmt.Sprintf("must hold at most %d rules", aclRulesMax))
		return
	}
	for i := range rules {
		rules[i].check(checkAt(p, fmt.Sprintf("%s/%d", at, i)))
	}
}

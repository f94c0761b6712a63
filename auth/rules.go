package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
	When    string     `json:"when,omitempty" doc:"Refused until conditions exist."`
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
// told together in a *ValidationError.
func ParseRules(raw []byte) ([]Rule, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, invalid("", "must be a JSON array of rules")
	}
	return parseRuleItems(items, rulesMax, "")
}

func parseRuleItems(items []json.RawMessage, most int, at string) ([]Rule, error) {
	if len(items) > most {
		return nil, invalid(at, fmt.Sprintf("at most %d rules", most))
	}
	rules := make([]Rule, 0, len(items))
	var p problems
	for i, item := range items {
		here := fmt.Sprintf("%s/%d", at, i)
		d := json.NewDecoder(bytes.NewReader(item))
		d.DisallowUnknownFields()
		var r Rule
		if err := d.Decode(&r); err != nil {
			p.add(here+memberOf(err), ruleDecodeMessage(err))
			continue
		}
		r.check(&p, here)
		rules = append(rules, r)
	}
	return rules, p.err()
}

func memberOf(err error) string {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) && t.Field != "" {
		return "/" + strings.ReplaceAll(t.Field, ".", "/")
	}
	if name, ok := unknownMember(err); ok {
		return "/" + name
	}
	return ""
}

// unknownMember reads the name out of encoding/json's message: it has no type for it.
func unknownMember(err error) (string, bool) {
	name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`)
	return strings.TrimSuffix(name, `"`), ok
}

func ruleDecodeMessage(err error) string {
	if _, ok := unknownMember(err); ok {
		return "no such member of a rule"
	}
	var t *time.ParseError
	if errors.As(err, &t) {
		return "until must be a time such as 2027-01-01T00:00:00Z"
	}
	var u *json.UnmarshalTypeError
	if errors.As(err, &u) {
		return "must not be a " + u.Value
	}
	return "must be a rule: an object with effect, actions and topic"
}

func (r *Rule) check(p *problems, at string) {
	if r.Effect != effectAllow && r.Effect != effectDeny {
		p.add(at+"/effect", "must be allow or deny")
	}
	if len(r.Actions) == 0 {
		p.add(at+"/actions", "must hold publish, subscribe or share")
	}
	for i, a := range r.Actions {
		if a != ActionPublish && a != ActionSubscribe && a != ActionShare {
			p.add(fmt.Sprintf("%s/actions/%d", at, i), "must be publish, subscribe or share")
		}
	}
	if r.When != "" {
		p.add(at+"/when", "conditions are not built yet: a rule with one is refused")
	}
	if message := checkRuleTopic(r.Topic); message != "" {
		p.add(at+"/topic", message)
	}
}

func checkRuleTopic(filter string) string {
	if len(filter) > ruleTopicMax {
		return fmt.Sprintf("must have at most %d bytes", ruleTopicMax)
	}
	if err := topic.ValidateFilter(filter, topic.Limits{LevelsMax: ruleLevelsMax}); err != nil {
		return err.Error()
	}
	if strings.HasPrefix(filter, "$share") {
		return "must be the filter without $share/…: sharing is an action"
	}
	for level := range strings.SplitSeq(filter, "/") {
		if !strings.Contains(level, "${") {
			continue
		}
		if name, ok := variable(level); !ok || !knownVariable(name) {
			return "${…} must be a whole level, and one of ${sub}, ${client_id}, ${token.…}"
		}
	}
	return ""
}

// variable returns the name in a level that is ${name} as a whole.
func variable(level string) (string, bool) {
	name, ok := strings.CutPrefix(level, "${")
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(name, "}")
	return name, ok && !strings.ContainsAny(name, "${}")
}

func knownVariable(name string) bool {
	if name == "sub" || name == "client_id" {
		return true
	}
	path, ok := strings.CutPrefix(name, "token.")
	return ok && path != "" && !slices.Contains(strings.Split(path, "."), "")
}

// ruleSet is an app's rule list as of one version.
type ruleSet struct {
	version int64
	rules   []Rule
	// general are the rules without variables, compiled once for everybody.
	byFirst map[string][]*compiledRule // by a literal first level
	anyHead []*compiledRule            // the first level is a wildcard or a variable
}

// compiledRule is a rule as it is matched. Variables are still in it where of is set.
type compiledRule struct {
	deny      bool
	publish   bool
	subscribe bool
	share     bool
	filter    string
	variables bool
	until     time.Time
}

func compileRule(r *Rule) *compiledRule {
	c := &compiledRule{deny: r.Effect == effectDeny, filter: r.Topic, variables: strings.Contains(r.Topic, "${")}
	for _, a := range r.Actions {
		c.publish = c.publish || a == ActionPublish
		c.subscribe = c.subscribe || a == ActionSubscribe
		c.share = c.share || a == ActionShare
	}
	if r.Until != nil {
		c.until = *r.Until
	}
	return c
}

func newRuleSet(version int64, rules []Rule) *ruleSet {
	s := &ruleSet{version: version, rules: rules, byFirst: map[string][]*compiledRule{}}
	for i := range rules {
		c := compileRule(&rules[i])
		first, _, _ := strings.Cut(c.filter, "/")
		if first == "+" || first == "#" || strings.HasPrefix(first, "${") {
			s.anyHead = append(s.anyHead, c)
			continue
		}
		s.byFirst[first] = append(s.byFirst[first], c)
	}
	return s
}

func (c *compiledRule) over(now time.Time) bool { return !c.until.IsZero() && !now.Before(c.until) }

// nextEnd returns when the next rule ends after a time; zero: none does.
func (s *ruleSet) nextEnd(after time.Time) time.Time {
	var next time.Time
	for i := range s.rules {
		if u := s.rules[i].Until; u != nil && u.After(after) && (next.IsZero() || u.Before(next)) {
			next = *u
		}
	}
	return next
}

package auth

import (
	"slices"
	"strings"
	"time"
)

// ruleSet is a rule list as it is judged by: a tree of levels, shared by everybody whom the list concerns, so that what
// a decision costs depends on the topic's levels, not on the number of rules. A variable is an edge of its own, which
// each grant compares with its own value. It is immutable.
type ruleSet struct {
	version int64
	rules   []Rule
	all     *ruleNode
	denies  *ruleNode   // those for the action subscribe, which are kept to at delivery; nil when there are none
	ends    []time.Time // when rules end, ascending
}

// ruleNode stands for the levels of filters up to here.
type ruleNode struct {
	levels    map[string]*ruleNode // by literal level
	plus      *ruleNode            // +
	variables []variableEdge       // ${…}
	here      []*compiledRule      // filters that end here
	below     []*compiledRule      // filters that go on with #: they match this level too
}

type variableEdge struct {
	variable
	to *ruleNode
}

// variable is what stands in ${…}.
type variable struct {
	name string
	path []string // of a claim, when name is claimVariable
}

const (
	subVariable      = "sub"
	clientIDVariable = "client_id"
	claimVariable    = "token"
)

// parseVariable reads a level that is a variable as a whole.
func parseVariable(level string) (variable, bool) {
	name, ok := strings.CutPrefix(level, "${")
	if !ok {
		return variable{}, false
	}
	if name, ok = strings.CutSuffix(name, "}"); !ok || strings.ContainsAny(name, "${}") {
		return variable{}, false
	}
	if name == subVariable || name == clientIDVariable {
		return variable{name: name}, true
	}
	path := strings.Split(name, ".")
	if path[0] != claimVariable || len(path) == 1 || slices.Contains(path, "") {
		return variable{}, false
	}
	return variable{claimVariable, path[1:]}, true
}

// actions is a set of actions.
type actions uint8

const (
	publishAction actions = 1 << iota
	subscribeAction
	shareAction
)

// actionBit returns 0 for what is no action.
func actionBit(name string) actions {
	switch name {
	case ActionPublish:
		return publishAction
	case ActionSubscribe:
		return subscribeAction
	case ActionShare:
		return shareAction
	}
	return 0
}

// compiledRule is a rule without its filter, which is where it stands in the tree.
type compiledRule struct {
	deny    bool
	actions actions
	until   time.Time // zero: without end
}

func newRuleSet(version int64, rules []Rule) *ruleSet {
	s := &ruleSet{version: version, rules: rules, all: &ruleNode{}}
	for i := range rules {
		r := &rules[i]
		c := &compiledRule{deny: r.Effect == effectDeny}
		for _, a := range r.Actions {
			c.actions |= actionBit(a)
		}
		if r.Until != nil {
			c.until = *r.Until
			s.ends = append(s.ends, c.until)
		}
		s.all.add(r.Topic, c)
		if c.deny && c.actions&subscribeAction != 0 {
			if s.denies == nil {
				s.denies = &ruleNode{}
			}
			s.denies.add(r.Topic, c)
		}
	}
	slices.SortFunc(s.ends, time.Time.Compare)
	return s
}

// endsBetween reports whether a rule ends after a time and not after another.
func (s *ruleSet) endsBetween(after, upTo time.Time) bool {
	i, _ := slices.BinarySearchFunc(s.ends, after, func(end, after time.Time) int {
		if end.After(after) {
			return 1
		}
		return -1
	})
	return i < len(s.ends) && !s.ends[i].After(upTo)
}

func (n *ruleNode) add(filter string, c *compiledRule) {
	for rest, more := filter, true; more; {
		var level string
		if level, rest, more = strings.Cut(rest, "/"); level == "#" {
			n.below = append(n.below, c)
			return
		}
		n = n.grow(level)
	}
	n.here = append(n.here, c)
}

func (n *ruleNode) grow(level string) *ruleNode {
	if v, ok := parseVariable(level); ok {
		for i := range n.variables {
			if e := &n.variables[i]; e.name == v.name && slices.Equal(e.path, v.path) {
				return e.to
			}
		}
		to := &ruleNode{}
		n.variables = append(n.variables, variableEdge{v, to})
		return to
	}
	if level == "+" {
		if n.plus == nil {
			n.plus = &ruleNode{}
		}
		return n.plus
	}
	to := n.levels[level]
	if to == nil {
		if n.levels == nil {
			n.levels = map[string]*ruleNode{}
		}
		to = &ruleNode{}
		n.levels[level] = to
	}
	return to
}

// judgement walks trees of rules for one question of one grant, and gathers what it finds until a deny decides.
// It allocates nothing.
type judgement struct {
	grant   *Grant
	wanted  actions
	allowed actions
	denied  bool
	now     time.Time // read when a rule with an end is met
}

// see takes in rules that answer the question. Those reached through the unusable value of a variable count only where
// they deny: an allow matches nothing then.
func (j *judgement) see(rules []*compiledRule, deniesOnly bool) {
	for _, r := range rules {
		if r.actions&j.wanted == 0 || deniesOnly && !r.deny || j.over(r) {
			continue
		}
		if r.deny {
			j.denied = true
			return
		}
		j.allowed |= r.actions & j.wanted
	}
}

func (j *judgement) over(r *compiledRule) bool {
	if r.until.IsZero() {
		return false
	}
	if j.now.IsZero() {
		j.now = j.grant.dir.now()
	}
	return !j.now.Before(r.until)
}

// name sees the rules that match a Topic Name, below n. A wildcard at the first level does not match a name that begins
// with $ [MQTT5-4.7.2-1].
func (j *judgement) name(n *ruleNode, name string, first, deniesOnly bool) {
	if j.denied {
		return
	}
	hidden := first && hides(name)
	if !hidden {
		j.see(n.below, deniesOnly)
	}
	level, rest, more := strings.Cut(name, "/")
	j.enterName(n.levels[level], rest, more, deniesOnly)
	if !hidden {
		j.enterName(n.plus, rest, more, deniesOnly)
	}
	for i := range n.variables {
		switch text, state := j.grant.value(&n.variables[i].variable, first); {
		case state == valueUnusable:
			j.enterName(n.variables[i].to, rest, more, true)
		case state == valueText && text == level:
			j.enterName(n.variables[i].to, rest, more, deniesOnly)
		}
	}
}

func (j *judgement) enterName(n *ruleNode, rest string, more, deniesOnly bool) {
	switch {
	case n == nil:
	case more:
		j.name(n, rest, false, deniesOnly)
	default:
		j.see(n.here, deniesOnly)
		j.see(n.below, deniesOnly)
	}
}

// covers sees the rules that match every Topic Name which a Topic Filter matches.
func (j *judgement) covers(n *ruleNode, filter string, first, deniesOnly bool) {
	if j.denied {
		return
	}
	hidden := first && hides(filter)
	if !hidden {
		j.see(n.below, deniesOnly)
	}
	level, rest, more := strings.Cut(filter, "/")
	if level == "#" {
		// At the first level +/# matches all that # does, for every name has a level; deeper, x/# also matches x, which
		// x/+/# does not.
		if first {
			j.coversAll(n, deniesOnly)
		}
		return
	}
	if level != "+" {
		j.enterCovers(n.levels[level], rest, more, deniesOnly)
	}
	if !hidden {
		j.enterCovers(n.plus, rest, more, deniesOnly)
	}
	for i := range n.variables {
		switch text, state := j.grant.value(&n.variables[i].variable, first); {
		case state == valueUnusable:
			j.enterCovers(n.variables[i].to, rest, more, true)
		case state == valueText && text == level: // never +: such a value is unusable
			j.enterCovers(n.variables[i].to, rest, more, deniesOnly)
		}
	}
}

func (j *judgement) coversAll(root *ruleNode, deniesOnly bool) {
	if root.plus != nil {
		j.see(root.plus.below, deniesOnly)
	}
	for i := range root.variables {
		if _, state := j.grant.value(&root.variables[i].variable, true); state == valueUnusable {
			j.see(root.variables[i].to.below, true)
		}
	}
}

func (j *judgement) enterCovers(n *ruleNode, rest string, more, deniesOnly bool) {
	switch {
	case n == nil:
	case more:
		j.covers(n, rest, false, deniesOnly)
	default:
		j.see(n.here, deniesOnly)
		j.see(n.below, deniesOnly)
	}
}

// overlaps sees the denies that match some Topic Name which a Topic Filter matches.
func (j *judgement) overlaps(n *ruleNode, filter string, first bool) {
	if j.denied {
		return
	}
	hidden := first && hides(filter)
	if !hidden {
		j.see(n.below, true)
	}
	level, rest, more := strings.Cut(filter, "/")
	switch level {
	case "#":
		j.everything(n, first)
		return
	case "+":
		for text, to := range n.levels {
			if !first || !hides(text) {
				j.enterOverlaps(to, rest, more)
			}
		}
	default:
		j.enterOverlaps(n.levels[level], rest, more)
	}
	if !hidden {
		j.enterOverlaps(n.plus, rest, more)
	}
	for i := range n.variables {
		text, state := j.grant.value(&n.variables[i].variable, first)
		if state == valueUnusable || state == valueText && (level == "+" || text == level) {
			j.enterOverlaps(n.variables[i].to, rest, more)
		}
	}
}

func (j *judgement) enterOverlaps(n *ruleNode, rest string, more bool) {
	switch {
	case n == nil:
	case more:
		j.overlaps(n, rest, false)
	default:
		j.see(n.here, true)
		j.see(n.below, true)
	}
}

// everything sees all denies at n and below, but those that the first level of # does not reach.
func (j *judgement) everything(n *ruleNode, first bool) {
	if j.denied {
		return
	}
	j.see(n.here, true)
	j.see(n.below, true)
	for text, to := range n.levels {
		if !first || !hides(text) {
			j.everything(to, false)
		}
	}
	if n.plus != nil {
		j.everything(n.plus, false)
	}
	for i := range n.variables {
		if _, state := j.grant.value(&n.variables[i].variable, first); state != valueMissing {
			j.everything(n.variables[i].to, false)
		}
	}
}

// hides reports whether a wildcard at the first level does not reach a name or filter.
func hides(s string) bool { return s != "" && s[0] == '$' }

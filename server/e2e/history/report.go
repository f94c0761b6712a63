package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// entry is something that has happened.
type entry struct {
	at    moment
	after time.Duration
	run   int
	who   string
	what  string
	id    ID
	note  string
}

func (e entry) String() string {
	text := fmt.Sprintf("%8d %10.3fs run %-3d %-12s %s", e.at, e.after.Seconds(), e.run, e.who, e.what)
	if e.id != (ID{}) {
		text += " " + e.id.String()
	}
	if e.note != "" {
		text += " (" + e.note + ")"
	}
	return text
}

const (
	journalMax = 200_000 // entries; some rounds of a crash test
	faultsMax  = 20
	reportMax  = 120   // lines of a fault
	aroundMax  = 15    // of them what the client did before the fault
	lifeMax    = 1_000 // entries before the message in which the life of those concerned is shown
)

// journal holds the newest entries.
type journal struct {
	entries []entry
	next    int // the oldest one, once it is full
}

func (j *journal) add(e entry) {
	if len(j.entries) < journalMax {
		j.entries = append(j.entries, e)
		return
	}
	j.entries[j.next] = e
	j.next = (j.next + 1) % journalMax
}

// inOrder returns the entries, oldest first.
func (j *journal) inOrder() []entry { return slices.Concat(j.entries[j.next:], j.entries[:j.next]) }

// faultLocked notes a fault with what belongs to it: all about the messages and those before and after them, the life of the
// session and of the publishers, and what its client did last.
func (h *History) faultLocked(who string, s *Session, about []*message, format string, args ...any) {
	if len(h.faults) >= faultsMax {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, format, args...)
	for _, line := range h.excerptLocked(who, s, about) {
		b.WriteString("\n    " + line)
	}
	h.faults = append(h.faults, b.String())
	if len(h.faults) == 1 {
		close(h.fault)
	}
}

// about returns the messages that are there.
func about(messages ...*message) []*message {
	return slices.DeleteFunc(messages, func(m *message) bool { return m == nil })
}

func (h *History) excerptLocked(who string, s *Session, about []*message) []string {
	entries := h.journal.inOrder()
	from := 0
	for i, around := len(entries)-1, 0; i >= 0 && around < aroundMax; i-- {
		if entries[i].who == who {
			around++
		}
		from = i
	}
	since := h.now - lifeMax
	concerned := map[string]bool{"server": true}
	neighbours := map[ID]bool{}
	if s != nil {
		concerned[s.name] = true
	}
	for _, m := range about {
		since = min(since, m.firstSent-lifeMax)
		concerned[m.ID.From] = true
		for n := m.ID.N - 1; n <= m.ID.N+1; n++ {
			neighbours[ID{m.ID.From, n}] = true
		}
	}
	var lines []string
	for i, e := range entries {
		ofMessage := neighbours[e.id] && (s == nil || concerned[e.who])
		ofLife := e.id == ID{} && e.at >= since && concerned[e.who]
		if ofMessage || ofLife || i >= from && e.who == who {
			lines = append(lines, e.String())
		}
	}
	if extra := len(lines) - reportMax; extra > 0 {
		half := reportMax / 2
		lines = slices.Concat(lines[:half], []string{fmt.Sprintf("… %d left out …", extra)}, lines[len(lines)-half:])
	}
	return lines
}

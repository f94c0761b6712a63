package main

import (
	"fmt"
	"path"
	"strings"
)

// versions are the standards, in the order of the page.
var versions = []struct{ prefix, name string }{ //nolint:gochecknoglobals // a table
	{"MQTT5", "MQTT 5.0"},
	{"MQTT311", "MQTT 3.1.1"},
}

// chapters name what sections are about, by the longest beginning that fits.
var chapters = []struct{ beginning, name string }{ //nolint:gochecknoglobals // a table
	{"1.", "Text and numbers"},
	{"2.", "Every packet"},
	{"3.10.", "UNSUBSCRIBE"},
	{"3.11.", "UNSUBACK"},
	{"3.12.", "PINGREQ"},
	{"3.14.", "DISCONNECT"},
	{"3.15.", "AUTH"},
	{"3.1.", "CONNECT"},
	{"3.2.", "CONNACK"},
	{"3.3.", "PUBLISH"},
	{"3.4.", "PUBACK"},
	{"3.5.", "PUBREC"},
	{"3.6.", "PUBREL"},
	{"3.7.", "PUBCOMP"},
	{"3.8.", "SUBSCRIBE"},
	{"3.9.", "SUBACK"},
	{"4.", "Operation"},
	{"6.", "WebSocket"},
	{"7.", "Conformance itself"},
}

func chapterOf(s *statement) string {
	for _, c := range chapters {
		if strings.HasPrefix(s.section()+".", c.beginning) {
			return c.name
		}
	}
	return "More"
}

const intro = `<!-- Written by docs/conformance (make conformance); change statements.tsv or the tests, not this page. -->

# Conformance

Every normative statement of MQTT 5.0 and MQTT 3.1.1, by its number there (the texts are OASIS's:
[5.0](https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html), [3.1.1](https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html)), what
this server does about it, and the tests that show it. A test shows a statement when its name, or that of one of its parts, holds the number;
the results are those of a run of all tests, and CI fails when one is missing, has failed, or is not what this page says.

`

// proofsMax is how many test functions a row names (chosen: a row stays a few lines).
const proofsMax = 4

// render writes the page.
func render(statements []*statement) string {
	var b strings.Builder
	b.WriteString(intro)
	b.WriteString("| | statements | shown by tests | nothing to show |\n| --- | --- | --- | --- |\n")
	for _, v := range versions {
		var all, shown, reasoned int
		for _, s := range statements {
			if s.version() != v.prefix {
				continue
			}
			all++
			if len(s.proofs) > 0 && len(s.failed) == 0 {
				shown++
			} else if s.because != "" {
				reasoned++
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", v.name, all, shown, reasoned)
	}
	b.WriteString("\n" + disagreements)
	for _, v := range versions {
		fmt.Fprintf(&b, "\n## %s\n", v.name)
		chapter := ""
		for _, s := range statements {
			if s.version() != v.prefix {
				continue
			}
			if c := chapterOf(s); c != chapter {
				chapter = c
				fmt.Fprintf(&b, "\n### %s: %s\n\n| | what the server does | shown by | |\n| --- | --- | --- | --- |\n", v.name, chapter)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s.number(), s.does, shownBy(s), result(s))
		}
	}
	return b.String()
}

// shownBy lists the tests, or says why there are none.
func shownBy(s *statement) string {
	if len(s.proofs) == 0 {
		return s.because
	}
	var links []string
	for _, p := range s.proofs[:min(len(s.proofs), proofsMax)] {
		links = append(links, fmt.Sprintf("[%s](%s)", p.function, path.Join("..", p.file)))
	}
	if more := len(s.proofs) - proofsMax; more > 0 {
		links = append(links, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(links, ", ")
}

func result(s *statement) string {
	switch {
	case len(s.failed) > 0:
		return "fail"
	case len(s.proofs) > 0:
		return "pass"
	case s.because != "":
		return "–"
	}
	return "not shown"
}

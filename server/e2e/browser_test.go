package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// browser is headless Chromium. What goes wrong in a page is a failure, unless it is expected.
type browser struct {
	*actor
	ready    chan struct{}
	expected []string // parts of what pages may write to their console
}

func startBrowser(tb testing.TB, expected ...string) *browser {
	tb.Helper()
	chromium := program(tb, "/usr/bin/chromium", "CHROMIUM")
	// mqtt.js may answer a packet that came just before the close; Chromium notes that it no longer can.
	expected = append(expected, "WebSocket is already in CLOSING or CLOSED state")
	b := &browser{ready: make(chan struct{}), expected: expected}
	cmd := node(tb, "browser.mjs")
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	b.actor = startActor(tb, "Chromium", cmd, b.take)
	select {
	case <-b.ready:
	case <-b.process.ended:
		tb.Fatalf("Chromium does not start; %s:\n%s", install, b.process.stderr.String())
	case <-time.After(2 * patience):
		tb.Fatal("Chromium does not start in time")
	}
	return b
}

func (b *browser) take(line []byte, event string) {
	if event == "ready" {
		close(b.ready)
		return
	}
	var of struct{ Page, Text string }
	if err := json.Unmarshal(line, &of); err != nil {
		b.t.Errorf("Chromium: %v: %s", err, line)
	}
	for _, part := range b.expected {
		if strings.Contains(of.Text, part) {
			return
		}
	}
	b.t.Errorf("page %s, %s: %s", of.Page, event, of.Text)
}

// page is a page in a context of its own.
type page struct {
	*browser
	name string
}

// view is how a page is shown.
type view struct {
	width, height int
	dark, clock   bool
}

func (b *browser) open(name, url string, v view) *page {
	b.t.Helper()
	if v.width == 0 {
		v.width, v.height = 1000, 680
	}
	p := &page{b, name}
	p.ask("open", map[string]any{"url": url, "width": v.width, "height": v.height, "dark": v.dark, "clock": v.clock})
	return p
}

// ask gives a command that must succeed.
func (p *page) ask(do string, of map[string]any) []string {
	p.t.Helper()
	of["page"] = p.name
	var ok struct{ Texts []string }
	p.do(do, of, &ok)
	return ok.Texts
}

func (p *page) fill(selector, text string) {
	p.t.Helper()
	p.ask("fill", map[string]any{"selector": selector, "text": text})
}

func (p *page) press(selector, key string) {
	p.t.Helper()
	p.ask("press", map[string]any{"selector": selector, "key": key})
}

func (p *page) click(selector string) {
	p.t.Helper()
	p.ask("click", map[string]any{"selector": selector})
}

// keys presses keys wherever the focus is: "Tab", or text to type.
func (p *page) keys(keys ...string) {
	p.t.Helper()
	var all []any
	for _, k := range keys {
		if k == "Tab" || k == "Enter" || k == "Space" {
			all = append(all, k)
		} else {
			all = append(all, map[string]string{"text": k})
		}
	}
	p.ask("keys", map[string]any{"keys": all})
}

// shows waits until an element shows a text.
func (p *page) shows(selector, text string) {
	p.t.Helper()
	p.ask("shows", map[string]any{"selector": selector, "text": text})
}

// loses waits until no such element shows a text any more.
func (p *page) loses(selector, text string) {
	p.t.Helper()
	p.ask("gone", map[string]any{"selector": selector, "text": text})
}

func (p *page) texts(selector string) []string {
	p.t.Helper()
	return p.ask("texts", map[string]any{"selector": selector})
}

func (p *page) text(selector string) string {
	p.t.Helper()
	return strings.Join(p.texts(selector), "\n")
}

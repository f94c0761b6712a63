package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// chatRules are those that the page and the README of the examples name.
var chatRules = []rule{
	allow("subscribe", "rooms/+/#"), allow("publish", "rooms/+/chat"), allow("publish", "rooms/+/topic"),
	allow("publish", "rooms/+/online/${client_id}"),
}

// chatPage is the address of the example for a visitor.
func (a *app) chatPage(key, name string) string {
	return "http://" + a.s.http + "/examples/?" + url.Values{"app": {a.id}, "key": {key}, "name": {name}}.Encode()
}

const (
	connected = `#status[data-state="connected"]`
	failed    = `#status[data-state="failed"]`
)

// says sends a message from a page, and waits until the server has it.
func (p *page) says(text string) {
	p.t.Helper()
	p.fill("#text", text)
	p.press("#text", "Enter")
	p.shows(`#messages li:has-text("`+text+`") .fate`, "Sent")
}

func TestVisitorsOfTheChatPageSeeEachOtherAndWhatIsKept(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("demo", chatRules...)
		key := a.newKey("publishable", "page", "").Value
		b := startBrowser(t)

		ada := b.open("Ada", a.chatPage(key, "Ada"), view{})
		ada.shows(connected, "Connected as Ada in room lobby.")
		bob := joinByKeyboard(b, "Bob", s, key)
		ada.shows("#online", "Bob")
		ada.fill("#topic", "Lunch on Friday")
		ada.press("#topic", "Enter")
		bob.shows("#room-name", "#lobby: Lunch on Friday")
		ada.says("Hello Bob, where shall we go?")
		bob.says("The place by the river?")
		ada.says("Yes! At noon.")
		bob.says("See you there, then. I will book a table.")
		want := []string{"Hello Bob, where shall we go?", "The place by the river?", "Yes! At noon.", "See you there, then. I will book a table."}
		for _, p := range []*page{ada, bob} {
			p.shows("#messages", "I will book a table.")
			if got := p.texts("#messages .text"); !slices.Equal(got, want) {
				t.Errorf("%s sees %q, want %q", p.name, got, want)
			}
		}
		screenshot(t, ada)

		// Another client of the same room is in the same conversation, whatever it is written in.
		py := paho.connect(t, "py", login{app: a, password: a.token("py", time.Hour, ""), transport: "tcp"}).follow("rooms/lobby/topic")
		py.hears(`rooms/lobby/topic "Lunch on Friday"`)
		py.say("rooms/lobby/chat", `{"id":"1","from":"Grace","text":"<b>Hello</b> from Python"}`)
		ada.shows("#messages li", "<b>Hello</b> from Python")
		py.say("rooms/lobby/chat", `no JSON at all`)
		py.say("rooms/lobby/chat", `{"id":2,"text":{}}`)

		// Who comes later sees what is kept, and not what was said.
		cyn := b.open("Cyn", a.chatPage(key, "Cyn"), view{width: 390, height: 700, dark: true})
		cyn.shows("#room-name", "#lobby: Lunch on Friday")
		cyn.shows("#online", "Ada")
		if got := cyn.texts("#messages li"); len(got) != 0 {
			t.Errorf("Cyn, who came late, sees %q", got)
		}
		// A page that goes takes its presence with it: that is the will.
		bob.ask("close", map[string]any{})
		ada.loses("#online li", "Bob")
		cyn.loses("#online li", "Bob")
		if got := cyn.texts("#online li"); !slices.Equal(got, []string{"Ada", "Cyn (you)"}) {
			t.Errorf("Cyn sees %q online", got)
		}
		if kept := a.retained("rooms/lobby/online/#"); len(kept) != 2 {
			t.Errorf("presence kept = %v, want that of Ada and Cyn", kept)
		}
	})
}

// joinByKeyboard fills the form and says something without a mouse.
func joinByKeyboard(b *browser, name string, s *server, key string) *page {
	p := b.open(name, "http://"+s.http+"/examples/", view{})
	p.shows("#status", "Enter an app and its publishable key")
	p.keys("Tab", "Tab", "demo", "Tab", key, "Tab", "lobby", "Tab", name, "Enter")
	p.shows(connected, "Connected as "+name+" in room lobby.")
	if focus := p.ask("focused", map[string]any{}); focus[0] != "text" {
		p.t.Errorf("after joining, the focus is on %q, want the message field", focus[0])
	}
	return p
}

// screenshot is for the README; CI leaves the tree as it is.
func screenshot(t story, p *page) {
	t.Helper()
	if os.Getenv("UPDATE_SCREENSHOTS") != "1" || t.on != sqlite {
		return
	}
	path, err := filepath.Abs("../../docs/images/chat.png")
	if err != nil {
		t.Fatal(err)
	}
	p.ask("screenshot", map[string]any{"path": path})
}

func TestTheChatPageRenewsItsTokenWithoutReconnecting(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("demo", chatRules...)
		key := a.newKey("publishable", "page", "").Value
		b := startBrowser(t)
		ada := b.open("Ada", a.chatPage(key, "Ada"), view{clock: true})
		ada.shows(connected, "Connected")
		ada.click("#settings > summary")
		watcher := mqttJS.connect(t, "watcher", login{app: a, password: a.token("watcher", time.Hour, "")}).follow("rooms/lobby/+")
		sub, ids := ada.text("#fact-sub"), a.connected()
		connects := s.metric("embercast_connections_total", "")

		ada.ask("forward", map[string]any{"seconds": 59*60 + 30}) // to the minute before the token's hour is over
		ada.shows("#facts", "once")
		ada.says("still here")
		if m := watcher.next(); m.Topic != "rooms/lobby/chat" {
			t.Errorf("the watcher heard %+v", m)
		}
		if got := ada.text("#fact-sub"); got != sub {
			t.Errorf("the visitor is %s after the renewal, want %s as before", got, sub)
		}
		if got := a.connected(); !slices.Equal(got, ids) {
			t.Errorf("connected = %v, want %v as before", got, ids)
		}
		if got := s.metric("embercast_connections_total", ""); got != connects {
			t.Errorf("%v connections were made for the renewal, want none", got-connects)
		}
		signedInPageRenews(t.T, a, b)
	})
}

// signedInPageRenews is the same for a token of one's own server, which the page cannot get by itself.
func signedInPageRenews(t *testing.T, a *app, b *browser) {
	t.Helper()
	eve := b.open("Eve", "http://"+a.s.http+"/examples/?app=demo&name=Eve", view{clock: true})
	paste := func(token string) {
		eve.fill(`input[name="token"]`, token)
		eve.press(`input[name="token"]`, "Enter")
	}
	eve.click("summary:has-text('Sign in with a token')")
	paste(a.token("eve", time.Hour, ""))
	eve.shows(connected, "Connected as Eve")
	if got := eve.text("#fact-sub"); got != "eve" {
		t.Errorf("signed in as %q, want eve", got)
	}
	eve.ask("forward", map[string]any{"seconds": 59*60 + 30}) // to the minute before the token's hour is over
	eve.shows("#notice", "Paste a new one")
	eve.click("#settings > summary")
	paste(a.token("somebody-else", time.Hour, ""))
	eve.shows("#notice", "did not take the new token")
	paste(a.token("eve", time.Hour, ""))
	eve.shows("#facts", "once")
	eve.says("renewed in place")
	if shown := a.connected(); len(shown) != 3 {
		t.Errorf("connected = %v, want Ada, the watcher and Eve", shown)
	}
}

func TestAVisitorWhoseTimeIsOverComesBackAsANewOne(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("demo", chatRules...)
		a.set(`{"token_ttl_max_seconds":6}`)
		key := a.newKey("publishable", "page", "").Value
		b := startBrowser(t, "status of 422")
		ada := b.open("Ada", a.chatPage(key, "Ada"), view{})
		ada.shows(connected, "Connected")
		first := ada.text("#fact-sub")
		ada.says("before")
		ada.loses("#fact-sub", first)
		ada.shows(connected, "Connected")
		ada.says("after")
		if got := ada.texts("#messages .text"); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("Ada sees %q", got)
		}
	})
}

func TestTheChatPageSaysWhatToDoAndComesBackByItself(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t))
		a := s.newApp("demo")
		key := a.newKey("publishable", "page", "").Value
		b := startBrowser(t, "WebSocket connection to", "Failed to load resource")

		bad := b.open("Bad", a.chatPage("ek_no_such_key", "Bad"), view{})
		bad.shows(failed, "has no app “demo” with that publishable key")
		wrong := b.open("Wrong", a.chatPage(a.newKey("secret", "server", "").Value, "Wrong"), view{})
		wrong.shows(failed, "Use a publishable key")

		// An app without rules denies everything; the page shows which would do, and goes on by itself.
		ada := b.open("Ada", a.chatPage(key, "Ada"), view{})
		ada.shows(failed, "The app’s rules do not let you into this room.")
		ada.shows("#rules-command", "rooms/+/online/${client_id}")
		a.setRules(chatRules...)
		ada.shows(connected, "Connected as Ada")

		// What is said and set while the rules have changed.
		a.setRules(chatRules[0], chatRules[3])
		ada.fill("#text", "may I?")
		ada.press("#text", "Enter")
		ada.shows("#messages .fate", "Not sent: the app’s rules do not let you say this here.")
		ada.fill("#topic", "mine")
		ada.press("#topic", "Enter")
		ada.shows("#notice", "do not let you set the topic")
		a.setRules(chatRules[3])
		ada.shows("#notice", "you no longer get what is said here")
		a.setRules(chatRules...)
		ada.loses("#notice", "you no longer get")

		outage(t.T, s, a, b, ada, key)
	})
}

// outage kills the server under two pages and starts it again.
func outage(t *testing.T, s *server, a *app, b *browser, ada *page, key string) {
	t.Helper()
	bob := b.open("Bob", a.chatPage(key, "Bob"), view{})
	bob.shows("#online", "Ada")
	ada.fill("#topic", "Storm")
	ada.press("#topic", "Enter")
	bob.shows("#room-name", "Storm")
	ada.says("before the crash")
	s.crash()
	ada.shows(failed, "Trying again in")
	ada.shows(failed, "The server cannot be reached. Check that it runs and that you are online.")
	ada.fill("#text", "said while it was away")
	ada.press("#text", "Enter")
	ada.shows("#messages li", "Sending…")
	s.start()
	for _, p := range []*page{ada, bob} { // by themselves
		p.shows(connected, "Connected as "+p.name)
	}
	ada.shows(`#messages li:has-text("said while it was away") .fate`, "Sent")
	for _, p := range []*page{ada, bob} {
		p.shows("#room-name", "Storm")
		p.says("back: " + p.name)
	}
	for _, p := range []*page{ada, bob} {
		p.shows("#messages", "back: Bob")
		if got := p.texts("#messages .text"); !slices.Contains(got, "before the crash") {
			t.Errorf("%s has lost what was shown: %q", p.name, got)
		}
	}

	// Somebody is sent away: the page does not come back against that.
	for _, id := range a.connected() {
		s.call("DELETE", a.path("/clients/"+id), s.admin, nil)
	}
	ada.shows(failed, "An administrator ended your connection.")
	ada.click("#retry")
	ada.shows(connected, "Connected as Ada")
}

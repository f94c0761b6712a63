package broker

import (
	"sync"
	"sync/atomic"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
)

// walkStep is how many sessions a walk looks up under the app's lock at once (chosen: some microseconds; publishers and
// subscribers wait for it).
const walkStep = 512

// addSessionLocked puts a session into its app, under app.mu.
func (a *app) addSessionLocked(p *persistentSession) {
	a.sessions[p.clientID] = p
	p.place = len(a.all)
	a.all = append(a.all, p)
}

// removeSessionLocked takes it out; the last of all takes its place there.
func (a *app) removeSessionLocked(p *persistentSession) {
	if a.sessions[p.clientID] == p {
		delete(a.sessions, p.clientID)
	}
	if p.place >= len(a.all) || a.all[p.place] != p {
		return
	}
	last := len(a.all) - 1
	a.all[p.place] = a.all[last]
	a.all[p.place].place = p.place
	a.all[last] = nil
	a.all = a.all[:last]
}

// each calls do with every session that is there all the while, at least once; with one that comes or goes meanwhile it
// may. No lock is held by do, and the app's for some sessions at a time only. It walks from the end: what takes the
// place of a removed session comes from the end, and so was looked at already, or stays before where the walk is.
func (a *app) each(do func(p *persistentSession)) {
	var room [walkStep]*persistentSession
	for at := a.sessionCount(); at > 0; {
		a.mu.RLock()
		at = min(at, len(a.all))
		some := room[:copy(room[:], a.all[max(0, at-walkStep):at])]
		a.mu.RUnlock()
		for _, p := range some {
			do(p)
		}
		at -= len(some)
	}
}

func (a *app) sessionCount() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.all)
}

// stirred are the sessions into whose windows something may have come since the compactor looked.
type stirred struct {
	any      atomic.Bool
	mu       sync.Mutex // guards sessions; no other lock is taken while it is held
	sessions []*persistentSession
}

// stir notes that something may have come into the session's window.
func (p *persistentSession) stir() {
	if p.stirred.Load() || p.stirred.Swap(true) {
		return
	}
	s := &p.app.stirred
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions = append(s.sessions, p)
	s.any.Store(true)
}

func (s *stirred) take() []*persistentSession {
	if !s.any.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.sessions
	s.sessions = nil
	s.any.Store(false)
	for _, p := range all {
		p.stirred.Store(false) // before its window is looked at
	}
	return all
}

// windows are the positions that sessions have in their windows, for a run of the compactor: what was there when it
// began, and what has come since. What leaves meanwhile is held all the same, until the next run.
//
// Looking at every session once is enough: whatever enters a window later does so by a connection, which then tells so
// (Touch or Save, before the packet leaves). What has still to enter is pending or the live retained message, and the
// compactor asks that before it asks holds: what it finds to be neither has entered before, and was told. As ever, what
// fell out of a backlog, or was queued for a subscription that has ended, may go before it is sent; and so may a retained
// message that is replaced in the moment between a connection's taking it up and its window.
type windows struct {
	app  *app
	held map[message.Position]struct{}
}

func (a *app) inWindows() *windows {
	w := &windows{app: a, held: map[message.Position]struct{}{}}
	a.stirred.take()
	a.each(w.add)
	return w
}

func (w *windows) add(p *persistentSession) {
	p.state.Resend(func(e *session.Entry) bool {
		if e.State == session.StateSent {
			w.held[e.Position] = struct{}{}
		}
		return true
	})
}

// holds reports whether a position is in a window, or was since the run began.
func (w *windows) holds(at message.Position) bool {
	for _, p := range w.app.stirred.take() {
		w.add(p)
	}
	_, is := w.held[at]
	return is
}

package sqlstore

import (
	"maps"
	"math"
	"slices"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// Changes is what the session changes of a batch come to: each session's row and each subscription stands in it once,
// so that a batch takes a handful of statements. They are written in the order of the fields.
type Changes struct {
	Dropped       []SessionKey // sessions whose row goes
	Emptied       []SessionKey // sessions all of whose subscriptions go
	Unsubscribed  []SubscriptionKey
	Rows          []SessionOf
	Subscriptions []SubscriptionOf
	Settled       []SettledOf
}

// SessionKey names a session.
type SessionKey struct {
	App      broker.AppUID
	ClientID string
}

// SubscriptionKey names a subscription.
type SubscriptionKey struct {
	SessionKey
	Filter string
}

// SessionOf is a session's row.
type SessionOf struct {
	SessionKey
	Row *broker.SessionRow
}

// SubscriptionOf is a subscription's row; its beginning is filled in.
type SubscriptionOf struct {
	SessionKey
	Row broker.SubscriptionRow
}

// SettledOf is a pending row that goes.
type SettledOf struct {
	App broker.AppUID
	broker.PendingRow
}

// folded is what the changes of one session come to.
type folded struct {
	key          SessionKey
	deleted      bool // what is stored goes
	row          *broker.SessionRow
	unsubscribed map[string]struct{}
	subscribed   map[string]broker.SubscriptionRow
}

// Fold works out what the session changes of a batch come to.
func Fold(writes []broker.Write, n Numbers) *Changes {
	all := &Changes{}
	var order []*folded
	by := map[SessionKey]*folded{}
	for i := range writes {
		if n.Gone[i] {
			continue
		}
		for j := range writes[i].Sessions {
			c := &writes[i].Sessions[j]
			key := SessionKey{writes[i].App, c.ClientID}
			f := by[key]
			if f == nil {
				f = &folded{key: key}
				by[key] = f
				order = append(order, f)
			}
			f.fold(c, n.Seqs[i])
			for _, p := range c.Settle {
				all.Settled = append(all.Settled, SettledOf{writes[i].App, p})
			}
		}
	}
	for _, f := range order {
		f.addTo(all)
	}
	return all
}

func (f *folded) fold(c *broker.SessionChange, seq uint64) {
	if c.Delete {
		*f = folded{key: f.key, deleted: true}
	}
	for _, filter := range c.Unsubscribe {
		delete(f.subscribed, filter)
		if !f.deleted {
			if f.unsubscribed == nil {
				f.unsubscribed = map[string]struct{}{}
			}
			f.unsubscribed[filter] = struct{}{}
		}
	}
	if c.Keep != nil {
		f.row = c.Keep
	}
	for _, u := range c.Subscribe {
		if u.BeginsHere {
			u.Begins, u.BeginsHere = message.Position{Seq: seq, Part: math.MaxUint32}, false
		}
		if f.subscribed == nil {
			f.subscribed = map[string]broker.SubscriptionRow{}
		}
		f.subscribed[u.Filter] = u
	}
}

func (f *folded) addTo(all *Changes) {
	if f.deleted {
		all.Emptied = append(all.Emptied, f.key)
	}
	switch {
	case f.row != nil: // which replaces what is there
		all.Rows = append(all.Rows, SessionOf{f.key, f.row})
	case f.deleted:
		all.Dropped = append(all.Dropped, f.key)
	}
	for _, filter := range slices.Sorted(maps.Keys(f.unsubscribed)) {
		if _, again := f.subscribed[filter]; !again {
			all.Unsubscribed = append(all.Unsubscribed, SubscriptionKey{f.key, filter})
		}
	}
	for _, filter := range slices.Sorted(maps.Keys(f.subscribed)) {
		all.Subscriptions = append(all.Subscriptions, SubscriptionOf{f.key, f.subscribed[filter]})
	}
}

package broker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/embercast/embercast/realtime/message"
	"github.com/embercast/embercast/realtime/session"
	"github.com/embercast/embercast/realtime/topic"
)

const (
	// sysLevel is the first level of the topics on which an app's figures are published. Wildcards do not reach it
	// [MQTT5-4.7.2-1]: a rule must name it.
	sysLevel = "$SYS"
	// sysInterval is how often that is done (Mosquitto's sys_interval).
	sysInterval = 10 * time.Second
)

// sysFigures are what is told of one app: its own numbers, nobody else's.
type sysFigures struct {
	Stats
	version string
	uptime  time.Duration
	groups  int // Shared Subscriptions
}

// sysTopics have the names that Mosquitto gives them, as far as it has them. What it counts apart as publish/… is all that
// is counted here: PUBLISH packets, and the bytes of their payloads.
var sysTopics = []struct {
	name  string // below $SYS/broker/
	value func(*sysFigures) string
}{
	{"version", func(f *sysFigures) string { return "embercast version " + f.version }},
	{"uptime", func(f *sysFigures) string { return fmt.Sprintf("%d seconds", int64(f.uptime.Seconds())) }},
	{"clients/connected", func(f *sysFigures) string { return strconv.Itoa(f.Connections) }},
	{"clients/disconnected", func(f *sysFigures) string { return strconv.Itoa(f.Sessions - f.Connections) }},
	{"clients/total", func(f *sysFigures) string { return strconv.Itoa(f.Sessions) }},
	{"subscriptions/count", func(f *sysFigures) string { return strconv.Itoa(f.Subscriptions) }},
	{"shared_subscriptions/count", func(f *sysFigures) string { return strconv.Itoa(f.groups) }},
	{"retained messages/count", func(f *sysFigures) string { return strconv.Itoa(f.Retained) }},
	{"messages/received", func(f *sysFigures) string { return count(f.Total.MessagesIn) }},
	{"messages/sent", func(f *sysFigures) string { return count(f.Total.MessagesOut) }},
	{"messages/dropped", func(f *sysFigures) string { return count(f.Total.Dropped) }},
	{"bytes/received", func(f *sysFigures) string { return count(f.Total.BytesIn) }},
	{"bytes/sent", func(f *sysFigures) string { return count(f.Total.BytesOut) }},
	{"publish/messages/received", func(f *sysFigures) string { return count(f.Total.MessagesIn) }},
	{"publish/messages/sent", func(f *sysFigures) string { return count(f.Total.MessagesOut) }},
	{"publish/messages/dropped", func(f *sysFigures) string { return count(f.Total.Dropped) }},
	{"publish/bytes/received", func(f *sysFigures) string { return count(f.Total.BytesIn) }},
	{"publish/bytes/sent", func(f *sysFigures) string { return count(f.Total.BytesOut) }},
	{"load/messages/received/1min", load(1, func(c Counters) int64 { return c.MessagesIn })},
	{"load/messages/received/5min", load(5, func(c Counters) int64 { return c.MessagesIn })},
	{"load/messages/received/15min", load(15, func(c Counters) int64 { return c.MessagesIn })},
	{"load/messages/sent/1min", load(1, func(c Counters) int64 { return c.MessagesOut })},
	{"load/messages/sent/5min", load(5, func(c Counters) int64 { return c.MessagesOut })},
	{"load/messages/sent/15min", load(15, func(c Counters) int64 { return c.MessagesOut })},
	{"load/bytes/received/1min", load(1, func(c Counters) int64 { return c.BytesIn })},
	{"load/bytes/received/5min", load(5, func(c Counters) int64 { return c.BytesIn })},
	{"load/bytes/received/15min", load(15, func(c Counters) int64 { return c.BytesIn })},
	{"load/bytes/sent/1min", load(1, func(c Counters) int64 { return c.BytesOut })},
	{"load/bytes/sent/5min", load(5, func(c Counters) int64 { return c.BytesOut })},
	{"load/bytes/sent/15min", load(15, func(c Counters) int64 { return c.BytesOut })},
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

// load is the average a minute over the last whole minutes, as many as there were.
func load(minutes int, of func(Counters) int64) func(*sysFigures) string {
	return func(f *sysFigures) string {
		last := f.Minutes[max(0, len(f.Minutes)-minutes):]
		sum := int64(0)
		for i := range last {
			sum += of(last[i].Counters)
		}
		return strconv.FormatFloat(float64(sum)/float64(max(1, len(last))), 'f', 2, 64)
	}
}

// sysMessages are the app's figures as of now. They are never stored; that they are retained is what a subscriber with
// Retain As Published sees.
func (b *Broker) sysMessages(a *app) []*message.Message {
	stats, err := b.Stats(a.uid)
	if err != nil {
		return nil // it is going away
	}
	now := b.now()
	f := sysFigures{Stats: stats, version: b.cfg.Version, uptime: now.Sub(b.started)}
	a.mu.RLock()
	f.groups = len(a.groups)
	a.mu.RUnlock()
	all := make([]*message.Message, len(sysTopics))
	for i, t := range sysTopics {
		all[i] = &message.Message{Topic: sysLevel + "/broker/" + t.name, Payload: []byte(t.value(&f)), Retain: true, Arrived: now}
	}
	return all
}

// keepSys publishes the figures of each app to those of its clients that have subscribed to them, until ctx ends.
func (b *Broker) keepSys(ctx context.Context) {
	tick := time.NewTicker(sysInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, a := range b.openApps() {
			a.mu.RLock()
			wanted := a.tree.HasFirst(sysLevel)
			a.mu.RUnlock()
			if wanted {
				b.publishSys(a)
			}
		}
	}
}

func (b *Broker) publishSys(a *app) {
	k := NewMarks()
	defer k.Release()
	for _, m := range b.sysMessages(a) {
		a.route(m, k)
	}
}

// greetSys gives a new subscription to figures what they are now, in the place of retained messages, which no topic
// below $SYS has.
func (b *Broker) greetSys(c *Client, sub session.Subscription, r *SubscribeResult) {
	if r.Reason.Failed() || !replays(sub, r.Existed) || sub.Filter != sysLevel && !strings.HasPrefix(sub.Filter, sysLevel+"/") {
		return
	}
	c.mu.Lock()
	s := c.subs[sub.Filter]
	c.mu.Unlock()
	if s != nil {
		r.Replay = &Replay{sub: s, sys: func() []*message.Message { return b.sysMessages(c.app) }}
	}
}

// nextSys is Next for figures. They are taken when the first is sent: none is older than what has come live before it.
func (r *Replay) nextSys() (d Delivery, found bool) {
	if r.figures == nil {
		r.figures = r.sys()
	}
	for s := r.sub; len(r.figures) > 0; {
		m := r.figures[0]
		r.figures = r.figures[1:]
		if topic.Match(s.inner, m.Topic) && s.takes(m) {
			return Delivery{Message: m, SubscriptionIDs: s.ids, Retain: true}, true
		}
	}
	r.ended = true
	return Delivery{}, false
}

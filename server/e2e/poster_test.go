package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/embercast/embercast/server/e2e/history"
)

// poster publishes by REST.
type poster struct {
	w      *world
	name   string
	topics []string
	rng    *rand.Rand
	count  int
	open   atomic.Bool // a call is under way, or its outcome is not known
}

// joinByREST adds one who publishes by REST.
func (w *world) joinByREST(name string, topics ...string) {
	w.posts = append(w.posts, &poster{w: w, name: name, topics: topics, rng: rand.New(rand.NewPCG(w.seed, uint64(len(name))))})
}

func (p *poster) run(ctx context.Context) {
	for {
		run := p.w.h.Run() // before: the server that a call goes to may be killed before it is made
		if !p.w.awaitUp(ctx) {
			return
		}
		p.w.stayAway(ctx, rand.N(2*pauseMax))
		if p.w.calm() {
			p.w.stayAway(ctx, 5*time.Millisecond)
			continue
		}
		p.publish(ctx, run)
	}
}

// publish publishes some messages as one write, to the server of a run at the earliest.
func (p *poster) publish(ctx context.Context, run int) {
	p.open.Store(true)
	defer p.open.Store(false)
	type post struct {
		Topic   string `json:"topic"`
		Payload string `json:"payload"`
		QoS     byte   `json:"qos"`
		Retain  bool   `json:"retain"`
	}
	var posts []post
	var ids []history.ID
	for range 1 + p.rng.IntN(3) {
		p.count++
		topic := p.topics[p.rng.IntN(len(p.topics))]
		m := history.Message{ID: history.ID{From: p.name, N: p.count}, Topic: topic, QoS: byte(1 + p.rng.IntN(2)), Retain: topic[0] == 'r'}
		p.w.h.Sent(m)
		ids = append(ids, m.ID)
		posts = append(posts, post{topic, string(payloadOf(m.ID, p.rng.IntN(20))), m.QoS, m.Retain})
	}
	status := p.post(ctx, posts)
	if status == http.StatusOK {
		for _, id := range ids {
			p.w.h.Acked(id)
		}
		return
	}
	if status != 0 && !p.w.ending.Load() {
		p.w.h.Fault(p.name, "is answered "+http.StatusText(status), ids[0])
	}
	// Nobody has said what came of it. It is known to be over when another server is up.
	for p.w.awaitUp(ctx) && p.w.h.Run() == run {
		p.w.stayAway(ctx, time.Millisecond)
	}
	for _, id := range ids {
		p.w.h.Abandoned(id)
	}
}

// post returns the status, or 0 where there is no whole answer.
func (p *poster) post(ctx context.Context, body any) int {
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.w.s.env["HTTP_ADDR"]+p.w.app.path("/publish"), bytes.NewReader(raw))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.w.s.admin)
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // a connection of an earlier server would have the call repeated
	res, err := httpClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close() //nolint:errcheck // it is read whole
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// TestAStormOfTakeoversEndsWithOneSessionAndOneWill: 100 a second of one client id. A will with a delay is not sent while
// somebody takes its session on [MQTT5-3.1.3-9].
func TestAStormOfTakeoversEndsWithOneSessionAndOneWill(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("storm", anything...)
		watcher := a.connectWire("watcher", a.token("watcher", time.Hour, ""))
		watcher.subscribe("wills", "fence")
		token := a.token("ada", time.Hour, "")
		const takeovers, perSecond, delaySeconds = 300, 100, 3
		var early, connected, told, kicked atomic.Int32
		var all sync.WaitGroup
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for range takeovers {
			<-tick.C
			all.Go(func() {
				w := dialWire(t, s.mqtt)
				p := connectPacket(a, packet.V5, "phone", token)
				p.CleanStart = false
				p.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 600}
				p.Will = &packet.Will{Topic: "wills", Payload: []byte("gone"), QoS: 1, Properties: &packet.Properties{Has: packet.PropWillDelay, WillDelay: delaySeconds}}
				w.send(p)
				p2, err := w.read(2 * patience)
				if errors.Is(err, io.EOF) {
					early.Add(1) // taken over before its CONNACK, which knows no word for it
					return
				}
				if ack, ok := p2.(*packet.Connack); !ok || ack.Reason != packet.Success {
					t.Errorf("got %T %+v %v, want CONNACK", p2, p2, err)
					return
				}
				connected.Add(1)
				switch d := next[*packet.Disconnect](w); d.Reason {
				case packet.SessionTakenOver:
					told.Add(1)
				case packet.AdministrativeAction:
					kicked.Add(1)
				default:
					t.Errorf("DISCONNECT %v", d.Reason)
				}
				w.wantClosed()
			})
		}
		eventually(t, patience, func() string {
			if e, c, d := early.Load(), connected.Load(), told.Load(); e+c != takeovers || d != c-1 {
				return fmt.Sprintf("%d were closed at once, %d connected and %d were told that they were taken over", e, c, d)
			}
			return ""
		})
		if got := a.connected(); !slices.Equal(got, []string{"phone", "watcher"}) {
			t.Errorf("connected = %v, want one phone", got)
		}
		if got := a.sessions(); !slices.Equal(got, []string{"phone", "watcher"}) {
			t.Errorf("sessions = %v, want one phone", got)
		}
		// It still works, and nobody's will has come.
		a.publish("fence", "after the storm", false)
		if m := next[*packet.Publish](watcher); string(m.Topic) != "fence" {
			t.Errorf("got %s %s before the storm's end", m.Topic, m.Payload)
		}
		s.call(http.MethodDelete, a.path("/clients/phone"), s.admin, nil).want(http.StatusNoContent) // its network ends, its session does not
		all.Wait()
		if kicked.Load() != 1 {
			t.Errorf("%d were kicked, want the last one", kicked.Load())
		}
		if m := next[*packet.Publish](watcher); string(m.Topic) != "wills" {
			t.Errorf("got %s %s, want the will", m.Topic, m.Payload)
		}
		// Longer than the delay of every will that was not to come.
		if p, err := watcher.read((delaySeconds + 1) * time.Second); err == nil {
			t.Errorf("got %T %+v, want one will", p, p)
		}
	})
}

// sessions returns the ids of all clients, connected or stored.
func (a *app) sessions() []string {
	a.s.t.Helper()
	var page struct {
		Items []struct {
			ClientID string `json:"client_id"`
		}
	}
	a.s.call("GET", a.path("/clients?limit=1000"), a.s.admin, nil).want(http.StatusOK).into(&page)
	ids := []string{}
	for _, c := range page.Items {
		ids = append(ids, c.ClientID)
	}
	return ids
}

// TestFiveThousandReconnectAtOnce: all are served, after a network that ended for all of them at once.
func TestFiveThousandReconnectAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("and begin anew", func(t *testing.T) { reconnectAtOnce(t, false) })
	t.Run("and find their sessions", func(t *testing.T) { reconnectAtOnce(t, true) })
}

func reconnectAtOnce(t *testing.T, stored bool) {
	t.Helper()
	s := startServer(t, sqlite, "LOG_LEVEL=info")
	a := s.newApp("crowd", anything...)
	token := a.token("crowd", time.Hour, "")
	const clients = 5_000
	crowd := make([]*wire, clients)
	together := func(do func(i int) error) {
		t.Helper()
		began := time.Now()
		errs := make([]error, clients)
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() { errs[i] = do(i) })
		}
		all.Wait()
		failed := 0
		for _, err := range errs {
			if err != nil {
				if failed++; failed < 5 {
					t.Error(err)
				}
			}
		}
		if failed > 0 {
			t.Fatalf("%d of %d failed", failed, clients)
		}
		t.Logf("%d clients in %v", clients, time.Since(began).Round(time.Millisecond))
	}
	const eachWaits = 3 * patience
	present := false
	errBusy := errors.New("storage is away, or too slow")
	attempt := func(i int) error {
		c, err := (&net.Dialer{Timeout: eachWaits}).DialContext(t.Context(), "tcp", s.mqtt)
		if err != nil {
			return err
		}
		w := &wire{t: t, net: c, decoder: packet.NewDecoder(1 << 20)}
		w.speak(packet.V5)
		crowd[i] = w
		connect := connectPacket(a, packet.V5, fmt.Sprint("c", i), token)
		if stored {
			connect.CleanStart = false
			connect.Properties = &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 600}
		}
		b := connect.Append(nil, packet.V5)
		answers := []packet.Type{packet.TypeConnack, packet.TypeSuback}
		if present { // the subscription is there
			answers = answers[:1]
		} else {
			b = (&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "all", QoS: 1}}}).Append(b, packet.V5)
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		for _, want := range answers {
			p, err := w.read(eachWaits)
			if err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			ack, isConnack := p.(*packet.Connack)
			end, isEnd := p.(*packet.Disconnect)
			switch {
			case isConnack && ack.Reason == packet.ServerUnavailable, isEnd && end.Reason == packet.ServerBusy:
				_ = c.Close() //nolint:errcheck // of a test
				return errBusy
			case p.Type() != want, isConnack && present && !ack.SessionPresent:
				return fmt.Errorf("client %d got %T %+v", i, p, p)
			}
		}
		return nil
	}
	// Where the disk is too slow for all of them at once, some are told so after 10 s, and try again: all are served.
	connect := func(i int) error {
		until := time.Now().Add(eachWaits)
		for {
			if err := attempt(i); !errors.Is(err, errBusy) || time.Now().After(until) {
				return err
			}
		}
	}
	defer func() {
		for _, w := range crowd {
			if w != nil {
				_ = w.net.Close() //nolint:errcheck // of a test
			}
		}
	}()
	together(connect)
	for _, w := range crowd {
		if err := w.net.Close(); err != nil {
			t.Fatal(err)
		}
	}
	present = stored
	together(connect)
	a.publish("all", "hello", false)
	together(func(i int) error {
		p, err := crowd[i].read(eachWaits)
		if err != nil {
			return err
		}
		if m, ok := p.(*packet.Publish); !ok || string(m.Payload) != "hello" {
			return fmt.Errorf("client %d got %T %+v", i, p, p)
		}
		return nil
	})
	if refused := s.metric("embercast_refusals_total", ""); refused != 0 && !stored { // a slow disk may refuse some for now
		t.Errorf("%v were refused", refused)
	}
}

// TestFloodsMeetTheirLimits is of what a client may send by the grammar and no server can take without end.
func TestFloodsMeetTheirLimits(t *testing.T) {
	t.Parallel()
	s := startServer(t, sqlite)
	a := s.newApp("floods", anything...)
	talk := converse(t, a)
	token := a.token("flood", time.Hour, "")
	empty := make([]packet.UserProperty, 190_000) // of five bytes each
	publish := func(users []packet.UserProperty) *packet.Publish {
		props := &packet.Properties{Has: packet.PropUser, User: users}
		return &packet.Publish{Topic: []byte("flood"), Payload: []byte("p"), Properties: props}
	}
	t.Run("as many user properties as a packet holds are taken, and come out again", func(t *testing.T) {
		a := a.with(t)
		w := a.connectWire("properties", token)
		w.subscribe("flood")
		for range 20 {
			w.send(publish(empty))
			if m := next[*packet.Publish](w); len(m.Properties.User) != len(empty) {
				t.Fatalf("%d user properties came out, %d went in", len(m.Properties.User), len(empty))
			}
		}
	})
	t.Run("one more is DISCONNECT 0x95", func(t *testing.T) {
		a := a.with(t)
		w := a.connectWire("properties", token)
		w.send(publish(append(empty, make([]packet.UserProperty, 30_000)...)))
		if d := next[*packet.Disconnect](w); d.Reason != packet.PacketTooLarge {
			t.Errorf("DISCONNECT %v", d.Reason)
		}
		w.wantClosed()
	})
	t.Run("user properties in CONNECT beyond 16 KiB are CONNACK 0x95", func(t *testing.T) {
		w := dialWire(t, s.mqtt)
		p := connectPacket(a, packet.V5, "properties", token)
		p.Properties = &packet.Properties{Has: packet.PropUser, User: empty[:4_000]}
		w.send(p)
		if ack := next[*packet.Connack](w); ack.Reason != packet.PacketTooLarge {
			t.Errorf("CONNACK %v", ack.Reason)
		}
		w.wantClosed()
	})
	t.Run("an alias that changes its topic with every message keeps one topic", func(t *testing.T) {
		a := a.with(t)
		w := a.connectWire("aliases", token)
		before := s.with(t).heap()
		long := strings.Repeat("x", 900)
		for i := range 50_000 {
			props := &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: uint16(1 + i%100)}
			w.send(&packet.Publish{Topic: fmt.Appendf(nil, "%s/%d", long, i), Properties: props})
		}
		w.send(&packet.Ping{Kind: packet.TypePingreq})
		next[*packet.Ping](w)
		if grown := s.with(t).heap() - before; grown > 32<<20 {
			t.Errorf("the heap grew by %v MiB", grown/(1<<20))
		}
		w.send(&packet.Publish{Topic: []byte("x"), Properties: &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: 101}})
		if d := next[*packet.Disconnect](w); d.Reason != packet.TopicAliasInvalid {
			t.Errorf("DISCONNECT %v", d.Reason)
		}
	})
	t.Run("subscriptions beyond subscriptions_per_client_max are SUBACK 0x97, one by one", func(t *testing.T) {
		a := a.with(t)
		w := a.connectWire("subscriptions", token)
		given, refused := 0, 0
		for packets := range 20 {
			filters := make([]string, 1_000)
			for i := range filters {
				filters[i] = fmt.Sprintf("s/%d/%d/+", packets, i)
			}
			for _, reason := range w.subscribe(filters...) {
				switch reason {
				case packet.GrantedQoS1:
					given++
				case packet.QuotaExceeded:
					refused++
				default:
					t.Fatalf("SUBACK %v", reason)
				}
			}
		}
		if given != 1_000 || refused != 19_000 {
			t.Errorf("%d were granted and %d refused, want 1000 and 19000", given, refused)
		}
		if got := w.subscribe("s/0/0/+"); got[0] != packet.GrantedQoS1 {
			t.Errorf("again, what it has: %v", got)
		}
	})
	t.Run("a topic as deep as may be is taken, one deeper is PUBACK 0x90 and SUBACK 0x8F", func(t *testing.T) {
		a := a.with(t)
		w := a.connectWire("deep", token)
		deepest := strings.Repeat("/", 31)
		if got := w.subscribe(deepest, deepest+"/", strings.Repeat("+/", 31)+"#", strings.Repeat("+/", 32)+"#"); !slices.Equal(got,
			[]packet.ReasonCode{packet.GrantedQoS1, packet.TopicFilterInvalid, packet.GrantedQoS1, packet.TopicFilterInvalid}) {
			t.Errorf("SUBACK %v", got)
		}
		w.send(&packet.Publish{Topic: []byte(deepest + "/"), QoS: 1, PacketID: 1})
		if ack := next[*packet.Ack](w); ack.Reason != packet.TopicNameInvalid {
			t.Errorf("PUBACK %v", ack.Reason)
		}
		w.send(&packet.Publish{Topic: []byte(strings.Repeat("x", 1_025)), QoS: 1, PacketID: 1})
		if ack := next[*packet.Ack](w); ack.Reason != packet.TopicNameInvalid {
			t.Errorf("PUBACK %v", ack.Reason)
		}
	})
	t.Run("messages beyond twice the rate for 10 s are DISCONNECT 0x96", func(t *testing.T) {
		a := s.with(t).newApp("rate", anything...)
		a.set(`{"limits":{"publish_rate_max":20}}`)
		w := a.connectWire("rate", a.token("rate", time.Hour, ""))
		began := time.Now()
		var flooding sync.WaitGroup
		flooding.Go(func() {
			p := (&packet.Publish{Topic: []byte("x"), Payload: []byte("flood")}).Append(nil, packet.V5)
			for _, err := w.net.Write(p); err == nil; _, err = w.net.Write(p) {
				continue
			}
		})
		if d := next[*packet.Disconnect](w); d.Reason != packet.MessageRateTooHigh {
			t.Errorf("DISCONNECT %v", d.Reason)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("it took %v", took)
		}
		_ = w.net.Close() //nolint:errcheck // of a test
		flooding.Wait()
	})
	talk.goesOn()
}

// heap is the server's memory in use, in bytes.
func (s *server) heap() int {
	s.t.Helper()
	return int(s.metric("go_memstats_heap_alloc_bytes", ""))
}

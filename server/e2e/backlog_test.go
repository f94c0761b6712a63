package e2e

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/embercast/embercast/realtime/packet"
)

// TestABacklogBeyondItsLimits_loses_the_oldest_counted is about queued_messages_max and queued_bytes_max (CONTRACT section
// 3): what falls out is told by REST, what remains comes in order, also after a crash.
func TestABacklogBeyondItsLimits_loses_the_oldest_counted(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on)
		a := s.newApp("backlog", anything...)
		a.set(`{"limits":{"queued_messages_max":10,"queued_bytes_max":100000}}`)
		password := a.token("u", time.Hour, "")
		resume := func(id string) (*wire, bool) {
			w := dialWire(t.T, s.mqtt)
			p := connectPacket(a, packet.V5, id, password)
			p.CleanStart = false
			sessionExpiry(3600)(p)
			w.send(p)
			ack := next[*packet.Connack](w)
			return w, ack.SessionPresent
		}
		for _, id := range []string{"many", "large"} {
			w, _ := resume(id)
			w.subscribe(id)
			w.send(&packet.Disconnect{})
			w.wantClosed()
		}
		for i := range 15 {
			a.publish("many", strconv.Itoa(i), false)
		}
		large := make([]byte, 40_000)
		for i := range large {
			large[i] = 'x'
		}
		for range 4 {
			a.publish("large", string(large), false)
		}
		check := func(id string, queued, fallen int) {
			eventually(t, patience, func() string {
				var c struct {
					Connected bool
					Queued    int `json:"queued_messages"`
					FallenOut int `json:"fallen_out"`
				}
				s.call("GET", a.path("/clients/"+id), s.admin, nil).want(http.StatusOK).into(&c)
				if c.Connected || c.Queued != queued || c.FallenOut != fallen {
					return "the session of " + id + " has " + strconv.Itoa(c.Queued) + " queued and " + strconv.Itoa(c.FallenOut) + " fallen out"
				}
				return ""
			})
		}
		check("many", 10, 5)
		check("large", 2, 2)
		// The number is saved with the session, within a second.
		started := time.Now()
		eventually(t, patience, func() string {
			if time.Since(started) < 2*time.Second {
				return "not saved yet"
			}
			return ""
		})
		s.crash()
		s.start()
		check("many", 10, 5)
		w, present := resume("many")
		if !present {
			t.Fatal("Session Present 0")
		}
		for i := 5; i < 15; i++ {
			m := next[*packet.Publish](w)
			if string(m.Payload) != strconv.Itoa(i) {
				t.Fatalf("got %q, want %d", m.Payload, i)
			}
			w.send(&packet.Ack{Kind: packet.TypePuback, PacketID: m.PacketID})
		}
	})
}

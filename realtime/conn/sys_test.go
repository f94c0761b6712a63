package conn_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// figures takes what is sent on $SYS within a moment, by what stands behind $SYS/broker/. Each comes once, at QoS 0.
func figures(c *brokertest.Client, retain bool) map[string]string {
	all := map[string]string{}
	for _, m := range c.Drain() {
		name, ok := strings.CutPrefix(string(m.Topic), "$SYS/broker/")
		if _, twice := all[name]; !ok || twice || m.QoS != 0 || m.Retain != retain {
			all["unexpected "+string(m.Topic)] = string(m.Payload)
		}
		all[name] = string(m.Payload)
	}
	return all
}

func TestSys(t *testing.T) {
	t.Parallel()
	const interval = 10 * time.Second
	t.Run("a subscriber gets the app's figures at once, and every 10 seconds", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w, began := newWorld(t), time.Now()
			stranger := w.dial(packet.V5, "two")
			stranger.Connect("of another app")
			stranger.Publish("a", "seen by nobody here", brokertest.Retained)
			c, other := w.client(packet.V5, "c"), w.client(packet.V311, "other")
			other.Subscribe("a/#", 0)
			other.Subscribe("$share/g/b", 0)
			for range 3 {
				other.Publish("a/1", "1234")
			}
			other.Publish("kept", "12", brokertest.Retained)
			other.Drain()
			synctest.Wait() // for the commit
			require.Equal(t, packet.GrantedQoS2, c.Subscribe("$SYS/#", 2))
			got := figures(c, true)
			want := map[string]string{
				"version": "embercast version 1.2.3", "uptime": "0 seconds",
				"clients/connected": "2", "clients/total": "2", "clients/disconnected": "0",
				"subscriptions/count": "3", "shared_subscriptions/count": "1", "retained messages/count": "1",
				"messages/received": "4", "messages/sent": "3", "messages/dropped": "0", "bytes/received": "14", "bytes/sent": "12",
			}
			for _, name := range []string{"messages/received", "messages/sent", "messages/dropped", "bytes/received", "bytes/sent"} {
				want["publish/"+name] = want[name]
			}
			for _, name := range []string{"messages/received", "messages/sent", "bytes/received", "bytes/sent"} {
				for _, minutes := range []string{"1min", "5min", "15min"} {
					want["load/"+name+"/"+minutes] = "0.00"
				}
			}
			require.Equal(t, want, got)

			<-time.After(interval)
			synctest.Wait()
			got = figures(c, false)
			require.Equal(t, "10 seconds", got["uptime"])
			require.Equal(t, strconv.Itoa(3+len(want)), got["messages/sent"], "they count as messages too")
			require.Len(t, got, len(want))
			for time.Since(began) <= 2*time.Minute {
				<-time.After(interval)
				synctest.Wait()
				got = figures(c, false)
			}
			require.Equal(t, "0.00", got["load/messages/received/1min"])
			require.Equal(t, "2.00", got["load/messages/received/5min"], "of two minutes")
			require.Equal(t, "7.00", got["load/bytes/received/15min"])
			require.Empty(t, other.Drain())

			stranger.Subscribe("$SYS/#", 0)
			of2 := figures(stranger, true)
			require.Equal(t, "1", of2["clients/connected"])
			require.Equal(t, "1", of2["messages/received"])
		})
	})
	t.Run("wildcards do not reach them [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.client(packet.V5, "c")
			for _, filter := range []string{"#", "+/#", "+/broker/#", "+/broker/uptime"} {
				c.Subscribe(filter, 0)
			}
			w.client(packet.V5, "reader").Subscribe("$SYS/broker/uptime", 0)
			<-time.After(2 * interval)
			synctest.Wait()
			require.Empty(t, c.Drain())
		})
	})
	t.Run("one figure alone, as Retain Handling, Retain As Published and identifiers say", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.client(packet.V5, "c")
			for _, handling := range []byte{0, 1, 1, 2, 0} {
				c.Send(&packet.Subscribe{
					PacketID: 1, Properties: &packet.Properties{Has: packet.PropSubscriptionID, SubscriptionIDs: []uint32{7}},
					Subscriptions: []packet.Subscription{{Filter: "$SYS/broker/uptime", RetainHandling: handling, RetainAsPublished: true}},
				})
				brokertest.Expect[*packet.Suback](c)
				if handling == 0 {
					require.True(t, c.ExpectMessage("$SYS/broker/uptime", "0 seconds").Retain)
				}
				c.ExpectNothing()
			}
			<-time.After(interval)
			m := c.ExpectMessage("$SYS/broker/uptime", "10 seconds")
			require.True(t, m.Retain)
			require.Equal(t, []uint32{7}, m.Properties.SubscriptionIDs)
			c.ExpectNothing()
		})
	})
	t.Run("a Shared Subscription gets them live, one member each", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			one, two := w.client(packet.V5, "one"), w.client(packet.V5, "two")
			for _, c := range []*brokertest.Client{one, two} {
				c.Subscribe("$share/g/$SYS/#", 1)
				require.Empty(t, c.Drain())
			}
			<-time.After(interval)
			synctest.Wait()
			got := append(one.Drain(), two.Drain()...)
			require.Len(t, got, 30)
		})
	})
	t.Run("a session that outlives its connection has none of them kept, and goes on with them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c, _ := w.resume(packet.V5, "c")
			require.Equal(t, packet.GrantedQoS1, c.Subscribe("$SYS/broker/clients/#", 1))
			require.Len(t, figures(c, true), 3)
			<-time.After(interval)
			synctest.Wait()
			require.Len(t, figures(c, false), 3)
			c.Close()
			synctest.Wait()
			<-time.After(2*interval + interval/2) // not at the moment at which they are published
			c, present := w.resume(packet.V5, "c")
			require.True(t, present)
			require.Empty(t, figures(c, false))
			<-time.After(interval/2 + time.Second)
			synctest.Wait()
			require.Equal(t, map[string]string{"clients/connected": "1", "clients/disconnected": "0", "clients/total": "1"}, figures(c, false))
			watcher := w.client(packet.V5, "watcher")
			c.Close()
			synctest.Wait()
			watcher.Subscribe("$SYS/broker/clients/#", 0)
			require.Equal(t, map[string]string{"clients/connected": "1", "clients/disconnected": "1", "clients/total": "2"}, figures(watcher, true))
			require.Empty(t, w.store.Log(1))
		})
	})
	t.Run("the rules decide, also at delivery and afterwards", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			rules := brokertest.Rules{
				Subscribe: func(_, filter string) bool { return filter == "$SYS/broker/clients/#" },
				Receive:   func(_, topic string) bool { return topic != "$SYS/broker/clients/total" },
			}
			w.SetRules(rules)
			c := w.client(packet.V5, "c")
			require.Equal(t, packet.NotAuthorized, c.Subscribe("$SYS/#", 0))
			c.Subscribe("$SYS/broker/clients/#", 0)
			require.Equal(t, map[string]string{"clients/connected": "1", "clients/disconnected": "0"}, figures(c, true))
			<-time.After(interval)
			synctest.Wait()
			require.Len(t, figures(c, false), 2)
			rules.Subscribe = func(string, string) bool { return false }
			w.SetRules(rules)
			w.broker.Reauthorize(1)
			<-time.After(interval)
			synctest.Wait()
			require.Empty(t, c.Drain(), "suspended")
		})
	})
	t.Run("nobody publishes there, nothing is stored, and no limit counts them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.RetainedCountMax, l.RetainedBytesMax = 1, 1
			w.SetLimits(l)
			c := w.client(packet.V5, "c")
			c.Subscribe("$SYS/#", 0)
			c.Drain()
			c.Publish("$SYS/broker/uptime", "forever", brokertest.QoS(1, 1), brokertest.Retained)
			require.Equal(t, &packet.Ack{Kind: packet.TypePuback, PacketID: 1, Reason: packet.NotAuthorized}, brokertest.Expect[*packet.Ack](c))
			require.Equal(t, 1, w.observer.Count("denied publish"))
			c.Publish("x", "", brokertest.QoS(1, 2))
			c.ExpectAck(packet.TypePuback, 2, packet.Success)
			<-time.After(interval)
			synctest.Wait()
			require.Len(t, c.Drain(), 30)
			require.Empty(t, w.store.Log(1))
			all, err := w.broker.Retained(1, "$SYS/#", "", 0)
			require.NoError(t, err)
			require.Empty(t, all)
		})
	})
}

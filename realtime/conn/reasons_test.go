package conn_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// farewells are the Reason Codes that the server says in DISCONNECT, as docs/mqtt.md tells of them, and how a client comes
// by each. 0x96 takes 10 seconds of pressing on: TestPublishRate.
var farewells = map[packet.ReasonCode]func(w *world) *brokertest.Client{ //nolint:gochecknoglobals // a table
	packet.UnspecifiedError: func(w *world) *brokertest.Client { // the store refuses what the session must not lose
		c, _ := w.resume(packet.V5, "c")
		w.store.BeforeCommit = func(broker.Batch) error { return broker.ErrStoreRefused }
		c.Send(&packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "a", QoS: 1}}})
		return c
	},
	packet.MalformedPacket: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		c.SendBytes([]byte{0xC1, 0})
		return c
	},
	packet.ProtocolError: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		c.SendBytes([]byte{0xD0, 0})
		return c
	},
	packet.NotAuthorized: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		w.DeleteKey("user")
		w.broker.DisconnectKey(1, "user")
		return c
	},
	packet.ServerBusy: func(w *world) *brokertest.Client { // the store is away
		c := w.client(packet.V5, "c")
		w.store.BeforeCommit = func(broker.Batch) error { return broker.ErrStoreUnavailable }
		c.Publish("a", "p", brokertest.QoS(2, 1), brokertest.Retained)
		return c
	},
	packet.ServerShuttingDown: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		w.broker.Drain()
		return c
	},
	packet.KeepAliveTimeout: func(w *world) *brokertest.Client {
		c := w.dial(packet.V5)
		c.Connect("c", func(p *packet.Connect) { p.KeepAlive = 1 })
		return c
	},
	packet.SessionTakenOver: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		w.client(packet.V5, "c")
		return c
	},
	packet.ReceiveMaximumExceeded: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		for id := range uint16(100) {
			c.Publish("a", "p", brokertest.QoS(2, id+1))
			c.ExpectAck(packet.TypePubrec, id+1, packet.Success)
		}
		c.Publish("a", "p", brokertest.QoS(2, 101))
		return c
	},
	packet.TopicAliasInvalid: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		c.Send(&packet.Publish{Topic: []byte("a"), Properties: &packet.Properties{Has: packet.PropTopicAlias, TopicAlias: 101}})
		return c
	},
	packet.PacketTooLarge: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		c.SendBytes([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
		return c
	},
	packet.QuotaExceeded: func(w *world) *brokertest.Client {
		l := brokertest.Limits()
		l.QueuedMessagesMax = 1
		w.SetLimits(l)
		c := w.dial(packet.V5)
		c.Connect("c", properties(packet.Properties{Has: packet.PropReceiveMaximum, ReceiveMaximum: 1}))
		c.Subscribe("a", 1)
		c.Publish("a", "under way", brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.ExpectMessage("a", "under way")
		c.Publish("a", "waits", brokertest.QoS(1, 2))
		c.ExpectAck(packet.TypePuback, 2, packet.Success)
		c.Publish("a", "one too many", brokertest.QoS(1, 3))
		return c
	},
	packet.RetainNotSupported: func(w *world) *brokertest.Client {
		w.SetLimits(retainingNothing())
		c := w.client(packet.V5, "c")
		c.Publish("a", "p", brokertest.Retained)
		return c
	},
	packet.AdministrativeAction: func(w *world) *brokertest.Client {
		c := w.client(packet.V5, "c")
		require.NoError(w.tb, w.broker.Kick(w.tb.Context(), 1, "c", false))
		return c
	},
}

func retainingNothing() broker.Limits {
	l := brokertest.Limits()
	l.RetainedCountMax = 0
	return l
}

func TestEveryReasonToDisconnect(t *testing.T) {
	t.Parallel()
	for reason, end := range farewells {
		t.Run(reason.String()+" [MQTT5-3.14.2-1]", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				end(newWorld(t)).ExpectEnd(reason)
			})
		})
	}
}

func TestAuth(t *testing.T) {
	t.Parallel()
	connect := func(props packet.Properties) *packet.Connect {
		return connectOf(packet.V5, "c", properties(props))
	}
	// AUTH packets of a client that named no method at CONNECT.
	for name, b := range map[string][]byte{
		"without a Reason Code":                  {0xF0, 0},
		"without properties":                     {0xF0, 2, 0x19, 0},
		"that wants to re-authenticate":          {0xF0, 8, 0x19, 6, 0x15, 0, 3, 'j', 'w', 't'},
		"that goes on with what was not begun":   {0xF0, 8, 0x18, 6, 0x15, 0, 3, 'j', 'w', 't'},
		"that says success":                      {0xF0, 8, 0x00, 6, 0x15, 0, 3, 'j', 'w', 't'},
		"with a Reason Code that is none of its": {0xF0, 8, 0x87, 6, 0x15, 0, 3, 'j', 'w', 't'},
		"with data and no method":                {0xF0, 6, 0x19, 4, 0x16, 0, 1, 'x'},
		"with two methods":                       {0xF0, 10, 0x19, 8, 0x15, 0, 1, 'a', 0x15, 0, 1, 'b'},
	} {
		t.Run("an AUTH "+name+" is a Protocol Error [MQTT5-4.12.0-7]", func(t *testing.T) {
			t.Parallel()
			c := newWorld(t).client(packet.V5, "c")
			c.SendBytes(b)
			c.ExpectEnd(packet.ProtocolError)
		})
	}
	t.Run("any method is refused, whatever credentials come with it, and nothing follows [MQTT5-4.12.0-1]", func(t *testing.T) {
		t.Parallel()
		for _, method := range []string{"jwt", "SCRAM-SHA-1", "GS2-KRB5", ""} {
			w := newWorld(t)
			c := w.dial(packet.V5)
			p := connect(packet.Properties{Has: packet.PropAuthMethod | packet.PropAuthData, AuthMethod: method, AuthData: []byte("client-first")})
			password("right")(p)
			c.Send(p)
			ack := brokertest.Expect[*packet.Connack](c)
			require.Equal(t, packet.BadAuthenticationMethod, ack.Reason)
			require.Equal(t, packet.PropReasonString, ack.Properties.Has)
			wantClosed(t, c)
			require.Empty(t, clientsNamed(w, "c"))
		}
	})
	t.Run("Authentication Data without a method is a Protocol Error", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V5)
		c.Send(connect(packet.Properties{Has: packet.PropAuthData, AuthData: []byte("x")}))
		require.Equal(t, packet.ProtocolError, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
	})
	t.Run("AUTH does not come first [MQTT5-3.1.0-1]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V5)
		c.SendBytes([]byte{0xF0, 8, 0x19, 6, 0x15, 0, 3, 'j', 'w', 't'})
		wantClosed(t, c)
	})
	t.Run("AUTH is unknown before 5.0", func(t *testing.T) {
		t.Parallel()
		for _, v := range []packet.Version{packet.V31, packet.V311} {
			c := newWorld(t).client(v, "c")
			c.SendBytes([]byte{0xF0, 0})
			wantClosed(t, c)
		}
	})
}

// connect31 is a CONNECT of MQTT 3.1 by its bytes: flags, Keep Alive 60 s, and what follows them as texts.
func connect31(flags byte, texts ...string) []byte {
	b := []byte{0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, flags, 0, 60}
	for _, text := range texts {
		b = append(append(b, 0, byte(len(text))), text...)
	}
	return append([]byte{0x10, byte(len(b))}, b...)
}

func TestMQTT31(t *testing.T) {
	t.Parallel()
	// play sends bytes and wants those that are answered, in turn.
	play := func(t *testing.T, c *brokertest.Client, turns ...[]byte) {
		t.Helper()
		for i := 0; i < len(turns); i += 2 {
			c.SendBytes(turns[i])
			p, err := c.Next()
			require.NoError(t, err, "%x", turns[i])
			require.Equal(t, turns[i+1], p.Append(nil, packet.V31), "to %x", turns[i])
		}
	}
	accepted := []byte{0x20, 2, 0, 0}
	t.Run("a client publishes and subscribes at every QoS, and sends again with DUP", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V31)
		play(
			t, c, connect31(2, "c"), accepted,
			[]byte{0x82, 6, 0, 1, 0, 1, 'a', 2}, []byte{0x90, 3, 0, 1, 2},
			[]byte{0x8A, 6, 0, 1, 0, 1, 'a', 2}, []byte{0x90, 3, 0, 1, 2}, // again, with DUP
			[]byte{0xC0, 0}, []byte{0xD0, 0},
			[]byte{0x30, 4, 0, 1, 'a', '0'}, []byte{0x30, 4, 0, 1, 'a', '0'},
		)
		c.SendBytes([]byte{0x32, 6, 0, 1, 'a', 0, 9, '1'})
		c.ExpectAck(packet.TypePuback, 9, packet.Success)
		require.EqualValues(t, 1, c.ExpectMessage("a", "1").QoS)
		c.SendBytes([]byte{0x40, 2, 0, 1})
		c.SendBytes([]byte{0x34, 6, 0, 1, 'a', 0, 9, '2'})
		c.ExpectAck(packet.TypePubrec, 9, packet.Success)
		require.EqualValues(t, 2, c.ExpectMessage("a", "2").QoS)
		c.SendBytes([]byte{0x3C, 6, 0, 1, 'a', 0, 9, '2'}) // again, with DUP
		c.ExpectAck(packet.TypePubrec, 9, packet.Success)
		play(
			t, c, []byte{0x62, 2, 0, 9}, []byte{0x70, 2, 0, 9},
			[]byte{0x6A, 2, 0, 9}, []byte{0x70, 2, 0, 9}, // again, with DUP
			[]byte{0x50, 2, 0, 2}, []byte{0x62, 2, 0, 2},
		)
		c.SendBytes([]byte{0x70, 2, 0, 2})
		play(t, c, []byte{0xA2, 5, 0, 3, 0, 1, 'a'}, []byte{0xB0, 2, 0, 3})
		c.ExpectNothing()
		c.SendBytes([]byte{0xE0, 0})
		wantClosed(t, c)
	})
	t.Run("a will is sent, and a retained message kept, for clients of every version", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 1)
		c := w.dial(packet.V31)
		play(t, c, connect31(0x2E, "c", "wills/c", "gone"), accepted) // QoS 1, retained
		c.Close()
		require.EqualValues(t, 1, watcher.ExpectMessage("wills/c", "gone").QoS)
		late := w.dial(packet.V31)
		play(t, late, connect31(2, "late"), accepted)
		late.SendBytes([]byte{0x82, 12, 0, 1, 0, 7, 'w', 'i', 'l', 'l', 's', '/', 'c', 0})
		brokertest.Expect[*packet.Suback](late)
		require.True(t, late.ExpectMessage("wills/c", "gone").Retain)
	})
	t.Run("a client id has 1 character at least, and may have more than 23", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for id, code := range map[string]byte{"": 2, "x": 0, "01234567890123456789012": 0, "a client id of more than 23 characters": 0} {
			for _, flags := range []byte{0, 2} {
				play(t, w.dial(packet.V31), connect31(flags, id), []byte{0x20, 2, 0, code})
			}
		}
	})
	t.Run("what is refused has the Connect Return Codes of 3.1", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.client(packet.V31, "taken")
		for want, b := range map[byte][]byte{
			4: connect31(0xC2, "c", "user", "wrong"),
			2: connect31(0x82, "taken", "another"),
		} {
			c := w.dial(packet.V31)
			play(t, c, b, []byte{0x20, 2, 0, want})
			wantClosed(t, c)
		}
		for name, b := range map[string][]byte{
			"MQIsdp of level 4": {0x10, 13, 0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 4, 2, 0, 60, 0},
			"MQTT of level 3":   {0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 3, 2, 0, 60, 0, 1, 'c'},
		} {
			c := w.dial(packet.V31)
			c.SendBytes(b)
			require.Equal(t, packet.UnsupportedProtocolVersion, brokertest.Expect[*packet.Connack](c).Reason, name)
			wantClosed(t, c)
		}
	})
	t.Run("a user name or password that the flags announce may be left out at the end", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		play(t, w.dial(packet.V31), connect31(0xC2, "c", "user"), accepted)
		play(t, w.dial(packet.V31), connect31(0xC2, "d"), accepted)
	})
	t.Run("a client that was refused a subscription is told, and a denied publish is acknowledged", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(denyAll)
		play(t, w.dial(packet.V31), connect31(2, "c"), accepted,
			[]byte{0x82, 6, 0, 1, 0, 1, 'a', 2}, []byte{0x90, 3, 0, 1, 0x80},
			[]byte{0x32, 6, 0, 1, 'a', 0, 9, '1'}, []byte{0x40, 2, 0, 9})
	})
	t.Run("a session without Clean Session outlives its connection", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V31)
		play(t, c, connect31(0, "c"), accepted, []byte{0x82, 6, 0, 1, 0, 1, 'a', 1}, []byte{0x90, 3, 0, 1, 1})
		gone(t, w, c, "c")
		other := w.client(packet.V5, "other")
		other.Publish("a", "meanwhile", brokertest.QoS(1, 1))
		other.ExpectAck(packet.TypePuback, 1, packet.Success)
		c = w.dial(packet.V31)
		play(t, c, connect31(0, "c"), accepted) // 3.1 has no Session Present
		require.EqualValues(t, 1, c.ExpectMessage("a", "meanwhile").QoS)
	})
	t.Run("a client that falls silent is closed after one and a half Keep Alives", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newWorld(t).dial(packet.V31)
			play(t, c, connect31(2, "c"), accepted)
			began := time.Now()
			brokertest.WithPatience(c, time.Hour)
			wantClosed(t, c)
			require.Equal(t, 90*time.Second, time.Since(began))
		})
	})
}

package conn_test

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

func TestConnect(t *testing.T) {
	t.Parallel()
	t.Run("CONNACK tells the server's limits [MQTT5-3.2.0-1]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		ack := w.dial(packet.V5).Connect("c")
		require.False(t, ack.SessionPresent)
		require.EqualValues(t, 100, ack.Properties.ReceiveMaximum)
		require.EqualValues(t, 100, ack.Properties.TopicAliasMaximum)
		require.EqualValues(t, 1<<20, ack.Properties.MaximumPacketSize)
		require.Equal(t, 1, w.observer.Count("connected"))
	})
	t.Run("an empty client id gets one, of 5.0 clients told [MQTT5-3.2.2-16]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		ack := w.dial(packet.V5).Connect("")
		require.NotEmpty(t, ack.Properties.AssignedClientID)
		w.dial(packet.V311).Connect("")
	})
	t.Run("an empty client id without clean session is refused [MQTT311-3.1.3-8]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V311)
		c.Send(&packet.Connect{Version: packet.V311})
		require.Equal(t, packet.ClientIdentifierNotValid, brokertest.Expect[*packet.Connack](c).Reason)
		c.ExpectEnd(0)
	})
	t.Run("bad credentials are told and the connection is closed [MQTT5-3.1.4-2]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			c := w.dial(v)
			p := &packet.Connect{Version: v, CleanStart: true, ClientID: "c"}
			password("wrong")(p)
			c.Send(p)
			require.Equal(t, packet.BadUserNameOrPassword, brokertest.Expect[*packet.Connack](c).Reason)
			_, err := c.Next()
			require.Error(t, err)
		}
		require.Equal(t, 2, w.observer.Count("refused auth_failed"))
	})
	t.Run("a packet before CONNECT closes the connection [MQTT5-3.1.0-1] [MQTT311-3.1.0-1]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V311)
		c.Send(&packet.Ping{Kind: packet.TypePingreq})
		c.ExpectEnd(0)
		require.Equal(t, 1, w.observer.Count("refused protocol_error"))
	})
	t.Run("a second CONNECT is a protocol error [MQTT5-3.1.0-2] [MQTT5-3.2.0-2]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Send(&packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"})
		c.ExpectEnd(packet.ProtocolError)
	})
	t.Run("a version that is not served is told [MQTT5-3.1.2-2] [MQTT311-3.1.2-2]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V311)
		c.SendBytes([]byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 9, 2, 0, 0, 0, 0})
		require.Equal(t, packet.UnsupportedProtocolVersion, brokertest.Expect[*packet.Connack](c).Reason)
		c.ExpectEnd(0)
	})
	t.Run("a malformed CONNECT of 5.0 is told, one of 3.1.1 is not "+
		"[MQTT5-3.1.2-3] [MQTT5-3.1.4-1] [MQTT311-3.1.2-3] [MQTT311-3.1.4-1] [MQTT311-3.2.2-6]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.SendBytes([]byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 5, 3, 0, 0, 0, 0, 0})
		require.Equal(t, packet.MalformedPacket, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
		c = w.dial(packet.V311)
		c.SendBytes([]byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 3, 0, 0, 0, 0})
		c.ExpectEnd(0)
	})
	t.Run("an authentication method is refused [MQTT5-4.12.0-1] [MQTT5-4.12.0-4]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V5)
		p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
		properties(packet.Properties{Has: packet.PropAuthMethod, AuthMethod: "SCRAM-SHA-1"})(p)
		c.Send(p)
		require.Equal(t, packet.BadAuthenticationMethod, brokertest.Expect[*packet.Connack](c).Reason)
		wantClosed(t, c)
	})
	t.Run("an AUTH that nobody asked for is a protocol error [MQTT5-4.12.0-7] [MQTT5-4.12.1-2]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Send(&packet.Auth{Reason: packet.ReAuthenticate})
		c.ExpectEnd(packet.ProtocolError)
	})
	t.Run("a client that takes no CONNACK gets none [MQTT5-3.1.2-24]", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).dial(packet.V5)
		p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
		properties(packet.Properties{Has: packet.PropMaximumPacketSize, MaximumPacketSize: 3})(p)
		c.Send(p)
		_, err := brokertest.WithPatience(c, time.Second).Next() // at once, not after the time for a farewell
		require.ErrorIs(t, err, io.EOF)
	})
	t.Run("the app's connections_max is told", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.ConnectionsMax = 1
		w.SetLimits(l)
		w.client(packet.V5, "one")
		c := w.dial(packet.V5)
		c.Send(&packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "two"})
		require.Equal(t, packet.QuotaExceeded, brokertest.Expect[*packet.Connack](c).Reason)
	})
	t.Run("the app's sessions_max is told to who asks for one more", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.SessionsMax = 1
		w.SetLimits(l)
		one, _ := w.resume(packet.V5, "one")
		gone(t, w, one, "one")
		c := w.dial(packet.V5)
		lasts := properties(packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 60})
		two := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "two"}
		lasts(two)
		c.Send(two)
		require.Equal(t, packet.QuotaExceeded, brokertest.Expect[*packet.Connack](c).Reason)
		c = w.dial(packet.V311)
		c.Send(&packet.Connect{Version: packet.V311, ClientID: "two"})
		require.Equal(t, packet.ServerUnavailable, brokertest.Expect[*packet.Connack](c).Reason)
		w.client(packet.V5, "two")
		_, present := w.resume(packet.V5, "one")
		require.True(t, present)
		w.resume(packet.V5, "one", func(p *packet.Connect) { p.CleanStart = true })
	})
	t.Run("a CONNECT of more than 16 KiB is too large", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V311)
		c.SendBytes([]byte{0x10, 0x81, 0x80, 0x01})
		c.ExpectEnd(0)
		require.Equal(t, 1, w.observer.Count("refused packet_too_large"))
	})
	t.Run("a CONNECT of more than 16 KiB is answered as its version wants [MQTT5-4.13.1-1]", func(t *testing.T) {
		t.Parallel()
		for name, v := range versions {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				c := w.dial(v)
				p := &packet.Connect{Version: v, CleanStart: true, ClientID: "c", HasUsername: true, Username: strings.Repeat("x", 16<<10)}
				c.SendBytes(p.Append(nil, v)[:100])
				if v == packet.V5 {
					require.Equal(t, packet.PacketTooLarge, brokertest.Expect[*packet.Connack](c).Reason)
				}
				_, err := c.Next()
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, 1, w.observer.Count("refused packet_too_large"))
			})
		}
	})
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	t.Run("a connection that says nothing is closed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			began := time.Now()
			w.dial(packet.V5).ExpectSilence()
			require.Equal(t, 10*time.Second, time.Since(began))
			require.Equal(t, 1, w.observer.Count("refused connect_timeout"))
		})
	})
	t.Run("one and a half times the Keep Alive without a packet ends the connection [MQTT5-3.1.2-22]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(packet.V5)
			c.Connect("c", func(p *packet.Connect) { p.KeepAlive = 4 })
			for range 3 {
				time.Sleep(5900 * time.Millisecond) //nolint:forbidigo // virtual time
				c.ExpectNothing()
			}
			began := time.Now()
			c.ExpectEnd(packet.KeepAliveTimeout)
			require.Equal(t, 6*time.Second, time.Since(began))
		})
	})
	t.Run("bytes that complete no packet keep nothing alive [MQTT5-3.1.2-22]", func(t *testing.T) {
		t.Parallel()
		trickle := func(c *brokertest.Client, whole []byte) {
			for _, b := range whole {
				c.SendBytes([]byte{b})
				time.Sleep(time.Second) //nolint:forbidigo // virtual time
			}
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(packet.V5)
			trickle(c, (&packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}).Append(nil, packet.V5)[:9])
			began := time.Now()
			c.ExpectSilence()
			require.Equal(t, time.Second, time.Since(began))
		})
		synctest.Test(t, func(t *testing.T) {
			c := newWorld(t).dial(packet.V5)
			c.Connect("c", func(p *packet.Connect) { p.KeepAlive = 4 })
			trickle(c, (&packet.Publish{Topic: []byte("t"), Payload: []byte("payload")}).Append(nil, packet.V5)[:5])
			began := time.Now()
			c.ExpectEnd(packet.KeepAliveTimeout)
			require.Equal(t, time.Second, time.Since(began))
		})
	})
	t.Run("a Keep Alive of 0 is none", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := newWorld(t).client(packet.V311, "c")
			time.Sleep(24 * time.Hour) //nolint:forbidigo // virtual time
			c.ExpectNothing()
		})
	})
	t.Run("the server's keep_alive_max is told and in force [MQTT5-3.1.2-21] [MQTT5-3.2.2-21]", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			l := brokertest.Limits()
			l.KeepAliveMax = 60 * time.Second
			w.SetLimits(l)
			c := w.dial(packet.V5)
			ack := c.Connect("c", func(p *packet.Connect) { p.KeepAlive = 120 })
			require.EqualValues(t, 60, ack.Properties.ServerKeepAlive)
			began := time.Now()
			brokertest.WithPatience(c, time.Hour).ExpectEnd(packet.KeepAliveTimeout)
			require.Equal(t, 90*time.Second, time.Since(began))
		})
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	t.Run("a token that expires ends the connection, and the will is sent", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			watcher := w.client(packet.V5, "watcher")
			watcher.Subscribe("wills/#", 0)
			c := w.dial(packet.V5)
			c.Connect("c", password("ttl:5s"), will("wills/c", "gone"))
			began := time.Now()
			c.ExpectEnd(packet.NotAuthorized)
			require.Equal(t, 5*time.Second, time.Since(began))
			watcher.ExpectMessage("wills/c", "gone")
		})
	})
	t.Run("a token is not renewed by a key that was deleted meanwhile, and nothing follows DISCONNECT [MQTT5-3.14.4-1]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.client(packet.V5, "c")
		w.DeleteKey("user") // whom it cuts off has been looked for before the renewal
		c.Publish("$auth/token", "user ttl:30s", brokertest.QoS(1, 7))
		c.ExpectEnd(packet.NotAuthorized)
	})
	t.Run("a new token on $auth/token arms the timer anew", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.dial(packet.V5)
			c.Connect("c", password("ttl:5s"))
			require.Equal(t, packet.Success, c.Subscribe("$auth/result", 0))
			c.Publish("$auth/token", "user ttl:30s", brokertest.QoS(1, 7))
			c.ExpectAck(packet.TypePuback, 7, packet.Success)
			c.ExpectMessage("$auth/result", `{"event":"token_renewed"}`)
			c.Publish("$auth/token", "somebody ttl:30s", brokertest.QoS(1, 8))
			c.ExpectAck(packet.TypePuback, 8, packet.NotAuthorized)
			c.ExpectMessage("$auth/result", `{"event":"token_refused"}`)
			began := time.Now()
			brokertest.WithPatience(c, time.Hour).ExpectEnd(packet.NotAuthorized)
			require.Equal(t, 30*time.Second, time.Since(began))
		})
	})
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	t.Run("the same client id ends the older connection [MQTT5-3.1.4-3]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 0)
		first := w.dial(packet.V5)
		first.Connect("c", will("wills/c", "taken over"))
		second := w.client(packet.V5, "c")
		first.ExpectEnd(packet.SessionTakenOver)
		watcher.ExpectMessage("wills/c", "taken over")
		second.ExpectNothing()
	})
	t.Run("another subject cannot have the client id", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		first := w.client(packet.V5, "c")
		c := w.dial(packet.V5)
		p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
		user("somebody")(p)
		c.Send(p)
		require.Equal(t, packet.ClientIdentifierNotValid, brokertest.Expect[*packet.Connack](c).Reason)
		first.ExpectNothing()
	})
	t.Run("another subject gets the client id of a connection that is just ending", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		first := w.client(packet.V5, "c")
		c := w.dial(packet.V5)
		p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
		user("somebody")(p)
		c.Send(p)
		first.Close()
		require.Equal(t, packet.Success, brokertest.Expect[*packet.Connack](c).Reason)
	})
	t.Run("the same client id in another app is another client", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		one, two := w.client(packet.V5, "c"), w.dial(packet.V5, "two")
		two.Connect("c")
		one.Subscribe("#", 0)
		two.Subscribe("#", 0)
		one.Publish("same", "from one")
		one.ExpectMessage("same", "from one")
		two.ExpectNothing()
		two.Publish("same", "from two")
		two.ExpectMessage("same", "from two")
		one.ExpectNothing()
	})
	t.Run("a storm of takeovers ends with one client and every other told", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		last := w.client(packet.V5, "c")
		for range 100 {
			next := w.client(packet.V5, "c")
			last.ExpectEnd(packet.SessionTakenOver)
			last = next
		}
		last.ExpectNothing()
		all, err := w.broker.Clients(1, "", 0)
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	for name, v := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			watcher := w.client(v, "watcher")
			watcher.Subscribe("wills/#", 0)
			c := w.dial(v)
			c.Connect("c", will("wills/c", "never sent [MQTT5-3.14.4-3]"))
			c.Send(&packet.Disconnect{})
			_, err := c.Next()
			require.Error(t, err)
			c = w.dial(v)
			c.Connect("d", will("wills/d", "sent [MQTT5-3.1.2-8]"))
			c.Close()
			watcher.ExpectMessage("wills/d", "sent [MQTT5-3.1.2-8]")
			watcher.ExpectNothing()
		})
	}
	t.Run("a client that breaks the protocol is gone at once, its will sent, though it does not close", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			watcher := w.client(packet.V5, "watcher")
			watcher.Subscribe("wills/#", 0)
			c := w.dial(packet.V5)
			c.Connect("c", will("wills/c", "gone"))
			began := time.Now()
			c.SendBytes([]byte{0x62 | 1, 2, 0, 1})
			watcher.ExpectMessage("wills/c", "gone")
			require.Zero(t, time.Since(began))
			require.Empty(t, clientsNamed(w, "c"))
		})
	})
	t.Run("a will comes after what its client has published [MQTT5-4.6.0-6]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := w.holdCommits()
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("#", 0)
		c := w.dial(packet.V5)
		c.Connect("c", will("state", "gone"))
		c.Publish("state", "here", brokertest.Retained)
		c.Close()
		require.Eventually(t, func() bool { return len(clientsNamed(w, "c")) == 0 }, brokertest.Patience, tick)
		release()
		watcher.ExpectMessage("state", "here")
		watcher.ExpectMessage("state", "gone")
	})
	t.Run("DISCONNECT with 0x04 sends the will", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		watcher := w.client(packet.V5, "watcher")
		watcher.Subscribe("wills/#", 0)
		c := w.dial(packet.V5)
		c.Connect("c", will("wills/c", "with will"))
		c.Send(&packet.Disconnect{Reason: packet.DisconnectWithWill})
		watcher.ExpectMessage("wills/c", "with will")
	})
	t.Run("a session expiry cannot be raised from 0", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Send(&packet.Disconnect{Properties: &packet.Properties{Has: packet.PropSessionExpiry, SessionExpiry: 10}})
		c.ExpectEnd(packet.ProtocolError)
	})
	t.Run("a will that the rules deny is refused at CONNECT", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(brokertest.Rules{Publish: func(string, string) bool { return false }})
		c := w.dial(packet.V5)
		p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
		will("x", "y")(p)
		c.Send(p)
		require.Equal(t, packet.NotAuthorized, brokertest.Expect[*packet.Connack](c).Reason)
	})
	t.Run("draining tells 5.0 clients 0x8B", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		old, c := w.client(packet.V311, "old"), w.client(packet.V5, "c")
		w.broker.Drain()
		c.ExpectEnd(packet.ServerShuttingDown)
		old.ExpectEnd(0)
	})
}

package conn_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

// denyAll is what a client of 5.0 is refused by.
var denyAll = brokertest.Rules{ //nolint:gochecknoglobals // a table
	Publish:   func(string, string) bool { return false },
	Subscribe: func(string, string) bool { return false },
}

// problems makes the server refuse what it can, and returns what it answered: each kind of packet that may carry a
// Reason String and that tells of a failure.
func problems(w *world, change func(*packet.Connect)) (answers []packet.Packet) {
	w.tb.Helper()
	refused := w.dial(packet.V5)
	p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "refused"}
	change(p)
	password("wrong")(p)
	refused.Send(p)
	answers = append(answers, brokertest.Expect[*packet.Connack](refused))

	w.SetRules(denyAll)
	c := w.dial(packet.V5)
	c.Connect("c", change)
	c.Publish("a", "p", brokertest.QoS(1, 1))
	puback := *brokertest.Expect[*packet.Ack](c)
	c.Publish("a", "p", brokertest.QoS(2, 2))
	pubrec := *brokertest.Expect[*packet.Ack](c)
	c.Send(&packet.Subscribe{PacketID: 3, Subscriptions: []packet.Subscription{{Filter: "a"}}})
	suback := brokertest.Expect[*packet.Suback](c)
	c.Send(&packet.Auth{Reason: packet.ReAuthenticate, Properties: &packet.Properties{Has: packet.PropAuthMethod, AuthMethod: "jwt"}})
	return append(answers, &puback, &pubrec, suback, brokertest.Expect[*packet.Disconnect](c))
}

// reasonAndProperties are what a packet says of a failure.
func reasonAndProperties(tb testing.TB, p packet.Packet) (packet.ReasonCode, *packet.Properties) {
	tb.Helper()
	switch p := p.(type) {
	case *packet.Connack:
		return p.Reason, p.Properties
	case *packet.Ack:
		return p.Reason, p.Properties
	case *packet.Suback:
		return p.Reasons[0], p.Properties
	case *packet.Disconnect:
		return p.Reason, p.Properties
	}
	tb.Fatalf("%T has no Reason Code", p)
	return 0, nil
}

// failures are the Reason Codes of what problems returns.
var failures = []packet.ReasonCode{ //nolint:gochecknoglobals // a table
	packet.BadUserNameOrPassword, packet.NotAuthorized, packet.NotAuthorized, packet.NotAuthorized, packet.ProtocolError,
}

func TestReasonString(t *testing.T) {
	t.Parallel()
	asked := func(info byte) func(*packet.Connect) {
		return properties(packet.Properties{Has: packet.PropRequestProblemInfo, RequestProblemInfo: info})
	}
	for name, change := range map[string]func(*packet.Connect){"by default": func(*packet.Connect) {}, "where it is asked for": asked(1)} {
		t.Run("a failure comes with what to do "+name, func(t *testing.T) {
			t.Parallel()
			var words []string
			for i, p := range problems(newWorld(t), change) {
				reason, props := reasonAndProperties(t, p)
				require.Equal(t, failures[i], reason)
				require.NotNil(t, props, "%T", p)
				require.Equal(t, packet.PropReasonString, props.Has)
				words = append(words, props.ReasonString)
			}
			rules := "The app's rules do not allow this: have one added that does, or use other credentials."
			require.Equal(t, []string{
				"The app or the credentials are not known here: check the path, the user name and the password.", rules, rules, rules,
				"What came is not as the standard wants it: AUTH without an authentication method.",
			}, words)
		})
	}
	t.Run("a client that wants no problem information gets none [MQTT5-3.1.2-29]", func(t *testing.T) {
		t.Parallel()
		for i, p := range problems(newWorld(t), asked(0)) {
			reason, props := reasonAndProperties(t, p)
			require.Equal(t, failures[i], reason)
			require.Nil(t, props, "%T", p)
		}
	})
	t.Run("where it does not fit the client's Maximum Packet Size it is left out "+
		"[MQTT5-3.2.2-19] [MQTT5-3.4.2-2] [MQTT5-3.5.2-2] [MQTT5-3.9.2-1] [MQTT5-3.14.2-3]", func(t *testing.T) {
		t.Parallel()
		for _, sizeMax := range []uint32{16, 60} {
			small := properties(packet.Properties{Has: packet.PropMaximumPacketSize, MaximumPacketSize: sizeMax})
			for i, p := range problems(newWorld(t), small) {
				reason, props := reasonAndProperties(t, p)
				require.Equal(t, failures[i], reason)
				require.Nil(t, props, "%T", p)
			}
		}
	})
	t.Run("an acknowledgement that tells of success has neither Reason Code nor properties", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Publish("a", "p", brokertest.QoS(1, 1))
		require.Equal(t, []byte{0x40, 2, 0, 1}, brokertest.Expect[*packet.Ack](c).Append(nil, packet.V5))
		c.Publish("a", "p", brokertest.QoS(2, 2))
		require.Equal(t, []byte{0x50, 2, 0, 2}, brokertest.Expect[*packet.Ack](c).Append(nil, packet.V5))
		c.Send(&packet.Ack{Kind: packet.TypePubrel, PacketID: 2})
		require.Equal(t, []byte{0x70, 2, 0, 2}, brokertest.Expect[*packet.Ack](c).Append(nil, packet.V5))
		c.Send(&packet.Unsubscribe{PacketID: 3, Filters: []string{"a"}})
		require.Nil(t, brokertest.Expect[*packet.Unsuback](c).Properties)
	})
	t.Run("a malformed packet is described", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		c := w.dial(packet.V5)
		c.SendBytes([]byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 5, 3, 0, 0, 0, 0, 0})
		require.Contains(t, brokertest.Expect[*packet.Connack](c).Properties.ReasonString, "reserved Connect Flag is set [MQTT5-3.1.2-3]")
		c = w.client(packet.V5, "c")
		c.SendBytes([]byte{0x82, 5, 0, 1, 0, 0, 0})
		require.Contains(t, brokertest.Expect[*packet.Disconnect](c).Properties.ReasonString, "packet ends in the middle of a field")
	})
	t.Run("what is wrong with a CONNECT is told, one thing each", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		l := brokertest.Limits()
		l.TopicBytesMax = 10
		w.SetLimits(l)
		for want, change := range map[string]func(*packet.Connect){
			"authentication method": properties(packet.Properties{Has: packet.PropAuthMethod, AuthMethod: "SCRAM-SHA-1"}),
			"topic_bytes_max":       func(p *packet.Connect) { p.ClientID = "01234567890" },
			"Will Topic":            will("01234567890", "p"),
		} {
			c := w.dial(packet.V5)
			p := &packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "c"}
			change(p)
			c.Send(p)
			require.Contains(t, brokertest.Expect[*packet.Connack](c).Properties.ReasonString, want)
		}
	})
	t.Run("whoever is disconnected is told why", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			for want, end := range map[string]func(c *brokertest.Client){
				"The token has expired: connect again with a new one.": func(c *brokertest.Client) {
					c.Connect("c", password("ttl:5s"))
					<-time.After(6 * time.Second)
				},
				"Another connection uses this Client Identifier now: give each client one of its own.": func(c *brokertest.Client) {
					c.Connect("c")
					w.dial(packet.V5).Connect("c")
				},
				"An administrator has ended this connection.": func(c *brokertest.Client) {
					c.Connect("c")
					require.NoError(t, w.broker.Kick(t.Context(), 1, "c", false))
				},
				"The credentials are no longer valid: connect again with others.": func(c *brokertest.Client) {
					c.Connect("c", user("thief"))
					w.DeleteKey("thief")
					w.broker.DisconnectKey(1, "thief")
				},
				"Nothing came for one and a half times the Keep Alive: send PINGREQ in time.": func(c *brokertest.Client) {
					c.Connect("c", func(p *packet.Connect) { p.KeepAlive = 2 })
				},
				"The app was deleted.": func(c *brokertest.Client) {
					c.Connect("c")
					w.broker.CloseApp(1)
					require.NoError(t, w.broker.OpenApp(t.Context(), broker.AppConfig{UID: 1, ID: "app"}))
				},
			} {
				c := w.dial(packet.V5)
				end(c)
				require.Equal(t, want, brokertest.Expect[*packet.Disconnect](c).Properties.ReasonString)
				c.Close()
				synctest.Wait()
			}
		})
	})
	t.Run("a refused token is told as that", func(t *testing.T) {
		t.Parallel()
		c := newWorld(t).client(packet.V5, "c")
		c.Publish("$auth/token", "another ttl:5s", brokertest.QoS(1, 1))
		ack := brokertest.Expect[*packet.Ack](c)
		require.Equal(t, packet.NotAuthorized, ack.Reason)
		require.True(t, strings.HasPrefix(ack.Properties.ReasonString, "The token is not valid"), ack.Properties.ReasonString)
	})
	t.Run("older clients get none", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(denyAll)
		c := w.client(packet.V311, "c")
		c.Publish("a", "p", brokertest.QoS(1, 1))
		require.Equal(t, []byte{0x40, 2, 0, 1}, brokertest.Expect[*packet.Ack](c).Append(nil, packet.V311))
		require.Equal(t, packet.UnspecifiedError, c.Subscribe("a", 0))
	})
}

package conn_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/packet"
)

func TestResponseInformation(t *testing.T) {
	t.Parallel()
	asks := func(info byte) func(*packet.Connect) {
		return properties(packet.Properties{Has: packet.PropRequestResponseInfo, RequestResponseInfo: info})
	}
	given := func(w *world, id string, change func(*packet.Connect)) string {
		w.tb.Helper()
		props := w.dial(packet.V5).Connect(id, change).Properties
		require.Equal(w.tb, props.ResponseInfo != "", props.Has.Contains(packet.PropResponseInfo))
		return props.ResponseInfo
	}
	t.Run("is for who asks for it [MQTT5-3.1.2-28]", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		require.Equal(t, "response/c", given(w, "c", asks(1)))
		require.Empty(t, given(w, "d", asks(0)))
		require.Empty(t, given(w, "e", func(*packet.Connect) {}))
		assigned := w.dial(packet.V5).Connect("", asks(1)).Properties
		require.Equal(t, "response/"+assigned.AssignedClientID, assigned.ResponseInfo)
	})
	t.Run("is left out where it could not be used", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.SetRules(brokertest.Rules{Subscribe: func(_, filter string) bool { return filter != "response/denied/#" }})
		l := brokertest.Limits()
		l.TopicBytesMax = 30
		w.SetLimits(l)
		for _, id := range []string{"denied", "a/b", "a+", "#", strings.Repeat("x", 20)} {
			require.Empty(t, given(w, id, asks(1)), "client id %q", id)
		}
		require.Equal(t, "response/allowed", given(w, "allowed", asks(1)))
		l.TopicLevelsMax = 2
		w.SetLimits(l)
		require.Empty(t, given(w, "allowed", asks(1)))
	})
	t.Run("is left out where CONNACK would be too large with it", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		small := properties(packet.Properties{
			Has: packet.PropRequestResponseInfo | packet.PropMaximumPacketSize, RequestResponseInfo: 1, MaximumPacketSize: 24,
		})
		require.Empty(t, given(w, "somebody", small))
	})
	t.Run("a request is answered there", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		asker, answerer := w.dial(packet.V5), w.client(packet.V5, "answerer")
		info := asker.Connect("asker", asks(1)).Properties.ResponseInfo
		asker.Subscribe(info+"/#", 0)
		answerer.Subscribe("time", 0)
		asker.Send(&packet.Publish{Topic: []byte("time"), Properties: &packet.Properties{
			Has: packet.PropResponseTopic | packet.PropCorrelationData, ResponseTopic: info + "/1", CorrelationData: []byte("x"),
		}})
		request := answerer.ExpectMessage("time", "")
		require.Equal(t, "x", string(request.Properties.CorrelationData))
		answerer.Publish(request.Properties.ResponseTopic, "noon")
		asker.ExpectMessage("response/asker/1", "noon")
	})
}

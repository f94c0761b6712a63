package conn

import (
	"strings"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/topic"
)

// responsePrefix is the first level of the topics that Response Information names.
const responsePrefix = "response/"

// addResponseInformation names, to a client that has asked for it [MQTT5-3.1.2-28], a part of the topic tree for the
// responses that it waits for: response/{client id}. It is left out where the client may not subscribe to all of it, or
// where its Client Identifier is no topic level.
func addResponseInformation(props *packet.Properties, p *packet.Connect, client *broker.Client, limits broker.Limits) {
	if p.Properties == nil || p.Properties.RequestResponseInfo != 1 || strings.ContainsAny(client.ID(), "/+#") {
		return
	}
	info := responsePrefix + client.ID()
	all := info + "/#"
	bounds := topic.Limits{LevelsMax: limits.TopicLevelsMax, BytesMax: limits.TopicBytesMax}
	if topic.ValidateFilter(all, bounds) != nil || !client.Grant().MaySubscribe(all, false) {
		return
	}
	props.Has |= packet.PropResponseInfo
	props.ResponseInfo = info
}

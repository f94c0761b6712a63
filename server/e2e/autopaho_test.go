package e2e

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	queuefile "github.com/eclipse/paho.golang/autopaho/queue/file"
	pahogo "github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
	storefile "github.com/eclipse/paho.golang/paho/store/file"
)

// lastingAutopaho is autopaho, with its session and its queue in files: each time it comes back, it has nothing else.
type lastingAutopaho struct {
	t        *testing.T
	as       login
	dir      string
	cm       *autopaho.ConnectionManager
	messages inbox[message]
	sessions inbox[bool] // for each CONNACK, whether a session was present
	state    *state.State
}

func (c *lastingAutopaho) connect() {
	c.t.Helper()
	queue, err := queuefile.New(filepath.Join(c.dir, "queue"), "q", "msg")
	if err != nil {
		c.t.Fatal(err)
	}
	ours, err := storefile.New(filepath.Join(c.dir, "ours"), "s", "msg")
	if err != nil {
		c.t.Fatal(err)
	}
	theirs, err := storefile.New(filepath.Join(c.dir, "theirs"), "s", "msg")
	if err != nil {
		c.t.Fatal(err)
	}
	c.state = state.New(ours, theirs)
	c.cm, err = autopaho.NewConnection(context.Background(), autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "mqtt", Host: c.as.app.s.mqtt}}, KeepAlive: 60, SessionExpiryInterval: 3600,
		ConnectUsername: c.as.app.id, ConnectPassword: []byte(c.as.password),
		ReconnectBackoff: autopaho.NewConstantBackoff(50 * time.Millisecond), ConnectTimeout: patience, Queue: queue,
		OnConnectionUp: func(_ *autopaho.ConnectionManager, ack *pahogo.Connack) { c.sessions.put(ack.SessionPresent) },
		ClientConfig: pahogo.ClientConfig{
			ClientID: c.as.clientID, Session: c.state,
			OnPublishReceived: []func(pahogo.PublishReceived) (bool, error){func(r pahogo.PublishReceived) (bool, error) {
				p := r.Packet
				c.messages.put(message{Topic: p.Topic, Payload: string(p.Payload), QoS: int(p.QoS), Retain: p.Retain, Dup: p.Duplicate()})
				return true, nil
			}},
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	cm := c.cm
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = cm.Disconnect(ctx) //nolint:errcheck // it may have left
	})
}

func (c *lastingAutopaho) begin() {
	c.t.Helper()
	c.connect()
	if c.returned() {
		c.t.Error("the session of autopaho is present before it began")
	}
	ack, err := c.cm.Subscribe(context.Background(), &pahogo.Subscribe{Subscriptions: []pahogo.SubscribeOptions{{Topic: "in/#", QoS: 2}}})
	if err != nil || ack.Reasons[0] != 2 {
		c.t.Fatalf("SUBACK %+v, %v, want QoS 2", ack, err)
	}
}

func (c *lastingAutopaho) leave() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.cm.Disconnect(ctx); err != nil {
		c.t.Fatal(err)
	}
	if err := c.state.Close(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *lastingAutopaho) comeBack() bool {
	c.t.Helper()
	c.connect()
	return c.returned()
}

func (c *lastingAutopaho) returned() bool {
	c.t.Helper()
	present, ok := c.sessions.next(patience)
	if !ok {
		c.t.Fatalf("autopaho has not connected within %v", patience)
	}
	return present
}

func (c *lastingAutopaho) next() message {
	c.t.Helper()
	m, ok := c.messages.next(patience)
	if !ok {
		c.t.Fatalf("autopaho got no message within %v", patience)
	}
	return m
}

func (*lastingAutopaho) keeps() bool { return true }

// say puts it into the file queue, whose order is that of the files' times: these are apart by more than a tick of the clock.
func (c *lastingAutopaho) say(topic, payload string) {
	c.t.Helper()
	<-time.After(20 * time.Millisecond)
	err := c.cm.PublishViaQueue(context.Background(), &autopaho.QueuePublish{Publish: &pahogo.Publish{Topic: topic, Payload: []byte(payload), QoS: 2}})
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestASessionOfAutopahoOutlivesItsConnectionAndTheServer(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "HTTP_ADDR="+steadyAddr(t), "MQTT_ADDR="+steadyAddr(t))
		a := s.newApp("lasting", anything...)
		as := login{app: a, password: a.token("roamer", time.Hour, ""), clientID: "roamer"}
		playLasting(t.T, a, &lastingAutopaho{t: t.T, as: as, dir: t.TempDir()})
	})
}

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/embercast/embercast/realtime/packet"
)

// visitor is the address of the client that the proxies of these stories name.
var visitor = net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 40_000}

// startProxy starts a proxy of TCP that names the visitor in a PROXY header of a version, and returns its address.
func startProxy(tb testing.TB, to string, version byte) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var going sync.WaitGroup
	var mu sync.Mutex // guards open
	open := []io.Closer{ln}
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	tb.Cleanup(func() {
		mu.Lock()
		for _, c := range open {
			_ = c.Close() //nolint:errcheck // it may be closed already
		}
		mu.Unlock()
		going.Wait()
	})
	going.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close() //nolint:errcheck // the client sees it
				continue
			}
			keep(client)
			keep(server)
			header := proxyproto.HeaderProxyFromAddrs(version, &visitor, server.RemoteAddr())
			if _, err := header.WriteTo(server); err != nil {
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				going.Go(func() {
					_, _ = io.Copy(way[0], way[1]) //nolint:errcheck // it ends by either's close
					_ = way[0].Close()             //nolint:errcheck // as above
				})
			}
		}
	})
	return ln.Addr().String()
}

// behind returns the server as it is seen through proxies.
func (s *server) behind(version byte) *server {
	s.t.Helper()
	through := *s
	for _, addr := range []*string{&through.http, &through.https, &through.mqtt, &through.mqtts} {
		if *addr != "" {
			*addr = startProxy(s.t, *addr, version)
		}
	}
	return &through
}

// remote returns the address that the server has of a client.
func (a *app) remote(clientID string) string {
	a.s.t.Helper()
	var c struct{ Remote string }
	a.s.call("GET", a.path("/clients/"+clientID), a.s.admin, nil).want(200).into(&c)
	return c.Remote
}

func TestAProxysHeaderCountsFromTrustedNetworksOnEveryListener(t *testing.T) {
	onBothStores(t, func(t story) {
		cert, key := certificate(t.T)
		s := startServer(t, t.on, "HTTPS_ADDR=127.0.0.1:0", "MQTTS_ADDR=127.0.0.1:0", "TLS_CERT="+cert, "TLS_KEY="+key, "TRUSTED_PROXIES=127.0.0.1")
		a := s.newApp("behind", anything...)
		for _, version := range []byte{1, 2} {
			proxied := &app{s.behind(version), a.id}
			watcher := mqttJS.connect(t, fmt.Sprint("watcher-", version), login{app: proxied, password: a.token("w", time.Hour, "")}).follow("said/#")
			for _, transport := range []string{"tcp", "tls", "ws", "wss"} {
				name := fmt.Sprint(transport, "-", version)
				c := mqttJS.connect(t, name, login{app: proxied, password: a.token(name, time.Hour, ""), transport: transport, ca: cert})
				if got := a.remote(name); got != visitor.String() {
					t.Errorf("%s: remote = %q, want %v", name, got, &visitor)
				}
				c.say("said/"+name, "hello")
				watcher.hears("said/" + name + " hello")
			}
		}
		// Who comes from there without a header is the proxy itself; MQTT and REST go on as ever.
		direct := mqttJS.connect(t, "direct", login{app: a, password: a.token("direct", time.Hour, ""), transport: "tcp"})
		if got := a.remote(direct.id); !strings.HasPrefix(got, "127.0.0.1:") {
			t.Errorf("direct: remote = %q, want the proxy's own", got)
		}
		// What is no header though it begins as one does is refused.
		w := dialWire(t, s.mqtt)
		w.write([]byte("PROXY TCP4 nowhere 127.0.0.1 1 2\r\n"))
		w.send(connectPacket(a, packet.V5, "forger", a.token("forger", time.Hour, "")))
		w.wantClosed()
	})
}

func TestAProxysHeaderFromAnybodyElseIsNoMQTT(t *testing.T) {
	onBothStores(t, func(t story) {
		s := startServer(t, t.on, "TRUSTED_PROXIES=192.0.2.0/24")
		a := s.newApp("open", anything...)
		before := s.refused("protocol_error")
		w := dialWire(t, s.behind(1).mqtt)
		w.send(connectPacket(a, packet.V5, "forger", a.token("forger", time.Hour, "")))
		w.wantClosed()
		if after := s.refused("protocol_error"); after != before+1 {
			t.Errorf("embercast_refusals_total{cause=protocol_error} grew by %v, want 1", after-before)
		}
	})
}

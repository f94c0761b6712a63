package tcp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/broker/brokertest"
	"github.com/embercast/embercast/realtime/conn"
	"github.com/embercast/embercast/realtime/packet"
	"github.com/embercast/embercast/realtime/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type server struct {
	world    *brokertest.World
	observer *brokertest.Observer
	broker   *broker.Broker
	addr     string
}

// start serves on a port of its own, over TLS where a configuration is given.
func start(tb testing.TB, tlsConfig *tls.Config) *server {
	tb.Helper()
	s := &server{world: brokertest.NewWorld(), observer: &brokertest.Observer{}}
	log := slog.New(slog.DiscardHandler)
	s.broker = broker.New(broker.Config{Store: brokertest.NewStore(1, 2), Authenticator: s.world, Observer: s.observer, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() {
		s.broker.Run(ctx)
		ended <- nil
	}()
	require.NoError(tb, s.broker.OpenApp(ctx, broker.AppConfig{UID: 1, ID: "app"}))
	listener := tcp.New(conn.Config{Broker: s.broker, Observer: s.observer, Logger: log})
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	s.addr = ln.Addr().String()
	go func() { ended <- listener.Serve(ln, tlsConfig) }()
	tb.Cleanup(func() {
		require.NoError(tb, ln.Close())
		s.broker.Drain()
		closing, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		listener.Close(closing)
		cancel()
		require.NoError(tb, <-ended)
		require.NoError(tb, <-ended)
	})
	return s
}

func (s *server) dial(tb testing.TB) net.Conn {
	tb.Helper()
	c, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", s.addr)
	require.NoError(tb, err)
	return c
}

func TestServe(t *testing.T) {
	t.Parallel()
	t.Run("MQTT is spoken over TCP, byte by byte too [MQTT5-4.2-1] [MQTT311-7.1.1-1]", func(t *testing.T) {
		t.Parallel()
		s := start(t, nil)
		c := brokertest.NewClient(t, s.dial(t), packet.V5)
		c.Connect("c")
		c.Subscribe("a", 0)
		for _, b := range (&packet.Publish{Topic: []byte("a"), Payload: []byte("slowly")}).Append(nil, packet.V5) {
			c.SendBytes([]byte{b})
		}
		c.ExpectMessage("a", "slowly")
	})
	t.Run("the farewell reaches a client that is still sending", func(t *testing.T) {
		t.Parallel()
		s := start(t, nil)
		c := brokertest.NewClient(t, s.dial(t), packet.V5)
		c.Connect("c")
		bad := append((&packet.Ack{Kind: packet.TypePubrel, PacketID: 1}).Append(nil, packet.V5), 0x62|1, 2, 0, 1)
		c.SendBytes(append(bad, make([]byte, 200_000)...)) // a flag that is reserved, then more than a read takes
		c.ExpectAck(packet.TypePubcomp, 1, packet.Success)
		c.ExpectEnd(packet.MalformedPacket)
	})
	t.Run("whoever disconnects and is back at once leaves no will [MQTT5-3.14.4-3] [MQTT311-3.14.4-3]", func(t *testing.T) {
		t.Parallel()
		s := start(t, nil)
		watcher := brokertest.NewClient(t, s.dial(t), packet.V5)
		watcher.Connect("watcher")
		watcher.Subscribe("#", 0)
		for range 200 {
			c := brokertest.NewClient(t, s.dial(t), packet.V5)
			c.Connect("c", func(p *packet.Connect) { p.Will = &packet.Will{Topic: "wills/c", Payload: []byte("gone")} })
			c.Publish("alive", "yes")
			c.Send(&packet.Disconnect{})
			c.Close()
		}
		for range 200 {
			watcher.ExpectMessage("alive", "yes")
		}
		watcher.ExpectNothing()
	})
	t.Run("HTTP on the MQTT port is told where it belongs", func(t *testing.T) {
		t.Parallel()
		s := start(t, nil)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/", http.NoBody)
		require.NoError(t, err)
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Do(req)
		require.NoError(t, err)
		defer answer.Body.Close() //nolint:errcheck // read to its end
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, answer.StatusCode)
		require.Contains(t, string(text), "MQTT port")
		require.Equal(t, 1, s.observer.Count("refused http_on_mqtt_port"))
	})
	t.Run("garbage ends the connection and nothing else", func(t *testing.T) {
		t.Parallel()
		s := start(t, nil)
		good := brokertest.NewClient(t, s.dial(t), packet.V311)
		good.Connect("good")
		bad := brokertest.NewClient(t, s.dial(t), packet.V311)
		bad.SendBytes([]byte("\x00\xff\xfe what is this"))
		bad.ExpectEnd(0)
		good.ExpectNothing()
		require.Equal(t, 1, s.observer.Count("refused protocol_error"))
	})
}

// pair writes a self-signed certificate for 127.0.0.1 and its key, and returns the certificate.
func pair(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(file, kind string, der []byte) {
		path := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	write("cert.pem", "CERTIFICATE", der)
	write("key.pem", "PRIVATE KEY", private)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

func TestTLS(t *testing.T) {
	t.Parallel()
	t.Run("MQTT is spoken over TLS", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		cert := pair(t, dir, "first")
		loaded, err := tcp.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
		require.NoError(t, err)
		s := start(t, loaded.Config())
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		c := brokertest.NewClient(t, tls.Client(s.dial(t), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}), packet.V5)
		c.Connect("c")
		c.Subscribe("a", 1)
		c.Publish("a", "p", brokertest.QoS(1, 1))
		c.ExpectAck(packet.TypePuback, 1, packet.Success)
		c.ExpectMessage("a", "p")
	})
	t.Run("plain MQTT on the TLS port is refused and counted", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		pair(t, dir, "first")
		loaded, err := tcp.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
		require.NoError(t, err)
		s := start(t, loaded.Config())
		c := s.dial(t)
		_, err = c.Write((&packet.Connect{Version: packet.V311, CleanStart: true}).Append(nil, packet.V311))
		require.NoError(t, err)
		_, _ = io.ReadAll(c) //nolint:errcheck // an alert, or a reset
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool { return s.observer.Count("refused tls_handshake") == 1 }, brokertest.Patience, time.Millisecond)
	})
	t.Run("a pair that does not fit is named", func(t *testing.T) {
		t.Parallel()
		dir, other := t.TempDir(), t.TempDir()
		pair(t, dir, "first")
		pair(t, other, "second")
		_, err := tcp.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(other, "key.pem"))
		require.ErrorContains(t, err, "cert.pem")
		_, err = tcp.LoadCertificate(filepath.Join(dir, "nothing.pem"), filepath.Join(dir, "key.pem"))
		require.ErrorContains(t, err, "nothing.pem")
	})
}

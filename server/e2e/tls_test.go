package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes a self-signed pair for this machine and returns its files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "embercast e2e"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der), writePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", keyDER)
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheSameIsServedOverTLS(t *testing.T) {
	onBothStores(t, func(t story) {
		cert, key := certificate(t.T)
		s := startServer(t, t.on, "HTTPS_ADDR=127.0.0.1:0", "MQTTS_ADDR=127.0.0.1:0", "TLS_CERT="+cert, "TLS_KEY="+key)
		a := s.newApp("sealed", anything...)
		as := func(name, transport string) login {
			return login{app: a, password: a.token(name, time.Hour, ""), transport: transport, ca: cert}
		}
		js := mqttJS.connect(t, "js-wss", as("js-wss", "wss")).follow("#")
		tls := mqttJS.connect(t, "js-tls", as("js-tls", "tls")).follow("#")
		py := paho.connect(t, "py-wss", as("py-wss", "wss")).follow("#")
		if r := mosquittoPub(t, as("cli", "tls"), "-t", "from/mosquitto", "-m", "over mqtts"); r.code != 0 {
			t.Fatalf("mosquitto_pub over TLS: %+v", r)
		}
		js.say("from/js", "over wss")
		url := "https://" + s.https + a.path("/publish")
		r := run(t, "curl", exec.Command(program(t, "curl", ""), "--silent", "--show-error", "--fail-with-body", "--cacert", cert, "--oauth2-bearer", s.admin,
			url, "--json", `{"topic":"from/curl","payload":"over https"}`))
		if r.code != 0 || !strings.Contains(r.stdout, `"seq":null`) {
			t.Fatalf("curl over TLS: %+v", r)
		}
		for _, c := range []*client{js, tls, py} {
			c.hears("from/mosquitto over mqtts", "from/js over wss", "from/curl over https")
		}
		transports := map[string]string{"js-wss": "wss", "js-tls": "tls", "py-wss": "wss"}
		for id, want := range transports {
			var of struct{ Transport string }
			s.call("GET", a.path("/clients/"+id), s.admin, nil).want(200).into(&of)
			if of.Transport != want {
				t.Errorf("%s comes by %q, want %q", id, of.Transport, want)
			}
		}

		// Who does not trust the certificate does not get in, and plain MQTT finds no server there.
		if r := run(t, "curl", exec.Command("curl", "--silent", "--show-error", "https://"+s.https+"/healthz")); r.code != 60 {
			t.Errorf("curl without the certificate = %d %s, want 60", r.code, r.stderr)
		}
		before := s.refused("tls_handshake")
		w := dialWire(t, s.mqtts)
		w.send(connectPacket(a, 5, "plain", a.token("plain", time.Hour, "")))
		buf := make([]byte, 64)
		for {
			if _, err := w.net.Read(buf); err != nil {
				break // after a TLS alert
			}
		}
		if s.refused("tls_handshake") != before+1 {
			t.Error("embercast_refusals_total{cause=tls_handshake} did not grow")
		}
	})
}

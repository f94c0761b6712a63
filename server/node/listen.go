package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/embercast/embercast/realtime/tcp"
	"github.com/embercast/embercast/server/proxy"
)

// The names of listeners, in the ready file and in /v1/server.
const (
	listenerHTTP    = "http"
	listenerHTTPS   = "https"
	listenerMQTT    = "mqtt"
	listenerMQTTS   = "mqtts"
	listenerMetrics = "metrics"
)

// listen opens all listeners, or none, and tells every address that could not be had.
func (n *Node) listen(ctx context.Context) error {
	n.listeners = map[string]net.Listener{}
	var p Problems
	trusted := n.cfg.trustedProxies(&p) // nothing is wrong with them: Validate has seen them
	for _, l := range []struct{ name, addr string }{
		{listenerHTTP, n.cfg.HTTPAddr},
		{listenerHTTPS, n.cfg.HTTPSAddr},
		{listenerMQTT, n.cfg.MQTTAddr},
		{listenerMQTTS, n.cfg.MQTTSAddr},
		{listenerMetrics, n.cfg.MetricsAddr},
	} {
		if l.addr == "" {
			continue
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			p.add("%s", explainListen(l.name, l.addr, err))
			continue
		}
		if l.name != listenerMetrics {
			ln = proxy.Listener(ln, trusted, n.log)
		}
		n.listeners[l.name] = ln
	}
	if len(p) == 0 {
		return nil
	}
	for _, ln := range n.listeners {
		_ = ln.Close() //nolint:errcheck // nobody was let in
	}
	return p
}

func explainListen(name, addr string, err error) string {
	option := fmt.Sprintf("--%s-addr or EMBERCAST_%s_ADDR", name, strings.ToUpper(name))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("%s (for %s) is taken by another program: stop that, or choose another address with %s", addr, name, option)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("%s (for %s) may not be used by this user: choose a port above 1023 with %s", addr, name, option)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s (for %s) is no address of this machine: choose another with %s", addr, name, option)
	}
	return fmt.Sprintf("%s (for %s) cannot be listened on: %v; choose another address with %s", addr, name, err, option)
}

// tlsConfigs loads the certificate pair for HTTPS and MQTT; both nil where there is none.
func (n *Node) tlsConfigs() (https, mqtts *tls.Config, err error) {
	if n.cfg.HTTPSAddr == "" && n.cfg.MQTTSAddr == "" {
		return nil, nil, nil
	}
	pair, err := tcp.LoadCertificate(n.cfg.TLSCert, n.cfg.TLSKey)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; check EMBERCAST_TLS_CERT and EMBERCAST_TLS_KEY", err)
	}
	https, mqtts = pair.Config(), pair.Config()
	https.NextProtos = []string{"http/1.1"}
	mqtts.NextProtos = []string{"mqtt"}
	return https, mqtts, nil
}

// Addrs returns the addresses that are listened on, by name.
func (n *Node) Addrs() map[string]string {
	all := map[string]string{}
	for name, ln := range n.listeners {
		all[name] = ln.Addr().String()
	}
	return all
}

// writeReadyFile tells, at once or not at all, that everything is up and where.
func (n *Node) writeReadyFile() error {
	if n.cfg.ReadyFile == "" {
		return nil
	}
	text, err := json.Marshal(struct {
		PID       int               `json:"pid"`
		Listeners map[string]string `json:"listeners"`
	}{os.Getpid(), n.Addrs()})
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(n.cfg.ReadyFile), ".ready-")
	if err != nil {
		return fmt.Errorf("ready file: %w; check EMBERCAST_READY_FILE", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), n.cfg.ReadyFile)
	}
	if err != nil {
		_ = os.Remove(f.Name()) //nolint:errcheck // the first error counts
		return fmt.Errorf("ready file: %w; check EMBERCAST_READY_FILE", err)
	}
	n.announced = true
	return nil
}

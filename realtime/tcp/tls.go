package tcp

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// reloadAfter is how often the files of a certificate pair are looked at again.
const reloadAfter = 5 * time.Second

// Certificate serves a certificate pair from two files, and serves a new pair soon after the files have changed, so
// that a renewal needs no restart.
type Certificate struct {
	certFile, keyFile string

	mu      sync.Mutex // guards what follows
	pair    *tls.Certificate
	stamp   string
	checked time.Time
}

// LoadCertificate reads a PEM certificate and its key.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Config returns a TLS configuration that serves the pair (TLS 1.2 and above).
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}

func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) > reloadAfter {
		// A pair that cannot be read now is tried again later; the old one goes on.
		_ = c.loadLocked() //nolint:errcheck // see above
	}
	return c.pair, nil
}

func (c *Certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loadLocked()
}

func (c *Certificate) loadLocked() error {
	c.checked = time.Now()
	var stamp strings.Builder
	for _, f := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("TLS certificate: %w", err)
		}
		stamp.WriteString(info.ModTime().String())
	}
	if stamp.String() == c.stamp {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair, c.stamp = &pair, stamp.String()
	return nil
}

package node

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/embercast/embercast/auth"
)

// Config is how a node is set up (CONTRACT section 2). Its texts are as the operator typed them; Validate reads them.
type Config struct {
	Version        string
	HTTPAddr       string
	MQTTAddr       string
	HTTPSAddr      string
	MQTTSAddr      string
	TLSCert        string
	TLSKey         string
	DatabaseURL    string
	DataDir        string
	AdminToken     string
	SecretKey      string
	DefaultApp     string
	AppDomain      string // refused: it is not built yet
	TrustedProxies string
	MetricsToken   string
	MetricsAddr    string
	ReadyFile      string
}

// Problems are everything that is wrong with a configuration, one sentence each.
type Problems []string

// Error implements error.
func (p Problems) Error() string { return strings.Join(p, "\n") }

func (p *Problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// Validate checks the whole configuration and tells all problems together, as Problems.
func (c *Config) Validate() error {
	var p Problems
	if c.HTTPAddr == "" && c.HTTPSAddr == "" {
		p.add("EMBERCAST_HTTP_ADDR (--http-addr) and EMBERCAST_HTTPS_ADDR (--https-addr) are both empty: set one, such as 127.0.0.1:8080")
	}
	for _, a := range []struct{ name, value string }{
		{"HTTP_ADDR", c.HTTPAddr}, {"MQTT_ADDR", c.MQTTAddr}, {"HTTPS_ADDR", c.HTTPSAddr}, {"MQTTS_ADDR", c.MQTTSAddr}, {"METRICS_ADDR", c.MetricsAddr},
	} {
		if a.value == "" {
			continue
		}
		_, port, err := net.SplitHostPort(a.value)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			p.add("EMBERCAST_%s %q is not host:port, such as 127.0.0.1:8080 or :8080", a.name, a.value)
		}
	}
	if (c.HTTPSAddr != "" || c.MQTTSAddr != "") && (c.TLSCert == "" || c.TLSKey == "") {
		p.add("EMBERCAST_HTTPS_ADDR and EMBERCAST_MQTTS_ADDR need EMBERCAST_TLS_CERT and EMBERCAST_TLS_KEY")
	}
	if c.DefaultApp != "" && !auth.ValidAppID(c.DefaultApp) {
		p.add("EMBERCAST_DEFAULT_APP %q is no app's id: those have 1 to 63 characters of a-z, 0-9 and -, the first of them not -", c.DefaultApp)
	}
	if c.AppDomain != "" {
		p.add("EMBERCAST_APP_DOMAIN is not served by this version: leave it empty")
	}
	c.checkDatabase(&p)
	c.checkSecrets(&p)
	c.trustedProxies(&p)
	if len(p) > 0 {
		return p
	}
	return nil
}

// trustedProxies reads the networks of EMBERCAST_TRUSTED_PROXIES; a single address is a network of its own.
func (c *Config) trustedProxies(p *Problems) []netip.Prefix {
	var networks []netip.Prefix
	for _, text := range strings.FieldsFunc(c.TrustedProxies, func(r rune) bool { return r == ',' || r == ' ' }) {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(text); err == nil {
				network = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if err != nil {
			p.add("EMBERCAST_TRUSTED_PROXIES: %q is not a network such as 10.0.0.0/8", text)
			continue
		}
		networks = append(networks, network)
	}
	return networks
}

func (c *Config) checkDatabase(p *Problems) {
	if c.DataDir == "" {
		p.add("EMBERCAST_DATA_DIR (--data-dir) is empty: name a directory, such as ./data")
	}
	if c.DatabaseURL == "" || strings.HasPrefix(c.DatabaseURL, "sqlite://") || isPostgres(c.DatabaseURL) {
		return
	}
	// The URL may hold a password: only its scheme is shown.
	scheme, _, _ := strings.Cut(c.DatabaseURL, ":")
	p.add("EMBERCAST_DATABASE_URL begins with %q: it must be sqlite://path or postgres://user:password@host:5432/name", scheme)
}

func isPostgres(u string) bool {
	return strings.HasPrefix(u, "postgres://") || strings.HasPrefix(u, "postgresql://")
}

const adminTokenMin = 16 // characters; the generated one has 43

func (c *Config) checkSecrets(p *Problems) {
	if c.AdminToken != "" && len(c.AdminToken) < adminTokenMin {
		p.add("EMBERCAST_ADMIN_TOKEN is shorter than %d characters: leave it empty to have one made", adminTokenMin)
	}
	if c.SecretKey != "" {
		if _, err := parseSecretKey(c.SecretKey); err != nil {
			p.add("EMBERCAST_SECRET_KEY %s", err)
		}
	}
	if c.MetricsToken != "" && len(c.MetricsToken) < adminTokenMin {
		p.add("EMBERCAST_METRICS_TOKEN is shorter than %d characters", adminTokenMin)
	}
}

// parseSecretKey reads 32 bytes in hex or base64.
func parseSecretKey(text string) ([]byte, error) {
	if key, err := hex.DecodeString(text); err == nil && len(key) == 32 {
		return key, nil
	}
	if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) == 32 {
		return key, nil
	}
	return nil, errors.New("must be 32 bytes as 64 hex digits or in base64, such as `openssl rand -hex 32` makes")
}

// sqlitePath is where the embedded database lies.
func (c *Config) sqlitePath() (string, error) {
	if c.DatabaseURL == "" {
		return filepath.Join(c.DataDir, "embercast.db"), nil
	}
	path, err := url.PathUnescape(strings.TrimPrefix(c.DatabaseURL, "sqlite://"))
	if err != nil || path == "" {
		return "", errors.New("EMBERCAST_DATABASE_URL names no file: it looks like sqlite:///var/lib/embercast/embercast.db")
	}
	return path, nil
}

// makeDataDir makes the data directory, for the operator alone, and says what to do where it cannot be written.
func (c *Config) makeDataDir() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory %s cannot be made: %w; choose another with --data-dir or EMBERCAST_DATA_DIR", c.DataDir, err)
	}
	probe, err := os.CreateTemp(c.DataDir, ".probe-")
	if err != nil {
		return fmt.Errorf("data directory %s cannot be written: %w; check its owner and permissions, or choose another with --data-dir or EMBERCAST_DATA_DIR", c.DataDir, err)
	}
	// One that was made just now must outlive a loss of power, as what is in it does. Where it stands is not ours, and may
	// be closed to us.
	_ = syncDir(filepath.Dir(filepath.Clean(c.DataDir))) //nolint:errcheck // see above
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

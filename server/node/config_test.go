package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func valid() Config {
	return Config{HTTPAddr: "127.0.0.1:0", MQTTAddr: "127.0.0.1:0", DataDir: "data"}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Config)
		want   []string // what each problem names; none: it is valid
	}{
		"the defaults":                      {func(*Config) {}, nil},
		"MQTT may be off":                   {func(c *Config) { c.MQTTAddr = "" }, nil},
		"HTTP may be off beside HTTPS":      {func(c *Config) { c.HTTPAddr, c.HTTPSAddr, c.TLSCert, c.TLSKey = "", ":443", "c", "k" }, nil},
		"something must serve HTTP":         {func(c *Config) { c.HTTPAddr = "" }, []string{"EMBERCAST_HTTP_ADDR"}},
		"addresses are host:port":           {func(c *Config) { c.HTTPAddr, c.MetricsAddr = "8080", "x" }, []string{"EMBERCAST_HTTP_ADDR", "EMBERCAST_METRICS_ADDR"}},
		"with a port that there is":         {func(c *Config) { c.HTTPAddr, c.MQTTAddr = ":99999", ":mqtt" }, []string{"EMBERCAST_HTTP_ADDR", "EMBERCAST_MQTT_ADDR"}},
		"the default app is an app's id":    {func(c *Config) { c.DefaultApp = "Not_One" }, []string{"EMBERCAST_DEFAULT_APP"}},
		"what is not built is refused":      {func(c *Config) { c.AppDomain = "x.example" }, []string{"EMBERCAST_APP_DOMAIN"}},
		"TLS needs a pair":                  {func(c *Config) { c.MQTTSAddr = ":8883" }, []string{"EMBERCAST_TLS_CERT"}},
		"the database is one of two":        {func(c *Config) { c.DatabaseURL = "mysql://root:topsecret@x/y" }, []string{"mysql"}},
		"Postgres has two names":            {func(c *Config) { c.DatabaseURL = "postgresql://x/y" }, nil},
		"the data directory is needed":      {func(c *Config) { c.DataDir = "" }, []string{"EMBERCAST_DATA_DIR"}},
		"tokens are long":                   {func(c *Config) { c.AdminToken, c.MetricsToken = "short", "short" }, []string{"EMBERCAST_ADMIN_TOKEN", "EMBERCAST_METRICS_TOKEN"}},
		"the secret key is 32 bytes":        {func(c *Config) { c.SecretKey = "abc" }, []string{"EMBERCAST_SECRET_KEY"}},
		"in hex":                            {func(c *Config) { c.SecretKey = strings.Repeat("0f", 32) }, nil},
		"or in base64":                      {func(c *Config) { c.SecretKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }, nil},
		"proxies are networks or addresses": {func(c *Config) { c.TrustedProxies = "10.0.0.0/8, 127.0.0.1 ::1" }, nil},
		"and nothing else":                  {func(c *Config) { c.TrustedProxies = "caddy,10.0.0.0/99" }, []string{"caddy", "10.0.0.0/99"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := valid()
			test.change(&c)
			err := c.Validate()
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			var problems Problems
			require.ErrorAs(t, err, &problems)
			require.Len(t, problems, len(test.want))
			for i, name := range test.want {
				require.Contains(t, problems[i], name)
			}
			require.NotContains(t, err.Error(), "topsecret")
		})
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	t.Run("the admin token is made once, for its owner alone, and can be replaced", func(t *testing.T) {
		t.Parallel()
		c := Config{DataDir: t.TempDir()}
		_, err := c.KeptAdminToken()
		require.ErrorContains(t, err, "start the server once")
		first, made, err := c.AdminTokenOrMake()
		require.NoError(t, err)
		require.True(t, made)
		require.GreaterOrEqual(t, len(first), 43)
		again, made, err := c.AdminTokenOrMake()
		require.NoError(t, err)
		require.False(t, made)
		require.Equal(t, first, again)
		info, err := os.Stat(filepath.Join(c.DataDir, adminTokenFile))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
		rotated, err := c.RotateAdminToken()
		require.NoError(t, err)
		require.NotEqual(t, first, rotated)
		kept, err := c.KeptAdminToken()
		require.NoError(t, err)
		require.Equal(t, rotated, kept)
	})
	t.Run("a configured admin token is not written anywhere", func(t *testing.T) {
		t.Parallel()
		c := Config{DataDir: t.TempDir(), AdminToken: "configured-admin-token"}
		token, made, err := c.AdminTokenOrMake()
		require.NoError(t, err)
		require.False(t, made)
		require.Equal(t, "configured-admin-token", token)
		_, err = c.RotateAdminToken()
		require.Error(t, err)
		entries, err := os.ReadDir(c.DataDir)
		require.NoError(t, err)
		require.Empty(t, entries)
	})
	t.Run("an admin token that is there is kept from others, and an empty one is not taken", func(t *testing.T) {
		t.Parallel()
		c := Config{DataDir: t.TempDir()}
		path := filepath.Join(c.DataDir, adminTokenFile)
		require.NoError(t, os.WriteFile(path, []byte("an-admin-token-of-mine\n"), 0o644))
		token, made, err := c.AdminTokenOrMake()
		require.NoError(t, err)
		require.False(t, made)
		require.Equal(t, "an-admin-token-of-mine", token)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
		require.NoError(t, os.WriteFile(path, []byte("\n"), 0o600))
		_, _, err = c.AdminTokenOrMake()
		require.ErrorContains(t, err, "remove the file")
		_, err = c.KeptAdminToken()
		require.ErrorContains(t, err, "remove the file")
	})
	t.Run("a damaged secret key is named", func(t *testing.T) {
		t.Parallel()
		c := Config{DataDir: t.TempDir()}
		require.NoError(t, os.WriteFile(filepath.Join(c.DataDir, secretKeyFile), []byte("xx"), 0o600))
		_, err := c.secretKey()
		require.ErrorContains(t, err, secretKeyFile)
	})
}

func TestDataDir(t *testing.T) {
	t.Parallel()
	c := Config{DataDir: filepath.Join(t.TempDir(), "a", "b")}
	require.NoError(t, c.makeDataDir())
	info, err := os.Stat(c.DataDir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	lock, err := c.lockDataDir()
	require.NoError(t, err)
	_, err = c.lockDataDir()
	require.ErrorContains(t, err, "another Embercast server")
	require.NoError(t, lock.Close())
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	c = Config{DataDir: filepath.Join(file, "below")}
	require.ErrorContains(t, c.makeDataDir(), "--data-dir")
}

func TestSQLitePath(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{"": "data/embercast.db", "sqlite:///var/x.db": "/var/x.db", "sqlite://rel/a%20b.db": "rel/a b.db"} {
		c := Config{DataDir: "data", DatabaseURL: url}
		got, err := c.sqlitePath()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	c := Config{DatabaseURL: "sqlite://"}
	_, err := c.sqlitePath()
	require.Error(t, err)
}

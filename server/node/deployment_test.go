package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMakeSecrets(t *testing.T) {
	t.Parallel()
	const database = "postgres://embercast@postgres:5432/embercast?sslmode=disable"
	read := func(t *testing.T, dir string) map[string]string {
		t.Helper()
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		files := map[string]string{}
		for _, e := range entries {
			info, err := e.Info()
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode(), e.Name())
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			files[e.Name()] = strings.TrimSpace(string(text))
		}
		return files
	}
	t.Run("all are made once, for their owner alone, and a server takes them", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "secrets")
		require.NoError(t, MakeSecrets(dir, database))
		files := read(t, dir)
		require.Len(t, files, 4)
		require.Len(t, files[postgresPasswordFile], 64)
		require.Equal(t, "postgres://embercast:"+files[postgresPasswordFile]+"@postgres:5432/embercast?sslmode=disable", files[databaseURLFile])
		c := valid()
		c.DatabaseURL, c.AdminToken, c.SecretKey = files[databaseURLFile], files[adminTokenFile], files[secretKeyFile]
		require.NoError(t, c.Validate())
		require.NoError(t, MakeSecrets(dir, database))
		require.Equal(t, files, read(t, dir))
	})
	t.Run("the database may move, its password stays", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, MakeSecrets(dir, database))
		before := read(t, dir)
		require.NoError(t, MakeSecrets(dir, "postgres://embercast@elsewhere/embercast"))
		after := read(t, dir)
		require.Equal(t, "postgres://embercast:"+before[postgresPasswordFile]+"@elsewhere/embercast", after[databaseURLFile])
	})
	t.Run("without a database there is no password", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, MakeSecrets(dir, ""))
		require.Len(t, read(t, dir), 2)
	})
	for _, url := range []string{
		"sqlite://x.db", "postgres://postgres:5432/embercast", "postgres://embercast:topsecret@postgres/embercast", "postgres://embercast:topsecret@[/x",
	} {
		t.Run("a URL without a user, or with a password, is refused: "+url, func(t *testing.T) {
			t.Parallel()
			err := MakeSecrets(t.TempDir(), url)
			require.ErrorContains(t, err, "EMBERCAST_DATABASE_URL")
			require.NotContains(t, err.Error(), "topsecret")
		})
	}
}

package node

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
)

// The files that MakeSecrets makes beside those of a data directory.
const (
	postgresPasswordFile = "postgres-password"
	databaseURLFile      = "database-url"
)

// MakeSecrets makes what is missing in dir of the secrets that a deployment is started with, each in a file for its
// owner alone: admin-token, secret-key, and, if databaseURL is not empty, postgres-password for the user that it names,
// and database-url, which is databaseURL with that password. What is there stays, but for database-url, which follows.
func MakeSecrets(dir, databaseURL string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("secrets: %w", err)
	}
	c := Config{DataDir: dir}
	if _, _, err := c.AdminTokenOrMake(); err != nil {
		return err
	}
	if _, err := c.secretKey(); err != nil {
		return err
	}
	if databaseURL == "" {
		return nil
	}
	u, err := url.Parse(databaseURL)
	given := false
	if err == nil {
		_, given = u.User.Password()
	}
	if err != nil || given || u.User.Username() == "" || !isPostgres(databaseURL) {
		// It may hold a password, so it is not shown.
		return errors.New("EMBERCAST_DATABASE_URL (--database-url) must name a user, whose password is made here: postgres://user@host:5432/name")
	}
	password, _, err := readOrMake(filepath.Join(dir, postgresPasswordFile), newSecretKey)
	if err != nil {
		return err
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return writeSecret(filepath.Join(dir, databaseURLFile), u.String())
}

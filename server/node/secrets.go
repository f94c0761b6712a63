package node

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The files of generated secrets in the data directory, mode 0600.
const (
	adminTokenFile = "admin-token"
	secretKeyFile  = "secret-key"
)

// AdminTokenOrMake returns the token for management: the configured one, or the generated one, which it makes the first
// time. made tells that it did.
func (c *Config) AdminTokenOrMake() (token string, made bool, err error) {
	if c.AdminToken != "" {
		return c.AdminToken, false, nil
	}
	path := filepath.Join(c.DataDir, adminTokenFile)
	if token, made, err = readOrMake(path, newAdminToken); err == nil {
		err = checkAdminToken(path, token)
	}
	return token, made, err
}

func checkAdminToken(path, token string) error {
	if len(token) < adminTokenMin {
		return fmt.Errorf("the admin token in %s is shorter than %d characters: remove the file, and the next start makes one", path, adminTokenMin)
	}
	return nil
}

// KeptAdminToken returns the token for management without making one.
func (c *Config) KeptAdminToken() (string, error) {
	if c.AdminToken != "" {
		return c.AdminToken, nil
	}
	path := filepath.Join(c.DataDir, adminTokenFile)
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s: start the server once, or name its --data-dir", path)
	}
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	return token, checkAdminToken(path, token)
}

// RotateAdminToken makes a new generated token. A running server takes it at its next start.
func (c *Config) RotateAdminToken() (string, error) {
	if c.AdminToken != "" {
		return "", errors.New("the admin token is set by EMBERCAST_ADMIN_TOKEN: change it there")
	}
	token := newAdminToken()
	return token, writeSecret(filepath.Join(c.DataDir, adminTokenFile), token)
}

func newAdminToken() string {
	var raw [32]byte
	rand.Read(raw[:]) // it never fails
	return "ea_" + base64.RawURLEncoding.EncodeToString(raw[:])
}

// secretKey returns the key that seals signing secrets.
func (c *Config) secretKey() ([]byte, error) {
	text := c.SecretKey
	if text == "" {
		var err error
		if text, _, err = readOrMake(filepath.Join(c.DataDir, secretKeyFile), newSecretKey); err != nil {
			return nil, err
		}
	}
	key, err := parseSecretKey(text)
	if err != nil {
		return nil, fmt.Errorf("secret key in %s %w", filepath.Join(c.DataDir, secretKeyFile), err)
	}
	return key, nil
}

// newSecretKey is 32 random bytes in hex.
func newSecretKey() string {
	var raw [32]byte
	rand.Read(raw[:]) // it never fails
	return hex.EncodeToString(raw[:])
}

func readOrMake(path string, newSecret func() string) (secret string, made bool, err error) {
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err == nil {
		// It may have been copied here by other hands.
		if err := ownerOnly(path); err != nil {
			return "", false, err
		}
		return strings.TrimSpace(string(b)), false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read secret: %w", err)
	}
	secret = newSecret()
	return secret, true, writeSecret(path, secret)
}

// ownerOnly takes a secret's file from everybody but its owner, where it can: one that is mounted read-only stays as it is.
func ownerOnly(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read secret: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		_ = os.Chmod(path, 0o600) //nolint:errcheck // see above
	}
	return nil
}

// writeSecret writes a whole file or none, readable by its owner alone.
func writeSecret(path, secret string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-") // mode 0600
	if err != nil {
		return fmt.Errorf("write secret: %w", err)
	}
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) //nolint:errcheck // the first error counts
		return fmt.Errorf("write secret: %w; make room in %s, or choose another with --data-dir or EMBERCAST_DATA_DIR", err, filepath.Dir(path))
	}
	return syncDir(filepath.Dir(path))
}

// syncDir has a directory's new entries outlive a loss of power.
func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // the operator's own path
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

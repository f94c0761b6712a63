package auth

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// The kinds of keys (CONTRACT section 3).
const (
	KindSecret      = "secret"
	KindSigning     = "signing"
	KindDevice      = "device"
	KindPublishable = "publishable"
)

// The scopes of a secret key.
const (
	ScopePublish = "publish"
	ScopeData    = "data"
	ScopeTokens  = "tokens"
	ScopeClients = "clients"
	ScopeRead    = "read"
	ScopeManage  = "manage"
)

var (
	allScopes     = []string{ScopePublish, ScopeData, ScopeTokens, ScopeClients, ScopeRead, ScopeManage}
	defaultScopes = []string{ScopePublish, ScopeData, ScopeTokens, ScopeClients, ScopeRead}
)

// Key is a key without its secret.
type Key struct {
	ID         string
	Kind, Name string
	CreatedAt  time.Time
	LastUsedAt time.Time // zero: never
	KeyAttributes
}

// KeyAttributes are what the kinds of keys have beside their secret.
type KeyAttributes struct {
	Scopes   []string `json:"scopes,omitempty" enum:"publish,data,tokens,clients,read,manage" doc:"secret: what the key may do"`
	Sub      string   `json:"sub,omitempty" doc:"device: who it is; default device:{name}"`
	ClientID string   `json:"client_id,omitempty" doc:"device: the only client id it may use"`
	Rules    []Rule   `json:"rules,omitempty" doc:"device: rules of its own, beside the app's"`
	Origins  []string `json:"origins,omitempty" doc:"publishable: pages that may use it; none given: any"`
	Alg      string   `json:"alg,omitempty" enum:"HS256,HS384,HS512,RS256,PS256,ES256,EdDSA" doc:"signing: the algorithm; default HS256 with a generated secret"`
	Audience string   `json:"audience,omitempty" doc:"signing: what aud must hold when it is there; default the app id"`
	Issuer   string   `json:"issuer,omitempty" doc:"signing: what iss must be"`
	AllowACL bool     `json:"allow_acl,omitempty" doc:"signing: honour the acl claim of tokens signed elsewhere"`
	Imported bool     `json:"imported,omitempty" doc:"signing: the key was not generated here"`
	Public   string   `json:"public_key,omitempty" doc:"signing: the public key, PEM"`
}

// NewKey is what a key is made of.
type NewKey struct {
	Kind, Name string
	KeyAttributes
	Secret string // signing with HS…: a secret of one's own
}

// keyState is a key in memory.
type keyState struct {
	Key
	hash     [sha256.Size]byte // of the value: secret, device, publishable
	verify   any               // signing: []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	own      *ruleSet          // device: Rules; nil: none
	lastUsed atomic.Int64      // unix microseconds
	flushed  int64             // of lastUsed; the housekeeper's own
}

func (k *keyState) used(now time.Time) { k.lastUsed.Store(now.UnixMicro()) }

func (k *keyState) public() Key {
	key := k.Key
	if at := k.lastUsed.Load(); at != 0 {
		key.LastUsedAt = time.UnixMicro(at).UTC()
	}
	return key
}

// signs reports whether tokens can be made with the key: not with one that only verifies.
func (k *keyState) signs() bool {
	_, secret := k.verify.([]byte)
	return k.Kind == KindSigning && secret
}

const (
	valuePrefix = "ek_"
	// AdminTokenPrefix begins generated admin tokens, so that one which went astray is recognised.
	AdminTokenPrefix = "ea_"

	secretBytes      = 32
	secretBytesHS512 = 48 // with the rest of the value more than the 64 bytes that RFC 7518 section 3.2 asks for
	nameMax          = 128
)

// Bounds of keys (chosen). Device keys may be many; every token that names no key is tried with each signing key.
const (
	keysMax        = 10_000
	signingKeysMax = 100
	originsMax     = 100
)

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newKeyID makes 16 characters: 80 random bits.
func newKeyID() string {
	var raw [10]byte
	mustRead(raw[:])
	return idEncoding.EncodeToString(raw[:])
}

// mustRead: crypto/rand.Read never fails.
func mustRead(b []byte) { rand.Read(b) }

// newValue makes ek_{id}_{random bytes}.
func newValue(id string, size int) string {
	raw := make([]byte, size)
	mustRead(raw)
	return valuePrefix + id + "_" + base64.RawURLEncoding.EncodeToString(raw)
}

// splitValue returns the id in something of the form of a key's value.
func splitValue(value string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(value, valuePrefix)
	if !ok {
		return "", false
	}
	id, secret, ok := strings.Cut(rest, "_")
	return id, ok && id != "" && secret != ""
}

// matches compares in constant time.
func (k *keyState) matches(value string) bool {
	hash := sha256.Sum256([]byte(value))
	return subtle.ConstantTimeCompare(hash[:], k.hash[:]) == 1
}

// checkName checks the name of an app or a key.
func checkName(p *problems, name string) {
	bad := func(r rune) bool { return r < ' ' || r == 0x7F }
	if name == "" || utf8.RuneCountInString(name) > nameMax || strings.ContainsFunc(name, bad) {
		p.add("/name", fmt.Sprintf("must have 1 to %d characters, none of them a control character", nameMax))
	}
}

// check checks a new key, tells all that is wrong, and sets defaults.
func (n *NewKey) check() error {
	var p problems
	checkName(&p, n.Name)
	var allowed []string
	switch n.Kind {
	case KindSecret:
		allowed = []string{"scopes"}
		n.checkScopes(&p)
	case KindDevice:
		allowed = []string{"sub", "client_id", "rules"}
		n.checkDevice(&p)
	case KindPublishable:
		allowed = []string{"origins"}
		checkOrigins(&p, "/origins", n.Origins)
	case KindSigning:
		allowed = []string{"alg", "audience", "issuer", "allow_acl", "public_key", "secret"}
		n.checkSigning(&p)
	case "jwks", "ca":
		p.add("/kind", "keys of this kind are not built yet")
		return p.err()
	default:
		p.add("/kind", "must be secret, signing, device or publishable")
		return p.err()
	}
	for name, set := range n.members() {
		if set && !slices.Contains(allowed, name) {
			p.add("/"+name, "a key of kind "+n.Kind+" does not have this")
		}
	}
	slices.SortStableFunc(p, func(x, y FieldError) int { return strings.Compare(x.Pointer, y.Pointer) })
	return p.err()
}

// members tells which members that belong to some kind are set.
func (n *NewKey) members() map[string]bool {
	return map[string]bool{
		"scopes": n.Scopes != nil, "sub": n.Sub != "", "client_id": n.ClientID != "", "rules": n.Rules != nil,
		"origins": n.Origins != nil, "alg": n.Alg != "", "audience": n.Audience != "", "issuer": n.Issuer != "",
		"allow_acl": n.AllowACL, "public_key": n.Public != "", "secret": n.Secret != "",
	}
}

func (n *NewKey) checkScopes(p *problems) {
	if n.Scopes == nil {
		n.Scopes = slices.Clone(defaultScopes)
	}
	if len(n.Scopes) == 0 {
		p.add("/scopes", "must hold at least one of "+strings.Join(allScopes, ", "))
	}
	for i, s := range n.Scopes {
		switch {
		case !slices.Contains(allScopes, s):
			p.add(fmt.Sprintf("/scopes/%d", i), "must be one of "+strings.Join(allScopes, ", "))
		case slices.Index(n.Scopes, s) != i:
			p.add(fmt.Sprintf("/scopes/%d", i), "is there twice")
		}
	}
}

func (n *NewKey) checkDevice(p *problems) {
	if n.Sub == "" {
		n.Sub = deviceSubject + n.Name
	}
	switch message := subjectMessage(n.Sub); {
	case message != "":
		p.add("/sub", message)
	case reservedSubject(n.Sub) && !strings.HasPrefix(n.Sub, deviceSubject):
		p.add("/sub", "must not be anonymous or key:…: those are the server's")
	}
	checkClientID(p, n.ClientID)
	checkRules(p, "/rules", n.Rules)
}

const clientIDBytesMax = 65_535 // what MQTT can say

// checkClientID checks the client id that a credential names.
func checkClientID(p *problems, id string) {
	if id == "." || id == ".." || len(id) > clientIDBytesMax || strings.ContainsFunc(id, unicode.IsControl) {
		p.add("/client_id", "must not be . or .., and have at most 65,535 bytes without control characters")
	}
}

var (
	hmacAlgorithms   = []string{"HS256", "HS384", "HS512"}
	publicAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}
)

const ownSecretMin = 32 // bytes; RFC 7518 section 3.2 asks for as many as SHA-256 has

func (n *NewKey) checkSigning(p *problems) {
	if n.Alg == "" && n.Public == "" {
		n.Alg = "HS256"
	}
	n.Imported = n.Public != "" || n.Secret != ""
	switch {
	case slices.Contains(hmacAlgorithms, n.Alg):
		if n.Public != "" {
			p.add("/public_key", n.Alg+" has a secret, not a public key")
		}
		if n.Secret != "" && len(n.Secret) < ownSecretMin {
			p.add("/secret", fmt.Sprintf("must have at least %d bytes", ownSecretMin))
		}
	case slices.Contains(publicAlgorithms, n.Alg):
		if n.Secret != "" {
			p.add("/secret", n.Alg+" has a public key, not a secret")
		}
		key, err := parsePublic(n.Alg, n.Public)
		if err != nil {
			p.add("/public_key", err.Error())
			return
		}
		n.Public = publicText(key)
	default:
		p.add("/alg", "must be one of "+strings.Join(slices.Concat(hmacAlgorithms, publicAlgorithms), ", "))
	}
}

// parsePublic reads a public key in PEM that fits the algorithm.
func parsePublic(alg, text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, errors.New("must be a public key in PEM (-----BEGIN PUBLIC KEY-----)")
	case strings.Contains(block.Type, "PRIVATE"):
		return nil, errors.New("is a private key: send the public one, and replace this pair, for it has been sent over a network")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("is not a public key that can be read (PKIX, -----BEGIN PUBLIC KEY-----)")
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if (alg == "RS256" || alg == "PS256") && k.N.BitLen() >= 2048 && k.N.BitLen() <= 8192 {
			return k, nil
		}
	case *ecdsa.PublicKey:
		if alg == "ES256" && k.Curve == elliptic.P256() {
			return k, nil
		}
	case ed25519.PublicKey:
		if alg == "EdDSA" {
			return k, nil
		}
	}
	return nil, fmt.Errorf("is not a key for %s: RS256 and PS256 take RSA of 2048 to 8192 bits, ES256 P-256, EdDSA Ed25519", alg)
}

// publicText writes a public key alone, whatever stood around it in what was sent.
func publicText(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("auth: a public key that was parsed cannot be written: " + err.Error())
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sealer seals signing secrets for the database: AES-GCM with the key's id as additional data, so that a row moved to
// another key does not open.
type sealer struct {
	aead cipher.AEAD
	mac  [sha256.Size]byte // the key of digest
}

const secretKeyBytes = 32

func newSealer(key []byte) (*sealer, error) {
	if len(key) != secretKeyBytes {
		return nil, fmt.Errorf("secret key: must have %d bytes, and has %d", secretKeyBytes, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte("embercast digest"))
	sl := &sealer{aead: aead}
	h.Sum(sl.mac[:0])
	return sl, nil
}

// digest hashes what may hold secrets, so that nobody with the database alone can try what it was.
func (s *sealer) digest(b []byte) []byte {
	h := hmac.New(sha256.New, s.mac[:])
	h.Write(b)
	return h.Sum(nil)
}

func (s *sealer) seal(keyID string, secret []byte) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	mustRead(nonce)
	return s.aead.Seal(nonce, nonce, secret, []byte(keyID)) //nolint:gosec // the nonce is random
}

var errSealed = errors.New("a sealed secret does not open: start with the EMBERCAST_SECRET_KEY, or with the secret-key file in the data directory, that it was sealed with")

func (s *sealer) open(keyID string, sealed []byte) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errSealed
	}
	secret, err := s.aead.Open(nil, sealed[:n], sealed[n:], []byte(keyID))
	if err != nil {
		return nil, errSealed
	}
	return secret, nil
}

// makeKey makes a key's row and its state; value is shown once.
func (d *Directory) makeKey(appUID int64, in NewKey) (row KeyRow, k *keyState, value string, err error) {
	id := newKeyID()
	k = &keyState{Key: Key{ID: id, Kind: in.Kind, Name: in.Name, CreatedAt: d.now(), KeyAttributes: in.KeyAttributes}}
	row = KeyRow{AppUID: appUID, ID: id, Kind: in.Kind, Name: in.Name, CreatedAt: k.CreatedAt}
	switch {
	case in.Kind != KindSigning:
		value = newValue(id, secretBytes)
		k.hash = sha256.Sum256([]byte(value))
		row.Secret = k.hash[:]
	case in.Public != "":
		if k.verify, err = parsePublic(in.Alg, in.Public); err != nil {
			return row, nil, "", invalid("/public_key", err.Error())
		}
	default:
		value = in.Secret
		if value == "" {
			value = newValue(id, generatedBytes(in.Alg))
		}
		k.verify = []byte(value)
		row.Secret = d.seal.seal(id, []byte(value))
	}
	k.compile()
	if row.Attributes, err = json.Marshal(in.KeyAttributes); err != nil {
		return row, nil, "", fmt.Errorf("key: %w", err)
	}
	return row, k, value, nil
}

// loadKey makes a key's state of its row.
func (d *Directory) loadKey(row KeyRow) (*keyState, error) {
	k := &keyState{Key: Key{ID: row.ID, Kind: row.Kind, Name: row.Name, CreatedAt: row.CreatedAt}}
	if err := json.Unmarshal(row.Attributes, &k.KeyAttributes); err != nil {
		return nil, fmt.Errorf("key %s: %w", row.ID, err)
	}
	if !row.LastUsedAt.IsZero() {
		k.lastUsed.Store(row.LastUsedAt.UnixMicro())
		k.flushed = row.LastUsedAt.UnixMicro()
	}
	var err error
	switch {
	case row.Kind != KindSigning:
		copy(k.hash[:], row.Secret)
	case k.Public != "":
		k.verify, err = parsePublic(k.Alg, k.Public)
	default:
		k.verify, err = d.seal.open(row.ID, row.Secret)
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", row.ID, err)
	}
	k.compile()
	return k, nil
}

func (k *keyState) compile() {
	if len(k.Rules) > 0 {
		k.own = newRuleSet(0, k.Rules)
	}
}

func generatedBytes(alg string) int {
	if alg == "HS512" {
		return secretBytesHS512
	}
	return secretBytes
}

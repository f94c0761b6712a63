package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of tokens (CONTRACT section 4; sizes chosen).
const (
	tokenBytesMax   = 16 << 10
	bypassTTLMax    = 15 * time.Minute
	anonymousTTL    = time.Hour
	importedLeeway  = 30 * time.Second
	subjectBytesMax = 512
)

// TokenRequest is what a client token is made of.
type TokenRequest struct {
	Sub         string
	TTL         time.Duration
	ClientID    string
	Claims      map[string]any
	ACL         []Rule
	BypassRules bool // the caller has checked that an admin asks
}

// reservedClaims are ours to set.
var reservedClaims = []string{"exp", "iat", "nbf", "aud", "iss", "sub", "client_id", "acl", "bypass_rules", "jti"}

// checkSubject says what is wrong with a sub that is not ours to give.
func checkSubject(sub string) string {
	switch {
	case sub == "" || len(sub) > subjectBytesMax || !utf8.ValidString(sub) || strings.ContainsRune(sub, 0):
		return fmt.Sprintf("must have 1 to %d bytes of UTF-8 without U+0000", subjectBytesMax)
	case sub == "anonymous" || strings.HasPrefix(sub, "key:") || strings.HasPrefix(sub, "device:"):
		return "must not be anonymous, key:… or device:…: those are the server's"
	}
	return ""
}

// MintToken makes a client token with the newest key that can sign; ErrNoSigningKey when there is none. A token above
// the rules is audited first.
func (d *Directory) MintToken(ctx context.Context, actor, appID string, in TokenRequest) (string, time.Time, error) {
	a, ok := d.state(appID)
	if !ok {
		return "", time.Time{}, ErrNotFound
	}
	var p problems
	if message := checkSubject(in.Sub); message != "" {
		p.add("/sub", message)
	}
	ttlMax := time.Duration(a.snapshot().Settings.TokenTTLMax) * time.Second
	if in.BypassRules {
		ttlMax = min(ttlMax, bypassTTLMax)
	}
	if in.TTL < time.Second || in.TTL > ttlMax {
		p.add("/ttl", fmt.Sprintf("must be from 1 to %d seconds", int(ttlMax.Seconds())))
	}
	if in.ClientID == "." || in.ClientID == ".." {
		p.add("/client_id", "must not be . or ..")
	}
	for _, name := range slices.Sorted(maps.Keys(in.Claims)) {
		if slices.Contains(reservedClaims, name) {
			p.add("/claims/"+name, "is a claim that the server sets")
		}
	}
	if len(in.ACL) > aclRulesMax {
		p.add("/acl", fmt.Sprintf("at most %d rules", aclRulesMax))
	}
	for i := range in.ACL {
		in.ACL[i].check(&p, fmt.Sprintf("/acl/%d", i))
	}
	if err := p.err(); err != nil {
		return "", time.Time{}, err
	}
	if in.BypassRules {
		after := fmt.Appendf(nil, `{"ttl":%d}`, int(in.TTL.Seconds()))
		if err := d.cfg.Store.AppendAudit(ctx, d.audit(actor, appID, "token.bypass", in.Sub, nil, after)); err != nil {
			return "", time.Time{}, fmt.Errorf("mint token: %w", err)
		}
	}
	return d.mint(a, in)
}

func (d *Directory) mint(a *appState, in TokenRequest) (string, time.Time, error) {
	var key *keyState
	for _, k := range a.keysOf(KindSigning) {
		if k.signs() {
			key = k
			break
		}
	}
	if key == nil {
		return "", time.Time{}, ErrNoSigningKey
	}
	now := d.now()
	expires := now.Add(in.TTL).Truncate(time.Second)
	if !expires.After(now) {
		expires = expires.Add(time.Second)
	}
	claims := jwt.MapClaims{}
	maps.Copy(claims, in.Claims)
	claims["sub"], claims["iat"], claims["exp"] = in.Sub, now.Unix(), expires.Unix()
	claims["aud"] = a.audience(key)
	if key.Issuer != "" {
		claims["iss"] = key.Issuer
	}
	if in.ClientID != "" {
		claims["client_id"] = in.ClientID
	}
	if len(in.ACL) > 0 {
		claims["acl"] = in.ACL
	}
	if in.BypassRules {
		claims["bypass_rules"] = true
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(key.Alg), claims)
	token.Header["kid"] = key.ID
	text, err := token.SignedString(key.verify)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token: %w", err)
	}
	if len(text) > tokenBytesMax {
		return "", time.Time{}, invalid("/claims", fmt.Sprintf("the token would be longer than %d bytes", tokenBytesMax))
	}
	key.used(now)
	return text, expires, nil
}

func (a *appState) audience(k *keyState) string {
	if k.Audience != "" {
		return k.Audience
	}
	return a.snapshot().ID
}

// MintAnonymous makes a short token with a fresh random sub, for a page that has shown the publishable key keyID. origin
// is the page's, or empty where there is none; ErrNotAllowed when it is not one of the key's.
func (d *Directory) MintAnonymous(appID, keyID, origin string) (string, time.Time, error) {
	a, ok := d.state(appID)
	if !ok {
		return "", time.Time{}, ErrBadCredentials
	}
	k, ok := a.key(keyID)
	if !ok || k.Kind != KindPublishable {
		return "", time.Time{}, ErrBadCredentials
	}
	if origin != "" && len(k.Origins) > 0 && !originIn(k.Origins, origin) {
		return "", time.Time{}, ErrNotAllowed
	}
	ttl := min(anonymousTTL, time.Duration(a.snapshot().Settings.TokenTTLMax)*time.Second)
	return d.mint(a, TokenRequest{Sub: "anon:" + newKeyID(), TTL: ttl})
}

// credential finds the key whose value this is.
func (a *appState) credential(value string) (*keyState, bool) {
	id, ok := splitValue(value)
	if !ok {
		return nil, false
	}
	k, ok := a.key(id)
	if !ok || k.Kind == KindSigning || !k.matches(value) {
		return nil, false
	}
	return k, true
}

// identity is what a verified token says.
type identity struct {
	key      *keyState
	sub      string
	clientID string
	expires  time.Time
	claims   map[string]any
	acl      []Rule
	bypass   bool
}

var errToken = errors.New("token is not valid")

// verify checks a client token against the app's signing keys: the algorithm is the key's, never the header's. The
// key is chosen by kid, else by iss, else each is tried.
func (d *Directory) verify(a *appState, text string) (*identity, error) {
	if len(text) > tokenBytesMax {
		return nil, errToken
	}
	unverified, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(text, jwt.MapClaims{})
	if err != nil {
		return nil, errToken
	}
	for _, k := range a.candidates(unverified) {
		if id, err := d.verifyWith(a, k, text); err == nil {
			k.used(d.now())
			return id, nil
		}
	}
	return nil, errToken
}

func (a *appState) candidates(unverified *jwt.Token) []*keyState {
	keys := a.keysOf(KindSigning)
	if kid, ok := unverified.Header["kid"].(string); ok {
		for _, k := range keys {
			if k.ID == kid {
				return []*keyState{k}
			}
		}
	}
	claims, _ := unverified.Claims.(jwt.MapClaims) //nolint:errcheck // made of this type above
	if iss, ok := claims["iss"].(string); ok {
		var by []*keyState
		for _, k := range keys {
			if k.Issuer == iss {
				by = append(by, k)
			}
		}
		if len(by) > 0 {
			return by
		}
	}
	return keys
}

func (d *Directory) verifyWith(a *appState, k *keyState, text string) (*identity, error) {
	leeway := time.Duration(0)
	if k.Imported {
		leeway = importedLeeway
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{k.Alg}), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway), jwt.WithTimeFunc(d.now), jwt.WithJSONNumber(), jwt.WithStrictDecoding())
	claims := jwt.MapClaims{}
	_, err := parser.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) { return k.verify, nil })
	if err != nil {
		return nil, errToken
	}
	if _, there := claims["aud"]; there {
		aud, err := claims.GetAudience()
		if err != nil || !slices.Contains(aud, a.audience(k)) {
			return nil, errToken
		}
	}
	if iss, _ := claims["iss"].(string); k.Issuer != "" && iss != k.Issuer { //nolint:errcheck // absent is wrong too
		return nil, errToken
	}
	return identify(k, claims)
}

func identify(k *keyState, claims jwt.MapClaims) (*identity, error) {
	id := &identity{key: k, claims: claims}
	id.sub, _ = claims["sub"].(string) //nolint:errcheck // checked next
	if checkSubject(id.sub) != "" {
		return nil, errToken
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil || exp.Unix() > math.MaxInt32*4 {
		return nil, errToken
	}
	id.expires = exp.UTC()
	if k.Imported {
		id.expires = id.expires.Add(importedLeeway)
	}
	if v, there := claims["client_id"]; there {
		text, ok := v.(string)
		if !ok {
			return nil, errToken
		}
		id.clientID = text
	}
	generated := !k.Imported
	id.bypass = generated && claims["bypass_rules"] == true
	if generated || k.AllowACL {
		if id.acl, err = parseACL(claims["acl"]); err != nil {
			return nil, errToken
		}
	}
	return id, nil
}

// parseACL reads the acl claim as strictly as an app's rules: one that cannot be read makes the token invalid, for a
// deny in it must not be lost.
func parseACL(claim any) ([]Rule, error) {
	if claim == nil {
		return nil, nil
	}
	raw, err := json.Marshal(claim)
	if err != nil {
		return nil, fmt.Errorf("acl: %w", err)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, fmt.Errorf("acl: %w", err)
	}
	return parseRuleItems(items, aclRulesMax, "/acl")
}

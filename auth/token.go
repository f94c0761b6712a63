package auth

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of tokens (CONTRACT section 4; sizes chosen).
const (
	tokenBytesMax   = 16 << 10
	mintedBytesMax  = 15 << 10 // a CONNECT has 16 KiB, for its other fields too
	bypassTTLMax    = 15 * time.Minute
	visitorTTL      = time.Hour
	importedLeeway  = 30 * time.Second
	subjectBytesMax = 512
	expiryMax       = 1 << 33 // seconds since 1970: the year 2242
)

// TokenRequest is what a client token is made of.
type TokenRequest struct {
	Sub         string
	TTL         time.Duration
	ClientID    string
	Claims      map[string]any // numbers as json.Number keep all their digits
	ACL         []Rule
	BypassRules bool // the caller has checked that an admin asks
}

// Claims that are ours to set. visitorClaim says by which publishable key a visitor's token was made, and when its sub
// began.
const (
	visitorClaim = "visitor"
	bypassClaim  = "bypass_rules"
	aclClaim     = "acl"
	clientClaim  = "client_id"
)

var reservedClaims = []string{
	"exp", "iat", "nbf", "aud", "iss", "sub", "jti", clientClaim, aclClaim, bypassClaim, visitorClaim,
}

// subjectMessage says what is wrong with the form of a sub.
func subjectMessage(sub string) string {
	if sub == "" || len(sub) > subjectBytesMax || !utf8.ValidString(sub) || strings.ContainsRune(sub, 0) {
		return fmt.Sprintf("must have 1 to %d bytes of UTF-8 without U+0000", subjectBytesMax)
	}
	return ""
}

// reservedSubject reports whether a sub is the server's to give.
func reservedSubject(sub string) bool {
	return sub == anonymousSubject || strings.HasPrefix(sub, keySubject) || strings.HasPrefix(sub, deviceSubject)
}

func (in *TokenRequest) check(ttlMax time.Duration) error {
	var p problems
	if message := subjectMessage(in.Sub); message != "" {
		p.add("/sub", message)
	} else if reservedSubject(in.Sub) {
		p.add("/sub", "must not be anonymous, key:… or device:…: those are the server's")
	}
	if in.BypassRules {
		ttlMax = min(ttlMax, bypassTTLMax)
	}
	if in.TTL < time.Second || in.TTL > ttlMax {
		p.add("/ttl", fmt.Sprintf("must be from 1 to %d seconds", int(ttlMax.Seconds())))
	}
	checkClientID(&p, in.ClientID)
	for _, name := range slices.Sorted(maps.Keys(in.Claims)) {
		if slices.Contains(reservedClaims, name) {
			p.add("/claims/"+name, "is a claim that the server sets")
		}
	}
	checkRules(&p, "/acl", in.ACL)
	return p.err()
}

// MintToken makes a client token with the newest key that can sign; ErrNoSigningKey when there is none. It lives at
// least as long as asked for, and less than a second longer. A token above the rules is audited first.
func (d *Directory) MintToken(ctx context.Context, actor, appID string, in TokenRequest) (string, time.Time, error) {
	a, ok := d.state(appID)
	if !ok {
		return "", time.Time{}, ErrNotFound
	}
	if err := in.check(time.Duration(a.snapshot().Settings.TokenTTLMax) * time.Second); err != nil {
		return "", time.Time{}, err
	}
	text, expires, err := d.mint(a, in, nil)
	if err != nil || !in.BypassRules {
		return text, expires, err
	}
	after := fmt.Appendf(nil, `{"ttl":%d}`, int(in.TTL.Seconds()))
	if err := d.cfg.Store.AppendAudit(ctx, d.audit(actor, appID, "token.bypass", in.Sub, nil, after)); err != nil {
		return "", time.Time{}, fmt.Errorf("mint token: %w", err)
	}
	return text, expires, nil
}

// signer returns the newest key that can sign what is asked for, so that it is honoured: an acl and bypass_rules count
// only by some keys.
func (a *appState) signer(in *TokenRequest) (*keyState, error) {
	var signs bool
	for _, k := range a.signingKeys() {
		if !k.signs() {
			continue
		}
		if (len(in.ACL) == 0 || k.honoursACL()) && (!in.BypassRules || !k.Imported) {
			return k, nil
		}
		signs = true
	}
	switch {
	case !signs:
		return nil, ErrNoSigningKey
	case in.BypassRules:
		return nil, invalid("/bypass_rules", "is honoured only by generated signing keys, and the app has none")
	}
	return nil, invalid("/acl", "is honoured only by generated signing keys, and those with allow_acl: the app has neither")
}

// honoursACL reports whether the acl claim of the key's tokens counts.
func (k *keyState) honoursACL() bool { return !k.Imported || k.AllowACL }

func (d *Directory) mint(a *appState, in TokenRequest, more map[string]any) (string, time.Time, error) {
	key, err := a.signer(&in)
	if err != nil {
		return "", time.Time{}, err
	}
	now := d.now()
	expires := now.Add(in.TTL + time.Second - 1).Truncate(time.Second)
	claims := jwt.MapClaims{}
	maps.Copy(claims, in.Claims)
	maps.Copy(claims, more)
	claims["sub"], claims["iat"], claims["exp"] = in.Sub, now.Unix(), expires.Unix()
	claims["aud"] = a.audience(key)
	if key.Issuer != "" {
		claims["iss"] = key.Issuer
	}
	if in.ClientID != "" {
		claims[clientClaim] = in.ClientID
	}
	if len(in.ACL) > 0 {
		claims[aclClaim] = in.ACL
	}
	if in.BypassRules {
		claims[bypassClaim] = d.bypassProof(a, key, claims)
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(key.Alg), claims)
	token.Header["kid"] = key.ID
	text, err := token.SignedString(key.verify)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token: %w", err)
	}
	if len(text) > mintedBytesMax {
		return "", time.Time{}, invalid("/claims", fmt.Sprintf("the token would be longer than %d bytes", mintedBytesMax))
	}
	key.used(now)
	return text, expires, nil
}

// bypassProof is what the claim bypass_rules must hold to count. Only minting audits it and bounds how long it lives
// (CONTRACT section 3), and minting is not all that can sign: whoever made the signing key was shown its value. So the
// claim says true by a MAC of the server's own, over what the token is for and when it ends.
func (d *Directory) bypassProof(a *appState, k *keyState, claims jwt.MapClaims) string {
	what, err := json.Marshal([]any{bypassClaim, a.uid, k.ID, claims["sub"], claims[clientClaim], claims["iat"], claims["exp"]})
	if err != nil {
		panic("auth: claims that were decoded, or made here, cannot be encoded: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(d.seal.digest(what))
}

// bypasses reports whether a token that the key has signed is above the rules. One that says so without proof is a
// token as any other.
func (d *Directory) bypasses(a *appState, k *keyState, claims jwt.MapClaims) bool {
	said, ok := claims[bypassClaim].(string)
	return ok && !k.Imported && hmac.Equal([]byte(said), []byte(d.bypassProof(a, k, claims)))
}

func (a *appState) audience(k *keyState) string {
	if k.Audience != "" {
		return k.Audience
	}
	return a.snapshot().ID
}

// identity is what a verified token says.
type identity struct {
	pageKey  string
	key      *keyState
	sub      string
	clientID string
	expires  time.Time
	claims   map[string]any
	acl      []Rule
	bypass   bool
}

var errToken = errors.New("token is not valid")

// unverified is what a token says of how to verify it.
type unverified struct{ kid, issuer string }

func parseUnverified(text string) (unverified, error) {
	if len(text) > tokenBytesMax {
		return unverified{}, errToken
	}
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(text, claims)
	if err != nil {
		return unverified{}, errToken
	}
	// Extensions that must be understood [RFC 7515 section 4.1.11]: none is.
	if _, there := token.Header["crit"]; there {
		return unverified{}, errToken
	}
	var u unverified
	u.kid, _ = token.Header["kid"].(string) //nolint:errcheck // absent is fine
	u.issuer, _ = claims["iss"].(string)    //nolint:errcheck // absent is fine
	return u, nil
}

// verify checks a client token against the app's signing keys: the algorithm is the key's, never the header's. The
// key is chosen by kid, else by iss, else each is tried.
func (d *Directory) verify(a *appState, text string) (*identity, error) {
	u, err := parseUnverified(text)
	if err != nil {
		return nil, errToken
	}
	for _, k := range candidates(a.signingKeys(), u) {
		if id, err := d.verifyWith(a, k, text); err == nil {
			k.used(d.now())
			return id, nil
		}
	}
	return nil, errToken
}

// candidates are the keys that may have signed a token. A kid that is no key's id here names a key in its issuer's
// words: then only imported keys are meant.
func candidates(keys []*keyState, u unverified) []*keyState {
	if u.kid != "" {
		if i := slices.IndexFunc(keys, func(k *keyState) bool { return k.ID == u.kid }); i >= 0 {
			return keys[i : i+1]
		}
		keys = keysThat(keys, func(k *keyState) bool { return k.Imported })
	}
	if u.issuer != "" {
		if by := keysThat(keys, func(k *keyState) bool { return k.Issuer == u.issuer }); len(by) > 0 {
			return by
		}
	}
	return keys
}

func keysThat(keys []*keyState, are func(*keyState) bool) []*keyState {
	var found []*keyState
	for _, k := range keys {
		if are(k) {
			found = append(found, k)
		}
	}
	return found
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
	id, err := identify(k, claims)
	if err != nil {
		return nil, err
	}
	if !k.Imported {
		if id.pageKey, err = pageKeyOf(a, claims); err != nil {
			return nil, err
		}
	}
	id.bypass = d.bypasses(a, k, claims)
	return id, nil
}

func identify(k *keyState, claims jwt.MapClaims) (*identity, error) {
	id := &identity{key: k, claims: claims}
	id.sub, _ = claims["sub"].(string) //nolint:errcheck // checked next
	if subjectMessage(id.sub) != "" || reservedSubject(id.sub) {
		return nil, errToken
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil || exp.Unix() > expiryMax {
		return nil, errToken
	}
	id.expires = exp.UTC()
	if k.Imported {
		id.expires = id.expires.Add(importedLeeway)
	}
	if v, there := claims[clientClaim]; there {
		text, ok := v.(string)
		if !ok || text == "" {
			return nil, errToken
		}
		id.clientID = text
	}
	if k.honoursACL() {
		if id.acl, err = parseACL(claims[aclClaim]); err != nil {
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

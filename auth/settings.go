package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Settings of an app, with the defaults for what was not set (CONTRACT section 3).
type Settings struct {
	Anonymous           bool     `json:"anonymous" doc:"Clients without credentials may connect, as sub anonymous, under the rules."`
	DeniedPublish       string   `json:"denied_publish" doc:"What a 3.1.1 client gets for a publish that is denied or over a limit: ack (it is dropped and counted) or disconnect."`
	RevokedSubscription string   `json:"revoked_subscription" doc:"What becomes of a subscription that the rules no longer allow: suspend or disconnect."`
	CORSOrigins         []string `json:"cors_origins" doc:"Origins of pages that may use tokens/anonymous and the WebSocket."`
	HistorySeconds      int      `json:"history_seconds" doc:"How long the log keeps what is no longer needed."`
	TokenTTLMax         int      `json:"token_ttl_max_seconds" doc:"The longest ttl of a token made here."`
	Limits              Limits   `json:"limits"`
}

// Limits of an app. What is not built yet says so: it is stored and checked, and has no effect.
type Limits struct {
	ConnectionsMax            int `json:"connections_max"`
	SubscriptionsPerClientMax int `json:"subscriptions_per_client_max"`
	PublishRateMax            int `json:"publish_rate_max"`
	PublishBytesRateMax       int `json:"publish_bytes_rate_max"`
	PacketBytesMax            int `json:"packet_bytes_max"`
	TopicLevelsMax            int `json:"topic_levels_max"`
	TopicBytesMax             int `json:"topic_bytes_max"`
	RetainedCountMax          int `json:"retained_count_max"`
	RetainedBytesMax          int `json:"retained_bytes_max"`
	QueuedMessagesMax         int `json:"queued_messages_max"`
	QueuedBytesMax            int `json:"queued_bytes_max"`
	SessionsMax               int `json:"sessions_max" doc:"Sessions that outlive their connection."`
	SessionExpiryMaxSeconds   int `json:"session_expiry_max_seconds" doc:"How long a session may outlive its connection; 0: not at all."`
	KeepAliveMaxSeconds       int `json:"keep_alive_max_seconds"`
	ReceiveMaximum            int `json:"receive_maximum"`
	TopicAliasMaximum         int `json:"topic_alias_maximum"`
}

// DefaultSettings are those of an app that sets nothing.
func DefaultSettings() Settings {
	return Settings{
		DeniedPublish: "ack", RevokedSubscription: "suspend", CORSOrigins: []string{"*"}, HistorySeconds: 600,
		TokenTTLMax: 30 * 24 * 3600,
		Limits: Limits{
			ConnectionsMax: 100_000, SubscriptionsPerClientMax: 1_000, PublishRateMax: 10_000,
			PublishBytesRateMax: 32 << 20, PacketBytesMax: 1 << 20, TopicLevelsMax: 32, TopicBytesMax: 1_024,
			RetainedCountMax: 1_000_000, RetainedBytesMax: 1 << 30, QueuedMessagesMax: 100_000,
			QueuedBytesMax: 64 << 20, SessionsMax: 1_000_000, SessionExpiryMaxSeconds: 604_800, ReceiveMaximum: 100,
			TopicAliasMaximum: 100,
		},
	}
}

// limitRange is what an app may set a limit to. ceiling is the server's.
type limitRange struct{ low, ceiling int }

// limitRanges are the server's ceilings (chosen: what a process of 24 GiB can serve, and the protocol's own bounds; a
// topic must fit the URL of a REST call, percent-encoded, in a request's head of 32 KiB).
var limitRanges = map[string]limitRange{
	"connections_max": {1, 1_000_000}, "subscriptions_per_client_max": {1, 100_000}, "publish_rate_max": {1, 10_000_000},
	"publish_bytes_rate_max": {1_024, 1 << 33}, "packet_bytes_max": {16, 256 << 20}, "topic_levels_max": {1, 256},
	"topic_bytes_max": {1, 8_192}, "retained_count_max": {0, 100_000_000}, "retained_bytes_max": {0, 1 << 40},
	"queued_messages_max": {1, 10_000_000}, "queued_bytes_max": {1_024, 1 << 36},
	"sessions_max": {0, 10_000_000}, "session_expiry_max_seconds": {0, 0xFFFFFFFE}, "keep_alive_max_seconds": {0, 65_535}, "receive_maximum": {1, 65_535},
	"topic_alias_maximum": {0, 65_535},
}

// mergeSettings applies a JSON Merge Patch (RFC 7396) to the settings that an app has set: null takes a member back to
// its default, and a patch that is null takes all of them back. It returns what is set now, and the settings in force.
func mergeSettings(set, patch []byte) (merged []byte, s Settings, err error) {
	base := map[string]any{}
	if len(set) > 0 {
		if err := decodeNumbers(set, &base); err != nil {
			return nil, s, fmt.Errorf("stored settings: %w", err)
		}
	}
	if len(patch) > 0 {
		var change map[string]any
		if err := decodeNumbers(patch, &change); err != nil {
			return nil, s, invalid("/settings", "must be a JSON object")
		}
		if change == nil {
			base = map[string]any{}
		}
		mergePatch(base, change)
	}
	if merged, err = json.Marshal(base); err != nil {
		return nil, s, fmt.Errorf("settings: %w", err)
	}
	s, err = parseSettings(merged)
	return merged, s, err
}

func decodeNumbers(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into) //nolint:wrapcheck // told by the caller
}

func mergePatch(base, change map[string]any) {
	for name, v := range change {
		switch v := v.(type) {
		case nil:
			delete(base, name)
		case map[string]any:
			under, ok := base[name].(map[string]any)
			if !ok {
				under = map[string]any{}
			}
			mergePatch(under, v)
			base[name] = under
		default:
			base[name] = v
		}
	}
}

func parseSettings(raw []byte) (Settings, error) {
	s := DefaultSettings()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return s, invalid("/settings", "must be a JSON object")
	}
	var p problems
	for _, name := range slices.Sorted(maps.Keys(members)) {
		s.parse(&p, name, members[name])
	}
	return s, p.err()
}

func (s *Settings) parse(p *problems, name string, raw json.RawMessage) {
	at := "/settings/" + escapePointer(name)
	switch name {
	case "anonymous":
		parseInto(p, at, raw, &s.Anonymous, "must be true or false")
	case "denied_publish":
		parseInto(p, at, raw, &s.DeniedPublish, "must be ack or disconnect")
		oneOf(p, at, s.DeniedPublish, "ack", "disconnect")
	case "revoked_subscription":
		parseInto(p, at, raw, &s.RevokedSubscription, "must be suspend or disconnect")
		oneOf(p, at, s.RevokedSubscription, "suspend", "disconnect")
	case "cors_origins":
		parseInto(p, at, raw, &s.CORSOrigins, "must be a list of origins")
		checkOrigins(p, at, s.CORSOrigins)
	case "history_seconds":
		parseRange(p, at, raw, &s.HistorySeconds, limitRange{0, 30 * 24 * 3600})
	case "token_ttl_max_seconds":
		parseRange(p, at, raw, &s.TokenTTLMax, limitRange{1, 366 * 24 * 3600})
	case "limits":
		s.parseLimits(p, raw)
	default:
		p.add(at, "is no setting")
	}
}

func (s *Settings) parseLimits(p *problems, raw json.RawMessage) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		p.add("/settings/limits", "must be a JSON object")
		return
	}
	fields := s.Limits.fields()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		field, ok := fields[name]
		if !ok {
			p.add("/settings/limits/"+escapePointer(name), "is no limit")
			continue
		}
		parseRange(p, "/settings/limits/"+name, members[name], field, limitRanges[name])
	}
}

func (l *Limits) fields() map[string]*int {
	return map[string]*int{
		"connections_max": &l.ConnectionsMax, "subscriptions_per_client_max": &l.SubscriptionsPerClientMax,
		"publish_rate_max": &l.PublishRateMax, "publish_bytes_rate_max": &l.PublishBytesRateMax,
		"packet_bytes_max": &l.PacketBytesMax, "topic_levels_max": &l.TopicLevelsMax, "topic_bytes_max": &l.TopicBytesMax,
		"retained_count_max": &l.RetainedCountMax, "retained_bytes_max": &l.RetainedBytesMax,
		"queued_messages_max": &l.QueuedMessagesMax, "queued_bytes_max": &l.QueuedBytesMax,
		"sessions_max": &l.SessionsMax, "session_expiry_max_seconds": &l.SessionExpiryMaxSeconds, "keep_alive_max_seconds": &l.KeepAliveMaxSeconds,
		"receive_maximum": &l.ReceiveMaximum, "topic_alias_maximum": &l.TopicAliasMaximum,
	}
}

func parseInto[T any](p *problems, at string, raw json.RawMessage, into *T, message string) {
	var v T
	if json.Unmarshal(raw, &v) != nil {
		p.add(at, message)
		return
	}
	*into = v
}

func parseRange(p *problems, at string, raw json.RawMessage, into *int, r limitRange) {
	var n int
	if err := json.Unmarshal(raw, &n); err != nil || n < r.low || n > r.ceiling {
		p.add(at, fmt.Sprintf("must be a whole number from %d to %d", r.low, r.ceiling))
		return
	}
	*into = n
}

func oneOf(p *problems, at, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		p.add(at, "must be "+strings.Join(allowed, " or "))
	}
}

const originMessage = `must be "*" or an origin as browsers send it, such as https://example.com: lower case, no path, no default port`

func checkOrigins(p *problems, at string, origins []string) {
	if len(origins) > originsMax {
		p.add(at, fmt.Sprintf("must hold at most %d origins", originsMax))
		return
	}
	for i, o := range origins {
		if !validOrigin(o) {
			p.add(fmt.Sprintf("%s/%d", at, i), originMessage)
		}
	}
}

// validOrigin accepts "*" and what a browser or an app's web view sends as Origin. What none sends would never match.
func validOrigin(o string) bool {
	if o == "*" {
		return true
	}
	u, err := url.Parse(o)
	if err != nil || u.Host == "" || o != u.Scheme+"://"+u.Host || strings.ContainsFunc(o, func(r rune) bool { return r >= 'A' && r <= 'Z' || r <= ' ' || r > '~' || r == '*' }) {
		return false
	}
	usual := u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"
	return !usual && !strings.HasSuffix(u.Host, ":")
}

// AllowsOrigin reports whether a page of this origin may use the app's open calls and its WebSocket.
func (s *Settings) AllowsOrigin(origin string) bool { return originIn(s.CORSOrigins, origin) }

func originIn(list []string, origin string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, origin)
}

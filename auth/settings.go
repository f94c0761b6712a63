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
	DeniedPublish       string   `json:"denied_publish" doc:"What a 3.1.1 client gets for a denied publish: ack or disconnect."`
	RevokedSubscription string   `json:"revoked_subscription" doc:"What becomes of a subscription that the rules no longer allow: suspend or disconnect."`
	CORSOrigins         []string `json:"cors_origins" doc:"Origins of pages that may use tokens/anonymous and the WebSocket."`
	HistorySeconds      int      `json:"history_seconds" doc:"How long the log keeps what is no longer needed."`
	TokenTTLMax         int      `json:"token_ttl_max_seconds" doc:"The longest ttl of a token made here."`
	Limits              Limits   `json:"limits"`
}

// Limits of an app. Every number is in force.
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
	SessionExpiryMaxSeconds   int `json:"session_expiry_max_seconds"`
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
			QueuedBytesMax: 64 << 20, SessionExpiryMaxSeconds: 604_800, ReceiveMaximum: 100, TopicAliasMaximum: 100,
		},
	}
}

// limitRange is what an app may set a limit to. ceiling is the server's.
type limitRange struct{ low, ceiling int }

// limitRanges are the server's ceilings (chosen: what a process of 24 GiB can serve, and the protocol's own bounds).
var limitRanges = map[string]limitRange{
	"connections_max": {1, 1_000_000}, "subscriptions_per_client_max": {1, 100_000}, "publish_rate_max": {1, 10_000_000},
	"publish_bytes_rate_max": {1_024, 1 << 33}, "packet_bytes_max": {1_024, 256 << 20}, "topic_levels_max": {1, 256},
	"topic_bytes_max": {1, 65_535}, "retained_count_max": {0, 100_000_000}, "retained_bytes_max": {0, 1 << 40},
	"queued_messages_max": {1, 10_000_000}, "queued_bytes_max": {1_024, 1 << 36},
	"session_expiry_max_seconds": {0, 0xFFFFFFFE}, "keep_alive_max_seconds": {0, 65_535}, "receive_maximum": {1, 65_535},
	"topic_alias_maximum": {0, 65_535},
}

// mergeSettings applies a JSON Merge Patch (RFC 7396) to the settings that an app has set; null takes a member back
// to its default. It returns what is set now, and the settings in force.
func mergeSettings(set, patch []byte) (merged []byte, s Settings, err error) {
	base, change := map[string]any{}, map[string]any{}
	if len(set) > 0 {
		if err := decodeNumbers(set, &base); err != nil {
			return nil, s, fmt.Errorf("stored settings: %w", err)
		}
	}
	if len(patch) > 0 {
		if err := decodeNumbers(patch, &change); err != nil {
			return nil, s, invalid("/settings", "must be a JSON object")
		}
	}
	mergePatch(base, change)
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
	at := "/settings/" + name
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
		s.CORSOrigins = nil
		parseInto(p, at, raw, &s.CORSOrigins, "must be a list of origins")
		for i, o := range s.CORSOrigins {
			if !validOrigin(o) {
				p.add(fmt.Sprintf("%s/%d", at, i), `must be "*" or an origin such as https://example.com`)
			}
		}
	case "history_seconds":
		parseRange(p, at, raw, &s.HistorySeconds, limitRange{0, 30 * 24 * 3600})
	case "token_ttl_max_seconds":
		parseRange(p, at, raw, &s.TokenTTLMax, limitRange{1, 366 * 24 * 3600})
	case "limits":
		s.parseLimits(p, raw)
	default:
		p.add(at, "no such setting")
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
			p.add("/settings/limits/"+name, "no such limit")
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
		"session_expiry_max_seconds": &l.SessionExpiryMaxSeconds, "keep_alive_max_seconds": &l.KeepAliveMaxSeconds,
		"receive_maximum": &l.ReceiveMaximum, "topic_alias_maximum": &l.TopicAliasMaximum,
	}
}

func parseInto[T any](p *problems, at string, raw json.RawMessage, into *T, message string) {
	if err := json.Unmarshal(raw, into); err != nil {
		p.add(at, message)
	}
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
		message := "must be " + strings.Join(allowed, " or ")
		if len(*p) == 0 || (*p)[len(*p)-1].Pointer != at {
			p.add(at, message)
		}
	}
}

// validOrigin accepts "*" and what a browser sends as Origin.
func validOrigin(o string) bool {
	if o == "*" {
		return true
	}
	u, err := url.Parse(o)
	return err == nil && u.Scheme != "" && u.Host != "" && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil
}

// AllowsOrigin reports whether a page of this origin may use the app's open calls and its WebSocket.
func (s *Settings) AllowsOrigin(origin string) bool { return originIn(s.CORSOrigins, origin) }

func originIn(list []string, origin string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, origin)
}

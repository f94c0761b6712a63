package auth_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/auth"
)

// TestDefaultSettings has the numbers of CONTRACT section 3.
func TestDefaultSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, ok := w.App("shop")
	require.True(t, ok)
	text, err := json.Marshal(a.Settings)
	require.NoError(t, err)
	require.JSONEq(t, `{"anonymous":false,"denied_publish":"ack","revoked_subscription":"suspend","cors_origins":["*"],"history_seconds":600,
		"token_ttl_max_seconds":2592000,"limits":{"connections_max":100000,"subscriptions_per_client_max":1000,"publish_rate_max":10000,
		"publish_bytes_rate_max":33554432,"packet_bytes_max":1048576,"topic_levels_max":32,"topic_bytes_max":1024,"retained_count_max":1000000,
		"retained_bytes_max":1073741824,"queued_messages_max":100000,"queued_bytes_max":67108864,"sessions_max":1000000,"session_expiry_max_seconds":604800,
		"keep_alive_max_seconds":0,"receive_maximum":100,"topic_alias_maximum":100}}`, string(text))
}

// TestSettingsMerge: settings are merged (RFC 7396), and null takes a member back to its default.
func TestSettingsMerge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	settings := func() auth.Settings {
		a, ok := w.App("shop")
		require.True(t, ok)
		return a.Settings
	}
	w.set("shop", `{"anonymous":true,"history_seconds":60,"limits":{"connections_max":5,"receive_maximum":7}}`)
	w.set("shop", `{"denied_publish":"disconnect","limits":{"receive_maximum":8}}`)
	s := settings()
	require.True(t, s.Anonymous)
	require.Equal(t, "disconnect", s.DeniedPublish)
	require.Equal(t, 60, s.HistorySeconds)
	require.Equal(t, 5, s.Limits.ConnectionsMax, "a member beside the changed one stays")
	require.Equal(t, 8, s.Limits.ReceiveMaximum)
	require.Equal(t, 32, s.Limits.TopicLevelsMax)

	w.set("shop", `{"anonymous":null,"limits":{"receive_maximum":null},"cors_origins":["https://a.example"]}`)
	s = settings()
	require.False(t, s.Anonymous)
	require.Equal(t, 100, s.Limits.ReceiveMaximum)
	require.Equal(t, 5, s.Limits.ConnectionsMax)
	require.True(t, s.AllowsOrigin("https://a.example"))
	require.False(t, s.AllowsOrigin("https://b.example"))
	w.set("shop", `{"cors_origins":[]}`)
	s = settings()
	require.False(t, s.AllowsOrigin("https://a.example"), "a list is replaced, not merged")
	require.NotNil(t, s.CORSOrigins)

	w.open()
	require.Equal(t, s, settings(), "the same after a restart")
	w.set("shop", `{"limits":null}`)
	require.Equal(t, auth.DefaultSettings().Limits, settings().Limits)
	w.set("shop", `null`)
	require.Equal(t, auth.DefaultSettings(), settings())

	// What was not set follows the defaults of a later version.
	records, err := w.store.LoadApps(t.Context())
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(records[0].App.Settings))
}

// limitRanges are what each limit may be: the lowest and the server's ceiling.
var limitRanges = map[string][2]int{
	"connections_max":              {1, 1_000_000},
	"subscriptions_per_client_max": {1, 100_000},
	"publish_rate_max":             {1, 10_000_000},
	"publish_bytes_rate_max":       {1 << 10, 8 << 30},
	"packet_bytes_max":             {16, 256 << 20},
	"topic_levels_max":             {1, 256},
	"topic_bytes_max":              {1, 8_192},
	"retained_count_max":           {0, 100_000_000},
	"retained_bytes_max":           {0, 1 << 40},
	"queued_messages_max":          {1, 10_000_000},
	"queued_bytes_max":             {1 << 10, 64 << 30},
	"sessions_max":                 {0, 10_000_000},
	"session_expiry_max_seconds":   {0, 0xFFFF_FFFE},
	"keep_alive_max_seconds":       {0, 65_535},
	"receive_maximum":              {1, 65_535},
	"topic_alias_maximum":          {0, 65_535},
}

func TestLimitRanges(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(auth.DefaultSettings().Limits)
	require.NoError(t, err)
	var defaults map[string]int
	require.NoError(t, json.Unmarshal(text, &defaults))
	require.Len(t, limitRanges, len(defaults), "every limit has a row here")
	for name, r := range limitRanges {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			require.Contains(t, defaults, name)
			patch := func(value any) error {
				_, err := w.UpdateApp(t.Context(), "admin", "shop", nil, fmt.Appendf(nil, `{"limits":{%q:%v}}`, name, value))
				return err
			}
			inForce := func() int {
				a, _ := w.App("shop")
				text, err := json.Marshal(a.Settings.Limits)
				require.NoError(t, err)
				var all map[string]int
				require.NoError(t, json.Unmarshal(text, &all))
				return all[name]
			}
			for _, value := range r {
				require.NoError(t, patch(value))
				require.Equal(t, value, inForce())
			}
			for _, value := range []any{r[0] - 1, r[1] + 1, "1e30", 1.5, `"7"`, "true", "[]", "{}"} {
				err := patch(value)
				require.Equal(t, []string{"/settings/limits/" + name}, pointers(t, err), "%v", value)
				require.Equal(t, fmt.Sprintf("must be a whole number from %d to %d", r[0], r[1]), message(t, err, "/settings/limits/"+name))
			}
			require.Equal(t, r[1], inForce(), "what was refused changed nothing")
		})
	}
}

func TestSettingsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := len(w.store.audit())
	for name, c := range map[string]struct {
		settings string
		want     []string
	}{
		"no_object":      {`[]`, []string{"/settings"}},
		"text":           {`"x"`, []string{"/settings"}},
		"unknown":        {`{"theme":"dark","a/b":1}`, []string{"/settings/a~1b", "/settings/theme"}},
		"unknown_limit":  {`{"limits":{"speed":1}}`, []string{"/settings/limits/speed"}},
		"limits_no_list": {`{"limits":5}`, []string{"/settings/limits"}},
		"anonymous":      {`{"anonymous":"yes"}`, []string{"/settings/anonymous"}},
		"origins":        {`{"cors_origins":"*"}`, []string{"/settings/cors_origins"}},
		"origin":         {`{"cors_origins":["https://a.example","b.example",null]}`, []string{"/settings/cors_origins/1", "/settings/cors_origins/2"}},
		"many_origins":   {`{"cors_origins":["*"` + strings.Repeat(`,"*"`, 100) + `]}`, []string{"/settings/cors_origins"}},
		"ttl":            {`{"token_ttl_max_seconds":0}`, []string{"/settings/token_ttl_max_seconds"}},
		"all_together": {`{"anonymous":1,"denied_publish":"shout","revoked_subscription":2,"history_seconds":-1,"limits":{"receive_maximum":0,"x":1},"nothing":{}}`, []string{
			"/settings/anonymous", "/settings/denied_publish", "/settings/history_seconds", "/settings/limits/receive_maximum", "/settings/limits/x",
			"/settings/nothing", "/settings/revoked_subscription",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := w.UpdateApp(t.Context(), "admin", "shop", nil, json.RawMessage(c.settings))
			require.Equal(t, c.want, pointers(t, err), "%v", err)
			_, err = w.CreateApp(t.Context(), "admin", auth.NewApp{ID: "refused", Settings: json.RawMessage(c.settings)})
			require.Equal(t, c.want, pointers(t, err), "%v", err)
		})
	}
	t.Cleanup(func() {
		a, _ := w.App("shop")
		require.Equal(t, auth.DefaultSettings(), a.Settings)
		require.Len(t, w.store.audit(), before)
		_, there := w.App("refused")
		require.False(t, there)
	})
}

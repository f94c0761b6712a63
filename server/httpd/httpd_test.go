package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/server/httpd"
)

type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p) //nolint:wrapcheck // of a test
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.String()
}

// start serves with a few routes of the test's own.
func start(t *testing.T) (base string, out *log) {
	t.Helper()
	out = &log{}
	s := httpd.New(httpd.Config{
		Logger: slog.New(slog.NewTextHandler(out, nil)), Examples: fstest.MapFS{"index.html": {Data: []byte("examples")}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")},
	})
	s.App().Get("/panics", func(*fiber.Ctx) error { panic("secret detail") })
	s.App().Get("/fails", func(*fiber.Ctx) error { return io.ErrUnexpectedEOF })
	s.App().Get("/remote", func(c *fiber.Ctx) error { return c.SendString(s.Remote(c).Addr().String()) })
	s.Finish()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln, nil) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.NoError(t, <-ended)
	})
	return "http://" + ln.Addr().String(), out
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
}

func get(t *testing.T, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r, err := client.Do(req)
	require.NoError(t, err)
	defer r.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return answer{r.StatusCode, r.Header, string(body)}
}

func TestServer(t *testing.T) {
	t.Parallel()
	base, out := start(t)
	t.Run("a panic is a 500, of which the client learns nothing and the log everything", func(t *testing.T) {
		t.Parallel()
		a := get(t, base+"/panics")
		require.Equal(t, http.StatusInternalServerError, a.status)
		require.NotContains(t, a.body, "secret")
		require.Contains(t, out.text(), "secret detail")
	})
	t.Run("an error that nobody told is a problem document", func(t *testing.T) {
		t.Parallel()
		for path, status := range map[string]int{"/fails": 500, "/nothing": 404, "/examples/nothing": 404} {
			a := get(t, base+path)
			require.Equal(t, status, a.status, path)
			require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
			var p struct{ Status int }
			require.NoError(t, json.Unmarshal([]byte(a.body), &p))
			require.Equal(t, status, p.Status)
		}
	})
	t.Run("every answer keeps browsers from guessing and framing", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/", "/examples/", "/nothing"} {
			a := get(t, base+path)
			require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"))
			require.Equal(t, "DENY", a.header.Get("X-Frame-Options"))
		}
	})
	t.Run("the examples are served with a policy, and found without the slash", func(t *testing.T) {
		t.Parallel()
		a := get(t, base+"/examples/")
		require.Equal(t, "examples", a.body)
		require.Contains(t, a.header.Get("Content-Security-Policy"), "default-src 'self'")
		a = get(t, base+"/examples")
		require.Equal(t, "/examples/", a.header.Get("Location"))
	})
	t.Run("a head that cannot be read is refused, and nothing of it is said again", func(t *testing.T) {
		t.Parallel()
		for _, bad := range []string{"Bad Header Line", "Content-Length: abc", "Transfer-Encoding: chunked, timeout"} {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "http://"))
			require.NoError(t, err)
			_, err = io.WriteString(c, "POST /remote HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ek_secret\r\n"+bad+"\r\n\r\nek_secret")
			require.NoError(t, err)
			require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			body, err := io.ReadAll(r.Body)
			require.NoError(t, errors.Join(err, r.Body.Close(), c.Close()))
			require.GreaterOrEqual(t, r.StatusCode, 400, bad)
			require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
			require.NotContains(t, string(body), "ek_secret")
		}
		require.NotContains(t, out.text(), "ek_secret")
	})
	t.Run("a head that is too large is refused", func(t *testing.T) {
		t.Parallel()
		a := get(t, base+"/", "X-Large: "+strings.Repeat("x", 40<<10))
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.status)
	})
}

func TestRemote(t *testing.T) {
	t.Parallel()
	base, _ := start(t)
	for forwarded, want := range map[string]string{
		"":                                 "127.0.0.1",
		"203.0.113.7":                      "203.0.113.7",
		"6.6.6.6, 203.0.113.7":             "203.0.113.7", // what stands before, anybody may have written
		"6.6.6.6, 203.0.113.7, 10.1.2.3":   "203.0.113.7",
		"10.9.9.9, 10.1.2.3":               "10.9.9.9",
		"not an address":                   "127.0.0.1",
		"203.0.113.7, unknown, 10.1.2.3":   "10.1.2.3",
		"::ffff:203.0.113.7":               "203.0.113.7",
		"2001:db8::1, ::ffff:10.1.2.3":     "2001:db8::1",
		strings.Repeat("6.6.6.6,", 1000):   "127.0.0.1",
		"203.0.113.7:4711":                 "127.0.0.1",
		"<script>alert(1)</script>, 1.2.3": "127.0.0.1",
	} {
		t.Run(forwarded, func(t *testing.T) {
			t.Parallel()
			a := get(t, base+"/remote", "X-Forwarded-For: "+forwarded)
			require.Equal(t, want, a.body)
		})
	}
}

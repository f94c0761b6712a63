package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"

	"github.com/embercast/embercast/auth"
)

// MetricsHandler serves metrics to those who show the metrics token (empty: nobody has it) or the admin token.
func MetricsHandler(metrics http.Handler, token string, d *auth.Directory) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credential := bearer(r.Header.Get("Authorization"))
		if credential != "" && (token != "" && sameToken(credential, token) || d.IsAdmin(credential)) {
			metrics.ServeHTTP(w, r)
			return
		}
		p := problem(http.StatusUnauthorized, "bad_credentials", "Metrics need Authorization: Bearer with the metrics token (EMBERCAST_METRICS_TOKEN) or the admin token.")
		for name, values := range p.GetHeaders() {
			w.Header().Set(name, values[0])
		}
		w.Header().Set("Content-Type", p.ContentType(""))
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p) //nolint:errcheck // the client is gone
	})
}

// sameToken compares in constant time, whatever the lengths.
func sameToken(x, y string) bool {
	a, b := sha256.Sum256([]byte(x)), sha256.Sum256([]byte(y))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (s *service) metrics(app *fiber.App) {
	op := &huma.Operation{
		OperationID: "metrics", Method: http.MethodGet, Path: "/metrics", Summary: "Figures for Prometheus", Tags: []string{"Operation"},
		Extensions: map[string]any{"x-embercast-access": []string{"admin token", "metrics token"}},
		Security:   []map[string][]string{{"bearer": {}}},
		Responses: map[string]*huma.Response{
			"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}}},
			"401": {Description: "Unauthorized"},
		},
	}
	s.api.OpenAPI().AddOperation(op)
	app.Get(op.Path, adaptor.HTTPHandler(MetricsHandler(s.cfg.Metrics, s.cfg.MetricsToken, s.cfg.Directory)))
}

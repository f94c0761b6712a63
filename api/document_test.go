package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/embercast/embercast/api"
)

// document is the OpenAPI document, and what it says of each operation.
type document struct {
	raw        map[string]any
	operations []operation
}

type operation struct {
	id, method, path string
	pattern          *regexp.Regexp
	access           []string
	statuses         map[int]*jsonschema.Schema // nil: no body, or one that has no schema
	raw              map[string]any
}

// documented reads the document once: it is the same for every server.
var documented = sync.OnceValue(func() *document {
	app := fiber.New()
	if err := api.Mount(app, api.Config{}); err != nil {
		panic(err)
	}
	r, err := http.NewRequest(http.MethodGet, "http://embercast/openapi.json", nil)
	if err != nil {
		panic(err)
	}
	res, err := app.Test(r)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close() //nolint:errcheck // in memory
	raw, err := jsonschema.UnmarshalJSON(res.Body)
	if err != nil {
		panic(err)
	}
	d := &document{raw: raw.(map[string]any)} //nolint:errcheck // a panic tells
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("openapi.json", raw); err != nil {
		panic(err)
	}
	d.read(c)
	return d
})

func (d *document) read(c *jsonschema.Compiler) {
	for path, item := range d.raw["paths"].(map[string]any) { //nolint:errcheck // a panic tells
		for method, raw := range item.(map[string]any) { //nolint:errcheck // a panic tells
			op := operation{method: strings.ToUpper(method), path: path, statuses: map[int]*jsonschema.Schema{}}
			op.raw = raw.(map[string]any) //nolint:errcheck // a panic tells
			op.id = fmt.Sprint(op.raw["operationId"])
			op.pattern = regexp.MustCompile("^" + regexp.MustCompile(`\\\{[^}]*\}`).ReplaceAllString(regexp.QuoteMeta(path), `[^/]+`) + "$")
			access, _ := op.raw["x-embercast-access"].([]any) //nolint:errcheck // a test looks
			for _, a := range access {
				op.access = append(op.access, fmt.Sprint(a))
			}
			for status, response := range op.raw["responses"].(map[string]any) { //nolint:errcheck // a panic tells
				n, err := strconv.Atoi(status)
				if err != nil {
					panic(path + ": " + status)
				}
				op.statuses[n] = nil
				content, _ := response.(map[string]any)["content"].(map[string]any) //nolint:errcheck // some have none
				for kind := range content {
					if strings.HasSuffix(kind, "json") {
						op.statuses[n] = c.MustCompile("openapi.json#/paths/" + pointerOf(path) + "/" + method + "/responses/" + status + "/content/" + pointerOf(kind) + "/schema")
					}
				}
			}
			d.operations = append(d.operations, op)
		}
	}
	slices.SortFunc(d.operations, func(x, y operation) int { return strings.Compare(x.id, y.id) })
}

func pointerOf(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name)
}

func (d *document) find(method, path string) (operation, bool) {
	for _, op := range d.operations {
		if op.method == method && op.pattern.MatchString(path) {
			return op, true
		}
	}
	return operation{}, false
}

// keepToDocument requires of an answer that the document names its status, and describes its body.
func (a *answer) keepToDocument(d *document, r *http.Request) {
	a.t.Helper()
	op, ok := d.find(r.Method, r.URL.Opaque)
	if !ok {
		return
	}
	schema, ok := op.statuses[a.status]
	require.True(a.t, ok, "%s: %d is not documented: %s", a.what, a.status, a.body)
	if schema == nil || len(a.body) == 0 {
		return
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.body))
	require.NoError(a.t, err, a.what)
	require.NoError(a.t, schema.Validate(body), "%s: %s", a.what, a.body)
}

// TestDocumentIsOpenAPI validates it against the schema that the OpenAPI Initiative publishes for 3.1 (testdata), and
// each of its own schemas as JSON Schema 2020-12.
func TestDocumentIsOpenAPI(t *testing.T) {
	t.Parallel()
	d := documented()
	text, err := os.ReadFile("testdata/openapi-3.1-schema.json")
	require.NoError(t, err)
	meta, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("https://spec.openapis.org/oas/3.1/schema/2022-10-07", meta))
	schema, err := c.Compile("https://spec.openapis.org/oas/3.1/schema/2022-10-07")
	require.NoError(t, err)
	require.NoError(t, schema.Validate(d.raw))
	require.Equal(t, "3.1.0", d.raw["openapi"])

	components, ok := d.raw["components"].(map[string]any)
	require.True(t, ok)
	schemas, ok := components["schemas"].(map[string]any)
	require.True(t, ok)
	c = jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	require.NoError(t, c.AddResource("openapi.json", d.raw))
	for name := range schemas {
		_, err := c.Compile("openapi.json#/components/schemas/" + name)
		require.NoError(t, err, name)
	}
}

// TestDocumentSaysEverything: each operation has a name, a summary, a tag, its access, and its parameters described.
func TestDocumentSaysEverything(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, op := range documented().operations {
		what := op.method + " " + op.path
		require.NotEmpty(t, op.id, what)
		require.False(t, seen[op.id], "%s: the name %s is taken", what, op.id)
		seen[op.id] = true
		require.NotEmpty(t, op.raw["summary"], what)
		require.NotEmpty(t, op.raw["tags"], what)
		require.NotEmpty(t, op.access, what)
		parameters, _ := op.raw["parameters"].([]any) //nolint:errcheck // some have none
		for _, p := range parameters {
			p, ok := p.(map[string]any)
			require.True(t, ok, what)
			require.NotEmpty(t, p["description"], "%s: %v", what, p["name"])
		}
	}
}

func TestDocumentIsServed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a := s.get("/openapi.json", nobody).want(http.StatusOK)
	require.Equal(t, "application/vnd.oai.openapi+json;version=3.1", a.header.Get("Content-Type"))
	var served map[string]any
	a.into(&served)
	text, err := json.Marshal(documented().raw)
	require.NoError(t, err)
	require.JSONEq(t, string(text), string(a.body))
	require.Equal(t, "GET, HEAD", s.post("/openapi.json", object{}).want(http.StatusMethodNotAllowed).header.Get("Allow"))
}

// TestDocsAreSelfContained: the page asks nothing of anybody but this server.
func TestDocsAreSelfContained(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	page := s.get("/docs", nobody).want(http.StatusOK)
	require.Contains(t, page.header.Get("Content-Type"), "text/html")
	require.Contains(t, page.header.Get("Content-Security-Policy"), "default-src 'self'")
	require.Contains(t, string(page.body), "/openapi.json")
	fetched := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(page.body, -1)
	require.NotEmpty(t, fetched)
	styles := regexp.MustCompile(`url\(["']?([^)"']*)`)
	for _, f := range fetched {
		target := string(f[1])
		require.True(t, strings.HasPrefix(target, "/docs/") || strings.HasPrefix(target, "data:"), "the page fetches %s", target)
		asset := s.get(target, nobody).want(http.StatusOK)
		require.NotEmpty(t, asset.body, target)
		if strings.HasSuffix(target, ".css") {
			for _, u := range styles.FindAllSubmatch(asset.body, -1) {
				require.True(t, strings.HasPrefix(string(u[1]), "data:") || !strings.Contains(string(u[1]), "//"), "%s fetches %s", target, u[1])
			}
		}
	}
	require.NotRegexp(t, `(?i)(src|href|url)\s*[=:(]\s*["']?https?:`, string(page.body))
	s.get("/docs/nothing.js", nobody).want(http.StatusNotFound)
}

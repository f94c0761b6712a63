package main

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What is shipped beside the binary: docker-compose.yml, Dockerfile, .dockerignore, docs/self-hosting.md.

type composeService struct {
	Build       map[string]any               `yaml:"build"`
	CapDrop     []string                     `yaml:"cap_drop"`
	DependsOn   map[string]map[string]string `yaml:"depends_on"`
	Environment map[string]string            `yaml:"environment"`
	Healthcheck map[string]any               `yaml:"healthcheck"`
	Networks    any                          `yaml:"networks"`
	NetworkMode string                       `yaml:"network_mode"`
	Ports       []string                     `yaml:"ports"`
	Profiles    []string                     `yaml:"profiles"`
	ReadOnly    bool                         `yaml:"read_only"`
	Restart     string                       `yaml:"restart"`
	SecurityOpt []string                     `yaml:"security_opt"`
	StopGrace   string                       `yaml:"stop_grace_period"`
	Tmpfs       []string                     `yaml:"tmpfs"`
	Ulimits     map[string]any               `yaml:"ulimits"`
	User        string                       `yaml:"user"`
	Volumes     []string                     `yaml:"volumes"`
}

type composeFile struct {
	Version  string                    `yaml:"version"`
	Services map[string]composeService `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
		IPAM     struct {
			Config []map[string]string `yaml:"config"`
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Volumes map[string]any `yaml:"volumes"`
}

// shipped reads a file of the repository.
func shipped(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(path.Join("..", name))
	require.NoError(t, err)
	return string(text)
}

var variable = regexp.MustCompile(`\$\{(\w+)(?::-([^}]*))?\}`)

// composeDefaults is the compose file as it is where no variable is set.
func composeDefaults(t *testing.T) composeFile {
	t.Helper()
	text := variable.ReplaceAllString(shipped(t, "docker-compose.yml"), "$2")
	require.NotContains(t, text, "${", "Compose 1.29 knows no variable within another's default")
	var c composeFile
	require.NoError(t, yaml.Unmarshal([]byte(text), &c))
	return c
}

// knownVariables are the options' variables, those that may be read from a file with _FILE behind them.
func knownVariables(t *testing.T) map[string]bool {
	t.Helper()
	parser, err := kong.New(&commands{}, kongOptions()...)
	require.NoError(t, err)
	known := map[string]bool{}
	for _, flag := range parser.Model.Flags {
		for _, name := range flag.Envs {
			known[name] = true
			known[name+"_FILE"] = fromFile[flag.Name]
		}
	}
	return known
}

func TestCompose(t *testing.T) {
	t.Parallel()
	c := composeDefaults(t)
	secrets, postgres, server, caddy := c.Services["secrets"], c.Services["postgres"], c.Services["server"], c.Services["caddy"]

	t.Run("it names no version of the format, which Compose 2 warns of", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, c.Version)
	})
	t.Run("Postgres can be reached by the server alone", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, postgres.Ports)
		require.Empty(t, postgres.NetworkMode)
		require.Equal(t, []any{"database"}, postgres.Networks)
		require.True(t, c.Networks["database"].Internal)
		for name, s := range c.Services {
			if networks, ok := s.Networks.([]any); ok && slices.Contains(networks, any("database")) {
				require.Contains(t, []string{"postgres", "server"}, name)
			}
		}
	})
	t.Run("secrets come from files, which one service makes and the others cannot change", func(t *testing.T) {
		t.Parallel()
		secret := regexp.MustCompile(`PASSWORD|TOKEN|KEY|EMBERCAST_DATABASE_URL`)
		for name, s := range c.Services {
			for key, value := range s.Environment {
				if name == "secrets" || !secret.MatchString(key) {
					continue
				}
				require.Regexp(t, `_FILE$`, key)
				require.Regexp(t, `^/secrets/`, value)
			}
		}
		for _, key := range []string{"EMBERCAST_DATABASE_URL_FILE", "EMBERCAST_ADMIN_TOKEN_FILE", "EMBERCAST_SECRET_KEY_FILE"} {
			require.Contains(t, server.Environment, key)
		}
		require.Contains(t, postgres.Environment, "POSTGRES_PASSWORD_FILE")
		require.Equal(t, []string{"secrets:/secrets"}, secrets.Volumes)
		require.Contains(t, server.Volumes, "secrets:/secrets:ro")
		require.Contains(t, postgres.Volumes, "secrets:/secrets:ro")
		require.Equal(t, "none", secrets.NetworkMode)
		require.Equal(t, "no", secrets.Restart)
	})
	t.Run("the server is confined", func(t *testing.T) {
		t.Parallel()
		for _, s := range []composeService{secrets, server, caddy} {
			require.True(t, s.ReadOnly)
			require.Equal(t, []string{"ALL"}, s.CapDrop)
			require.Contains(t, s.SecurityOpt, "no-new-privileges:true")
			require.Empty(t, s.User, "the image's own")
		}
		require.Contains(t, server.Tmpfs, "/tmp")
		require.Contains(t, server.Ulimits, "nofile")
	})
	t.Run("ports are published on loopback", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []string{"127.0.0.1:8080:8080", "127.0.0.1:1883:1883"}, server.Ports)
	})
	t.Run("all wait for what they need, come back, and have the time to stop", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, "service_completed_successfully", server.DependsOn["secrets"]["condition"])
		require.Equal(t, "service_completed_successfully", postgres.DependsOn["secrets"]["condition"])
		require.Equal(t, "service_healthy", server.DependsOn["postgres"]["condition"])
		require.Equal(t, "service_healthy", caddy.DependsOn["server"]["condition"])
		require.Contains(t, postgres.Healthcheck["test"], "pg_isready")
		for _, s := range []composeService{postgres, server, caddy} {
			require.Equal(t, "unless-stopped", s.Restart)
		}
		grace, err := time.ParseDuration(server.StopGrace)
		require.NoError(t, err)
		require.Greater(t, grace, stopTimeout)
	})
	t.Run("Caddy comes only when asked for, and is the proxy that is trusted", func(t *testing.T) {
		t.Parallel()
		for name, s := range c.Services {
			require.Equal(t, name == "caddy", slices.Contains(s.Profiles, "tls"), name)
		}
		networks, ok := caddy.Networks.(map[string]any)
		require.True(t, ok)
		require.Len(t, networks, 1, "a second network would give it a second address")
		network, ok := networks["default"].(map[string]any)
		require.True(t, ok)
		require.Equal(t, []any{"default", "database"}, server.Networks)
		trusted := server.Environment["EMBERCAST_TRUSTED_PROXIES"]
		o := options{HTTPAddr: ":8080", DataDir: "/data", TrustedProxies: trusted}
		cfg := o.config()
		require.NoError(t, cfg.Validate())
		require.Equal(t, network["ipv4_address"], strings.TrimRight(trusted, ","))
		address, err := netip.ParseAddr(strings.TrimRight(trusted, ","))
		require.NoError(t, err)
		subnet, err := netip.ParsePrefix(c.Networks["default"].IPAM.Config[0]["subnet"])
		require.NoError(t, err)
		require.True(t, subnet.Contains(address))
		require.Contains(t, shipped(t, "server/Caddyfile"), "reverse_proxy server:8080")
	})
	t.Run("services that share an image give it no name, or they would be built over each other", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, server.Build, secrets.Build)
		require.Equal(t, "server/Dockerfile", server.Build["dockerfile"])
		require.NotContains(t, shipped(t, "docker-compose.yml"), "image: embercast")
	})
	t.Run("volumes are declared", func(t *testing.T) {
		t.Parallel()
		for _, s := range c.Services {
			for _, v := range s.Volumes {
				if name, _, _ := strings.Cut(v, ":"); !strings.HasPrefix(name, ".") {
					require.Contains(t, c.Volumes, name)
				}
			}
		}
	})
	t.Run("every option that it sets is one, and every variable that it takes is documented", func(t *testing.T) {
		t.Parallel()
		known := knownVariables(t)
		for _, s := range []composeService{secrets, server} {
			for key := range s.Environment {
				require.True(t, known[key], key)
			}
		}
		docs := shipped(t, "docs/self-hosting.md")
		variables := map[string]bool{}
		for _, m := range variable.FindAllStringSubmatch(shipped(t, "docker-compose.yml"), -1) {
			variables[m[1]] = true
			require.Contains(t, docs, "`"+m[1]+"`")
		}
		for _, name := range regexp.MustCompile(`EMBERCAST_\w+`).FindAllString(docs, -1) {
			require.True(t, known[name] || variables[name], name)
		}
	})
}

var goBuild = regexp.MustCompile(`CGO_ENABLED=.* go build .*`)

func TestImage(t *testing.T) {
	t.Parallel()
	dockerfile := shipped(t, "server/Dockerfile")
	stages := regexp.MustCompile(`(?m)^FROM `).Split(dockerfile, -1)
	final := stages[len(stages)-1]

	t.Run("its binary is built as make build does it", func(t *testing.T) {
		t.Parallel()
		plain := strings.NewReplacer("$(VERSION)", "$VERSION", "'", `"`, "-o /out/embercast", "-o bin/embercast").Replace
		want := plain(goBuild.FindString(shipped(t, "Makefile")))
		require.NotEmpty(t, want)
		require.Equal(t, want, plain(goBuild.FindString(dockerfile)))
		require.Contains(t, final, "COPY --from=build /out/embercast /embercast\n")
	})
	t.Run("by the version of Go that go.mod asks for", func(t *testing.T) {
		t.Parallel()
		release := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(shipped(t, "go.mod"))[1]
		require.Contains(t, dockerfile, "\nFROM golang:"+release+"-bookworm AS build\n")
	})
	t.Run("without anything that needs BuildKit", func(t *testing.T) {
		t.Parallel()
		require.NotRegexp(t, `--mount=|--chmod|--link|<<|(?m)^# *syntax=`, dockerfile)
	})
	t.Run("it has no shell, is not root, and knows whether it is well", func(t *testing.T) {
		t.Parallel()
		require.True(t, strings.HasPrefix(final, "scratch\n"))
		require.NotRegexp(t, `(?m)^RUN `, final)
		require.Regexp(t, `(?m)^USER [1-9]\d*:[1-9]\d*$`, final)
		require.Regexp(t, `(?m)^ENTRYPOINT \["/embercast"\]$`, final)
		require.Regexp(t, `(?m)^HEALTHCHECK .* CMD \["/embercast", "healthcheck"\]$`, final)
		require.Regexp(t, `(?m)^VOLUME /data$`, final)
		require.Regexp(t, `(?m)^EXPOSE 8080 1883$`, final)
	})
	t.Run("what it sets are options, and it listens for others than itself", func(t *testing.T) {
		t.Parallel()
		known := knownVariables(t)
		set := map[string]string{}
		for _, m := range regexp.MustCompile(`(EMBERCAST_\w+)=(\S+)`).FindAllStringSubmatch(final, -1) {
			require.True(t, known[m[1]], m[1])
			set[m[1]] = m[2]
		}
		require.Equal(t, map[string]string{"EMBERCAST_HTTP_ADDR": ":8080", "EMBERCAST_MQTT_ADDR": ":1883", "EMBERCAST_DATA_DIR": "/data"}, set)
	})
	t.Run("what the binary is made of reaches the build, and nothing else does", func(t *testing.T) {
		t.Parallel()
		lines := strings.Split(strings.TrimSpace(shipped(t, ".dockerignore")), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "#") })
		require.Equal(t, "*", lines[0])
		var let []string
		for _, l := range lines {
			if name, ok := strings.CutPrefix(l, "!"); ok {
				let = append(let, name)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", ".").Output()
		require.NoError(t, err)
		want := []string{"go.mod", "go.sum"}
		for pkg := range strings.FieldsSeq(string(out)) {
			dir, _, _ := strings.Cut(strings.TrimPrefix(pkg, "github.com/embercast/embercast/"), "/")
			if !slices.Contains(want, dir) {
				want = append(want, dir)
			}
		}
		require.ElementsMatch(t, want, let)
		require.Subset(t, lines, []string{"**/*_test.go", "**/node_modules"})
	})
}

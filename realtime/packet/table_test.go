package packet

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bytesMax is the limit of the decoders in these tests.
const bytesMax = 1 << 20

// tableCase is one case of a table in testdata: bytes, and what they say or what is wrong with them.
type tableCase struct {
	Name      string          `json:"name"`
	Version   Version         `json:"version"`   // that of the CONNECT decoded before; 0: nothing was decoded before
	From      string          `json:"from"`      // "server": the bytes are for a client; else for a server
	Hex       string          `json:"hex"`       // the packet, blanks between its parts
	Packet    json.RawMessage `json:"packet"`    // what it says, as describe writes it
	Encoded   string          `json:"encoded"`   // what Append makes of it, where that is not the same bytes
	Reason    string          `json:"reason"`    // else: the Reason Code of its DecodeError
	Statement string          `json:"statement"` // and the statement that it breaks
}

// table reads one file of cases.
func table(tb testing.TB, path string) []tableCase {
	tb.Helper()
	var cases []tableCase
	require.NoError(tb, json.Unmarshal(readFile(tb, path), &cases), path)
	return cases
}

// tables reads the cases of all packet types, by file.
func tables(tb testing.TB) map[string][]tableCase {
	tb.Helper()
	paths, err := filepath.Glob("testdata/packets/*.json")
	require.NoError(tb, err)
	require.NotEmpty(tb, paths)
	all := map[string][]tableCase{}
	for _, path := range paths {
		all[strings.TrimSuffix(filepath.Base(path), ".json")] = table(tb, path)
	}
	return all
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(tb, err)
	return b
}

// connectOf is a small CONNECT of a version.
func connectOf(v Version) []byte {
	return (&Connect{Version: v, CleanStart: true, ClientID: "c"}).Append(nil, v)
}

// newDecoder returns a server's decoder that has seen a CONNECT of v (none if 0), or a client's.
func newDecoder(tb testing.TB, v Version, from string) *Decoder {
	tb.Helper()
	d := NewDecoder(bytesMax)
	switch {
	case from == "server":
		d.SetVersion(v)
	case v != 0:
		d.Feed(connectOf(v))
		p, err := d.Next()
		require.NoError(tb, err)
		require.Equal(tb, TypeConnect, p.Type())
	}
	return d
}

// next returns the one packet that b holds.
func next(tb testing.TB, d *Decoder, b []byte) Packet {
	tb.Helper()
	d.Feed(b)
	p, err := d.Next()
	require.NoError(tb, err, "%x", b)
	require.NotNil(tb, p, "%x is not a whole packet", b)
	require.Zero(tb, d.Buffered(), "%x is more than a packet", b)
	return p
}

// requireRefused checks that b is answered by a Reason Code and a statement.
func requireRefused(tb testing.TB, d *Decoder, b []byte, reason ReasonCode, statement string) {
	tb.Helper()
	d.Feed(b)
	p, err := d.Next()
	require.Error(tb, err, "%x was taken as %T", b, p)
	require.Nil(tb, p)
	var refused *DecodeError
	require.ErrorAs(tb, err, &refused)
	require.Equal(tb, reason, refused.Reason, "%x: %v", b, err)
	require.Equal(tb, statement, refused.Statement, "%x: %v", b, err)
	_, again := d.Next()
	require.Equal(tb, err, again, "an error is final")
}

func TestTables(t *testing.T) {
	t.Parallel()
	for file, cases := range tables(t) {
		for _, c := range cases {
			t.Run(file+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				if c.Reason != "" {
					reason, err := strconv.ParseUint(c.Reason, 0, 8)
					require.NoError(t, err)
					requireRefused(t, newDecoder(t, c.Version, c.From), unhex(t, c.Hex), ReasonCode(reason), c.Statement)
					return
				}
				c.testGood(t)
			})
		}
	}
}

// testGood decodes, compares, encodes to the same bytes.
func (c *tableCase) testGood(t *testing.T) {
	t.Helper()
	d := newDecoder(t, c.Version, c.From)
	p := next(t, d, unhex(t, c.Hex))
	require.JSONEq(t, string(c.Packet), describe(t, p))
	want := c.Hex
	if c.Encoded != "" {
		want = c.Encoded
	}
	got := p.Append([]byte("before"), d.Version())
	require.Equal(t, "before", string(got[:6]), "Append appends")
	require.Equal(t, hex.EncodeToString(unhex(t, want)), hex.EncodeToString(got[6:]))
}

// TestTablesAreWhole fails when a packet type lacks a good or a bad case of a version that has it.
func TestTablesAreWhole(t *testing.T) {
	t.Parallel()
	type key struct {
		typ     Type
		version Version
		good    bool
	}
	seen := map[key]bool{}
	for _, cases := range tables(t) {
		for _, c := range cases {
			b := unhex(t, c.Hex)
			v := c.Version
			if c.Packet != nil {
				v = newDecoderVersion(t, &c)
			}
			seen[key{Type(b[0] >> 4), v, c.Packet != nil}] = true
		}
	}
	for typ := TypeConnect; typ <= TypeAuth; typ++ {
		for _, v := range []Version{V31, V311, V5} {
			if typ == TypeAuth && v != V5 {
				continue
			}
			require.True(t, seen[key{typ, v, true}], "no good %s of version %d", typeNames[typ], v)
			if v != V31 && typ != TypeConnect {
				require.True(t, seen[key{typ, v, false}], "no bad %s of version %d", typeNames[typ], v)
			}
		}
	}
}

// newDecoderVersion returns the version that a good case is of.
func newDecoderVersion(tb testing.TB, c *tableCase) Version {
	tb.Helper()
	d := newDecoder(tb, c.Version, c.From)
	d.Feed(unhex(tb, c.Hex))
	_, err := d.Next()
	require.NoError(tb, err, c.Name)
	return d.Version()
}

func readFile(tb testing.TB, path string) []byte {
	tb.Helper()
	text, err := os.ReadFile(path)
	require.NoError(tb, err)
	return text
}

package packet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// standardReason is a row of the standard's table of Reason Codes.
type standardReason struct {
	Code    string   `json:"code"`
	Name    string   `json:"name"`
	Packets []string `json:"packets"`
}

func standardReasons(t *testing.T) map[ReasonCode]standardReason {
	t.Helper()
	var rows []standardReason
	require.NoError(t, json.Unmarshal(readFile(t, "testdata/reasons.json"), &rows))
	all := map[ReasonCode]standardReason{}
	for _, row := range rows {
		code, err := strconv.ParseUint(row.Code, 0, 8)
		require.NoError(t, err)
		all[ReasonCode(code)] = row
	}
	require.Len(t, all, len(rows), "each code once")
	return all
}

func TestReasonCode_names_are_the_standards(t *testing.T) {
	t.Parallel()
	known := standardReasons(t)
	require.Len(t, reasonNames, len(known))
	for code := range 256 {
		r := ReasonCode(code)
		want := fmt.Sprintf("Reason Code 0x%02X", code)
		if row, ok := known[r]; ok {
			want = row.Name
		}
		require.Equal(t, want, r.String())
		require.Equal(t, code >= 128, r.Failed())
	}
}

// TestReasonCode_belongs_to_the_packets_of_table_2_6 tries every byte in every packet that a server gets.
func TestReasonCode_belongs_to_the_packets_of_table_2_6(t *testing.T) {
	t.Parallel()
	known := standardReasons(t)
	for _, c := range []struct {
		typ       Type
		bytes     string // of the packet before its Reason Code
		after     string
		statement string
	}{
		{TypePuback, "40 03 0001", "", "MQTT5-3.4.2-1"},
		{TypePubrec, "50 03 0001", "", "MQTT5-3.5.2-1"},
		{TypePubrel, "62 03 0001", "", "MQTT5-3.6.2-1"},
		{TypePubcomp, "70 03 0001", "", "MQTT5-3.7.2-1"},
		{TypeDisconnect, "e0 01", "", "MQTT5-3.14.2-1"},
		{TypeAuth, "f0 06", "04 15 0001 6d", "MQTT5-3.15.2-1"},
	} {
		t.Run(fmt.Sprintf("%s [%s]", typeNames[c.typ], c.statement), func(t *testing.T) {
			t.Parallel()
			for code := range 256 {
				b := append(append(unhex(t, c.bytes), byte(code)), unhex(t, c.after)...)
				b[1] = byte(len(b) - 2)
				if slices.Contains(known[ReasonCode(code)].Packets, typeNames[c.typ]) {
					next(t, newDecoder(t, V5, ""), b)
					continue
				}
				requireRefused(t, newDecoder(t, V5, ""), b, ProtocolError, c.statement)
			}
		})
	}
}

// TestReasonCode_of_a_servers_DISCONNECT has the standard's table of those that a server may send.
func TestReasonCode_of_a_servers_DISCONNECT(t *testing.T) {
	t.Parallel()
	may := unhex(t, "00 80 81 82 83 87 89 8b 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2")
	for code := range 256 {
		r := ReasonCode(code)
		b := []byte{0xE0, 1, byte(code)}
		told := r.OfDisconnect()
		require.True(t, slices.Contains(may, byte(told)), "%v", r)
		if slices.Contains(may, byte(code)) {
			require.Equal(t, r, told)
			next(t, newDecoder(t, V5, "server"), b)
			continue
		}
		requireRefused(t, newDecoder(t, V5, "server"), b, ProtocolError, "MQTT5-3.14.2-1")
	}
	require.Equal(t, ServerBusy, ServerUnavailable.OfDisconnect(), "which DISCONNECT does not know")
	require.Equal(t, UnspecifiedError, ClientIdentifierNotValid.OfDisconnect())
}

func TestReasonCode_of_a_PUBACK(t *testing.T) {
	t.Parallel()
	known := standardReasons(t)
	for code := range 256 {
		r := ReasonCode(code)
		require.Equal(t, slices.Contains(known[r].Packets, "PUBACK"), r.OfPuback(), "%v", r)
		require.Equal(t, slices.Contains(known[r].Packets, "PUBREC"), r.OfPuback(), "%v", r)
	}
}

func TestV3Connack_says_the_same_as_the_Reason_Code_or_that_the_server_is_unavailable(t *testing.T) {
	t.Parallel()
	want := map[ReasonCode]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIdentifierNotValid: 2, BadUserNameOrPassword: 4, NotAuthorized: 5,
		Banned: 5,
	}
	for code := range standardReasons(t) {
		w, ok := want[code]
		if !ok {
			w = 3
		}
		require.Equal(t, w, code.V3Connack(), "%v", code)
	}
	for code, r := range returnCodes {
		require.Equal(t, byte(code), r.V3Connack(), "%v there and back", r)
	}
}

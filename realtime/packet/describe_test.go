package packet

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// typeNames are the standard's names of the Control Packets (MQTT 5.0 table 2-1).
var typeNames = map[Type]string{
	TypeConnect: "CONNECT", TypeConnack: "CONNACK", TypePublish: "PUBLISH", TypePuback: "PUBACK", TypePubrec: "PUBREC",
	TypePubrel: "PUBREL", TypePubcomp: "PUBCOMP", TypeSubscribe: "SUBSCRIBE", TypeSuback: "SUBACK",
	TypeUnsubscribe: "UNSUBSCRIBE", TypeUnsuback: "UNSUBACK", TypePingreq: "PINGREQ", TypePingresp: "PINGRESP",
	TypeDisconnect: "DISCONNECT", TypeAuth: "AUTH", typeWill: "Will",
}

// describe turns a packet into JSON, the way the tables in testdata write it: every field that is not zero, and every
// property that is there, zero or not. It goes by reflection, so that no field can be forgotten.
func describe(tb testing.TB, p Packet) string {
	tb.Helper()
	all := describeStruct(tb, reflect.ValueOf(p).Elem())
	all["type"] = typeNames[p.Type()]
	text, err := json.Marshal(all)
	require.NoError(tb, err)
	return string(text)
}

func describeStruct(tb testing.TB, v reflect.Value) map[string]any {
	tb.Helper()
	if p, ok := reflect.TypeAssert[Properties](v); ok {
		return describeProperties(tb, &p)
	}
	all := map[string]any{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		// The kind is told by "type", and the raw properties by the parsed ones.
		if name == "Kind" || name == "RawProperties" || v.Field(i).IsZero() {
			continue
		}
		if d := describeValue(tb, v.Field(i)); d != nil {
			all[snake(name)] = d
		}
	}
	return all
}

// describeProperties relies on the fields standing in the order of the members of a PropertySet.
func describeProperties(tb testing.TB, p *Properties) map[string]any {
	tb.Helper()
	v := reflect.ValueOf(p).Elem()
	require.Len(tb, propertyIDs(), v.NumField()-1, "one field and one member of PropertySet each")
	all := map[string]any{}
	for i := 1; i < v.NumField(); i++ {
		if !p.Has.Contains(1 << (i - 1)) {
			require.True(tb, v.Field(i).IsZero(), "%s is set and not in Has", v.Type().Field(i).Name)
			continue
		}
		d := describeValue(tb, v.Field(i))
		if d == nil {
			d = ""
		}
		all[snake(v.Type().Field(i).Name)] = d
	}
	return all
}

func describeValue(tb testing.TB, v reflect.Value) any {
	tb.Helper()
	switch x := v.Interface().(type) {
	case []byte:
		if len(x) == 0 {
			return nil
		}
		return describeBytes(x)
	case ReasonCode:
		return fmt.Sprintf("0x%02X", byte(x))
	case UserProperty:
		return []string{x.Key, x.Value}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return describeStruct(tb, v.Elem())
	case reflect.Struct:
		return describeStruct(tb, v)
	case reflect.Slice:
		var list []any
		for i := range v.Len() {
			list = append(list, describeValue(tb, v.Index(i)))
		}
		if list == nil {
			return nil
		}
		return list
	default:
		return v.Interface()
	}
}

// describeBytes writes text as text and anything else as 0x….
func describeBytes(b []byte) string {
	printable := utf8.Valid(b) && strings.IndexFunc(string(b), func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if !printable || strings.HasPrefix(string(b), "0x") {
		return "0x" + hex.EncodeToString(b)
	}
	return string(b)
}

var wordStart = regexp.MustCompile(`([a-z0-9])([A-Z])`)

func snake(name string) string {
	name = strings.NewReplacer("QoS", "Qos", "IDs", "Ids", "ID", "Id").Replace(name)
	return strings.ToLower(wordStart.ReplaceAllString(name, "${1}_${2}"))
}

// propertyIDs returns the identifiers of all properties.
func propertyIDs() []byte {
	var ids []byte
	for id, which := range propertyOf {
		if which != 0 {
			ids = append(ids, byte(id))
		}
	}
	return ids
}

package api

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// ListQuery pages a list.
type ListQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"How many items at most."`
	Cursor string `query:"cursor" maxLength:"20000" doc:"next_cursor of the page before."`
}

// list is a page of a list, in a stable order. next_cursor is there while there is more.
type list[T any] struct {
	Items      []T    `json:"items" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// page takes the first limit of what comes after the cursor.
func page[T, V any](all []T, limit int, key func(T) string, show func(T) V) list[V] {
	l := list[V]{Items: []V{}}
	for i, item := range all {
		if i == limit {
			l.NextCursor = encodeCursor(key(all[i-1]))
			break
		}
		l.Items = append(l.Items, show(item))
	}
	return l
}

// Cursors are opaque: the key of the last item, encoded.
func encodeCursor(key string) string { return base64.RawURLEncoding.EncodeToString([]byte("1" + key)) }

func decodeCursor(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	key, ok := strings.CutPrefix(string(b), "1")
	if err != nil || !ok {
		return "", badCursor()
	}
	return key, nil
}

// decodeNumber reads a cursor whose key is a positive number; 0 where there is none.
func decodeNumber(cursor string) (int64, error) {
	text, err := decodeCursor(cursor)
	if err != nil || text == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return 0, badCursor()
	}
	return n, nil
}

func badCursor() error {
	return unprocessable("query.cursor", "is not a next_cursor of this list")
}

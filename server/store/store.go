// Package store names what the stores have in common: how a start is refused.
package store

import "errors"

// ErrLocked refuses a second server on the same data.
var ErrLocked = errors.New("another Embercast server is using this database")

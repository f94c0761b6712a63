// Package store names what the stores have in common: how a start is refused, and how a store is lost for good.
package store

import "errors"

// ErrLocked refuses a second server on the same data.
var ErrLocked = errors.New("another Embercast server is using this database")

// ErrTakenOver ends a server that lost its lock and found that the database had another writer since: what it holds in
// memory is no longer what is stored.
var ErrTakenOver = errors.New("another Embercast server has written to this database since this one lost its lock; start again to go on")

// ErrDamaged tells that a database's own files contradict themselves. Nothing that is written to them then is safe.
var ErrDamaged = errors.New("the database is damaged")

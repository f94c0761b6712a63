// Package auth knows who someone is and what they may do: apps with their settings, keys, tokens and topic rules, held
// in memory and written through to a store. It knows topics and claims, never sockets or SQL.
package auth

import (
	"errors"
	"strings"
)

// Errors that callers tell apart. The first four come from the Store.
var (
	ErrTaken          = errors.New("already exists")
	ErrNotFound       = errors.New("not found")
	ErrConflict       = errors.New("changed in the meantime")
	ErrUnavailable    = errors.New("storage is not available")
	ErrBadCredentials = errors.New("unknown app or bad credentials")
	ErrNotAllowed     = errors.New("these credentials are not allowed here")
	ErrClientID       = errors.New("client id is not valid for these credentials")
	ErrNoSigningKey   = errors.New("the app has no key that can sign tokens: create one of kind signing")
)

// LimitError tells that there is no room for one more of something. Its text is a sentence that says what to do.
type LimitError struct{ Sentence string }

// Error implements error.
func (e *LimitError) Error() string { return e.Sentence }

// FieldError is one thing that is wrong with what was sent. Pointer is a JSON pointer (RFC 6901) into it.
type FieldError struct {
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

// ValidationError tells everything that is wrong with what was sent.
type ValidationError struct{ Fields []FieldError }

// Error implements error.
func (e *ValidationError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, p := range e.Fields {
		parts[i] = p.Pointer + ": " + p.Message
	}
	return strings.Join(parts, "; ")
}

func invalid(pointer, message string) error {
	return &ValidationError{[]FieldError{{pointer, message}}}
}

// problems gathers what is wrong, so that all of it is told together.
type problems []FieldError

func (p *problems) add(pointer, message string) { *p = append(*p, FieldError{pointer, message}) }

// escapePointer makes a member's name a part of a JSON pointer.
func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &ValidationError{p}
}

// Package migrations holds the schema of both dialects: the same numbers and names, append-only.
package migrations

import "embed"

// FS holds the goose migrations in sqlite/ and postgres/.
//
//go:embed sqlite/*.sql postgres/*.sql
var FS embed.FS

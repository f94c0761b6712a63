// Package web holds what browsers get from the server.
package web

import "embed"

// Examples holds the pages and programs under examples/.
//
//go:embed examples
var Examples embed.FS

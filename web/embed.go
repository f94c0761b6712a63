// Package web holds what browsers get from the server.
package web

import "embed"

// vendor copies mqtt.js, whose version package-lock.json names, to where the page finds it.
//
//go:generate npm run --silent vendor

// Examples holds the pages and programs under examples/.
//
//go:embed examples
var Examples embed.FS

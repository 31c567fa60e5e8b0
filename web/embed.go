// Package web holds what the browser loads beside the pages: the livetemplate
// client and Pico CSS as npm delivers them, and our own page script, style
// sheet and icon.
//
// `npm ci && npm run build` in this folder fills dist. A binary that was built
// without takes the very same files from the npm CDN, held to them by integrity
// hashes, so that `go run` works in a fresh checkout.
package web

import "embed"

//go:embed package.json src all:dist
var files embed.FS

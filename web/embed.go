// Package web holds what the browser loads beside the pages: the livetemplate
// client and Pico CSS as npm delivers them, and our own page script, style
// sheet and icon. In presence is the browser module for pages of other products,
// laid out as an npm package, and in examples are pages that use it.
//
// `npm ci && npm run build` in this folder fills dist. A binary that was built
// without takes the very same files from the npm CDN, held to them by integrity
// hashes, so that `go run` works in a fresh checkout. It serves the module as it is
// written, while a build makes it small.
package web

import "embed"

//go:embed package.json presence/presence.js examples src all:dist
var files embed.FS

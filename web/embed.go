// Package web has the files that the browser loads beside the pages: the
// livetemplate client and Pico CSS as npm delivers them, and our own page script,
// style sheet and icon. The folder presence is the browser module for pages of other
// products, as an npm package. The folder examples has pages that use it.
//
// `npm ci && npm run build` in this folder fills dist. The pages of a binary that was
// built without it load the same files from the npm CDN, checked by integrity hashes, so
// that `go run` works in a fresh checkout. Such a binary serves the module as it is in
// the source; a build makes it small.
package web

import "embed"

//go:embed package.json presence/presence.js examples src all:dist
var files embed.FS

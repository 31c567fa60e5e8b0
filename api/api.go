// Package api holds the documents that describe the API to programs: openapi.json
// (OpenAPI 3.1) its requests and answers, and asyncapi.json (AsyncAPI 3.0) the events of its
// streams. They are written by hand; presence/test/contract holds the tests to them.
package api

import (
	"crypto/sha256"
	_ "embed" // the documents
	"fmt"
	"net/http"
	"strings"
	"time"
)

// OpenAPI describes the requests of the API, and how they are answered.
//
//go:embed openapi.json
var OpenAPI string

// AsyncAPI describes the events of streams. Schemas that both documents have are the same.
//
//go:embed asyncapi.json
var AsyncAPI string

// Serve serves a document to programs, and to pages of any origin. They ask each time
// whether it has changed.
func Serve(document string) http.HandlerFunc {
	etag := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(document)))[:17] + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(document))
	}
}

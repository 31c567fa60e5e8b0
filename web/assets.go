package web

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// Prefix is the path under which [Assets] are served.
const Prefix = "/assets/"

// Favicon is where browsers look for an icon that no page names: [Assets] serve
// it there, too.
const Favicon = "/favicon.ico"

// cdn serves the files of any npm package under its name and version.
const cdn = "https://cdn.jsdelivr.net"

// asset is one file that pages refer to by name.
type asset struct {
	name string
	file string // in files

	// path is where it stays when its content changes; "": its path has a hash.
	path string

	// anywhere says that pages of any origin may load it.
	anywhere bool

	// source is served where npm run build has made no file yet.
	source string

	// The rest is set for files that npm run build takes from a package.
	pkg       string // npm package, whose version package.json names
	packed    string // path in the package
	integrity string // SHA-384 of the file, as in the integrity attribute
}

// Module is the path of the browser module for other pages. It never changes.
const Module = Prefix + "presence.js"

// Examples is the path of pages that use the browser module as pages of other products do.
// [Assets] serve them, too.
const Examples = "/examples/"

// all are the assets. Their hashes belong to the versions in package.json; a
// test compares them with the built files.
var all = []asset{
	{name: "page.js", file: "src/page.js"},
	{name: "page.css", file: "src/page.css"},
	{name: "icon.svg", file: "src/icon.svg"},
	{name: "favicon.ico", file: "src/favicon.ico"},
	{name: "card.png", file: "src/card.png", anywhere: true},
	{name: "presence.js", file: "dist/presence.js", path: Module, anywhere: true, source: "presence/presence.js"},
	{name: "examples", file: "examples/index.html", path: Examples},
	{name: "examples/document", file: "examples/document.html", path: Examples + "document.html"},
	{name: "examples/document.js", file: "examples/document.js", path: Examples + "document.js"},
	{name: "examples/badge", file: "examples/badge.html", path: Examples + "badge.html"},
	{name: "examples/badge.js", file: "examples/badge.js", path: Examples + "badge.js"},
	{name: "examples/examples.css", file: "examples/examples.css", path: Examples + "examples.css"},
	{
		name: "client.js", file: "dist/client.js",
		pkg: "@livetemplate/client", packed: "dist/livetemplate-client.browser.js",
		integrity: "sha384-eu851tpv39Qz6AFvnOIZYOo7iRBSw1j7/To2GHXrRIKQVtI3uZDhh9rOJJR9ehmR",
	},
	{
		name: "pico.css", file: "dist/pico.css",
		pkg: "@picocss/pico", packed: "css/pico.classless.min.css",
		integrity: "sha384-NZhm4G1I7BpEGdjDKnzEfy3d78xvy7ECKUwwnKTYi036z42IyF056PbHfpQLIYgL",
	},
}

// mimeTypes are fixed here rather than taken from the system's table, since
// browsers refuse a script or style sheet of a wrong type.
var mimeTypes = map[string]string{
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".svg":  "image/svg+xml",
	".ico":  "image/vnd.microsoft.icon",
	".png":  "image/png",
}

// Assets serves the files of this package. Most are under paths that contain a hash
// of their content: a path never changes its content, so browsers keep it for
// good, and a new version is a new path. The others stay where they are, and
// browsers ask each time whether they have changed. It is read-only and so safe for
// concurrent use.
type Assets struct {
	urls      map[string]string // by name
	integrity map[string]string // by name, only of those that come from the CDN
	served    map[string]served // by URL path
}

// served is the answer for one path.
type served struct {
	mime        string
	etag        string // "" under a path with a hash
	anywhere    bool
	plain, gzip []byte
}

// Load prepares all assets: hashes and compresses them once. An error means
// that the binary was built wrongly.
func Load() (*Assets, error) { return load(files) }

// load is Load for the files in fsys, which need not contain what npm delivers.
func load(fsys fs.FS) (*Assets, error) {
	versions, err := versionsOf(fsys)
	if err != nil {
		return nil, err
	}
	a := &Assets{urls: map[string]string{}, integrity: map[string]string{}, served: map[string]served{}}
	for _, x := range all {
		content, err := fs.ReadFile(fsys, x.file)
		if x.source != "" && errors.Is(err, fs.ErrNotExist) {
			content, err = fs.ReadFile(fsys, x.source)
		}
		switch {
		case err == nil:
			if err := a.add(x, content); err != nil {
				return nil, fmt.Errorf("web: %s: %w", x.name, err)
			}
		case x.pkg != "" && errors.Is(err, fs.ErrNotExist):
			version := versions[x.pkg]
			if version == "" {
				return nil, fmt.Errorf("web: package.json names no version of %s", x.pkg)
			}
			a.urls[x.name] = fmt.Sprintf("%s/npm/%s@%s/%s", cdn, x.pkg, version, x.packed)
			a.integrity[x.name] = x.integrity
		default:
			return nil, fmt.Errorf("web: %w", err)
		}
	}
	a.served[Favicon] = a.served[a.urls["favicon.ico"]]
	return a, nil
}

// versionsOf returns the exact version of each npm package in use.
func versionsOf(fsys fs.FS) (map[string]string, error) {
	text, err := fs.ReadFile(fsys, "package.json")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	var manifest struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, fmt.Errorf("web: package.json: %w", err)
	}
	return manifest.Dependencies, nil
}

func (a *Assets) add(x asset, content []byte) error {
	ext := path.Ext(x.file)
	mime := mimeTypes[ext]
	if mime == "" {
		return fmt.Errorf("no media type for %q", ext)
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}

	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:hashBytes])
	file := served{mime: mime, anywhere: x.anywhere, plain: content, gzip: packed.Bytes()}
	url := x.path
	if url == "" {
		url = Prefix + strings.TrimSuffix(x.name, ext) + "." + hash + ext
	} else {
		file.etag = `W/"` + hash + `"` // of any encoding
	}
	a.urls[x.name] = url
	a.served[url] = file
	return nil
}

// URL returns where browsers find the asset of that name: a path on this
// server, or an address of the CDN when it was not built in. It is empty for an
// unknown name.
func (a *Assets) URL(name string) string { return a.urls[name] }

// Integrity returns the value of the integrity attribute for an asset that
// comes from the CDN, and an empty string for all that this server serves.
func (a *Assets) Integrity(name string) string { return a.integrity[name] }

// Built reports whether the binary contains all assets, so that pages need no
// other host.
func (a *Assets) Built() bool { return len(a.integrity) == 0 }

// Origins returns the other hosts that pages load scripts and styles from, for
// the Content-Security-Policy. It is empty when the assets are built in.
func (a *Assets) Origins() []string {
	if a.Built() {
		return nil
	}
	return []string{cdn}
}

// ServeHTTP serves the assets by the paths that [Assets.URL] returns, and by those
// of another version, uncached; anything else is 404, and other methods than GET and HEAD are 405.
func (a *Assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ok := a.served[r.URL.Path]
	cache := "public, max-age=31536000, immutable"
	if r.URL.Path == Favicon {
		cache = "public, max-age=86400" // the path stays when the icon changes
	}
	if !ok {
		// While replicas of two versions run side by side, a page of one version may ask
		// the other for its assets. Ours are better than none, but must not be cached.
		if file, ok = a.served[a.urls[unhashed(r.URL.Path)]]; !ok {
			http.NotFound(w, r)
			return
		}
		cache = "no-store"
	}
	if file.etag != "" {
		cache = "no-cache"
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}

	h := w.Header()
	h.Set("Content-Type", file.mime)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cache)
	h.Set("Vary", "Accept-Encoding")
	if file.anywhere {
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	}
	if file.etag != "" {
		h.Set("ETag", file.etag)
		if hasETag(strings.Join(r.Header.Values("If-None-Match"), ","), file.etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	body := file.plain
	if acceptsGzip(strings.Join(r.Header.Values("Accept-Encoding"), ",")) {
		h.Set("Content-Encoding", "gzip")
		body = file.gzip
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // an error is the browser's leaving
	}
}

// unhashed returns the name of the asset that a path with a hash, ours or that of
// another version, stands for.
func unhashed(urlPath string) string {
	name := strings.TrimPrefix(urlPath, Prefix)
	ext := path.Ext(name)
	base := strings.TrimSuffix(name, ext)
	hash := path.Ext(base)
	if len(hash) != 1+2*hashBytes {
		return ""
	}
	return strings.TrimSuffix(base, hash) + ext
}

// hashBytes is how much of an asset's SHA-256 its path carries.
const hashBytes = 8

// hasETag reports whether an If-None-Match header names etag, which is weak, or anything
// (RFC 9110, section 13.1.2).
func hasETag(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || part == etag || part == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// acceptsGzip reports whether an Accept-Encoding header allows gzip (RFC 9110,
// section 12.5.3): by its name or by *, unless the quality given to it is 0.
func acceptsGzip(header string) bool {
	byStar := false
	for part := range strings.SplitSeq(header, ",") {
		coding, params, _ := strings.Cut(part, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "gzip" && coding != "*" {
			continue
		}
		q, found := strings.CutPrefix(strings.ToLower(strings.TrimSpace(params)), "q=")
		quality, err := strconv.ParseFloat(cmp.Or(q, "1"), 64)
		ok := !found || err == nil && quality > 0
		if coding == "gzip" {
			return ok
		}
		byStar = ok
	}
	return byStar
}

package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// sources returns our own files without what npm delivers, as in a fresh
// checkout.
func sources(t *testing.T) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{}
	names, err := fs.Glob(files, "[eps]*/*") // examples, presence, src
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, "package.json") {
		content, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		fsys[name] = &fstest.MapFile{Data: content}
	}
	return fsys
}

// built returns our own files with stand-ins for what npm delivers.
func built(t *testing.T) fstest.MapFS {
	t.Helper()
	fsys := sources(t)
	fsys["dist/client.js"] = &fstest.MapFile{Data: []byte(strings.Repeat("void 0;\n", 500))}
	fsys["dist/pico.css"] = &fstest.MapFile{Data: []byte(strings.Repeat("a{color:red}\n", 500))}
	fsys["dist/presence.js"] = &fstest.MapFile{Data: []byte("export function presence(){}\n")}
	return fsys
}

func mustLoad(t *testing.T, fsys fs.FS) *Assets {
	t.Helper()
	a, err := load(fsys)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return a
}

func serve(a *Assets, method, path, acceptEncoding string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	if acceptEncoding != "" {
		r.Header.Set("Accept-Encoding", acceptEncoding)
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoadTakesTheEmbeddedFiles(t *testing.T) {
	a, err := Load()
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	for _, x := range all {
		if a.URL(x.name) == "" {
			t.Errorf("URL(%q) is empty", x.name)
		}
	}
	if got := a.URL("nothing.js"); got != "" {
		t.Errorf("URL of an unknown name = %q, want none", got)
	}
}

func TestURLsChangeWithTheContentOnly(t *testing.T) {
	fsys := built(t)
	first, second := mustLoad(t, fsys), mustLoad(t, fsys)
	fsys["src/page.js"] = &fstest.MapFile{Data: []byte("changed")}
	changed := mustLoad(t, fsys)

	form := regexp.MustCompile(`^/assets/page\.[0-9a-f]{16}\.js$`)
	if url := first.URL("page.js"); !form.MatchString(url) {
		t.Errorf("URL(page.js) = %q, want the form %v", url, form)
	}
	if first.URL("page.js") != second.URL("page.js") {
		t.Errorf("the same content has two URLs: %q, %q", first.URL("page.js"), second.URL("page.js"))
	}
	if first.URL("page.js") == changed.URL("page.js") {
		t.Errorf("other content has the same URL %q", changed.URL("page.js"))
	}
	if first.URL("page.css") != changed.URL("page.css") {
		t.Errorf("an unchanged file got another URL")
	}
}

func TestServeBuiltAssets(t *testing.T) {
	fsys := built(t)
	a := mustLoad(t, fsys)
	if !a.Built() || a.Origins() != nil {
		t.Errorf("Built, Origins = %v, %v; want true, none", a.Built(), a.Origins())
	}
	want := map[string]string{
		"page.js":     "text/javascript; charset=utf-8",
		"client.js":   "text/javascript; charset=utf-8",
		"page.css":    "text/css; charset=utf-8",
		"pico.css":    "text/css; charset=utf-8",
		"icon.svg":    "image/svg+xml",
		"favicon.ico": "image/vnd.microsoft.icon",
		"card.png":    "image/png",
	}
	for _, x := range all {
		if x.path != "" {
			continue
		}
		r := serve(a, http.MethodGet, a.URL(x.name), "")
		if r.StatusCode != http.StatusOK {
			t.Errorf("GET %s: status %d", x.name, r.StatusCode)
		}
		for key, value := range map[string]string{
			"Content-Type":           want[x.name],
			"Cache-Control":          "public, max-age=31536000, immutable",
			"X-Content-Type-Options": "nosniff",
			"Vary":                   "Accept-Encoding",
			"Content-Encoding":       "",
		} {
			if got := r.Header.Get(key); got != value {
				t.Errorf("GET %s: %s = %q, want %q", x.name, key, got, value)
			}
		}
		if !bytes.Equal(body(t, r), fsys[x.file].Data) {
			t.Errorf("GET %s: not the content of %s", x.name, x.file)
		}
		if got := a.Integrity(x.name); got != "" {
			t.Errorf("Integrity(%s) = %q, want none for our own", x.name, got)
		}
	}
}

func TestServeCompressedToThoseWhoAccept(t *testing.T) {
	fsys := built(t)
	a := mustLoad(t, fsys)
	tests := map[string]bool{
		"":                        false,
		"gzip":                    true,
		"GZIP":                    true,
		"br, gzip;q=0.5":          true,
		"gzip, deflate, br, zstd": true,
		"*":                       true,
		"identity":                false,
		"gzip;q=0":                false,
		"gzip; q=0.0, *":          false,
		"*;q=0, gzip":             true,
		"*;q=0":                   false,
		"gzip;q=nonsense":         false,
		"xgzip, gzipx":            false,
	}
	for accept, want := range tests {
		r := serve(a, http.MethodGet, a.URL("client.js"), accept)
		got := r.Header.Get("Content-Encoding") == "gzip"
		if got != want {
			t.Errorf("Accept-Encoding %q: compressed = %v, want %v", accept, got, want)
			continue
		}
		content := body(t, r)
		if got {
			z, err := gzip.NewReader(bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			if content, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(content, fsys["dist/client.js"].Data) {
			t.Errorf("Accept-Encoding %q: other content", accept)
		}
	}
}

func TestServeHeadAndRefusals(t *testing.T) {
	a := mustLoad(t, built(t))

	get, head := serve(a, http.MethodGet, a.URL("page.js"), "gzip"), serve(a, http.MethodHead, a.URL("page.js"), "gzip")
	if n := len(body(t, head)); n != 0 {
		t.Errorf("HEAD: %d bytes of body, want none", n)
	}
	for _, key := range []string{"Content-Type", "Content-Length", "Content-Encoding"} {
		if get.Header.Get(key) != head.Header.Get(key) {
			t.Errorf("%s: GET %q, HEAD %q", key, get.Header.Get(key), head.Header.Get(key))
		}
	}

	for _, path := range []string{"/assets/", "/assets/page.js", "/assets/page.00.js", "/assets/other.0000000000000000.js", "/assets/../package.json", "/"} {
		if r := serve(a, http.MethodGet, path, ""); r.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: status %d, want 404", path, r.StatusCode)
		}
	}
	other := serve(a, http.MethodGet, "/assets/page.0000000000000000.js", "gzip")
	if other.StatusCode != http.StatusOK || other.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("path of another version: status %d, Cache-Control %q; want 200, not to be kept", other.StatusCode, other.Header.Get("Cache-Control"))
	}
	r := serve(a, http.MethodPost, a.URL("page.js"), "")
	if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d, Allow %q; want 405 and GET, HEAD", r.StatusCode, r.Header.Get("Allow"))
	}
}

func TestUnbuiltTakesTheSameFilesFromTheCDN(t *testing.T) {
	a := mustLoad(t, sources(t))
	if a.Built() {
		t.Error("Built() = true without dist")
	}
	if got := a.Origins(); len(got) != 1 || got[0] != cdn {
		t.Errorf("Origins() = %v, want %s", got, cdn)
	}
	form := regexp.MustCompile(`^https://cdn\.jsdelivr\.net/npm/@[a-z]+/[a-z]+@\d+\.\d+\.\d+/[a-z./-]+$`)
	for _, name := range []string{"client.js", "pico.css"} {
		if url := a.URL(name); !form.MatchString(url) {
			t.Errorf("URL(%s) = %q, want the form %v", name, url, form)
		}
		if got := a.Integrity(name); !strings.HasPrefix(got, "sha384-") {
			t.Errorf("Integrity(%s) = %q, want a hash", name, got)
		}
	}
	if url := a.URL("page.js"); !strings.HasPrefix(url, Prefix) {
		t.Errorf("URL(page.js) = %q, want our own", url)
	}
}

func TestLoadRefusesABrokenBuild(t *testing.T) {
	tests := map[string]func(fstest.MapFS){
		"no module":         func(f fstest.MapFS) { delete(f, "presence/presence.js") },
		"no page script":    func(f fstest.MapFS) { delete(f, "src/page.js") },
		"no manifest":       func(f fstest.MapFS) { delete(f, "package.json") },
		"broken manifest":   func(f fstest.MapFS) { f["package.json"] = &fstest.MapFile{Data: []byte("{")} },
		"manifest of other": func(f fstest.MapFS) { f["package.json"] = &fstest.MapFile{Data: []byte("{}")} },
	}
	for name, spoil := range tests {
		fsys := sources(t)
		spoil(fsys)
		if _, err := load(fsys); err == nil {
			t.Errorf("%s: load succeeded", name)
		}
	}
}

// The hashes that hold the CDN to our files are compared with every copy of
// them that npm has left here.
func TestIntegrityMatchesWhatNpmDelivers(t *testing.T) {
	seen := false
	for _, x := range all {
		if x.pkg == "" {
			continue
		}
		for _, file := range []string{x.file, filepath.Join("node_modules", x.pkg, x.packed)} {
			content, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			seen = true
			sum := sha512.Sum384(content)
			if got := "sha384-" + base64.StdEncoding.EncodeToString(sum[:]); got != x.integrity {
				t.Errorf("%s has the hash %s, assets.go says %s", file, got, x.integrity)
			}
		}
	}
	if !seen {
		t.Skip("run npm ci && npm run build to compare")
	}
}

// Browsers ask for an icon where no page names one. Its path stays, so it is not
// kept for good.
func TestServeFavicon(t *testing.T) {
	r := serve(mustLoad(t, built(t)), http.MethodGet, Favicon, "")
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || !bytes.HasPrefix(body, []byte("\x00\x00\x01\x00")) {
		t.Errorf("%s is %d, %.8q, %v", Favicon, r.StatusCode, body, err)
	}
	if got := r.Header.Get("Cache-Control"); got != "public, max-age=86400" {
		t.Errorf("Cache-Control is %q", got)
	}
}

// maxModule is how many bytes the browser module may have, without an encoding.
const maxModule = 4096

// Other products name the module in their pages: its path stays, so that browsers ask
// whether it has changed.
func TestServeTheModuleToAnyOrigin(t *testing.T) {
	fsys := built(t)
	a := mustLoad(t, fsys)
	first := serve(a, http.MethodGet, "/assets/presence.js", "")
	etag := first.Header.Get("ETag")
	for key, value := range map[string]string{
		"Content-Type":                 "text/javascript; charset=utf-8",
		"Cache-Control":                "no-cache",
		"Access-Control-Allow-Origin":  "*",
		"Cross-Origin-Resource-Policy": "cross-origin",
		"X-Content-Type-Options":       "nosniff",
		"Vary":                         "Accept-Encoding",
	} {
		if got := first.Header.Get(key); first.StatusCode != http.StatusOK || got != value {
			t.Errorf("status %d, %s = %q; want 200, %q", first.StatusCode, key, got, value)
		}
	}
	if got := body(t, first); !bytes.Equal(got, fsys["dist/presence.js"].Data) {
		t.Errorf("it is served as %q", got)
	}

	ask := func(a *Assets, tag string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, Module, nil)
		r.Header.Set("If-None-Match", tag)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w.Result()
	}
	for tag, want := range map[string]int{
		etag: 304, `"other", ` + etag: 304, strings.TrimPrefix(etag, "W/"): 304, "*": 304, `"other"`: 200, "": 200, "nonsense": 200,
	} {
		r := ask(a, tag)
		if n := len(body(t, r)); r.StatusCode != want || want == 304 && n != 0 || r.Header.Get("ETag") != etag || r.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("If-None-Match: %s: status %d, %d bytes, %v; want %d, with ETag %s", tag, r.StatusCode, n, r.Header, want, etag)
		}
	}
	fsys["dist/presence.js"] = &fstest.MapFile{Data: []byte("changed")}
	if r := ask(mustLoad(t, fsys), etag); r.StatusCode != http.StatusOK {
		t.Errorf("after a change: status %d, want 200", r.StatusCode)
	}
	delete(fsys, "dist/presence.js")
	if got := body(t, serve(mustLoad(t, fsys), http.MethodGet, Module, "")); !bytes.Equal(got, fsys["presence/presence.js"].Data) {
		t.Errorf("without a build it is served as %.80q, want as it is written", got)
	}
}

// The examples stay where they are, too, but are for their own origin.
// Those who show a link to a room show its picture, wherever they are.
func TestServeTheCardToAnyOrigin(t *testing.T) {
	a := mustLoad(t, built(t))
	r := serve(a, http.MethodGet, a.URL("card.png"), "")
	if got := r.Header.Get("Cross-Origin-Resource-Policy"); got != "cross-origin" {
		t.Errorf("the policy of the card is %q", got)
	}
	if icon := serve(a, http.MethodGet, a.URL("icon.svg"), ""); icon.Header.Get("Cross-Origin-Resource-Policy") != "" {
		t.Error("so is that of the icon")
	}
}

func TestServeTheExamples(t *testing.T) {
	a := mustLoad(t, built(t))
	for path, mime := range map[string]string{
		"/examples/": "text/html", "/examples/document.html": "text/html", "/examples/badge.html": "text/html",
		"/examples/document.js": "text/javascript", "/examples/badge.js": "text/javascript", "/examples/examples.css": "text/css",
	} {
		r := serve(a, http.MethodGet, path, "gzip")
		h := r.Header
		if r.StatusCode != http.StatusOK || h.Get("Content-Type") != mime+"; charset=utf-8" || h.Get("Cache-Control") != "no-cache" || h.Get("ETag") == "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("GET %s: status %d, %v", path, r.StatusCode, h)
		}
	}
	if r := serve(a, http.MethodGet, "/examples/other.html", ""); r.StatusCode != http.StatusNotFound {
		t.Errorf("another example: status %d, want 404", r.StatusCode)
	}
}

func TestModuleIsSmall(t *testing.T) {
	content, err := fs.ReadFile(files, "dist/presence.js")
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("The module is not built, and CI must not go without it: %v", err)
	default:
		t.Skip("The module is not built: run `npm ci && npm run build` in web/")
	}
	if n := len(content); n == 0 || n > maxModule {
		t.Errorf("The module has %d bytes, want at most %d", n, maxModule)
	}
}

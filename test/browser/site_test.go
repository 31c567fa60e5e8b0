package browser

import (
	"io"
	"log"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"presence/internal/redistest"
	"presence/test/harness"
	"presence/web"
)

// site is two replicas over one Redis, for one test.
type site struct {
	redis *redistest.Server
	a, b  *harness.Replica
}

// newSite starts a site. The replicas get flags in addition to the necessary ones.
func newSite(t *testing.T, flags ...string) *site {
	t.Helper()
	assets, err := web.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !assets.Built() {
		t.Fatal("the browser assets are not built: run `npm ci && npm run build` in web/")
	}
	s := &site{redis: redistest.Start(t)}
	flags = append([]string{"-redis-url", s.redis.URL()}, flags...)
	s.a, s.b = harness.Start(t, flags...), harness.Start(t, flags...)
	return s
}

// person returns another visitor, without JavaScript, at replica B.
func (s *site) person(t *testing.T) *harness.Visitor {
	t.Helper()
	return harness.NewReader(t, harness.Options{}, s.b.URL)
}

// balancer passes everything on to one replica, at an address that does not change.
type balancer struct {
	URL string

	to      atomic.Pointer[url.URL]
	blocked atomic.Pointer[string] // a part of paths that are refused
}

// newBalancer returns a balancer that calls waits for each request before it passes the
// request on.
func newBalancer(t *testing.T, to *harness.Replica, waits ...func(*http.Request)) *balancer {
	t.Helper()
	b := &balancer{}
	b.switchTo(to)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(b.to.Load())
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0), // a killed replica is no news
	}
	b.block("nothing")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, *b.blocked.Load()) {
			w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(r.URL.Path)))
			w.WriteHeader(http.StatusForbidden)
			return
		}
		for _, wait := range waits {
			wait(r)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b.URL = server.URL
	return b
}

// block refuses paths that contain part from now on.
func (b *balancer) block(part string) { b.blocked.Store(&part) }

func (b *balancer) switchTo(r *harness.Replica) {
	b.to.Store(&url.URL{Scheme: "http", Host: r.Addr})
}

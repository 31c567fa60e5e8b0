package forwarded

import (
	"net/http"
	"net/url"
	"strings"
)

// Origin returns an origin in the form in which browsers send it (RFC 6454, 6.2):
// in lower case and without the default port of its scheme. Text that is no origin
// is returned as it is.
func Origin(text string) string {
	scheme, host, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	scheme = strings.ToLower(scheme)
	return scheme + "://" + Host(scheme, host)
}

// Host returns the host of a request or an origin of scheme, in the same form.
func Host(scheme, host string) string {
	host = strings.ToLower(host)
	switch scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// OwnOrigin returns the origin of the page that r asks for, as its visitor sees it.
func OwnOrigin(r *http.Request) string {
	scheme := "http"
	if IsHTTPS(r) {
		scheme = "https"
	}
	return scheme + "://" + Host(scheme, r.Host)
}

// SameOrigin reports whether a page of r's own host sent r, or a program that is no
// browser and so names no origin. If r came over TLS, the page must have come over
// TLS, too. If r came without, TLS may have ended at a proxy.
func SameOrigin(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(Origin(origins[0]))
	if err != nil || len(origins) > 1 || u.Host == "" || u.Host != Host(u.Scheme, r.Host) {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && !IsHTTPS(r)
}

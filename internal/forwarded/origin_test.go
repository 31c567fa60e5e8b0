package forwarded

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		host    string
		tls     bool
		origins []string
		want    bool
	}{
		{"example.org", false, nil, true},
		{"example.org", false, []string{"http://example.org"}, true},
		{"Example.org:80", false, []string{"http://example.ORG"}, true},
		{"example.org:443", true, []string{"https://example.org"}, true},
		{"example.org:443", false, []string{"https://example.org"}, true}, // TLS has ended at a proxy
		{"example.org", true, []string{"https://example.org:443"}, true},
		{"example.org:8080", false, []string{"http://example.org:8080"}, true},
		{"[::1]:80", false, []string{"http://[::1]"}, true},
		{"example.org:8080", false, []string{"http://example.org"}, false},
		{"example.org:80", true, []string{"https://example.org"}, false},
		{"example.org:443", false, []string{"http://example.org"}, false},
		{"example.org", true, []string{"http://example.org"}, false},
		{"example.org", false, []string{"http://evil.org"}, false},
		{"example.org", false, []string{"http://example.org.evil.org"}, false},
		{"example.org", false, []string{"ftp://example.org"}, false},
		{"example.org", false, []string{"null"}, false},
		{"example.org", false, []string{""}, false},
		{"", false, []string{"http://"}, false},
		{"example.org", false, []string{"http://example.org", "http://evil.org"}, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = test.host
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if test.origins != nil {
			r.Header["Origin"] = test.origins
		}
		if got := SameOrigin(r); got != test.want {
			t.Errorf("SameOrigin of %q on %s (TLS %v) = %v, want %v", test.origins, test.host, test.tls, got, test.want)
		}
	}
}

func TestOriginsHaveOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"HTTPS://Example.org:443": "https://example.org",
		"http://example.org:80":   "http://example.org",
		"http://example.org:443":  "http://example.org:443",
		"https://[::1]:443":       "https://[::1]",
		"null":                    "null",
		"":                        "",
	} {
		if got := Origin(text); got != want {
			t.Errorf("Origin(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestOwnOrigin(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for host, want := range map[string][2]string{
		"Example.org":      {"http://example.org", "https://example.org"},
		"example.org:8080": {"http://example.org:8080", "https://example.org:8080"},
		"example.org:443":  {"http://example.org:443", "https://example.org"},
	} {
		r.Host, r.TLS = host, nil
		plain := OwnOrigin(r)
		r.TLS = &tls.ConnectionState{}
		if got := [2]string{plain, OwnOrigin(r)}; got != want {
			t.Errorf("at %s: %q, want %q", host, got, want)
		}
	}
}

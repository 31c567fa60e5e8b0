package forwarded

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestHandler(t *testing.T) {
	trusted, err := ParseTrusted("10.0.0.0/8, 192.0.2.1,, fd00::/8")
	if err != nil || len(trusted) != 3 {
		t.Fatal(trusted, err)
	}
	for _, c := range []struct {
		peer, forwarded, proto string
		ip                     string
		https                  bool
	}{
		{"198.51.100.7:1", "6.6.6.6", "https", "198.51.100.7", false},
		{"10.1.1.1:1", "6.6.6.6, 198.51.100.7", "https", "198.51.100.7", true},
		{"10.1.1.1:1", "198.51.100.7, 10.2.2.2, 192.0.2.1", "http", "198.51.100.7", false},
		{"10.1.1.1:1", "", "", "10.1.1.1", false},
		{"10.1.1.1:1", "garbage", "", "10.1.1.1", false},
		{"10.1.1.1:1", "198.51.100.7, garbage, 10.2.2.2", "", "10.2.2.2", false},
		{"[fd00::1]:1", "::ffff:198.51.100.7", "", "198.51.100.7", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		Handler(trusted, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if ClientIP(r) != c.ip || IsHTTPS(r) != c.https {
				t.Errorf("%+v: got %s, %v", c, ClientIP(r), IsHTTPS(r))
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
	if _, err := ParseTrusted("10.0.0.0/8,example.org"); err == nil {
		t.Error("a name was taken for a network")
	}
}

func FuzzRightmost(f *testing.F) {
	f.Add("1.2.3.4, 10.0.0.1")
	f.Add("::1,,%")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, header string) {
		if _, err := netip.ParseAddr(rightmost(trusted, []string{header}, "10.0.0.9")); err != nil {
			t.Fatalf("%q: %v", header, err)
		}
	})
}

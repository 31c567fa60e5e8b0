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
		{"10.1.1.1:1", "198.51.100.7:4711", "", "198.51.100.7", false},
		{"10.1.1.1:1", "6.6.6.6, 198.51.100.7:4711, 10.2.2.2:80", "", "198.51.100.7", false},
		{"10.1.1.1:1", "[2001:db8::7]", "", "2001:db8::7", false},
		{"10.1.1.1:1", "[2001:db8::7]:4711", "", "2001:db8::7", false},
		{"10.1.1.1:1", `"[2001:db8::7]:4711"`, "", "2001:db8::7", false},
		{"10.1.1.1:1", `"198.51.100.7"`, "", "198.51.100.7", false},
		{"10.1.1.1:1", "2001:db8::7, [fd00::1]:1", "", "2001:db8::7", false},
		{"10.1.1.1:1", "[::ffff:198.51.100.7]:1", "", "198.51.100.7", false},
		{"10.1.1.1:1", "fe80::7%eth0", "", "fe80::7", false},
		{"10.1.1.1:1", "198.51.100.7,, 10.2.2.2 ,", "", "198.51.100.7", false},
		{"10.1.1.1:1", "198.51.100.7, unknown", "", "10.1.1.1", false},
		{"10.1.1.1:1", "198.51.100.7, [198.51.100.8", "", "10.1.1.1", false},
		{"10.1.1.1:1", "198.51.100.7, example.org:80, 10.2.2.2", "", "10.2.2.2", false},
		{"10.1.1.1:1", "198.51.100.7:99999", "", "10.1.1.1", false},

		// Each proxy says how it was reached: the client's is what counts.
		{"10.1.1.1:1", "198.51.100.7, 10.2.2.2", "https, http", "198.51.100.7", true},
		{"10.1.1.1:1", "198.51.100.7, 10.2.2.2", "http, https", "198.51.100.7", false},
		{"10.1.1.1:1", "6.6.6.6, 198.51.100.7, 10.2.2.2", "http, https, http", "198.51.100.7", true},
		{"10.1.1.1:1", "6.6.6.6, 198.51.100.7", "https, http", "198.51.100.7", false},
		{"10.1.1.1:1", "198.51.100.7", "https, http", "198.51.100.7", true},
		{"10.1.1.1:1", "198.51.100.7, 10.2.2.2", "https", "198.51.100.7", true},
		{"10.1.1.1:1", "", "https, http", "10.1.1.1", true},
		{"10.1.1.1:1", "garbage", "HTTPS,http", "10.1.1.1", true},
		{"10.1.1.1:1", "198.51.100.7", "wss", "198.51.100.7", true},
		{"10.1.1.1:1", "198.51.100.7", "ws", "198.51.100.7", false},
		{"198.51.100.7:1", "", "https, http", "198.51.100.7", false},
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
	f.Add("[::1]:80, \"1.2.3.4:5\"")
	f.Fuzz(func(t *testing.T, header string) {
		hops := list([]string{header})
		ip, passed := rightmost(trusted, hops, "10.0.0.9")
		if _, err := netip.ParseAddr(ip); err != nil || passed < 0 || passed > 0 && passed >= len(hops) {
			t.Fatalf("%q: %q, %d, %v", header, ip, passed, err)
		}
		protoOf(hops, len(hops), passed)
	})
}

func TestClientKeyIsOneCustomer(t *testing.T) {
	for peer, want := range map[string]string{
		"192.0.2.7:1234":              "192.0.2.7",
		"[::ffff:192.0.2.7]:1234":     "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1234": "2001:db8:1:2::/64",
		"[2001:db8:1:2::1]:1234":      "2001:db8:1:2::/64",
		"[2001:db8:1:3::1]:1234":      "2001:db8:1:3::/64",
		"[fe80::1%eth0]:1234":         "fe80::/64",
		"pipe":                        "pipe",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = peer
		if got := ClientKey(r); got != want {
			t.Errorf("ClientKey of %s = %s, want %s", peer, got, want)
		}
	}
}

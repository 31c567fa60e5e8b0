package socket

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gorilla/websocket"
)

func TestSameOriginComparesSchemeAndHost(t *testing.T) {
	for _, test := range []struct {
		host    string
		tls     bool
		origins []string
		want    bool
	}{
		{"example.org", false, nil, true},
		{"example.org", false, []string{"http://example.org"}, true},
		{"Example.org:80", false, []string{"http://example.ORG"}, true},
		{"example.org", true, []string{"https://example.org:443"}, true},
		{"example.org:8080", false, []string{"http://example.org:8080"}, true},
		{"example.org:8080", false, []string{"http://example.org"}, false},
		{"example.org", false, []string{"https://example.org"}, false},
		{"example.org", true, []string{"http://example.org"}, false},
		{"example.org", false, []string{"http://evil.org"}, false},
		{"example.org", false, []string{"http://example.org.evil.org"}, false},
		{"example.org", false, []string{"null"}, false},
		{"example.org", false, []string{""}, false},
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
		if got := sameOrigin(r); got != test.want {
			t.Errorf("sameOrigin of %q on %s (TLS %v) = %v, want %v", test.origins, test.host, test.tls, got, test.want)
		}
	}
}

func TestForeignOriginGets403(t *testing.T) {
	f := serve(t, Options{MaxConnections: 1})
	_, response, err := websocket.DefaultDialer.Dial(f.url, http.Header{"Origin": {"http://evil.org"}})
	if err == nil || response.StatusCode != http.StatusForbidden {
		t.Fatalf("got %v, %v, want 403", response, err)
	}
	if err := next(t, f.errs); err == nil {
		t.Error("Upgrade returned no error")
	}
	f.join() // the only place was given back
}

func TestCheckOriginDecides(t *testing.T) {
	f := serve(t, Options{CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "http://friend.org" }})
	f.dial(http.Header{"Origin": {"http://friend.org"}})
}

func TestConnectionBeyondTheLimitIsAcceptedAndClosedWith1013(t *testing.T) {
	f := serve(t, Options{MaxConnections: 2})
	first, _ := f.join()
	second, _ := f.join()
	f.dial(nil).wantClose(websocket.CloseTryAgainLater)
	if err := next(t, f.errs); !errors.Is(err, ErrCapacity) {
		t.Errorf("Upgrade returned %v, want ErrCapacity", err)
	}
	if n := f.metric("presence_socket_closes_total", reasonCapacity); n != 1 {
		t.Errorf("closes_total{reason=capacity} is %v, want 1", n)
	}
	if n := f.metric("presence_socket_connections", ""); n != 2 {
		t.Errorf("connections is %v, want 2", n)
	}
	if n := len(f.conns); n != 0 {
		t.Error("OnUpgrade was told of the connection that was closed")
	}

	first.Close()
	f.wantEnd(reasonClient)
	third, _ := f.join() // the place is free again
	for _, p := range []*peer{second, third} {
		p.send(`{"action":"__ping__"}`)
		p.wantFrame(`{"pong":true}`)
	}
}

func TestLimitPerIPAppliesToEachAddress(t *testing.T) {
	f := serve(t, Options{MaxPerIP: 1, RemoteIP: func(r *http.Request) string { return r.Header.Get("X-Test-IP") }})
	one, two := http.Header{"X-Test-Ip": {"192.0.2.1"}}, http.Header{"X-Test-Ip": {"192.0.2.2"}}
	p := f.dial(one)
	f.dial(two)
	f.dial(one).wantClose(websocket.CloseTryAgainLater)
	p.Close()
	f.wantEnd(reasonClient)
	next(t, f.conns)
	next(t, f.conns)
	f.dial(one)
	next(t, f.conns)
}

func TestLimitPerIPKnowsTheAddressItself(t *testing.T) {
	f := serve(t, Options{MaxPerIP: 1})
	_, c := f.join()
	if c.ip != "127.0.0.1" {
		t.Errorf("the address is %q", c.ip)
	}
	f.dial(nil).wantClose(websocket.CloseTryAgainLater)
}

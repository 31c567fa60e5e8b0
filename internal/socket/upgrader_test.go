package socket

import (
	"errors"
	"net/http"
	"testing"

	"github.com/gorilla/websocket"
)

func TestForeignOriginGets403(t *testing.T) {
	f := serve(t, Options{MaxConnections: 1})
	_, response, err := websocket.DefaultDialer.Dial(f.url, http.Header{"Origin": {"http://evil.org"}})
	if err == nil || response.StatusCode != http.StatusForbidden {
		t.Fatalf("got %v, %v, want 403", response, err)
	}
	if err := next(t, f.errs); err == nil {
		t.Error("Upgrade returned no error")
	}
	f.join() // the only place is free again
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

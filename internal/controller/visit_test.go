package controller

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
)

// fakeSocket is a socket from which nothing comes until it is closed.
type fakeSocket struct {
	Browser

	closed bool
}

func (s *fakeSocket) Through(func([]byte) error) {}

func (s *fakeSocket) Close() error {
	s.closed = true
	return nil
}

// Upgrade makes it the socket of r.
func (s *fakeSocket) Upgrade(_ http.ResponseWriter, r *http.Request, _ http.Header) (livetemplate.WSConn, error) {
	Attach(r, s)
	return s, nil
}

// connects begins a visit whose socket pages serves, and returns when net/http has
// finished with its request.
func connects(t *testing.T, log *strings.Builder, pages http.HandlerFunc) (*Controller, *fakeSocket) {
	t.Helper()
	s := &fakeSocket{}
	c := New(nil, nil, Options{
		Keys:    func() presence.Keys { return presence.NewKeys([]byte("secret")) },
		Sockets: s, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	lobby := func(*http.Request) string { return Lobby }
	session := func(http.ResponseWriter, *http.Request) (string, bool) { return "session", true }
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	r.Header = newUpgrade().Header
	c.Handler(pages, lobby, session).ServeHTTP(httptest.NewRecorder(), r)
	cancel()
	return c, s
}

func TestSocketOutlivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *http.Request, 1)
		closes := make(chan bool)
		c, s := connects(t, &strings.Builder{}, func(_ http.ResponseWriter, r *http.Request) {
			if socket, err := (Opened{}).Upgrade(nil, r, nil); err != nil || !livetemplate.WSIsUpgrade(r) {
				t.Errorf("livetemplate has %v, %v", socket, err)
			}
			requests <- r
			<-closes
		})
		served := (<-requests).Context()
		synctest.Wait()
		if served.Err() != nil || s.closed {
			t.Fatal("the socket ended with its request")
		}
		now, cancel := context.WithCancel(t.Context())
		cancel()
		if c.Wait(now) == nil {
			t.Error("Wait does not wait for the visit")
		}
		close(closes)
		synctest.Wait()
		if served.Err() == nil || !s.closed {
			t.Error("the visit has not ended")
		}
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPageThatFailsEndsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c, s := connects(t, &log, func(http.ResponseWriter, *http.Request) { panic("of a page") })
		if err := c.Wait(t.Context()); err != nil || !s.closed {
			t.Errorf("the visit has not ended: %v", err)
		}
		if !strings.Contains(log.String(), `level=ERROR msg="page failed" room=lobby failure="of a page" stack=`) {
			t.Errorf("logged %s", &log)
		}
	})
}

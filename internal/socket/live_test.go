package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
)

// These tests run livetemplate itself over this package's sockets. Each one is about a
// defect of v0.25.0 that must not come back.

const page = `<!DOCTYPE html><html><body><mark>{{.Count}}</mark><p>{{.Filler}}</p>` +
	`<form method="POST"><button name="join">Join</button></form></body></html>`

type pageState struct {
	Count  int64
	Filler string
}

type pageController struct {
	count  atomic.Int64
	filler atomic.Int64 // bytes of filler, which changes with each count

	mounts, connects, changes, joins atomic.Int64
}

func (c *pageController) Mount(s pageState, ctx *livetemplate.Context) (pageState, error) {
	c.mounts.Add(1)
	if err := ctx.Subscribe("room/x"); err != nil {
		return s, err
	}
	return c.load(s), nil
}

func (c *pageController) OnConnect(s pageState, _ *livetemplate.Context) (pageState, error) {
	c.connects.Add(1)
	return s, nil
}

func (c *pageController) PresenceChanged(s pageState, _ *livetemplate.Context) (pageState, error) {
	c.changes.Add(1)
	return c.load(s), nil
}

func (c *pageController) Join(s pageState, _ *livetemplate.Context) (pageState, error) {
	c.joins.Add(1)
	return s, nil
}

func (c *pageController) load(s pageState) pageState {
	s.Count = c.count.Load()
	s.Filler = strings.Repeat(fmt.Sprint(s.Count%10), int(c.filler.Load()))
	return s
}

type live struct {
	*fixture
	*pageController
	handler livetemplate.LiveHandler
}

func serveLive(t *testing.T, opts Options) *live {
	t.Helper()
	l := &live{fixture: newFixture(t, opts), pageController: new(pageController)}
	tmpl, err := livetemplate.New("page",
		livetemplate.WithParseFS(fstest.MapFS{"page.tmpl": {Data: []byte(page)}}, "*.tmpl"),
		livetemplate.WithUpgrader(l.up),
		livetemplate.WithMessageRateLimit(0, 0),
		livetemplate.WithOpenTopics(),
	)
	if err != nil {
		t.Fatal(err)
	}
	l.handler = tmpl.Handle(l.pageController, livetemplate.AsState(&pageState{}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.handler.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	l.listen(l.handler)
	return l
}

// view connects and reads the first frame.
func (l *live) view() *peer {
	l.t.Helper()
	p, _ := l.join()
	if first := p.read(); !strings.Contains(first, `"capabilities"`) {
		l.t.Fatalf("the first frame is %.300s", first)
	}
	return p
}

// publish sets the number of users to n and publishes it. It fails if that takes long.
func (l *live) publish(n int64) {
	l.t.Helper()
	l.count.Store(n)
	soon(l.t, "Publish", func() {
		if err := l.handler.Publish("room/x", "PresenceChanged", nil); err != nil {
			l.t.Error(err)
		}
	})
}

// wantCount reads pushes until one shows n.
func (p *peer) wantCount(n int64) {
	p.t.Helper()
	want := fmt.Sprintf(`"%d"`, n)
	for {
		var frame struct {
			Tree map[string]json.RawMessage
			Meta json.RawMessage
		}
		if err := json.Unmarshal([]byte(p.read()), &frame); err != nil {
			p.t.Fatal(err)
		}
		if frame.Meta != nil {
			p.t.Errorf("a push has the meta %s", frame.Meta)
		}
		if string(frame.Tree["0"]) == want {
			return
		}
	}
}

// stall connects a peer that reads its first frame and nothing more, and publishes so
// much that the server's write to it stalls.
func (l *live) stall() (*peer, *Conn) {
	l.t.Helper()
	p, c := l.joinTight()
	p.read()
	waitFor(l.t, "the first frame is written", func() bool { return !c.isWriting() })
	l.filler.Store(int64(len(huge)))
	l.publish(l.count.Add(1))
	waitFor(l.t, "the write stalls", c.isWriting)
	l.filler.Store(0)
	return p, c
}

func TestPushHasNoMetaAndReplyHas(t *testing.T) {
	l := serveLive(t, Options{})
	p := l.view()
	l.publish(7)
	p.wantFrame(`{"tree":{"0":"7"}}`)
	p.send(`{"action":"join","data":{"username":"Ann"}}`)
	p.wantFrame(`{"tree":{},"meta":{"success":true,"errors":{},"action":"join"}}`)
}

func TestPushOfNothingIsNotSent(t *testing.T) {
	l := serveLive(t, Options{})
	p := l.view()
	l.publish(0) // as it was
	l.publish(1)
	p.wantFrame(`{"tree":{"0":"1"}}`)
}

func TestOnlyThePagesActionsRunFromTheWire(t *testing.T) {
	l := serveLive(t, Options{Burst: 100})
	p := l.view()
	mounts, connects := l.mounts.Load(), l.connects.Load()
	for _, frame := range []string{
		`{"action":"Mount"}`, `{"action":"mount"}`, `{"action":"__navigate__","data":{"room":"other"}}`,
		`{"action":"OnConnect"}`, `{"action":"on_connect"}`, `{"action":"on-connect"}`,
		`{"action":"PresenceChanged"}`, `{"action":"presence_changed"}`, `{"action":"presence-changed"}`,
		`{"action":"Join"}`, `{"submitter":"presenceChanged"}`, `{"action":"","submitter":"mount"}`,
		`{"action":"upload_start"}`, `{"action":"join","action":"mount"}`, `null`, `[]`, `{`,
	} {
		p.send(frame)
	}
	p.send(`{"action":"join","ACTION":"mount"}`)
	p.wantFrame(`{"tree":{},"meta":{"success":true,"errors":{},"action":"join"}}`)
	if l.mounts.Load() != mounts || l.connects.Load() != connects || l.changes.Load() != 0 || l.joins.Load() != 1 {
		t.Errorf("ran %d mounts, %d connects, %d changes and %d joins; want none but one join",
			l.mounts.Load()-mounts, l.connects.Load()-connects, l.changes.Load(), l.joins.Load())
	}
}

func TestALimitedFormRecoversAndPingsGoOn(t *testing.T) {
	l := serveLive(t, Options{Rate: 1e-6, Burst: 1})
	p := l.view()
	p.send(`{"action":"join"}`)
	p.wantFrame(`{"tree":{},"meta":{"success":true,"errors":{},"action":"join"}}`)
	p.send(`{"action":"join"}`)
	if got := p.read(); !strings.HasPrefix(got, `{"tree":{},"meta":{"success":false,"errors":{"_rate_limit":`) {
		t.Errorf("the limited form was answered %s", got)
	}
	p.send(`{"action":"__ping__"}`)
	p.wantFrame(`{"pong":true}`)
}

// A peer stops reading until its buffers are full, and then closes its own side. With the
// framework's own sockets, all pages would stand still until it is reset.
func TestStalledAndHalfClosedPeerFreezesNobody(t *testing.T) {
	l := serveLive(t, Options{WriteTimeout: time.Hour})
	evil, _ := l.stall()
	viewer := l.view()
	evil.halfClose()
	l.wantEnd(reasonClient)
	l.publish(1_000)
	viewer.wantCount(1_000)
	l.view() // newcomers are served
}

// A peer stops reading but still asks for actions, until the answers fit nowhere. The
// framework then waits for its writer, with all connections locked.
func TestStalledPeerThatGoesOnSendingFreezesNobody(t *testing.T) {
	l := serveLive(t, Options{WriteTimeout: time.Hour, Rate: 1e6, Burst: 1e6})
	evil, c := l.stall()
	viewer := l.view()
	_ = evil.SetWriteDeadline(time.Now().Add(patience))
	for !c.Ended() {
		if evil.WriteMessage(websocket.TextMessage, []byte(`{"action":"join"}`)) != nil {
			break
		}
	}
	l.wantEnd(reasonSlow)
	l.publish(1_000)
	viewer.wantCount(1_000)
	l.view()
}

// isWriting reports whether the last queued frame is being written.
func (c *Conn) isWriting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writing && len(c.queue) == 0
}

func TestShutdownOfTheFrameworkReachesThePeers(t *testing.T) {
	l := serveLive(t, Options{})
	p := l.view()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.handler.Shutdown(ctx) }()
	p.wantClose(1001)
	if err := next(t, done); err != nil {
		t.Errorf("Shutdown returned %v", err)
	}
	l.wantEnd(reasonDrain)
}

func TestDrainedAndRefusedPagesAreNotMounted(t *testing.T) {
	l := serveLive(t, Options{MaxConnections: 1})
	p := l.view()
	mounts := l.mounts.Load()
	l.dial(nil).wantClose(websocket.CloseTryAgainLater)
	drained := make(chan error, 1)
	go func() { drained <- l.up.Drain(context.Background(), 0) }()
	p.wantClose(websocket.CloseServiceRestart)
	if err := next(t, drained); err != nil {
		t.Error(err)
	}
	l.dial(nil).wantClose(websocket.CloseServiceRestart)
	if got := l.mounts.Load(); got != mounts {
		t.Errorf("%d more mounts", got-mounts)
	}
}

func TestRequestContextEndsWithTheConnection(t *testing.T) {
	f := newFixture(t, Options{})
	gone := make(chan struct{})
	f.listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(gone) })
		c, err := f.up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		_, _, _ = c.ReadMessage()
	}))
	p, _ := f.join()
	p.Close()
	next(t, gone)
}

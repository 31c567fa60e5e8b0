package sim

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"presence/test/memnet"
)

// socket is a socket of a tab, and the frames that came through it.
type socket struct {
	t    *testing.T
	conn *memnet.Conn
	ws   *websocket.Conn
	done chan struct{}

	mu     sync.Mutex // guards:
	frames []string
}

// open opens a socket of the tab at p, for the page at path, and reads it. Reading also
// answers its pings.
func (p *proc) open(t *testing.T, path string, cookies []*http.Cookie) *socket {
	t.Helper()
	s := &socket{t: t, done: make(chan struct{})}
	header := http.Header{"Origin": {"http://" + host}}
	for _, c := range cookies {
		header.Add("Cookie", c.Name+"="+c.Value)
	}
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) {
		var err error
		s.conn, err = p.dial(p.public, &net.TCPAddr{IP: net.IPv4(10, 1, 1, 1), Port: 1})
		return s.conn, err
	}}
	ws, response, err := dialer.Dial("ws://"+host+path+"?tab=aaaaaaaaaaaaaaaa", header)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	s.ws = ws
	go func() {
		defer close(s.done)
		for {
			_, frame, err := ws.ReadMessage()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.frames = append(s.frames, string(frame))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		s.conn.Break()
		<-s.done
	})
	time.Sleep(time.Second)
	if !s.got(`"tree"`) {
		t.Fatal("no first frame")
	}
	return s
}

// got reports whether a frame that contains part has come.
func (s *socket) got(part string) bool {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.frames, func(frame string) bool { return strings.Contains(frame, part) })
}

// send sends a frame.
func (s *socket) send(frame string) {
	s.t.Helper()
	if err := s.ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		s.t.Fatal(err)
	}
}

// join joins, and waits for the answer.
func (s *socket) join(name string) {
	s.t.Helper()
	s.send(fmt.Sprintf(`{"action":"join","data":{"username":%q}}`, name))
	time.Sleep(2 * time.Second)
	if !s.got(`"action":"join"`) || !s.got(`"success":true`) || !s.got(name) {
		s.t.Fatalf("join as %s: %q", name, s.frames)
	}
}

// giveUp does what the browser does with a socket that does not answer: it asks once
// more, closes the socket, and forgets it.
func (s *socket) giveUp() {
	s.send(`{"action":"__ping__"}`)
	_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	_ = s.conn.Close()
}

// stalls runs a test of a tab with two sockets, at one replica or at two. The first
// socket is held up. inLobby returns the name of each connection in the lobby.
func stalls(t *testing.T, test func(t *testing.T, first, second func() *socket, inLobby func() string)) {
	t.Helper()
	for places := range 2 {
		t.Run(fmt.Sprint(places+1, " replicas"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := calm(t, places+1, nil)
				a, b := w.procs[0], w.procs[places]
				r := request(http.MethodGet, "/", "")
				r.Header.Set("Accept", "text/html")
				page, err := a.exchange(a.public, watcher, r, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				cookies := (&http.Response{Header: page.header}).Cookies()
				test(t,
					func() *socket { return a.open(t, "/", cookies) },
					func() *socket { return b.open(t, "/", cookies) },
					w.inLobby)
			})
		})
	}
}

// stays fails the test unless exactly want is in the lobby, for longer than any lease
// lasts.
func stays(t *testing.T, inLobby func() string, want string) {
	t.Helper()
	for range 80 {
		if got := inLobby(); got != want {
			t.Fatalf("%q is there, want %q", got, want)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// A join waits in a socket that is held up. The browser gives the socket up, opens
// another, and joins under another name. Then the first socket moves.
func TestJoinOfASocketThatWasGivenUpTakesNothing(t *testing.T) {
	for what, farewell := range map[string]bool{"and closed": true, "without a farewell": false} {
		t.Run(what, func(t *testing.T) {
			stalls(t, func(t *testing.T, first, second func() *socket, inLobby func() string) {
				old := first()
				old.conn.Hold(true)
				old.send(`{"action":"join","data":{"username":"Late"}}`)
				time.Sleep(3 * time.Second)
				if farewell {
					old.giveUp()
				} else {
					old.conn.Deafen()
				}
				second().join("Newer")
				old.conn.Hold(false)
				stays(t, inLobby, "Newer")
			})
		})
	}
}

// The same with a leave: the tab is there through its newer socket, and stays.
func TestLeaveOfASocketThatWasGivenUpEndsNothing(t *testing.T) {
	stalls(t, func(t *testing.T, first, second func() *socket, inLobby func() string) {
		old := first()
		old.join("Ann")
		old.conn.Hold(true)
		old.send(`{"action":"leave"}`)
		old.giveUp()
		second()
		old.conn.Hold(false)
		stays(t, inLobby, "Ann")
	})
}

// If the older socket's action was first after all, the socket that answers decides.
func TestSocketThatAnswersHasTheLastWord(t *testing.T) {
	for action, want := range map[string]string{`{"action":"join","data":{"username":"Newer"}}`: "Newer", `{"action":"leave"}`: ""} {
		t.Run(want, func(t *testing.T) {
			stalls(t, func(t *testing.T, first, second func() *socket, inLobby func() string) {
				old := first()
				newer := second()
				if want == "" {
					newer.join("Ann")
				}
				old.join("Late")
				old.conn.Deafen() // the browser no longer uses it
				newer.send(action)
				time.Sleep(2 * time.Second)
				if got := inLobby(); got != want || !newer.got(`"success":true`) {
					t.Errorf("%q is there, want %q", got, want)
				}
			})
		})
	}
}

package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// What the page script and the client of livetemplate do, web/src/page.js:
// their times are part of what people go through.
const (
	firstWait   = 300 * time.Millisecond // longest wait before the first attempt
	nextWait    = 100 * time.Millisecond // doubled with each attempt
	longestWait = 3 * time.Second
	headTimeout = 4 * time.Second
	openTimeout = 10 * time.Second
	pingEvery   = 6 * time.Second
	pongTimeout = 3 * time.Second
)

// ErrNotLive is returned for an action while there is no connection, or when it
// is lost before the answer.
var ErrNotLive = errors.New("not connected")

// Ending is the end of one socket of a visitor.
type Ending struct {
	At   time.Time
	Code int  // of RFC 6455; 1006 for a connection that broke
	Own  bool // the visitor closed the tab
}

var writeBuffers = &sync.Pool{}

// arrive loads the page, unless it has done so, and opens a socket.
func (v *Visitor) arrive() (*websocket.Conn, error) {
	if !v.loaded {
		if err := v.load(http.MethodGet, nil); err != nil {
			return nil, err
		}
		v.loaded = true
	}
	return v.connect()
}

// connect asks whether the server answers, and opens a socket.
func (v *Visitor) connect() (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(v.ctx, headTimeout)
	defer cancel()
	resp, err := v.request(ctx, http.MethodHead, v.tabPath(), nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return nil, fmt.Errorf("%w: HEAD answers %s", ErrNotLive, resp.Status)
	}
	ctx, cancel = context.WithTimeout(v.ctx, openTimeout)
	defer cancel()
	base := v.base()
	header := http.Header{"Origin": {base}}
	if v.opts.Address != "" {
		header.Set("X-Forwarded-For", v.opts.Address)
	}
	conn, resp, err := v.ws.DialContext(ctx, "ws"+strings.TrimPrefix(base, "http")+v.tabPath(), header)
	if resp != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	return conn, nil
}

// tabPath is the path and query at which the page script asks for the page: it
// knows the tab's key, which the address that the browser loads does not have.
func (v *Visitor) tabPath() string {
	path := v.opts.Room + "?tab=" + v.opts.Tab
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.adopt != "" {
		path += "&adopt=" + v.adopt
	}
	return path
}

// run reads from one socket after another until the tab is closed. It sends first nil
// when the first socket is live, or the error that ended that socket.
func (v *Visitor) run(conn *websocket.Conn, first chan<- error) {
	defer close(v.ended)
	stop := context.AfterFunc(v.ctx, v.hangUp)
	defer stop()
	tell := func(err error) {
		select {
		case first <- err:
		default: // first has its value already
		}
	}
	attempts := 0
	for {
		if conn != nil {
			tell(v.listen(conn, func() {
				attempts = 0
				tell(nil)
			}))
		}
		if v.isOver() {
			return
		}
		// Full jitter, as in web/src/page.js.
		longest := firstWait
		if attempts > 0 {
			longest = min(longestWait, nextWait<<min(attempts, 10))
		}
		attempts++
		select {
		case <-time.After(rand.N(longest)):
		case <-v.ctx.Done():
			return
		}
		var err error
		if conn, err = v.arrive(); err != nil {
			conn = nil
			v.tryNext()
		}
	}
}

// isOver reports whether the visitor connects no more.
func (v *Visitor) isOver() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opts.Still || v.crashed || v.ctx.Err() != nil
}

// listen reads from conn until conn ends, and returns why it ended. started is called
// after the first frame.
func (v *Visitor) listen(conn *websocket.Conn, started func()) error {
	v.mu.Lock()
	if v.ctx.Err() != nil {
		v.mu.Unlock()
		return errors.Join(v.ctx.Err(), conn.Close())
	}
	v.conn, v.live, v.tree, v.asked, v.wasJoined, v.unanswered = conn, false, nil, false, false, time.Time{}
	v.mu.Unlock()
	pings := time.AfterFunc(v.opts.PingEvery, func() { v.ping(conn) })
	var err error
	for {
		var data []byte
		if _, data, err = conn.ReadMessage(); err != nil {
			break
		}
		if err = v.apply(data); err != nil {
			v.mu.Lock()
			v.problem = errors.Join(v.problem, err)
			v.mu.Unlock()
			break
		}
		started()
		v.rejoin()
	}
	pings.Stop()
	_ = conn.Close()

	ending := Ending{At: time.Now(), Code: websocket.CloseAbnormalClosure, Own: v.ctx.Err() != nil}
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		ending.Code = closed.Code
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn, v.live = nil, false
	v.rejoinAtOnceLocked()
	v.endings = append(v.endings, ending)
	if v.answers != nil {
		close(v.answers)
		v.answers, v.pending = nil, nil
	}
	v.wakeLocked()
	return fmt.Errorf("%w: %w", ErrNotLive, err)
}

// ping sends the ping of the client again and again, and closes a socket on which one has
// no answer in time.
func (v *Visitor) ping(conn *websocket.Conn) {
	sent := time.Now()
	v.mu.Lock()
	if v.conn != conn {
		v.mu.Unlock()
		return
	}
	if v.unanswered.IsZero() {
		v.unanswered = sent
	}
	v.mu.Unlock()
	_ = v.send(conn, map[string]any{"action": "__ping__"})
	time.AfterFunc(v.opts.PongTimeout, func() {
		v.mu.Lock()
		dead := v.conn == conn && v.unanswered.Equal(sent)
		v.mu.Unlock()
		if dead {
			_ = conn.Close()
		}
	})
	time.AfterFunc(v.opts.PingEvery, func() { v.ping(conn) })
}

// hangUp says goodbye on the open socket, and closes it.
func (v *Visitor) hangUp() {
	v.mu.Lock()
	conn := v.conn
	v.mu.Unlock()
	if conn == nil {
		return
	}
	bye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
	_ = conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
	_ = conn.Close()
}

// send writes one frame.
func (v *Visitor) send(conn *websocket.Conn, frame any) error {
	return v.write(conn, func() error { return conn.WriteJSON(frame) })
}

// Send writes any frame, also one that breaks the rules. kind is an opcode of
// RFC 6455, section 11.8.
func (v *Visitor) Send(kind int, data []byte) error {
	v.mu.Lock()
	conn := v.conn
	v.mu.Unlock()
	return v.write(conn, func() error { return conn.WriteMessage(kind, data) })
}

// write has do write to conn, which is nil if there is no connection.
func (v *Visitor) write(conn *websocket.Conn, do func() error) error {
	if conn == nil {
		return ErrNotLive
	}
	v.writing.Lock()
	defer v.writing.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return do()
}

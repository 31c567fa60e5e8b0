package harness

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"presence/test/page"
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

// answerTimeout is how long a visitor waits for the answer to a button, well
// above what is promised, so that a test can say how late it was.
const answerTimeout = 10 * time.Second

// Sight is what a visitor could read on the screen at one instant.
type Sight struct {
	At time.Time

	// Socket tells a live page from one that was loaded or posted.
	Socket bool

	// Users is the count; it means nothing unless Known, when the page shows a
	// dash. Stale is the mark that the count may be out of date.
	Users int
	Known bool
	Stale bool

	// Joined and Name: whether the page says that the visitor is logged in, and
	// as whom.
	Joined bool
	Name   string

	// Notice, NameError and Typed are what the page says when something did not
	// happen, and what it kept in the field.
	Notice    string
	NameError string
	Typed     string

	// Replica is the replica that served the page.
	Replica string

	// Names are those of the roster in their order, a line each, for visitors
	// with Options.Names.
	Names string
}

// same reports whether a person would see no difference between two sights.
func (s Sight) same(other Sight) bool {
	s.At, other.At = time.Time{}, time.Time{}
	return s == other
}

// String is for failures.
func (s Sight) String() string {
	text := s.At.Format("05.000") + ": "
	if s.Known {
		text += fmt.Sprint(s.Users)
	} else {
		text += "–"
	}
	if s.Stale {
		text += " stale"
	}
	if s.Joined {
		text += " joined as " + s.Name
	}
	if !s.Socket {
		text += " (no socket)"
	}
	if s.Notice != "" {
		text += fmt.Sprintf(" %q", s.Notice)
	}
	return text + " by " + s.Replica
}

// Ending is the end of one socket of a visitor.
type Ending struct {
	At   time.Time
	Code int  // of RFC 6455; 1006 for a connection that broke
	Own  bool // the visitor closed the tab
}

// Browser is the memory that a visitor's tabs share.
type Browser struct{ jar http.CookieJar }

// NewBrowser returns one that was never here.
func NewBrowser() *Browser {
	jar, _ := cookiejar.New(nil) // never fails
	return &Browser{jar: jar}
}

// Options describe a visitor. The zero value has a browser of its own, looks at
// the lobby, reconnects and reads no names.
type Options struct {
	// Room is the path of the page; "" is the lobby's.
	Room string

	// Browser is shared by tabs; nil is a new one. Tab is the tab's key; "" is
	// a new one.
	Browser *Browser
	Tab     string

	// Still keeps the visitor from reconnecting: one socket, then none.
	Still bool

	// Names has the roster kept. Crowds do without.
	Names bool

	// PingEvery and PongTimeout replace the client's 6 s and 3 s, for tests
	// that scale all times down.
	PingEvery   time.Duration
	PongTimeout time.Duration

	// Patience is how long the visitor waits for an answer; 0 means 10 s. It is
	// no promise: a crowd shares its machine with the server.
	Patience time.Duration

	// Address is sent as X-Forwarded-For, for crowds whose limits by address
	// are not the subject. The replica must trust the loopback interface.
	Address string
}

// Visitor is a person who has one page open in one tab. Methods may be called
// from several goroutines.
type Visitor struct {
	t    testing.TB
	opts Options
	http *http.Client
	ws   *websocket.Dialer

	ctx    context.Context //nolint:containedctx // ends when the tab is closed
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing of the visitor runs any more

	loaded bool // the page is there; owned by open and run, one after the other

	mu       sync.Mutex // guards:
	bases    []string   // where to connect, the first being in use
	conn     *websocket.Conn
	live     bool // the first frame of conn has come
	known    page.Tree
	history  []Sight
	endings  []Ending
	frames   int
	mark     string      // of the address of the page that followed a form: whom it joined as
	early    string      // the mark, until the tab is that user
	remember string      // the name to join under again
	rejoined bool        // whether it has asked to join by itself, and is to wait
	refusals int         // of that, since it was joined
	askAgain *time.Timer // for that
	was      bool        // in the room, through this connection
	leaving  bool        // Leave was pressed and not answered yet
	asked    []string    // the actions of act that were not answered yet
	answers  chan answer // of act; nil while nobody waits
	crashed  bool        // the tab ended without a farewell
	unheard  time.Time   // when the ping was sent that was not answered yet
	waiting  []*waiter
	problem  error

	write sync.Mutex // guards writing to conn
}

// waiter is a goroutine that waits for a sight.
type waiter struct {
	cond func(Sight) bool
	done chan struct{}
}

// answer is the reply to an action.
type answer struct {
	success bool
	errors  map[string]string
}

// RefusalError is the error of an action that the server refused.
type RefusalError struct{ Reason string }

func (r *RefusalError) Error() string { return "refused: " + r.Reason }

// ErrNotLive is returned for an action while there is no connection, or when it
// is lost before the answer.
var ErrNotLive = errors.New("not connected")

// transport carries the requests of all visitors, over connections that are
// kept, as browsers keep theirs.
var transport = &http.Transport{
	MaxIdleConnsPerHost: 64,
	IdleConnTimeout:     30 * time.Second,
	DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
}

var writeBuffers = &sync.Pool{}

// Open opens the page at one of the base URLs, and returns when it is live; the
// others are where the visitor tries next when a connection is lost. The test
// fails if the page does not become live.
func Open(t testing.TB, opts Options, bases ...string) *Visitor {
	t.Helper()
	v := newVisitor(t, opts, bases)
	if err := v.open(); err != nil {
		t.Fatalf("open %s: %v", bases[0]+v.opts.Room, err)
	}
	return v
}

// Visit is Open for a page that may not become live, or not yet: it goes on
// trying in the background.
func Visit(t testing.TB, opts Options, bases ...string) *Visitor {
	t.Helper()
	v := newVisitor(t, opts, bases)
	v.visit()
	return v
}

func (v *Visitor) visit() {
	v.cleanUp()
	go v.run(nil, make(chan error, 1))
}

// OpenMany opens n pages, some at a time; of gives each its options and base
// URLs.
func OpenMany(t testing.TB, n int, of func(i int) (Options, []string)) []*Visitor {
	t.Helper()
	all := make([]*Visitor, n)
	InParallel(n, func(i int) {
		opts, bases := of(i)
		all[i] = newVisitor(t, opts, bases)
		if err := all[i].open(); err != nil {
			t.Errorf("open page %d: %v", i, err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// atATime is how many of a crowd act at once.
const atATime = 48

// InParallel calls do for 0 to n-1, a few at a time, and returns when all have
// returned.
func InParallel(n int, do func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range min(n, atATime) {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}

func newVisitor(t testing.TB, opts Options, bases []string) *Visitor {
	if opts.Browser == nil {
		opts.Browser = NewBrowser()
	}
	if opts.Tab == "" {
		opts.Tab = rand.Text()
	}
	if opts.Room == "" {
		opts.Room = "/"
	}
	if opts.PingEvery == 0 {
		opts.PingEvery = pingEvery
	}
	if opts.PongTimeout == 0 {
		opts.PongTimeout = pongTimeout
	}
	if opts.Patience == 0 {
		opts.Patience = answerTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Visitor{
		t:    t,
		opts: opts,
		http: &http.Client{Jar: opts.Browser.jar, Transport: transport, Timeout: 2 * opts.Patience},
		ws: &websocket.Dialer{
			Jar:              opts.Browser.jar,
			HandshakeTimeout: openTimeout,
			ReadBufferSize:   1 << 10,
			WriteBufferSize:  1 << 10,
			WriteBufferPool:  writeBuffers,
		},
		ctx:    ctx,
		cancel: cancel,
		ended:  make(chan struct{}),
		bases:  slices.Clone(bases),
	}
}

// open loads the page, connects, and starts what keeps the visitor live.
func (v *Visitor) open() error {
	v.cleanUp()
	conn, err := v.arrive()
	if err != nil {
		close(v.ended)
		return err
	}
	first := make(chan error, 1)
	go v.run(conn, first)
	select {
	case err := <-first:
		return err
	case <-time.After(v.opts.Patience):
		return fmt.Errorf("%w: no first frame within %v", ErrNotLive, v.opts.Patience)
	}
}

// cleanUp closes the tab at the end of the test, and fails it if the server ever
// sent what no client understands.
func (v *Visitor) cleanUp() {
	v.t.Cleanup(func() {
		v.Close()
		if err := v.Problem(); err != nil {
			v.t.Errorf("what the server sent was wrong: %v", err)
		}
	})
}

// arrive loads the page, if it was not yet, and opens a socket.
func (v *Visitor) arrive() (*websocket.Conn, error) {
	if !v.loaded {
		if err := v.load(http.MethodGet, nil); err != nil {
			return nil, err
		}
		v.loaded = true
	}
	return v.connect()
}

// Reload loads the page again in the same tab, as F5 does: the old socket is
// closed with 1001. The visitor that is returned takes over the tab; the old one
// is no more.
func (v *Visitor) Reload() *Visitor {
	v.t.Helper()
	next := v.successor()
	if err := next.open(); err != nil {
		v.t.Fatalf("reload: %v", err)
	}
	return next
}

// Revisit is Reload for a page that may not become live, or not yet: as with
// [Visit] it goes on trying in the background.
func (v *Visitor) Revisit() *Visitor {
	next := v.successor()
	next.visit()
	return next
}

// successor closes the page, and returns a visitor who has the tab.
func (v *Visitor) successor() *Visitor {
	v.Close()
	next := newVisitor(v.t, v.opts, v.bases)
	next.remember, next.early = v.remember, v.early // sessionStorage survives
	return next
}

// Goto changes the base URLs that are tried from now on.
func (v *Visitor) Goto(bases ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bases = slices.Clone(bases)
}

// base is the base URL in use, which is also the page's origin.
func (v *Visitor) base() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bases[0]
}

// pass puts another base first.
func (v *Visitor) pass() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bases = append(v.bases[1:], v.bases[0])
}

// tabPath is the path and query at which the page script asks for the page: it
// knows the tab's key, which the address that the browser loads does not have.
func (v *Visitor) tabPath() string {
	path := v.opts.Room + "?tab=" + v.opts.Tab
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.early != "" {
		path += "&adopt=" + v.early
	}
	return path
}

// request makes a request for a path as this browser does.
func (v *Visitor) request(ctx context.Context, method, path string, form url.Values) (*http.Response, error) {
	base := v.base()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/html")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", base)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if v.opts.Address != "" {
		r.Header.Set("X-Forwarded-For", v.opts.Address)
	}
	return v.http.Do(r)
}

// load gets or posts the whole page and reads it.
func (v *Visitor) load(method string, form url.Values) error {
	resp, err := v.request(v.ctx, method, v.opts.Room, form)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the page answers %s", resp.Status) //nolint:err113 // of a test
	}
	s := v.read(string(page))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mark = resp.Request.URL.Query().Get("adopt")
	if v.remember != "" && !s.Joined {
		// The page script spares a joined visitor the sight of the join form.
		s.Joined, s.Name = true, v.remember
	}
	v.sawLocked(s, false)
	return nil
}

// read reads a page as the visitor does, with the names or without.
func (v *Visitor) read(page string) Sight {
	s := readSight(page)
	if v.opts.Names {
		s.Names = strings.Join(readRoster(page), "\n")
	}
	return s
}

// NewReader returns a visitor without JavaScript: the page is loaded by
// [Visitor.Post] and [Visitor.Load], and never live. With the Browser of another
// visitor it is what that one does before the page script has come.
func NewReader(t testing.TB, opts Options, base string) *Visitor {
	v := newVisitor(t, opts, []string{base})
	close(v.ended)
	t.Cleanup(v.cancel)
	return v
}

// Awaken has the page script come to a page without it: the page that is there
// becomes live, in a tab of its own, or goes on trying in the background. The visitor
// that is returned takes over from the reader.
func (v *Visitor) Awaken() *Visitor {
	opts := v.opts
	opts.Tab = ""
	next := newVisitor(v.t, opts, v.bases)
	now := v.Now()
	v.mu.Lock()
	next.loaded, next.early = len(v.history) > 0, v.mark
	v.mu.Unlock()
	if next.early != "" && now.Joined {
		next.remember = now.Name
	}
	next.visit()
	return next
}

// Load loads the page.
func (v *Visitor) Load() error { return v.load(http.MethodGet, nil) }

// Post joins or leaves by a form, as a browser without JavaScript does, and
// reads the page that follows.
func (v *Visitor) Post(action, name string) error {
	return v.load(http.MethodPost, url.Values{"lvt-action": {action}, "username": {name}, action: {""}})
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

// run reads from one socket after another until the tab is closed. first gets
// what became of the first.
func (v *Visitor) run(conn *websocket.Conn, first chan<- error) {
	defer close(v.ended)
	stop := context.AfterFunc(v.ctx, v.hangUp)
	defer stop()
	tell := func(err error) {
		select {
		case first <- err:
		default: // it was told already
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
		if v.over() {
			return
		}
		// Full jitter, as in web/src/page.js.
		longest := firstWait
		if attempts > 0 {
			longest = min(longestWait, nextWait<<min(attempts, 10))
		}
		attempts++
		select {
		case <-time.After(mathrand.N(longest)):
		case <-v.ctx.Done():
			return
		}
		var err error
		if conn, err = v.arrive(); err != nil {
			conn = nil
			v.pass()
		}
	}
}

// over reports whether the visitor connects no more.
func (v *Visitor) over() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.opts.Still || v.crashed || v.ctx.Err() != nil
}

// listen reads from conn until it ends, and says why it did. started is called
// after the first frame.
func (v *Visitor) listen(conn *websocket.Conn, started func()) error {
	v.mu.Lock()
	if v.ctx.Err() != nil {
		v.mu.Unlock()
		return errors.Join(v.ctx.Err(), conn.Close())
	}
	v.conn, v.live, v.known, v.rejoined, v.was, v.unheard = conn, false, nil, false, false, time.Time{}
	v.mu.Unlock()
	heart := time.AfterFunc(v.opts.PingEvery, func() { v.beat(conn) })
	var err error
	for {
		var data []byte
		if _, data, err = conn.ReadMessage(); err != nil {
			break
		}
		if err = v.take(data); err != nil {
			v.mu.Lock()
			v.problem = errors.Join(v.problem, err)
			v.mu.Unlock()
			break
		}
		started()
		v.rejoin()
	}
	heart.Stop()
	_ = conn.Close()

	ending := Ending{At: time.Now(), Code: websocket.CloseAbnormalClosure, Own: v.ctx.Err() != nil}
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		ending.Code = closed.Code
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn, v.live = nil, false
	v.askAgainAtOnceLocked()
	v.endings = append(v.endings, ending)
	if v.answers != nil {
		close(v.answers)
		v.answers, v.asked = nil, nil
	}
	v.tellLocked()
	return fmt.Errorf("%w: %w", ErrNotLive, err)
}

// beat sends the client's heartbeat, and gives up a socket on which it is not
// answered in time.
func (v *Visitor) beat(conn *websocket.Conn) {
	sent := time.Now()
	v.mu.Lock()
	if v.conn != conn {
		v.mu.Unlock()
		return
	}
	if v.unheard.IsZero() {
		v.unheard = sent
	}
	v.mu.Unlock()
	_ = v.send(conn, map[string]any{"action": "__ping__"})
	time.AfterFunc(v.opts.PongTimeout, func() {
		v.mu.Lock()
		dead := v.conn == conn && v.unheard.Equal(sent)
		v.mu.Unlock()
		if dead {
			_ = conn.Close()
		}
	})
	time.AfterFunc(v.opts.PingEvery, func() { v.beat(conn) })
}

// send writes one frame.
func (v *Visitor) send(conn *websocket.Conn, frame any) error {
	if conn == nil {
		return ErrNotLive
	}
	v.write.Lock()
	defer v.write.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return conn.WriteJSON(frame)
}

// take applies one frame from the server.
func (v *Visitor) take(data []byte) error {
	var frame struct {
		Pong bool
		Tree page.Tree
		Meta *struct {
			Success bool
			Errors  map[string]string
			Action  string
		}
	}
	if err := json.Unmarshal(data, &frame); err != nil {
		return fmt.Errorf("frame %.200s: %w", data, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if frame.Pong {
		v.unheard = time.Time{}
		return nil
	}
	v.frames++
	_, whole := frame.Tree["s"]
	if frame.Tree == nil || !v.live && !whole {
		return fmt.Errorf("frame %.200s has no tree, or is the first and has not all", data) //nolint:err113 // of a test
	}
	if !v.opts.Names {
		page.ForgetRanges(frame.Tree)
	}
	began := !v.live
	if v.live = true; began {
		v.known = frame.Tree
	} else if err := page.Merge(v.known, frame.Tree); err != nil {
		return fmt.Errorf("frame %.200s: %w", data, err)
	}
	if began || frame.Meta != nil && frame.Meta.Action == "leave" && !slices.Contains(v.asked[min(1, len(v.asked)):], "leave") {
		v.leaving = false
	}
	if began || len(frame.Tree) > 0 {
		v.sawLocked(v.read(v.htmlLocked()), true)
	}
	// The page script may have joined again by itself: that answer is its own.
	if frame.Meta != nil && len(v.asked) > 0 && v.asked[0] == frame.Meta.Action {
		v.answers <- answer{frame.Meta.Success, frame.Meta.Errors}
		if v.asked = v.asked[1:]; len(v.asked) == 0 {
			v.answers = nil
		}
	}
	return nil
}

func (v *Visitor) htmlLocked() string { return page.HTML(v.known) }

// sawLocked notes the present sight.
func (v *Visitor) sawLocked(s Sight, socket bool) {
	s.At, s.Socket = time.Now(), socket
	if s.Joined && socket {
		v.early, v.refusals = "", 0
		if !v.leaving {
			v.remember = s.Name
		}
	}
	if v.was && socket && !s.Joined {
		v.remember = ""
	}
	v.was = s.Joined && socket
	if len(v.history) == 0 || !v.history[len(v.history)-1].same(s) {
		v.history = append(v.history, s)
	}
	v.tellLocked()
}

// tellLocked wakes the waiters whose condition holds.
func (v *Visitor) tellLocked() {
	now := v.nowLocked()
	v.waiting = slices.DeleteFunc(v.waiting, func(w *waiter) bool {
		if !w.cond(now) {
			return false
		}
		close(w.done)
		return true
	})
}

// rejoin joins again where the page was joined and nothing is known of it, and asks
// again after a refusal, less and less often, as web/src/page.js does.
func (v *Visitor) rejoin() {
	v.mu.Lock()
	now := v.nowLocked()
	if now.Stale {
		v.askAgainAtOnceLocked()
	}
	conn, name := v.conn, v.remember
	if now.Joined || now.Stale || v.rejoined || name == "" || !v.live {
		v.mu.Unlock()
		return
	}
	v.rejoined = true
	wait := min(time.Minute, 3*time.Second<<min(v.refusals, 10))
	v.refusals++
	v.askAgain = time.AfterFunc(wait+mathrand.N(wait/2), func() {
		v.mu.Lock()
		if v.conn == conn {
			v.rejoined = false
		}
		v.mu.Unlock()
		v.rejoin()
	})
	v.mu.Unlock()
	_ = v.send(conn, press("join", name)) // an error ends the socket
}

// askAgainAtOnceLocked has the next rejoin wait for nothing.
func (v *Visitor) askAgainAtOnceLocked() {
	if v.askAgain != nil {
		v.askAgain.Stop()
	}
	v.rejoined = false
}

// press is the frame of a button.
func press(action, name string) map[string]any {
	data := map[string]any{}
	if action == "join" {
		data["username"] = name
	}
	return map[string]any{"action": action, "data": data, "submitter": action}
}

// Join presses the button and waits for the answer. The error is a
// *[RefusalError] when the server said no, or wraps [ErrNotLive].
func (v *Visitor) Join(name string) error { return v.act(press("join", name)) }

// Leave presses the button and waits for the answer. The errors are those of
// Join.
func (v *Visitor) Leave() error {
	v.forget()
	return v.act(press("leave", ""))
}

// JoinTwice joins under one name and then under another, or under the same
// again, without waiting in between, as a double click does. It returns the
// error of each.
func (v *Visitor) JoinTwice(first, second string) (error, error) {
	errs := v.actAll(press("join", first), press("join", second))
	return errs[0], errs[1]
}

// LeaveTwice is Leave by a double click. It returns the error of each.
func (v *Visitor) LeaveTwice() (error, error) {
	v.forget()
	errs := v.actAll(press("leave", ""), press("leave", ""))
	return errs[0], errs[1]
}

// forget has the page forget the name, as when Leave is pressed.
func (v *Visitor) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remember, v.early, v.leaving = "", "", true
}

func (v *Visitor) act(frame map[string]any) error { return v.actAll(frame)[0] }

// actAll sends frames one after another, and waits for the answer to each.
func (v *Visitor) actAll(frames ...map[string]any) []error {
	errs := make([]error, len(frames))
	fail := func(from int, err error) []error {
		for i := from; i < len(errs); i++ {
			errs[i] = err
		}
		return errs
	}
	v.mu.Lock()
	if !v.live || v.answers != nil {
		v.mu.Unlock()
		return fail(0, ErrNotLive)
	}
	answers := make(chan answer, len(frames))
	v.answers = answers
	for _, frame := range frames {
		action, _ := frame["action"].(string)
		v.asked = append(v.asked, action)
	}
	conn := v.conn
	v.mu.Unlock()
	for _, frame := range frames {
		if err := v.send(conn, frame); err != nil {
			return fail(0, fmt.Errorf("%w: %w", ErrNotLive, err))
		}
	}
	limit := time.NewTimer(v.opts.Patience)
	defer limit.Stop()
	for i := range frames {
		select {
		case a, ok := <-answers:
			if !ok {
				return fail(i, fmt.Errorf("%w: lost before the answer", ErrNotLive))
			}
			if !a.success {
				errs[i] = &RefusalError{fmt.Sprint(a.errors)}
			}
		case <-limit.C:
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.answers == answers {
				v.answers, v.asked = nil, nil
			}
			return fail(i, fmt.Errorf("%w: no answer within %v", ErrNotLive, v.opts.Patience))
		}
	}
	return errs
}

// MustJoin joins, or fails the test.
func (v *Visitor) MustJoin(name string) *Visitor {
	v.t.Helper()
	if err := v.Join(name); err != nil {
		v.t.Fatalf("join as %s: %v", name, err)
	}
	return v
}

// Send writes any frame, also one that breaks the rules. kind is an opcode of
// RFC 6455, section 11.8.
func (v *Visitor) Send(kind int, data []byte) error {
	v.mu.Lock()
	conn := v.conn
	v.mu.Unlock()
	if conn == nil {
		return ErrNotLive
	}
	v.write.Lock()
	defer v.write.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return conn.WriteMessage(kind, data)
}

// Close closes the tab: the browser sends 1001 and the visitor is gone.
func (v *Visitor) Close() {
	v.cancel()
	<-v.ended
}

// Crash ends the tab as a crashed browser does: with a TCP reset, without a
// farewell.
func (v *Visitor) Crash() {
	v.mu.Lock()
	v.crashed = true
	if v.conn != nil {
		if tcp, ok := v.conn.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = v.conn.NetConn().Close()
	}
	v.mu.Unlock()
	v.Close()
}

// hangUp says goodbye on the open socket, and ends it.
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

// Now is what the page shows. Socket is false while there is no connection.
func (v *Visitor) Now() Sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nowLocked()
}

func (v *Visitor) nowLocked() Sight {
	if len(v.history) == 0 {
		return Sight{}
	}
	now := v.history[len(v.history)-1]
	now.Socket = now.Socket && v.live
	return now
}

// Roster is the names on the page, in their order; it needs Options.Names.
func (v *Visitor) Roster() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return readRoster(v.htmlLocked())
}

// Since is everything that the page showed since an instant, including what it showed
// at that instant.
func (v *Visitor) Since(from time.Time) []Sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	start := 0
	for i, s := range v.history {
		if !s.At.After(from) {
			start = i
		}
	}
	return slices.Clone(v.history[start:])
}

// Endings are the ends of the visitor's sockets so far.
func (v *Visitor) Endings() []Ending {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.endings)
}

// Frames is how many updates came so far, first frames and answers included.
func (v *Visitor) Frames() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frames
}

// Problem is a mistake in a frame of the server; nil if there was none.
func (v *Visitor) Problem() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.problem
}

// Sees waits until the page shows what cond asks for, and returns how long that
// took. It fails the test when that does not happen within limit.
func (v *Visitor) Sees(limit time.Duration, what string, cond func(Sight) bool) time.Duration {
	v.t.Helper()
	took, ok := v.Await(limit, cond)
	if !ok {
		sights := v.Since(time.Time{})
		v.t.Fatalf("not within %v, at %s: %s. It saw\n\t%v", limit.Round(time.Millisecond), time.Now().Format("05.000"), what,
			sights[max(0, len(sights)-8):])
	}
	return took
}

// Await is Sees, but reports whether it happened instead of failing the test. It may be
// called from any goroutine.
func (v *Visitor) Await(limit time.Duration, cond func(Sight) bool) (time.Duration, bool) {
	start := time.Now()
	w := &waiter{cond: cond, done: make(chan struct{})}
	v.mu.Lock()
	v.waiting = append(v.waiting, w)
	v.tellLocked()
	v.mu.Unlock()
	select {
	case <-w.done:
		return time.Since(start), true
	case <-time.After(limit):
		return limit, false
	}
}

// SeesUsers waits until the page shows a count that is not stale, as Sees does.
func (v *Visitor) SeesUsers(limit time.Duration, users int) time.Duration {
	v.t.Helper()
	return v.Sees(limit, fmt.Sprintf("%d user(s) online", users), func(s Sight) bool {
		return s.Socket && s.Known && !s.Stale && s.Users == users
	})
}

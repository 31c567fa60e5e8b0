package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"presence/test/memnet"
	"presence/test/page"
)

// browser is what visitors share who use the same one: its cookies and its address.
type browser struct {
	addr    net.Addr
	cookies map[string]cookie
}

type cookie struct {
	value string
	until time.Time // zero: for long
}

// visitor is a visitor with one page open at a time, in a tab of a browser, or in a
// browser without JavaScript.
type visitor struct {
	w       *world
	n       int
	browser *browser
	bare    bool
	rng     *rand.Rand

	opens      string // the name to join by before the script comes, or ""
	want       int    // the replica that the next request goes to, -1: any
	sheet      *sheet
	key        string            // of the tab, as its sessionStorage has it
	remembered map[string]string // room -> name, likewise; it has one room at most
	early      map[string]string // room -> mark of the page that followed an early form, likewise
}

// sheet is a page that is or was open.
type sheet struct {
	v    *visitor
	room string
	seat *seat
	gone bool // closed, or left for another page

	shows shown
	since time.Time // it shows the same
	turn  int       // of what the browser loads: only the answer to the last counts

	// With the page script only.
	sock     *sock
	held     *held // a form sent while there was no connection
	leaving  bool
	rejoined bool // the page asked to join by itself, and is to wait
	refusals int  // of that, since it was joined
	askAgain *time.Timer
	attempts int
}

// shown is what a page says about its visitor.
type shown struct {
	known  bool // it has said anything
	joined bool
	name   string
	stale  bool
	notice string
}

// as returns the name under which the visitor is there, "" if not joined.
func (s shown) as() string {
	if s.joined {
		return s.name
	}
	return ""
}

// held is a form to send when there is a connection again.
type held struct {
	action, name string
	until        time.Time
}

// sock is a socket of a page.
type sock struct {
	proc    *proc
	conn    *memnet.Conn
	ws      *websocket.Conn
	tree    page.Tree
	pending []*op
	heard   time.Time // when the first frame came
	closed  bool      // by us
	mute    bool      // its network is gone
	unknown bool      // opened when the replica could not tell who is who
}

// visit creates the visitors of this run.
func (w *world) visit() {
	n := 0
	add := func(b *browser, bare bool) {
		v := &visitor{w: w, n: n, browser: b, bare: bare, rng: rand.New(rand.NewPCG(w.plan.seed, uint64(100+n))), want: -1, remembered: map[string]string{}}
		w.visitors = append(w.visitors, v)
		n++
	}
	browsers := 0
	fresh := func() *browser {
		browsers++
		return &browser{addr: &net.TCPAddr{IP: net.IPv4(10, 1, 0, byte(browsers)), Port: 40000}, cookies: map[string]cookie{}}
	}
	twins := fresh()
	for _, kind := range []string{"twin", "twin", "tab", "tab", "bare", "bare"} {
		switch {
		case w.plan.seed%4 == 3 && kind == "tab", kind == "bare":
			add(fresh(), true)
		case kind == "twin":
			add(twins, false)
		default:
			add(fresh(), false)
		}
	}
}

// --- HTTP -------------------------------------------------------------------

// request returns a request of the visitor's browser.
func (v *visitor) request(method, path, body string) *http.Request {
	r := request(method, path, body)
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	for name, c := range v.browser.cookies {
		if c.until.IsZero() || time.Now().Before(c.until) {
			r.AddCookie(&http.Cookie{Name: name, Value: c.value})
		}
	}
	if method == http.MethodPost {
		r.Header.Set("Origin", "http://"+host)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

// errNoServer is the answer when the balancer has no server.
var errNoServer = errors.New("no server")

// errLeft is the outcome of a load that another load replaced.
var errLeft = errors.New("the browser loads something else")

// load makes the browser load something, instead of s and anything that it was loading.
func (s *sheet) load(what func() *http.Request) (*answer, *proc, error) {
	s.v.w.mu.Lock()
	s.turn++
	turn := s.turn
	s.v.w.mu.Unlock()
	return s.v.exchange(what, 10*time.Second, func() bool { return !s.gone && s.turn == turn })
}

// exchange makes the browser send a request, and keep the cookies of the response if it
// still waits for that. The lock must not be held.
func (v *visitor) exchange(what func() *http.Request, patience time.Duration, waits func() bool) (*answer, *proc, error) {
	w := v.w
	w.mu.Lock()
	p := w.pick(v.rng, v.want)
	v.want = -1
	r := what()
	_, err := r.Cookie("presence")
	stranger := err != nil
	w.mu.Unlock()
	if p == nil {
		return nil, nil, errNoServer
	}
	a, err := p.exchange(p.public, v.browser.addr, r, patience)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && !waits() {
		err = errLeft
	}
	if err != nil {
		return nil, p, err
	}
	v.keep(a.header, stranger, p)
	return a, p, nil
}

// keep keeps the cookies of a response. stranger says whether the request was one of a
// stranger.
func (v *visitor) keep(header http.Header, stranger bool, p *proc) {
	w := v.w
	for _, c := range (&http.Response{Header: header}).Cookies() {
		old := v.browser.cookies[c.Name]
		switch {
		case c.MaxAge < 0:
			delete(v.browser.cookies, c.Name)
			continue
		case c.Name != "presence" || stranger || old.value == c.Value:
		case w.model.forgotten:
			w.over = true
		default:
			w.fail("visitor %d got another session from replica %d", v.n, p.place)
		}
		v.browser.cookies[c.Name] = cookie{c.Value, time.Now().Add(time.Duration(c.MaxAge) * time.Second)}
	}
}

// send makes the browser send a request whose response does not matter.
func (v *visitor) send(what func() *http.Request) {
	_, _, _ = v.exchange(what, 10*time.Second, func() bool { return true })
}

// session returns the browser's session as all replicas know it; "" if it has none yet.
func (v *visitor) session() string {
	id, _, _ := strings.Cut(v.browser.cookies["presence"].value, ".")
	return id
}

// address returns the page's address with the tab's key.
func (s *sheet) address() string {
	if s.v.bare {
		return pathOf(s.room)
	}
	address := pathOf(s.room) + "?tab=" + s.v.key
	if mark := s.v.early[s.room]; mark != "" {
		address += "&adopt=" + mark
	}
	return address
}

var (
	divPattern   = regexp.MustCompile(`data-joined="(true|false)" data-stale="(true|false)" data-name="([^"]*)"`)
	alertPattern = regexp.MustCompile(`<p class="alert" role="alert">([^<]*)</p>`)
)

// read reads what a page says.
func read(text string) shown {
	m := divPattern.FindStringSubmatch(text)
	if m == nil {
		return shown{}
	}
	s := shown{known: true, joined: m[1] == "true", stale: m[2] == "true", name: html.UnescapeString(m[3])}
	if a := alertPattern.FindStringSubmatch(text); a != nil {
		s.notice = a[1]
	}
	return s
}

// now notes what the page shows.
func (s *sheet) now(shows shown) {
	if shows != s.shows {
		s.v.w.note("%d: shows %v", s.v.n, shows)
		s.shows, s.since = shows, time.Now()
	}
}

// --- Pages ------------------------------------------------------------------

// open opens a page of a room, instead of the open one. A new tab is not the one that was
// closed.
func (v *visitor) open(room string, place int) {
	if v.sheet != nil && v.sheet.room == room {
		return
	}
	if old := v.sheet; old != nil {
		mute := old.sock != nil && old.sock.mute
		v.unload(0)
		v.w.model.closed(old, mute)
	} else {
		var b [16]byte
		for i := range b {
			b[i] = byte(v.rng.IntN(256))
		}
		v.key = key(b)
		v.remembered, v.early = map[string]string{}, nil
	}
	v.want = place
	v.begin(room)
}

// begin begins a page of a room.
func (v *visitor) begin(room string) *sheet {
	s := &sheet{v: v, room: room, since: time.Now()}
	v.sheet = s
	go s.live()
	return s
}

// unload ends the open page. Its socket stays for linger.
func (v *visitor) unload(linger time.Duration) {
	s := v.sheet
	if s == nil {
		return
	}
	s.gone = true
	v.sheet = nil
	if k := s.sock; k != nil {
		s.sock = nil
		if k.mute {
			v.w.model.busy = maxTime(v.w.model.busy, time.Now().Add(silence+grace+time.Second))
		}
		if linger > 0 {
			v.w.after(linger, func() { k.close(v.rng.IntN(2) == 0) })
		} else {
			k.close(v.rng.IntN(2) == 0)
		}
	}
}

// close closes the page for good.
func (v *visitor) close(abrupt bool) {
	s := v.sheet
	if s == nil {
		return
	}
	mute := s.sock != nil && s.sock.mute
	if s.sock != nil && abrupt {
		s.sock.conn.Break()
	}
	v.unload(0)
	v.w.model.closed(s, mute)
}

// reload loads the page again. The old page may take a while to go.
func (v *visitor) reload(st step) {
	s := v.sheet
	if s == nil {
		return
	}
	v.want = st.arg(2) % len(v.w.procs)
	v.unload([]time.Duration{0, 0, 50 * time.Millisecond, time.Second}[st.arg(1)%4])
	if next := v.begin(s.room); s.seat != nil {
		next.seat, s.seat.sheet = s.seat, next
	}
}

// live runs a page from its loading to its end.
func (s *sheet) live() {
	v, w := s.v, s.v.w
	for {
		began := time.Now()
		a, _, err := s.load(func() *http.Request { return v.request(http.MethodGet, pathOf(s.room), "") })
		w.mu.Lock()
		if s.gone {
			w.mu.Unlock()
			return
		}
		if err == nil && a.status == http.StatusOK && v.session() != "" {
			if v.bare {
				if s.seat == nil {
					s.seat = w.model.seat(s)
				}
				s.now(read(a.body))
				w.model.visited(s, began)
			} else {
				early := v.opens
				v.opens = ""
				w.mu.Unlock()
				if early != "" {
					s.sendEarly(early)
				}
				s.stayConnected()
				return
			}
		}
		wait := heartbeat + time.Duration(v.rng.IntN(300))*time.Millisecond
		if errors.Is(err, errLeft) {
			wait = heartbeat
		} else if err != nil || a.status != http.StatusOK {
			wait = 500 * time.Millisecond
		}
		w.mu.Unlock()
		time.Sleep(wait)
		w.mu.Lock()
		gone := s.gone
		w.mu.Unlock()
		if gone {
			return
		}
	}
}

// --- The page script --------------------------------------------------------

// stayConnected opens one socket after the other until the page is gone.
func (s *sheet) stayConnected() {
	v, w := s.v, s.v.w
	for {
		w.mu.Lock()
		longest := 300 * time.Millisecond
		if s.attempts > 0 {
			longest = min(3*time.Second, 100*time.Millisecond<<min(s.attempts, 10))
		}
		wait := time.Duration(v.rng.Float64() * float64(longest))
		if s.attempts == 0 && !s.shows.known {
			wait = 10 * time.Millisecond // the first time
		}
		s.attempts++
		w.mu.Unlock()
		time.Sleep(wait)
		k := s.connect()
		if k == nil {
			w.mu.Lock()
			gone := s.gone
			w.mu.Unlock()
			if gone {
				return
			}
			continue
		}
		s.listen(k)
		w.mu.Lock()
		gone := s.gone
		w.mu.Unlock()
		if gone {
			return
		}
	}
}

// connect opens a socket; it returns nil if it can't.
func (s *sheet) connect() *sock {
	v, w := s.v, s.v.w
	w.mu.Lock()
	p := w.pick(v.rng, v.want)
	v.want = -1
	header := http.Header{"Origin": {"http://" + host}, "Cookie": v.request(http.MethodGet, "/", "").Header["Cookie"]}
	head, address, gone := v.request(http.MethodHead, s.address(), ""), s.address(), s.gone
	if !gone && (s.seat == nil || s.seat.session != v.session()) { // another tab may have come first
		s.seat = w.model.seat(s)
	}
	w.mu.Unlock()
	if p == nil || gone {
		return nil
	}
	a, err := p.exchange(p.public, v.browser.addr, head, 4*time.Second) // the client asks, too, at first
	if err != nil || a.status >= 500 {
		return nil
	}
	w.mu.Lock()
	v.keep(a.header, false, p)
	w.mu.Unlock()
	conn, err := p.dial(p.public, v.browser.addr)
	if err != nil {
		return nil
	}
	dialer := websocket.Dialer{
		NetDialContext:   func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		HandshakeTimeout: 5 * time.Second,
	}
	ws, response, err := dialer.Dial("ws://"+host+address, header)
	if err != nil {
		p.forget(conn)
		conn.Break()
		return nil
	}
	response.Body.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	v.keep(response.Header, false, p)
	k := &sock{proc: p, conn: conn, ws: ws, tree: page.Tree{}, unknown: !p.ready}
	if s.gone {
		k.close(true)
	} else {
		s.sock = k
		s.leaving = false
		s.askAgainAtOnce()
	}
	return k
}

// listen reads frames until the socket ends.
func (s *sheet) listen(k *sock) {
	w := s.v.w
	for {
		_, text, err := k.ws.ReadMessage()
		w.mu.Lock()
		if err != nil {
			k.close(true)
			k.proc.forget(k.conn)
			for _, o := range k.pending {
				w.model.unknown(o)
			}
			k.pending = nil
			if s.sock == k {
				s.sock = nil
				w.note("%d: socket at %d ended: %v", s.v.n, k.proc.place, err)
			}
			w.mu.Unlock()
			return
		}
		s.received(k, text)
		w.mu.Unlock()
	}
}

// received takes a frame.
func (s *sheet) received(k *sock, text []byte) {
	var frame struct {
		Tree page.Tree `json:"tree"`
		Meta *struct {
			Success bool              `json:"success"`
			Errors  map[string]string `json:"errors"`
			Action  string            `json:"action"`
		} `json:"meta"`
	}
	w := s.v.w
	if err := json.Unmarshal(text, &frame); err != nil {
		w.fail("visitor %d got the frame %.200s: %v", s.v.n, text, err)
		return
	}
	if err := page.Merge(k.tree, frame.Tree); err != nil {
		w.fail("visitor %d can't merge the frame %.200s: %v", s.v.n, text, err)
		return
	}
	action := ""
	if frame.Meta != nil {
		action = frame.Meta.Action
	}
	if action != "" {
		k.answered(w, action, frame.Meta.Success && len(frame.Meta.Errors) == 0)
	}
	if s.sock != k {
		return // nobody looks at it any more
	}
	if k.heard.IsZero() {
		k.heard = time.Now()
	}
	s.now(read(page.HTML(k.tree)))
	s.attempts = 0
	if action == "leave" {
		s.leaving = false
	}
	s.rejoin()
	if h := s.held; h != nil {
		s.held = nil
		if time.Now().Before(h.until) && s.shows.joined == (h.action == "leave") {
			s.send(h.action, h.name)
		}
	}
}

// rejoin does what the page script does when the page shows something new.
func (s *sheet) rejoin() {
	if s.shows.joined {
		s.v.early, s.refusals = nil, 0
		if !s.leaving {
			s.v.remembered = map[string]string{s.room: s.shows.name}
		}
		return
	}
	if s.shows.stale {
		s.askAgainAtOnce()
	}
	name := s.v.remembered[s.room]
	if s.rejoined || s.shows.stale || name == "" {
		return
	}
	s.rejoined = true
	k, wait := s.sock, min(time.Minute, 3*time.Second<<min(s.refusals, 10))
	s.refusals++
	s.askAgain = time.AfterFunc(wait, func() {
		s.v.w.mu.Lock()
		defer s.v.w.mu.Unlock()
		if s.sock == k && !k.closed && !s.gone {
			s.askAgainAtOnce()
			s.rejoin()
		}
	})
	s.v.w.note("%d: joins again as %s", s.v.n, name)
	s.send("join", name)
}

// askAgainAtOnce makes the next rejoin start at once.
func (s *sheet) askAgainAtOnce() {
	if s.askAgain != nil {
		s.askAgain.Stop()
	}
	s.rejoined = false
}

// answered takes the answer to the oldest action of that kind.
func (k *sock) answered(w *world, action string, ok bool) {
	for i, o := range k.pending {
		if o.action == action {
			k.pending = append(k.pending[:i:i], k.pending[i+1:]...)
			w.model.answered(o, ok)
			return
		}
	}
	w.fail("an answer to %q that nobody asked for", action)
}

// send sends an action through the socket, which must be open.
func (s *sheet) send(action, name string) {
	k := s.sock
	data := map[string]any{}
	if action == "join" {
		data["username"] = name
	}
	text, err := json.Marshal(map[string]any{"action": action, "data": data})
	if err != nil {
		panic(err)
	}
	o := s.v.w.model.begin(s.seat, action, name)
	o.sock, o.behind = k, time.Duration(len(k.pending))*2*time.Second
	k.pending = append(k.pending, o)
	_ = k.ws.WriteMessage(websocket.TextMessage, text) // an error shows when reading
}

// close ends the socket from the browser's side.
func (k *sock) close(abrupt bool) {
	if k.closed {
		return
	}
	k.closed = true
	switch {
	case k.mute: // nothing gets through: the server must notice by itself
		_ = k.conn.Close()
	case abrupt:
		k.conn.Break()
	default:
		_ = k.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(time.Second))
		_ = k.conn.Close()
	}
}

// --- What people do ----------------------------------------------------------

// press presses a button several times. The form must be there to be pressed.
func (v *visitor) press(action, name string, times int) {
	s := v.sheet
	if s == nil || s.seat == nil || !s.shows.known || s.shows.joined != (action == "leave") {
		return
	}
	if v.bare {
		go s.post(action, name, 2)
		return
	}
	if action == "leave" {
		s.leaving = true
		v.remembered = map[string]string{}
	}
	if s.sock == nil || !s.shows.known {
		s.held = &held{action, name, time.Now().Add(10 * time.Second)}
		return
	}
	for range times {
		s.send(action, name)
	}
}

// twice presses a button twice, or hits Enter twice.
func (v *visitor) twice(st step) {
	s := v.sheet
	if s == nil || s.sock == nil || v.bare {
		return
	}
	if s.shows.joined {
		v.press("leave", "", 2+st.arg(1)%2)
	} else {
		v.press("join", names[st.arg(2)%len(names)], 2+st.arg(1)%2)
	}
}

// twoNames sends two joins, under two names, joined or not.
func (v *visitor) twoNames(st step) {
	s := v.sheet
	if s == nil || s.sock == nil || !s.shows.known || v.bare {
		return
	}
	s.send("join", names[st.arg(1)%len(names)])
	s.send("join", names[st.arg(2)%len(names)])
}

// drop breaks the visitor's connection, like a proxy that is restarted.
func (v *visitor) drop() {
	if s := v.sheet; s != nil && s.sock != nil && !s.sock.mute {
		s.sock.conn.Break()
	}
}

// vanish takes away the network and the visitor.
func (v *visitor) vanish() {
	s := v.sheet
	if s == nil || s.sock == nil {
		return
	}
	k := s.sock
	k.mute = true
	k.conn.Hold(true)
	v.w.after(time.Second, func() {
		if v.sheet == s {
			v.close(false)
		}
	})
}

// hasty opens a page and sends its form before the script has run, so before the tab has
// a key.
func (v *visitor) hasty(st step) {
	if v.bare || v.sheet != nil || v.n < 2 { // those who share a browser would be one by that
		return
	}
	v.opens = names[st.arg(3)%len(names)]
	v.open(rooms[st.arg(1)%len(rooms)], st.arg(2)%len(v.w.procs))
}

// sendEarly tells the model of the form: the browser joins by it, and the page that
// follows turns the member into the tab's.
func (s *sheet) sendEarly(name string) {
	v, w := s.v, s.v.w
	w.mu.Lock()
	browser := w.model.seatOf(s.room, v.session(), "")
	s.seat = w.model.seat(s)
	first, second := w.model.begin(browser, "join", name), w.model.begin(s.seat, "join", name)
	body := url.Values{"lvt-action": {"join"}, "join": {""}, "username": {name}}
	w.mu.Unlock()
	a, _, err := s.load(func() *http.Request { return v.request(http.MethodPost, pathOf(s.room), body.Encode()) })
	if err == nil && a.status == http.StatusSeeOther {
		_, _, _ = s.load(func() *http.Request { return v.request(http.MethodGet, pathOf(s.room), "") }) // where it leads
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.model.unknown(first)
		w.model.unknown(second)
		return
	}
	joined := a.status == http.StatusSeeOther
	w.note("%d: early join answered %d %s", v.n, a.status, a.header.Get("Location"))
	w.model.answered(first, joined)
	w.model.answered(second, joined)
	w.model.end(browser, ttl+2*time.Second)
	if to, err := url.Parse(a.header.Get("Location")); err == nil && joined {
		v.early = map[string]string{s.room: to.Query().Get("adopt")}
		v.remembered = map[string]string{s.room: name} // as the page that follows says
	}
}

// form sends a form as the browser does without a script: the page goes, and another
// comes.
func (v *visitor) form(st step) {
	s := v.sheet
	if s == nil || s.seat == nil || !s.shows.known {
		return
	}
	v.want = st.arg(3) % len(v.w.procs)
	action, name := "join", names[st.arg(1)%len(names)]
	if s.shows.joined {
		action, name = "leave", ""
		v.remembered = map[string]string{}
	}
	if v.bare {
		go s.post(action, name, st.arg(2)%3)
		return
	}
	next := &sheet{v: v, room: s.room, seat: s.seat, since: time.Now()}
	v.unload(0)
	v.sheet, next.seat.sheet = next, next
	go func() {
		next.post(action, name, 0)
		next.live()
	}()
}

// post posts a form. If nothing has happened, it posts it again elsewhere, as people do.
func (s *sheet) post(action, name string, retries int) {
	v, w := s.v, s.v.w
	w.mu.Lock()
	if s.gone {
		w.mu.Unlock()
		return
	}
	o := w.model.begin(s.seat, action, name)
	body := url.Values{"lvt-action": {action}, action: {""}}
	if action == "join" {
		body.Set("username", name)
	}
	w.mu.Unlock()
	a, p, err := s.load(func() *http.Request { return v.request(http.MethodPost, s.address(), body.Encode()) })
	w.mu.Lock()
	switch {
	case err != nil:
		w.model.unknown(o)
	default:
		w.note("%d: %s at %d answered %d", v.n, action, p.place, a.status)
		w.model.answered(o, a.status == http.StatusSeeOther)
	}
	if err == nil && a.status != http.StatusSeeOther && !s.gone {
		s.now(read(a.body))
	}
	again := (err != nil || a.status != http.StatusSeeOther) && retries > 0 && !s.gone
	pause := time.Duration(100+v.rng.IntN(1000)) * time.Millisecond
	if again && len(w.procs) > 0 && p != nil {
		v.want = (p.place + 1) % len(w.procs)
	}
	w.mu.Unlock()
	if again {
		time.Sleep(pause)
		s.post(action, name, retries-1)
		return
	}
	if v.bare && err == nil && a.status == http.StatusSeeOther {
		s.follow()
	}
}

// follow loads the page that the answer to a form leads to.
func (s *sheet) follow() {
	v, w, began := s.v, s.v.w, time.Now()
	a, _, err := s.load(func() *http.Request { return v.request(http.MethodGet, pathOf(s.room), "") })
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && a.status == http.StatusOK && !s.gone {
		s.now(read(a.body))
		w.model.visited(s, began)
	}
}

// lossy presses Join or Leave while Redis's reply to it gets lost, and presses again
// somewhere else if the page asks for that.
func (v *visitor) lossy(st step) {
	s := v.sheet
	w := v.w
	if s == nil || s.seat == nil || !s.shows.known {
		return
	}
	p := w.pick(v.rng, st.arg(3)%len(w.procs))
	if s.sock != nil {
		p = s.sock.proc
	}
	if p == nil || p.dead {
		return
	}
	w.trouble()
	p.lossy = true
	link := p.links[w.node("{"+s.room+"}")]
	name := names[st.arg(1)%len(names)]
	if text := "\n" + name + "\r"; s.shows.joined || st.arg(2)%2 == 0 {
		link.LoseReply(s.seat.conn, st.arg(2)%4/2) // perhaps only the second, which is the change
	} else {
		link.LoseReply(text, 0)
	}
	w.after(2*time.Second, func() {
		p.lossy = false
		link.LoseReply("", 0)
	})
	v.want = p.place
	if s.shows.joined {
		v.press("leave", "", 1)
	} else {
		v.press("join", name, 1)
	}
}

// hostileNames are actions that no page has.
var hostileNames = []string{
	"OnConnect", "onConnect", "on_connect", "on-connect", "Mount", "mount", "PresenceChanged", "presence_changed",
	"OnDisconnect", "__navigate__", "Handle", "Wait", "", "submit",
}

// hostile names actions that no page has, by form, by button, as JSON or in a frame.
func (v *visitor) hostile(st step) {
	s := v.sheet
	if s == nil || s.seat == nil {
		return
	}
	name := hostileNames[st.arg(1)%len(hostileNames)]
	if how := st.arg(2) % 4; how == 3 {
		if s.sock != nil {
			text := fmt.Sprintf(`{"action":%q,"data":{"username":"Eve"}}`, name)
			_ = s.sock.ws.WriteMessage(websocket.TextMessage, []byte(text))
		}
	} else {
		what := func() *http.Request {
			switch how {
			case 0:
				return v.request(http.MethodPost, s.address(), url.Values{"lvt-action": {name}}.Encode())
			case 1:
				return v.request(http.MethodPost, s.address(), url.Values{name: {""}, "username": {"Eve"}}.Encode())
			default:
				r := v.request(http.MethodPost, s.address(), fmt.Sprintf(`{"action":%q,"data":{"username":"Eve"}}`, name))
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Accept", "application/json")
				return r
			}
		}
		v.want = st.arg(3) % len(v.w.procs)
		go v.send(what)
	}
}

// json joins or leaves as the client does that has given up sockets.
func (v *visitor) json(st step) {
	s := v.sheet
	if s == nil || s.seat == nil || !v.bare {
		return
	}
	v.want = st.arg(3) % len(v.w.procs)
	action, name := "join", names[st.arg(1)%len(names)]
	data := map[string]any{"username": name}
	if st.arg(2)%3 == 0 {
		action, name, data = "leave", "", map[string]any{}
		v.remembered = map[string]string{}
	}
	text, _ := json.Marshal(map[string]any{"action": action, "data": data})
	o := v.w.model.begin(s.seat, action, name)
	go func() {
		a, p, err := s.load(func() *http.Request {
			r := v.request(http.MethodPost, s.address(), string(text))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Accept", "application/json")
			return r
		})
		v.w.mu.Lock()
		defer v.w.mu.Unlock()
		if err != nil {
			v.w.model.unknown(o)
			return
		}
		v.w.note("%d: json %s at %d answered %d %.120s", v.n, action, p.place, a.status, a.body)
		v.w.model.unknown(o)
	}()
}

// head asks for nothing but whether the server answers.
func (v *visitor) head(step) {
	if s := v.sheet; s != nil {
		go v.send(func() *http.Request { return v.request(http.MethodHead, s.address(), "") })
	}
}

// forge is a stranger who says by a cookie to have been in a room.
func (v *visitor) forge(st step) {
	room := rooms[st.arg(1)%len(rooms)]
	p := v.w.pick(v.rng, st.arg(2)%len(v.w.procs))
	if p == nil {
		return
	}
	r := request(http.MethodGet, pathOf(room), "")
	r.Header.Set("Accept", "text/html")
	r.AddCookie(&http.Cookie{Name: "presence-in-" + room, Value: "Eve"})
	go func() {
		_, _ = p.exchange(p.public, &net.TCPAddr{IP: net.IPv4(10, 66, 0, 1), Port: 1}, r, 10*time.Second)
	}()
}

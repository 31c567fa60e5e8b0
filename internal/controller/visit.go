package controller

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/live"
	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
)

// groupCookie is the cookie by which livetemplate knows a browser. It never
// reaches one: see Handler.
const groupCookie = "livetemplate-id"

// visit is one request for the page of a room: a socket, a page load or a post.
type visit struct {
	controller *Controller

	id     string // names the visit within this process
	room   string
	socket bool

	// Who asks: the browser's session, and the connection that this tab is.
	session    string
	stranger   bool // the session is nobody's: it can't be known again
	connection string
	generation string // that resumes; each join has its own
	address    string // as limits know it
	began      time.Time
	bare       bool   // without a tab key: a browser without JavaScript, or before it runs
	kept       *kept  // what a bare browser keeps of the room; nil: nothing that we gave it
	seen       int64  // the version of the room that the browser's last form led to; 0: none
	adopt      string // the user as whom the browser joined before its tab had a key, or ""

	identity *Identity   // by a token; nil: a guest
	expiry   *time.Timer // ends the visit of a socket with the token; nil: nothing does

	// Of visits without a socket.
	request *http.Request
	keep    func(*http.Cookie) // sets a cookie, before anything is written

	browser atomic.Pointer[Browser] // nil before the upgrade, and without one
	ended   atomic.Pointer[ending]  // of a member who ended by itself; nil: none
	turn    atomic.Pointer[func()]  // ends the visit's turn to render; nil if it has none

	// Owned by the visit's actions, which run one after another, and by
	// Handler when they have ended.
	viewer   *room.Viewer
	page     *live.Page      // set with viewer
	member   *replica.Member // who is in the room through this socket; nil: nobody
	resuming bool            // whether the tab was taken over, by generation, is not known
}

type visitKey struct{}

// visitOf returns the visit that a request belongs to, or nil.
func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// patience is how long the page may wait to show what is known of the room.
func (v *visit) patience() time.Duration {
	if !v.socket && v.request.Method == http.MethodPost {
		return formTimeout
	}
	return loadTimeout
}

// answerBy is when an action that begins now is to be answered, whatever has become of
// it. Of a form all that went before counts, too.
func (v *visit) answerBy() time.Time {
	if v.socket {
		return time.Now().Add(actionTimeout)
	}
	return v.began.Add(actionTimeout)
}

// Answered is when that ping was sent which the visit's browser has answered last; zero
// if there is none.
func (v *visit) Answered() time.Time {
	if s := v.browser.Load(); s != nil {
		return (*s).Answered()
	}
	return time.Time{}
}

// Ping asks the visit's browser for a sign of life.
func (v *visit) Ping() error {
	if s := v.browser.Load(); s != nil {
		return (*s).Ping()
	}
	return errNoVisit
}

// ending is the end of a member that neither the visitor nor the browser wanted.
type ending struct {
	member *replica.Member
	why    error
}

// Ended takes note that the visit's member was removed, or was not put back when Redis
// had lost it.
func (v *visit) Ended(m *replica.Member, why error) {
	v.ended.Store(&ending{m, why})
	v.Wake()
}

// Browser is what a visit knows of its socket.
type Browser interface {
	livetemplate.WSConn
	replica.Socket

	// Send sends a frame, which is not modified, without waiting for the browser.
	// sent, which may be nil, is called once it is on its way, or never will be.
	Send(frame []byte, sent func()) error

	// CloseWith closes the socket with a code and a reason (RFC 6455, 7.4).
	CloseWith(code int, reason string) error

	// Through has each frame that livetemplate sends given to then instead.
	Through(then func(frame []byte) error)
}

// Attach tells the visit of an upgraded request which socket it has. Requests
// that are no visit's are ignored.
func Attach(r *http.Request, b Browser) {
	if v := visitOf(r.Context()); v != nil {
		v.browser.Store(&b)
		b.Through(v.receive)
	}
}

// IsStranger reports whether r belongs to the visit of a browser that could not be told from
// others.
func IsStranger(r *http.Request) bool {
	v := visitOf(r.Context())
	return v != nil && v.stranger
}

// receive takes a frame that livetemplate has rendered for the visit's page.
func (v *visit) receive(frame []byte) error {
	v.rendered()
	if v.page == nil {
		return v.Send(frame, nil)
	}
	return v.page.Receive(frame)
}

// Send sends a frame to the visit's page, as Browser.Send does. The error is that the
// page is gone.
func (v *visit) Send(frame []byte, sent func()) error {
	return (*v.browser.Load()).Send(frame, sent) //nolint:wrapcheck // says what it is about
}

// View returns the room as it is seen now.
func (v *visit) View() room.View { return v.viewer.View() }

// Saw says that the visit's page shows view.
func (v *visit) Saw(view room.View) { v.viewer.Saw(view) }

// Wake has livetemplate look again at what is the visitor's own.
func (v *visit) Wake() {
	if err := v.controller.live.Publish(v.topic(), "PresenceChanged", nil); err != nil {
		v.controller.log.Error("page not told of a change", "room", v.room, "err", err)
	}
}

// takeTurn waits until few enough other pages are being rendered; the visitor's own
// is rendered next. Thousands of pages that arrive or join at once, all at work at the
// same time, would leave the answers of Redis, which the rest of them wait for, unread
// for seconds.
func (c *Controller) takeTurn(ctx context.Context, v *visit) {
	if v.browser.Load() == nil {
		return
	}
	v.rendered()
	select {
	case c.rendering <- struct{}{}:
		end := func() { <-c.rendering }
		v.turn.Store(&end)
	case <-ctx.Done():
	}
}

// rendered ends the visit's turn, if it has one.
func (v *visit) rendered() {
	if end := v.turn.Swap(nil); end != nil {
		(*end)()
	}
}

// Handler returns the page of every room. roomOf names the room of a request,
// which must be legal; session ensures the browser's session, with a cookie if
// it has none, and reports whether it can be known again; pages is the livetemplate
// handler of this controller.
func (c *Controller) Handler(pages http.Handler, roomOf func(*http.Request) string, session func(http.ResponseWriter, *http.Request) (id string, known bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// One address answers with a page or with JSON: caches must not mix them up.
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Vary", "Accept")
		tab := r.URL.Query().Get("tab")
		if !presence.IsTabKey(tab) {
			tab = ""
		}
		if r.Method == http.MethodHead {
			c.head(w, r, pages, tab != "", roomOf(r))
			return
		}
		began := time.Now() // the session may have to be waited for
		id, known := session(w, r)
		v := &visit{
			controller: c,

			id:         rand.Text(),
			room:       roomOf(r),
			socket:     livetemplate.WSIsUpgrade(r),
			session:    id,
			stranger:   !known,
			generation: presence.NewGeneration(),
			address:    c.opts.Address(r),
			began:      began,
			bare:       tab == "",
		}
		v.seen = seenBy(r, v.room)
		v.identify(r)
		v.connection = c.opts.Keys().ConnectionID(v.session, tab)
		if adopt := r.URL.Query().Get(adoptParam); !v.bare && presence.IsID(adopt) {
			v.adopt = c.adopted(v, adopt)
		}
		if !v.socket {
			if v.bare {
				v.kept = c.keptBy(r, v)
			}
			if r.Method == http.MethodPost {
				r = c.markEarly(r, v)
			}
			v.request = r
			v.keep = func(cookie *http.Cookie) { http.SetCookie(w, cookie) }
		}

		if v.socket {
			c.connect(w, r, pages, v)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
		// livetemplate keeps templates, and logs, by its own cookie. Given one
		// that is this visit's, it sets none, mixes up no two tabs, and knows
		// nothing that would be worth stealing from a log. It gets no other: it
		// would show whatever a cookie for messages says.
		r.Header = r.Header.Clone()
		r.Header.Set("Cookie", (&http.Cookie{Name: groupCookie, Value: v.id}).String())

		pages.ServeHTTP(w, r)
	})
}

// connect opens the socket of a visit, and returns: the visit lives on, in a goroutine of
// its own. In that of net/http the buffers and the headers of the request would stay as
// long as the socket, and a stack that all handlers before this one have made deep.
func (c *Controller) connect(w http.ResponseWriter, r *http.Request, pages http.Handler, v *visit) {
	c.open.Add(1)
	if _, err := c.opts.Sockets.Upgrade(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)), nil); err != nil {
		c.open.Done()
		return // it has been answered, and counted
	}
	c.visits.Store(v.id, v)
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), visitKey{}, v))
	end := func() {
		if failure := recover(); failure != nil {
			c.log.ErrorContext(ctx, "page failed", "room", v.room, "failure", failure, "stack", string(debug.Stack()))
		}
		c.end(ctx, v)
		cancel()
		c.open.Done()
	}
	go serve(pages, c.upgrade.WithContext(ctx), end)
}

// serve serves a socket until it has closed, and then calls end.
//
// A garbage collection halves a stack of which less than a quarter is in use. While a page
// is idle, livetemplate uses 7.3 KB of this one, and what Go keeps free counts, too: with
// some hundred bytes more in this function, each page would keep 32 KB instead of 16.
func serve(pages http.Handler, r *http.Request, end func()) {
	defer end()
	pages.ServeHTTP(answered{}, r)
}

// newUpgrade is what livetemplate is told of a request that has become a socket.
func newUpgrade() *http.Request {
	return &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"-"},
	}}
}

// answered is the answer to a request that has become a socket.
type answered struct{}

// Header returns what nobody will read.
func (answered) Header() http.Header { return http.Header{} }

// Write writes nothing.
func (answered) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader writes nothing.
func (answered) WriteHeader(int) {}

// Opened gives livetemplate the sockets of visits, which are open already.
type Opened struct{}

// Upgrade returns the socket of the visit that r belongs to.
func (Opened) Upgrade(_ http.ResponseWriter, r *http.Request, _ http.Header) (livetemplate.WSConn, error) {
	if v := visitOf(r.Context()); v != nil {
		if socket := v.browser.Load(); socket != nil {
			return *socket, nil
		}
	}
	return nil, errNoVisit
}

// Wait returns when no visit of a socket is left, or ctx ends, with its error.
// No new visits may begin meanwhile.
func (c *Controller) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		c.open.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end ends the visit of a socket that livetemplate is done with.
func (c *Controller) end(ctx context.Context, v *visit) {
	_ = (*v.browser.Load()).Close() // it is, unless livetemplate did not take it
	c.visits.Delete(v.id)
	if v.expiry != nil {
		v.expiry.Stop()
	}
	v.rendered()
	if v.viewer != nil {
		v.page.Close() // before it looks no more
		v.viewer.Exit()
	}
	var err error
	if v.member != nil {
		err = c.replica.Release(v.member)
	}
	if v.resuming {
		err = errors.Join(err, c.replica.Abandon(v.room, v.conn(v.generation)))
	}
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelDebug, "connection not released; it ends with its lease", slog.Any("err", err))
	}
}

// head answers the question of a page whether the server is there. A tab that has a
// key has a script, which remembers by itself, and joins again by itself.
func (c *Controller) head(w http.ResponseWriter, r *http.Request, pages http.Handler, hasKey bool, room string) {
	if _, err := r.Cookie(nameCookiePrefix + room); err == nil && hasKey {
		http.SetCookie(w, c.forget(r, room))
	}
	r = r.Clone(r.Context())
	r.Header.Del("Upgrade") // a HEAD opens no socket
	w.Header().Set("Content-Type", typeOf(r.Header.Get("Accept")))
	pages.ServeHTTP(w, r)
}

// typeOf is the type of the page that livetemplate answers GET with: JSON where the first type
// that a client accepts is that.
func typeOf(accept string) string {
	for part := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(part, ";")
		kind = strings.TrimSpace(kind)
		if kind == "" || kind == "*/*" {
			continue
		}
		if kind == "application/json" || strings.HasSuffix(kind, "+json") {
			return "application/json"
		}
		break
	}
	return "text/html; charset=utf-8"
}

// adoptParam is the part of the query by which the page that follows a form tells its
// script as which user the form joined, before the tab had a key. The script takes it
// away, and asks with it, through its socket, that the tab be that connection.
const adoptParam = "adopt"

// markEarly marks the page that follows a form by which a bare browser joins, and no
// other.
func (c *Controller) markEarly(r *http.Request, v *visit) *http.Request {
	r = r.Clone(r.Context())
	if err := r.ParseForm(); err != nil {
		return r // not of ReadForm
	}
	query := r.URL.Query()
	query.Del(adoptParam)
	typed := typedName(func(field string) any { return r.PostForm.Get(field) })
	if name, err := v.identity.nameOf(typed); err == nil && v.bare && r.PostForm.Get(fieldAction) == actionJoin {
		query.Set(adoptParam, c.mark(v, name))
	}
	r.URL.RawQuery = query.Encode()
	return r
}

// mark is the mark of the page that follows when the browser of v joins under name.
func (c *Controller) mark(v *visit, name string) string {
	if v.identity.isUser() { // whose id is not one of ours
		return c.opts.Keys().UserID(v.session, v.identity.User)
	}
	return c.user(v, name).ID
}

// adopted is the user whom a mark names, "" if it is another's.
func (c *Controller) adopted(v *visit, mark string) string {
	switch {
	case !v.identity.isUser():
		return mark
	case mark == c.mark(v, ""):
		return v.identity.User
	default:
		return ""
	}
}

// kept is what a browser without JavaScript keeps of a room that it is in: who it was there
// last, and since when.
type kept struct {
	user  presence.User
	until time.Time
}

// fresh reports whether it is not too old to be put back by it.
func (k *kept) fresh() bool { return time.Now().Before(k.until) }

// nameCookie remembers in a browser without JavaScript as whom it is in a room. When Redis has lost it, nobody else does: there is no socket, and so
// no replica that holds it. It lives little longer than the browser may be silent,
// and is signed, for this browser alone.
func (c *Controller) nameCookie(v *visit, user presence.User) *http.Cookie {
	age := max(nameCookieRefreshes*c.opts.Refresh, c.opts.MemberTTL+c.opts.Refresh, time.Second)
	age = max(v.conn("").Lease(age), time.Second)
	until, since := strconv.FormatInt(time.Now().Add(age).Unix(), 10), strconv.FormatInt(user.Since, 10)
	name := base64.RawURLEncoding.EncodeToString([]byte(user.Name))
	cookie := &http.Cookie{
		Name:   nameCookiePrefix + v.room,
		Value:  strings.Join([]string{until, name, since, c.signKept(v, user.Name, since, until)}, "."),
		Path:   "/",
		MaxAge: int(age.Seconds()),
	}
	c.opts.Guard(v.request, cookie)
	return cookie
}

// signKept is the signature of what a browser keeps.
func (c *Controller) signKept(v *visit, name, since, until string) string {
	return c.opts.Keys().Sign("kept", v.session, v.room, name, since, until)
}

// forget is the cookie that makes a browser forget under which name it is in a room.
func (c *Controller) forget(r *http.Request, room string) *http.Cookie {
	cookie := &http.Cookie{Name: nameCookiePrefix + room, Path: "/", MaxAge: -1}
	c.opts.Guard(r, cookie)
	return cookie
}

const (
	nameCookiePrefix = "presence-in-"

	// nameCookieRefreshes is how many reloads of the page the cookie outlives.
	nameCookieRefreshes = 6
)

// keptBy returns what the browser of v keeps of its room; nil if that is nothing, or
// was not given to it by one of us.
func (c *Controller) keptBy(r *http.Request, v *visit) *kept {
	cookie, err := r.Cookie(nameCookiePrefix + v.room)
	if err != nil {
		return nil
	}
	parts := strings.Split(cookie.Value, ".")
	if len(parts) != 4 {
		return nil
	}
	name, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !hmac.Equal([]byte(parts[3]), []byte(c.signKept(v, string(name), parts[2], parts[0]))) {
		return nil
	}
	until, err := strconv.ParseInt(parts[0], 10, 64)
	since, errSince := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || errSince != nil {
		return nil
	}
	user := c.user(v, string(name))
	user.Since = since
	return &kept{user, time.Unix(until, 0)}
}

const (
	// seenCookiePrefix and a room say which version of it a form of the browser led to. The
	// page that follows shows no older one, at whichever replica. Who makes up a version has
	// the room read once more, and nothing else.
	seenCookiePrefix = "presence-at-"

	// seenFor is for how long: longer than replicas go without reading a room again.
	seenFor = 10 * time.Second
)

// changed notes that a request of v has led to a version of its room.
func (c *Controller) changed(v *visit, version int64) {
	c.rooms.Heard(v.room, version)
	if v.socket || version == 0 {
		return
	}
	cookie := &http.Cookie{Name: seenCookiePrefix + v.room, Value: strconv.FormatInt(version, 10), Path: "/", MaxAge: int(seenFor.Seconds())}
	c.opts.Guard(v.request, cookie)
	v.keep(cookie)
}

// seenBy is the version of a room that a form of the sender of r led to; 0 for none.
func seenBy(r *http.Request, room string) int64 {
	cookie, err := r.Cookie(seenCookiePrefix + room)
	if err != nil {
		return 0
	}
	version, err := strconv.ParseInt(cookie.Value, 10, 64)
	if err != nil {
		return 0
	}
	return version
}

// Authenticator makes livetemplate take each visit for a browser of its own.
type Authenticator struct{}

// Identify returns no user: visitors name themselves.
func (Authenticator) Identify(*http.Request) (string, error) { return "", nil }

// GetSessionGroup returns the id of the request's visit.
func (Authenticator) GetSessionGroup(r *http.Request, _ string) (string, error) {
	if v := visitOf(r.Context()); v != nil {
		return v.id, nil
	}
	return "", errNoVisit
}

// AllowTopic lets a visit subscribe to what concerns it alone, and to nothing else.
func AllowTopic(topic, _ string, r *http.Request) (bool, error) {
	v := visitOf(r.Context())
	return v != nil && topic == v.topic(), nil
}

// topic is the livetemplate topic by which the visit is told to look again.
func (v *visit) topic() string { return "visit/" + v.id }

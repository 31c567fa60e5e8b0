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

// groupCookie is the cookie by which livetemplate identifies a browser. No browser gets
// it: see Handler.
const groupCookie = "livetemplate-id"

// visit is one request for the page of a room: a socket, a page load or a post.
type visit struct {
	controller *Controller

	id     string // identifies the visit in this process
	room   string
	socket bool

	// Who sends the request: the browser's session, and the connection of this tab.
	session    string
	stranger   bool // the session has just been made, and can't be recognised again
	connection string
	generation string // of a resume; each join has its own
	address    string // in the form that limits count
	began      time.Time
	bare       bool   // without a tab key: the browser has no JavaScript, or it has not run yet
	kept       *kept  // what a bare browser keeps of the room; nil: nothing that is ours
	seen       int64  // the version of the room after the browser's last form; 0: none
	adopt      string // the user id under which the browser joined before its tab had a key, or ""

	identity *Identity   // from a token; nil: a guest
	expiry   *time.Timer // ends a socket's visit with the token; nil: nothing does

	// For visits without a socket.
	request *http.Request
	keep    func(*http.Cookie) // sets a cookie; works only before the response is written

	browser atomic.Pointer[Browser] // nil before the upgrade, and for visits without a socket
	ended   atomic.Pointer[ending]  // of a member that ended without the visitor's doing; nil: none
	turn    atomic.Pointer[func()]  // ends the visit's turn to render; nil if it has none

	// Owned by the visit's actions, which run one after another, and by end when they are
	// over.
	viewer   *room.Viewer
	page     *live.Page      // set with viewer
	member   *replica.Member // the member of this socket; nil: none
	resuming bool            // it is not known whether the tab was resumed, by generation
}

type visitKey struct{}

// visitOf returns the visit of a request, or nil.
func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// patience returns how long the page may wait before it shows what is known of the room.
func (v *visit) patience() time.Duration {
	if !v.socket && v.request.Method == http.MethodPost {
		return formTimeout
	}
	return loadTimeout
}

// answerBy returns when an action that begins now has to be answered, whatever its
// outcome. For a form, the time before the action counts, too.
func (v *visit) answerBy() time.Time {
	if v.socket {
		return time.Now().Add(actionTimeout)
	}
	return v.began.Add(actionTimeout)
}

// Answered returns when the last ping that the visit's browser has answered was sent;
// zero if there is none.
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

// ending is the end of a member that neither the visitor nor the browser caused.
type ending struct {
	member *replica.Member
	why    error
}

// Ended notes that the visit's member was removed, or was not put back after Redis had
// lost it.
func (v *visit) Ended(m *replica.Member, why error) {
	v.ended.Store(&ending{m, why})
	v.Wake()
}

// Browser is what a visit needs of its socket.
type Browser interface {
	livetemplate.WSConn
	replica.Socket

	// Send sends a frame without waiting for the browser. It does not modify the frame.
	// If sent is not nil, it is called when the frame has been written or never will be.
	Send(frame []byte, sent func()) error

	// CloseWith closes the socket with a code and a reason (RFC 6455, 7.4).
	CloseWith(code int, reason string) error

	// Through makes each frame that livetemplate sends go to then instead.
	Through(then func(frame []byte) error)
}

// Attach gives the visit of an upgraded request its socket. It ignores a request without
// a visit.
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

// Send sends a frame to the visit's page, like Browser.Send. An error means that the page
// is gone.
func (v *visit) Send(frame []byte, sent func()) error {
	return (*v.browser.Load()).Send(frame, sent) //nolint:wrapcheck // says what it is about
}

// View returns the present view of the room.
func (v *visit) View() room.View { return v.viewer.View() }

// Saw says that the visit's page shows view.
func (v *visit) Saw(view room.View) { v.viewer.Saw(view) }

// Wake makes livetemplate render the visitor's own part again.
func (v *visit) Wake() {
	if err := v.controller.live.Publish(v.topic(), "PresenceChanged", nil); err != nil {
		v.controller.log.Error("page not told of a change", "room", v.room, "err", err)
	}
}

// takeTurn waits until few enough other pages are being rendered; livetemplate renders
// the visitor's part next. If thousands of pages that connect or join at once were all
// rendered at the same time, the answers of Redis that the others wait for would remain
// unread for seconds.
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

// Handler returns the handler of the page of every room. roomOf returns the room of a
// request, which must be legal. session makes sure that the browser has a session, by a
// cookie if necessary, and reports whether it can be recognised again. pages is the
// livetemplate handler of this controller.
func (c *Controller) Handler(pages http.Handler, roomOf func(*http.Request) string, session func(http.ResponseWriter, *http.Request) (id string, known bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// One address answers with a page or with JSON, which caches must not mix up.
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
		began := time.Now() // before session, which may wait
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
		// livetemplate keeps templates, and logs, under its own cookie. We give it the
		// visit's id as this cookie. Then it sets none, can't confuse two tabs, and logs
		// nothing that is worth stealing. It gets no other cookie, because it would show
		// the text of a cookie for messages.
		r.Header = r.Header.Clone()
		r.Header.Set("Cookie", (&http.Cookie{Name: groupCookie, Value: v.id}).String())

		pages.ServeHTTP(w, r)
	})
}

// connect opens the socket of a visit and returns. The visit goes on in a goroutine of
// its own. In the goroutine of net/http, the buffers and headers of the request would
// live as long as the socket, as would a stack that all handlers before this one have
// made deep.
func (c *Controller) connect(w http.ResponseWriter, r *http.Request, pages http.Handler, v *visit) {
	c.open.Add(1)
	if _, err := c.opts.Sockets.Upgrade(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)), nil); err != nil {
		c.open.Done()
		return // Sockets has answered and counted it
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
// A garbage collection halves a stack of which less than a quarter is in use. While a
// page is idle, livetemplate uses 7.3 KB of this stack, and the part that Go keeps free
// counts as used. With some hundred bytes more in this function, each page would keep 32
// KB instead of 16.
func serve(pages http.Handler, r *http.Request, end func()) {
	defer end()
	pages.ServeHTTP(answered{}, r)
}

// newUpgrade returns the request that livetemplate gets in place of one that has become a
// socket.
func newUpgrade() *http.Request {
	return &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"-"},
	}}
}

// answered is the ResponseWriter of a request that has become a socket.
type answered struct{}

// Header returns a header that nobody reads.
func (answered) Header() http.Header { return http.Header{} }

// Write writes nothing.
func (answered) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader writes nothing.
func (answered) WriteHeader(int) {}

// Opened gives livetemplate the sockets of visits, which are already open.
type Opened struct{}

// Upgrade returns the socket of the visit of r.
func (Opened) Upgrade(_ http.ResponseWriter, r *http.Request, _ http.Header) (livetemplate.WSConn, error) {
	if v := visitOf(r.Context()); v != nil {
		if socket := v.browser.Load(); socket != nil {
			return *socket, nil
		}
	}
	return nil, errNoVisit
}

// Wait returns when no visit of a socket is left, or with the error of ctx when that
// ends. No visit may begin meanwhile.
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

// end ends the visit of a socket after livetemplate has finished with it.
func (c *Controller) end(ctx context.Context, v *visit) {
	_ = (*v.browser.Load()).Close() // already closed, unless livetemplate did not take it
	c.visits.Delete(v.id)
	if v.expiry != nil {
		v.expiry.Stop()
	}
	v.rendered()
	if v.viewer != nil {
		v.page.Close() // before viewer.Exit, since the page shows the viewer's room
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

// head answers a page that asks whether the server is alive. A tab with a key has a
// script, which remembers the name and joins again by itself. So its name cookie is
// removed.
func (c *Controller) head(w http.ResponseWriter, r *http.Request, pages http.Handler, hasKey bool, room string) {
	if _, err := r.Cookie(nameCookiePrefix + room); err == nil && hasKey {
		http.SetCookie(w, c.forget(r, room))
	}
	r = r.Clone(r.Context())
	r.Header.Del("Upgrade") // a HEAD request opens no socket
	w.Header().Set("Content-Type", typeOf(r.Header.Get("Accept")))
	pages.ServeHTTP(w, r)
}

// typeOf returns the content type with which livetemplate answers a GET: JSON if that is
// the first type that the client accepts.
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

// adoptParam is the query parameter in the address of the page that follows a form. It
// tells the script as which user the form joined before the tab had a key. The script
// removes it from the address, and sends it through its socket to ask that the tab become
// that connection.
const adoptParam = "adopt"

// markEarly adds this parameter to the page that follows a form with which a bare browser
// joins, and removes it from all others.
func (c *Controller) markEarly(r *http.Request, v *visit) *http.Request {
	r = r.Clone(r.Context())
	if err := r.ParseForm(); err != nil {
		return r // ReadForm has not written it
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

// mark returns the parameter for the page that follows when the browser of v joins under
// name.
func (c *Controller) mark(v *visit, name string) string {
	if v.identity.isUser() { // the user id is not one that we make
		return c.opts.Keys().UserID(v.session, v.identity.User)
	}
	return c.user(v, name).ID
}

// adopted returns the user for a mark; "" if the mark is another visitor's.
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

// kept is what a browser without JavaScript remembers of a room that it is in: its user
// there, with the time of arrival.
type kept struct {
	user  presence.User
	until time.Time
}

// fresh reports whether it is recent enough to put the user back.
func (k *kept) fresh() bool { return time.Now().Before(k.until) }

// nameCookie returns the cookie in which a browser without JavaScript remembers its user
// in a room. When Redis has lost the room, nothing else remembers that user: without a
// socket, no replica holds a member. The cookie lives little longer than the browser may
// be silent. It is signed for this browser alone.
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

// signKept returns the signature of what a browser keeps.
func (c *Controller) signKept(v *visit, name, since, until string) string {
	return c.opts.Keys().Sign("kept", v.session, v.room, name, since, until)
}

// forget returns the cookie that removes the name cookie of a room.
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

// keptBy returns what the browser of v keeps of its room. It returns nil if there is
// nothing, or if none of our replicas signed it.
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
	// seenCookiePrefix, followed by a room, names the cookie with the room's version
	// after a form of this browser. The page that follows shows no older version,
	// whichever replica serves it. A made-up version only causes one more read of the
	// room.
	seenCookiePrefix = "presence-at-"

	// seenFor is how long the cookie lives. Every replica reads its rooms again in less
	// time.
	seenFor = 10 * time.Second
)

// changed notes that a request of v has brought its room to a version.
func (c *Controller) changed(v *visit, version int64) {
	c.rooms.Heard(v.room, version)
	if v.socket || version == 0 {
		return
	}
	cookie := &http.Cookie{Name: seenCookiePrefix + v.room, Value: strconv.FormatInt(version, 10), Path: "/", MaxAge: int(seenFor.Seconds())}
	c.opts.Guard(v.request, cookie)
	v.keep(cookie)
}

// seenBy returns the version in this cookie; 0 for none.
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

// Authenticator makes livetemplate treat each visit as a browser of its own.
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

// AllowTopic lets a visit subscribe to its own topic only.
func AllowTopic(topic, _ string, r *http.Request) (bool, error) {
	v := visitOf(r.Context())
	return v != nil && topic == v.topic(), nil
}

// topic returns the livetemplate topic by which Wake reaches the visit.
func (v *visit) topic() string { return "visit/" + v.id }

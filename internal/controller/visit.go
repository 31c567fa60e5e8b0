package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/live"
	"presence/internal/presence"
	"presence/internal/replica"
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
	connection string
	generation string // that resumes; each join has its own
	bare       bool   // without a tab key: a browser without JavaScript
	lastName   string // under which a bare browser was in the room lately, or ""

	browser atomic.Pointer[Browser] // nil before the upgrade, and without one
	turn    atomic.Pointer[func()]  // ends the visit's turn to render; nil if it has none

	// Owned by the visit's actions, which run one after another, and by
	// Handler when they have ended.
	viewer   *replica.Viewer
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

// Heard is when the visit's socket was last heard of; zero if it has none.
func (v *visit) Heard() time.Time {
	if s := v.browser.Load(); s != nil {
		return (*s).Heard()
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

// Browser is what a visit knows of its socket.
type Browser interface {
	replica.Socket

	// Send sends a frame, which is not modified, without waiting for the browser.
	// sent, which may be nil, is called once it is on its way, or never will be.
	Send(frame []byte, sent func()) error

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

// View returns what there is to see of the room now.
func (v *visit) View() replica.View { return v.viewer.View() }

// Saw says that the visit's page shows view.
func (v *visit) Saw(view replica.View) { v.viewer.Saw(view) }

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
// it has none; pages is the livetemplate handler of this controller.
func (c *Controller) Handler(pages http.Handler, roomOf func(*http.Request) string, session func(http.ResponseWriter, *http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// One address answers with a page or with JSON: caches must not mix them up.
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Vary", "Accept")
		if r.Method == http.MethodHead {
			pages.ServeHTTP(w, r)
			return
		}
		v := &visit{
			controller: c,

			id:         rand.Text(),
			room:       roomOf(r),
			socket:     livetemplate.WSIsUpgrade(r),
			session:    session(w, r),
			generation: presence.NewGeneration(),
		}
		tab := r.URL.Query().Get("tab")
		if !presence.IsTabKey(tab) {
			tab = ""
		}
		v.connection = c.opts.Keys().ConnectionID(v.session, tab)
		if v.bare = tab == ""; v.bare && !v.socket {
			v.lastName = nameIn(r, v.room)
			if r.Method == http.MethodGet && v.lastName != "" {
				http.SetCookie(w, c.nameCookie(v.room, v.lastName)) // for as long again
			}
		}

		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
		// livetemplate keeps templates, and logs, by its own cookie. Given one
		// that is this visit's, it sets none, mixes up no two tabs, and knows
		// nothing that would be worth stealing from a log.
		r.Header = r.Header.Clone()
		dropCookie(r, groupCookie)
		r.AddCookie(&http.Cookie{Name: groupCookie, Value: v.id})

		if v.socket {
			c.open.Add(1)
			defer c.open.Done()
			c.visits.Store(v.id, v)
			defer c.end(r.Context(), v)
		}
		pages.ServeHTTP(w, r)
	})
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

// end ends the visit of a socket that has closed.
func (c *Controller) end(ctx context.Context, v *visit) {
	c.visits.Delete(v.id)
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
		err = errors.Join(err, c.replica.Abandon(v.room, v.connection, v.generation))
	}
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelDebug, "connection not released; it ends with its lease", slog.Any("err", err))
	}
}

// nameCookie remembers in a browser without JavaScript under which name it is in
// a room. When Redis has lost it, nobody else does: there is no socket, and so
// no replica that holds it. It lives little longer than the browser is silent.
// With an empty name it forgets.
func (c *Controller) nameCookie(room, name string) *http.Cookie {
	cookie := &http.Cookie{
		Name:     nameCookiePrefix + room,
		Value:    url.QueryEscape(name),
		Path:     "/",
		MaxAge:   nameCookieRefreshes * max(1, int(c.opts.Refresh.Seconds())),
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	}
	if name == "" {
		cookie.MaxAge = -1
	}
	return cookie
}

const (
	nameCookiePrefix = "presence-in-"

	// nameCookieRefreshes is how many reloads of the page the cookie outlives.
	nameCookieRefreshes = 6
)

// nameIn returns the name that the browser of r was in room under, if it is a
// name at all.
func nameIn(r *http.Request, room string) string {
	cookie, err := r.Cookie(nameCookiePrefix + room)
	if err != nil {
		return ""
	}
	typed, err := url.QueryUnescape(cookie.Value)
	if err != nil {
		return ""
	}
	name, err := presence.CleanName(typed)
	if err != nil {
		return ""
	}
	return name
}

// dropCookie removes what the browser sent under name.
func dropCookie(r *http.Request, name string) {
	cookies := r.Cookies()
	r.Header.Del("Cookie")
	for _, cookie := range cookies {
		if cookie.Name != name {
			r.AddCookie(cookie)
		}
	}
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

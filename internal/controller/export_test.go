package controller

import (
	"log/slog"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
)

// TestRoom is a room whose views a test makes up.
type TestRoom struct {
	View  replica.View // the newest
	Woken int          // how often livetemplate was asked to look again
	Shown int          // how often all pages had been sent what was new

	pages *pages
}

// NewTestRoom returns a room that pages of the template can look at.
func NewTestRoom(tb testing.TB, template *livetemplate.Template) *TestRoom {
	tb.Helper()
	l, err := newLayout(template)
	if err != nil {
		tb.Fatal(err)
	}
	r := &TestRoom{View: replica.View{Stale: true, Sequence: 1}}
	r.pages = newPages(l, slog.New(slog.DiscardHandler), func(*visit) {
		r.Woken++
		if !r.pages.mu.TryLock() {
			tb.Error("livetemplate is called with a lock held that its own goroutines wait for")
			return
		}
		r.pages.mu.Unlock()
	})
	return r
}

// Show brings all pages up to View.
func (r *TestRoom) Show() { r.pages.show(func() { r.Shown++ }) }

// TestPage is an open page of a room.
type TestPage struct {
	v    *visit
	Seen int64 // Sequence of the view that it says it has shown
}

// Open opens a page, of which frames is given what is sent.
func (r *TestRoom) Open(browser Browser) *TestPage {
	page := &TestPage{}
	page.v = &visit{pages: r.pages, viewer: testViewer{r, page}}
	page.v.browser.Store(&browser)
	r.pages.add(page.v)
	return page
}

type testViewer struct {
	room *TestRoom
	page *TestPage
}

func (v testViewer) View() replica.View    { return v.room.View }
func (v testViewer) Saw(view replica.View) { v.page.Seen = view.Sequence }
func (v testViewer) Exit()                 {}

// Close closes the page.
func (p *TestPage) Close() { p.v.pages.remove(p.v) }

// Rendered is what livetemplate does with a frame.
func (p *TestPage) Rendered(frame []byte) error { return p.v.receive(frame) }

// Acted is what a successful Join or Leave does.
func (p *TestPage) Acted(user string, occupancy presence.Occupancy, asOf time.Time) {
	p.v.pages.acted(p.v, user, occupancy, asOf)
}

// Resolved is what looking up the tab does.
func (p *TestPage) Resolved(known bool, user string) { p.v.pages.resolved(p.v, known, user) }

// Noticed is what an action does that failed for want of Redis.
func (p *TestPage) Noticed() { p.v.pages.noticed(p.v) }

// Whole is the state of a page that shows view to user; more is what it shows
// besides.
func Whole(view replica.View, user presence.User, more PresenceState) PresenceState {
	if user.ID != "" {
		more = more.as(user)
	}
	return more.shows(view)
}

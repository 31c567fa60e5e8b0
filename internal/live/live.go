package live

import (
	"log/slog"
	"sync"

	"github.com/livetemplate/livetemplate"

	"presence/internal/replica"
)

// Viewer is somebody who looks at a room, as a page of it knows him.
type Viewer interface {
	// Send sends a frame to the page, without waiting for it. The frame is not
	// modified. sent, which may be nil, is called once it is on its way, or never will
	// be. An error means that the page is gone.
	Send(frame []byte, sent func()) error

	// View returns what there is to see of the room now.
	View() replica.View

	// Saw says that the page has been sent what is to be seen of view.
	Saw(view replica.View)

	// Wake has livetemplate render what is the visitor's own again. It may wait for
	// frames that livetemplate is sending, and so for calls of [Page.Receive].
	Wake()
}

// Pages are the open pages of all rooms.
type Pages struct {
	layout *layout
	log    *slog.Logger

	mu    sync.Mutex       // guards:
	rooms map[string]*room // that have any
}

// New returns the pages that are rendered from template, none of which is open yet.
// An error says why the template can't be divided into what all who look at a room
// share and what is the visitor's own.
func New(template *livetemplate.Template, samples Samples, log *slog.Logger) (*Pages, error) {
	l, err := newLayout(template, samples)
	if err != nil {
		return nil, err
	}
	return &Pages{layout: l, log: log, rooms: map[string]*room{}}, nil
}

// Show brings the open pages of a room up to date. shown is called as soon as nearly
// all have been sent what is new.
func (p *Pages) Show(name string, shown func()) {
	p.mu.Lock()
	r := p.rooms[name]
	p.mu.Unlock()
	if r == nil {
		shown()
		return
	}
	r.show(shown)
}

// Open makes the page of a viewer one of those that Show brings up to date, until it
// is closed.
func (p *Pages) Open(name string, viewer Viewer) *Page {
	p.mu.Lock()
	r := p.rooms[name]
	if r == nil {
		r = newRoom(name, p.layout, p.log)
		p.rooms[name] = r
	}
	r.n++
	p.mu.Unlock()
	return r.open(viewer, p)
}

// close ends what Open began.
func (p *Pages) close(page *Page) {
	r := page.room
	r.remove(page)
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.n--; r.n == 0 {
		delete(p.rooms, r.name)
	}
}

package live

import (
	"log/slog"
	"runtime"
	"sync"

	"github.com/livetemplate/livetemplate"

	"presence/internal/room"
)

// Viewer is the visitor of a page, as the page knows them.
type Viewer interface {
	// Send sends a frame to the page, without waiting for it. The frame is not
	// modified. sent, which may be nil, is called once it is on its way, or never will
	// be. An error means that the page is gone.
	Send(frame []byte, sent func()) error

	// View returns the room as it is seen now.
	View() room.View

	// Saw says that the page has been sent what is to be seen of view.
	Saw(view room.View)

	// Wake has livetemplate render what is the visitor's own again. It may wait for
	// frames that livetemplate is sending, and so for calls of [Page.Receive].
	Wake()
}

// Pages are the open pages of all rooms.
type Pages struct {
	layout *layout
	log    *slog.Logger
	turns  chan struct{} // holds one for each room that is being shown

	mu    sync.Mutex        // guards:
	rooms map[string]*board // that have any
}

// showsPerProcessor keeps processors busy when thousands of rooms change at once, and
// what else waits for one waiting for some milliseconds only.
const showsPerProcessor = 8

// Options are the settings of [Pages].
type Options struct {
	// State returns the state from which a page is rendered that shows view to
	// somebody of whom nothing is known. It is a struct in which each field has a tag
	// that says whose it is:
	//
	//	live:"shared"  the same for all who look at the room
	//	live:"own"     the visitor's own, or the page's: livetemplate renders it
	//
	// One field is a list, shared, and its structs have, beside shared fields, one
	// with the tag "id", a text by which a row is known, and one with the tag "mark",
	// a bool that is set in the visitor's own row.
	State func(view room.View) any

	// Messages are the keys of the flashes, and the fields of errors, that a page may
	// show. They are its visitor's own.
	Messages []string

	// Logger: nil means no logs.
	Logger *slog.Logger
}

// New returns the pages that are rendered from template, none of which is open yet.
//
// It renders template from many states, each field of which is varied, and refuses it
// if a slot depends on what is shared and on what is the visitor's own: that slot would
// show only one of the two. The error names both fields.
func New(template *livetemplate.Template, opts Options) (*Pages, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := newLayout(template, opts)
	if err != nil {
		return nil, err
	}
	return (&Pages{layout: l}).Empty(opts.Logger), nil
}

// Empty returns pages that are rendered from the same template, none of which is open
// yet. It spares the many renderings of New.
func (p *Pages) Empty(log *slog.Logger) *Pages {
	return &Pages{
		layout: p.layout, log: log,
		turns: make(chan struct{}, showsPerProcessor*runtime.GOMAXPROCS(0)),
		rooms: map[string]*board{},
	}
}

// Open makes the page of a viewer one of its room's [Page.Audience], until it is closed.
// The viewer has to look at the room before the page has its first frame.
func (p *Pages) Open(name string, viewer Viewer) *Page {
	p.mu.Lock()
	b := p.rooms[name]
	if b == nil {
		b = newBoard(name, p)
		p.rooms[name] = b
	}
	b.n++
	p.mu.Unlock()
	return b.open(viewer)
}

// close ends what Open began.
func (p *Pages) close(page *Page) {
	b := page.board
	b.remove(page)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.n--; b.n == 0 {
		delete(p.rooms, b.name)
	}
}

// Audience is all open pages of the page's room, as the room is shown to them.
func (p *Page) Audience() room.Audience { return p.board }

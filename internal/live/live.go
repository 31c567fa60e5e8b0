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
	// Send sends a frame to the page without waiting. It does not modify the frame. If
	// sent is not nil, it is called when the frame has been written or never will be. An
	// error means that the page is gone.
	Send(frame []byte, sent func()) error

	// View returns the present view of the room.
	View() room.View

	// Saw says that the page has been sent what view shows.
	Saw(view room.View)

	// Wake makes livetemplate render the visitor's own part again. It may wait for frames
	// that livetemplate is sending, and so for calls of [Page.Receive].
	Wake()
}

// Pages are the open pages of all rooms.
type Pages struct {
	layout *layout
	log    *slog.Logger
	turns  chan struct{} // holds one token for each room that is being shown

	mu    sync.Mutex        // guards:
	rooms map[string]*board // rooms that have open pages
}

// showsPerProcessor limits how many rooms are shown at a time. It keeps the processors
// busy when thousands of rooms change at once, and makes other goroutines wait for one
// only some milliseconds.
const showsPerProcessor = 8

// Options are the settings of [Pages].
type Options struct {
	// State returns the state of a page that shows view to an unknown visitor. It is a
	// struct. Each field has a tag that says to whom it belongs:
	//
	//	live:"shared"  the same for all visitors of the room
	//	live:"own"     belongs to the visitor or the page: livetemplate renders it
	//
	// One shared field is a list of structs, the rows. Besides shared fields, a row has a
	// text with the tag "id", which identifies the row, and a bool with the tag "mark",
	// which is set in the visitor's own row.
	State func(view room.View) any

	// Messages are the keys of the flashes, and the fields of the errors, that a page can
	// show. They belong to the visitor.
	Messages []string

	// Logger: nil means no logs.
	Logger *slog.Logger
}

// New returns pages that are rendered from template. None is open yet.
//
// New renders template from many states, in which it varies each field. It refuses the
// template if a slot depends on both a shared field and one of the visitor, because that
// slot would show only one of them. The error names both fields.
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
// yet. It does not repeat the many renderings of New.
func (p *Pages) Empty(log *slog.Logger) *Pages {
	return &Pages{
		layout: p.layout, log: log,
		turns: make(chan struct{}, showsPerProcessor*runtime.GOMAXPROCS(0)),
		rooms: map[string]*board{},
	}
}

// Open adds the page of a viewer to the [Page.Audience] of its room, until the page is
// closed. The viewer must look at the room before the page gets its first frame.
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

// close undoes Open.
func (p *Pages) close(page *Page) {
	b := page.board
	b.remove(page)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.n--; b.n == 0 {
		delete(p.rooms, b.name)
	}
}

// Audience returns the audience of all open pages of this page's room.
func (p *Page) Audience() room.Audience { return p.board }

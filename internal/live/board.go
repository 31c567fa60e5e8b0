package live

import (
	"log/slog"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/room"
	"presence/internal/wire"
)

// board is the open pages of one room at this replica. It is an audience of the room.
//
// All pages show the same of the room. It is rendered once for each change, and all pages
// are sent the same difference. livetemplate renders only the visitor's own part. The two
// renderings never use the same slot of a page, so their order does not matter.
type board struct {
	all    *Pages
	name   string
	layout *layout
	log    *slog.Logger

	// n is the number of pages. Pages.mu guards it, so that opening or closing a page of
	// another room does not wait until this room has been shown.
	n int

	mu       sync.Mutex // guards what follows, and the rest of each page:
	pages    map[*Page]bool
	view     room.View              // what the pages show
	asleep   []*Page                // pages to wake as soon as mu is not held
	last     *livetemplate.Template // the page that rendered view; nil if view has not been rendered
	rendered map[bool]rendering     // renderings of all of view, by whether it is marked stale; made when needed
}

// rendering is everything that pages show of a room, without the mark of a visitor's own row.
type rendering struct {
	slots wire.Slots
	frame []byte // of slots
}

// Page is an open page of a room.
type Page struct {
	board  *board
	viewer Viewer

	// The fields below say what the page shows; board.mu guards them.

	open  bool   // the page's first frame has been sent
	shown int64  // Sequence of the view that is shown; 0: something else is shown
	user  string // user id of the visitor's own row, or ""

	// unresolved says that Redis has not yet answered whether this tab is in the room.
	// Until then the page shows the room as stale.
	unresolved bool

	// noticed says that the page shows a notice which has to end with the outage.
	noticed bool

	// The answer to the visitor's last action: the number of users, at this version. The
	// room was read at asOf or later.
	users   int
	version int64
	asOf    time.Time
}

// ahead reports whether the page shows something newer than view. After a failover the
// newer one may have a lower version, but was read later.
func (p *Page) ahead(view room.View) bool {
	return view.Version < p.version && view.AsOf.Before(p.asOf)
}

func newBoard(name string, pages *Pages) *board {
	return &board{all: pages, name: name, layout: pages.layout, log: pages.log, pages: map[*Page]bool{}}
}

// open adds the page of a viewer.
func (b *board) open(viewer Viewer) *Page {
	p := &Page{board: b, viewer: viewer}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages[p] = true
	return p
}

// remove undoes open.
func (b *board) remove(p *Page) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pages, p)
}

// delivery is one change on its way to many pages.
type delivery struct {
	pages int          // pages that it is sent to
	left  atomic.Int64 // how many more sockets have to take it until it counts as delivered
	done  func()       // called once, when left is 0
}

// leastPages is how many pages a goroutine sends a change to at least. As many take about a
// millisecond.
const leastPages = 128

// unknown is more than any number of pages. left starts with it, because the number of
// pages is not known yet.
const unknown = 1 << 40

func newDelivery(done func()) *delivery {
	d := &delivery{done: done}
	d.left.Store(unknown)
	return d
}

// next counts n more pages, and returns the function that their sockets have to call.
func (d *delivery) next(n int) func() {
	if d == nil {
		return nil
	}
	d.pages += n
	return d.sent
}

func (d *delivery) sent() {
	if d.left.Add(-1) == 0 {
		d.done()
	}
}

// end says that there are no more pages. The delivery does not wait for the last page in
// twenty, which may hang.
func (d *delivery) end() {
	if d.left.Add(int64(d.pages-d.pages/20)-unknown) <= 0 {
		d.done()
	}
}

// Show brings all pages up to view. It calls shown as soon as nearly all sockets have
// taken the change.
func (b *board) Show(view room.View, shown func()) {
	b.all.turns <- struct{}{}
	for _, p := range b.show(view, shown) {
		p.viewer.Wake()
	}
}

// show brings all pages up to view, and returns the pages to wake. It ends the turn that
// Show took.
func (b *board) show(view room.View, shown func()) []*Page {
	defer func() { <-b.all.turns }()
	d := newDelivery(shown)
	defer d.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.showLocked(view, d)
	asleep := b.asleep
	b.asleep = nil
	return asleep
}

// showLocked brings all pages up to view. It wakes no page: for that, livetemplate takes
// a lock which it also holds while a connection ends, until Receive has taken that
// connection's last frame.
func (b *board) showLocked(view room.View, d *delivery) {
	var update []byte
	before := b.view
	if view.Sequence > before.Sequence {
		update = b.renderLocked(view)
		b.view, b.rendered = view, nil
	}
	var updated []*Page
	for p := range b.pages {
		if !p.open || p.shown == b.view.Sequence {
			continue
		}
		if p.unresolved || p.noticed && before.Stale && !b.view.Stale {
			b.asleep = append(b.asleep, p)
		}
		if update == nil || p.shown != before.Sequence || p.unresolved {
			b.showAllLocked(p, d)
			continue
		}
		updated = append(updated, p)
	}
	b.updateLocked(updated, update, d.next(len(updated)))
}

// updateLocked sends pages the update that brings them to b.view: many pages in as many
// goroutines as there are processors, since nearly all of the time is that of the writes.
func (b *board) updateLocked(pages []*Page, update []byte, sent func()) {
	send := func(pages []*Page) {
		for _, p := range pages {
			_ = p.viewer.Send(b.layout.mark.Put(update, p.user), sent)
			p.shown = b.view.Sequence
			p.viewer.Saw(b.view)
		}
	}
	parts := max(1, min(runtime.GOMAXPROCS(0), len(pages)/leastPages))
	var others sync.WaitGroup
	for i := 1; i < parts; i++ {
		others.Go(func() { send(pages[i*len(pages)/parts : (i+1)*len(pages)/parts]) })
	}
	send(pages[:len(pages)/parts])
	others.Wait()
}

// renderLocked returns the frame that changes pages from b.view to view. It returns nil
// if no page shows b.view, or if pages need the whole room.
func (b *board) renderLocked(view room.View) []byte {
	if !b.anyShowsLocked(b.view) {
		b.last = nil
		return nil
	}
	changed, err := b.changesLocked(view)
	if err != nil {
		b.log.Error("room not rendered", "err", err)
		b.last = nil
		return nil
	}
	return wire.Frame{Tree: changed}.Encode()
}

// anyShowsLocked reports whether some page shows exactly view.
func (b *board) anyShowsLocked(view room.View) bool {
	for p := range b.pages {
		if p.open && p.shown == view.Sequence {
			return true
		}
	}
	return false
}

// changesLocked renders the difference between b.view and view.
func (b *board) changesLocked(view room.View) (wire.Slots, error) {
	if b.last == nil {
		page, err := b.layout.blank()
		if err != nil {
			return nil, err
		}
		if _, err := render(page, b.layout.state(b.view), nil); err != nil {
			return nil, err
		}
		b.last = page
	}
	return render(b.last, b.layout.state(view), nil)
}

// wholeLocked returns everything that a page shows of the room, or false if it can't be
// rendered.
func (b *board) wholeLocked(p *Page) (rendering, bool) {
	stale := b.view.Stale || p.unresolved
	room, ok := b.rendered[stale]
	if !ok {
		view := b.view
		view.Stale = stale
		all, err := b.layout.room(view)
		if err != nil {
			b.log.Error("room not rendered", "err", err)
			return rendering{}, false
		}
		room = rendering{all, wire.Frame{Tree: all}.Encode()}
		if b.rendered == nil {
			b.rendered = map[bool]rendering{}
		}
		b.rendered[stale] = room
	}
	if p.ahead(b.view) {
		all := maps.Clone(room.slots)
		maps.Copy(all, b.layout.countsOf(p.users))
		room = rendering{all, wire.Frame{Tree: all}.Encode()}
	}
	return room, true
}

// showAllLocked sends a page everything it shows of the room, whatever it shows now.
func (b *board) showAllLocked(p *Page, d *delivery) {
	if room, ok := b.wholeLocked(p); ok {
		_ = p.viewer.Send(b.layout.mark.Put(room.frame, p.user), d.next(1))
		b.sawLocked(p)
	}
}

// sawLocked notes that a page has been sent the whole of b.view.
func (b *board) sawLocked(p *Page) {
	if p.shown = 0; p.unresolved || p.ahead(b.view) {
		return // the next view, or a reminder, sends it again
	}
	p.shown = b.view.Sequence
	p.viewer.Saw(b.view)
}

// Receive takes a frame that livetemplate has rendered for the page, and sends it.
// livetemplate renders the first frame from an empty view, so Receive puts in what is
// known of the room.
func (p *Page) Receive(frame []byte) error {
	b := p.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.open {
		return p.viewer.Send(frame, nil)
	}
	if view := p.viewer.View(); view.Sequence > b.view.Sequence {
		b.showLocked(view, nil)
	}
	p.open = true
	if room, ok := b.wholeLocked(p); ok {
		frame = b.layout.mark.Put(wire.Splice(frame, room.slots), p.user)
		b.sawLocked(p)
	}
	return p.viewer.Send(frame, nil)
}

// Acted makes the page show at once how the visitor's own action has changed the room.
// user is who the visitor is now. The action began at asOf.
func (p *Page) Acted(user string, occupancy presence.Occupancy, asOf time.Time) {
	b := p.board
	b.mu.Lock()
	defer b.mu.Unlock()
	doubted := p.unresolved
	p.user, p.unresolved, p.noticed = user, false, false
	p.users, p.version, p.asOf = occupancy.Users, occupancy.Version, asOf
	switch {
	case !p.open:
	case p.ahead(b.view) && !doubted:
		p.shown = 0 // the next view brings the rest
		_ = p.viewer.Send(wire.Frame{Tree: b.layout.countsOf(p.users)}.Encode(), nil)
	default:
		b.showAllLocked(p, nil)
	}
}

// Resolved notes whether it is known if the page's tab is in the room, and as which user.
func (p *Page) Resolved(known bool, user string) {
	b := p.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if known {
		p.user = user
	}
	if was := p.unresolved; was == !known {
		return
	}
	if p.unresolved = !known; p.open {
		b.showAllLocked(p, nil)
	}
}

// Unresolved reports whether it is not known yet if the page's tab is in the room.
func (p *Page) Unresolved() bool {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	return p.unresolved
}

// Noticed notes that the page shows a notice of an outage.
func (p *Page) Noticed() {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	p.noticed = true
}

// Close undoes [Pages.Open].
func (p *Page) Close() { p.board.all.close(p) }

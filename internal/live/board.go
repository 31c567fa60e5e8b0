package live

import (
	"log/slog"
	"maps"
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
// All of them show the same of the room. It is rendered once for each change, and the
// difference is sent to all pages as it is. livetemplate renders only the visitor's own
// part. The two renderings never use the same slot of a page, so their order does not
// matter.
type board struct {
	all    *Pages
	name   string
	layout *layout
	log    *slog.Logger

	// n is the number of pages. Pages.mu guards it, so that opening or closing a page of
	// another room does not wait until this room has been shown.
	n int

	mu     sync.Mutex // guards what follows, and the rest of each page:
	pages  map[*Page]bool
	view   room.View              // what the pages show
	asleep []*Page                // to be woken as soon as mu is not held
	last   *livetemplate.Template // has rendered view last; nil if that is to be done yet
	whole  map[bool]whole         // view as a whole, by whether it is marked stale; made when needed
}

// whole is everything that pages show of a room, without the mark of a visitor's own row.
type whole struct {
	slots wire.Slots
	frame []byte // of slots
}

// Page is an open page of a room.
type Page struct {
	board  *board
	viewer Viewer

	// What it shows, guarded by board.mu.

	open  bool   // the first frame is on its way
	shown int64  // Sequence of the view that is shown; 0: something else is
	user  string // whose row is the visitor's own, or ""

	// unresolved says that Redis could not tell yet whether this tab is in the
	// room. What the page shows counts as stale until then.
	unresolved bool

	// noticed says that the page has a notice which ends with the outage.
	noticed bool

	// The answer to the visitor's last action: how many users there were, in which
	// version, at that time or later.
	users   int
	version int64
	asOf    time.Time
}

// ahead reports whether the page shows something newer than view. After a failover a
// lower version that was read later is the newer one.
func (p *Page) ahead(view room.View) bool {
	return view.Version < p.version && view.AsOf.Before(p.asOf)
}

func newBoard(name string, pages *Pages) *board {
	return &board{all: pages, name: name, layout: pages.layout, log: pages.log, pages: map[*Page]bool{}}
}

// open takes in the page of a viewer.
func (b *board) open(viewer Viewer) *Page {
	p := &Page{board: b, viewer: viewer}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages[p] = true
	return p
}

// remove ends what open began.
func (b *board) remove(p *Page) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pages, p)
}

// delivery is one change on its way to many pages.
type delivery struct {
	pages int          // that it is sent to
	left  atomic.Int64 // how many of nearly all sockets have not taken it yet
	done  func()       // called once when left is 0
}

// unknown is a number above any number of pages, for as long as that is not known.
const unknown = 1 << 40

func newDelivery(done func()) *delivery {
	d := &delivery{done: done}
	d.left.Store(unknown)
	return d
}

// next counts one more page, and returns what its socket has to call.
func (d *delivery) next() func() {
	if d == nil {
		return nil
	}
	d.pages++
	return d.sent
}

func (d *delivery) sent() {
	if d.left.Add(-1) == 0 {
		d.done()
	}
}

// end says that there are no more pages. The delivery does not wait for the last one in
// twenty, which may hang.
func (d *delivery) end() {
	if d.left.Add(int64(d.pages-d.pages/20)-unknown) <= 0 {
		d.done()
	}
}

// Show brings all pages up to view. shown is called as soon as the sockets of nearly
// all have taken what is new.
func (b *board) Show(view room.View, shown func()) {
	b.all.turns <- struct{}{}
	for _, p := range b.show(view, shown) {
		p.viewer.Wake()
	}
}

// show brings all pages up to view, in a turn of the room, which it ends, and returns
// those that are to be woken.
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

// showLocked brings all pages up to view. It wakes nobody: to do so, livetemplate
// takes a lock that it holds when a connection ends, while it waits until the last
// frame of that has been taken by Receive.
func (b *board) showLocked(view room.View, d *delivery) {
	var update []byte
	before := b.view
	if view.Sequence > before.Sequence {
		update = b.renderLocked(view)
		b.view, b.whole = view, nil
	}
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
		_ = p.viewer.Send(b.layout.mark.Put(update, p.user), d.next())
		p.shown = b.view.Sequence
		p.viewer.Saw(b.view)
	}
}

// renderLocked returns the frame by which pages that show b.view come to show view;
// nil if there are none, or they need it whole.
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

// changesLocked renders what view has that b.view has not.
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

// wholeLocked returns all that a page shows of the room; false if it
// can't be rendered.
func (b *board) wholeLocked(p *Page) (whole, bool) {
	stale := b.view.Stale || p.unresolved
	room, ok := b.whole[stale]
	if !ok {
		view := b.view
		view.Stale = stale
		all, err := b.layout.room(view)
		if err != nil {
			b.log.Error("room not rendered", "err", err)
			return whole{}, false
		}
		room = whole{all, wire.Frame{Tree: all}.Encode()}
		if b.whole == nil {
			b.whole = map[bool]whole{}
		}
		b.whole[stale] = room
	}
	if p.ahead(b.view) {
		all := maps.Clone(room.slots)
		maps.Copy(all, b.layout.countsOf(p.users))
		room = whole{all, wire.Frame{Tree: all}.Encode()}
	}
	return room, true
}

// showAllLocked has a page show all there is to see of the room,
// whatever it shows now.
func (b *board) showAllLocked(p *Page, d *delivery) {
	if room, ok := b.wholeLocked(p); ok {
		_ = p.viewer.Send(b.layout.mark.Put(room.frame, p.user), d.next())
		b.sawLocked(p)
	}
}

// sawLocked notes that a page has been sent the whole of b.view.
func (b *board) sawLocked(p *Page) {
	if p.shown = 0; p.unresolved || p.ahead(b.view) {
		return // and is sent it again when the next view, or a reminder, comes
	}
	p.shown = b.view.Sequence
	p.viewer.Saw(b.view)
}

// Receive takes a frame that livetemplate has rendered for the page, and sends it. The
// first is of a room that nothing is known of: it gets what is.
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

// Acted has the page show, at once, what became of the room by the visitor's own
// action, which began at asOf; user is who the visitor is now.
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
		p.shown = 0 // the view that will come tells the rest
		_ = p.viewer.Send(wire.Frame{Tree: b.layout.countsOf(p.users)}.Encode(), nil)
	default:
		b.showAllLocked(p, nil)
	}
}

// Resolved notes whether it is known yet if the tab of the page is in the room, and as
// which user.
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

// Unresolved reports whether it is not known yet if the tab of the page is in the room.
func (p *Page) Unresolved() bool {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	return p.unresolved
}

// Noticed notes that the page has a notice of an outage.
func (p *Page) Noticed() {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	p.noticed = true
}

// Close ends what [Pages.Open] began.
func (p *Page) Close() { p.board.all.close(p) }

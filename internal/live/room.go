package live

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/wire"
)

// room is the open pages of one room at this replica.
//
// What they show of the room is the same for all of them. It is rendered once for
// each change, and what has changed is sent to all as it is. livetemplate renders
// only what is a visitor's own. The two never speak of the same slot of a page, so
// it does not matter which of them speaks first.
type room struct {
	all    *Pages
	name   string
	layout *layout
	log    *slog.Logger

	// n is the number of pages, for Pages.mu to guard: who opens or closes a page of
	// another room does not wait until this one has been shown.
	n int

	mu     sync.Mutex // guards what follows, and the rest of each page:
	pages  map[*Page]bool
	view   replica.View           // what the pages show
	asleep []*Page                // to be woken as soon as mu is not held
	last   *livetemplate.Template // has rendered view last; nil if that is to be done yet
	whole  map[bool]whole         // view as a whole, by whether it is marked stale; made when needed
}

// whole is all that pages show of a room, with nobody's own row marked.
type whole struct {
	slots wire.Slots
	frame []byte // of slots
}

// Page is an open page of a room.
type Page struct {
	room   *room
	viewer Viewer

	// What it shows, guarded by room.mu.

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

// ahead reports whether the page shows something newer than view. A lower version
// that was read later is what a failover left.
func (p *Page) ahead(view replica.View) bool {
	return view.Version < p.version && view.AsOf.Before(p.asOf)
}

func newRoom(name string, pages *Pages) *room {
	return &room{all: pages, name: name, layout: pages.layout, log: pages.log, pages: map[*Page]bool{}}
}

// open takes in the page of a viewer.
func (r *room) open(viewer Viewer) *Page {
	p := &Page{room: r, viewer: viewer}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pages[p] = true
	return p
}

// remove ends what open began.
func (r *room) remove(p *Page) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pages, p)
}

// delivery is one change on its way to many pages.
type delivery struct {
	pages int          // that it is sent to
	left  atomic.Int64 // of nearly all of them: those whose sockets have yet to take it
	done  func()       // called once when there are none
}

// unknown is more pages than there are, until their number is known.
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

// end says that there are no more pages. One in twenty may hang without being
// waited for.
func (d *delivery) end() {
	if d.left.Add(int64(d.pages-d.pages/20)-unknown) <= 0 {
		d.done()
	}
}

// newest is the newest view of the room, as its viewers have it.
func (r *room) newest() replica.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pages {
		return p.viewer.View() // all look at the same
	}
	return r.view
}

// Show brings all pages up to view. shown is called as soon as the sockets of nearly
// all have taken what is new.
func (r *room) Show(view replica.View, shown func()) {
	r.all.turns <- struct{}{}
	for _, p := range r.show(view, shown) {
		p.viewer.Wake()
	}
}

// show brings all pages up to view, in a turn of the room, which it ends, and returns
// those that are to be woken.
func (r *room) show(view replica.View, shown func()) []*Page {
	defer func() { <-r.all.turns }()
	d := newDelivery(shown)
	defer d.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.showLocked(view, d)
	asleep := r.asleep
	r.asleep = nil
	return asleep
}

// showLocked brings all pages up to view. It wakes nobody: to do so, livetemplate
// takes a lock that it holds when a connection ends, while it waits until the last
// frame of that has been taken by Receive.
func (r *room) showLocked(view replica.View, d *delivery) {
	var update []byte
	before := r.view
	if view.Sequence > before.Sequence {
		update = r.renderLocked(view)
		r.view, r.whole = view, nil
	}
	for p := range r.pages {
		if !p.open || p.shown == r.view.Sequence {
			continue
		}
		if p.unresolved || p.noticed && before.Stale && !r.view.Stale {
			r.asleep = append(r.asleep, p)
		}
		if update == nil || p.shown != before.Sequence || p.unresolved {
			r.showAllLocked(p, d)
			continue
		}
		_ = p.viewer.Send(r.layout.mark.Put(update, p.user), d.next())
		p.shown = r.view.Sequence
		p.viewer.Saw(r.view)
	}
}

// renderLocked returns the frame by which pages that show r.view come to show view;
// nil if there are none, or they need it whole.
func (r *room) renderLocked(view replica.View) []byte {
	if !r.anyShowsLocked(r.view) {
		r.last = nil
		return nil
	}
	changed, err := r.changesLocked(view)
	if err != nil {
		r.log.Error("room not rendered", "err", err)
		r.last = nil
		return nil
	}
	return wire.Frame{Tree: changed}.Encode()
}

// anyShowsLocked reports whether some page shows exactly view.
func (r *room) anyShowsLocked(view replica.View) bool {
	for p := range r.pages {
		if p.open && p.shown == view.Sequence {
			return true
		}
	}
	return false
}

// changesLocked renders what view has that r.view has not.
func (r *room) changesLocked(view replica.View) (wire.Slots, error) {
	if r.last == nil {
		page, err := r.layout.blank()
		if err != nil {
			return nil, err
		}
		if _, err := render(page, r.layout.state(r.view), nil); err != nil {
			return nil, err
		}
		r.last = page
	}
	return render(r.last, r.layout.state(view), nil)
}

// wholeLocked returns all that a page shows of the room; false if it
// can't be rendered.
func (r *room) wholeLocked(p *Page) (whole, bool) {
	stale := r.view.Stale || p.unresolved
	room, ok := r.whole[stale]
	if !ok {
		view := r.view
		view.Stale = stale
		all, err := r.layout.room(view)
		if err != nil {
			r.log.Error("room not rendered", "err", err)
			return whole{}, false
		}
		room = whole{all, wire.Frame{Tree: all}.Encode()}
		if r.whole == nil {
			r.whole = map[bool]whole{}
		}
		r.whole[stale] = room
	}
	if p.ahead(r.view) {
		all := maps.Clone(room.slots)
		maps.Copy(all, r.layout.countsOf(p.users))
		room = whole{all, wire.Frame{Tree: all}.Encode()}
	}
	return room, true
}

// showAllLocked has a page show all there is to see of the room,
// whatever it shows now.
func (r *room) showAllLocked(p *Page, d *delivery) {
	if room, ok := r.wholeLocked(p); ok {
		_ = p.viewer.Send(r.layout.mark.Put(room.frame, p.user), d.next())
		r.sawLocked(p)
	}
}

// sawLocked notes that a page has been sent the whole of r.view.
func (r *room) sawLocked(p *Page) {
	if p.shown = 0; p.unresolved || p.ahead(r.view) {
		return // and is sent it again when the next view, or a reminder, comes
	}
	p.shown = r.view.Sequence
	p.viewer.Saw(r.view)
}

// Receive takes a frame that livetemplate has rendered for the page, and sends it. The
// first is of a room that nothing is known of: it gets what is.
func (p *Page) Receive(frame []byte) error {
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.open {
		return p.viewer.Send(frame, nil)
	}
	if view := p.viewer.View(); view.Sequence > r.view.Sequence {
		r.showLocked(view, nil)
	}
	p.open = true
	if room, ok := r.wholeLocked(p); ok {
		frame = r.layout.mark.Put(wire.Splice(frame, room.slots), p.user)
		r.sawLocked(p)
	}
	return p.viewer.Send(frame, nil)
}

// Acted has the page show, at once, what became of the room by the visitor's own
// action, which began at asOf; user is who the visitor is now.
func (p *Page) Acted(user string, occupancy presence.Occupancy, asOf time.Time) {
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	doubted := p.unresolved
	p.user, p.unresolved, p.noticed = user, false, false
	p.users, p.version, p.asOf = occupancy.Users, occupancy.Version, asOf
	switch {
	case !p.open:
	case p.ahead(r.view) && !doubted:
		p.shown = 0 // the view that will come tells the rest
		_ = p.viewer.Send(wire.Frame{Tree: r.layout.countsOf(p.users)}.Encode(), nil)
	default:
		r.showAllLocked(p, nil)
	}
}

// Resolved notes whether it is known yet if the tab of the page is in the room, and as
// which user.
func (p *Page) Resolved(known bool, user string) {
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if known {
		p.user = user
	}
	if was := p.unresolved; was == !known {
		return
	}
	if p.unresolved = !known; p.open {
		r.showAllLocked(p, nil)
	}
}

// Unresolved reports whether it is not known yet if the tab of the page is in the room.
func (p *Page) Unresolved() bool {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	return p.unresolved
}

// Noticed notes that the page has a notice of an outage.
func (p *Page) Noticed() {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	p.noticed = true
}

// Close ends what [Pages.Open] began.
func (p *Page) Close() { p.room.all.close(p) }

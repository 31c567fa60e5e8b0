package controller

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
)

// pages are the open pages of one room at this replica.
//
// What they show of the room is the same for all of them. It is rendered once for
// each change, and what has changed is sent to all as it is. livetemplate renders
// only what is a visitor's own. The two never speak of the same slot of a page, so
// it does not matter which of them speaks first.
type pages struct {
	layout *layout
	log    *slog.Logger
	wake   func(*visit) // has livetemplate render what is the visitor's own again

	// n is the number of visits, for Controller.mu to guard: who enters or leaves
	// another room does not wait until this one has been shown.
	n int

	mu     sync.Mutex // guards what follows, and the sight of each visit:
	visits map[*visit]bool
	view   replica.View           // what the pages show
	asleep []*visit               // to be woken as soon as mu is not held
	last   *livetemplate.Template // has rendered view last; nil if that is to be done yet
	whole  map[bool]whole         // view as a whole, by whether it is marked stale; made when needed
}

// whole is all that pages show of a room, with nobody's own row marked.
type whole struct {
	slots slots
	frame []byte // of slots
}

// sight is what the page of a visit shows.
type sight struct {
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
func (s *sight) ahead(view replica.View) bool {
	return view.Version < s.version && view.AsOf.Before(s.asOf)
}

func newPages(l *layout, log *slog.Logger, wake func(*visit)) *pages {
	return &pages{layout: l, log: log, wake: wake, visits: map[*visit]bool{}}
}

// add takes in a visit whose viewer looks at the room.
func (p *pages) add(v *visit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.visits[v] = true
}

// remove ends what add began.
func (p *pages) remove(v *visit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.visits, v)
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

// show brings all pages up to the newest view of the room. shown is called as soon as
// the sockets of nearly all have taken what is new.
func (p *pages) show(shown func()) {
	d := newDelivery(shown)
	defer d.end()
	p.mu.Lock()
	view := p.view
	for v := range p.visits {
		view = v.viewer.View()
		break // all look at the same
	}
	p.showLocked(view, d)
	asleep := p.asleep
	p.asleep = nil
	p.mu.Unlock()
	for _, v := range asleep {
		p.wake(v)
	}
}

// showLocked brings all pages up to view. It wakes nobody: to do so, livetemplate
// takes a lock that it holds when a connection ends, while it waits until the last
// frame of that has been taken by receive.
func (p *pages) showLocked(view replica.View, d *delivery) {
	var update []byte
	var came map[string]bool
	before := p.view
	if view.Sequence > before.Sequence {
		came = newcomers(before.Roster, view.Roster)
		update = p.renderLocked(view)
		p.view, p.whole = view, nil
	}
	for v := range p.visits {
		s := &v.sight
		if !s.open || s.shown == p.view.Sequence {
			continue
		}
		if s.unresolved || s.noticed && before.Stale && !p.view.Stale {
			p.asleep = append(p.asleep, v)
		}
		switch {
		case update == nil || s.shown != before.Sequence || s.unresolved:
			p.showAllLocked(v, d)
			continue
		case came[s.user]:
			_ = v.send(p.layout.mark(update, s.user), d.next())
		default:
			_ = v.send(update, d.next())
		}
		s.shown = p.view.Sequence
		v.viewer.Saw(p.view)
	}
}

// renderLocked returns the frame by which pages that show p.view come to show view;
// nil if there are none, or they need it whole.
func (p *pages) renderLocked(view replica.View) []byte {
	if !p.anyShowsLocked(p.view) {
		p.last = nil
		return nil
	}
	changed, err := p.changesLocked(view)
	if err != nil {
		p.log.Error("room not rendered", "err", err)
		p.last = nil
		return nil
	}
	return frame{Tree: changed}.encode()
}

// anyShowsLocked reports whether some page shows exactly view.
func (p *pages) anyShowsLocked(view replica.View) bool {
	for v := range p.visits {
		if v.sight.open && v.sight.shown == view.Sequence {
			return true
		}
	}
	return false
}

// changesLocked renders what view has that p.view has not.
func (p *pages) changesLocked(view replica.View) (slots, error) {
	if p.last == nil {
		page, err := p.layout.blank()
		if err != nil {
			return nil, err
		}
		if _, err := render(page, PresenceState{}.shows(p.view), nil); err != nil {
			return nil, err
		}
		p.last = page
	}
	return render(p.last, PresenceState{}.shows(view), nil)
}

// wholeLocked returns all that the page of a visit shows of the room; false if it
// can't be rendered.
func (p *pages) wholeLocked(s *sight) (whole, bool) {
	stale := p.view.Stale || s.unresolved
	room, ok := p.whole[stale]
	if !ok {
		view := p.view
		view.Stale = stale
		all, err := p.layout.room(view)
		if err != nil {
			p.log.Error("room not rendered", "err", err)
			return whole{}, false
		}
		room = whole{all, frame{Tree: all}.encode()}
		if p.whole == nil {
			p.whole = map[bool]whole{}
		}
		p.whole[stale] = room
	}
	if s.ahead(p.view) {
		all := maps.Clone(room.slots)
		all[p.layout.count.at] = p.layout.countOf(s.users)
		room = whole{all, frame{Tree: all}.encode()}
	}
	return room, true
}

// showAllLocked has the page of a visit show all there is to see of the room,
// whatever it shows now.
func (p *pages) showAllLocked(v *visit, d *delivery) {
	if room, ok := p.wholeLocked(&v.sight); ok {
		_ = v.send(p.layout.mark(room.frame, v.sight.user), d.next())
		p.sawLocked(v)
	}
}

// sawLocked notes that the page of a visit has been sent the whole of p.view.
func (p *pages) sawLocked(v *visit) {
	s := &v.sight
	if s.shown = 0; s.unresolved || s.ahead(p.view) {
		return // and is sent it again when the next view, or a reminder, comes
	}
	s.shown = p.view.Sequence
	v.viewer.Saw(p.view)
}

// receive takes a frame that livetemplate has rendered for the page of a visit, and
// sends it. The first is of a room that nothing is known of: it gets what is.
func (p *pages) receive(v *visit, text []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v.sight.open {
		return v.send(text, nil)
	}
	if view := v.viewer.View(); view.Sequence > p.view.Sequence {
		p.showLocked(view, nil)
	}
	v.sight.open = true
	if room, ok := p.wholeLocked(&v.sight); ok {
		text = p.layout.mark(p.layout.splice(text, room.slots), v.sight.user)
		p.sawLocked(v)
	}
	return v.send(text, nil)
}

// acted has the page of a visit show, at once, what became of the room by the
// visitor's own action, which began at asOf; user is who the visitor is now.
func (p *pages) acted(v *visit, user string, occupancy presence.Occupancy, asOf time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &v.sight
	doubted := s.unresolved
	s.user, s.unresolved, s.noticed = user, false, false
	s.users, s.version, s.asOf = occupancy.Users, occupancy.Version, asOf
	switch {
	case !s.open:
	case s.ahead(p.view) && !doubted:
		s.shown = 0 // the view that will come tells the rest
		_ = v.send(frame{Tree: slots{p.layout.count.at: p.layout.countOf(s.users)}}.encode(), nil)
	default:
		p.showAllLocked(v, nil)
	}
}

// resolved notes whether it is known yet if the tab of a visit is in the room, and
// as which user.
func (p *pages) resolved(v *visit, known bool, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &v.sight
	if known {
		s.user = user
	}
	if was := s.unresolved; was == !known {
		return
	}
	if s.unresolved = !known; s.open {
		p.showAllLocked(v, nil)
	}
}

// unresolved reports whether it is not known yet if the tab of a visit is in the room.
func (p *pages) unresolved(v *visit) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return v.sight.unresolved
}

// noticed notes that the page of a visit has a notice of an outage.
func (p *pages) noticed(v *visit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v.sight.noticed = true
}

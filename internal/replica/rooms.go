package replica

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"presence/internal/presence"
)

// View is a room as those who look at it see it.
type View struct {
	presence.Snapshot

	// Stale says that Redis is away or not yet to be trusted: this is what was
	// read last, or nothing.
	Stale bool

	// AsOf is when it was read, by the clock of this process; zero if never.
	AsOf time.Time

	// Sequence rises with every view of the room, from 1, for as long as somebody here
	// looks at it. It is 0 for those who do not.
	Sequence int64
}

// room is a room that somebody here looks at.
type room struct {
	name    string
	view    atomic.Pointer[View]
	viewers map[*Viewer]bool

	dirty bool      // has to be read
	retry time.Time // but not before, since reading it failed

	heard time.Time // when a change was heard of that has not been read yet; zero: none
	read  time.Time // the same of the one that was read last and not shown yet

	telling telling
}

// rooms are all of them.
type rooms struct {
	wake chan struct{} // holds one: something has become dirty

	tellers sync.WaitGroup // one for each room whose viewers are being told something

	mu     sync.Mutex // guards:
	byName map[string]*room
	ended  bool // no more are to be told
}

func newRooms() *rooms {
	return &rooms{wake: make(chan struct{}, 1), byName: map[string]*room{}}
}

// rouse lets runRefresh look at the rooms.
func (rs *rooms) rouse() {
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

// Viewer is somebody who looks at a room, joined or not.
type Viewer struct {
	replica *Replica
	room    *room
	seen    atomic.Int64 // sequence of the view that was shown last
}

// View returns what there is to see now.
func (v *Viewer) View() View { return *v.room.view.Load() }

// Saw says that view is being shown. As long as somebody has not said so of the
// newest view, Notify is called again from time to time.
func (v *Viewer) Saw(view View) { v.seen.Store(view.Sequence) }

// behind reports whether a viewer has not shown the newest view yet. The caller holds
// rooms.mu.
func (rm *room) behind() bool {
	newest := rm.view.Load().Sequence
	for v := range rm.viewers {
		if v.seen.Load() < newest {
			return true
		}
	}
	return false
}

// Enter begins to look at a room. It waits for the room to be read if nobody
// here looks at it yet, but not for longer than ctx allows: what is not known
// then is shown as stale. Exit must be called in the end.
func (r *Replica) Enter(ctx context.Context, name string) *Viewer {
	rs := r.rooms
	rs.mu.Lock()
	rm := rs.byName[name]
	first := rm == nil
	if first {
		rm = &room{name: name, viewers: map[*Viewer]bool{}}
		rm.view.Store(&View{Stale: true, Sequence: 1})
		rs.byName[name] = rm
	}
	v := &Viewer{replica: r, room: rm}
	rm.viewers[v] = true
	rs.mu.Unlock()
	if first {
		r.watch.Add(name)
	}
	if rm.view.Load().AsOf.IsZero() && r.link.await(ctx) == nil {
		if view, err := r.read(ctx, name); err == nil {
			r.show(rm, view, false)
		}
	}
	return v
}

// Exit ends looking at the room.
func (v *Viewer) Exit() {
	rs := v.replica.rooms
	rs.mu.Lock()
	delete(v.room.viewers, v)
	last := len(v.room.viewers) == 0 && rs.byName[v.room.name] == v.room
	if last {
		delete(rs.byName, v.room.name)
		// Within the lock: a newcomer's Add must come after this.
		v.replica.watch.Remove(v.room.name)
	}
	rs.mu.Unlock()
}

// Peek returns what there is to see of a room without going on to look at it.
// With an error, and a stale view, Redis is away and nothing is known.
func (r *Replica) Peek(ctx context.Context, name string) (View, error) {
	r.rooms.mu.Lock()
	rm := r.rooms.byName[name]
	r.rooms.mu.Unlock()
	if rm != nil {
		if view := rm.view.Load(); !view.AsOf.IsZero() {
			return *view, nil
		}
	}
	if err := r.link.await(ctx); err != nil {
		return View{Stale: true}, err
	}
	view, err := r.read(ctx, name)
	if err != nil {
		return View{Stale: true}, err
	}
	return view, nil
}

// read reads one room for somebody who waits for it.
func (r *Replica) read(ctx context.Context, name string) (View, error) {
	readings, epoch, err := r.store.Snapshots(ctx, name)
	if err == nil {
		err = readings[0].Err
	}
	if err != nil {
		r.roomFailed(ctx, name, err)
		return View{}, err
	}
	if !r.link.sameEpoch(epoch) {
		return View{}, errSettling
	}
	return View{Snapshot: readings[0].Snapshot, Stale: r.troubles.hasGhosts(name), AsOf: time.Now()}, nil
}

// confirm notes that a view of rm was read again at asOf and is still right. It is the
// same view, so those who look are told nothing.
func (rs *rooms) confirm(rm *room, view *View, asOf time.Time) {
	confirmed := *view
	confirmed.AsOf = asOf
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rm.view.Load() == view { // else there is a newer one already
		rm.view.Store(&confirmed)
	}
}

// show makes view what viewers of rm see, and tells them if asked to.
func (r *Replica) show(rm *room, view View, tell bool) {
	r.rooms.mu.Lock()
	view.Sequence = rm.view.Load().Sequence + 1
	rm.view.Store(&view)
	r.rooms.mu.Unlock()
	if tell {
		r.metrics.pushes.Inc()
		r.tell(rm)
	}
}

// watched lists the rooms that somebody here looks at.
func (rs *rooms) watched() []*room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	list := make([]*room, 0, len(rs.byName))
	for _, rm := range rs.byName {
		list = append(list, rm)
	}
	return list
}

// lastRoster is the roster of a room as it was shown last.
func (rs *rooms) lastRoster(name string) []presence.User {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rm := rs.byName[name]; rm != nil {
		return rm.view.Load().Roster
	}
	return nil
}

// count returns the numbers of watched rooms and of viewers.
func (rs *rooms) count() (rooms, viewers int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rm := range rs.byName {
		viewers += len(rm.viewers)
	}
	return len(rs.byName), viewers
}

package room

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/presence"
	"presence/internal/store"
)

// DefaultCoalesce is the shortest time between two views that an audience is shown.
const DefaultCoalesce = 100 * time.Millisecond

// Trust is the knowledge of whether what Redis holds may be shown. Its methods may be
// called from any goroutine.
type Trust interface {
	// Trusted returns nil when what Redis holds of room may be shown.
	Trusted(room string) error

	// Await waits, while replicas put back what Redis lost, until what it holds of
	// room may be shown, and returns why it may not: at once when Redis is away, and
	// when ctx ends.
	Await(ctx context.Context, room string) error

	// Current reports whether epochs belong to the data that Redis has now, and whether
	// these data may be shown.
	Current(ctx context.Context, epochs ...store.Epoch) bool

	// Doubtful reports whether Redis may still have users in room who are gone.
	Doubtful(room string) bool

	// Failed takes an error of a call about room, and reports whether it says that
	// Redis is away.
	Failed(ctx context.Context, room string, err error) (away bool)

	// Saw takes the birth that a read of room found, and when the read began. It may have
	// room marked as lost, since members of this replica may not be in it yet.
	Saw(ctx context.Context, room, birth string, asked time.Time)

	// Removed takes the news that a user was removed from room at that version.
	Removed(room, user string, version int64)

	// Left takes the news that users have left room by themselves, each at that version.
	Left(room string, users map[string]int64)

	// Lost takes the news that Redis has lost the data of room, and returns when
	// replicas will have put back what they hold.
	Lost(ctx context.Context, room string) time.Time
}

// Options are the settings of [Rooms].
type Options struct {
	// Coalesce: 0 means the default.
	Coalesce time.Duration

	// Logger and Registerer: nil means no logs, no metrics.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// View is a room as it is seen here.
type View struct {
	presence.Snapshot

	// Stale says that Redis is away or not to be trusted yet: this is what was
	// read last, or nothing.
	Stale bool

	// AsOf is when the room was read, by the clock of this process; zero if never.
	AsOf time.Time

	// Sequence rises with every view of the room. It is 0 where the room has no viewer.
	Sequence int64

	// Change leads from the view that the audience was shown before to this one; nil
	// if that can't be said, and the audience has to show the whole room.
	Change *presence.Change
}

// Rooms are the rooms that have viewers at this replica.
type Rooms struct {
	store   *store.Store
	trust   Trust
	opts    Options
	watch   *store.Watch
	metrics *metrics

	wake  chan struct{} // holds one: there is something to read or to show
	shows sync.WaitGroup

	sequence atomic.Int64 // of the newest view of all

	mu      sync.Mutex // guards:
	byName  map[string]*room
	reading map[string]bool // nodes of a Cluster whose rooms are being read
}

// room is one of them.
type room struct {
	name string
	view atomic.Pointer[View]

	audiences map[Audience]*audience
	tried     chan struct{} // closed when the first read has ended, also in an error; viewers wait for it
	dirty     bool          // has to be read
	busy      bool          // is being read; once at a time, so that what was read is in order
	retry     time.Time     // but not before
	heard     time.Time     // when a change was heard of that has not been read yet; zero: none
	read      time.Time     // the same of what was read last
	lost      bool          // Redis lost the room's data: what is read next counts, whatever it is
	told      int64         // the highest version that was heard of, or read for a question of the API
}

// New returns the rooms of st. Nothing is read before [Rooms.Run].
func New(st *store.Store, trust Trust, opts Options) *Rooms {
	if opts.Coalesce == 0 {
		opts.Coalesce = DefaultCoalesce
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	rs := &Rooms{
		store: st, trust: trust, opts: opts,
		wake:   make(chan struct{}, 1),
		byName: map[string]*room{}, reading: map[string]bool{},
	}
	rs.watch = st.NewWatch(opts.Logger, rs.changed)
	rs.metrics = newMetrics(opts.Registerer, rs)
	return rs
}

// Viewer is a page or stream that shows a room, as one of an audience.
type Viewer struct {
	rooms    *Rooms
	room     *room
	audience *audience
	seen     atomic.Int64 // Sequence of the view that was shown last
}

// View returns the present view of the room. Its Change is not set.
func (v *Viewer) View() View { return *v.room.view.Load() }

// Saw says that view is being shown. A viewer who once said so, also of no view at
// all, is behind until it says so of the newest: from time to time the audience is
// shown that again.
func (v *Viewer) Saw(view View) { v.seen.Store(view.Sequence) }

// Enter begins to look at a room, as one of the audience a. It waits for the room to be
// read if it was not yet, but not for longer than ctx allows: what is not known then is
// shown as stale. Exit must be called in the end.
func (rs *Rooms) Enter(ctx context.Context, name string, a Audience) *Viewer {
	rs.mu.Lock()
	rm := rs.byName[name]
	first := rm == nil
	if first {
		rm = &room{name: name, audiences: map[Audience]*audience{}, tried: make(chan struct{})}
		rm.view.Store(&View{Stale: true, Sequence: rs.sequence.Add(1)})
		rs.byName[name] = rm
	}
	of := rm.audiences[a]
	if of == nil {
		of = &audience{Audience: a, viewers: map[*Viewer]bool{}, shown: rm.view.Load().Sequence}
		rm.audiences[a] = of
	}
	v := &Viewer{rooms: rs, room: rm, audience: of}
	v.seen.Store(math.MaxInt64)
	of.viewers[v] = true
	rs.mu.Unlock()
	if first {
		rs.watch.Add(name)
	}
	rs.awaitView(ctx, rm)
	return v
}

// awaitView waits for the first view of rm, which is read once for all who wait.
func (rs *Rooms) awaitView(ctx context.Context, rm *room) {
	if !rm.view.Load().AsOf.IsZero() || rs.trust.Await(ctx, rm.name) != nil {
		return
	}
	rs.mu.Lock()
	tried := rm.tried
	rs.markDirtyLocked(rm)
	rs.mu.Unlock()
	if !rm.view.Load().AsOf.IsZero() {
		return
	}
	select {
	case <-tried:
	case <-ctx.Done():
	}
}

// Exit ends looking at the room.
func (v *Viewer) Exit() {
	rs := v.rooms
	rs.mu.Lock()
	defer rs.mu.Unlock()
	delete(v.audience.viewers, v)
	rs.endLocked(v.room, v.audience)
}

// endLocked ends an audience without viewers, and the room if it has no other audience. It
// does not while the audience is shown a view: if the audience came back meanwhile, as a
// new one, it would be shown two views at once.
func (rs *Rooms) endLocked(rm *room, a *audience) {
	if len(a.viewers) > 0 || a.busy || rm.audiences[a.Audience] != a {
		return
	}
	delete(rm.audiences, a.Audience)
	if len(rm.audiences) == 0 && rs.byName[rm.name] == rm {
		delete(rs.byName, rm.name)
		// Within the lock: a newcomer's Add must come after this.
		rs.watch.Remove(rm.name)
	}
}

// Counts returns the number of rooms that have viewers, and of viewers.
func (rs *Rooms) Counts() (rooms, viewers int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rm := range rs.byName {
		for _, a := range rm.audiences {
			viewers += len(a.viewers)
		}
	}
	return len(rs.byName), viewers
}

// Run reads and shows until ctx ends, and returns when all has ended.
func (rs *Rooms) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { _ = rs.watch.Run(ctx) }) // returns nil
	rs.refresh(ctx)
	watching.Wait()
	rs.shows.Wait()
	return nil
}

// rouse lets refresh look at the rooms.
func (rs *Rooms) rouse() {
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

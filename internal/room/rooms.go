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

// Trust knows whether the data in Redis may be shown. Its methods may be called from any
// goroutine.
type Trust interface {
	// Trusted returns nil when what Redis holds of room may be shown.
	Trusted(room string) error

	// Await waits until the data of room in Redis may be shown, while replicas put back
	// what Redis lost. Otherwise it returns the reason why they may not: at once when
	// Redis is away, or when ctx ends.
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

	// Left takes the news that users have left room, each at that version.
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

// View is a room as this replica sees it.
type View struct {
	presence.Snapshot

	// Stale says that Redis is away or can't be trusted yet. Then the view is the last
	// one that was read, or empty.
	Stale bool

	// AsOf is when the room was read, by the clock of this process; zero if never.
	AsOf time.Time

	// Sequence rises with every view of the room. It is 0 where the room has no viewer.
	Sequence int64

	// Change leads to this view from the one that the audience was shown before. It is
	// nil if the change is not known, and the audience has to show the whole room.
	Change *presence.Change
}

// Rooms are the rooms that have viewers at this replica.
type Rooms struct {
	store   *store.Store
	trust   Trust
	opts    Options
	watch   *store.Watch
	metrics *metrics

	wake  chan struct{} // holds one token: there is something to read or to show
	shows sync.WaitGroup

	sequence atomic.Int64 // of the newest view of all rooms

	mu      sync.Mutex // guards:
	byName  map[string]*room
	reading map[string]bool // nodes of a Cluster whose rooms are being read
}

// room is a room that has viewers.
type room struct {
	name string
	view atomic.Pointer[View]

	audiences    map[Audience]*audience
	tried        chan struct{} // closed when the present or next read has ended, also by an error; viewers wait for it
	dirty        bool          // has to be read
	busy         bool          // is being read; only once at a time, so that readings come in order
	retry        time.Time     // the room is not read before this
	heardAt      time.Time     // when this replica heard of the first change that has not been read; zero: none
	readHeardAt  time.Time     // the same time, of the change that was read last
	lost         bool          // Redis lost the room's data: the next reading replaces the view in any case
	heardVersion int64         // the highest version that was heard of, or was read for a question of the API
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

// Viewer is a page or stream that shows a room. It belongs to an audience.
type Viewer struct {
	rooms    *Rooms
	room     *room
	audience *audience
	seen     atomic.Int64 // Sequence of the view that was shown last
}

// View returns the present view of the room. Its Change is not set.
func (v *Viewer) View() View { return *v.room.view.Load() }

// Saw says that the viewer is showing view. After the first call, a viewer is behind
// until it calls Saw with the newest view, and is shown that view again from time to
// time.
func (v *Viewer) Saw(view View) { v.seen.Store(view.Sequence) }

// Enter begins to look at a room, as a viewer of the audience a. If the room has not been
// read yet, Enter waits for that until ctx ends; what is not known then is shown as
// stale. The caller must call Exit in the end.
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
		of = &audience{Audience: a, viewers: map[*Viewer]bool{}, givenSequence: rm.view.Load().Sequence}
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

// awaitView waits for the first view of rm. One read serves all who wait.
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

// endLocked removes an audience without viewers, and then the room if it has no other
// audience. It keeps an audience that is being shown a view: if the audience came back as
// a new one meanwhile, it would be shown two views at once.
func (rs *Rooms) endLocked(rm *room, a *audience) {
	if len(a.viewers) > 0 || a.busy || rm.audiences[a.Audience] != a {
		return
	}
	delete(rm.audiences, a.Audience)
	if len(rm.audiences) == 0 && rs.byName[rm.name] == rm {
		delete(rs.byName, rm.name)
		// This needs the lock: the Add for a new viewer must come later.
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

// Run reads and shows rooms until ctx ends, and returns when all goroutines have ended.
func (rs *Rooms) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { _ = rs.watch.Run(ctx) }) // returns nil
	rs.refresh(ctx)
	watching.Wait()
	rs.shows.Wait()
	return nil
}

// rouse wakes refresh, which looks at the rooms.
func (rs *Rooms) rouse() {
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

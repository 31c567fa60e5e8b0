package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lobby = "lobby"

// settle is how long a lost room can't be trusted.
const settle = 3 * time.Second

// errAway is the reason why nothing may be shown.
var errAway = errors.New("away")

// trust trusts Redis unless a test says otherwise.
type trust struct {
	mu       sync.Mutex // guards:
	away     bool
	until    map[string]time.Time
	lost     []string // rooms, each time that Lost was called
	failed   []string // likewise
	doubtful bool
	between  func() // called once, between a reading and the view made from it
}

func (tr *trust) Trusted(room string) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.away || time.Until(tr.until[room]) > 0 {
		return errAway
	}
	return nil
}

func (tr *trust) Await(ctx context.Context, room string) error {
	tr.mu.Lock()
	away, left := tr.away, time.Until(tr.until[room])
	tr.mu.Unlock()
	if away {
		return errAway
	}
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return errAway
	}
}

func (tr *trust) Current(context.Context, ...store.Epoch) bool { return true }

func (tr *trust) Doubtful(string) bool {
	tr.mu.Lock()
	between, doubtful := tr.between, tr.doubtful
	tr.between = nil
	tr.mu.Unlock()
	if between != nil {
		between()
	}
	return doubtful
}

func (tr *trust) Failed(_ context.Context, room string, err error) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failed = append(tr.failed, room)
	return errors.Is(err, presence.ErrUnavailable)
}

func (tr *trust) Saw(context.Context, string, string, time.Time) {}

// Removed does nothing: no test removes a user.
func (tr *trust) Removed(string, string, int64) {}

// Left does nothing: no test puts a user back.
func (tr *trust) Left(string, map[string]int64) {}

func (tr *trust) Lost(_ context.Context, room string) time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.lost = append(tr.lost, room)
	tr.until[room] = time.Now().Add(settle)
	return tr.until[room]
}

// set changes the state of trust.
func (tr *trust) set(change func()) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	change()
}

// losses lists the rooms that were found lost, each time.
func (tr *trust) losses() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.lost)
}

// world is Rooms with a store, over one Redis.
type world struct {
	*Rooms

	t        *testing.T
	st       *store.Store
	fake     *redistest.Fake
	admin    redis.UniversalClient
	trust    *trust
	registry *prometheus.Registry
	stop     func() // ends Run, and waits for that
}

// bubble runs the test on Rooms in a bubble.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, redistest.NewFake(t))) })
}

// newWorld returns Rooms that run until the test ends.
func newWorld(t *testing.T, fake *redistest.Fake) *world {
	t.Helper()
	w := &world{t: t, fake: fake, admin: fake.Client(t), trust: &trust{until: map[string]time.Time{}}, registry: prometheus.NewRegistry()}
	w.st = store.New(fake.Client(t), store.Options{Registerer: w.registry})
	w.Rooms = New(w.st, w.trust, Options{Registerer: w.registry})
	storing, endStore := context.WithCancel(t.Context())
	showing, endRooms := context.WithCancel(t.Context())
	var stores, rooms sync.WaitGroup
	stores.Go(func() { _ = w.st.Run(storing) })
	rooms.Go(func() { _ = w.Run(showing) })
	w.stop = sync.OnceFunc(func() {
		endRooms()
		rooms.Wait()
	})
	t.Cleanup(func() {
		w.stop()
		endStore()
		stores.Wait()
	})
	synctest.Wait()
	return w
}

// join makes users come into room, each through a connection named after the user.
func (w *world) join(room string, names ...string) {
	w.t.Helper()
	for _, name := range names {
		conn := presence.Connection{ID: id("c", name), Generation: "gen1", User: presence.User{ID: id("u", name), Name: name}}
		if _, err := w.st.Join(w.t.Context(), room, conn); err != nil {
			w.t.Fatalf("join %s: %v", name, err)
		}
	}
}

// id returns a legal id for the user of that name.
func id(kind, name string) string { return kind + "-" + strings.ReplaceAll(name, " ", "-") }

// leave makes a user leave the lobby.
func (w *world) leave(name string) {
	w.t.Helper()
	if _, err := w.st.Leave(w.t.Context(), lobby, id("c", name), ""); err != nil {
		w.t.Fatalf("leave %s: %v", name, err)
	}
}

// reads returns how often rooms were read, by the kind of answer; "" for all.
func (w *world) reads(answer string) int {
	n := 0
	for _, m := range w.metric("presence_room_reads_total") {
		if answer == "" || m.GetLabel()[0].GetValue() == answer {
			n += int(m.GetCounter().GetValue())
		}
	}
	return n
}

func (w *world) metric(name string) []*dto.Metric {
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	w.t.Fatalf("no metric %s", name)
	return nil
}

// crowd is an audience with one real viewer. It keeps the room as it was shown.
type crowd struct {
	t      *testing.T
	takes  time.Duration // how long Show takes
	deaf   bool          // the viewer does not notice what is shown
	loose  bool          // viewers come and go, so the last view is not what they all had
	viewer *Viewer

	mu      sync.Mutex // guards:
	showing bool
	views   []View
	applied int // changes that led from the last view to the next
}

// Show records the view. It fails if another view is being shown, if the view is out of
// order, or if its change does not lead to it.
func (c *crowd) Show(view View, shown func()) {
	c.mu.Lock()
	if c.showing {
		c.t.Error("two views are shown at once")
	}
	c.showing = true
	if n := len(c.views); n > 0 {
		had := c.views[n-1]
		if view.Sequence < had.Sequence {
			c.t.Errorf("view %d after %d", view.Sequence, had.Sequence)
		}
		// What was seen on entering may be newer than what the audience has been given.
		if view.Change != nil && !c.loose && (n > 1 || view.Change.Prev == had.Version) {
			c.applyLocked(had.Snapshot, view)
		}
	}
	c.views = append(c.views, view)
	deaf, viewer := c.deaf, c.viewer
	c.mu.Unlock()
	if !deaf && viewer != nil {
		viewer.Saw(view)
	}
	time.Sleep(c.takes)
	c.mu.Lock()
	c.showing = false
	c.mu.Unlock()
	shown()
}

// applyLocked fails unless the view's change leads to it from what was shown before.
func (c *crowd) applyLocked(had presence.Snapshot, view View) {
	got, ok := had.Apply(*view.Change)
	if !had.Complete() || !view.Complete() {
		return
	}
	if !ok || got.Occupancy != view.Occupancy || !slices.Equal(got.Members, view.Members) {
		c.t.Errorf("the change %+v leads from %+v to %+v (%v), but the view is %+v", *view.Change, had, got, ok, view.Snapshot)
	}
	c.applied++
}

// look enters a room as one of the crowd, and records what it sees.
func (w *world) look(room string, c *crowd) *Viewer {
	w.t.Helper()
	c.t = w.t
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	v := w.Enter(ctx, room, c)
	view := v.View()
	v.Saw(view)
	c.mu.Lock()
	c.viewer = v
	c.views = append(c.views, view)
	c.mu.Unlock()
	return v
}

// history returns what was shown, as "users" or "users stale", each time that it changed.
func (c *crowd) history() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var seen []string
	for _, view := range c.views {
		now := fmt.Sprint(view.Users)
		if view.Stale {
			now += " stale"
		}
		if n := len(seen); n == 0 || seen[n-1] != now {
			seen = append(seen, now)
		}
	}
	return seen
}

// saw fails unless this is the whole history.
func (c *crowd) saw(want ...string) {
	c.t.Helper()
	if got := c.history(); !slices.Equal(got, want) {
		c.t.Errorf("seen %q, want %q", got, want)
	}
}

// count returns how often something was shown, including what was seen on entering.
func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.views)
}

// changes returns how often a change led from the crowd's view to the next one.
func (c *crowd) changes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}

// last returns the last view that was shown.
func (c *crowd) last() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.views[len(c.views)-1]
}

// pass lets time pass, and waits until everything that it causes has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// keep copies everything that Redis has of a room, and returns a function that puts it
// back.
func (w *world) keep(room string) (putBack func()) {
	w.t.Helper()
	ctx := context.WithoutCancel(w.t.Context())
	var back []func()
	for _, key := range w.admin.Keys(ctx, "presence:{"+room+"}:*").Val() {
		switch kind := w.admin.Type(ctx, key).Val(); kind {
		case "string":
			value := w.admin.Get(ctx, key).Val()
			back = append(back, func() { w.admin.Set(ctx, key, value, 0) })
		case "set":
			members := w.admin.SMembers(ctx, key).Val()
			back = append(back, func() { w.admin.SAdd(ctx, key, members) })
		case "hash":
			fields := w.admin.HGetAll(ctx, key).Val()
			back = append(back, func() { w.admin.HSet(ctx, key, fields) })
		case "zset":
			rows := w.admin.ZRangeWithScores(ctx, key, 0, -1).Val()
			back = append(back, func() { w.admin.ZAdd(ctx, key, rows...) })
		case "stream":
			rows := w.admin.XRange(ctx, key, "-", "+").Val()
			back = append(back, func() {
				for _, row := range rows {
					w.admin.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: row.ID, Values: row.Values})
				}
			})
		default:
			w.t.Fatalf("%s is a %s", key, kind)
		}
	}
	return func() {
		w.drop(room)
		for _, put := range back {
			put()
		}
	}
}

// drop deletes everything that Redis has of a room.
func (w *world) drop(room string) {
	w.t.Helper()
	ctx := context.WithoutCancel(w.t.Context())
	w.admin.Del(ctx, w.admin.Keys(ctx, "presence:{"+room+"}:*").Val()...)
}

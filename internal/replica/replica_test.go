package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/room"
	"presence/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lobby = "lobby"

// process is a replica that a test can kill, and the record of what a viewer at it saw.
type process struct {
	*Replica
	rooms *room.Rooms

	registry *prometheus.Registry
	t        *testing.T
	link     *redistest.Link
	kill     func()

	logged atomic.Int64 // warnings

	viewer *room.Viewer
	mu     sync.Mutex    // guards:
	takes  time.Duration // set by take
	seen   []string      // "users" or "users stale", each time that it changed
	told   int
}

// start starts a replica with its own Redis client. It ends with the test.
func start(t *testing.T, fake *redistest.Fake) *process {
	t.Helper()
	return startWith(t, fake, Options{})
}

// startWith is start with other settings.
func startWith(t *testing.T, fake *redistest.Fake, o Options) *process {
	t.Helper()
	return startOn(t, fake, o, store.Options{})
}

// startOn is startWith with other settings of the store.
func startOn(t *testing.T, fake *redistest.Fake, o Options, so store.Options) *process {
	t.Helper()
	return startBy(t, fake.Link(t), o, so)
}

// startBy is startOn through a link.
func startBy(t *testing.T, link *redistest.Link, o Options, so store.Options) *process {
	t.Helper()
	p := &process{t: t, link: link, registry: prometheus.NewRegistry()}
	so.Registerer, o.Registerer = p.registry, p.registry
	st := store.New(p.link.Client, so)
	o.Logger = slog.New(warnings{slog.DiscardHandler, &p.logged})
	p.Replica = New(st, o)
	p.rooms = room.New(st, p.Replica, room.Options{Registerer: p.registry})
	p.Tell(p.rooms)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = st.Run(ctx) })
	wg.Go(func() { _ = p.Run(ctx) })
	wg.Go(func() { _ = p.rooms.Run(ctx) })
	p.kill = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(p.kill)
	synctest.Wait()
	return p
}

// Show shows a view to a crowd in which only one viewer is real.
func (p *process) Show(_ room.View, shown func()) {
	p.look()
	p.mu.Lock()
	takes := p.takes
	p.mu.Unlock()
	switch {
	case takes == 0:
		shown()
	case takes > 0:
		time.AfterFunc(takes, shown)
	}
}

// Enter looks at a room as one of the crowd.
func (p *process) Enter(ctx context.Context, name string) *room.Viewer {
	v := p.rooms.Enter(ctx, name, p)
	v.Saw(room.View{})
	return v
}

// take sets how long it takes to show something to all; below 0: forever.
func (p *process) take(takes time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes = takes
}

// watching lets a viewer look at the lobby from now on, who waits to see it.
func (p *process) watching() *process { return p.glance(time.Minute) }

// glance lets a viewer look at the lobby from now on, who waits only that long.
func (p *process) glance(patience time.Duration) *process {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	viewer := p.Enter(ctx, lobby)
	p.mu.Lock()
	p.viewer = viewer
	p.mu.Unlock()
	p.look()
	synctest.Wait()
	return p
}

// look records what the viewer sees.
func (p *process) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told++
	if p.viewer == nil {
		return
	}
	view := p.viewer.View()
	p.viewer.Saw(view)
	now := fmt.Sprint(view.Users)
	if view.Stale {
		now += " stale"
	}
	if n := len(p.seen); n == 0 || p.seen[n-1] != now {
		p.seen = append(p.seen, now)
	}
}

// saw fails unless this is everything that the viewer saw.
func (p *process) saw(want ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.seen, want) {
		p.t.Fatalf("the viewer saw %q, want %q", p.seen, want)
	}
}

// history returns what the viewer has seen so far.
func (p *process) history() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// last returns what the viewer sees now.
func (p *process) last() string {
	h := p.history()
	return h[len(h)-1]
}

// pushes returns how often the viewer was shown something new.
func (p *process) pushes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// join joins through a connection named after the user. Its socket always answers.
func (p *process) join(name string) *Member {
	p.t.Helper()
	return p.joinBy(name, living{})
}

// joinBy is join with another socket.
func (p *process) joinBy(name string, socket Socket) *Member {
	p.t.Helper()
	m, _, err := p.Join(p.t.Context(), lobby, connection(name, presence.NewGeneration()), socket, nil)
	if err != nil {
		p.t.Fatalf("join %s: %v", name, err)
	}
	return m
}

// put joins a room for the member TTL through a connection without a socket.
func (p *process) put(room string, conn presence.Connection) error {
	_, err := p.Put(p.t.Context(), room, store.Wanted{Connection: conn, TTL: store.DefaultMemberTTL})
	return err
}

// enter joins, and waits until everybody has seen it.
func (p *process) enter(name string) *Member {
	p.t.Helper()
	m := p.join(name)
	time.Sleep(room.DefaultCoalesce)
	synctest.Wait()
	return m
}

// resume comes back through the connection of the user of that name.
func (p *process) resume(name string) *Member {
	p.t.Helper()
	m, err := p.Resume(p.t.Context(), lobby, connection(name, presence.NewGeneration()), living{})
	if err != nil || m == nil || m.User().Name != name {
		p.t.Fatalf("resume %s: %v, %v", name, m, err)
	}
	return m
}

// living is the socket of a browser that always answers at once.
type living struct{}

func (living) Answered() time.Time { return time.Now() }
func (living) Ping() error         { return nil }

// mortal is a socket that may be dead without anybody noticing.
type mortal struct{ dead *atomic.Bool }

func (m mortal) Answered() time.Time {
	if m.dead.Load() {
		return time.Time{}
	}
	return time.Now()
}
func (mortal) Ping() error { return nil }

func connection(name, generation string) presence.Connection {
	return presence.Connection{ID: "c-" + name, Generation: generation, User: presence.User{ID: "u-" + name, Name: name}, Address: "here"}
}

// bubble runs the test in a bubble, in which waiting takes no time.
func bubble(t *testing.T, test func(t *testing.T, fake *redistest.Fake)) {
	synctest.Test(t, func(t *testing.T) { test(t, redistest.NewFake(t)) })
}

func TestJoinIsSeenAtOnceOnAnotherReplica(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		time.Sleep(time.Second)
		a.enter("Ann")
		synctest.Wait()
		b.saw("0", "1")
		m := a.enter("Ben")
		time.Sleep(room.DefaultCoalesce)
		synctest.Wait()
		b.saw("0", "1", "2")
		if _, err := a.Leave(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(room.DefaultCoalesce)
		synctest.Wait()
		b.saw("0", "1", "2", "1")
	})
}

func TestMembersStayAsLongAsTheirReplicaLives(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		for i := range 600 { // more than one cohort
			a.join(fmt.Sprint("user", i))
		}
		time.Sleep(2 * time.Minute)
		if last := b.last(); last != "600" {
			t.Fatalf("after two minutes %s users", last)
		}
		if _, viewers := b.rooms.Counts(); viewers != 1 {
			t.Fatalf("%d viewers", viewers)
		}
	})
}

func TestKilledReplicasMembersLeaveWithinTheTTLUnlessTheyMoved(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		a.enter("Ben")
		time.Sleep(time.Minute)
		a.kill()
		time.Sleep(3 * time.Second)
		b.resume("Ben")
		time.Sleep(store.DefaultMemberTTL - DefaultHeartbeatInterval - 4*time.Second)
		b.saw("0", "1", "2")
		time.Sleep(DefaultHeartbeatInterval + 2*time.Second) // TTL + 1 s after the kill
		b.saw("0", "1", "2", "1")
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "2", "1")
	})
}

func TestReleasedMemberLeavesAfterTheGrace(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		m := a.enter("Ann")
		if err := a.Release(m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultLeaveGrace - time.Second)
		b.saw("0", "1")
		time.Sleep(2 * time.Second)
		b.saw("0", "1", "0")
	})
}

func TestRefreshIsSeenByNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		old := a.enter("Ann")
		for range 5 {
			next := b.resume("Ann") // the new socket opens before the old one has closed
			if err := a.Release(old); err != nil {
				t.Fatal(err)
			}
			time.Sleep(7 * time.Second)
			old = next
			a, b = b, a
		}
		time.Sleep(time.Minute)
		for _, p := range []*process{a, b} {
			if p.viewer != nil {
				p.saw("0", "1")
			}
		}
	})
}

func TestRedisAwayLongerThanTheTTLLosesNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake).watching(), start(t, fake).watching()
		a.enter("Ann")
		b.enter("Ben")
		time.Sleep(time.Minute)
		fake.Down()
		time.Sleep(4 * time.Second)
		if a.Ready() == nil || b.Ready() == nil {
			t.Fatal("ready though redis is away")
		}
		if _, _, err := a.Join(t.Context(), lobby, connection("Cid", "gen1"), living{}, nil); !errors.Is(err, presence.ErrUnavailable) {
			t.Fatalf("join while redis is away: %v", err)
		}
		time.Sleep(time.Minute)
		fake.Up()
		time.Sleep(DefaultHeartbeatInterval)
		if a.Ready() != nil {
			t.Fatal("not ready though redis is back")
		}
		for _, p := range []*process{a, b} {
			got := p.history()
			got = got[len(got)-3:]
			if fmt.Sprint(got) != "[2 2 stale 2]" {
				t.Fatalf("saw %q", p.history())
			}
		}
		time.Sleep(2 * time.Minute)
		a.saw("0", "1", "2", "2 stale", "2")
	})
}

func TestRedisThatLostEverythingIsRightAgainWithinAHeartbeat(t *testing.T) {
	for name, lose := range map[string]func(fake *redistest.Fake){
		"flushed": func(fake *redistest.Fake) { fake.FlushAll() },
		"restarted empty": func(fake *redistest.Fake) {
			fake.Down()
			fake.FlushAll()
			time.Sleep(3 * time.Second)
			fake.Up()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake).watching(), start(t, fake).watching()
				a.enter("Ann")
				b.enter("Ben")
				b.enter("Cid")
				time.Sleep(time.Minute)
				lose(fake)
				a.enterSoon("Dan") // somebody comes while only part of the others is back
				time.Sleep(DefaultHeartbeatInterval)
				synctest.Wait()
				for _, p := range []*process{a, b} {
					for i, now := range p.history()[4:] {
						if now != "3 stale" && now != "4" {
							t.Fatalf("saw %q: %d", p.history(), i)
						}
					}
					if last := p.last(); last != "4" {
						t.Fatalf("saw %q", p.history())
					}
				}
			})
		})
	}
}

// A browser is in a tunnel when Redis loses its data. It was there a moment ago, so its
// member comes back. A member that is known to have left elsewhere does not.
func TestLossOfDataDropsNobodyWhoIsSlowToAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		var dead atomic.Bool
		for _, name := range []string{"slow", "moved"} {
			a.joinBy(name, mortal{&dead})
			time.Sleep(room.DefaultCoalesce)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		dead.Store(true)
		moved := b.resume("moved")
		time.Sleep(12 * time.Second) // a has learned of it by now
		if _, err := b.Leave(t.Context(), moved); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		fake.FlushAll()
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "2", "1", "1 stale", "1")
	})
}

// A tab comes back to another replica, which has not noticed yet that Redis lost its
// data. The tab is not told that it is no longer there; it is found when all members have
// been put back.
func TestResumeRightAfterALoss(t *testing.T) {
	for _, others := range []bool{false, true} {
		bubble(t, func(t *testing.T, fake *redistest.Fake) {
			a, b := start(t, fake), start(t, fake)
			a.enter("Ann")
			if others {
				b.enter("Ben")
			}
			time.Sleep(time.Minute)
			fake.FlushAll()
			if m, err := b.Resume(t.Context(), lobby, connection("Ann", presence.NewGeneration()), living{}); !errors.Is(err, presence.ErrUnavailable) {
				t.Errorf("right after the loss, others %v: %v, %v", others, m, err)
			}
			time.Sleep(DefaultHeartbeatInterval)
			b.resume("Ann")
			if m, err := b.Resume(t.Context(), lobby, connection("Eve", presence.NewGeneration()), living{}); m != nil || err != nil {
				t.Errorf("Resume of a user who was never there: %v, %v", m, err)
			}
		})
	}
}

// A replica starts while the others put back what Redis lost. It shows no wrong numbers:
// it reads the same half-restored data as they do.
func TestReplicaThatStartsRightAfterALossOfData(t *testing.T) {
	for name, lose := range map[string]func(fake *redistest.Fake){
		"flushed": func(fake *redistest.Fake) { fake.FlushAll() },
		"restarted empty": func(fake *redistest.Fake) {
			fake.Down()
			fake.FlushAll()
			time.Sleep(3 * time.Second)
			fake.Up()
		},
	} {
		for _, after := range []time.Duration{0, 50 * time.Millisecond, 700 * time.Millisecond, 2 * time.Second} {
			t.Run(fmt.Sprint(name, " ", after), func(t *testing.T) {
				bubble(t, func(t *testing.T, fake *redistest.Fake) {
					a, b := start(t, fake), start(t, fake)
					a.enter("Ann")
					b.enter("Ben")
					b.enter("Cid")
					time.Sleep(time.Minute)
					lose(fake)
					time.Sleep(after)
					c := start(t, fake)
					c.glance(time.Millisecond)
					time.Sleep(DefaultHeartbeatInterval)
					c.saw("0 stale", "3")
				})
			})
		}
	}
}

// A replica that finds old data shows it at once. The first replica of all waits no
// longer than others would need to put back their members.
func TestReplicaIsLiveSoonAfterItsStart(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		time.Sleep(a.links.settle + a.links.probe)
		a.glance(time.Millisecond)
		a.saw("0")
		a.enter("Ann")
		b := start(t, fake)
		b.glance(time.Millisecond)
		b.saw("1")
	})
}

func TestReplicaThatIsAloneIsLiveAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := startWith(t, fake, Options{Alone: true})
		a.glance(time.Millisecond)
		a.saw("0")
	})
}

// enterSoon is enter at a time when Redis may not answer yet.
func (p *process) enterSoon(name string) {
	for range 20 {
		_, _, err := p.Join(p.t.Context(), lobby, connection(name, "gen1"), living{}, nil)
		if err == nil {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
	p.t.Fatal("redis does not come back")
}

func TestReplicaCutOffLongerThanTheTTLMakesNoGhostsAndDropsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		var dead atomic.Bool
		for _, name := range []string{"moved", "gone"} {
			a.joinBy(name, mortal{&dead})
			time.Sleep(room.DefaultCoalesce)
			synctest.Wait()
		}
		a.enter("stayed")
		time.Sleep(time.Minute)
		a.link.Cut()
		dead.Store(true) // both sockets are dead, but no replica has noticed
		b.resume("moved")
		time.Sleep(store.DefaultMemberTTL + time.Second)
		b.saw("0", "1", "2", "3", "1")
		a.link.Mend()
		time.Sleep(DefaultHeartbeatInterval + time.Second)
		b.saw("0", "1", "2", "3", "1", "2") // the one with the live socket is back
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "2", "3", "1", "2")
	})
}

func TestLatecomerOfTheSameTabDoesNotTakeItAway(t *testing.T) {
	for name, elsewhere := range map[string]bool{"on the same replica": false, "on another replica": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				a.enter("Ann")
				time.Sleep(time.Minute)
				other := a
				if elsewhere {
					other = b
				}
				late := other.resume("Ann") // through a socket that the browser had given up
				time.Sleep(12 * time.Second)
				if err := other.Release(late); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				b.saw("0", "1")
			})
		})
	}
}

func TestLeaveIsNotUndoneByAnOldSocketOfTheTab(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		var dead atomic.Bool
		a.joinBy("Ann", mortal{&dead})
		time.Sleep(time.Minute)
		dead.Store(true) // the network is gone; a does not know yet
		moved := b.resume("Ann")
		time.Sleep(12 * time.Second) // by now a has learned that another socket has the tab
		if _, err := b.Leave(t.Context(), moved); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		b.saw("0", "1", "0")
	})
}

func TestAllReplicasDownLongerThanTheTTLIsNoMassLeave(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		a.enter("Ann")
		b.enter("Ben")
		b.enter("gone")
		time.Sleep(time.Minute)
		a.kill()
		b.kill()
		time.Sleep(time.Minute)
		c := start(t, fake).watching()
		c.saw("3")
		time.Sleep(10 * time.Second)
		c.resume("Ann")
		time.Sleep(5 * time.Second)
		c.resume("Ben")
		time.Sleep(10 * time.Second)
		c.saw("3", "2")
		time.Sleep(2 * time.Minute)
		c.saw("3", "2")
	})
}

func TestLeaveGraceHoldsRightAfterTheStartToo(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake).watching()
		m := a.enter("Ann")
		time.Sleep(2 * time.Second)
		if err := a.Release(m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultLeaveGrace + time.Second)
		a.saw("0", "1", "0")
	})
}

// The clocks of the replicas and of Redis differ by an hour, in either direction.
func TestWrongClockOfAReplicaDoesNotMatter(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				fake.SetTime(time.Now().Add(off))
				tick, stop := time.NewTicker(50*time.Millisecond), make(chan struct{})
				defer tick.Stop()
				defer close(stop)
				go func() {
					for {
						select {
						case <-tick.C:
							fake.SetTime(time.Now().Add(off))
						case <-stop:
							return
						}
					}
				}()
				a, b := start(t, fake), start(t, fake).watching()
				ann, ben := a.enter("Ann"), a.enter("Ben")
				a.enter("Cid")
				time.Sleep(2 * time.Minute)
				b.saw("0", "1", "2", "3") // renewed in time
				if _, err := a.Leave(t.Context(), ann); err != nil {
					t.Fatal(err)
				}
				if err := a.Release(ben); err != nil {
					t.Fatal(err)
				}
				time.Sleep(store.DefaultLeaveGrace - time.Second)
				b.saw("0", "1", "2", "3", "2")
				time.Sleep(2 * time.Second)
				b.saw("0", "1", "2", "3", "2", "1") // after the grace
				a.kill()
				time.Sleep(store.DefaultMemberTTL + time.Second)
				b.saw("0", "1", "2", "3", "2", "1", "0") // after the TTL
			})
		})
	}
}

func TestJoinOfUnknownOutcomeIsUndone(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		// The join reaches Redis, but its answer is lost.
		if _, err := a.store.Join(t.Context(), lobby, connection("Ann", "gen1")); err != nil {
			t.Fatal(err)
		}
		a.members.doubt(tabKey{lobby, "c-Ann"}, "gen1")
		time.Sleep(DefaultHeartbeatInterval + time.Second)
		b.saw("0", "1", "0")
	})
}

func TestStormIsPushedOnceAWindow(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		time.Sleep(time.Second)
		before, began := b.pushes(), time.Now()
		for i := range 500 {
			a.join(fmt.Sprint("user", i))
			time.Sleep(time.Millisecond)
		}
		windows := int(time.Since(began)/room.DefaultCoalesce) + 1
		time.Sleep(time.Second)
		if n := b.pushes() - before; n > windows+1 {
			t.Fatalf("%d pushes in %d windows", n, windows)
		}
		if last := b.last(); last != "500" {
			t.Fatalf("the last push said %s", last)
		}
	})
}

func TestRoomThatTakesLongToShowIsPushedLessOften(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		var crowd []*room.Viewer
		for range 400 {
			crowd = append(crowd, b.Enter(t.Context(), lobby))
		}
		time.Sleep(time.Second)
		const takes = 200 * time.Millisecond
		b.take(takes)
		before, began := b.pushes(), time.Now()
		for i := range 400 {
			a.join(fmt.Sprint("user", i))
			time.Sleep(10 * time.Millisecond)
		}
		window := min(takes*time.Duration(2*runtime.GOMAXPROCS(0)), 5*time.Second)
		if n, most := b.pushes()-before, int(time.Since(began)/window)+2; n > most || n == 0 {
			t.Errorf("%d pushes, want at most %d", n, most)
		}
		time.Sleep(10 * time.Second)
		if last := b.last(); last != "400" {
			t.Errorf("in the end %s users", last)
		}
		for _, v := range crowd {
			v.Exit()
		}
	})
}

func TestThoseWhoHangHoldUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		b.take(-1)
		time.Sleep(time.Second)
		a.enter("Ann")
		a.enter("Ben")
		time.Sleep(room.DefaultCoalesce)
		b.saw("0", "1", "2")
	})
}

func TestNewcomersHoldUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		time.Sleep(1200 * time.Millisecond)
		slow, newcomer := b.Enter(t.Context(), lobby), b.Enter(t.Context(), lobby)
		newcomer.Saw(newcomer.View()) // long after the others
		a.enter("Ben")
		synctest.Wait()
		b.saw("0", "1", "2")
		slow.Exit()
		newcomer.Exit()
	})
}

func TestViewerWhoseNoticeWasLostIsReminded(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		deaf := b.Enter(t.Context(), lobby)
		deaf.Saw(deaf.View())
		a.enter("Ann")
		synctest.Wait()
		before := b.pushes()
		time.Sleep(6 * time.Second)
		if b.pushes() == before {
			t.Fatal("no viewer was reminded")
		}
		deaf.Saw(deaf.View())
		before = b.pushes()
		time.Sleep(time.Minute)
		if b.pushes() != before {
			t.Fatalf("reminded %d times though all have looked", b.pushes()-before)
		}
		deaf.Exit()
	})
}

func TestQuietRoomSaysWhenItWasReadLast(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		synctest.Wait()
		before := b.pushes()
		for range 10 {
			time.Sleep(7 * time.Second)
			view, err := b.rooms.Peek(t.Context(), lobby)
			if age := time.Since(view.AsOf); err != nil || view.Users != 1 || age > 6*time.Second {
				t.Fatalf("%d users as of %v ago, %v", view.Users, age, err)
			}
		}
		if b.pushes() != before {
			t.Fatalf("%d pushes of a room in which nothing happened", b.pushes()-before)
		}
	})
}

func TestNobodyLooksNobodyReads(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		b.viewer.Exit()
		b.mu.Lock()
		b.viewer = nil
		b.mu.Unlock()
		time.Sleep(10 * time.Second)
		if n := fake.PubSubNumSub("presence:{lobby}")["presence:{lobby}"]; n != 0 {
			t.Fatalf("%d subscribers", n)
		}
		before := b.pushes()
		a.enter("Ann")
		time.Sleep(time.Minute)
		if b.pushes() != before {
			t.Fatal("a room without viewers was read")
		}
		if view, err := b.rooms.Peek(t.Context(), lobby); err != nil || view.Users != 1 || view.Stale {
			t.Fatalf("Peek: %+v, %v", view, err)
		}
	})
}

func TestVisitorWithoutSocketStaysByVisits(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: store.DefaultMemberTTL}); err != nil {
			t.Fatal(err)
		}
		for i := range 12 { // on either replica
			time.Sleep(10 * time.Second)
			found, err := []*process{a, b}[i%2].Renew(t.Context(), lobby, []string{"c-Ann"}, store.DefaultMemberTTL, "", time.Time{})
			if err != nil || found[0].User.Name != "Ann" {
				t.Fatal(found, err)
			}
		}
		b.saw("0", "1")
		time.Sleep(store.DefaultMemberTTL + time.Second)
		b.saw("0", "1", "0")
	})
}

// A page that was joined by a form on one replica has its socket on another, and has
// another name there, when Redis loses all data. The first replica remembers the form.
func TestSocketGoesBeforeTheFormItsPageCameFrom(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		time.Sleep(time.Second)
		if err := a.put(lobby, connection("Ann", "")); err != nil {
			t.Fatal(err)
		}
		m := b.resume("Ann")
		ben := connection("Ann", presence.NewGeneration())
		ben.User = presence.User{ID: "u-Ben", Name: "Ben"}
		if _, _, err := b.Join(t.Context(), lobby, ben, living{}, m); err != nil {
			t.Fatal(err)
		}
		fake.FlushAll()
		time.Sleep(DefaultHeartbeatInterval)
		synctest.Wait()
		if online, _ := fake.SMembers("presence:{lobby}:online"); !slices.Equal(online, []string{"u-Ben"}) {
			t.Errorf("%v are there, want Ben", online)
		}
	})
}

// A page without a socket reloads every heartbeat interval. Its last reload during an outage
// fails, so it is late when Redis is back.
func TestVisitorsWithoutSocketsSurviveAnOutage(t *testing.T) {
	for _, outage := range []time.Duration{store.DefaultMemberTTL + time.Second, 3 * store.DefaultMemberTTL} {
		t.Run(outage.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				a.enter("Ann")
				for _, name := range []string{"Ben", "gone"} {
					if err := a.put(lobby, connection(name, "")); err != nil {
						t.Fatal(err)
					}
					time.Sleep(room.DefaultCoalesce)
					synctest.Wait()
				}
				visit := func(name string) {
					_, _ = a.Renew(t.Context(), lobby, []string{"c-" + name}, store.DefaultMemberTTL, "", time.Time{})
				}
				for range 3 {
					time.Sleep(DefaultHeartbeatInterval)
					visit("Ben")
					visit("gone")
				}
				fake.Down()
				time.Sleep(outage)
				fake.Up()
				// Its last reload began just before, and has taken until now.
				time.Sleep(pageLoad + DefaultHeartbeatInterval)
				visit("Ben")
				b.saw("0", "1", "2", "3", "3 stale", "3")
				// A user who does not come back leaves all the same.
				time.Sleep(store.DefaultMemberTTL - DefaultHeartbeatInterval)
				b.saw("0", "1", "2", "3", "3 stale", "3", "2")
				for range 6 {
					visit("Ben")
					time.Sleep(DefaultHeartbeatInterval)
				}
				b.saw("0", "1", "2", "3", "3 stale", "3", "2")
			})
		})
	}
}

// Redis is away for longer than the leases of visitors without sockets, and comes back
// empty. The replica that remembers them puts them back, and no lower count is shown.
func TestVisitorsWithoutSocketsSurviveAnOutageThatLosesAll(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		a.enter("Ann")
		if err := a.put(lobby, connection("Ben", "")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		fake.Down()
		fake.FlushAll()
		time.Sleep(2 * store.DefaultMemberTTL)
		fake.Up()
		time.Sleep(10 * time.Second)
		b.saw("0", "1", "2", "2 stale", "2")
		// A user who is never heard of again leaves all the same.
		time.Sleep(2 * store.DefaultMemberTTL)
		b.saw("0", "1", "2", "2 stale", "2", "1")
	})
}

// The busiest of the rooms that may be listed do not depend on other rooms.
func TestBusiestAreOfTheListedRooms(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		all := start(t, fake)
		some := startWith(t, fake, Options{Listed: presence.Patterns{{Text: "lobby"}, {Text: "open-", Prefix: true}}})
		none := startWith(t, fake, Options{Listed: presence.Patterns{}})
		fill := func(room string, users int) {
			t.Helper()
			for i := range users {
				if _, _, err := all.Join(t.Context(), room, connection(fmt.Sprint("user", i), "gen1"), living{}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range maxBusiest + 3 {
			fill(fmt.Sprint("secret-", i), 3)
			fill(fmt.Sprint("open-", 'a'+i), 1)
		}
		fill("open-z", 2)
		time.Sleep(store.DefaultLeaveGrace + 3*time.Second)
		got := some.Busiest()
		if len(got) != maxBusiest || got[0].Room != "open-z" || slices.ContainsFunc(got, func(c store.RoomCount) bool { return !strings.HasPrefix(c.Room, "open-") }) {
			t.Errorf("Busiest = %v", got)
		}
		if got := none.Busiest(); len(got) != 0 {
			t.Errorf("where none may be listed, Busiest = %v", got)
		}
		if got := all.Busiest(); len(got) != maxBusiest || got[0].Users != 3 {
			t.Errorf("where all may be listed, Busiest = %v", got)
		}
	})
}

func TestBusiestRooms(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		for room, n := range map[string]int{"small": 1, "large": 3, "middle": 2} {
			for i := range n {
				if _, _, err := a.Join(t.Context(), room, connection(fmt.Sprint("user", i), "gen1"), living{}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(store.DefaultLeaveGrace + 3*time.Second)
		if got := fmt.Sprint(b.Busiest()); got != "[{large 3 3} {middle 2 2} {small 1 1}]" {
			t.Fatalf("Busiest = %s", got)
		}
		a.kill()
		time.Sleep(2 * time.Minute)
		if got := b.Busiest(); len(got) != 0 {
			t.Fatalf("Busiest = %v", got)
		}
		if rooms, err := b.store.Rooms(t.Context()); err != nil || len(rooms) != 0 {
			t.Fatalf("rooms left: %v, %v", rooms, err)
		}
	})
}

func TestStartWithoutRedis(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		fake.Down()
		a := start(t, fake).watching()
		a.saw("0 stale")
		time.Sleep(time.Minute)
		if a.Ready() == nil {
			t.Fatal("ready without redis")
		}
		fake.Up()
		time.Sleep(5 * time.Second)
		if err := a.Ready(); err != nil {
			t.Fatal(err)
		}
		a.saw("0 stale", "0")
	})
}

package room

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
)

func TestFirstViewersShareOneRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann", "Ben")
		pages, streams := &crowd{t: t}, &crowd{t: t}
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				v := w.Enter(t.Context(), lobby, []Audience{pages, streams}[i%2])
				if view := v.View(); view.Stale || view.Users != 2 || len(view.Members) != 2 {
					t.Errorf("entered to see %+v", view)
				}
			})
		}
		wg.Wait()
		pass(time.Second)
		if n := w.reads("whole"); n != 1 {
			t.Errorf("the whole room was read %d times", n)
		}
		if n := w.reads(""); n > 2 { // and once more when the subscription is there
			t.Errorf("the room was read %d times", n)
		}
		if rooms, viewers := w.Counts(); rooms != 1 || viewers != 40 {
			t.Errorf("%d rooms, %d viewers", rooms, viewers)
		}
	})
}

func TestEachAudienceHasItsOwnPace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "first")
		fast, slow := &crowd{}, &crowd{takes: 3 * time.Second}
		defer w.look(lobby, fast).Exit()
		defer w.look(lobby, slow).Exit()
		pass(time.Second)
		const n = 30
		for i := range n {
			w.join(lobby, fmt.Sprint("user ", i))
			if i > 0 && i%3 == 0 {
				w.leave(fmt.Sprint("user ", i-1))
			}
			pass(DefaultCoalesce)
			if users := fast.last().Users; users != 1+i+1-i/3 {
				t.Fatalf("the fast audience sees %d users after %d joins", users, i+1)
			}
		}
		pass(10 * time.Second)
		if got := fast.count(); got < n {
			t.Errorf("the fast audience was shown %d views of %d", got, n)
		}
		// 3 s of changes, and 3 s for each view.
		if got := slow.count(); got < 3 || got > 5 {
			t.Errorf("the slow audience was shown %d views", got)
		}
		// This leaves out the view seen on entering, and the views for those who came
		// before the room was read.
		if slow.changes() != slow.count()-1 || fast.changes() != fast.count()-2 {
			t.Errorf("changes led to %d of %d and %d of %d views", slow.changes(), slow.count(), fast.changes(), fast.count())
		}
		if a, b := fast.last(), slow.last(); a.Sequence != b.Sequence || a.Users != 1+n-(n-1)/3 {
			t.Errorf("in the end they see %+v and %+v", a.Occupancy, b.Occupancy)
		}
	})
}

// oneByOne is a crowd that one goroutine shows a view to.
type oneByOne struct{ *crowd }

// Serial marks it as a serial audience.
func (oneByOne) Serial() {}

// An audience that one goroutine shows views to gets its next view sooner. Half of the
// processors stay free for other work all the time.
func TestAudienceThatUsesOneProcessor(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const takes = 200 * time.Millisecond
		few, many := &crowd{t: t, takes: takes}, &crowd{t: t, takes: takes}
		for _, a := range []Audience{few, oneByOne{many}} {
			defer w.Enter(t.Context(), lobby, a).Exit()
		}
		for i := range 60 {
			w.join(lobby, fmt.Sprint("user ", i))
			pass(100 * time.Millisecond)
		}
		const changing = 6 * time.Second
		processors := runtime.GOMAXPROCS(0)
		pause := max(takes, 2*takes/time.Duration(processors))
		if got, want := many.count(), int(changing/(pause+50*time.Millisecond)); got < want {
			t.Errorf("the one that uses one processor was shown %d views, want %d", got, want)
		}
		if got, most := few.count(), int(changing/(time.Duration(2*processors)*takes))+2; got > most {
			t.Errorf("the other was shown %d views, want %d at most", got, most)
		}
	})
}

// If a change is not known, the audience that missed it shows the whole room. The next
// change is known again.
func TestChangeThatCannotBeSaid(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann")
		fast, slow := &crowd{}, &crowd{takes: 2 * time.Second}
		defer w.look(lobby, fast).Exit()
		defer w.look(lobby, slow).Exit()
		pass(5 * time.Second)
		first, began := fast.count(), slow.count()
		w.join(lobby, "Ben")
		pass(DefaultCoalesce / 2) // the view is being shown, and the next change is not read yet
		w.join(lobby, "Cid")
		w.fake.Del("presence:{lobby}:log")
		pass(DefaultCoalesce)
		w.join(lobby, "Dan")
		pass(5 * time.Second)
		w.join(lobby, "Eve")
		pass(5 * time.Second)
		said := func(c *crowd, from int) (s []bool) {
			for _, view := range c.views[from:] {
				s = append(s, view.Change != nil)
			}
			return s
		}
		if got := said(fast, first); !slices.Equal(got, []bool{true, false, true, true}) {
			t.Errorf("to the fast audience was said %v", got)
		}
		if got := said(slow, began); !slices.Equal(got, []bool{true, false, true}) {
			t.Errorf("to the slow audience was said %v", got)
		}
		fast.saw("1", "2", "3", "4", "5")
		slow.saw("1", "2", "4", "5")
	})
}

func TestRoomsAreShownSideBySide(t *testing.T) {
	bubble(t, func(_ *testing.T, w *world) {
		hanging := &crowd{takes: time.Minute}
		defer w.look("big", hanging).Exit()
		var others []*crowd
		for i := range 20 {
			c := &crowd{takes: 20 * time.Millisecond}
			others = append(others, c)
			defer w.look(fmt.Sprint("room", i), c).Exit()
		}
		pass(time.Second)
		w.join("big", "Ann")
		for i := range others {
			w.join(fmt.Sprint("room", i), "Ann")
		}
		pass(DefaultCoalesce + 20*time.Millisecond)
		for _, c := range others {
			c.saw("0", "1")
		}
		pass(time.Minute)
	})
}

func TestRunWaitsForWhatIsBeingShown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &crowd{takes: time.Minute}
		defer w.look(lobby, c).Exit()
		pass(time.Second)
		w.join(lobby, "Ann")
		pass(DefaultCoalesce)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took < 50*time.Second || c.showing {
			t.Errorf("Run returned after %v, showing %v", took, c.showing)
		}
	})
}

// However a room's data are lost, the loss is found, once. The new data are shown when
// all replicas have had the time to put back their members.
func TestLossOfARoomsData(t *testing.T) {
	for name, lose := range map[string]func(w *world, putBack func()){
		"flushed":    func(w *world, _ func()) { w.fake.FlushAll() },
		"deleted":    func(w *world, _ func()) { w.drop(lobby) },
		"stale copy": func(_ *world, putBack func()) { putBack() },
	} {
		for _, audiences := range []int{1, 3} {
			t.Run(fmt.Sprint(name, " ", audiences), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					w.join(lobby, "Ann", "Ben")
					w.join("other", "Eve")
					old := w.keep(lobby)
					w.join(lobby, "Cid")
					crowds := make([]*crowd, audiences)
					for i := range crowds {
						crowds[i] = &crowd{takes: time.Duration(i) * 50 * time.Millisecond}
						defer w.look(lobby, crowds[i]).Exit()
					}
					other := &crowd{}
					defer w.look("other", other).Exit()
					pass(12 * time.Second)
					lose(w, old)
					lost := time.Now()
					for len(w.trust.losses()) == 0 {
						pass(10 * time.Millisecond)
						if time.Since(lost) > resyncInterval+time.Second {
							t.Fatal("the loss was not noticed")
						}
					}
					pass(settle - 10*time.Millisecond)
					for _, c := range crowds {
						c.saw("3", "3 stale")
					}
					w.join(lobby, "Dan") // Dan is one of the users who are put back
					pass(10*time.Millisecond + retryRead + 2*DefaultCoalesce)
					want := "1"
					if name == "stale copy" {
						want = "3"
					}
					for _, c := range crowds {
						c.saw("3", "3 stale", want)
					}
					pass(time.Minute)
					if lost := w.trust.losses(); fmt.Sprint(lost) != "[lobby]" && name != "flushed" || len(lost) > 2 {
						t.Errorf("lost: %v", lost)
					}
					if name == "flushed" {
						other.saw("1", "1 stale", "0")
					} else {
						other.saw("1")
					}
				})
			})
		}
	}
}

// A lost room is shown as soon as it can be trusted. That includes viewers who came
// meanwhile and did not wait.
func TestRoomIsShownRightAfterTheHold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann")
		w.trust.Lost(t.Context(), lobby)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := &crowd{t: t}
		v := w.Enter(ctx, lobby, c)
		defer v.Exit()
		synctest.Wait()
		if !v.View().Stale {
			t.Fatalf("in the hold: %+v", v.View())
		}
		pass(settle - time.Second + retryRead + DefaultCoalesce)
		c.saw("1")
	})
}

// A stale copy of the room brings back a user who has left. That user is not shown before
// other replicas have had the time to correct the copy.
func TestEmptyRoomDoesNotGoBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann")
		old := w.keep(lobby)
		w.leave("Ann")
		c := &crowd{}
		defer w.look(lobby, c).Exit()
		pass(time.Second)
		old()
		pass(resyncInterval)
		if fmt.Sprint(w.trust.losses()) != "[lobby]" {
			t.Errorf("lost: %v", w.trust.losses())
		}
		c.saw("0", "0 stale")
		w.leave("Ann")
		pass(settle + retryRead)
		c.saw("0", "0 stale", "0")
	})
}

func TestEmptyRoomMayBeBornAgainUnnoticed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &crowd{}
		defer w.look(lobby, c).Exit()
		for range 3 {
			w.join(lobby, "Ann")
			pass(time.Second)
			w.leave("Ann")
			pass(time.Second)
			w.fake.FlushAll()
			pass(2 * resyncInterval)
		}
		c.saw("0", "1", "0", "1", "0", "1", "0")
		if lost := w.trust.losses(); len(lost) > 0 {
			t.Errorf("lost: %v", lost)
		}
	})
}

func TestDamagedRoomIsStaleAndAlone(t *testing.T) {
	for _, key := range []string{"online", "beats", "conns", "users", "roster", "version"} {
		t.Run(key, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.join(lobby, "Ann", "Ben")
				w.join("other", "Eve")
				c, other := &crowd{}, &crowd{}
				defer w.look(lobby, c).Exit()
				defer w.look("other", other).Exit()
				pass(time.Second)
				w.fake.Del("presence:{lobby}:" + key)
				pass(time.Minute)
				c.saw("2", "2 stale")
				other.saw("1")
				w.trust.set(func() {
					if len(w.trust.failed) == 0 || slices.Contains(w.trust.failed, "other") || len(w.trust.lost) > 0 {
						t.Errorf("failed: %v, lost %v", w.trust.failed, w.trust.lost)
					}
				})
				w.drop(lobby)
				w.MarkLost(lobby, time.Now().Add(settle)) // as it is repaired
				w.join(lobby, "Cid")
				pass(settle + retryRead + DefaultCoalesce)
				c.saw("2", "2 stale", "1")
			})
		})
	}
}

// All keys but the version are gone. The version shows no change, but the numbers do.
func TestNumbersThatDoNotFitAreALoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann", "Ben")
		c := &crowd{}
		defer w.look(lobby, c).Exit()
		pass(time.Second)
		for _, key := range []string{"online", "beats", "conns", "users", "roster"} {
			w.fake.Del("presence:{lobby}:" + key)
		}
		pass(resyncInterval + settle/2)
		c.saw("2", "2 stale")
		if fmt.Sprint(w.trust.losses()) != "[lobby]" {
			t.Errorf("lost: %v", w.trust.losses())
		}
		pass(settle)
		c.saw("2", "2 stale", "0")
	})
}

// Redis goes away between an answer and the view made from it. The room is then stale, as
// long as Redis is away.
func TestStaleWinsOverAnAnswerUnderWay(t *testing.T) {
	for name, far := range map[string]func(w *world){
		"Redis is away": func(w *world) {
			w.trust.set(func() { w.trust.away = true })
			w.MarkStale(nil)
		},
		"the room was lost": func(w *world) { w.MarkLost(lobby, w.trust.Lost(t.Context(), lobby)) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, w *world) {
				w.join(lobby, "Ann")
				c := &crowd{}
				defer w.look(lobby, c).Exit()
				pass(time.Second)
				w.trust.set(func() { w.trust.between = func() { far(w) } })
				w.join(lobby, "Ben")
				pass(settle - time.Second)
				c.saw("1", "1 stale")
				w.trust.set(func() { w.trust.away = false })
				w.Settled(nil)
				pass(resyncInterval)
				c.saw("1", "1 stale", "2")
			})
		})
	}
}

// A view is as old as the question.
func TestAsOfIsWhenTheRoomWasAsked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann")
		c := &crowd{}
		v := w.look(lobby, c)
		defer v.Exit()
		pass(time.Second)
		var asked time.Time
		w.trust.set(func() {
			w.trust.between = func() {
				asked = time.Now()
				time.Sleep(time.Second) // as if the processor had been busy
			}
		})
		w.join(lobby, "Ben")
		pass(time.Second + 2*DefaultCoalesce)
		if view := v.View(); view.Users != 2 || view.AsOf.After(asked) {
			t.Errorf("as of %v, asked at %v: %+v", view.AsOf, asked, view.Occupancy)
		}
	})
}

func TestQuietRoomIsReadAnewWithoutAPush(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann")
		c := &crowd{}
		v := w.look(lobby, c)
		defer v.Exit()
		pass(time.Second)
		before := c.count()
		for range 10 {
			pass(resyncInterval)
			if age := time.Since(v.View().AsOf); age > resyncInterval {
				t.Fatalf("read %v ago", age)
			}
		}
		if n := c.count() - before; n != 0 {
			t.Errorf("shown %d times", n)
		}
		if n := w.reads("whole"); n != 1 {
			t.Errorf("the whole room was read %d times", n)
		}
	})
}

func TestViewerWhoMissedAViewIsReminded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, never := &crowd{deaf: true}, &crowd{t: t}
		v := w.look(lobby, c)
		defer v.Exit()
		defer w.Enter(t.Context(), lobby, never).Exit() // this viewer never calls Saw
		pass(time.Second)
		w.join(lobby, "Ann")
		pass(time.Second)
		before := c.count()
		pass(2 * resyncInterval)
		if n := c.count() - before; n != 2 {
			t.Errorf("reminded %d times in %v", n, 2*resyncInterval)
		}
		if view := c.last(); view.Change != nil || view.Users != 1 {
			t.Errorf("reminded of %+v", view)
		}
		v.Saw(v.View())
		before = c.count()
		pass(4 * resyncInterval)
		if n := c.count(); n != before {
			t.Errorf("reminded %d times of what was seen", n-before)
		}
		if n := never.count(); n != 1 {
			t.Errorf("shown %d times to a viewer that never calls Saw", n)
		}
	})
}

func TestPeekAndLook(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.join(lobby, "Ann", "Ben")
		numbers, err := w.Peek(t.Context(), lobby)
		if err != nil || numbers.Stale || numbers.Users != 2 || numbers.AsOf.IsZero() {
			t.Errorf("Peek: %+v, %v", numbers, err)
		}
		whole, err := w.Look(t.Context(), lobby)
		if err != nil || whole.Users != 2 || !whole.Complete() || whole.Sequence != 0 {
			t.Errorf("Look: %+v, %v", whole, err)
		}
		if empty, err := w.Look(t.Context(), "nobody"); err != nil || empty.Stale || empty.Users != 0 || empty.Version != 0 {
			t.Errorf("an empty room: %+v, %v", empty, err)
		}
		c := &crowd{}
		v := w.look(lobby, c)
		pass(time.Second)
		before := w.reads("")
		for range 10 {
			if seen, err := w.Peek(t.Context(), lobby); err != nil || seen.Sequence != v.View().Sequence {
				t.Errorf("Peek: %+v, %v", seen, err)
			}
			if seen, err := w.Look(t.Context(), lobby); err != nil || !seen.Complete() {
				t.Errorf("Look: %+v, %v", seen, err)
			}
		}
		if n := w.reads("") - before; n != 0 {
			t.Errorf("a room that somebody looks at was read %d times", n)
		}
		w.trust.set(func() { w.trust.away = true })
		w.MarkStale(nil)
		if last, err := w.Peek(t.Context(), lobby); err != nil || !last.Stale || last.Users != 2 {
			t.Errorf("Peek at what is known: %+v, %v", last, err)
		}
		if none, err := w.Look(t.Context(), "nobody"); !errors.Is(err, errAway) || !none.Stale {
			t.Errorf("Look at what is not: %+v, %v", none, err)
		}
		v.Exit()
		if none, err := w.Peek(t.Context(), lobby); !errors.Is(err, errAway) || !none.Stale {
			t.Errorf("Peek after the last viewer has gone: %+v, %v", none, err)
		}
		w.trust.set(func() { w.trust.away, w.trust.doubtful = false, true })
		if ghosts, err := w.Peek(t.Context(), lobby); err != nil || !ghosts.Stale {
			t.Errorf("Peek at a room with ghosts: %+v, %v", ghosts, err)
		}
		w.fake.Del("presence:{lobby}:beats")
		if bad, err := w.Peek(t.Context(), lobby); !errors.Is(err, presence.ErrDamaged) || !bad.Stale {
			t.Errorf("Peek at a damaged room: %+v, %v", bad, err)
		}
	})
}

// A version that was seen elsewhere is reached at once, even if its message was lost. A
// made-up version only causes one more read of the room.
func TestReach(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		v := w.look(lobby, &crowd{})
		defer v.Exit()
		pass(time.Second)
		w.fake.Mute(true)
		w.join(lobby, "Ann")
		before, reads := v.View(), w.reads("")
		w.Reach(t.Context(), lobby, before.Version)
		if n := w.reads("") - reads; n != 0 || v.View().Users != 0 {
			t.Errorf("for a version that is there the room was read %d times", n)
		}
		w.Reach(t.Context(), lobby, before.Version+1)
		if view := v.View(); view.Users != 1 {
			t.Errorf("reached %+v", view)
		}
		reached, reads := v.View(), w.reads("")
		w.Reach(t.Context(), lobby, math.MaxInt64)
		if n := w.reads("") - reads; n != 1 || v.View().Sequence != reached.Sequence || v.HeardVersion() != reached.Version {
			t.Errorf("for a version that is made up the room was read %d times, and is %+v", n, v.View())
		}
		w.Reach(t.Context(), "nobody", 1)
		if rooms, _ := w.Counts(); rooms != 1 {
			t.Errorf("%d rooms", rooms)
		}
	})
}

// A visitor asks for a later version and goes away at once, again and again. That delays
// nobody: the room is still read, and all see its changes.
func TestReachThatIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &crowd{}
		v := w.look(lobby, c)
		defer v.Exit()
		pass(time.Second)
		w.join(lobby, "Ann")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 10 {
			w.Reach(gone, lobby, math.MaxInt64)
			pass(DefaultCoalesce)
		}
		if view := c.last(); view.Users != 1 || view.Stale {
			t.Errorf("a second after the join, the viewers are shown %+v", view)
		}
	})
}

// The last page of a room closes while it is being shown a view, and the next page opens.
// Both are in the same audience.
func TestAudienceThatComesBackWhileItIsShownSomething(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &crowd{takes: 2 * time.Second}
		first := w.look(lobby, c)
		pass(5 * time.Second)
		w.join(lobby, "Ann")
		pass(DefaultCoalesce)
		first.Exit()
		second := w.look(lobby, c)
		if view := second.View(); view.Stale || view.Users != 1 {
			t.Errorf("entered to see %+v", view)
		}
		w.join(lobby, "Ben")
		pass(5 * time.Second)
		if view := c.last(); view.Users != 2 || view.Sequence != second.View().Sequence {
			t.Errorf("shown %+v", view)
		}
		second.Exit()
		pass(5 * time.Second)
		if rooms, viewers := w.Counts(); rooms != 0 || viewers != 0 {
			t.Errorf("%d rooms and %d viewers are left", rooms, viewers)
		}
	})
}

// Pages open and close all the time. Each that opens sees the room as it is or newer,
// views come in order, and nothing is left in the end.
func TestViewersComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		audiences := []*crowd{{t: t, loose: true}, {t: t, loose: true, takes: 70 * time.Millisecond}}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for range 30 {
					time.Sleep(time.Duration(i*17%13) * time.Millisecond)
					v := w.Enter(t.Context(), lobby, audiences[i%2])
					if view := v.View(); view.Stale || view.AsOf.IsZero() {
						t.Errorf("entered to see %+v", view)
					}
					time.Sleep(time.Duration(i*31%29) * time.Millisecond)
					v.Exit()
				}
			})
		}
		for i := range 20 {
			w.join(lobby, fmt.Sprint("user ", i))
			time.Sleep(40 * time.Millisecond)
		}
		wg.Wait()
		pass(time.Second)
		if rooms, viewers := w.Counts(); rooms != 0 || viewers != 0 {
			t.Errorf("%d rooms and %d viewers are left", rooms, viewers)
		}
		before := w.reads("")
		w.join(lobby, "late")
		pass(3 * resyncInterval)
		if n := w.reads("") - before; n != 0 {
			t.Errorf("a room without viewers was read %d times", n)
		}
	})
}

// A viewer of a room that has ended here does not end the room when it is opened again.
func TestExitOfAnEarlierRoom(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := &crowd{}
		first := w.look(lobby, c)
		pass(time.Second)
		first.Exit()
		second := w.look(lobby, c)
		if a, b := first.View().Sequence, second.View().Sequence; b <= a {
			t.Errorf("view %d after %d", b, a)
		}
		first.Exit() // once more
		synctest.Wait()
		w.join(lobby, "Ann")
		pass(time.Second)
		if c.last().Users != 1 {
			t.Errorf("seen %v", c.history())
		}
		second.Exit()
	})
}

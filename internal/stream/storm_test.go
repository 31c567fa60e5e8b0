package stream

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/store"
)

// truth is the state of a room at its versions, as far as readers have reported it.
type truth struct {
	t  testing.TB
	mu sync.Mutex // guards:
	by map[int64]told
}

type told struct{ by, text string }

// say fails the test if another reader has reported something else for a version.
func (tr *truth) say(by string, version int64, text string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if before, ok := tr.by[version]; ok && before.text != text {
		tr.t.Errorf("version %d is\n%s for %s, and was\n%s for %s", version, text, by, before.text, before.by)
		return
	}
	tr.by[version] = told{by, text}
}

// storm makes users come, go, change their names and come back, for a time.
func storm(p *process, seed uint64, lasts time.Duration) {
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		id := fmt.Sprint("c", random.IntN(60))
		user := fmt.Sprint("u", random.IntN(40))
		var err error
		if random.IntN(3) == 0 {
			_, err = p.store.Leave(p.t.Context(), lobby, id, "")
		} else {
			_, err = p.store.Put(p.t.Context(), lobby, store.Wanted{
				Connection: presence.Connection{ID: id, Generation: presence.NewHTTPGeneration(), User: presence.User{ID: user, Name: fmt.Sprint("Ann ", random.IntN(9))}},
				TTL:        time.Hour, SetName: random.IntN(2) == 0,
			})
		}
		if err != nil {
			p.t.Error(err)
		}
		time.Sleep(time.Duration(random.IntN(int(40 * time.Millisecond))))
	}
}

// TestNobodyDisagrees makes followers on two replicas compare every event with what
// others received, and with the room in Redis. Meanwhile users come and go, and the
// followers themselves reconnect from their versions.
func TestNobodyDisagrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		replicas := []*process{start(t, fake), startOn(t, fake, store.Options{}, 10*time.Millisecond)}
		time.Sleep(time.Minute)
		tr := &truth{t: t, by: map[int64]told{}}
		const lasts = 10 * time.Second
		var events, diffs atomic.Int64
		var wg sync.WaitGroup
		last := make([]*follower, 6)
		for i := range last {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // a test's
				f := &follower{}
				last[i] = f
				for end := time.Now().Add(lasts + 2*time.Second); time.Now().Before(end); {
					p := replicas[random.IntN(2)]
					c := p.watch(fmt.Sprintf("rooms=lobby&after=%d", f.version))
					for until := time.Now().Add(time.Duration(random.IntN(int(5 * time.Second)))); time.Now().Before(until) || time.Now().After(end.Add(-2*time.Second)) && time.Now().Before(end); {
						time.Sleep(time.Millisecond)
						for _, e := range c.take() {
							if events.Add(1); e.Kind == "diff" {
								diffs.Add(1)
							}
							if err := f.apply(e); err != nil {
								t.Errorf("follower %d: %v", i, err)
							}
							tr.say(fmt.Sprint("follower ", i), f.version, f.text())
						}
					}
					c.close()
				}
			})
		}
		wg.Go(func() { // GET
			for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(7 * time.Millisecond) {
				for i, p := range replicas {
					view, err := p.rooms.Look(t.Context(), lobby)
					if err != nil {
						t.Error(err)
					}
					f := &follower{members: map[string]Member{}}
					for _, m := range MembersOf(view.Members) {
						f.members[m.User] = m
					}
					tr.say(fmt.Sprint("GET ", i), view.Version, f.text())
				}
			}
		})
		for seed := range 4 {
			wg.Go(func() { storm(replicas[seed%2], uint64(seed), lasts) }) //nolint:gosec // few
		}
		wg.Wait()
		readings, err := replicas[0].store.Read(t.Context(), store.Have{Room: lobby})
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range last {
			if f.version != readings[0].Version || f.users != readings[0].Users {
				t.Errorf("follower %d ends at version %d with %d users, the room is at %d with %d", i, f.version, f.users, readings[0].Version, readings[0].Users)
			}
		}
		by := func(how string) (n float64) {
			for _, p := range replicas {
				n += p.metric("presence_streams_resumed_total", how)
			}
			return n
		}
		t.Logf("%d events, %d of them diffs, of %d versions; resumed %v times by changes, %v by a snapshot", events.Load(), diffs.Load(), len(tr.by), by("changes"), by("snapshot"))
		if by("snapshot") > 0 || float64(events.Load()-diffs.Load()) > float64(len(last)) {
			t.Error("there were more snapshots than the first of each follower")
		}
	})
}

// TestStreamsLeaveNothing opens and drops streams over TCP. Some of them join, and some
// are never read.
func TestStreamsLeaveNothing(t *testing.T) {
	p := startWith(t, redistest.NewFake(t), store.Options{}, replica.Options{Alone: true}, 10*time.Millisecond)
	p.listen()
	redistest.Eventually(t, 10*time.Second, "the room is known", func() bool {
		view, err := p.rooms.Look(t.Context(), lobby)
		return err == nil && !view.Stale
	})
	round := func(n int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				query := fmt.Sprintf("/?rooms=lobby,r%d", i%7)
				switch i % 5 {
				case 0:
					query = fmt.Sprintf("/?rooms=lobby&join=c%d&user=u%d", i, i%50)
				case 1:
					query = "/?rooms=lobby&count="
				}
				r, err := http.NewRequest(http.MethodGet, p.url+query, nil) //nolint:noctx // closed below
				if err != nil {
					t.Error(err)
					return
				}
				response, err := p.client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				if i%3 != 0 {
					_, _ = response.Body.Read(make([]byte, 100))
				}
				_ = response.Body.Close()
			})
			if i%200 == 199 {
				wg.Wait()
			}
		}
		wg.Wait()
		redistest.Eventually(t, 20*time.Second, "all streams have ended", func() bool { return p.Len() == 0 })
	}
	// measure returns how many goroutines of streams there are, and the heap.
	measure := func() (goroutines int, heap uint64) {
		all := make([]byte, 4<<20)
		all = all[:runtime.Stack(all, true)]
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return bytes.Count(all, []byte("stream.(*stream)")), m.HeapAlloc
	}
	round(3000) // until what lives as long as the process is there
	_, heap := measure()
	round(6000)
	// Of each stream that stayed there would be more than a KiB. Connections to Redis come
	// and go, with 64 KiB each.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		goroutines, now := measure()
		if goroutines == 0 && now <= heap+3<<20 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines; %d KiB of heap, and there were %d", goroutines, now>>10, heap>>10)
		}
	}
	if rooms, viewers := p.rooms.Counts(); rooms != 0 || viewers != 0 {
		t.Errorf("%d viewers of %d rooms are left", viewers, rooms)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.feeds)+len(p.seats)+len(p.timed) != 0 {
		t.Errorf("%d feeds, %d seats, %d times are left", len(p.feeds), len(p.seats), len(p.timed))
	}
}

package system

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/test/harness"
)

// truth is the state of a room at its versions, as far as readers have reported it.
type truth struct {
	t  *testing.T
	mu sync.Mutex // guards:
	by map[int64]told
	n  map[string]int // how often each kind of reader has told something
}

type told struct{ by, text string }

// say fails the test if another reader has reported something else for a version.
func (tr *truth) say(by string, v harness.View) {
	text := v.Text()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.n[by]++
	if before, ok := tr.by[v.Version]; ok && before.text != text {
		tr.t.Errorf("version %d is\n%s for %s, and was\n%s for %s", v.Version, text, by, before.text, before.by)
		return
	}
	tr.by[v.Version] = told{by, text}
}

// membersOf reads all members by one request. ok says that they are up to date.
func membersOf(p *harness.Program, room string) (v harness.View, ok bool) {
	status, answer, err := p.Call(http.MethodGet, "/rooms/"+room+"/members?limit=1000", "")
	var page struct {
		Version int64
		Stale   bool
		Members []harness.Member
	}
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &page) != nil || page.Stale {
		return v, false
	}
	v.Version, v.Members = page.Version, map[string]harness.Member{}
	for _, m := range page.Members {
		v.Members[m.User] = m
	}
	return v, true
}

// changed follows a room by its changes from v on, and reports each. ok is false if the
// changes do not lead on.
func changed(p *harness.Program, room string, v *harness.View, tell func(harness.View)) (ok bool) {
	status, answer, err := p.Call(http.MethodGet, fmt.Sprintf("/rooms/%s/changes?after=%d", room, v.Version), "")
	var log struct{ Changes []harness.Event }
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(answer), &log) != nil {
		return false
	}
	for _, c := range log.Changes {
		for _, l := range c.Leaves {
			delete(v.Members, l.User)
		}
		for _, m := range slices.Concat(c.Updates, c.Joins) {
			v.Members[m.User] = m
		}
		v.Version = c.Version
		tell(*v)
	}
	return true
}

// People come, go and change their names through three replicas, one of which is killed.
// Resumed streams, members, changes and, in the end, pages agree: no two of them report
// different states for a version.
func TestNobodyDisagrees(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r, key := startAPI(t, 3, brisk, url)
	bases := []string{r[0].URL, r[1].URL, r[2].URL}
	tr := &truth{t: t, by: map[int64]told{}, n: map[string]int{}}
	program := func(i int) *harness.Program { return harness.NewProgram(t, bases[i%3], key) }

	var followers []*harness.Follower
	for i := range 6 {
		query := ""
		if i%2 == 0 {
			query = fmt.Sprintf("join=s%d&user=s%d", i, i)
		}
		order := []string{bases[i%3], bases[(i+1)%3], bases[(i+2)%3]}
		followers = append(followers, harness.Follow(t, key, "lobby", query, func(v harness.View) { tr.say("a stream", v) }, order...))
	}
	page := harness.Open(t, harness.Options{Names: true}, bases[2], bases[0]).MustJoin("Zoe")
	const lasts = 4 * time.Second
	end := time.Now().Add(lasts)
	var group sync.WaitGroup
	storm := func(n int, each time.Duration, act func(i int, random *rand.Rand)) {
		for i := range n {
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 1)) //nolint:gosec // few, and of a test
				tick := time.NewTicker(each)
				defer tick.Stop()
				for time.Now().Before(end) {
					act(i, random)
					<-tick.C
				}
			})
		}
	}
	storm(4, 12*time.Millisecond, func(i int, random *rand.Rand) {
		connection, user := random.IntN(50), random.IntN(35)
		path := fmt.Sprintf("/rooms/lobby/connections/c%d", connection)
		// Of a replica that is killed meanwhile there is no answer.
		switch random.IntN(4) {
		case 0:
			_, _, _ = program(i+connection).Call(http.MethodDelete, path, "")
		case 1:
			_, _, _ = program(i+connection).Call(http.MethodPatch, path, fmt.Sprintf(`{"name":"Ann %d","meta":{"n":%d}}`, random.IntN(9), random.IntN(9)))
		default:
			_, _, _ = program(i+connection).Call(http.MethodPut, path, fmt.Sprintf(`{"user":"u%d","ttl":60}`, user))
		}
	})
	storm(2, 15*time.Millisecond, func(i int, _ *rand.Rand) {
		if v, ok := membersOf(program(i), "lobby"); ok {
			tr.say("members", v)
		}
	})
	group.Go(func() {
		v, ok := harness.View{}, false
		for time.Now().Before(end) {
			if !ok {
				v, ok = membersOf(program(0), "lobby")
			}
			ok = ok && changed(program(1), "lobby", &v, func(v harness.View) { tr.say("changes", v) })
		}
	})
	storm(2, 700*time.Millisecond, func(i int, random *rand.Rand) { // who comes back elsewhere
		followers[i].Goto(bases[random.IntN(2)], bases[2])
	})
	group.Go(func() {
		harness.Observe(t, lasts/3, "all three replicas work")
		r[2].Kill()
	})
	group.Wait()

	harness.Observe(t, brisk.ttl+time.Second, "who was there by the killed replica has come back or left")
	last, ok := membersOf(program(0), "lobby")
	if !ok {
		t.Fatal("members are not told in the end")
	}
	for i, f := range followers {
		f.Sees(5*time.Second, "the last version", func(v harness.View) bool { return v.Version == last.Version })
		if text := f.Now().Text(); text != last.Text() {
			t.Errorf("stream %d has\n%s, want\n%s", i, text, last.Text())
		}
	}
	page.SeesUsers(5*time.Second, len(last.Members))
	var names []string
	for _, m := range last.Members {
		names = append(names, m.Name)
	}
	shown := page.Roster()
	slices.Sort(names)
	slices.Sort(shown)
	if !slices.Equal(shown, names) {
		t.Errorf("the page lists %v, want %v", strings.Join(shown, ","), strings.Join(names, ","))
	}
	for _, by := range []string{"a stream", "members", "changes"} {
		if tr.n[by] < 30 {
			t.Errorf("%s told %d times, want 30 at least", by, tr.n[by])
		}
	}
	t.Logf("%d versions; told by %v", len(tr.by), tr.n)
}

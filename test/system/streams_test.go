package system

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// startAPI is start with an API key that has all rights.
func startAPI(t *testing.T, n int, p pace, url string) (replicas []*harness.Replica, key string) {
	t.Helper()
	key, flags := harness.Key(t)
	return start(t, n, p, url, flags...), key
}

// The balancer does not affect an event stream: events arrive at once, the stream stays
// open however quiet the room is, and the server notices at once when a client has gone.
func TestStreamsBehindHAProxy(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r, key := startAPI(t, 1, pace{heartbeat: time.Second, ttl: 20 * time.Second, grace: time.Second}, url)
	// Comments come every 12 s, and timeouts are shortened as far as that allows.
	const idle = 13500 * time.Millisecond
	balancer := harness.StartHAProxyWith(t, func(config string) string {
		timeouts := regexp.MustCompile(`timeout (client|server|tunnel) +\d+s`)
		if n := len(timeouts.FindAllString(config, -1)); n != 3 {
			t.Errorf("%d timeouts are shortened, want 3", n)
		}
		return timeouts.ReplaceAllString(config, fmt.Sprintf("timeout $1 %dms", idle.Milliseconds()))
	}, r[0].Addr)
	redistest.Eventually(t, 10*time.Second, "the balancer has found the replica", func() bool {
		return status(t, balancer.URL+"/") == http.StatusOK
	})
	quiet := harness.Follow(t, "", "lobby", "", nil, balancer.URL)
	ann := harness.Follow(t, key, "lobby", "join=c1&user=ann", nil, balancer.URL)
	quiet.SeesUsers(5*time.Second, 1)
	program := harness.NewProgram(t, balancer.URL, key)
	program.Put("lobby", "ben", `,"ttl":60`)
	within(t, quiet.SeesUsers(5*time.Second, 2), shown, "the join of a program")
	if n := r[0].Metric("presence_streams"); n != 2 {
		t.Errorf("%v streams are open, want 2", n)
	}

	from := time.Now()
	ann.Close()
	redistest.Eventually(t, 5*time.Second, "the server has noticed that a client has gone", func() bool {
		return r[0].Metric("presence_streams") == 1
	})
	within(t, time.Since(from), 250*time.Millisecond, "to notice that a client has gone")
	quiet.SeesUsers(5*time.Second, 1)
	within(t, time.Since(from), 2*time.Second, "the leave of who was there by a stream")
	left := quiet.Events(from, "diff")
	if len(left) != 1 || fmt.Sprint(left[0].Leaves) != "[{ann closed}]" {
		t.Errorf("events after that: %+v", left)
	}
	notBefore(t, left[0].At.Sub(from), time.Second-50*time.Millisecond, "the leave of who was there by a stream")

	silent := time.Now()
	harness.Observe(t, idle+time.Second, "the balancer would have cut a stream without keepalives")
	if n := len(quiet.Events(silent, "")); n == 0 {
		t.Error("there were no keepalives")
	}
	program.Put("lobby", "cem", "")
	quiet.SeesUsers(5*time.Second, 2)
	if n := quiet.Streams(); n != 1 {
		t.Errorf("%d streams were opened, want the first only", n)
	}
	quiet.Close()
	redistest.Eventually(t, 5*time.Second, "no stream is left", func() bool { return r[0].Metric("presence_streams") == 0 })
}

// A replica with 200 users, by pages, streams and programs, is killed. Followers of the
// room on another replica are told of each leave once, with its reason.
func TestEveryLeaveOfAKilledReplicaIsTold(t *testing.T) {
	t.Parallel()
	p := pace{heartbeat: time.Second, ttl: 4 * time.Second, grace: 2 * time.Second}
	_, url := startRedis(t)
	r, key := startAPI(t, 2, p, url)
	const pages, streams, puts = 20, 40, 140
	watcher := harness.Follow(t, "", "lobby", "", nil, r[1].URL)
	program := harness.NewProgram(t, r[0].URL, key)
	join(t, pages, harness.Options{Still: true}, r[0].URL)
	for i := range streams {
		harness.Follow(t, key, "lobby", fmt.Sprintf("join=s%d&user=s%d", i, i), nil, r[0].URL)
	}
	var beats strings.Builder
	harness.InParallel(puts, func(i int) { program.Put("lobby", fmt.Sprint("p", i), "") })
	for i := range puts {
		fmt.Fprintf(&beats, `,{"room":"lobby","connection":"p%d"}`, i)
	}
	watcher.SeesUsers(5*time.Second, pages+streams+puts)
	there := watcher.Now().Members
	var answer struct{ Renewed int }
	program.Must(http.MethodPost, "/heartbeats", `{"connections":[`+beats.String()[1:]+`]}`, &answer)
	if answer.Renewed != puts {
		t.Errorf("%d connections are renewed, want %d", answer.Renewed, puts)
	}
	killed := time.Now()
	r[0].Kill()
	watcher.SeesUsers(p.ttl+5*time.Second, 0)
	told := map[string]int{}
	last := killed
	for _, e := range watcher.Events(killed, "diff") {
		for _, l := range e.Leaves {
			if told[l.User]++; l.Reason != "timeout" {
				t.Errorf("%s leaves for the reason %s", l.User, l.Reason)
			}
			last = e.At
		}
	}
	for user := range there {
		if told[user] != 1 {
			t.Errorf("%s leaves %d times", user, told[user])
		}
	}
	if len(there) != pages+streams+puts || len(told) != len(there) {
		t.Errorf("%d leave of %d", len(told), len(there))
	}
	within(t, last.Sub(killed), p.ttl+time.Second, "the last leave")
	if n := len(watcher.Events(killed, "snapshot")); n > 0 {
		t.Errorf("%d snapshots are told instead", n)
	}
}

// listing is a page of the members of a room.
type listing struct {
	Users   int
	Members []harness.Member
	Next    string
}

// list reads all pages of the members of a room, and returns how often each user
// came, and in how many pages. between is called after each page.
func list(program *harness.Program, room string, limit int, between func(page int)) (times map[string]int, pages int) {
	times = map[string]int{}
	for cursor := ""; ; pages++ {
		var page listing
		program.Must(http.MethodGet, fmt.Sprintf("/rooms/%s/members?limit=%d&cursor=%s", room, limit, cursor), "", &page)
		for _, m := range page.Members {
			times[m.User]++
		}
		if cursor = page.Next; cursor == "" {
			return times, pages + 1
		}
		between(pages)
	}
}

// A room grows to 700 people and shrinks again. A follower is told of each user, then of
// numbers, then of each user again. The pages of the list of members contain everybody.
func TestRoomOfManyIsFollowedAndListed(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r, key := startAPI(t, 2, steady, url)
	here, there := harness.NewProgram(t, r[0].URL, key), harness.NewProgram(t, r[1].URL, key)
	follower := harness.Follow(t, "", "lobby", "", nil, r[1].URL)
	put := func(from, to int) {
		harness.InParallel(to-from, func(i int) { here.Put("lobby", fmt.Sprint("u", from+i), `,"ttl":60`) })
	}
	// isRight waits for that many, and compares them with those who are listed.
	isRight := func(users int) {
		t.Helper()
		follower.Sees(5*time.Second, fmt.Sprint(users, " people by name"), func(v harness.View) bool {
			return !v.Counts && len(v.Members) == users
		})
		listed, _ := list(there, "lobby", 1000, func(int) {})
		for user := range follower.Now().Members {
			if listed[user] != 1 {
				t.Errorf("of %d, %s is listed %d times", users, user, listed[user])
			}
		}
		if len(listed) != users {
			t.Errorf("%d are listed, want %d", len(listed), users)
		}
	}
	const most = 700
	put(0, 250)
	isRight(250)
	put(250, most)
	follower.Sees(5*time.Second, "700 people by number", func(v harness.View) bool { return v.Counts && v.Users == most })

	times, pages := list(there, "lobby", 50, func(int) {})
	for user, n := range times {
		if n != 1 {
			t.Errorf("%s is listed %d times in a quiet room", user, n)
		}
	}
	if len(times) != most || pages < 7 {
		t.Errorf("%d people on %d pages, want %d on many", len(times), pages, most)
	}
	times, pages = list(there, "lobby", 50, func(page int) { // while others come and go
		harness.InParallel(10, func(i int) {
			here.Put("lobby", fmt.Sprintf("x%d-%d", page, i), `,"ttl":60`)
			if page > 0 {
				here.Delete("lobby", fmt.Sprintf("x%d-%d", page-1, i))
			}
		})
	})
	for i := range most {
		if times[fmt.Sprint("u", i)] == 0 {
			t.Errorf("u%d is not listed while others come and go", i)
		}
	}
	harness.InParallel(10, func(i int) { here.Delete("lobby", fmt.Sprintf("x%d-%d", pages-2, i)) })

	follower.SeesUsers(5*time.Second, most)
	harness.InParallel(most-199, func(i int) { here.Delete("lobby", fmt.Sprint("u", 199+i)) })
	isRight(199)
	put(199, 210)
	isRight(210)
	var modes []string
	for _, e := range follower.Events(time.Time{}, "mode") {
		modes = append(modes, e.Mode)
	}
	if fmt.Sprint(modes) != "[count diff]" {
		t.Errorf("modes %v, want count, then diff", modes)
	}
}

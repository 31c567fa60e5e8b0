package system

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// calm is a pace for crowds, which two cores need seconds to serve.
var calm = pace{heartbeat: 10 * time.Second, ttl: time.Minute, grace: 10 * time.Second}

// Ten thousand people join by forms, half of them on each of two replicas, as fast as the
// machine can. All are counted, and viewers get updates no more often than the coalescing
// window allows.
func TestStormOfTenThousandJoins(t *testing.T) {
	const people = 10_000
	const coalesce = 100 * time.Millisecond
	p := calm
	p.ttl = 5 * time.Minute // forms renew nothing, and nobody shall leave meanwhile
	_, redisURL := startRedis(t)
	r := start(t, 2, p, redisURL, "-coalesce", coalesce.String())
	var watchers []*harness.Visitor
	for i := range 6 {
		watchers = append(watchers, harness.Open(t, harness.Options{}, r[i%2].URL))
	}
	before := make([]int, len(watchers))
	for i, w := range watchers {
		before[i] = w.Frames()
	}
	client := &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	var failed atomic.Int64
	from := time.Now()
	harness.InParallel(people, func(i int) {
		form := url.Values{"lvt-action": {"join"}, "username": {fmt.Sprint("Ann ", i)}, "join": {""}}
		req, err := http.NewRequest(http.MethodPost, r[i%2].URL+"/", strings.NewReader(form.Encode())) //nolint:noctx // the client has a timeout
		if err != nil {
			failed.Add(1)
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", "text/html")
		req.Header.Set("X-Forwarded-For", fmt.Sprintf("10.1.%d.%d", i/250, i%250)) // everybody at home
		resp, err := client.Do(req)
		if err != nil {
			failed.Add(1)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusSeeOther {
			failed.Add(1)
		}
	})
	took := time.Since(from)
	if n := failed.Load(); n > 0 {
		t.Errorf("%d joins failed", n)
	}
	for _, w := range watchers {
		within(t, w.SeesUsers(5*time.Second, people), shown, "the last join")
	}
	harness.Observe(t, 3*coalesce, "pushes that are under way arrive")
	most := int(time.Since(from)/coalesce) + 3
	for i, w := range watchers {
		if got := w.Frames() - before[i]; got > most || got < 3 {
			t.Errorf("watcher %d got %d pushes in %v, at most %d are promised", i, got, took, most)
		}
		sights := w.Since(from)
		for j := 1; j < len(sights); j++ {
			if sights[j].Users < sights[j-1].Users {
				t.Errorf("the count went back from %d to %d", sights[j-1].Users, sights[j].Users)
			}
		}
	}
	t.Logf("%d joins in %v, %.0f a second; watchers got %d pushes", people, took.Round(time.Millisecond),
		people/took.Seconds(), watchers[0].Frames()-before[0])
}

// Two thousand pages lose their replica at once and come back to the other.
func TestThunderingReconnect(t *testing.T) {
	const rooms = 4
	people := crowd(t, 2000)
	_, redisURL := startRedis(t)
	// The crowd and its pushes share two cores with the server: few pushes, and
	// browsers that are patient, leave it room.
	r := start(t, 2, calm, redisURL, "-coalesce", "2s")
	roomOf := func(i int) harness.Options {
		return harness.Options{
			Room: fmt.Sprint("/rooms/", i%rooms), Patience: time.Minute, PongTimeout: 30 * time.Second, PingEvery: 20 * time.Second,
		}
	}
	var watchers []*harness.Visitor
	for i := range rooms {
		watchers = append(watchers, harness.Open(t, roomOf(i), r[1].URL))
	}
	idle := harness.Measure(t, r[1].AdminURL)
	everybody := harness.OpenMany(t, people, func(i int) (harness.Options, []string) {
		return roomOf(i), []string{r[0].URL, r[1].URL}
	})
	harness.InParallel(people, func(i int) {
		err := everybody[i].Join(fmt.Sprint("Ann ", i))
		for tries := 0; err != nil && tries < 5; tries++ {
			t.Logf("join again: %v", err)
			err = everybody[i].Join(fmt.Sprint("Ann ", i)) // as people do who are told to try again
		}
		if err != nil {
			t.Errorf("join: %v", err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	allSee(t, 20*time.Second, people/rooms, append(watchers, everybody...)...)
	from := time.Now()
	r[0].Kill()
	for _, v := range everybody {
		if _, ok := v.Await(max(time.Millisecond, calm.ttl-calm.heartbeat-time.Since(from)), func(s harness.Sight) bool {
			return s.Socket && s.Joined && s.At.After(from)
		}); !ok {
			t.Fatalf("somebody is not back: %v", v.Now())
		}
	}
	took := time.Since(from)
	within(t, took, calm.ttl-calm.heartbeat, "the return of all")
	busy := harness.Measure(t, r[1].AdminURL)
	harness.Observe(t, calm.heartbeat, "members who were not taken over would be missed")
	allSee(t, 5*time.Second, people/rooms, append(watchers, everybody...)...)
	neverBelow(t, from, people/rooms, append(watchers, everybody...)...)
	neverAbove(t, from, people/rooms, append(watchers, everybody...)...)
	// Redis' answers may be too late for a page that comes back when both cores are
	// taken: it shows the form to join for a moment, and joins by itself.
	loggedOut := 0
	for _, v := range everybody {
		if slices.ContainsFunc(v.Since(from), func(s harness.Sight) bool { return !s.Joined }) {
			loggedOut++
		}
	}
	if loggedOut > people/20 {
		t.Errorf("%d of %d pages showed for a moment that their visitors were not joined", loggedOut, people)
	}

	harness.InParallel(people, func(i int) { everybody[i].Close() })
	allSee(t, calm.grace+5*time.Second, 0, watchers...)
	// What the collector has freed it gives back to the system only in the course
	// of minutes: the heap tells what is still in use.
	redistest.Eventually(t, 20*time.Second, "goroutines and memory return", func() bool {
		now := harness.Measure(t, r[1].AdminURL)
		return now.Goroutines <= idle.Goroutines+50 && now.Heap <= idle.Heap+16<<20
	})
	now := harness.Measure(t, r[1].AdminURL)
	t.Logf("all back in %v, %d not joined for a moment; goroutines %.0f, %.0f, %.0f; heap %.1f, %.1f, %.1f MB; resident %.0f, %.0f, %.0f MB (idle, busy, after)",
		took.Round(time.Millisecond), loggedOut, idle.Goroutines, busy.Goroutines, now.Goroutines,
		idle.Heap/1e6, busy.Heap/1e6, now.Heap/1e6, idle.Resident/1e6, busy.Resident/1e6, now.Resident/1e6)
}

// crowd returns n, or a quarter of n if the machine is so busy that the test would
// measure its other work. In CI it is always n.
func crowd(t *testing.T, n int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil || os.Getenv("CI") != "" {
		return n
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil || load < 3*float64(runtime.NumCPU()) {
		return n
	}
	t.Logf("the load of this machine is %v already: %d people instead of %d", load, n/4, n)
	return n / 4
}

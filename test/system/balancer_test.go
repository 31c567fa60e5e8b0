package system

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// load is a stream of requests that must all succeed.
type load struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu     sync.Mutex // guards:
	sent   int
	failed []string
}

// startLoad makes rate requests a second of a base URL: pages, occupancies, and
// forms that join a room of their own.
func startLoad(base string, rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	client := &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 32},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	l.group.Go(func() {
		defer client.CloseIdleConnections()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				l.group.Go(func() { l.one(client, base, i) }) //nolint:contextcheck // what was sent is waited for
			case <-ctx.Done():
				return
			}
		}
	})
	return l
}

func (l *load) one(client *http.Client, base string, i int) {
	method, address, body := http.MethodGet, base+"/", io.Reader(nil)
	want := http.StatusOK
	switch i % 4 {
	case 1:
		address = base + "/v1/rooms/lobby"
	case 2:
		method, address, want = http.MethodPost, base+"/rooms/forms", http.StatusSeeOther
		body = strings.NewReader(url.Values{"lvt-action": {"join"}, "username": {fmt.Sprint("Ben ", i)}, "join": {""}}.Encode())
	}
	r, err := http.NewRequestWithContext(context.Background(), method, address, body)
	if err == nil {
		if body != nil {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		r.Header.Set("Accept", "text/html")
		var resp *http.Response
		if resp, err = client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				err = fmt.Errorf("answers %s", resp.Status) //nolint:err113 // of a test
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s %s %s: %v", time.Now().Format("05.000"), method, address, err))
	}
}

// stop ends the load, and returns how many requests were sent and which failed.
func (l *load) stop() (int, []string) {
	l.cancel()
	l.group.Wait()
	return l.sent, l.failed
}

// Three replicas are restarted one after another behind the balancer, while people watch
// pages and programs make requests.
func TestRollingRestartBehindHAProxy(t *testing.T) {
	p := pace{heartbeat: time.Second, ttl: 6 * time.Second, grace: 4 * time.Second}
	_, redisURL := startRedis(t)
	r := start(t, 3, p, redisURL)
	balancer := harness.StartHAProxy(t, r[0].Addr, r[1].Addr, r[2].Addr)
	redistest.Eventually(t, 10*time.Second, "the balancer has found a replica", func() bool {
		return status(t, balancer.URL+"/") == http.StatusOK
	})
	const joined, looking = 45, 15
	everybody := harness.OpenMany(t, joined+looking, func(int) (harness.Options, []string) {
		return harness.Options{}, []string{balancer.URL}
	})
	members := everybody[:joined]
	harness.InParallel(joined, func(i int) {
		if err := members[i].Join(fmt.Sprint("Ann ", i)); err != nil {
			t.Errorf("join: %v", err)
		}
	})
	allSee(t, 10*time.Second, joined, everybody...)
	l := startLoad(balancer.URL, 100)
	from := time.Now()
	for i, replica := range r {
		code, took := replica.Stop()
		if code != 0 {
			t.Errorf("replica %d exits with %d, want 0", i, code)
		}
		within(t, took, 5*time.Second, fmt.Sprintf("the drain of replica %d", i))
		replica.Restart()
		harness.Observe(t, 1500*time.Millisecond, "the balancer looks for it every 500 ms")
	}
	allSee(t, 10*time.Second, joined, everybody...)
	sent, failed := l.stop()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(failed), sent, failed[:min(5, len(failed))])
	}
	// Where both cores are busy the ticker of the load skips beats.
	if seconds := time.Since(from).Seconds(); float64(sent) < 25*seconds {
		t.Errorf("only %d requests were made in %.0f s", sent, seconds)
	}
	n := closedWith(t, from, 1012, everybody...)
	if n < len(everybody) {
		t.Errorf("%d sockets were closed, want each at least once: %d", n, len(everybody))
	}
	t.Logf("%d requests, %d sockets closed and opened again", sent, n)
	neverBelow(t, from, joined, everybody...)
	neverAbove(t, from, joined, everybody...)
	neverLoggedOut(t, from, members...)
}

// A replica behind the balancer is frozen. Its sockets are cut and reconnect elsewhere,
// and nobody notices.
func TestFrozenReplicaBehindHAProxy(t *testing.T) {
	p := pace{heartbeat: 2 * time.Second, ttl: 9 * time.Second, grace: 4 * time.Second}
	_, redisURL := startRedis(t)
	r := start(t, 2, p, redisURL)
	balancer := harness.StartHAProxy(t, r[0].Addr, r[1].Addr)
	redistest.Eventually(t, 10*time.Second, "the balancer has found a replica", func() bool {
		return status(t, balancer.URL+"/") == http.StatusOK
	})
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	members := join(t, 12, harness.Options{}, balancer.URL)
	allSee(t, 5*time.Second, len(members), append(members, watcher)...)
	from := time.Now()
	r[0].Pause()
	for _, v := range members {
		v.Sees(15*time.Second, "live again elsewhere", func(s harness.Sight) bool {
			return s.Socket && s.Joined && s.Replica == watcher.Now().Replica
		})
	}
	within(t, time.Since(from), p.ttl-p.heartbeat, "the move of all")
	harness.Observe(t, p.ttl-time.Since(from)+time.Second, "the pause is to be longer than the TTL")
	r[0].Continue()
	harness.Observe(t, p.grace+time.Second, "a false leave would show by now")
	neverBelow(t, from, len(members), append(members, watcher)...)
	neverAbove(t, from, len(members), append(members, watcher)...)
	neverLoggedOut(t, from, members...)
}

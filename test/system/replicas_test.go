package system

import (
	"testing"
	"time"

	"presence/test/harness"
)

func TestKilledReplica(t *testing.T) {
	t.Parallel()
	p := pace{heartbeat: time.Second, ttl: 3 * time.Second, grace: 2 * time.Second}
	_, url := startRedis(t)
	r := start(t, 2, p, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	moving := join(t, 6, harness.Options{}, r[0].URL, r[1].URL)
	staying := join(t, 3, harness.Options{Still: true}, r[0].URL)
	allSee(t, 5*time.Second, 9, append(moving, watcher)...)
	from := time.Now()
	r[0].Kill()
	took := watcher.SeesUsers(p.ttl+5*time.Second, len(moving))
	notBefore(t, took, p.ttl-p.heartbeat-early, "the leave of who did not come back")
	within(t, took, p.ttl+time.Second, "the leave of who did not come back")
	allSee(t, 5*time.Second, len(moving), moving...)
	harness.Observe(t, p.ttl, "a late or false leave would show by now")
	neverBelow(t, from, len(moving), append(moving, watcher)...)
	neverAbove(t, from, len(moving)+len(staying), watcher)
	neverLoggedOut(t, from, moving...)
}

func TestDrainedReplica(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	onlooker := harness.Open(t, harness.Options{}, r[0].URL)
	members := join(t, 6, harness.Options{}, r[0].URL)
	everybody := append([]*harness.Visitor{onlooker}, members...)
	allSee(t, 5*time.Second, 6, append(everybody, watcher)...)
	from := time.Now()
	for _, v := range everybody {
		v.Goto(r[1].URL) // where a balancer leads to, once it knows
	}
	code, took := r[0].Stop()
	if code != 0 {
		t.Errorf("it exits with %d, want 0", code)
	}
	within(t, took, 5*time.Second, "the drain")
	allSee(t, 5*time.Second, 6, everybody...)
	harness.Observe(t, brisk.ttl+time.Second, "a false leave would show by now")
	if n := closedWith(t, from, 1012, everybody...); n != len(everybody) {
		t.Errorf("%d sockets were closed, want %d", n, len(everybody))
	}
	neverBelow(t, from, 6, append(everybody, watcher)...)
	neverAbove(t, from, 6, append(everybody, watcher)...)
	neverLoggedOut(t, from, members...)
}

func TestPausedReplica(t *testing.T) {
	t.Parallel()
	p := pace{heartbeat: time.Second, ttl: 4 * time.Second, grace: 2 * time.Second}
	_, url := startRedis(t)
	r := start(t, 2, p, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	quick := harness.Options{PingEvery: 500 * time.Millisecond, PongTimeout: 500 * time.Millisecond}
	moving := join(t, 5, quick, r[0].URL)
	closing := join(t, 3, quick, r[0].URL)
	home := join(t, 2, quick, r[1].URL)
	watcher.SeesUsers(5*time.Second, 10)
	from := time.Now()
	r[0].Pause()
	for _, v := range moving {
		v.Goto(r[1].URL)
	}
	for _, v := range closing {
		v.Close()
	}
	remaining := len(moving) + len(home)
	within(t, watcher.SeesUsers(p.ttl+5*time.Second, remaining), p.ttl+time.Second, "the leave of those who closed their tabs")
	moved := time.Now()
	if err := moving[0].Leave(); err != nil { // who left for good must not come back either
		t.Fatalf("leave: %v", err)
	}
	remaining--
	watcher.SeesUsers(5*time.Second, remaining)
	harness.Observe(t, time.Second, "the pause is to be longer than the TTL")
	again := time.Now()
	r[0].Continue()
	harness.Observe(t, p.ttl+p.grace+time.Second, "ghosts, or false leaves, of the replica's old members would show by now")
	neverBelow(t, from, remaining, append(home, watcher)...)
	neverAbove(t, again, remaining, append(home, watcher)...)
	neverLoggedOut(t, moved, moving[1:]...)
	neverLoggedOut(t, from, moving[1:]...)
	late := harness.Open(t, harness.Options{}, r[0].URL)
	late.SeesUsers(5*time.Second, remaining)
}

// All replicas are gone for longer than the TTL. Redis still has their members, and
// nobody who comes back in time is announced as gone.
func TestAllReplicasDown(t *testing.T) {
	t.Parallel()
	p := pace{heartbeat: 2 * time.Second, ttl: 6 * time.Second, grace: 2 * time.Second}
	_, url := startRedis(t)
	r := start(t, 2, p, url)
	bases := []string{r[0].URL, r[1].URL}
	watcher := harness.Open(t, harness.Options{}, bases[1], bases[0])
	members := join(t, 6, harness.Options{}, bases...)
	gone := join(t, 2, harness.Options{}, bases...)
	allSee(t, 5*time.Second, 8, append(members, watcher)...)
	from := time.Now()
	r[0].Kill()
	r[1].Kill()
	for _, v := range gone {
		v.Close()
	}
	harness.Observe(t, p.ttl+time.Second, "the outage is to be longer than the TTL")
	back := time.Now()
	r[0].Restart()
	r[1].Restart()
	for _, v := range members {
		v.Sees(20*time.Second, "joined again", func(s harness.Sight) bool { return s.Socket && s.Joined })
	}
	within(t, time.Since(back), 20*time.Second, "the return of all")
	within(t, watcher.SeesUsers(2*p.ttl, 6), p.ttl+time.Second, "the leave of those who did not return")
	neverBelow(t, from, 6, append(members, watcher)...)
	neverLoggedOut(t, from, members...)
}

// The outage is so long that Redis has forgotten the room: pages join again.
func TestAllReplicasDownUntilTheRoomIsForgotten(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	bases := []string{r[0].URL, r[1].URL}
	watcher := harness.Open(t, harness.Options{}, bases[1], bases[0])
	members := join(t, 6, harness.Options{}, bases...)
	watcher.SeesUsers(5*time.Second, 6)
	r[0].Kill()
	r[1].Kill()
	harness.Observe(t, 4*brisk.ttl+time.Second, "keys live four TTLs")
	back := time.Now()
	r[0].Restart()
	r[1].Restart()
	for _, v := range members {
		v.Sees(20*time.Second, "joined again", func(s harness.Sight) bool { return s.Socket && s.Joined })
	}
	allSee(t, 5*time.Second, 6, append(members, watcher)...)
	within(t, time.Since(back), 20*time.Second, "the return of all")
	neverAbove(t, back, 6, append(members, watcher)...)
}

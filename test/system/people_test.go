package system

import (
	"testing"
	"time"

	"presence/test/harness"
)

// shown is the longest time until a page shows a change that was made anywhere: the
// coalescing window, and 100 ms.
const shown = 200 * time.Millisecond

func TestClosedTabLeavesAfterTheGrace(t *testing.T) {
	t.Parallel()
	// The lease is long, so that nothing but the grace can end it in time.
	p := pace{heartbeat: time.Second, ttl: 20 * time.Second, grace: time.Second}
	_, url := startRedis(t)
	r := start(t, 2, p, url)
	for name, end := range map[string]func(*harness.Visitor){
		"closed":  (*harness.Visitor).Close,
		"crashed": (*harness.Visitor).Crash,
	} {
		room := harness.Options{Room: "/rooms/" + name}
		watcher := harness.Open(t, room, r[1].URL)
		ann := harness.Open(t, room, r[0].URL).MustJoin("Ann")
		within(t, watcher.SeesUsers(5*time.Second, 1), shown, "the join")
		end(ann)
		took := watcher.SeesUsers(10*time.Second, 0)
		notBefore(t, took, p.grace-50*time.Millisecond, "the leave of a tab that was "+name)
		within(t, took, p.grace+time.Second, "the leave of a tab that was "+name)
	}
}

func TestVanishedNetworkLeavesAfterPingAndGrace(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	network := harness.NewProxy(t, r[0].Addr)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	harness.Open(t, harness.Options{}, network.URL).MustJoin("Ann")
	watcher.SeesUsers(5*time.Second, 1)
	network.Silence()
	const ping, pong = 15 * time.Second, 10 * time.Second // not to be set
	took := watcher.SeesUsers(ping+pong+brisk.grace+5*time.Second, 0)
	notBefore(t, took, pong, "the leave")
	within(t, took, ping+pong+brisk.grace+time.Second, "the leave")
}

func TestRefreshIsNotSeen(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	ann := harness.Open(t, harness.Options{Names: true}, r[0].URL).MustJoin("Ann")
	watcher.SeesUsers(5*time.Second, 1)
	from := time.Now()
	for i := range 8 {
		ann.Goto(r[i%2].URL) // the balancer's choice
		ann = ann.Reload()
		neverLoggedOut(t, from, ann)
	}
	harness.Observe(t, brisk.grace+time.Second, "the leave of an old socket would show by now")
	neverBelow(t, from, 1, watcher, ann)
	neverAbove(t, from, 1, watcher, ann)
	if names := ann.Roster(); len(names) != 1 || names[0] != "Ann" {
		t.Errorf("the roster is %v, want Ann alone", names)
	}
}

func TestTwoTabsOfOneNameAreOneUser(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	browser := harness.NewBrowser()
	first := harness.Open(t, harness.Options{Browser: browser}, r[0].URL).MustJoin("Ann")
	watcher.SeesUsers(5*time.Second, 1)
	from := time.Now()
	second := harness.Open(t, harness.Options{Browser: browser}, r[1].URL)
	if second.Now().Joined {
		t.Error("the second tab is joined before it did")
	}
	second.MustJoin("  Ann ")
	first.Close()
	harness.Observe(t, brisk.grace+time.Second, "the leave of the first tab would show by now")
	neverBelow(t, from, 1, watcher)
	neverAbove(t, from, 1, watcher)
	if err := second.Leave(); err != nil {
		t.Fatalf("leave: %v", err)
	}
	within(t, watcher.SeesUsers(5*time.Second, 0), shown, "the leave of the last tab")
}

func TestTwoBrowsersOfOneNameAreTwoUsers(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{Names: true}, r[1].URL)
	first := harness.Open(t, harness.Options{}, r[0].URL).MustJoin("Ann")
	harness.Open(t, harness.Options{}, r[0].URL).MustJoin("Ann")
	watcher.SeesUsers(5*time.Second, 2)
	if names := watcher.Roster(); len(names) != 2 || names[0] != "Ann" || names[1] != "Ann" {
		t.Errorf("the roster is %v, want Ann twice", names)
	}
	if err := first.Leave(); err != nil {
		t.Fatalf("leave: %v", err)
	}
	within(t, watcher.SeesUsers(5*time.Second, 1), shown, "the leave of one of them")
}

// A visitor without JavaScript posts to one replica and reads from another. While the
// visitor keeps reading, the user stays; otherwise the user leaves with the lease.
func TestVisitorWithoutScript(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	ann := harness.NewReader(t, harness.Options{}, r[0].URL)
	if err := ann.Post("join", "Ann"); err != nil {
		t.Fatalf("post: %v", err)
	}
	watcher.SeesUsers(5*time.Second, 1)
	from := time.Now()
	for i := range 6 {
		ann.Goto(r[i%2].URL)
		harness.Observe(t, brisk.heartbeat, "the page refreshes itself at the heartbeat interval")
		if err := ann.Load(); err != nil {
			t.Fatalf("refresh: %v", err)
		}
	}
	neverLoggedOut(t, from, ann)
	neverBelow(t, from, 1, watcher)
	took := watcher.SeesUsers(10*time.Second, 0)
	notBefore(t, took, brisk.ttl-early, "the leave")
	within(t, took, brisk.ttl+time.Second, "the leave")
}

package system

import (
	"context"
	"testing"
	"time"

	"presence/test/harness"
)

// As in all other tests, the server's Redis user has only the rights it needs, and all
// kinds of calls are made. If Redis refuses a call, its test fails.
func TestLeastRightsInRedisAreEnough(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	p := brisk
	h := newHousehold(t, p, url)
	watcher := harness.Open(t, harness.Options{}, h.replicas[1].URL)

	// Join, leave, twice the same user, without a script, in vain, in many rooms.
	browser := harness.NewBrowser()
	first := harness.Open(t, harness.Options{Browser: browser}, h.replicas[0].URL).MustJoin("Ann")
	harness.Open(t, harness.Options{Browser: browser}, h.replicas[1].URL).MustJoin("Ann").Close()
	if err := first.Leave(); err != nil {
		t.Errorf("leave: %v", err)
	}
	reader := harness.NewReader(t, harness.Options{}, h.replicas[0].URL)
	for _, action := range []string{"join", "leave", "join"} {
		if err := reader.Post(action, "Ben"); err != nil {
			t.Errorf("post %s: %v", action, err)
		}
	}
	harness.Open(t, harness.Options{Room: "/rooms/tea"}, h.replicas[0].URL).MustJoin("Ann").Close()
	// Leaves of all kinds: closed, killed, abandoned.
	h.members[0].Reload().Close()
	watcher.SeesUsers(p.ttl+p.grace+2*time.Second, len(h.members)-1)
	h.replicas[0].Kill()
	watcher.SeesUsers(p.ttl+5*time.Second, 3)
	h.replicas[0].Restart()
	// Redis loses its data, and the secret.
	if err := r.Client(t).FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	harness.Observe(t, p.heartbeat, "members are put back")
	watcher.Sees(5*time.Second, "everybody again", func(s harness.Sight) bool { return s.Known && !s.Stale && s.Users >= 3 })
	if code, _ := h.replicas[0].Stop(); code != 0 {
		t.Errorf("it exits with %d, want 0", code)
	}
}

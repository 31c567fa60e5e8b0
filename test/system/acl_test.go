package system

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/test/harness"
)

// leastRights is the user that is shipped for Redis, and what is tried where it
// is not.
const (
	shippedACL = "../../deploy/redis/users.acl"
	ownACL     = `user default off
user presence on >PASSWORD resetkeys ~presence:* resetchannels &presence:* -@all +hello +auth +ping +client|setname +get +set +setnx +del +pexpire +time +eval +evalsha +script|load +sadd +srem +scard +smismember +zadd +zrem +zrange +zcard +zscore +zmscore +hset +hdel +hget +hmget +hlen +hvals +hrandfield +publish +spublish +subscribe +unsubscribe +ssubscribe +sunsubscribe
`
)

// All kinds of calls are made by a user with no more rights than it takes; Redis
// has a log of what it refused.
func TestLeastRightsInRedisAreEnough(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	file := shippedACL
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(t.TempDir(), "users.acl")
		if err := os.WriteFile(file, []byte(ownACL), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	acl := harness.StartACL(t, file, "presence")
	p := brisk
	h := newHousehold(t, p, acl.URL)
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
	admin := redis.NewClient(acl.AdminOptions())
	defer func() { _ = admin.Close() }()
	if err := admin.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	harness.Observe(t, p.heartbeat, "members are put back")
	watcher.Sees(5*time.Second, "everybody again", func(s harness.Sight) bool { return s.Known && !s.Stale && s.Users >= 3 })
	if code, _ := h.replicas[0].Stop(); code != 0 {
		t.Errorf("it exits with %d, want 0", code)
	}
	if refused := acl.Log(); len(refused) > 0 {
		t.Errorf("Redis refused: %q", refused)
	}
}

package redistest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/deploy"
)

const (
	// shippedUser is the user of deploy/redis/users.acl. The code under test logs in as it.
	shippedUser = "presence"

	// admin is a second user, for the commands of the test itself.
	admin = "test-admin"

	password = "of-the-test"

	// passwordHash stands in the shipped file in place of the hash of a password.
	passwordHash = "#@PASSWORD_SHA256@"
)

// usersFile writes the shipped list of users with a known password and with the user
// admin, and returns its path.
func usersFile(t testing.TB) string {
	t.Helper()
	rules := strings.Replace(deploy.RedisUsers, passwordHash, ">"+password, 1)
	if rules == deploy.RedisUsers {
		t.Fatalf("users.acl does not have %s in it", passwordHash)
	}
	rules += "user " + admin + " on >" + password + " ~* &* +@all\n"
	path := filepath.Join(t.TempDir(), "users.acl")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refusedNothing fails the test if the server refused a command to a user, by its log.
func (s *Server) refusedNothing() {
	if s.run == nil {
		return // killed, and its log with it
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c := redis.NewClient(s.options(admin))
	defer func() { _ = c.Close() }()
	entries, err := c.ACLLog(ctx, 100).Result()
	if err != nil {
		s.t.Errorf("ACL LOG of %s: %v", s.Addr, err)
	}
	for _, e := range entries {
		s.t.Errorf("Redis at %s refused %s: %s %s", s.Addr, e.Username, e.Reason, e.Object)
	}
}

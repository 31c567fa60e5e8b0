package deploy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/process"
	"presence/internal/redistest"
)

// calls are commands in scripts.
var calls = regexp.MustCompile(`redis\.p?call\(\s*['"]([A-Za-z]+)['"]`)

// TestUsersMayDoWhatScriptsDo compares the commands of the scripts with those of
// the list, without a Redis.
func TestUsersMayDoWhatScriptsDo(t *testing.T) {
	allowed := commandsOf(t, "presence")
	scripts, err := filepath.Glob(root + "/internal/store/script/*.lua")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	used := 0
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls.FindAllStringSubmatch(string(text), -1) {
			used++
			if name := strings.ToLower(call[1]); !slices.Contains(allowed, name) {
				t.Errorf("%s calls %s, which users.acl does not allow", filepath.Base(script), name)
			}
		}
	}
	if used == 0 {
		t.Error("no script calls Redis: the test is wrong")
	}
}

// commandsOf are the commands that a user of the list may send.
func commandsOf(t *testing.T, user string) []string {
	t.Helper()
	for line := range strings.Lines(read(t, "deploy/redis/users.acl")) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "user" || fields[1] != user {
			continue
		}
		var commands []string
		for _, rule := range fields[2:] {
			if name, ok := strings.CutPrefix(rule, "+"); ok {
				commands = append(commands, name)
			}
		}
		return commands
	}
	t.Fatalf("no user %s", user)
	return nil
}

// TestRedis starts Redis with the configuration, the users and the password that
// an installation has, made by the script that makes them.
func TestRedis(t *testing.T) {
	redistest.Tool(t, "redis-server")
	secrets := t.TempDir()
	template, err := filepath.Abs(root + "/deploy/redis")
	if err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("/secrets", secrets, "/template", template).Replace(read(t, "deploy/redis/secrets.sh"))
	for range 2 { // the second time there is a password already
		if said, err := command(t, 10*time.Second, secrets, nil, "sh", "-c", script); err != nil {
			t.Fatalf("secrets.sh: %v\n%s", err, said)
		}
	}
	text, err := os.ReadFile(filepath.Join(secrets, "redis_password"))
	if err != nil {
		t.Fatal(err)
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(text)), ":")
	if !ok || len(password) < 32 {
		t.Fatalf("a password of %d characters", len(password))
	}
	users := filepath.Join(secrets, "users.acl")
	list, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(password))
	if !strings.Contains(string(list), "#"+hex.EncodeToString(hash[:])) || strings.Contains(string(list), password) {
		t.Error("the users are not to be known by the hash of the password alone")
	}
	// An administrator, for what the test has to ask.
	if err := os.WriteFile(users, append(list, "\nuser test on nopass ~* &* +@all\n"...), 0o600); err != nil {
		t.Fatal(err)
	}

	s := startRedis(t, users)
	admin := client(t, s, "test", "any")
	server := client(t, s, user, password)
	for _, name := range commandsOf(t, "presence") {
		name, _, _ = strings.Cut(name, "|")
		if info, err := admin.Do(t.Context(), "command", "info", name).Slice(); err != nil || len(info) == 0 || info[0] == nil {
			t.Errorf("Redis has no command %s: %v", name, err)
		}
	}
	if policy := admin.ConfigGet(t.Context(), "maxmemory-policy").Val()["maxmemory-policy"]; policy != "noeviction" {
		t.Errorf("maxmemory-policy %s", policy)
	}
	if err := server.Set(t.Context(), "presence:epoch", "1", 0).Err(); err != nil {
		t.Errorf("the server's own key: %v", err)
	}
	for _, refused := range [][]any{
		{"set", "other", "1"},
		{"get", "other"},
		{"flushall"},
		{"keys", "*"},
		{"config", "get", "*"},
		{"publish", "other", "1"},
		{"acl", "list"},
		{"client", "kill", "type", "normal"},
	} {
		if err := server.Do(t.Context(), refused...).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
			t.Errorf("%v: %v, want NOPERM", refused, err)
		}
	}
	health := client(t, s, "health", "none")
	if err := health.Ping(t.Context()).Err(); err != nil {
		t.Errorf("health check: %v", err)
	}
	if err := health.Get(t.Context(), "presence:epoch").Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
		t.Errorf("the user of health checks reads: %v", err)
	}
	nobody := redis.NewClient(&redis.Options{Addr: s, MaxRetries: -1})
	defer func() { _ = nobody.Close() }()
	if err := nobody.Ping(t.Context()).Err(); err == nil {
		t.Error("anybody may come in")
	}
}

// startRedis starts redis-server with the shipped configuration, in which only
// places are changed, and returns its address.
func startRedis(t *testing.T, users string) string {
	t.Helper()
	port := redistest.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	config, err := filepath.Abs(root + "/deploy/redis/redis.conf")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("redis-server", config, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--aclfile", users) //nolint:noctx // killed below
	cmd.Stdout, cmd.Stderr = &said, &said
	run, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.Kill)
	redistest.Eventually(t, 10*time.Second, "redis-server listens", func() bool {
		select {
		case <-run.Ended():
			t.Fatalf("redis-server does not start:\n%s", said.String())
		default:
		}
		return redistest.Listens(addr)
	})
	return addr
}

// client logs in to Redis.
func client(t *testing.T, addr, user, password string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, Username: user, Password: password, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/redistest"
)

// Node is one Redis process, or one Sentinel.
type Node struct {
	Addr string

	t    testing.TB
	cmd  *exec.Cmd
	args []string
}

// Client returns a client of the node that ends with the test.
func (n *Node) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1, Protocol: 2})
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs one command on the node, and returns its reply as text, "" for an
// error.
func (n *Node) Do(args ...any) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1, Protocol: 2, DialerRetries: 1})
	defer func() { _ = c.Close() }()
	reply, err := c.Do(ctx, args...).Result()
	if err != nil {
		return ""
	}
	return fmt.Sprint(reply)
}

// Kill ends the process at once.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGKILL) // works on a stopped process too
	_ = n.cmd.Wait()
	n.cmd = nil
}

// Pause stops the process as a frozen machine is stopped, until Continue.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Continue ends Pause.
func (n *Node) Continue() { n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) {
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(s)
	}
}

func (n *Node) start() {
	n.t.Helper()
	n.cmd = exec.Command(n.args[0], n.args[1:]...) //nolint:gosec,noctx // the test's own command; Kill ends it
	endWithTest(n.cmd)
	if err := n.cmd.Start(); err != nil {
		n.t.Fatalf("start %s: %v", n.args[0], err)
	}
	n.t.Cleanup(n.Kill)
}

// Tool returns the path of a program that a test needs. Where there is none the
// test is skipped, except in CI, where it fails.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed, and CI must not go without it", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// given are the ports that were given out in this process: tests run at a time,
// and nobody listens on a port at once.
var given = struct {
	mu    sync.Mutex // guards:
	ports map[int]bool
}{ports: map[int]bool{}}

// ports returns n ports of the loopback interface that nobody listens on, each
// with a free port 10,000 above it, where the nodes of a cluster talk. They lie
// below those that the system gives to outgoing connections.
func ports(t testing.TB, n int) []int {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)) //nolint:noctx // closed at once
		if err != nil {
			return false
		}
		return l.Close() == nil
	}
	const lowest, highest = 11_000, 22_000
	given.mu.Lock()
	defer given.mu.Unlock()
	var list []int
	for tries := 0; len(list) < n && tries < highest-lowest; tries++ {
		port := lowest + rand.IntN(highest-lowest)
		if !given.ports[port] && free(port) && free(port+10_000) {
			given.ports[port] = true
			list = append(list, port)
		}
	}
	if len(list) < n {
		t.Fatalf("no %d free ports", n)
	}
	return list
}

// startRedis starts a redis-server that keeps nothing on disk.
func startRedis(t testing.TB, port int, args ...string) *Node {
	t.Helper()
	n := &Node{t: t, Addr: "127.0.0.1:" + strconv.Itoa(port)}
	n.args = append([]string{
		Tool(t, "redis-server"), "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir(), "--logfile", "log",
		// A master killed before its first sync has a successor only so.
		"--repl-diskless-sync-delay", "0",
	}, args...)
	n.start()
	redistest.Eventually(t, 10*time.Second, n.Addr+" answers", func() bool { return n.Do("ping") == "PONG" })
	return n
}

// SentinelName is what the sentinels call the master.
const SentinelName = "pres"

// Sentinel is a Redis master with two replicas, and three sentinels.
type Sentinel struct {
	Nodes     []*Node
	Sentinels []*Node

	t testing.TB
}

// StartSentinel starts them, and returns when all know each other. A master that
// does not answer for a second is replaced.
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	binary := Tool(t, "redis-sentinel")
	s := &Sentinel{t: t}
	free := ports(t, 6)
	s.Nodes = append(s.Nodes, startRedis(t, free[0]))
	for _, port := range free[1:3] {
		s.Nodes = append(s.Nodes, startRedis(t, port, "--replicaof", "127.0.0.1", strconv.Itoa(free[0])))
	}
	redistest.Eventually(t, 15*time.Second, "both replicas are in sync", func() bool {
		return strings.Count(s.Nodes[0].Do("info", "replication"), "state=online") == 2
	})
	for _, port := range free[3:] {
		dir := t.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		lines := []string{
			"port " + strconv.Itoa(port), "bind 127.0.0.1", "dir " + dir, "logfile log",
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", SentinelName, free[0]),
			"sentinel down-after-milliseconds " + SentinelName + " 1000",
			"sentinel failover-timeout " + SentinelName + " 5000",
			"sentinel parallel-syncs " + SentinelName + " 2",
		}
		if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &Node{t: t, Addr: "127.0.0.1:" + strconv.Itoa(port), args: []string{binary, config}}
		n.start()
		s.Sentinels = append(s.Sentinels, n)
	}
	redistest.Eventually(t, 15*time.Second, "the sentinels have a quorum and know both replicas", func() bool {
		for _, n := range s.Sentinels {
			if !strings.HasPrefix(n.Do("sentinel", "ckquorum", SentinelName), "OK 3 usable") ||
				strings.Count(n.Do("sentinel", "replicas", SentinelName), "runid") != 2 {
				return false
			}
		}
		return true
	})
	return s
}

// URL is what -redis-url takes.
func (s *Sentinel) URL() string {
	return "redis-sentinel://" + addresses(s.Sentinels) + "/" + SentinelName
}

// Master is the node that most sentinels take for the master.
func (s *Sentinel) Master() *Node {
	votes := map[string]int{}
	for _, n := range s.Sentinels {
		reply := strings.Fields(strings.Trim(n.Do("sentinel", "get-master-addr-by-name", SentinelName), "[]"))
		if len(reply) == 2 {
			votes[net.JoinHostPort(reply[0], reply[1])]++
		}
	}
	for _, n := range s.Nodes {
		if votes[n.Addr] >= 2 {
			return n
		}
	}
	return nil
}

// Failover makes the sentinels put another node in the master's place, and
// returns when they have.
func (s *Sentinel) Failover() {
	s.t.Helper()
	before := s.Master()
	if reply := s.Sentinels[0].Do("sentinel", "failover", SentinelName); reply != "OK" {
		s.t.Fatalf("SENTINEL FAILOVER: %q", reply)
	}
	s.AwaitOther(before)
}

// AwaitOther waits until another node is the master.
func (s *Sentinel) AwaitOther(before *Node) {
	s.t.Helper()
	redistest.Eventually(s.t, 20*time.Second, "another node is master", func() bool {
		master := s.Master()
		return master != nil && master != before && strings.Contains(master.Do("role"), "master")
	})
}

func addresses(nodes []*Node) string {
	list := make([]string, len(nodes))
	for i, n := range nodes {
		list[i] = n.Addr
	}
	return strings.Join(list, ",")
}

const (
	clusterMasters = 3
	clusterSlots   = 16384
)

// Cluster is a Redis Cluster of three masters with a replica each.
type Cluster struct {
	Nodes []*Node

	t testing.TB
}

// StartCluster starts it, and returns when every slot is served and every
// replica is in sync. A master that does not answer for a second is replaced.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	all := ports(t, 2*clusterMasters)
	for _, port := range all {
		c.Nodes = append(c.Nodes, startRedis(t, port,
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000",
			"--cluster-require-full-coverage", "no", "--cluster-allow-pubsubshard-when-down", "yes"))
	}
	must := func(n *Node, args ...any) {
		t.Helper()
		if reply := n.Do(args...); reply != "OK" {
			t.Fatalf("%v on %s: %q", args, n.Addr, reply)
		}
	}
	for i, n := range c.Nodes {
		must(n, "cluster", "set-config-epoch", i+1)
		if i < clusterMasters {
			must(n, "cluster", "addslotsrange", i*clusterSlots/clusterMasters, (i+1)*clusterSlots/clusterMasters-1)
		}
		if i > 0 {
			must(c.Nodes[0], "cluster", "meet", "127.0.0.1", all[i])
		}
	}
	everywhere := func(what string, holds func(*Node) bool) {
		t.Helper()
		redistest.Eventually(t, 20*time.Second, what, func() bool {
			for _, n := range c.Nodes {
				if !holds(n) {
					return false
				}
			}
			return true
		})
	}
	everywhere("all nodes have met", func(n *Node) bool {
		return strings.Contains(n.Do("cluster", "info"), fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) &&
			strings.Count(n.Do("cluster", "nodes"), " connected") == len(c.Nodes)
	})
	for i, n := range c.Nodes[clusterMasters:] {
		must(n, "cluster", "replicate", c.Nodes[i].Do("cluster", "myid"))
	}
	everywhere("every slot is served and every replica is in sync", func(n *Node) bool {
		return strings.Contains(n.Do("cluster", "info"), "cluster_state:ok") &&
			strings.Count(n.Do("cluster", "nodes"), "slave") == clusterMasters
	})
	for _, n := range c.Nodes[clusterMasters:] {
		redistest.Eventually(t, 15*time.Second, "the replica is in sync", func() bool {
			return strings.Contains(n.Do("info", "replication"), "master_link_status:up")
		})
	}
	return c
}

// URL is what -redis-url takes.
func (c *Cluster) URL() string { return "redis-cluster://" + addresses(c.Nodes) }

// Slot is the slot of a hash tag.
func (c *Cluster) Slot(tag string) int {
	for _, n := range c.Nodes {
		if slot, err := strconv.Atoi(n.Do("cluster", "keyslot", "{"+tag+"}")); err == nil {
			return slot
		}
	}
	return -1
}

// Owner is the master that serves a hash tag, as most nodes see it.
func (c *Cluster) Owner(tag string) *Node {
	slot := c.Slot(tag)
	votes := map[string]int{}
	for _, n := range c.Nodes {
		for line := range strings.Lines(n.Do("cluster", "nodes")) {
			fields := strings.Fields(line)
			if len(fields) < 9 || !strings.Contains(fields[2], "master") || strings.Contains(fields[2], "fail") {
				continue
			}
			for _, part := range fields[8:] {
				low, high, ok := strings.Cut(part, "-")
				if !ok {
					high = low
				}
				from, _ := strconv.Atoi(low)
				to, _ := strconv.Atoi(high)
				if from <= slot && slot <= to {
					addr, _, _ := strings.Cut(fields[1], "@")
					votes[addr]++
				}
			}
		}
	}
	for _, n := range c.Nodes {
		if votes[n.Addr] > len(c.Nodes)/2 {
			return n
		}
	}
	return nil
}

// RoomsOfEach returns n room names for each master, whose keys it serves.
func (c *Cluster) RoomsOfEach(n int) map[*Node][]string {
	rooms := map[*Node][]string{}
	for i := 0; len(rooms) < clusterMasters || len(rooms[c.Nodes[0]]) < n || len(rooms[c.Nodes[1]]) < n || len(rooms[c.Nodes[2]]) < n; i++ {
		room := fmt.Sprintf("room-%d", i)
		owner := c.Nodes[min(c.Slot(room)*clusterMasters/clusterSlots, clusterMasters-1)]
		if len(rooms[owner]) < n {
			rooms[owner] = append(rooms[owner], room)
		}
	}
	return rooms
}

// Failover puts the replica of a master in its place, in agreement with it, and
// returns the new master when the others know it.
func (c *Cluster) Failover(master *Node) *Node {
	c.t.Helper()
	id := master.Do("cluster", "myid")
	tag := c.tagOf(master)
	for _, n := range c.Nodes {
		if n != master && strings.Contains(n.Do("cluster", "nodes"), "myself,slave "+id) {
			if reply := n.Do("cluster", "failover"); reply != "OK" {
				c.t.Fatalf("CLUSTER FAILOVER on %s: %q", n.Addr, reply)
			}
			c.AwaitOwner(tag, master)
			return c.Owner(tag)
		}
	}
	c.t.Fatalf("%s has no replica", master.Addr)
	return nil
}

// tagOf is some hash tag that a master serves.
func (c *Cluster) tagOf(master *Node) string {
	c.t.Helper()
	for i := range 200 {
		if tag := fmt.Sprintf("tag-%d", i); c.Owner(tag) == master {
			return tag
		}
	}
	c.t.Fatalf("%s serves nothing", master.Addr)
	return ""
}

// AwaitOwner waits until another node than before serves a hash tag.
func (c *Cluster) AwaitOwner(tag string, before *Node) {
	c.t.Helper()
	redistest.Eventually(c.t, 20*time.Second, "another node serves "+tag, func() bool {
		owner := c.Owner(tag)
		return owner != nil && owner != before
	})
}

// ACL is a Redis that the replicas may use only as the shipped user.
type ACL struct {
	*redistest.Server

	// URL is what -redis-url takes.
	URL string

	t testing.TB
}

// aclAdmin is a second user, for what the test itself has to ask.
const (
	aclAdmin    = "test-admin"
	aclPassword = "of-the-test"
)

// AdminOptions are for a client that may do everything.
func (a *ACL) AdminOptions() *redis.Options {
	return &redis.Options{Addr: a.Addr, Username: aclAdmin, Password: aclPassword}
}

// StartACL starts a Redis whose users are those of an ACL file, with the
// password of user replaced, and one more for the test.
func StartACL(t testing.TB, file, user string) *ACL {
	t.Helper()
	text, err := os.ReadFile(file) //nolint:gosec // the test names it
	if err != nil {
		t.Fatal(err)
	}
	rules := usersOf(string(text), user, aclPassword)
	path := filepath.Join(t.TempDir(), "users.acl")
	rules += "user " + aclAdmin + " on >" + aclPassword + " ~* &* +@all\n"
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	s := redistest.Start(t, "--aclfile", path)
	return &ACL{Server: s, t: t, URL: "redis://" + user + ":" + aclPassword + "@" + s.Addr}
}

// usersOf puts a password that is known in the place of the file's, whether that
// is a word or a hash.
func usersOf(text, user, password string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) > 1 && fields[1] == user {
			kept := fields[:2:2]
			for _, field := range fields[2:] {
				if !strings.HasPrefix(field, ">") && !strings.HasPrefix(field, "#") && field != "nopass" {
					kept = append(kept, field)
				}
			}
			fields = append(kept, ">"+password)
		}
		b.WriteString(strings.Join(fields, " ") + "\n")
	}
	return b.String()
}

// Log is what the server refused so far, one text for each kind.
func (a *ACL) Log() []string {
	a.t.Helper()
	c := redis.NewClient(a.AdminOptions())
	defer func() { _ = c.Close() }()
	entries, err := c.ACLLog(context.Background(), 100).Result()
	if err != nil {
		a.t.Fatalf("ACL LOG: %v", err)
	}
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = fmt.Sprintf("%s: %s %s", e.Username, e.Reason, e.Object)
	}
	return list
}

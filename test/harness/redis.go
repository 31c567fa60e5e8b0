package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
)

// SentinelName is what the sentinels call the master.
const SentinelName = "pres"

// Sentinel is a Redis master with two replicas, and three sentinels.
type Sentinel struct {
	Nodes     []*redistest.Server
	Sentinels []*redistest.Server

	t      testing.TB
	secure *redistest.Certificate
}

// StartSentinel starts them, over TLS if secure is not nil, and returns when all
// know each other. A master that does not answer for a second is replaced.
func StartSentinel(t testing.TB, secure *redistest.Certificate) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, secure: secure}
	free := redistest.FreePorts(t, 6)
	s.Nodes = append(s.Nodes, redistest.StartAt(t, free[0], secure))
	for _, port := range free[1:3] {
		s.Nodes = append(s.Nodes, redistest.StartAt(t, port, secure, "--replicaof", "127.0.0.1", strconv.Itoa(free[0])))
	}
	redistest.Eventually(t, 15*time.Second, "both replicas are in sync", func() bool {
		return strings.Count(s.Nodes[0].Do("info", "replication"), "state=online") == 2
	})
	for _, port := range free[3:] {
		dir := t.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		user, pass := redistest.Auth()
		lines := append(secure.SentinelSettings(strconv.Itoa(port)),
			"bind 127.0.0.1", "dir "+dir, "logfile log",
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", SentinelName, free[0]),
			fmt.Sprintf("sentinel auth-user %s %s", SentinelName, user),
			fmt.Sprintf("sentinel auth-pass %s %s", SentinelName, pass),
			"sentinel down-after-milliseconds "+SentinelName+" 1000",
			"sentinel failover-timeout "+SentinelName+" 5000",
			"sentinel parallel-syncs "+SentinelName+" 2",
		)
		if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Sentinels = append(s.Sentinels, redistest.StartSentinelAt(t, port, secure, config))
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
	return redistest.URL("sentinel", s.Sentinels...) + "/" + SentinelName + s.secure.Query()
}

// Master is the node that most sentinels take for the master.
func (s *Sentinel) Master() *redistest.Server {
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
func (s *Sentinel) AwaitOther(before *redistest.Server) {
	s.t.Helper()
	redistest.Eventually(s.t, 20*time.Second, "another node is master", func() bool {
		master := s.Master()
		return master != nil && master != before && strings.Contains(master.Do("role"), "master")
	})
}

const (
	clusterMasters = 3
	clusterSlots   = 16384
)

// Cluster is a Redis Cluster of three masters with a replica each.
type Cluster struct {
	Nodes []*redistest.Server

	// Clocks are those of the nodes that have one of their own.
	Clocks map[*redistest.Server]*redistest.Clock

	t      testing.TB
	secure *redistest.Certificate
}

// StartCluster starts it, over TLS if secure is not nil, and returns when every
// slot is served and every replica is in sync. A master that does not answer for a
// second is replaced.
func StartCluster(t testing.TB, secure *redistest.Certificate) *Cluster {
	t.Helper()
	return startCluster(t, secure, 2*clusterMasters, false)
}

// StartClusterWithClocks is StartCluster, each node with a clock of its own.
func StartClusterWithClocks(t testing.TB) *Cluster {
	t.Helper()
	return startCluster(t, nil, 2*clusterMasters, true)
}

// StartMasters is StartCluster without replicas: nothing takes the place of a master.
func StartMasters(t testing.TB) *Cluster {
	t.Helper()
	return startCluster(t, nil, clusterMasters, false)
}

func startCluster(t testing.TB, secure *redistest.Certificate, nodes int, clocks bool) *Cluster {
	t.Helper()
	c := &Cluster{t: t, secure: secure, Clocks: map[*redistest.Server]*redistest.Clock{}}
	all := redistest.FreePorts(t, nodes)
	for _, port := range all {
		args := []string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000",
			"--cluster-require-full-coverage", "no", "--cluster-allow-pubsubshard-when-down", "yes",
		}
		if clocks {
			clock := redistest.NewClock(t)
			n := redistest.StartAtWithClock(t, port, clock, args...)
			c.Nodes, c.Clocks[n] = append(c.Nodes, n), clock
		} else {
			c.Nodes = append(c.Nodes, redistest.StartAt(t, port, secure, args...))
		}
	}
	must := func(n *redistest.Server, args ...any) {
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
	everywhere := func(what string, holds func(*redistest.Server) bool) {
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
	everywhere("all nodes have met", func(n *redistest.Server) bool {
		return strings.Contains(n.Do("cluster", "info"), fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) &&
			strings.Count(n.Do("cluster", "nodes"), " connected") == len(c.Nodes)
	})
	for i, n := range c.Nodes[clusterMasters:] {
		must(n, "cluster", "replicate", c.Nodes[i].Do("cluster", "myid"))
	}
	everywhere("every slot is served and every replica is in sync", func(n *redistest.Server) bool {
		return strings.Contains(n.Do("cluster", "info"), "cluster_state:ok") &&
			strings.Count(n.Do("cluster", "nodes"), "slave") == nodes-clusterMasters
	})
	for _, n := range c.Nodes[clusterMasters:] {
		redistest.Eventually(t, 15*time.Second, "the replica is in sync", func() bool {
			return strings.Contains(n.Do("info", "replication"), "master_link_status:up")
		})
	}
	return c
}

// URL is what -redis-url takes.
func (c *Cluster) URL() string { return redistest.URL("cluster", c.Nodes...) + c.secure.Query() }

// Settle waits until every slot has a master, and every master a replica that is in sync.
func (c *Cluster) Settle() {
	c.t.Helper()
	redistest.Eventually(c.t, 30*time.Second, "every master has a replica", func() bool {
		masters := 0
		for _, n := range c.Nodes {
			said := n.Do("info", "replication")
			if !strings.Contains(said, "role:master") {
				continue
			}
			if strings.Count(said, "state=online") != 1 || !strings.Contains(n.Do("cluster", "info"), "cluster_state:ok") {
				return false
			}
			masters++
		}
		return masters == clusterMasters
	})
}

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
func (c *Cluster) Owner(tag string) *redistest.Server {
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
func (c *Cluster) RoomsOfEach(n int) map[*redistest.Server][]string {
	rooms := map[*redistest.Server][]string{}
	for i := 0; len(rooms) < clusterMasters || len(rooms[c.Nodes[0]]) < n || len(rooms[c.Nodes[1]]) < n || len(rooms[c.Nodes[2]]) < n; i++ {
		room := fmt.Sprintf("room-%d", i)
		owner := c.Nodes[min(c.Slot(room)*clusterMasters/clusterSlots, clusterMasters-1)]
		if len(rooms[owner]) < n {
			rooms[owner] = append(rooms[owner], room)
		}
	}
	return rooms
}

// Move moves the slot of a room, with all that is in it, to another master, and returns when
// all nodes know it. halfway is called when the keys have moved, and clients are told to ask
// there.
func (c *Cluster) Move(room string, to *redistest.Server, halfway func()) {
	c.t.Helper()
	slot, from := c.Slot(room), c.Owner(room)
	must := func(n *redistest.Server, args ...any) {
		c.t.Helper()
		if reply := n.Do(args...); reply != "OK" {
			c.t.Fatalf("%v on %s: %q", args, n.Addr, reply)
		}
	}
	source, target := from.Do("cluster", "myid"), to.Do("cluster", "myid")
	must(to, "cluster", "setslot", slot, "importing", source)
	must(from, "cluster", "setslot", slot, "migrating", target)
	user, pass := redistest.Auth()
	host, port, _ := net.SplitHostPort(to.Addr)
	for {
		keys := strings.Fields(strings.Trim(from.Do("cluster", "getkeysinslot", slot, 100), "[]"))
		if len(keys) == 0 {
			break
		}
		args := []any{"migrate", host, port, "", 0, 1000, "auth2", user, pass, "keys"}
		for _, key := range keys {
			args = append(args, key)
		}
		if reply := from.Do(args...); reply != "OK" && reply != "NOKEY" {
			c.t.Fatalf("MIGRATE to %s: %q", to.Addr, reply)
		}
	}
	halfway()
	for _, n := range append([]*redistest.Server{to, from}, c.Nodes...) {
		must(n, "cluster", "setslot", slot, "node", target)
	}
	c.AwaitOwner(room, from)
}

// Failover puts the replica of a master in its place, in agreement with it, and
// returns the new master when the others know it.
func (c *Cluster) Failover(master *redistest.Server) *redistest.Server {
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
func (c *Cluster) tagOf(master *redistest.Server) string {
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
func (c *Cluster) AwaitOwner(tag string, before *redistest.Server) {
	c.t.Helper()
	redistest.Eventually(c.t, 20*time.Second, "another node serves "+tag, func() bool {
		owner := c.Owner(tag)
		return owner != nil && owner != before
	})
}

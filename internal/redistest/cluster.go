package redistest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/test/memnet"
)

// slots is how many a Cluster has.
const slots = 16384

// FakeCluster is Fakes that share the slots as the masters of a Cluster do. Messages stay on
// the Fake on which they are published.
type FakeCluster struct {
	Nodes []*Fake

	mu    sync.Mutex // guards:
	addrs []string   // of the servers that have the slots of each node now
}

// NewFakeCluster returns n Fakes that end with the test.
func NewFakeCluster(t testing.TB, n int) *FakeCluster {
	c := &FakeCluster{}
	for i := range n {
		c.Nodes = append(c.Nodes, NewFake(t))
		c.addrs = append(c.addrs, fmt.Sprintf("10.0.0.%d:6379", i+1))
	}
	return c
}

// Addr is the address of a node.
func (c *FakeCluster) Addr(node int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addrs[node]
}

// FailOver has another server take the place of a node, with its data.
func (c *FakeCluster) FailOver(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	host, port, _ := strings.Cut(c.addrs[node], ":")
	c.addrs[node] = host + "9:" + port
}

// nodeAt is the node with an address, -1 if there is none.
func (c *FakeCluster) nodeAt(addr string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range c.addrs {
		if a == addr {
			return i
		}
	}
	return -1
}

// Client returns a client such as a replica has. It ends with the test.
func (c *FakeCluster) Client(t testing.TB) redis.UniversalClient {
	links := make([]*Link, len(c.Nodes))
	for i := range links {
		links[i] = &Link{conns: map[*memnet.Conn]bool{}}
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			var list []redis.ClusterSlot
			for i := range c.Nodes {
				list = append(list, redis.ClusterSlot{
					Start: i * slots / len(c.Nodes), End: (i+1)*slots/len(c.Nodes) - 1,
					Nodes: []redis.ClusterNode{{Addr: c.Addr(i)}},
				})
			}
			return list, nil
		},
		Dialer: func(_ context.Context, _, addr string) (net.Conn, error) {
			node := c.nodeAt(addr)
			if node < 0 {
				return nil, errDown
			}
			return links[node].dial(c.Nodes[node])
		},
		ContextTimeoutEnabled:      true,
		DisableIdentity:            true,
		MaxRetries:                 -1,
		MaxRedirects:               -1,
		PoolSize:                   8,
		ClusterStateReloadInterval: time.Second,
	})
	t.Cleanup(func() {
		_ = client.Close()
		time.Sleep(5 * time.Second) // a bubble's: the client looks late for having been closed
	})
	return client
}

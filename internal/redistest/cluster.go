package redistest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"presence/test/memnet"
)

// slots is how many slots a Cluster has.
const slots = 16384

// FakeCluster is Fakes that share the slots as the masters of a Cluster do. One that is asked
// for a key of another answers MOVED.
type FakeCluster struct {
	Nodes []*Fake

	mu    sync.Mutex  // guards:
	addrs []string    // of the servers that have the slots of each node now
	moved map[int]int // slot -> node, of those that were moved

	listeners map[string]map[*server.Peer]bool // of sharded channels
}

// NewFakeCluster returns n Fakes that end with the test.
func NewFakeCluster(t testing.TB, n int) *FakeCluster {
	c := &FakeCluster{moved: map[int]int{}, listeners: map[string]map[*server.Peer]bool{}}
	for i := range n {
		f := NewFake(t)
		c.Nodes = append(c.Nodes, f)
		c.addrs = append(c.addrs, fmt.Sprintf("10.0.0.%d:6379", i+1))
		f.foreign = func(cmd string, args []string) string { return c.foreign(i, cmd, args) }
		for name, do := range map[string]server.Cmd{
			"SPUBLISH": func(p *server.Peer, _ string, args []string) {
				f.Server().Dispatch(p, append([]string{"PUBLISH"}, args...))
			},
			"SSUBSCRIBE": func(p *server.Peer, _ string, args []string) {
				c.listen(p, args, true)
				f.Server().Dispatch(p, append([]string{"SUBSCRIBE"}, args...))
			},
			"SUNSUBSCRIBE": func(p *server.Peer, _ string, args []string) {
				c.listen(p, args, false)
				f.Server().Dispatch(p, append([]string{"UNSUBSCRIBE"}, args...))
			},
		} {
			if err := f.Server().Register(name, do); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c
}

// Addr is the address of a node.
func (c *FakeCluster) Addr(node int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addrs[node]
}

// NodeOf is the number of the node that has a key.
func (c *FakeCluster) NodeOf(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodeLocked(slotOf(key))
}

func (c *FakeCluster) nodeLocked(slot int) int {
	if node, ok := c.moved[slot]; ok {
		return node
	}
	return slot * len(c.Nodes) / slots
}

// FailOver puts another server in the place of a node, with the node's data.
func (c *FakeCluster) FailOver(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	host, port, _ := strings.Cut(c.addrs[node], ":")
	if next, ok := strings.CutSuffix(host, "9"); ok {
		host = next // back again
	} else {
		host += "9"
	}
	c.addrs[node] = host + ":" + port
}

// Move moves the slot of key to a node, with all its keys, at once. Clients
// that subscribe to channels of the slot are told that they no longer do.
func (c *FakeCluster) Move(key string, to int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	slot := slotOf(key)
	from := c.nodeLocked(slot)
	if from == to {
		return nil
	}
	source, target := c.Nodes[from], c.Nodes[to]
	for _, key := range target.Keys() { // of a copy from a time when it had the slot
		if slotOf(key) == slot {
			target.Del(key)
		}
	}
	for _, key := range source.Keys() {
		if slotOf(key) != slot {
			continue
		}
		if err := move(source, target, key); err != nil {
			return fmt.Errorf("move %s: %w", key, err)
		}
	}
	c.moved[slot] = to
	for channel, peers := range c.listeners {
		if slotOf(channel) != slot {
			continue
		}
		for p := range peers {
			p.Block(func(w *server.Writer) {
				w.WritePushLen(3)
				w.WriteBulk("sunsubscribe")
				w.WriteBulk(channel)
				w.WriteInt(0)
			})
			p.Flush()
		}
		delete(c.listeners, channel)
	}
	return nil
}

// move moves a key.
func move(from, to *Fake, key string) (err error) {
	switch kind := from.Type(key); kind {
	case "string":
		var text string
		if text, err = from.Get(key); err == nil {
			err = to.Set(key, text)
		}
	case "hash":
		var fields []string
		fields, err = from.HKeys(key)
		for _, field := range fields {
			to.HSet(key, field, from.HGet(key, field))
		}
	case "set":
		var members []string
		if members, err = from.SMembers(key); err == nil {
			_, err = to.SAdd(key, members...)
		}
	case "zset":
		var scores map[string]float64
		scores, err = from.SortedSet(key)
		for member, score := range scores {
			_, _ = to.ZAdd(key, score, member)
		}
	case "list":
		var list []string
		if list, err = from.List(key); err == nil {
			_, err = to.Push(key, list...)
		}
	case "stream":
		entries, _ := from.Stream(key)
		for _, e := range entries {
			_, _ = to.XAdd(key, e.ID, e.Values)
		}
	}
	if life := from.TTL(key); life > 0 {
		to.SetTTL(key, life)
	}
	from.Del(key)
	return err //nolint:wrapcheck // the caller does
}

// listen notes who subscribes to channels.
func (c *FakeCluster) listen(p *server.Peer, channels []string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, channel := range channels {
		if c.listeners[channel] == nil {
			c.listeners[channel] = map[*server.Peer]bool{}
		}
		if on {
			c.listeners[channel][p] = true
		} else {
			delete(c.listeners[channel], p)
		}
	}
	p.OnDisconnect(func() { c.listen(p, channels, false) })
}

// keyless are commands that any node carries out.
var keyless = []string{"HELLO", "PING", "CLIENT", "SCRIPT", "SELECT", "AUTH", "QUIT", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE", "SUNSUBSCRIBE", "COMMAND", "FLUSHALL", "TIME", "INFO"}

// foreign returns what a node answers to a command about a key that another has; "" if it is
// the node's own.
func (c *FakeCluster) foreign(node int, cmd string, args []string) string {
	key := ""
	switch {
	case cmd == "EVAL" || cmd == "EVALSHA":
		if len(args) > 2 && args[1] != "0" {
			key = args[2]
		}
	case len(args) > 0 && !slices.Contains(keyless, cmd):
		key = args[0]
	}
	if key == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	slot := slotOf(key)
	if owner := c.nodeLocked(slot); owner != node {
		return fmt.Sprintf("MOVED %d %s", slot, c.addrs[owner])
	}
	return ""
}

// slotOf is the slot of a key: the CRC16 (XMODEM) of it, or of its hash tag.
func slotOf(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var sum uint16
	for i := range len(key) {
		sum ^= uint16(key[i]) << 8
		for range 8 {
			if high := sum&0x8000 != 0; high {
				sum = sum<<1 ^ 0x1021
			} else {
				sum <<= 1
			}
		}
	}
	return int(sum) % slots
}

// nodeAt is the node with an address, -1 if there is none.
func (c *FakeCluster) nodeAt(addr string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Index(c.addrs, addr)
}

// slots lists which node has which slots.
func (c *FakeCluster) slots() []redis.ClusterSlot {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []redis.ClusterSlot
	add := func(from, to, node int) {
		if from <= to {
			list = append(list, redis.ClusterSlot{Start: from, End: to, Nodes: []redis.ClusterNode{{Addr: c.addrs[node]}}})
		}
	}
	at := 0
	for node := range c.Nodes {
		end := ((node+1)*slots + len(c.Nodes) - 1) / len(c.Nodes)
		for slot := at; slot < end; slot++ {
			if other, ok := c.moved[slot]; ok {
				add(at, slot-1, node)
				add(slot, slot, other)
				at = slot + 1
			}
		}
		add(at, end-1, node)
		at = end
	}
	return list
}

// Client returns a client such as a replica has. It ends with the test.
func (c *FakeCluster) Client(t testing.TB) redis.UniversalClient {
	client, _ := c.Links(t)
	return client
}

// Links returns a client, and the network between it and each node, which can be cut. They
// end with the test.
func (c *FakeCluster) Links(t testing.TB) (redis.UniversalClient, []*Link) {
	links := make([]*Link, len(c.Nodes))
	for i := range links {
		links[i] = &Link{conns: map[*memnet.Conn]bool{}}
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) { return c.slots(), nil },
		Dialer: func(_ context.Context, _, addr string) (net.Conn, error) {
			if node := c.nodeAt(addr); node >= 0 {
				if conn, err := links[node].dial(c.Nodes[node]); err == nil {
					return conn, nil
				}
			}
			// As the dialler of a server does it: else the client soon dials once a second.
			nowhere, _ := memnet.New(here, here)
			nowhere.Break()
			return nowhere, nil
		},
		ContextTimeoutEnabled:      true,
		DisableIdentity:            true,
		MaxRetries:                 -1,
		PoolSize:                   8,
		ReadBufferSize:             buffer,
		WriteBufferSize:            buffer,
		PipelineReadBufferSize:     buffer,
		PipelineWriteBufferSize:    buffer,
		ClusterStateReloadInterval: time.Second,
	})
	for _, l := range links {
		l.Client = client
	}
	t.Cleanup(func() {
		for _, l := range links {
			l.Hold(false)
		}
		_ = client.Close()
		time.Sleep(5 * time.Second) // a bubble's: the client looks late for having been closed
	})
	return client, links
}

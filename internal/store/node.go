package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
)

// Node is a Redis server that has rooms: a single server, or a master of a Cluster.
type Node struct {
	// Addr is the node's address. For a single server it is [Options.Name].
	Addr string

	// Tag is a hash tag whose keys are on the node; "" for a single server.
	Tag string

	// Secret says that the node stores the shared secret.
	Secret bool
}

// Epoch shows whether a node still has its data: the text of a tag's epoch stays the same
// as long as no data were lost.
type Epoch struct {
	Tag, Text string

	// Now is what the clock of the node showed when the epoch was read, in ms; 0 if that
	// was not asked.
	Now int64
}

const (
	// commonTags is how many hash tags are tried to find the nodes of a Cluster. A node
	// gets the first tag that it serves, so all replicas choose the same one.
	commonTags = 1024

	// maxTags is how many hash tags are tried for a node of which only a room is known.
	// Such a node may have only one of the 16,384 slots.
	maxTags = 200_000

	// scanInterval is the time between two trials of all common tags, which take a
	// thousand look-ups. In between the store tries them only when it finds a sign of a
	// new node.
	scanInterval = 5 * time.Second

	// sharedPatience is how long the change of a room waits for data on another node of a
	// Cluster. That node may be away while the room's own node works.
	sharedPatience = 500 * time.Millisecond
)

// nodes are the masters of a Cluster as last seen.
type nodes struct {
	cluster *redis.ClusterClient // nil: there is only one server
	known   atomic.Bool          // the client has learned which node has which slots
	away    atomic.Pointer[map[string]bool]

	mu      sync.Mutex        // guards:
	tags    map[string]string // address -> hash tag
	scanned time.Time         // when all common tags were last tried
	asked   map[string]string // address of a node without a tag -> a room that it has
	lanes   map[string]int    // address -> its lane
	lane    int               // lane of the next new node
}

// now is a context that has ended: with it the client returns only what it already knows.
var now = func() context.Context { //nolint:gochecknoglobals // a constant
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Nodes lists the nodes that have rooms. The client of a Cluster looks them up in the
// background. The error wraps [presence.ErrUnavailable], and says that no node has
// answered yet.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	n := &s.nodes
	if n.cluster == nil {
		return []Node{{Addr: s.opts.Name, Secret: true}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	if _, err := n.cluster.MasterForKey(ctx, s.keys.secret()); err != nil {
		return nil, unavailable(err)
	}
	n.known.Store(true)
	n.mu.Lock()
	defer n.mu.Unlock()
	found := make(map[string]string, len(n.tags))
	for addr, tag := range n.tags {
		if s.owner(s.keys.epoch(tag)) == addr {
			found[addr] = tag
		}
	}
	try := func(i int) {
		tag := strconv.Itoa(i)
		addr := s.owner(s.keys.epoch(tag))
		if _, ok := found[addr]; !ok && addr != "" {
			found[addr] = tag
		}
	}
	if len(found) < len(n.tags) || len(n.asked) > 0 || time.Since(n.scanned) >= scanInterval {
		n.scanned = time.Now()
		for i := range commonTags {
			try(i)
		}
	}
	for addr, room := range n.asked {
		for i := commonTags; i < maxTags && found[addr] == "" && s.owner(s.keys.channel(room)) == addr; i++ {
			try(i)
		}
	}
	n.tags, n.asked = found, map[string]string{}
	for addr := range n.lanes {
		if _, ok := found[addr]; !ok {
			delete(n.lanes, addr)
		}
	}
	list := make([]Node, 0, len(found))
	shared := s.owner(s.keys.secret())
	for addr, tag := range found {
		list = append(list, Node{Addr: addr, Tag: tag, Secret: addr == shared})
	}
	return list, nil
}

// owner is the address of the node of a Cluster that has a key, as far as the client knows;
// "" where it does not.
//
//nolint:contextcheck,nolintlint // waits for nothing; the second does not see what the first is for
func (s *Store) owner(key string) string {
	if !s.nodes.known.Load() {
		return ""
	}
	master, err := s.nodes.cluster.MasterForKey(now, key)
	if err != nil {
		return ""
	}
	return master.Options().Addr
}

// NodeOf returns the address of the node that has room, or the index of rooms for "".
// [Store.Nodes] lists that address, or soon will. It is "" if the node is not known.
func (s *Store) NodeOf(room string) string {
	addr, _, _ := s.nodeOf(room)
	return addr
}

// nodeOf returns the same address, and the node's hash tag. ok says that both are known.
func (s *Store) nodeOf(room string) (addr, tag string, ok bool) {
	n := &s.nodes
	if n.cluster == nil {
		return s.opts.Name, "", true
	}
	if room == "" {
		room = indexTag
	}
	if addr = s.owner(s.keys.channel(room)); addr == "" {
		return "", "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if tag, ok = n.tags[addr]; !ok {
		n.asked[addr] = room
	}
	return addr, tag, ok
}

// Clustered reports whether there can be several nodes.
func (s *Store) Clustered() bool { return s.nodes.cluster != nil }

// Avoid sets the nodes of a Cluster that are away. Calls to them fail at once, so calls
// to other nodes need not wait for them. Probes are still made.
func (s *Store) Avoid(addrs map[string]bool) { s.nodes.away.Store(&addrs) }

// ErrAvoided is returned, together with [presence.ErrUnavailable], for a call that was
// not made. See [Store.Avoid].
var ErrAvoided = errors.New("its node of the Cluster is away")

// avoided reports whether the node that has a key is set to be avoided.
func (s *Store) avoided(key string) bool {
	away := s.nodes.away.Load()
	return away != nil && len(*away) > 0 && s.nodes.cluster != nil && (*away)[s.owner(key)]
}

// reachable returns the calls that can be made, and fails the others.
func (s *Store) reachable(calls []*call) []*call {
	if away := s.nodes.away.Load(); away == nil || len(*away) == 0 {
		return calls
	}
	rest := make([]*call, 0, len(calls))
	for _, c := range calls {
		if s.avoided(c.keys[0]) {
			c.err = unavailable(ErrAvoided)
		} else {
			rest = append(rest, c)
		}
	}
	return rest
}

// laneOf returns the lane of a room. In a Cluster each node has its own lane, so a slow
// node delays no other.
func (s *Store) laneOf(room string) *lane {
	n := &s.nodes
	if n.cluster == nil {
		return s.lanes[maphash.String(seed, room)%lanes]
	}
	addr := s.owner(s.keys.channel(room))
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.lanes[addr]
	if !ok {
		at = n.lane % len(s.lanes)
		n.lane++
		n.lanes[addr] = at
	}
	return s.lanes[at]
}

// IsMoving reports whether an error says that a key is moving from one node of a Cluster
// to another, or that no node has it. Then the node that was asked has not failed.
func IsMoving(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	if !ok {
		return false
	}
	for _, s := range []string{"MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN "} {
		if strings.Contains(reply.Error(), s) {
			return true
		}
	}
	return false
}

// epochOf is the result of reading an epoch.
type epochOf struct {
	Epoch

	err error
}

// epochs reads the epochs of tags, in one round trip for each node. timed says whether to
// read the clocks of the nodes, too, which costs Redis a little more.
func (s *Store) epochs(ctx context.Context, timed bool, tags ...string) map[string]epochOf {
	if len(tags) == 0 {
		return nil
	}
	if timed {
		return s.timedEpochs(ctx, tags)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	cmds := make([]*redis.StringCmd, len(tags))
	if len(tags) == 1 {
		cmds[0] = s.rdb.Get(ctx, s.keys.epoch(tags[0]))
	} else {
		pipe := s.rdb.Pipeline()
		for i, tag := range tags {
			cmds[i] = pipe.Get(ctx, s.keys.epoch(tag))
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
	}
	epochs := make(map[string]epochOf, len(tags))
	for i, tag := range tags {
		text, err := cmds[i].Result()
		if err = classify(err); errors.Is(err, redis.Nil) || errors.Is(err, presence.ErrDamaged) {
			err = nil // an epoch that can't be read counts as lost
		} else if err != nil {
			err = fmt.Errorf("read the epoch: %w", err)
		}
		epochs[tag] = epochOf{Epoch{Tag: tag, Text: text}, err}
	}
	return epochs
}

// timedEpochs is epochs with the clocks of the nodes.
func (s *Store) timedEpochs(ctx context.Context, tags []string) map[string]epochOf {
	calls := make([]*call, len(tags))
	for i, tag := range tags {
		calls[i] = &call{script: epochScript, keys: []string{s.keys.epoch(tag)}, args: []any{""}}
	}
	s.make(ctx, calls)
	epochs := make(map[string]epochOf, len(tags))
	for i, tag := range tags {
		of := epochOf{Epoch: Epoch{Tag: tag}}
		switch list, _ := calls[i].reply.([]any); {
		case calls[i].err != nil:
			of.err = fmt.Errorf("read the epoch: %w", calls[i].err)
		case len(list) != 3:
			of.err = unavailable(errReply)
		default:
			of.Text, _ = list[0].(string)
			of.Now, _ = list[2].(int64)
		}
		epochs[tag] = of
	}
	return epochs
}

// Epochs returns the epochs of the nodes that have rooms; "" stands for the index. The
// text is "" if a node has lost its data and nobody has begun a new epoch yet. Data that
// were read before this call belong to these epochs or to earlier ones. It also reads the
// clocks of the nodes.
func (s *Store) Epochs(ctx context.Context, rooms ...string) ([]Epoch, error) {
	var tags []string
	for _, room := range rooms {
		_, tag, ok := s.nodeOf(room)
		if !ok {
			return nil, unavailable(errNoNode)
		}
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	var list []Epoch
	for _, e := range s.epochs(ctx, true, tags...) {
		if e.err != nil {
			return nil, e.err
		}
		list = append(list, e.Epoch)
	}
	return list, nil
}

// errNoNode is returned for a room whose node is not known yet.
var errNoNode = errors.New("no node of the Cluster is known to have the room")

package replica

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"presence/internal/store"
)

// links holds what this replica knows about each node of Redis. Trouble with one node
// affects only the rooms on that node.
//
// A link stays with its node by the node's address when slots have moved, and by the
// node's hash tag when a failover has put another server in its place.
type links struct {
	times

	store *store.Store
	alone bool
	only  *link // the link when Redis is a single node; nil in a Cluster

	regained chan struct{} // holds one token: renew all leases now
	epochs   *epochs

	none *link // stands for all nodes that have no link yet

	mu     sync.Mutex // guards:
	byAddr map[string]*link
	ran    time.Time // when the probe loop last started a round
	oldTo  time.Time // until then, a request that we read may be old
}

func newLinks(st *store.Store, o Options) *links {
	ls := &links{
		times: newTimes(o), store: st, alone: o.Alone,
		regained: make(chan struct{}, 1), epochs: &epochs{texts: map[string]string{}}, byAddr: map[string]*link{},
	}
	ls.none = ls.newLink(store.Node{}, o.Alone)
	if !st.Clustered() {
		nodes, _ := st.Nodes(context.Background()) // never fails
		ls.only = ls.newLink(nodes[0], o.Alone)
	}
	return ls
}

// of returns the link to the node that holds room, or that holds the index of rooms for
// "".
func (ls *links) of(room string) *link {
	if ls.only != nil {
		return ls.only
	}
	addr := ls.store.NodeOf(room)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.byAddr[addr]; l != nil {
		return l
	}
	return ls.none // the next tick finds the node
}

// all lists the links. If no node is known yet, it returns the link that stands for all.
func (ls *links) all() []*link {
	if ls.only != nil {
		return []*link{ls.only}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	list := make([]*link, 0, len(ls.byAddr))
	for _, l := range ls.byAddr {
		list = append(list, l)
	}
	if len(list) == 0 {
		list = append(list, ls.none)
	}
	return list
}

// roomsOf returns a filter for the rooms of one node; nil means all rooms.
func (ls *links) roomsOf(l *link) func(room string) bool {
	if ls.only != nil {
		return nil
	}
	return func(room string) bool { return ls.of(room) == l }
}

// find takes over the list of nodes. It returns the links to new nodes, to nodes that
// have another server now, and to nodes that no longer exist.
func (ls *links) find(nodes []store.Node) (added, moved, gone []*link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	before := ls.byAddr
	ls.byAddr = make(map[string]*link, len(nodes))
	var strange []store.Node
	for _, node := range nodes {
		if l := before[node.Addr]; l != nil {
			ls.byAddr[node.Addr] = l
			l.moves(node)
			delete(before, node.Addr)
		} else {
			strange = append(strange, node)
		}
	}
	for _, node := range strange {
		var l *link
		for addr, other := range before {
			if other.at().Tag == node.Tag {
				l = other
				l.moves(node)
				moved = append(moved, l)
				delete(before, addr)
				break
			}
		}
		if l == nil {
			// If another node's epoch is known, this Cluster is not new. So the new node
			// got its slots from other nodes, and there is nothing to put back.
			l = ls.newLink(node, ls.alone || ls.epochs.any())
			added = append(added, l)
		}
		ls.byAddr[node.Addr] = l
	}
	for _, l := range before {
		l.wake()
		gone = append(gone, l)
	}
	if len(strange) > 0 {
		ls.none.wake()
	}
	return added, moved, gone
}

// moves notes the node's new address and slots.
func (l *link) moves(node store.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.node = node
}

// wake wakes the goroutines that wait for a change of the link.
func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enterLocked(l.phase)
}

// epochs holds the last known epoch of each hash tag.
type epochs struct {
	mu    sync.Mutex // guards:
	texts map[string]string
}

// learn notes an epoch, and reports whether its tag had another one before.
func (es *epochs) learn(e store.Epoch) (lost bool) {
	es.mu.Lock()
	defer es.mu.Unlock()
	known := es.texts[e.Tag]
	es.texts[e.Tag] = e.Text
	return known != "" && known != e.Text
}

// is reports whether e is the known epoch of its tag, and whether any epoch of that tag
// is known.
func (es *epochs) is(e store.Epoch) (same, known bool) {
	es.mu.Lock()
	defer es.mu.Unlock()
	text, known := es.texts[e.Tag]
	return known && text == e.Text, known
}

// any reports whether the epoch of any tag is known.
func (es *epochs) any() bool {
	es.mu.Lock()
	defer es.mu.Unlock()
	return len(es.texts) > 0
}

// tagged returns the link to the node with a hash tag, or nil.
func (ls *links) tagged(tag string) *link {
	for _, l := range ls.all() {
		if l.at().Tag == tag {
			return l
		}
	}
	return nil
}

// avoid tells the store not to call the nodes that are away.
func (ls *links) avoid() {
	if ls.only != nil {
		return
	}
	away := map[string]bool{}
	for _, l := range ls.all() {
		if l.gone() && l != ls.none {
			away[l.at().Addr] = true
		}
	}
	ls.store.Avoid(away)
}

// renew makes the heartbeat renew all leases at once.
func (ls *links) renew() {
	select {
	case ls.regained <- struct{}{}:
	default:
	}
}

// newLink returns a link to node.
func (ls *links) newLink(node store.Node, alone bool) *link {
	return &link{times: ls.times, epochs: ls.epochs, node: node, alone: alone, changed: make(chan struct{}), reason: errNoContact}
}

// ready returns nil when at least one node answers; otherwise the reason why none does.
func (ls *links) ready() error {
	away := ls.away()
	if all := ls.all(); len(away) < len(all) {
		return nil
	}
	return away[0]
}

// away lists, for each node that does not answer, the reason.
func (ls *links) away() []error {
	var away []error
	for _, l := range ls.all() {
		if err := l.ready(); err == nil {
			continue
		} else if addr := l.at().Addr; addr != "" && ls.only == nil {
			away = append(away, fmt.Errorf("node %s: %w", addr, err))
		} else {
			away = append(away, err)
		}
	}
	slices.SortFunc(away, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return away
}

// runs notes that this process is running. If it was stopped for a while, browsers and
// programs may have moved to other replicas. Requests that they sent here before are read
// only now, so for the settle time they count as outdated.
func (ls *links) runs() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	now := time.Now()
	if ls.stoppedLocked() {
		ls.oldTo = now.Add(ls.settle)
	}
	ls.ran = now
}

func (ls *links) stoppedLocked() bool { return !ls.ran.IsZero() && time.Since(ls.ran) > ls.stop }

// outdated reports whether a request that is read now may be old, because this process
// was stopped.
func (ls *links) outdated() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.stoppedLocked() || time.Now().Before(ls.oldTo)
}

// runLinks probes all nodes, and follows which nodes there are, until ctx ends.
func (r *Replica) runLinks(ctx context.Context) error {
	if only := r.links.only; only != nil {
		r.runLink(ctx, only)
		return nil
	}
	var probes sync.WaitGroup
	defer probes.Wait()
	stops := map[*link]context.CancelFunc{}
	tick := time.NewTicker(r.links.probe)
	defer tick.Stop()
	for {
		r.links.runs()
		nodes, err := r.store.Nodes(ctx)
		var added, moved, gone []*link
		if err == nil {
			added, moved, gone = r.links.find(nodes)
		} else {
			r.redisFailed(ctx, r.links.none, err)
		}
		for _, l := range added {
			its, stop := context.WithCancel(ctx)
			stops[l] = stop
			probes.Go(func() { r.runLink(its, l) })
		}
		for _, l := range gone {
			stops[l]()
			delete(stops, l)
		}
		r.links.avoid()
		for _, l := range moved {
			probes.Go(func() { r.probeOnce(ctx, l) }) // without waiting for the next tick
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return nil
		}
	}
}

// Away lists, for each node of Redis that does not answer, the reason. In a Cluster each
// reason begins with the node's address.
func (r *Replica) Away() []error { return r.links.away() }

// isMoving reports whether an error says that a room is moving from one node to another.
// Then neither node has failed. If the move takes long, the room is marked stale.
func (r *Replica) isMoving(room string, err error) bool {
	if !r.store.Clustered() || !store.IsMoving(err) {
		return false
	}
	if r.troubles.moves(room, time.Now()) {
		r.views.MarkStale(func(other string) bool { return other == room })
	}
	return true
}

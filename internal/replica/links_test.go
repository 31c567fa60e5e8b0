package replica

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// town is two replicas on a Cluster of three masters. There are users in one room of each
// master, and in other rooms that the second replica neither shows nor has members in.
type town struct {
	*redistest.FakeCluster

	t     *testing.T
	a, b  *process
	homes []string // of each master, with Ann here and Ben there
	far   []string // with Ann and Ben, both at the first replica
	fresh []string // nobody yet
}

func newTown(t *testing.T) *town {
	t.Helper()
	c := redistest.NewFakeCluster(t, 3)
	tn := &town{FakeCluster: c, t: t}
	start := func() *process {
		return startBy(t, &redistest.Link{Client: c.Client(t)}, Options{}, store.Options{})
	}
	tn.a, tn.b = start(), start()
	time.Sleep(time.Minute)
	tn.homes, tn.far, tn.fresh = tn.rooms("home"), tn.rooms("far"), tn.rooms("fresh")
	for i := range c.Nodes {
		tn.a.in(tn.homes[i], "Ann")
		tn.b.in(tn.homes[i], "Ben")
		tn.a.in(tn.far[i], "Ann")
		tn.a.in(tn.far[i], "Ben")
	}
	time.Sleep(30 * time.Second)
	return tn
}

// rooms returns one room of each node. Their names begin with kind.
func (tn *town) rooms(kind string) []string {
	found := make([]string, len(tn.Nodes))
	for n := 0; slices.Contains(found, ""); n++ {
		room := fmt.Sprint(kind, n)
		addr := tn.a.store.NodeOf(room)
		for node := range tn.Nodes {
			if tn.Addr(node) == addr && found[node] == "" {
				found[node] = room
			}
		}
	}
	return found
}

// watch looks at all rooms through both replicas for a heartbeat interval, and reports of
// which nodes rooms could not be seen. It fails if a wrong number is shown without a
// mark.
func (tn *town) watch() (unseen map[int]bool) {
	tn.t.Helper()
	unseen = map[int]bool{}
	for began := time.Now(); time.Since(began) < DefaultHeartbeatInterval; time.Sleep(500 * time.Millisecond) {
		for node := range tn.Nodes {
			for _, room := range []string{tn.homes[node], tn.far[node]} {
				for _, p := range []*process{tn.a, tn.b} {
					if p.Trusted(room) != nil {
						unseen[node] = true
						continue
					}
					view, err := p.rooms.Peek(tn.t.Context(), room)
					switch {
					case err != nil || view.Stale:
						unseen[node] = true
					case view.Users != 2:
						tn.t.Errorf("%v after: %d users in %s", time.Since(began), view.Users, room)
					}
				}
			}
		}
	}
	return unseen
}

// only fails the test unless exactly the rooms of one node could not be seen; -1: of
// none.
func (tn *town) only(unseen map[int]bool, node int) {
	tn.t.Helper()
	for n := range tn.Nodes {
		if unseen[n] != (n == node) {
			tn.t.Errorf("rooms of node %d were unseen: %v, when node %d was in trouble", n, unseen[n], node)
		}
	}
}

// inTown runs the test in a bubble.
func inTown(t *testing.T, test func(tn *town)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newTown(t)) })
}

// When a node is away, the others go on. That includes rooms which are new on them, even
// if the list of rooms is on the node that is away.
func TestNodeThatIsAwayConcernsItsRooms(t *testing.T) {
	const away = 0
	inTown(t, func(tn *town) {
		t := tn.t
		if !slices.Contains(tn.Nodes[away].Keys(), "presence:rooms") {
			t.Fatalf("node %d does not have the list", away)
		}
		tn.Nodes[away].Down()
		tn.only(tn.watch(), away)
		for node, room := range tn.fresh {
			m, _, err := tn.b.Join(t.Context(), room, connection("Cid", presence.NewGeneration()), living{}, nil)
			if (err != nil) != (node == away) {
				t.Errorf("a join into a new room of node %d: %v", node, err)
			}
			if err == nil {
				_, err = tn.b.Leave(t.Context(), m)
			}
			if node != away && err != nil {
				t.Errorf("and the leave: %v", err)
			}
		}
		if err := tn.a.Ready(); err != nil || len(tn.a.Away()) != 1 {
			t.Errorf("ready: %v, away: %v", err, tn.a.Away())
		}
		tn.Nodes[away].Up()
		tn.only(tn.watch(), away)
		tn.only(tn.watch(), -1)
	})
}

func TestNodeThatIsFlushedConcernsItsRooms(t *testing.T) {
	inTown(t, func(tn *town) {
		tn.Nodes[1].FlushAll()
		tn.only(tn.watch(), 1)
		tn.only(tn.watch(), -1)
	})
}

// When another server replaces a node that was away, it counts as the same node.
func TestNodeThatHasFailedOver(t *testing.T) {
	inTown(t, func(tn *town) {
		t := tn.t
		tn.Nodes[1].Down()
		time.Sleep(10 * time.Second)
		tn.FailOver(1)
		tn.Nodes[1].Up()
		tn.only(tn.watch(), 1)
		tn.only(tn.watch(), -1)
		if n := tn.a.counter("presence_lost_rooms_total"); n != 0 {
			t.Errorf("%v rooms were lost", n)
		}
	})
}

// A link stays with its node by the address when slots have moved, and by the tag after a
// failover. There is nothing to put back into a new node.
func TestNodesAreKnownAgain(t *testing.T) {
	ls := &links{epochs: &epochs{texts: map[string]string{}}}
	ls.none = ls.newLink(store.Node{}, false)
	node := func(addr, tag string) store.Node { return store.Node{Addr: addr, Tag: tag} }
	added, _, _ := ls.find([]store.Node{node("a", "1"), node("b", "2")})
	if len(added) != 2 || added[0].alone {
		t.Fatalf("%d links", len(added))
	}
	a, b := ls.byAddr["a"], ls.byAddr["b"]
	ls.epochs.learn(store.Epoch{Tag: "1", Text: "x"})
	// The slot of tag 1 moves from a to b, and some others to c.
	added, moved, gone := ls.find([]store.Node{node("a", "5"), node("b", "1"), node("c", "7")})
	if len(added) != 1 || !added[0].alone || len(moved)+len(gone) != 0 || ls.byAddr["a"] != a || ls.byAddr["b"] != b || a.at().Tag != "5" {
		t.Errorf("after a move: %v, %v, %v", added, moved, gone)
	}
	if ls.epochs.learn(store.Epoch{Tag: "1", Text: "x"}) || !ls.epochs.learn(store.Epoch{Tag: "1", Text: "y"}) {
		t.Error("the epoch of a tag is not that of its node")
	}
	// b fails over to d, and c is no more.
	added, moved, gone = ls.find([]store.Node{node("a", "5"), node("d", "1")})
	if len(added) != 0 || len(moved) != 1 || len(gone) != 1 || ls.byAddr["d"] != b || b.at().Addr != "d" {
		t.Errorf("after a failover: %v, %v, %v", added, moved, gone)
	}
}

// A room is shown at once, although the master of another room hangs and the replica has
// not noticed that yet.
func TestNodeThatHangsDelaysNoOtherRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := redistest.NewFakeCluster(t, 3)
		client, links := c.Links(t)
		so := store.Options{Sharded: true}
		a := startBy(t, &redistest.Link{Client: c.Client(t)}, Options{}, so)
		b := startBy(t, &redistest.Link{Client: client}, Options{}, so)
		time.Sleep(time.Minute)
		other := &town{FakeCluster: c, t: t, a: a, b: b}
		hanging := (c.NodeOf("{"+lobby+"}") + 1) % len(c.Nodes)
		b.Enter(t.Context(), other.rooms("far")[hanging])
		b.watching()
		links[hanging].Hold(true)
		for want := range 70 { // longer than a resync interval, and than a call takes
			a.in(lobby, fmt.Sprint("user", want))
			time.Sleep(150 * time.Millisecond)
			if got := b.last(); got != fmt.Sprint(want+1) {
				t.Fatalf("%d joined, and after %v shown is %s", want+1, 150*time.Millisecond, got)
			}
		}
		links[hanging].Hold(false)
	})
}

// The list of rooms is lost just when the replica with members in rooms of other nodes
// dies. Its members leave as soon as usual, since the remaining replicas know the rooms.
func TestLostListConcernsNoRoomElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := redistest.NewFakeCluster(t, 3)
		client, links := c.Links(t)
		a := startBy(t, &redistest.Link{Client: client}, Options{}, store.Options{})
		b := startBy(t, &redistest.Link{Client: c.Client(t)}, Options{}, store.Options{})
		time.Sleep(time.Minute)
		rooms := (&town{FakeCluster: c, t: t, a: a, b: b}).rooms("far")
		for _, room := range rooms {
			a.in(room, "Ann")
		}
		time.Sleep(30 * time.Second)
		for _, l := range links {
			l.Cut() // it can't say goodbye
		}
		a.kill()
		died := time.Now()
		list := c.NodeOf("presence:rooms")
		c.Nodes[list].FlushAll()
		time.Sleep(10 * time.Second)
		if listed, err := b.store.Rooms(t.Context()); err != nil || len(listed) != len(rooms)-1 {
			t.Errorf("listed are %v, %v", listed, err)
		}
		time.Sleep(store.DefaultMemberTTL + time.Second - time.Since(died))
		for node, room := range rooms {
			if view, err := b.rooms.Peek(t.Context(), room); err != nil || view.Users > 0 {
				t.Errorf("%d users in the room of node %d, the list was on %d, %v", view.Users, node, list, err)
			}
		}
		time.Sleep(2 * store.DefaultMemberTTL)
		if listed, err := b.store.Rooms(t.Context()); err != nil || len(listed) > 0 {
			t.Errorf("in the end listed are %v, %v", listed, err)
		}
	})
}

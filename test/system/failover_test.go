package system

import (
	"fmt"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

const (
	// writesBack is how soon after a fault of a master people can join again.
	writesBack = 5 * time.Second

	// pushesBack is how soon after that everybody sees it.
	pushesBack = 3 * time.Second

	// atOnceAgain is how soon everybody sees a change some seconds later.
	atOnceAgain = time.Second + slack
)

// patient is a pace at which a failover that takes some seconds is much shorter than a
// TTL.
var patient = pace{heartbeat: 3 * time.Second, ttl: 15 * time.Second, grace: 5 * time.Second}

// joinAgain presses Join until it succeeds, and returns how long that took.
func joinAgain(t *testing.T, v *harness.Visitor, name string) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := v.Join(name)
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("join still fails: %v", err)
		}
		harness.Observe(t, 100*time.Millisecond, "somebody presses Join again and again: "+err.Error())
	}
}

// survives does something to Redis. It checks that people can join and see that within
// the promised times, and that nobody saw anything else.
func (h *household) survives(t *testing.T, what, room string, fault func()) {
	t.Helper()
	ann := harness.Open(t, harness.Options{Room: room}, h.replicas[0].URL)
	from := time.Now()
	fault()
	joinAgain(t, ann, "Ann "+what)
	within(t, time.Since(from), writesBack, "joining again after "+what)
	joined := time.Now()
	allSee(t, writesBack+pushesBack, len(h.members)+1, h.all...)
	within(t, time.Since(joined), pushesBack, "seeing it after "+what)
	harness.Observe(t, patient.heartbeat, "lost members would be missed, or come back, by now")
	neverBelow(t, from, len(h.members), h.all...)
	neverAbove(t, from, len(h.members)+1, h.all...)
	neverLoggedOut(t, from, h.members...)
	// Rooms are read every few seconds whatever is heard of them. That changes are
	// heard again shows when one after the other is seen at once.
	for range 3 {
		if err := ann.Leave(); err != nil {
			t.Fatalf("leave: %v", err)
		}
		h.exact(t, atOnceAgain)
		ann.MustJoin("Ann " + what)
		allSee(t, atOnceAgain, len(h.members)+1, h.all...)
	}
	if err := ann.Leave(); err != nil {
		t.Fatalf("leave: %v", err)
	}
	h.exact(t, atOnceAgain)
	ann.Close()
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	s := harness.StartSentinel(t, redistest.NewCertificate(t))
	h := newHousehold(t, patient, s.URL())
	h.survives(t, "a planned failover", "", s.Failover)
	h.survives(t, "a crash of the master", "", func() {
		// Sentinel allows no second failover within twice its timeout (5 s) of the
		// first, unless it is another node that fails; the household's checks took
		// about as long.
		s.Master().Kill()
	})
}

func TestSentinelMasterStandsStill(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	s := harness.StartSentinel(t, nil)
	h := newHousehold(t, patient, s.URL())
	old := s.Master()
	h.survives(t, "a master that stands still", "", old.Pause)
	from := time.Now()
	old.Continue()
	harness.Observe(t, patient.heartbeat, "the old master comes back as a replica")
	h.exact(t, time.Second)
	neverBelow(t, from, len(h.members), h.all...)
}

// rooms on every master of a cluster, with two members and an onlooker each.
func newHouseholds(t *testing.T, rooms []string, replicas []*harness.Replica) map[string]*household {
	t.Helper()
	homes := map[string]*household{}
	for _, room := range rooms {
		h := &household{replicas: replicas}
		opts := harness.Options{Room: "/rooms/" + room}
		for i, r := range replicas {
			h.members = append(h.members, harness.Open(t, opts, r.URL).MustJoin(fmt.Sprint("Ann ", i)))
			h.all = append(h.all, harness.Open(t, opts, r.URL))
		}
		h.all = append(h.all, h.members...)
		homes[room] = h
	}
	for _, h := range homes {
		h.exact(t, 5*time.Second)
	}
	return homes
}

func TestClusterMasterLost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	c := harness.StartCluster(t, redistest.NewCertificate(t))
	var rooms []string
	roomOf := map[*redistest.Server]string{}
	for owner, list := range c.RoomsOfEach(2) {
		rooms = append(rooms, list...)
		roomOf[owner] = list[0]
	}
	homes := newHouseholds(t, rooms, start(t, 2, patient, c.URL()))
	// What all rooms depend on lies on one master: that is the worst to lose.
	worst := c.Owner("presence:epoch")
	for _, fault := range []struct {
		what string
		do   func(room string)
	}{
		{"a planned failover", func(room string) { c.Failover(c.Owner(room)) }},
		{"a crash of a master", func(room string) {
			owner := c.Owner(room)
			owner.Kill()
			c.AwaitOwner(room, owner)
		}},
	} {
		room := roomOf[worst]
		from := time.Now()
		homes[room].survives(t, fault.what, "/rooms/"+room, func() { fault.do(room) })
		for other, h := range homes {
			if other == room {
				continue
			}
			h.exact(t, patient.heartbeat)
			neverBelow(t, from, len(h.members), h.all...)
			neverAbove(t, from, len(h.members), h.all...)
			neverLoggedOut(t, from, h.members...)
		}
	}
}

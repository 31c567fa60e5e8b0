package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	// numReplicas is how many there are. Of each round at least one of replicas
	// and Redis is spared, so that somebody remembers who is there.
	numReplicas = 3

	// roundLength is for how long a round makes trouble.
	roundLength = 10 * time.Second

	// latest is when the last trouble of a round begins.
	latest = 5 * time.Second

	// lag is by how much a copy of Redis is behind at most.
	lag = 1500 * time.Millisecond
)

// kind is a kind of trouble for a replica or for Redis.
type kind string

// Troubles of replicas.
const (
	kill  kind = "kill"  // kill -9, and started again
	stop  kind = "stop"  // SIGSTOP, and SIGCONT
	drain kind = "drain" // SIGTERM, and started again
)

// Troubles of Redis; on a Cluster, of the master of a room.
const (
	flush    kind = "flush"    // FLUSHALL
	restart  kind = "restart"  // kill -9, and started again, empty
	full     kind = "full"     // no memory left for anything new
	freeze   kind = "freeze"   // SIGSTOP, and SIGCONT
	deafen   kind = "deafen"   // all subscriptions are cut
	remove   kind = "remove"   // a key of a room is deleted
	spoil    kind = "spoil"    // a key of a room becomes one of another type
	jump     kind = "clock"    // is set to another time
	failover kind = "failover" // a replica takes the place of a master; of one server, a copy of a moment ago
)

// redisTroubles are the troubles of a single server, and clusterTroubles those of a
// Cluster. If a master is killed, or stands still for longer than a second, its replica
// replaces it.
var (
	redisTroubles   = []kind{flush, flush, restart, restart, full, full, freeze, deafen, remove, remove, spoil, spoil, failover, failover, jump, jump, jump}
	clusterTroubles = []kind{flush, flush, restart, restart, full, freeze, freeze, deafen, remove, spoil, failover, failover, jump, jump}
)

// parts are the keys of a room. Any of them may be lost.
var parts = []string{"online", "beats", "conns", "refs", "users", "roster", "version", "log"}

// jumps are the steps by which a clock is set forward or back.
var jumps = []time.Duration{-2 * time.Minute, -10 * time.Second, 3 * time.Second, time.Minute, time.Hour}

// trouble is one thing that goes wrong in a round.
type trouble struct {
	kind    kind
	replica int // -1: Redis

	room string        // of Redis: whose key, or master
	part string        // remove, spoil
	by   time.Duration // jump

	// begin and end are counted from the beginning of the round. Some troubles
	// have no length.
	begin, end time.Duration
}

func (t trouble) String() string {
	text := string(t.kind)
	if t.replica >= 0 {
		text += fmt.Sprintf(" %d", t.replica+1)
	}
	switch t.kind {
	case remove, spoil:
		text += " " + t.part + " of " + t.room
	case jump:
		text += " of Redis of " + t.room + " " + t.by.String()
	case flush, restart, full, freeze, deafen, failover:
		text += " Redis of " + t.room
	case kill, stop, drain:
	}
	if t.end > t.begin {
		text += fmt.Sprintf(" %.1f s", (t.end - t.begin).Seconds())
	}
	return text
}

// losesData reports whether Redis has lost a room, or more, after this trouble. Keys
// expire when the clock is set forward, and a copy that replaces Redis lacks the newest
// writes.
func (t trouble) losesData(cluster bool) bool {
	switch t.kind {
	case flush, restart, remove, spoil:
		return true
	case jump:
		return t.by > 0 || cluster // whose nodes may find that one was silent for too long
	case freeze:
		return cluster
	case failover:
		return !cluster
	case kill, stop, drain, full, deafen:
	}
	return false
}

// habit is a kind of visitor.
type habit string

const (
	looker   habit = "looker"   // looks only
	steady   habit = "steady"   // joins once and stays, but reloads and comes back
	restless habit = "restless" // joins, leaves, closes, comes back
	tabs     habit = "tabs"     // the same with several tabs of one browser
	plain    habit = "plain"    // the same without JavaScript
)

// crowd lists how many visitors of each kind take part, and how many tabs each has.
var crowd = []struct {
	habit       habit
	people      int
	tabs        int
	least, most time.Duration // between two acts
}{
	{looker, 6, 1, 4 * time.Second, 12 * time.Second},
	{steady, 16, 1, 2 * time.Second, 12 * time.Second},
	{restless, 14, 1, 400 * time.Millisecond, 3 * time.Second},
	{tabs, 5, 3, 300 * time.Millisecond, 2500 * time.Millisecond},
	{plain, 7, 1, 800 * time.Millisecond, 4 * time.Second},
}

// act is what a visitor does.
type act string

const (
	join        act = "join"        // under the first of three names
	joinTwice   act = "join twice"  // a double click on Join
	joinAsOther act = "join as two" // joins twice, under two names
	leave       act = "leave"       //
	leaveTwice  act = "leave twice" // a double click on Leave
	reload      act = "reload"      // F5
	comeBack    act = "come back"   // closes the tab and opens it again, as Ctrl-Shift-T does
	shut        act = "close"       // closes the tab
	crash       act = "crash"       // the tab ends without a farewell
	arrive      act = "arrive"      // opens the page in a new tab
	earlyForm   act = "early form"  // does, and joins before the page script has come
	elsewhere   act = "elsewhere"   // closes the tab, and opens it at another replica's own address
	newBrowser  act = "new browser" // closes all, and comes back as a stranger
)

// likes says how often each kind of visitor does what.
var likes = map[habit][]struct {
	act    act
	weight int
}{
	looker:   {{reload, 3}, {comeBack, 1}, {elsewhere, 1}},
	steady:   {{join, 6}, {reload, 3}, {comeBack, 2}, {elsewhere, 2}},
	restless: {{join, 6}, {joinTwice, 3}, {joinAsOther, 2}, {leave, 4}, {leaveTwice, 2}, {reload, 2}, {comeBack, 1}, {shut, 2}, {crash, 1}, {arrive, 1}, {earlyForm, 3}, {elsewhere, 1}},
	tabs:     {{join, 6}, {joinTwice, 2}, {joinAsOther, 1}, {leave, 3}, {leaveTwice, 1}, {reload, 2}, {shut, 2}, {crash, 1}, {arrive, 1}, {elsewhere, 1}},
	plain:    {{join, 6}, {joinTwice, 2}, {joinAsOther, 2}, {leave, 3}, {leaveTwice, 1}, {shut, 1}, {newBrowser, 1}},
}

// deed is one act of one visitor. Its time counts from the beginning of the round.
type deed struct {
	at    time.Duration
	tab   int
	act   act
	first int // which of their three names
	other int // and which second one
}

// round is the plan of one round.
type round struct {
	troubles []trouble // in the order in which they begin
	deeds    [][]deed  // of each visitor
}

func (r round) String() string {
	list := make([]string, len(r.troubles))
	for i, t := range r.troubles {
		list[i] = t.String()
	}
	return strings.Join(list, ", ")
}

// planned returns the nth round of a seed, on one server or on a Cluster. It is the same
// each time, whatever happened in the rounds before.
func planned(seed uint64, n int, cluster bool) round {
	random := rand.New(rand.NewPCG(seed, uint64(n)))
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(random.Int64N(int64(most-least))).Round(time.Millisecond)
	}
	var r round
	targets := random.Perm(numReplicas + 1)[:1+random.IntN(3)]
	if cluster && !slices.Contains(targets, 0) {
		targets[0] = 0 // what a Cluster does is what it is about
	}
	for _, target := range targets {
		t := trouble{replica: target - 1, begin: between(0, latest)}
		if t.replica >= 0 {
			t.kind = []kind{kill, kill, stop, stop, drain}[random.IntN(5)]
			t.end = t.begin + between(300*time.Millisecond, roundLength-t.begin)
		} else {
			kinds := redisTroubles
			if cluster {
				kinds = clusterTroubles
			}
			t.kind = kinds[random.IntN(len(kinds))]
			t.end = t.begin + between(100*time.Millisecond, roundLength-t.begin)
			t.room, t.part, t.by = rooms[random.IntN(len(rooms))], parts[random.IntN(len(parts))], jumps[random.IntN(len(jumps))]
			switch t.kind {
			case failover:
				if t.end = min(t.end, t.begin+lag); cluster {
					t.end = t.begin
				}
			case flush, deafen, remove, spoil, jump:
				t.end = t.begin
			case restart, full, freeze, kill, stop, drain:
			}
		}
		r.troubles = append(r.troubles, t)
	}
	slices.SortFunc(r.troubles, func(a, b trouble) int { return cmp.Compare(a.begin, b.begin) })

	for _, group := range crowd {
		total := 0
		for _, like := range likes[group.habit] {
			total += like.weight
		}
		for range group.people {
			var deeds []deed
			for at := between(0, group.most); at < roundLength; at += between(group.least, group.most) {
				d := deed{at: at, tab: random.IntN(group.tabs), first: random.IntN(names)}
				d.other = (d.first + 1 + random.IntN(names-1)) % names
				drawn := random.IntN(total)
				for _, like := range likes[group.habit] {
					if drawn -= like.weight; drawn < 0 {
						d.act = like.act
						break
					}
				}
				deeds = append(deeds, d)
			}
			r.deeds = append(r.deeds, deeds)
		}
	}
	return r
}

func TestSeedMakesTheSameRounds(t *testing.T) {
	t.Parallel()
	for n := range 400 {
		cluster := n%2 == 1
		a, b := planned(7, n, cluster), planned(7, n, cluster)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d differs from itself", n)
		}
		if reflect.DeepEqual(a, planned(8, n, cluster)) {
			t.Errorf("round %d is the same for two seeds", n)
		}
		if len(a.troubles) < 1 || len(a.troubles) > numReplicas {
			t.Errorf("round %d has %d troubles", n, len(a.troubles))
		}
		seen := map[int]bool{}
		for _, trouble := range a.troubles {
			if seen[trouble.replica] {
				t.Errorf("round %d has two troubles in one place: %v", n, a)
			}
			seen[trouble.replica] = true
			if trouble.begin > latest || trouble.end < trouble.begin || trouble.end > roundLength {
				t.Errorf("round %d: %v lasts from %v to %v", n, trouble, trouble.begin, trouble.end)
			}
		}
		for _, deeds := range a.deeds {
			if !slices.IsSortedFunc(deeds, func(a, b deed) int { return cmp.Compare(a.at, b.at) }) {
				t.Errorf("round %d: %v", n, deeds)
			}
			for _, d := range deeds {
				if d.act == "" || d.first == d.other {
					t.Errorf("round %d: %v", n, d)
				}
			}
		}
	}
}

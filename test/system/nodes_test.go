package system

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/harness"
)

// district is the rooms of one node of a Cluster: one with people in it and viewers by
// pages and streams, and one that only programs ask about.
type district struct {
	home  *household
	room  string
	quiet string // users, and nobody who looks
	rest  string // nobody in it yet

	streams []*harness.Follower
	asked   *answers
}

// answers collects what a program was answered, again and again.
type answers struct {
	mu   sync.Mutex // guards:
	list []reply
}

type reply struct {
	at            time.Time
	room, replica string
	status, users int
	stale         bool
}

func (r reply) String() string {
	return fmt.Sprintf("%s %s of %s: %d, %d users, stale %t", r.at.Format("05.000"), r.room, r.replica, r.status, r.users, r.stale)
}

// ask asks all replicas about rooms until end is closed.
func (a *answers) ask(end <-chan struct{}, programs []*harness.Program, rooms ...string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		p, room := programs[i%len(programs)], rooms[i/len(programs)%len(rooms)]
		r := reply{at: time.Now(), room: room, replica: p.URL}
		var told struct {
			Users int
			Stale bool
		}
		status, body, err := p.Call(http.MethodGet, "/rooms/"+room, "")
		if err == nil && (status != http.StatusOK || json.Unmarshal([]byte(body), &told) == nil) {
			r.status, r.users, r.stale = status, told.Users, told.Stale
		}
		a.mu.Lock()
		a.list = append(a.list, r)
		a.mu.Unlock()
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// since returns the answers since from.
func (a *answers) since(from time.Time) (list []reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.list {
		if !r.at.Before(from) {
			list = append(list, r)
		}
	}
	return list
}

// right fails the test if anybody was told a wrong number of users since from, without a
// mark.
func (d *district) right(t *testing.T, from time.Time) {
	t.Helper()
	d.home.unmoved(t, from)
	for _, r := range d.asked.since(from) {
		if (r.room == d.room || r.room == d.quiet) && r.status == http.StatusOK && !r.stale && r.users != len(d.home.members) {
			t.Errorf("a program was told %v", r)
			return
		}
	}
	for _, f := range d.streams {
		for _, kind := range []string{"snapshot", "diff"} {
			for _, e := range f.Events(from, kind) {
				if !e.Stale && e.Users != len(d.home.members) {
					t.Errorf("a stream was told of %d users at %s", e.Users, e.At.Format("05.000"))
				}
			}
		}
	}
}

// calm is right, and also fails the test if a viewer was told that the room is stale.
func (d *district) calm(t *testing.T, from time.Time) {
	t.Helper()
	d.right(t, from)
	for _, v := range d.home.all {
		always(t, v, from, d.room+" is not stale", func(s harness.Sight) bool { return !s.Stale })
	}
	for _, f := range d.streams {
		if stale := f.Events(from, "stale"); len(stale) > 0 {
			t.Errorf("a stream was told that %s is stale", d.room)
		}
	}
}

// untouched is calm, and also fails the test if a program got no answer.
func (d *district) untouched(t *testing.T, from time.Time) {
	t.Helper()
	d.calm(t, from)
	answers := d.asked.since(from)
	for _, r := range answers {
		if r.status != http.StatusOK || r.stale {
			t.Errorf("a program was told %v", r)
			return
		}
	}
	if len(answers) < 10 {
		t.Errorf("programs were told %d times", len(answers))
	}
}

// settles waits until everybody sees the right number again.
func (d *district) settles(t *testing.T, limit time.Duration) {
	t.Helper()
	d.home.exact(t, limit)
	for _, f := range d.streams {
		f.Sees(time.Second+slack, "all who are there", func(v harness.View) bool { return !v.Stale && v.Users == len(d.home.members) })
	}
}

// joins makes somebody come into a room and leave again.
func joins(t *testing.T, room, base string, limit time.Duration) {
	t.Helper()
	v := harness.Open(t, harness.Options{Room: "/rooms/" + room}, base)
	began := time.Now()
	if err := v.Join("Eve"); err != nil {
		t.Errorf("join into %s: %v", room, err)
		return
	}
	within(t, time.Since(began), limit, "a join into "+room)
	if err := v.Leave(); err != nil {
		t.Errorf("leave %s: %v", room, err)
	}
	v.Close()
}

// What is wrong with one master of a Cluster is the trouble of its rooms, and of no others.
//
//nolint:tparallel // one trouble after the other
func TestClusterNodesAreTrustedEachByItself(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	p := pace{heartbeat: 2 * time.Second, ttl: 8 * time.Second, grace: 2 * time.Second}
	c := harness.StartMasters(t)
	replicas, key := startAPI(t, 2, p, c.URL())
	programs := []*harness.Program{harness.NewProgram(t, replicas[0].URL, key), harness.NewProgram(t, replicas[1].URL, key)}
	var rooms []string
	districts := map[*redistest.Server]*district{}
	for owner, names := range c.RoomsOfEach(3) {
		districts[owner] = &district{room: names[0], quiet: names[1], rest: names[2], asked: &answers{}}
		rooms = append(rooms, names[0])
	}
	homes := newHouseholds(t, rooms, replicas)
	end := make(chan struct{})
	var asking sync.WaitGroup
	defer asking.Wait()
	defer close(end)
	for _, d := range districts {
		d.home = homes[d.room]
		for i := range d.home.members {
			programs[0].Put(d.quiet, fmt.Sprintf("u%d", i), `,"ttl":300`)
		}
		d.streams = append(d.streams, harness.Follow(t, key, d.room, "", nil, replicas[0].URL), harness.Follow(t, key, d.room, "", nil, replicas[1].URL))
		d.settles(t, time.Second)
		asking.Go(func() { d.asked.ask(end, programs, d.room, d.quiet) })
	}
	t.Run("a master is flushed", func(t *testing.T) {
		node := c.Nodes[1]
		if c.Owner("presence:epoch") == node { // one without what all share, for that matter
			node = c.Nodes[2]
		}
		from := time.Now()
		if err := node.Client(t).FlushAll(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		harness.Observe(t, p.heartbeat, "the loss is noticed, and made good")
		districts[node].settles(t, slack)
		harness.Observe(t, time.Second, "who was forgotten would be missed")
		for owner, d := range districts {
			if owner == node {
				d.right(t, from)
			} else {
				d.untouched(t, from)
			}
		}
	})
	for _, stop := range []struct {
		what        string
		begin, over func(*redistest.Server)
		has         string // a key of that master
	}{
		{"a master stands still", (*redistest.Server).Pause, (*redistest.Server).Continue, "presence:rooms"},
		{"a master is killed, and comes back empty", (*redistest.Server).Kill, (*redistest.Server).Restart, "presence:epoch"},
	} {
		t.Run(stop.what, func(t *testing.T) {
			node := c.Owner(stop.has)
			from := time.Now()
			stop.begin(node)
			for range 4 {
				for owner, d := range districts {
					if owner != node {
						joins(t, d.rest, replicas[1].URL, answered)
					}
				}
			}
			for _, v := range districts[node].home.all {
				v.Sees(6*time.Second, "stale", isStale)
			}
			for _, r := range replicas {
				if code := status(t, r.URL+"/readyz"); code != http.StatusOK {
					t.Errorf("/readyz answers %d while some nodes serve", code)
				}
				if says := text(t, r.AdminURL+"/readyz"); !strings.Contains(says, "node "+node.Addr+": ") {
					t.Errorf("/readyz of the admin listener does not say that %s is away: %q", node.Addr, says)
				}
				if says := text(t, r.AdminURL+"/metrics"); !strings.Contains(says, `presence_redis_up{node="`+node.Addr+`"} 0`) {
					t.Errorf("the metrics do not say that %s is away", node.Addr)
				}
			}
			stop.over(node)
			districts[node].settles(t, 3*p.heartbeat)
			harness.Observe(t, p.heartbeat, "who was forgotten would be missed")
			for owner, d := range districts {
				if owner == node {
					d.right(t, from)
				} else {
					d.untouched(t, from)
				}
			}
		})
	}
	t.Run("a slot moves", func(t *testing.T) {
		from := time.Now()
		moved := districts[c.Nodes[0]]
		c.Move(moved.room, c.Nodes[1], func() {
			harness.Observe(t, 300*time.Millisecond, "calls are sent to the new node, which refuses those to keys that it has not all")
		})
		c.Move(moved.quiet, c.Nodes[2], func() {})
		harness.Observe(t, p.heartbeat, "a loss would be noticed, and people missed")
		for _, d := range districts {
			if d == moved {
				d.calm(t, from)
			} else {
				d.untouched(t, from)
			}
		}
		joins(t, moved.room, replicas[0].URL, time.Second)
		moved.settles(t, time.Second)
	})
}

// text returns the body of the answer to a GET.
func text(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx,gosec // of a process of this test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"presence/internal/presence"
)

// model is the simplest program that could keep a room. The store has to agree with it.
type model struct {
	now   int // units
	conns map[string]*modelConn
	order []string // names by order of coming online
}

type modelConn struct {
	generation, name string
	deadline         int
}

// follower keeps a room by reading it from time to time.
type follower struct {
	snap  presence.Snapshot
	whole int // how often it had to read the whole room
	steps int // changes that it applied
}

// follow reads what is new, and fails unless that leads to the present room.
func (f *follower) follow(t *testing.T, s *Store, what string) {
	t.Helper()
	readings, err := s.Read(t.Context(), Have{Room: "r", Version: f.snap.Version, Birth: f.snap.Birth})
	if err != nil || readings[0].Err != nil {
		t.Fatal(what, err, readings[0].Err)
	}
	r, want := readings[0], read(t, s, "r")
	before := f.snap
	switch {
	case r.Whole:
		f.whole++
		f.snap = r.Snapshot
	case len(r.Changes) > 0:
		net := r.Changes[0]
		for i, c := range r.Changes {
			if i > 0 {
				net = net.Then(c)
			}
			f.steps++
			var ok bool
			if f.snap, ok = f.snap.Apply(c); !ok {
				t.Fatalf("%s: %+v can't be applied to %+v", what, c, f.snap)
			}
		}
		if once, ok := before.Apply(net); !ok || !same(once, f.snap) {
			t.Fatalf("%s: changes at once lead to %+v, %v, one by one to %+v", what, once, ok, f.snap)
		}
	}
	if !same(f.snap, want) {
		t.Fatalf("%s: followed from %+v by %+v to\n%+v, but the room is\n%+v", what, before, r, f.snap, want)
	}
}

// same reports whether two snapshots are equal.
func same(a, b presence.Snapshot) bool {
	return a.Occupancy == b.Occupancy && a.Birth == b.Birth && slices.Equal(a.Members, b.Members)
}

// online returns how many connections each name has.
func (m *model) online() map[string]int {
	n := map[string]int{}
	for _, c := range m.conns {
		n[c.name]++
	}
	return n
}

// settle updates the order after a change of who is online.
func (m *model) settle() {
	online := m.online()
	m.order = slices.DeleteFunc(m.order, func(name string) bool { return online[name] == 0 })
	var came []string
	for name := range online {
		if !slices.Contains(m.order, name) {
			came = append(came, name)
		}
	}
	m.order = append(m.order, came...) // changes are made one at a time: at most one came
}

// TestModel makes random changes through several replicas, some of which crash. After
// each change it compares everything in Redis with the model.
func TestModel(t *testing.T) {
	const steps, replicas = 700, 3
	each(t, func(t *testing.T, e *env) {
		seed := rand.Uint64()
		if testing.Short() {
			seed = 1
		}
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice, to be repeated by its seed
		var stores []*Store
		for range replicas {
			stores = append(stores, e.store(t, Options{}))
		}
		m := &model{conns: map[string]*modelConn{}}
		held := make([]map[string]string, replicas) // connection -> generation that the replica renews
		for i := range held {
			held[i] = map[string]string{}
		}
		often, seldom := &follower{}, &follower{}
		var version int64
		seen := fmt.Sprint([]string(nil), 0)
		for step := range steps {
			r := rnd.IntN(replicas)
			s := stores[r]
			id := fmt.Sprintf("c%d", rnd.IntN(12))
			name := fmt.Sprintf("user %d", rnd.IntN(5))
			generation := fmt.Sprintf("g%03d", rnd.IntN(1000))
			what := ""
			switch rnd.IntN(8) {
			case 0, 1:
				what = fmt.Sprintf("replica %d: join %s %s as %s", r, id, generation, name)
				join(t, s, "r", conn(id, generation, name))
				m.conns[id] = &modelConn{generation, name, m.now + 30}
				held[r][id] = generation
			case 2:
				what = "leave " + id
				if _, err := s.Leave(t.Context(), "r", id, ""); err != nil {
					t.Fatal(err)
				}
				delete(m.conns, id)
			case 3:
				generation = held[r][id]
				what = fmt.Sprintf("replica %d: release %s %q", r, id, generation)
				if generation == "" {
					continue
				}
				if err := s.Release(t.Context(), "r", id, generation); err != nil {
					t.Fatal(err)
				}
				delete(held[r], id)
				if c := m.conns[id]; c != nil && c.generation == generation {
					c.generation, c.deadline = ReleasedGeneration, m.now+10
				}
			case 4:
				what = fmt.Sprintf("replica %d: resume %s %s", r, id, generation)
				got, _, found, err := s.Resume(t.Context(), "r", id, generation)
				if err != nil {
					t.Fatal(err)
				}
				c := m.conns[id]
				if found != (c != nil) || found && got.User.Name != c.name {
					t.Fatalf("step %d, %s: %v, %v, want %v", step, what, got, found, c)
				}
				if found {
					c.generation, c.deadline = generation, m.now+30
					held[r][id] = generation
				}
			case 5:
				what = fmt.Sprintf("replica %d: heartbeat", r)
				beats := &Beats{Room: "r"}
				for id, generation := range held[r] {
					beats.Holders = append(beats.Holders, Holder{id, generation})
				}
				if len(beats.Holders) == 0 {
					continue
				}
				s.Heartbeat(t.Context(), []*Beats{beats})
				if beats.Err != nil {
					t.Fatal(beats.Err)
				}
				for i, l := range beats.Holders {
					c := m.conns[l.ID]
					mine := c != nil && c.generation == l.Generation
					if slices.Contains(beats.Lost, i) == mine {
						t.Fatalf("step %d, %s: %v lost %v, model has %v", step, what, l, beats.Lost, c)
					}
					if mine {
						c.deadline = m.now + 30
					} else {
						delete(held[r], l.ID)
					}
				}
			case 6:
				n := 1 + rnd.IntN(9)
				what = fmt.Sprintf("%d units pass, replica %d sweeps", n, r)
				e.advance(n)
				m.now += n
				if swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]; swept.Err != nil {
					t.Fatal(swept.Err)
				}
				for id, c := range m.conns {
					if c.deadline <= m.now {
						delete(m.conns, id)
					}
				}
			case 7:
				if rnd.IntN(4) > 0 {
					continue
				}
				what = fmt.Sprintf("replica %d crashes", r)
				clear(held[r])
			}
			m.settle()
			often.follow(t, s, fmt.Sprintf("seed %d, step %d, %s", seed, step, what))
			if rnd.IntN(10) == 0 {
				seldom.follow(t, s, fmt.Sprintf("seed %d, step %d, %s", seed, step, what))
			}
			version, seen = m.compare(t, e, s, fmt.Sprintf("seed %d, step %d, %s", seed, step, what), version, seen)
		}
		if often.steps < steps/10 || often.whole > steps/10 || seldom.steps < often.steps/2 {
			t.Errorf("of %d steps the followers applied %+v and %+v", steps, often, seldom)
		}
	})
}

// compare fails unless all keys of the room agree with the model, and the version has
// risen exactly if something changed that people see. It returns both.
func (m *model) compare(t *testing.T, e *env, s *Store, what string, version int64, seen string) (int64, string) {
	t.Helper()
	ctx := t.Context()
	online := m.online()
	snap := read(t, s, "r")
	var roster []string
	for _, member := range snap.Members {
		roster = append(roster, member.Name)
		if member.Connections != online[member.Name] {
			t.Fatalf("%s: %s has %d connections, want %d", what, member.Name, member.Connections, online[member.Name])
		}
	}
	if !slices.Equal(roster, m.order) {
		t.Fatalf("%s: roster %v, want %v", what, roster, m.order)
	}
	users := must(e.admin.SMembers(ctx, s.keys.online("r")).Result())
	if len(users) != len(online) || snap.Users != len(online) {
		t.Fatalf("%s: online %v, want %v", what, users, online)
	}
	if n := must(e.admin.HLen(ctx, s.keys.users("r")).Result()); int(n) != len(online) {
		t.Fatalf("%s: %d users known, want %d", what, n, len(online))
	}
	refs := must(e.admin.HGetAll(ctx, s.keys.refs("r")).Result())
	for name, n := range online {
		id := user(name).ID
		if !slices.Contains(users, id) {
			t.Fatalf("%s: %s is not online", what, name)
		}
		if want := strconv.Itoa(n); n > 1 && refs[id] != want {
			t.Fatalf("%s: refs of %s = %q, want %s", what, name, refs[id], want)
		}
		if n > 1 {
			delete(refs, id)
		}
	}
	if len(refs) > 0 {
		t.Fatalf("%s: refs left: %v", what, refs)
	}
	beats := must(e.admin.ZRange(ctx, s.keys.beats("r"), 0, -1).Result())
	conns := must(e.admin.HGetAll(ctx, s.keys.conns("r")).Result())
	if len(beats) != len(m.conns) || len(conns) != len(m.conns) {
		t.Fatalf("%s: %d beats, %d conns, want %d", what, len(beats), len(conns), len(m.conns))
	}
	for id, c := range m.conns {
		if want := c.generation + user(c.name).ID; conns[id] != want {
			t.Fatalf("%s: conns[%s] = %q, want %q", what, id, conns[id], want)
		}
		if !slices.Contains(beats, id+c.generation) {
			t.Fatalf("%s: %s%s has no deadline in %v", what, id, c.generation, beats)
		}
	}
	now := fmt.Sprint(m.order, len(m.conns))
	switch v := snap.Version; {
	case now != seen && v <= version:
		t.Fatalf("%s: version %d after %d though %s became %s", what, v, version, seen, now)
	case now == seen && v != version && v != 0 && !strings.Contains(what, ": join "):
		t.Fatalf("%s: version %d after %d though nothing changed", what, v, version)
	}
	return snap.Version, now
}

// TestLogLeadsFromEachVersionToTheNext follows rooms of all sizes by their logs.
// Meanwhile users come, rename themselves, change metadata, open and close connections
// and leave, one by one and many at once, and data are lost.
func TestLogLeadsFromEachVersionToTheNext(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice, to be repeated by its seed
		s := e.store(t, Options{})
		ctx := t.Context()
		f := &follower{}
		for step := range 300 {
			what := fmt.Sprintf("seed %d, step %d", seed, step)
			name := fmt.Sprintf("user %d", rnd.IntN(400))
			id := fmt.Sprintf("c%d", rnd.IntN(500))
			switch rnd.IntN(9) {
			case 0, 1:
				c := conn(id, "~abc", name)
				c.User.Name, c.User.Meta = fmt.Sprint("name ", rnd.IntN(3)), []string{"", `{"a":1}`, `{"b":"c d"}`}[rnd.IntN(3)]
				must(s.Put(ctx, "r", Wanted{Connection: c, TTL: 30 * e.unit, SetName: rnd.IntN(2) == 0, SetMeta: rnd.IntN(2) == 0}))
			case 2:
				found, _, ok, err := s.Find(ctx, "r", id)
				if err != nil {
					t.Fatal(what, err)
				}
				to := found.User
				to.Name = fmt.Sprint("renamed ", step)
				_, _, err = s.Update(ctx, "r", id, found.User, to)
				if ok != (err == nil) || !ok && !errors.Is(err, presence.ErrNotPresent) {
					t.Fatal(what, ok, err)
				}
				if ok {
					if _, _, err := s.Update(ctx, "r", id, found.User, found.User); !errors.Is(err, presence.ErrConflict) {
						t.Fatalf("%s: an update from what was: %v", what, err)
					}
				}
			case 3, 4, 5:
				var many []Lost
				for range 1 + rnd.IntN(60) {
					n := rnd.IntN(500)
					many = append(many, Lost{Connection: conn(fmt.Sprintf("c%d", n), "g000", fmt.Sprintf("user %d", n*4/5))})
				}
				s.Restore(ctx, "r", many)
			case 6:
				for range 1 + rnd.IntN(80) {
					must(s.Leave(ctx, "r", fmt.Sprintf("c%d", rnd.IntN(500)), ""))
				}
			case 7:
				e.advance(rnd.IntN(12))
				s.Sweep(ctx, []string{"r"}, Terms{})
			case 8:
				switch rnd.IntN(12) {
				case 0:
					e.admin.FlushAll(ctx)
				case 1:
					e.admin.Del(ctx, s.keys.log("r"))
				}
			}
			f.mayReadWhole(t, s, what)
		}
		if f.steps < 50 {
			t.Errorf("only %d changes were followed, %d times the whole room", f.steps, f.whole)
		}
	})
}

// mayReadWhole is follow, but reads the whole room if the changes do not lead to it. That
// can happen in large rooms and after a loss.
func (f *follower) mayReadWhole(t *testing.T, s *Store, what string) {
	t.Helper()
	readings, err := s.Read(t.Context(), Have{Room: "r", Version: f.snap.Version, Birth: f.snap.Birth})
	if err != nil || readings[0].Err != nil {
		t.Fatal(what, err, readings[0].Err)
	}
	r, want, ok := readings[0], read(t, s, "r"), true
	for _, c := range r.Changes {
		before := f.snap
		if f.snap, ok = f.snap.Apply(c); !ok {
			if before.Complete() && c.Users <= presence.ListSize && !c.Unnamed {
				t.Fatalf("%s: %+v can't be applied to %+v", what, c, before)
			}
			break
		}
		f.steps++
	}
	if r.Whole || !ok {
		f.whole++
		f.snap = want
	}
	if !same(f.snap, want) {
		t.Fatalf("%s: followed by %+v to\n%+v, but the room is\n%+v", what, r, f.snap, want)
	}
}

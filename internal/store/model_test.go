package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// model is what the store has to agree with: the plainest program that could
// keep a room.
type model struct {
	now   int // units
	conns map[string]*modelConn
	order []string // names by order of coming online
}

type modelConn struct {
	generation, name string
	deadline         int
}

// online is how many connections each name has.
func (m *model) online() map[string]int {
	n := map[string]int{}
	for _, c := range m.conns {
		n[c.name]++
	}
	return n
}

// settle brings the order in line with who is online after a change.
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

// TestModel makes random changes through several replicas, of which some crash,
// and compares all that Redis holds with the model after each.
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
				user, found, err := s.Resume(t.Context(), "r", id, generation)
				if err != nil {
					t.Fatal(err)
				}
				c := m.conns[id]
				if found != (c != nil) || found && user.Name != c.name {
					t.Fatalf("step %d, %s: %v, %v, want %v", step, what, user, found, c)
				}
				if found {
					c.generation, c.deadline = generation, m.now+30
					held[r][id] = generation
				}
			case 5:
				what = fmt.Sprintf("replica %d: heartbeat", r)
				beats := &Beats{Room: "r"}
				for id, generation := range held[r] {
					beats.Leases = append(beats.Leases, Lease{id, generation})
				}
				if len(beats.Leases) == 0 {
					continue
				}
				s.Heartbeat(t.Context(), []*Beats{beats})
				if beats.Err != nil {
					t.Fatal(beats.Err)
				}
				for i, l := range beats.Leases {
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
				if swept := s.Sweep(t.Context(), []string{"r"}, NotHeld, 0)[0]; swept.Err != nil {
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
			version, seen = m.compare(t, e, s, fmt.Sprintf("seed %d, step %d, %s", seed, step, what), version, seen)
		}
	})
}

// compare fails unless all keys of the room agree with the model, and the
// version rose exactly if what people see changed. It returns both.
func (m *model) compare(t *testing.T, e *env, s *Store, what string, version int64, seen string) (int64, string) {
	t.Helper()
	ctx := t.Context()
	online := m.online()
	snaps, _, err := s.Snapshots(ctx, "r")
	if err != nil {
		t.Fatal(err)
	}
	var roster []string
	for _, u := range snaps[0].Roster {
		roster = append(roster, u.Name)
	}
	if !slices.Equal(roster, m.order) {
		t.Fatalf("%s: roster %v, want %v", what, roster, m.order)
	}
	users := must(e.admin.SMembers(ctx, s.keys.online("r")).Result())
	if len(users) != len(online) || snaps[0].Users != len(online) {
		t.Fatalf("%s: online %v, want %v", what, users, online)
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
		if want := c.generation + " " + user(c.name).ID + " " + c.name; conns[id] != want {
			t.Fatalf("%s: conns[%s] = %q, want %q", what, id, conns[id], want)
		}
		if !slices.Contains(beats, id+c.generation) {
			t.Fatalf("%s: %s%s has no deadline in %v", what, id, c.generation, beats)
		}
	}
	now := fmt.Sprint(m.order, len(m.conns))
	switch v := snaps[0].Version; {
	case now != seen && v <= version:
		t.Fatalf("%s: version %d after %d though %s became %s", what, v, version, seen, now)
	case now == seen && v != version && v != 0 && !strings.Contains(what, ": join "):
		t.Fatalf("%s: version %d after %d though nothing changed", what, v, version)
	}
	return snaps[0].Version, now
}

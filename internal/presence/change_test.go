package presence_test

import (
	"fmt"
	"slices"
	"testing"

	"presence/internal/presence"
)

// place is a room as a test thinks of it, and the change that the last step was.
type place struct {
	members map[string]presence.Member
	version int64
}

func (p *place) snapshot() presence.Snapshot {
	s := presence.Snapshot{Birth: "b", Occupancy: presence.Occupancy{Users: len(p.members), Version: p.version}}
	for _, m := range p.members {
		s.Connections += m.Connections
		s.Members = append(s.Members, m)
	}
	slices.SortFunc(s.Members, presence.Member.Compare)
	return s
}

// step makes the change that a byte stands for.
func (p *place) step(b byte) presence.Change {
	c := presence.Change{Prev: p.version}
	p.version += 10
	id := fmt.Sprint("u", b%8)
	m, there := p.members[id]
	switch {
	case !there:
		m = presence.Member{User: presence.User{ID: id, Name: "n", Since: p.version}, Connections: 1}
		c.Joined = append(c.Joined, m)
		p.members[id] = m
	case b/8%3 == 0:
		c.Left = append(c.Left, presence.Left{User: id, Reason: presence.ReasonLeft})
		delete(p.members, id)
	default:
		m.Connections = 1 + int(b)%5
		m.Name = fmt.Sprint("n", b)
		c.Updated = append(c.Updated, m)
		p.members[id] = m
	}
	c.Occupancy = p.snapshot().Occupancy
	return c
}

// FuzzApply holds: changes applied one by one, or at once, lead to the room as it is.
func FuzzApply(f *testing.F) {
	f.Add([]byte{1, 2, 3, 1, 1, 2, 255, 9, 17, 25}, 3)
	f.Fuzz(func(t *testing.T, steps []byte, from int) {
		if len(steps) > 200 || from < 0 || from > len(steps) {
			return
		}
		p := &place{members: map[string]presence.Member{}}
		one := p.snapshot()
		var before presence.Snapshot
		var net presence.Change
		for i, b := range steps {
			if i == from {
				before = p.snapshot()
			}
			c := p.step(b)
			var ok bool
			if one, ok = one.Apply(c); !ok {
				t.Fatalf("step %d: %+v not applied", i, c)
			}
			switch {
			case i == from:
				net = c
			case i > from:
				net = net.Then(c)
			}
		}
		want := fmt.Sprint(p.snapshot())
		if fmt.Sprint(one) != want {
			t.Fatalf("one by one: %v, want %v", one, want)
		}
		if from < len(steps) {
			if at, ok := before.Apply(net); !ok || fmt.Sprint(at) != want {
				t.Fatalf("at once from %v by %+v: %v, %v, want %v", before, net, at, ok, want)
			}
		}
	})
}

func TestNetChangeOfOneUser(t *testing.T) {
	ann := func(name string) []presence.Member {
		return []presence.Member{{User: presence.User{ID: "ann", Name: name}, Connections: 1}}
	}
	left := []presence.Left{{User: "ann", Reason: presence.ReasonLeft}}
	join, rename, leave := presence.Change{Joined: ann("Ann")}, presence.Change{Updated: ann("Anna")}, presence.Change{Left: left}
	tests := map[string]struct {
		steps []presence.Change
		want  presence.Change
	}{
		"join, then leave":           {[]presence.Change{join, leave}, presence.Change{}},
		"leave, then join":           {[]presence.Change{leave, join}, presence.Change{Updated: ann("Ann")}},
		"join, then update":          {[]presence.Change{join, rename}, presence.Change{Joined: ann("Anna")}},
		"update, then leave":         {[]presence.Change{rename, leave}, presence.Change{Left: left}},
		"leave, join, leave":         {[]presence.Change{leave, join, leave}, presence.Change{Left: left}},
		"join, leave, join":          {[]presence.Change{join, leave, join}, presence.Change{Joined: ann("Ann")}},
		"anything, then not all":     {[]presence.Change{join, {Unnamed: true}}, presence.Change{Joined: ann("Ann"), Unnamed: true}},
		"leave, then update of them": {[]presence.Change{leave, join, rename}, presence.Change{Updated: ann("Anna")}},
	}
	for name, test := range tests {
		net := test.steps[0]
		for _, c := range test.steps[1:] {
			net = net.Then(c)
		}
		if fmt.Sprint(net) != fmt.Sprint(test.want) {
			t.Errorf("%s: %+v, want %+v", name, net, test.want)
		}
	}
}

func TestChangesThatCantBeApplied(t *testing.T) {
	big := presence.Snapshot{Occupancy: presence.Occupancy{Users: 300, Version: 5}}
	for i := range presence.ListSize {
		big.Members = append(big.Members, presence.Member{User: presence.User{ID: fmt.Sprintf("%03d", i), Since: int64(i + 1)}, Connections: 1})
	}
	next := func(users int) presence.Occupancy { return presence.Occupancy{Users: users, Version: 6} }
	member := func(id string, since int64) []presence.Member {
		return []presence.Member{{User: presence.User{ID: id, Since: since}, Connections: 1}}
	}
	tests := map[string]struct {
		change presence.Change
		ok     bool
	}{
		"from another version":             {presence.Change{Prev: 4, Occupancy: next(300)}, false},
		"one that names not all":           {presence.Change{Prev: 5, Occupancy: next(300), Unnamed: true}, false},
		"somebody listed leaves":           {presence.Change{Prev: 5, Occupancy: next(299), Left: []presence.Left{{User: "007"}}}, false},
		"somebody unlisted leaves":         {presence.Change{Prev: 5, Occupancy: next(299), Left: []presence.Left{{User: "x"}}}, true},
		"somebody comes":                   {presence.Change{Prev: 5, Occupancy: next(301), Joined: member("x", 1000)}, true},
		"somebody comes back to the list":  {presence.Change{Prev: 5, Occupancy: next(301), Joined: member("x", 3)}, false},
		"somebody listed came again":       {presence.Change{Prev: 5, Occupancy: next(300), Updated: member("007", 1000)}, false},
		"somebody listed has another name": {presence.Change{Prev: 5, Occupancy: next(300), Updated: member("007", 8)}, true},
	}
	for name, test := range tests {
		if got, ok := big.Apply(test.change); ok != test.ok || ok && (got.Users != test.change.Users || len(got.Members) != presence.ListSize) {
			t.Errorf("%s: %d users, %d listed, %v", name, got.Users, len(got.Members), ok)
		}
	}
}

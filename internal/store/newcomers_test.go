package store

import (
	"fmt"
	"slices"
	"testing"

	"presence/internal/presence"
)

// TestNewcomersComeInLikeOthers makes new users join two rooms: one by themselves, which
// takes the short way of the script, and the other together with a user who is there
// already. Afterwards Redis has the same data about them in both rooms.
func TestNewcomersComeInLikeOthers(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		for _, size := range []struct{ before, come int }{{1, 1}, {1, 64}, {1, 65}, {250, 20}, {300, 1}, {300, 65}} {
			what := fmt.Sprintf("%d come to %d", size.come, size.before)
			rooms := []string{fmt.Sprintf("short-%d-%d", size.before, size.come), fmt.Sprintf("long-%d-%d", size.before, size.come)}
			var seen [2][]string
			for i, room := range rooms {
				var there []Lost
				for n := range size.before {
					there = append(there, Lost{Connection: conn(fmt.Sprintf("old%d", n), "gen1", fmt.Sprintf("old %d", n))})
				}
				if _, errs := s.Restore(t.Context(), room, there); slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
					t.Fatal(what, errs)
				}
				from := read(t, s, room)
				var ops []*op
				for n := range size.come {
					c := conn(fmt.Sprintf("new%d", n), "gen1", fmt.Sprintf("new %d", n))
					if n%3 == 0 {
						c.User.Meta = `{"a":1}`
					}
					ops = append(ops, &op{kind: opJoin, room: room, conn: c, former: anyone})
				}
				if i == 1 {
					ops = append(ops, &op{kind: opJoin, room: room, conn: there[0].Connection, former: anyone})
				}
				call := s.joinCall("join", ops)
				s.run(t.Context(), call)
				results := make([]result, len(ops))
				s.joined(call, "join", results)
				var text []string
				for n, r := range results[:size.come] {
					if r.err != nil || n > 0 && r.held.Connection.User.Since <= results[n-1].held.Connection.User.Since {
						t.Fatal(what, n, r.err, r.held.Connection.User.Since)
					}
					text = append(text, fmt.Sprint(r.held.Users, r.held.Connections))
				}
				now := read(t, s, room)
				reading := must(s.Read(t.Context(), Have{Room: room, Version: from.Version, Birth: from.Birth}))[0]
				text = append(text, fmt.Sprint(now.Users, now.Connections, reading.Whole, names(now.Members)))
				for _, change := range reading.Changes {
					after, ok := from.Apply(change)
					text = append(text, fmt.Sprint(ok, same(after, now), change.Users, change.Connections))
				}
				for n := range size.come {
					found, connections, ok, err := s.Find(t.Context(), room, ops[n].conn.ID)
					if err != nil || found.User.Since != results[n].held.Connection.User.Since {
						t.Fatal(what, found, err)
					}
					found.User.Since = 0
					text = append(text, fmt.Sprint(found, connections, ok))
				}
				for _, key := range s.keys.room(room) {
					if key != s.keys.log(room) && key != s.keys.refs(room) && e.admin.PTTL(t.Context(), key).Val() <= 0 {
						t.Errorf("%s: %s lives for ever", what, key)
					}
				}
				beats := &Beats{Room: room}
				for _, o := range ops {
					beats.Holders = append(beats.Holders, Holder{ID: o.conn.ID, Generation: o.conn.Generation})
				}
				if s.Heartbeat(t.Context(), []*Beats{beats}); beats.Err != nil || len(beats.Lost) > 0 {
					t.Error(what, beats.Lost, beats.Err)
				}
				seen[i] = text
			}
			if !slices.Equal(seen[0], seen[1]) {
				t.Errorf("%s: the short way leads to\n%q\nand the long way to\n%q", what, seen[0], seen[1])
			}
		}
	})
}

// names lists the names of members in order.
func names(members []presence.Member) (list []string) {
	for _, m := range members {
		list = append(list, m.Name+" "+m.Meta)
	}
	return list
}

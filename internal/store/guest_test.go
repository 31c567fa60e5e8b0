package store

import (
	"encoding/json"
	"strings"
	"testing"

	"presence/internal/presence"
)

// A guest stays a guest from joining to leaving, whatever programs say about the user,
// and also when Redis loses the room. Nobody else is a guest.
func TestGuestsAreGuestsUntilTheyLeave(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		guest := conn("c1", "gen1", "Ann")
		guest.User.Guest = true
		join(t, s, "lobby", guest)
		join(t, s, "lobby", conn("c2", "gen1", "Ben"))
		is := func(when, meta string) {
			t.Helper()
			ann, ben := read(t, s, "lobby").Members[0], read(t, s, "lobby").Members[1]
			if !ann.Guest || ann.Meta != meta || ann.Name == "" || ben.Guest || ben.Meta != "" {
				t.Errorf("%s: %+v, %+v", when, ann, ben)
			}
			value := must(e.admin.HGet(t.Context(), s.keys.users("lobby"), ann.ID).Result())
			if _, data, _ := strings.Cut(value, "\n"); !json.Valid([]byte(data)) {
				t.Errorf("%s: %q is no JSON to a replica that knows no guests", when, data)
			}
		}
		is("joined", "")
		first := read(t, s, "lobby")

		program := conn("c3", "~en1", "Ann B.")
		program.User.ID, program.User.Meta = guest.User.ID, `{"a":1}`
		must(s.Put(t.Context(), "lobby", Wanted{Connection: program, TTL: e.unit * 30}))
		is("put without a name", "")
		must(s.Put(t.Context(), "lobby", Wanted{Connection: program, TTL: e.unit * 30, SetName: true, SetMeta: true}))
		is("put", `{"a":1}`)
		join(t, s, "lobby", guest)
		is("joined again", `{"a":1}`)
		was := read(t, s, "lobby").Members[0].User
		to := was
		to.Name, to.Meta = "Anna", `{"b":2}`
		if member, _, err := s.Update(t.Context(), "lobby", "c1", was, to); err != nil || !member.Guest {
			t.Errorf("update: %+v, %v", member, err)
		}
		is("updated", `{"b":2}`)
		program.User.Meta = ""
		must(s.Put(t.Context(), "lobby", Wanted{Connection: program, TTL: e.unit * 30, SetMeta: true}))
		is("put without metadata", "")
		if held, _, found, err := s.Resume(t.Context(), "lobby", "c1", "gen2"); err != nil || !found || !held.User.Guest || held.User.Meta != "" {
			t.Errorf("resume: %+v, %v, %v", held, found, err)
		}
		changes, _, told, err := s.Changes(t.Context(), "lobby", first.Version, 100)
		if err != nil || !told || len(changes) == 0 {
			t.Fatalf("changes: %+v, %v, %v", changes, told, err)
		}
		for _, c := range changes {
			for _, m := range c.Updated {
				if m.Guest != (m.ID == guest.User.ID) {
					t.Errorf("the log has %+v", m)
				}
			}
		}

		members := read(t, s, "lobby").Members
		must(e.admin.FlushAll(t.Context()).Result())
		var lost []Lost
		for i, m := range members {
			lost = append(lost, Lost{Connection: presence.Connection{ID: guest.ID + string(rune('a'+i)), Generation: "gen3", User: m.User}})
		}
		if _, errs := s.Restore(t.Context(), "lobby", lost); errs[0] != nil || errs[1] != nil {
			t.Fatal(errs)
		}
		is("put back", "")
	})
}

package controller

import (
	"presence/internal/live"
	"presence/internal/replica"
)

// Samples are states from which [live] finds out what on the page of a room is shared
// by all, and what is the visitor's own.
func Samples() live.Samples {
	ann, ben := Row{ID: "id-of-ann", Name: "Ann"}, Row{ID: "id-of-ben", Name: "Ben"}
	base := PresenceState{Room: "lobby", Known: true, Users: 1, Connections: 1, Roster: []Row{ann}}
	state := func(change func(*PresenceState)) PresenceState {
		next := base
		change(&next)
		return next
	}
	return live.Samples{
		State: func(view replica.View) any { return PresenceState{}.Shows(view) },
		Base:  base,
		Shared: []any{
			state(func(s *PresenceState) { s.Known = false }),
			state(func(s *PresenceState) { s.Stale = true }),
			state(func(s *PresenceState) { s.Connections = 2 }),
			state(func(s *PresenceState) { s.Roster = []Row{ann, ben} }),
			state(func(s *PresenceState) { s.Roster = nil }),
			state(func(s *PresenceState) { s.More = 1 }),
			state(func(s *PresenceState) { s.Users = live.SampleUsers }),
		},
		Own:     state(func(s *PresenceState) { s.Joined, s.Username, s.UserID = true, "Ann", ann.ID }),
		Flashes: map[string]string{flashNotice: "x", flashName: "x", flashTyped: "x"},
		ID:      ann.ID,
		Plain:   state(func(s *PresenceState) { s.Users, s.Connections = live.SampleUsers, live.SampleUsers }),
		Marked: state(func(s *PresenceState) {
			s.Users, s.Connections = live.SampleUsers, live.SampleUsers
			s.Roster = []Row{{ID: ann.ID, Name: ann.Name, Own: true}}
		}),
	}
}

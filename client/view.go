package client

import "slices"

// View is the state of a room, which its events keep up to date. The zero value knows
// nothing about the room.
//
//	var room client.View
//	for event, err := range c.Watch(ctx, "lobby", client.WatchOptions{}) {
//		if err != nil {
//			return err
//		}
//		room.Apply(event)
//	}
type View struct {
	// Occupancy has the numbers after the last event. After a diff AsOf is zero: the diff
	// was current when it arrived.
	Occupancy

	// Known reports whether anything is known.
	Known bool

	// Complete reports whether Members are all members. They are not in a room of more than
	// 256 users. A stream of counts brings none.
	Complete bool

	// Members are in the order of Since. Callers must not change them.
	Members []Member
}

// Apply brings v up to date by the next event of its room. It ignores diffs before the
// first snapshot.
func (v *View) Apply(e Event) {
	switch e.Kind {
	case KindSnapshot, KindCount:
		v.Known, v.Complete, v.Members = true, e.Complete, e.Members
		v.Occupancy = Occupancy{e.Room, e.Users, e.Connections, e.Version, e.Stale, e.AsOf}
	case KindDiff:
		if v.Complete {
			v.Members = v.after(e)
			v.Occupancy = Occupancy{Room: e.Room, Users: e.Users, Connections: e.Connections, Version: e.Version}
		}
	case KindStale:
		v.Room, v.Stale = e.Room, true
		if e.Version != 0 {
			v.AsOf = e.AsOf
		}
	case KindMode: // a snapshot or count follows
	}
}

// after returns the members after a diff, in a new list: callers may still read the old one.
func (v *View) after(e Event) []Member {
	members := make([]Member, 0, len(v.Members)+len(e.Joins))
	for _, m := range v.Members {
		if slices.ContainsFunc(e.Leaves, func(l Leave) bool { return l.User == m.User }) {
			continue
		}
		if at := slices.IndexFunc(e.Updates, func(u Member) bool { return u.User == m.User }); at >= 0 {
			m = e.Updates[at]
		}
		members = append(members, m)
	}
	members = append(members, e.Joins...)
	// A user who left and came back meanwhile is among the updates, with another Since.
	slices.SortStableFunc(members, func(a, b Member) int { return a.Since.Compare(b.Since) })
	return members
}

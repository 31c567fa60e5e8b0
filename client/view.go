package client

import "slices"

// View is the state of a room, which its events keep up to date. The zero value is a room
// of which nothing is known.
//
//	var room client.View
//	for event, err := range c.Watch(ctx, "lobby", client.WatchOptions{}) {
//		if err != nil {
//			return err
//		}
//		room.Apply(event)
//	}
type View struct {
	// Occupancy are the numbers at the last event. AsOf is zero after a diff, which is of
	// the moment when it came.
	Occupancy

	// Known reports whether anything is known.
	Known bool

	// Complete reports whether Members are all members. In a room of more than 256 users
	// they are not, and by a stream of counts there are none.
	Complete bool

	// Members are in order of joining, as far as Since tells. They are not to be changed.
	Members []Member
}

// Apply brings v up to date by the next event of its room. A diff is ignored as long as
// nothing is known that it could be applied to.
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
	case KindMode: // a snapshot or count says what is true then
	}
}

// after returns the members after a diff, in a list of its own: callers may still read
// the former.
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
	// One who left and came back meanwhile is among the updates, with another Since.
	slices.SortStableFunc(members, func(a, b Member) int { return a.Since.Compare(b.Since) })
	return members
}

package presence

import (
	"cmp"
	"slices"
)

// Reason is why a user is no longer in a room.
type Reason string

// The reasons.
const (
	// ReasonLeft: the user said so, or joined as another user.
	ReasonLeft Reason = "left"

	// ReasonClosed: the last socket or stream ended, and the grace passed.
	ReasonClosed Reason = "closed"

	// ReasonTimeout: nobody renewed the lease, since a replica was killed or a
	// program stopped asking.
	ReasonTimeout Reason = "timeout"

	// ReasonRemoved: a backend removed the user.
	ReasonRemoved Reason = "removed"
)

// Left is a user who is no longer there.
type Left struct {
	User   string // the id
	Reason Reason
}

// Change leads from one version of a room to a later one. No user is in it twice.
type Change struct {
	// Prev is the version before the change.
	Prev int64

	// Occupancy is the room's afterwards, with the version that it leads to.
	Occupancy

	// Joined are users who came, Updated users whose name, metadata or number of
	// connections changed, and Left users who left.
	Joined, Updated []Member
	Left            []Left

	// Unnamed says that not all of these users are listed: the whole room has to be
	// read.
	Unnamed bool
}

// Snapshot is a room at one version: the numbers, and the first members.
type Snapshot struct {
	Occupancy

	// Birth stays the same as long as Redis has the room's data. Only versions with the
	// same birth can be compared. "" stands for a room that is not there.
	Birth string

	// Members are the first members by [Member.Compare], at most [ListSize] of them.
	Members []Member
}

// Complete reports whether all members are listed.
func (s Snapshot) Complete() bool { return len(s.Members) == s.Users }

// Roster lists the members whose names are shown: the first [RosterSize].
func (s Snapshot) Roster() []Member { return s.Members[:min(len(s.Members), RosterSize)] }

// Compare orders members as a roster lists them: by when they came.
func (m Member) Compare(other Member) int {
	return cmp.Or(cmp.Compare(m.Since, other.Since), cmp.Compare(m.ID, other.ID))
}

// Apply returns the room after c, and true. It returns false if c begins at another
// version, if c does not list all its users, or if s does not list all members and the
// listed members may be others after c. s is not modified.
func (s Snapshot) Apply(c Change) (Snapshot, bool) {
	if c.Unnamed || c.Prev != s.Version {
		return s, false
	}
	changed := make(map[string]bool, len(c.Left)+len(c.Updated)+len(c.Joined))
	for _, l := range c.Left {
		changed[l.User] = true
	}
	updated := make(map[string]Member, len(c.Updated))
	for _, m := range c.Updated {
		updated[m.ID] = m
	}
	complete := s.Complete()
	next := Snapshot{Occupancy: c.Occupancy, Birth: s.Birth, Members: make([]Member, 0, len(s.Members)+len(c.Joined))}
	for _, m := range s.Members {
		if u, ok := updated[m.ID]; ok {
			if delete(updated, m.ID); u.Since != m.Since && !complete {
				return s, false
			}
			m = u
		}
		if !changed[m.ID] {
			next.Members = append(next.Members, m)
		}
	}
	switch {
	case complete:
		if len(updated) > 0 {
			return s, false // users who are not there can't change
		}
		next.Members = append(next.Members, c.Joined...)
	case len(next.Members) < ListSize:
		return s, false
	default:
		for _, m := range c.Joined {
			if m.Compare(next.Members[ListSize-1]) < 0 {
				return s, false
			}
		}
	}
	slices.SortFunc(next.Members, Member.Compare)
	if len(next.Members) > ListSize {
		next.Members = next.Members[:ListSize:ListSize]
	}
	return next, len(next.Members) == min(next.Users, ListSize)
}

// Then returns the change from the beginning of c to the end of next, which must begin
// where c ends: join then leave is nothing; leave then join is an update; join then
// update is a join. It can be applied to a snapshot that lists all members.
func (c Change) Then(next Change) Change {
	type fate struct {
		was, is bool // there, before c and after next
		member  Member
		left    Left
		first   int
	}
	fates := map[string]*fate{}
	of := func(id string, was bool) *fate {
		f := fates[id]
		if f == nil {
			f = &fate{was: was, first: len(fates)}
			fates[id] = f
		}
		return f
	}
	for _, part := range []Change{c, next} {
		for _, l := range part.Left {
			f := of(l.User, true)
			f.is, f.left = false, l
		}
		for _, m := range part.Updated {
			f := of(m.ID, true)
			f.is, f.member = true, m
		}
		for _, m := range part.Joined {
			f := of(m.ID, false)
			f.is, f.member = true, m
		}
	}
	order := make([]*fate, len(fates))
	for _, f := range fates {
		order[f.first] = f
	}
	net := Change{Prev: c.Prev, Occupancy: next.Occupancy, Unnamed: c.Unnamed || next.Unnamed}
	for _, f := range order {
		switch {
		case f.was && f.is:
			net.Updated = append(net.Updated, f.member)
		case f.is:
			net.Joined = append(net.Joined, f.member)
		case f.was:
			net.Left = append(net.Left, f.left)
		}
	}
	return net
}

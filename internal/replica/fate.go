package replica

import (
	"context"
	"time"
)

// Fate is what has become of a member.
type Fate int

// The fates.
const (
	// Here: Redis has the member.
	Here Fate = iota

	// Replaced: another socket or request has the member's connection.
	Replaced

	// Ended: somebody ended the connection on purpose, here or through another replica.
	Ended

	// Missing: Redis does not have the connection. It may have lost it, or the lease ran
	// out while nobody could renew it. A sign of life puts the member back.
	Missing
)

// Fate asks Redis what has become of m, which joined at that time. A page can answer
// whether its visitor is still there, but a program can't. And a program whose connection
// was ended wants it to stay ended.
//
// While Redis is away, or lost the room and replicas still put back its members, the fate is
// not known. The same holds for a while after a stop of this process. When Redis answers again
// with its data, Here and Missing are known at once: so the member is put back before the room
// is shown again.
func (r *Replica) Fate(ctx context.Context, m *Member, joined time.Time) (Fate, error) {
	untrusted := r.Trusted(m.room)
	if untrusted != nil && !r.regaining(m.room) {
		return Missing, untrusted
	}
	steady := r.links.of(m.room).steady(joined, r.opts.MemberTTL)
	conn, _, found, err := r.store.Find(ctx, m.room, m.conn.ID)
	switch {
	case err != nil:
		r.roomFailed(ctx, m.room, err)
		return Missing, err
	case found && conn.Generation == m.conn.Generation:
		return Here, nil
	case found && untrusted != nil:
		return Missing, untrusted
	case found:
		return Replaced, nil
	case steady && r.Trusted(m.room) == nil:
		return Ended, nil
	default:
		return Missing, nil
	}
}

// regaining reports whether Redis answers again and has the data of room, and this process
// was not stopped.
func (r *Replica) regaining(room string) bool {
	return r.links.of(room).regaining() && r.losses.untilTrusted(room) <= 0 && !r.links.outdated()
}

// steady reports whether replicas could renew a lease all the time since it was taken.
// Then a lease of this ttl can't have run out.
func (l *link) steady(taken time.Time, ttl time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase != present || time.Since(l.ticked) > l.stop {
		return false
	}
	return l.heldFrom.Before(taken) || time.Since(l.heldFrom) > ttl
}

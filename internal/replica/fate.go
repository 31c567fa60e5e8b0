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
func (r *Replica) Fate(ctx context.Context, m *Member, joined time.Time) (Fate, error) {
	if err := r.Trusted(m.room); err != nil {
		return Missing, err
	}
	steady := r.links.of(m.room).steady(joined, r.opts.MemberTTL)
	conn, _, found, err := r.store.Find(ctx, m.room, m.conn.ID)
	switch {
	case err != nil:
		r.roomFailed(ctx, m.room, err)
		return Missing, err
	case found && conn.Generation == m.conn.Generation:
		return Here, nil
	case found:
		return Replaced, nil
	case steady && r.Trusted(m.room) == nil:
		return Ended, nil
	default:
		return Missing, nil
	}
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

package chaos

import (
	"fmt"
	"slices"
	"time"

	"presence/test/harness"
)

const (
	// away is for how long a tab may be without a socket and still has to count:
	// less than the grace, and than what is left of any lease.
	away = 2 * time.Second

	// prompt is when a change has to be on the screens, with room for a busy
	// machine; where messages may have been lost it is the time of a resync more.
	prompt = time.Second
)

// span is a time in which somebody has to count.
type span struct{ from, to time.Time }

// screens says what was wrong on the screens of a round: who was left out of a
// count that was not marked stale although they were connected and joined all the
// time, who was told to have left, and who was listed after they had.
func (w *world) screens(people []*person, begun time.Time, past []happened) (wrong []string) {
	r := &screening{w: w, begun: begun, until: time.Now(), past: past, names: w.names(), late: prompt}
	for _, h := range past {
		if h.replica < 0 || h.kind == stop {
			r.late = prompt + resync
		}
	}
	present := map[string]map[string][]span{} // room -> name -> when
	for _, room := range rooms {
		present[room] = map[string][]span{}
	}
	for _, p := range people {
		p.mu.Lock()
		for _, tb := range p.tabs {
			for name, spans := range r.presence(tb) {
				present[p.room][name] = append(present[p.room][name], spans...)
			}
		}
		p.mu.Unlock()
	}
	for _, p := range people {
		p.mu.Lock()
		for _, tb := range p.tabs {
			for _, shown := range r.shown(tb) {
				r.hold(tb, shown, present[p.room], people)
			}
			r.spare(tb)
		}
		p.mu.Unlock()
	}
	return r.wrong
}

// screening is one look back at a round.
type screening struct {
	w            *world
	begun, until time.Time
	past         []happened
	names        map[string]int
	late         time.Duration // until a change has to be on the screens
	wrong        []string
}

func (r *screening) say(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// screen is what somebody saw, and for how long.
type screen struct {
	harness.Sight
	from, to time.Time
}

// of lists what was on a visitor's screen while the page was live.
func (r *screening) of(v *harness.Visitor) []screen {
	var list []screen
	sights := v.Since(r.begun)
	endings := v.Endings()
	for i, s := range sights {
		if !s.Socket {
			continue
		}
		to := r.until
		if i+1 < len(sights) {
			to = sights[i+1].At
		}
		from := s.At
		if from.Before(r.begun) {
			from = r.begun
		}
		// The page says that it is reconnecting from then on, until the next sight.
		for _, e := range endings {
			if e.At.After(s.At) && e.At.Before(to) {
				to = e.At
			}
		}
		if to.After(from) {
			list = append(list, screen{Sight: s, from: from, to: to})
		}
	}
	return list
}

// disturbed returns the times in which a replica may not do its work. One that
// stood still needs some time afterwards to catch up.
func (r *screening) disturbed(replica string, catchUp time.Duration) []span {
	var list []span
	i, ok := r.names[replica]
	for _, h := range r.past {
		if !ok || h.replica != i {
			continue
		}
		s := span{h.from, h.to}
		if h.kind == stop {
			s.to = s.to.Add(catchUp)
		}
		list = append(list, s)
	}
	return list
}

// lost reports whether Redis lost its data in a time, or a moment before or after.
func (r *screening) lost(s span) bool {
	for _, h := range r.past {
		if h.losesData(r.w.cluster != nil) && h.from.Add(-heartbeat).Before(s.to) && h.to.Add(heartbeat).After(s.from) {
			return true
		}
	}
	return false
}

// presence returns when a tab has to count, by name.
func (r *screening) presence(tb *tab) map[string][]span {
	present := map[string][]span{}
	if tb.p.habit == plain {
		r.presencePlain(tb, present)
		return present
	}
	for _, v := range tb.lives {
		list := r.of(v)
		for i, s := range list {
			if !s.Joined {
				// On a socket on which the tab was joined, and did nothing since.
				if i > 0 && !tb.unknown && list[i-1].Joined && list[i-1].to.Equal(s.from) && !s.Stale && !r.broke(tb, span{list[i-1].from, s.from}) &&
					len(r.cut(span{list[i-1].from, s.from}, r.disturbed(s.Replica, resync))) == 1 {
					r.say("%v tab %d was told to have left: %v, then %v", tb.p, tb.slot, list[i-1].Sight, s.Sight)
				}
				continue
			}
			for _, part := range r.cut(span{s.from, s.to}, slices.Concat(tb.broken, r.disturbed(s.Replica, 0))) {
				if part.from.Equal(r.begun) {
					part.from = r.begun.Add(-r.late) // all screens had it when the round began
				}
				present[s.Name] = r.append(tb, present[s.Name], part)
			}
		}
	}
	return present
}

// append adds a time to a list, in one with the one before if the tab was away for
// no longer than it may be.
func (r *screening) append(tb *tab, list []span, next span) []span {
	if n := len(list); n > 0 {
		gap := span{list[n-1].to, next.from}
		if gap.to.Sub(gap.from) < away && !r.broke(tb, gap) && !r.lost(gap) {
			list[n-1].to = next.to
			return list
		}
	}
	return append(list, next)
}

// broke reports whether the visitor did something in a time that may have ended
// the presence.
func (r *screening) broke(tb *tab, s span) bool {
	return slices.ContainsFunc(tb.broken, func(b span) bool { return !b.to.Before(s.from) && !b.from.After(s.to) })
}

// cut returns what is left of a time without some others.
func (r *screening) cut(s span, others []span) []span {
	left := []span{s}
	for _, o := range others {
		var next []span
		for _, part := range left {
			if !o.from.Before(part.to) || !o.to.After(part.from) {
				next = append(next, part)
				continue
			}
			if o.from.After(part.from) {
				next = append(next, span{part.from, o.from})
			}
			if o.to.Before(part.to) {
				next = append(next, span{o.to, part.to})
			}
		}
		left = next
	}
	return left
}

// presencePlain is presence for those without JavaScript, who renew when they load
// the page. A lease that ran out while Redis stood still is theirs until they have
// had the time to do so.
func (r *screening) presencePlain(tb *tab, present map[string][]span) {
	for i, l := range tb.loads {
		if !l.renews() {
			continue
		}
		part := span{l.ended, l.begun.Add(ttl - slack)}
		for _, next := range tb.loads[i+1:] {
			if !next.renews() || next.sight.Name != l.sight.Name {
				continue
			}
			end := part.to
			for _, h := range r.past {
				if h.kind == freeze && h.from.Before(end) {
					end = h.to.Add(2 * heartbeat)
				}
			}
			// It renewed at some instant until it came.
			if next.begun.Before(end) {
				part.to = end
				if next.ended.Before(end) {
					part.to = next.ended
				}
			}
			break
		}
		if part.to.After(r.until) {
			part.to = r.until
		}
		for _, b := range tb.broken {
			if b.to.After(part.from) && b.from.Before(part.to) {
				part.to = b.from
			}
		}
		for _, h := range r.past {
			if h.losesData(r.w.cluster != nil) && h.to.After(l.begun) && h.from.Before(part.to) {
				part.to = h.from
			}
		}
		list := present[l.sight.Name]
		switch n := len(list); {
		case !part.to.After(part.from):
		case n > 0 && !list[n-1].to.Before(part.from):
			list[n-1].to = part.to
		default:
			present[l.sight.Name] = append(list, part)
		}
	}
}

// renews reports whether the page that was loaded says that the presence goes on.
func (l load) renews() bool { return l.ok && l.sight.Joined && !l.sight.Stale }

// shown lists what was on the screens of a tab and has to be right: what was not
// marked, on live pages whose replica was not disturbed.
func (r *screening) shown(tb *tab) []screen {
	var list []screen
	if tb.p.habit == plain {
		return nil
	}
	for _, v := range tb.lives {
		for _, s := range r.of(v) {
			if !s.Known || s.Stale {
				continue
			}
			for _, part := range r.cut(span{s.from, s.to}, r.disturbed(s.Replica, r.late)) {
				list = append(list, screen{s.Sight, part.from, part.to})
			}
		}
	}
	return list
}

// spare says which pages were stale though nothing was the matter with their replica, nor
// with the master of their room: each room of a Cluster has another one.
func (r *screening) spare(tb *tab) {
	if r.w.cluster == nil || tb.p.habit == plain || slices.ContainsFunc(r.past, func(h happened) bool { return h.replica < 0 && h.room == tb.p.room }) {
		return
	}
	for _, v := range tb.lives {
		for _, s := range r.of(v) {
			if s.Known && s.Stale && len(r.disturbed(s.Replica, 0)) == 0 {
				r.say("the page of %v was stale from %s to %s, though no trouble was near", tb.p, r.w.at(s.from), r.w.at(s.to))
				return
			}
		}
	}
}

// hold holds one screen against who has to be, and who must not be on it.
func (r *screening) hold(tb *tab, s screen, present map[string][]span, people []*person) {
	// The most who had to count at one instant: that is when it appeared, or when
	// somebody more had to be on it.
	instants := []time.Time{s.from}
	for _, spans := range present {
		for _, p := range spans {
			if at := p.from.Add(r.late); at.After(s.from) && at.Before(s.to) {
				instants = append(instants, at)
			}
		}
	}
	for _, at := range instants {
		var must []string
		for name, spans := range present {
			if slices.ContainsFunc(spans, func(p span) bool { return !p.from.Add(r.late).After(at) && !p.to.Before(at) }) {
				must = append(must, name)
			}
		}
		var missing []string
		if tb.p.habit == looker {
			for _, name := range must {
				if !slices.Contains(lines(s.Names), name) {
					missing = append(missing, name)
				}
			}
		}
		if s.Users < len(must) || len(missing) > 0 {
			slices.Sort(missing)
			r.say("at %s the page of %v tab %d showed, not marked stale, %v, but %d were there all the time; missing %q",
				r.w.at(at), tb.p, tb.slot, s.String(), len(must), missing)
			return
		}
	}
	if tb.p.habit != looker {
		return
	}
	for _, p := range people {
		if len(p.tabs) > 1 || p.habit == plain || p.room != tb.p.room || p.tabs[0].unknown {
			continue
		}
		for _, l := range p.tabs[0].left {
			till := l.till
			if till.IsZero() {
				till = r.until
			}
			from := l.after.Add(r.late)
			for _, h := range r.past {
				// A copy does not know of the leave: there the lease has to run out.
				lacks := h.kind == failover && r.w.cluster == nil && h.from.Before(l.after) && h.to.Add(slack).After(l.after)
				if back := h.to.Add(ttl + r.late); lacks && from.Before(back) {
					from = back
				}
			}
			if s.from.Before(till) && s.to.After(from) && from.Before(till) && slices.Contains(lines(s.Names), l.name) {
				r.say("the page of %v showed %s from %s to %s, who had left at %s", tb.p, l.name, r.w.at(s.from), r.w.at(s.to), r.w.at(l.after))
			}
		}
	}
}

package sim

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// past is the state of a room at the last look.
type past struct {
	life

	known       bool
	users       map[string]string // user -> connections, and what is stored of the user
	connections int
}

// news is a leave that a program was told of, between two versions.
type news struct {
	program    int
	room       string
	from, to   int64
	user, said string
}

// went is a leave in a room's log.
type went struct {
	version      int64
	user, reason string
}

// follow fails unless the log leads from the last look at a room to this one.
func (m *model) follow(name string, r room) {
	w := m.w
	at := slices.Index(rooms, name)
	before := m.past[at]
	now := past{life: r.life, known: true, users: map[string]string{}, connections: len(r.conns)}
	for user, n := range r.users {
		now.users[user] = strconv.Itoa(n) + " " + r.stored[user]
	}
	m.past[at] = now
	switch {
	case !before.known || r.birth == "" || before.birth != r.birth || m.damaged(name, time.Now()):
		m.left[at], m.leftFrom[at] = nil, r.version // another life
		return
	case before.version == r.version:
		if !maps.Equal(before.users, now.users) || before.connections != now.connections {
			w.fail("%s: version %d was %v, and is %v", name, r.version, before.users, now.users)
		}
		return
	}
	log := "presence:{" + name + "}:log"
	entries, _ := w.having(log).Stream(log)
	for _, entry := range entries {
		digits, _, _ := strings.Cut(entry.ID, "-")
		version, _ := strconv.ParseInt(digits, 10, 64)
		if version > before.version {
			m.apply(name, &before, version, entry.Values)
		}
	}
	if before.version != r.version || !maps.Equal(before.users, now.users) || before.connections != now.connections {
		w.fail("%s: the log leads to %d with %v, where there is %d with %v", name, before.version, before.users, r.version, now.users)
	}
}

// apply applies an entry of the log to a room.
func (m *model) apply(name string, p *past, version int64, fields []string) {
	w := m.w
	at := slices.Index(rooms, name)
	named := map[string]bool{}
	users := ""
	for i := 0; i+1 < len(fields); i += 2 {
		value := fields[i+1]
		user, rest, _ := strings.Cut(value, " ")
		_, there := p.users[user]
		switch sign := fields[i]; sign {
		case "p":
			if value != strconv.FormatInt(p.version, 10) {
				w.fail("%s: the log has a change from %s to %d, and none from %d", name, value, version, p.version)
			}
			continue
		case "u":
			users = value
			continue
		case "c":
			p.connections, _ = strconv.Atoi(value)
			continue
		case "+", "~":
			if there != (sign == "~") {
				w.fail("%s: the log of %d has %s%s, where there were %v", name, version, sign, value, p.users)
			}
			p.users[user] = rest
		case "-":
			if !there {
				w.fail("%s: %s leaves by the log of %d, and was not there: %v", name, user, version, p.users)
			}
			delete(p.users, user)
			w.note("%s: %s leaves: %s", name, user, rest)
			m.left[at] = append(m.left[at], went{version, user, rest})
			m.reason(name, user, rest)
		default:
			w.fail("%s: the log of %d has %s", name, version, sign)
		}
		if named[user] {
			w.fail("%s: the log of %d names %s twice", name, version, user)
		}
		named[user] = true
	}
	p.version = version
	if users != strconv.Itoa(len(p.users)) {
		w.fail("%s: %s users by the log of %d, which leads to %v", name, users, version, p.users)
	}
}

// reason fails unless there was such a reason for a user to leave.
func (m *model) reason(name, user, why string) {
	w := m.w
	now := time.Now()
	can, seen := map[string]bool{"removed": now.Sub(m.removals[user]) < time.Minute}, false
	for _, st := range m.seats {
		if st.room != name || user != st.session && !slices.ContainsFunc(names, func(n string) bool { return m.keys.UserID(st.session, n) == user }) {
			continue
		}
		seen = true
		can["left"] = can["left"] || now.Sub(st.asked) < time.Minute
		can["closed"] = can["closed"] || st.kind != "put"
		can["timeout"] = can["timeout"] || st.kind != "attend" || m.troubled(name, 30*time.Second)
	}
	if !can[why] && (seen || !m.troubled(name, 30*time.Second)) {
		w.fail("%s: %s left, %s; it can only be %v", name, user, why, can)
	}
}

// compareNews fails unless programs were told the reasons that the log has.
func (m *model) compareNews() {
	for _, n := range m.heard {
		at := slices.Index(rooms, n.room)
		if n.to > m.past[at].version || n.from < m.leftFrom[at] {
			continue // of another life
		}
		reason := "nothing"
		for _, l := range m.left[at] {
			if l.user == n.user && l.version > n.from && l.version <= n.to {
				reason = l.reason
			}
		}
		if reason != n.said {
			m.w.fail("program %d: %s left %s between %d and %d, %s; the log says %s", n.program, n.user, n.room, n.from, n.to, n.said, reason)
		}
	}
	m.heard = nil
}

// compareSights fails unless programs that are up to date know exactly the room.
func (m *model) compareSights(name string, r room) {
	w := m.w
	for _, p := range w.programs {
		if p.room != name || p.stream == nil || p.seen == nil || p.seen.stale || p.seen.version != r.version || m.damaged(name, time.Now()) {
			continue
		}
		if there := r.sight(); !there.same(p.seen) {
			w.fail("program %d: sees %s as %v, where there is %v", p.n, name, p.seen, there)
		}
	}
}

// sight returns the room as the API should describe it.
func (r room) sight() *sight {
	s := &sight{version: r.version, users: len(r.users), connections: len(r.conns), members: map[string]fellow{}}
	for user, n := range r.users {
		since, tail, _ := strings.Cut(r.stored[user], " ")
		name, meta, _ := strings.Cut(tail, "\n")
		meta, guest := strings.CutPrefix(meta, " ")
		if guest {
			meta = strings.TrimPrefix(meta, "{}")
		}
		us, _ := strconv.ParseInt(since, 10, 64)
		s.members[user] = fellow{user, name, guest, []byte(meta), n, time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000Z07:00")}
	}
	return s
}

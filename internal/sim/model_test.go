package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"presence/internal/presence"
)

// key returns the key of a tab for 128 random bits.
func key(b [16]byte) string { return base64.RawURLEncoding.EncodeToString(b[:]) }

// op is a join or leave that somebody asked for.
type op struct {
	seat   *seat
	action string
	target string // who is there afterwards, "" for nobody
	at     time.Time
	ended  time.Time     // without an answer
	behind time.Duration // how long others may take that come before it
	sock   *sock         // nil if by HTTP
}

// seat is a connection of a room, of which the model knows who may be there by it.
type seat struct {
	room, conn, session string

	base    map[string]bool // who may be there by what was answered, "" for nobody
	pending []*op           // not answered yet
	unclear []*op           // those that never were
	sheet   *sheet          // the page that speaks for it; nil when closed
	program *program        // or the program
	kind    string          // of that, or of the last: put or attend; "" for pages
	asked   time.Time       // when somebody asked last for what is others' leave

	going map[string]time.Time // who may still be there, until then

	// Who is there for certain, and when that was so last.
	firm     string
	firmAt   time.Time
	firmFrom time.Time
	back     time.Time // until then who is there may be missing, since a Leave was undone
}

// may reports whether name may be there now.
func (st *seat) may(name string, now time.Time) bool {
	if st.base[name] || now.Before(st.going[name]) {
		return true
	}
	return slices.ContainsFunc(st.pending, func(o *op) bool { return o.target == name })
}

// model is the shadow of the servers: it knows what must be true, given what people did.
type model struct {
	w     *world
	seats map[string]*seat // by room and connection

	secret string
	keys   presence.Keys

	trouble time.Time // the last fault of replicas, or end of one
	nodes   []state   // of Redis

	// forgotten says that Redis lost the secret when no replica could put it back:
	// the next makes another, and all browsers are strangers. A run ends with that.
	forgotten bool
	busy      time.Time // until then somebody may still be there who has gone
	looked    time.Time // at the API

	last [2]life // of each of the rooms
	low  map[string][]bound

	past     [2]past   // of each of the rooms, at the last look
	left     [2][]went // and who went, in this life of it,
	leftFrom [2]int64  // from this version on
	heard    []news
	removals map[string]time.Time // of users
	harmed   [2]time.Time         // each of the rooms, when it lost a key
}

// state is the state of a node of Redis.
type state struct {
	trouble time.Time // the last fault, or end of one
	lostAt  time.Time // its data
	down    bool
}

// life is a room from its birth to its end, and the version it has reached.
type life struct {
	birth   string
	version int64
}

// bound is the least and the greatest possible number of users at one look.
type bound struct {
	at          time.Time
	least, most int
}

func newModel(w *world) *model {
	return &model{w: w, nodes: make([]state, len(w.redis)), seats: map[string]*seat{}, low: map[string][]bound{}, removals: map[string]time.Time{}}
}

// learn gives the model the secret by which all replicas name connections, and reports
// whether there is one.
func (m *model) learn() bool {
	secret, err := m.w.having("presence:secret").Get("presence:secret")
	m.secret, m.keys = secret, presence.NewKeys([]byte(secret))
	return err == nil
}

// seat returns the seat of a page.
func (m *model) seat(s *sheet) *seat {
	tab := s.v.key
	if s.v.bare {
		tab = ""
	}
	st := m.seatOf(s.room, s.v.session(), tab)
	m.taken(st, s)
	return st
}

// seatOf returns the seat of a tab of a browser, or of the browser itself.
func (m *model) seatOf(room, session, tab string) *seat {
	return m.seatBy(room, session, m.keys.ConnectionID(session, tab))
}

// seatBy returns the seat of a connection.
func (m *model) seatBy(room, session, id string) *seat {
	st := m.seats[room+" "+id]
	if st == nil {
		st = &seat{room: room, conn: id, session: session, base: map[string]bool{"": true}, going: map[string]time.Time{}}
		m.seats[room+" "+id] = st
	}
	return st
}

// taken notes that a page speaks for a seat from now on. Users who are about to leave may
// still be there.
func (m *model) taken(st *seat, s *sheet) {
	st.sheet = s
	for name, until := range st.going {
		if s.v.bare { // its cookie puts it back
			until = until.Add(kept)
		}
		if time.Now().Before(until) {
			st.base[name] = true
		}
	}
}

// lost notes that a node loses its data now.
func (m *model) lost(node int) {
	now := time.Now()
	m.nodes[node].trouble, m.nodes[node].lostAt = now, now
}

// rewind notes that a node has older data from now on.
func (m *model) rewind(node int) {
	m.lost(node)
	for at, room := range rooms {
		if m.w.nodeOf(room) == node {
			m.last[at], m.past[at] = life{}, past{}
		}
	}
}

// of returns the state of the node that has a room.
func (m *model) of(room string) *state { return &m.nodes[m.w.nodeOf(room)] }

// troubledAt returns when there was last trouble that a room may notice.
func (m *model) troubledAt(room string) time.Time { return maxTime(m.trouble, m.of(room).trouble) }

// begin notes what somebody asks for.
func (m *model) begin(s *seat, action, name string) *op {
	o := &op{seat: s, action: action, target: name, at: time.Now()}
	s.pending = append(s.pending, o)
	s.firm, s.firmAt, s.asked = "", time.Time{}, time.Now()
	return o
}

func (o *op) end() {
	if i := slices.Index(o.seat.pending, o); i >= 0 {
		o.seat.pending = slices.Delete(o.seat.pending, i, i+1)
	}
}

// answered notes the answer to an op: it was done, or nothing has happened.
func (m *model) answered(o *op, ok bool) {
	o.end()
	m.w.note("%s %q of %.6s answered %v", o.action, o.target, o.seat.conn, ok)
	switch {
	case ok:
		o.seat.base = map[string]bool{o.target: true}
		o.seat.going = map[string]time.Time{}
		for _, other := range o.seat.unclear { // it may have come after this one
			if other.ended.After(o.at) || other.ended.Equal(o.at) {
				o.seat.base[other.target] = true
			}
		}
	default:
		if o.target != "" && m.quiet(o.seat.room) {
			m.w.fail("%s: %s of %s was refused, and nothing is the matter", o.seat.room, o.action, o.seat.speaker())
		}
		// It may have been carried out all the same, and be undone.
		until := time.Now().Add(heartbeat + settle + 4*time.Second)
		o.seat.going[o.target] = until
		if o.action == "leave" {
			o.seat.back = until
			if o.sock == nil { // the page has forgotten who is there, and so may Redis have
				o.seat.base[""] = true
			}
		}
	}
}

// unknown notes that an op will not be answered any more.
func (m *model) unknown(o *op) {
	o.end()
	o.ended = time.Now()
	o.seat.base[o.target] = true
	o.seat.unclear = append(o.seat.unclear, o)
	if o.sock == nil { // a join whose cookie never came lasts as long as its lease
		until := time.Now().Add(ttl + 2*time.Second)
		o.seat.going[o.target] = until
		m.busy = maxTime(m.busy, until)
	}
}

// closed notes that a page is closed for good.
func (m *model) closed(s *sheet, mute bool) {
	st := s.seat
	if st == nil {
		return
	}
	bound := grace + time.Second
	if s.v.bare || !s.shows.known { // only a request speaks for it
		bound = ttl + time.Second
	}
	if mute {
		bound += silence
	}
	m.end(st, bound)
}

// end notes that nobody speaks for a seat any more. Users who are there by it may stay
// for that long.
func (m *model) end(st *seat, bound time.Duration) {
	until := time.Now().Add(bound)
	for name := range st.base {
		st.going[name] = until
	}
	for _, o := range st.pending {
		st.going[o.target] = until
	}
	m.busy = maxTime(m.busy, until)
	st.base = map[string]bool{"": true}
	st.firm, st.sheet, st.program = "", nil, nil
}

// visited notes what a page without script shows that was just loaded. Who the visitor is was
// looked up when the loading began: a form that was on its way still may have changed it.
func (m *model) visited(s *sheet, began time.Time) {
	st := s.seat
	if st == nil || s.shows.stale || len(st.pending) > 0 {
		return
	}
	if n := len(st.unclear); n > 0 && st.unclear[n-1].ended.After(began) {
		return
	}
	m.settle(st, s.shows.as())
	if s.shows.joined && st.base[s.shows.name] {
		st.sure(s.shows.name)
	}
}

// settle uses what a page shows to decide the outcome of ops that nobody answered.
func (m *model) settle(st *seat, as string) {
	if st.unsettled() {
		return
	}
	if len(st.base) > 1 && st.base[as] && !m.troubled(st.room, heartbeat+2*time.Second) {
		st.base = map[string]bool{as: true}
	}
}

// unsettled reports whether an op that nobody answered may still be on its way.
func (st *seat) unsettled() bool {
	n := len(st.unclear)
	return n > 0 && time.Since(st.unclear[n-1].ended) < heartbeat
}

// sure notes that name is certainly there now.
func (st *seat) sure(name string) {
	if st.firm != name {
		st.firm, st.firmFrom = name, time.Now()
	}
	st.firmAt = time.Now()
}

// troubled reports whether there was trouble within the last d that a room may notice.
func (m *model) troubled(room string, d time.Duration) bool {
	return time.Since(m.troubledAt(room)) < d
}

// quiet reports whether the room has to be shown as it is and can be joined, because
// nothing has been wrong for long enough with its node and with all replicas. Trouble
// with other nodes does not count.
func (m *model) quiet(room string) bool {
	return !m.troubled(room, 2*(heartbeat+settle)) && !m.damaged(room, time.Now())
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// --- Looking ------------------------------------------------------------------

// room is what Redis holds of a room.
type room struct {
	conns map[string]lease // by connection
	users map[string]int   // user -> connections

	life

	stored map[string]string // user -> since when, name, metadata
}

// lease is a connection that is there.
type lease struct{ generation, user, name string }

// look compares what is seen with what may and must be seen.
func (m *model) look() {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for node := range m.nodes {
		if s := &m.nodes[node]; s.down || slices.ContainsFunc(w.procs, func(p *proc) bool { return p.cut[node] }) {
			s.trouble = now
		}
	}
	for _, p := range w.procs {
		if p.lossy || p.away || p.dead {
			m.trouble = now
		}
	}
	switch secret, _ := w.having("presence:secret").Get("presence:secret"); {
	case m.secret == "" || secret == m.secret:
	case secret != "" && m.forgotten:
		w.over = true
		return
	case secret != "":
		w.fail("the replicas share another secret")
	case !slices.ContainsFunc(w.procs, func(p *proc) bool { return p.healthy(w.node("presence:secret")) }):
		m.forgotten = true
	}
	for _, f := range w.redis {
		f.Step(0)
	}
	m.pages(now)
	m.programs(now)
	for _, name := range rooms {
		r := m.read(name)
		m.redis(name, r, now)
		m.bounds(name, now)
		m.follow(name, r)
		m.compareSights(name, r)
	}
	m.compareNews()
	if now.Sub(m.looked) >= 2*time.Second {
		m.looked = now
		m.ask(now)
	}
}

// pages notes who is certainly there, by what pages show.
func (m *model) pages(now time.Time) {
	for _, st := range m.seats {
		for _, o := range st.pending {
			if o.sock != nil && !o.sock.mute && !o.sock.closed && !o.sock.proc.away && now.Sub(o.at) > 3*time.Second+o.behind && !m.troubledAway(o) {
				m.w.fail("%s got no answer to %s for %v", st.speaker(), o.action, now.Sub(o.at))
			}
		}
		s := st.sheet
		if s != nil && s.shows.stale && m.quiet(st.room) && now.Sub(s.since) > heartbeat+time.Second {
			m.w.fail("%s: the page of %s is stale, and nothing is the matter", st.room, st.speaker())
		}
		if s == nil || s.v.bare || s.sock == nil || s.sock.mute || s.sock.unknown || s.sock.heard.IsZero() || len(st.pending) > 0 || s.shows.stale {
			continue
		}
		if now.Sub(maxTime(s.since, s.sock.heard)) < 500*time.Millisecond || !s.sock.proc.healthy(m.w.nodeOf(st.room)) {
			continue
		}
		m.settle(st, s.shows.as())
		if s.shows.joined && st.base[s.shows.name] && !st.unsettled() {
			st.sure(s.shows.name)
		}
	}
}

// troubledAway reports whether the replica that got an op was isolated meanwhile.
func (m *model) troubledAway(o *op) bool {
	return m.troubledAt(o.seat.room).After(o.at.Add(-15*time.Second)) && o.sock.proc.wasAway
}

// programs notes which programs are certainly there, by their streams.
func (m *model) programs(now time.Time) {
	for _, p := range m.w.programs {
		if p.stream != nil && p.seen != nil && p.seen.stale && m.quiet(p.room) {
			m.w.fail("%s: program %d is told that it is stale, and nothing is the matter", p.room, p.n)
		}
		if p.kind == "attend" && p.on && p.stream != nil && !p.stream.heard.IsZero() && !p.seen.stale &&
			now.Sub(p.stream.heard) >= 500*time.Millisecond && p.stream.proc.healthy(m.w.nodeOf(p.room)) {
			p.seat.base = map[string]bool{p.name(): true}
			p.seat.sure(p.name())
		}
	}
}

// must returns who must be there by a seat, and whether anybody must.
func (m *model) must(st *seat, now time.Time) (string, bool) {
	if st.firm == "" || len(st.pending) > 0 || st.sheet == nil && st.program == nil || now.Before(st.back) {
		return "", false
	}
	patience := 2 * time.Second // a reconnect, within the grace
	if st.unplugged() {
		patience = ttl - time.Second
	}
	return st.firm, now.Sub(st.firmAt) < patience
}

// unplugged reports whether only requests speak for a seat.
func (st *seat) unplugged() bool {
	return st.sheet != nil && st.sheet.v.bare || st.program != nil && st.kind == "put"
}

// reached reports whether the speaker for a seat has a connection to a replica that can
// put the seat back.
func (m *model) reached(st *seat) bool {
	node := m.w.nodeOf(st.room)
	switch {
	case st.sheet != nil:
		return st.sheet.sock != nil && st.sheet.sock.proc.healthy(node)
	case st.program != nil:
		return st.program.stream != nil && st.program.stream.proc.healthy(node)
	default:
		return false
	}
}

// speaker returns the name of the page or program that speaks for a seat.
func (st *seat) speaker() string {
	switch {
	case st.program != nil:
		return fmt.Sprint("program ", st.program.n)
	case st.sheet != nil:
		return fmt.Sprint("visitor ", st.sheet.v.n)
	default:
		return "nobody"
	}
}

// harm is how long a room that lost a key may be wrong.
const harm = heartbeat + settle + time.Second

// damaged reports whether the keys of a room may disagree because one was lost. No
// replica finds that while Redis can't be reached.
func (m *model) damaged(name string, now time.Time) bool {
	since := now.Sub(m.harmed[slices.Index(rooms, name)])
	return since < harm || since < time.Minute && m.troubled(name, harm)
}

// read reads a room from Redis, and fails unless its keys agree.
func (m *model) read(name string) room {
	prefix := "presence:{" + name + "}:"
	fake := m.w.having(prefix)
	r := room{conns: map[string]lease{}, users: map[string]int{}, stored: map[string]string{}}
	if text, _ := fake.Get(prefix + "version"); text != "" {
		digits, birth, _ := strings.Cut(text, " ")
		r.birth = birth
		r.version, _ = strconv.ParseInt(digits, 10, 64)
	}
	harmed := m.damaged(name, time.Now())
	named := map[string]string{}
	users, _ := fake.HKeys(prefix + "users")
	for _, user := range users {
		r.stored[user] = fake.HGet(prefix+"users", user)
		_, tail, _ := strings.Cut(r.stored[user], " ")
		named[user], _, _ = strings.Cut(tail, "\n") // metadata, or the mark of a guest
	}
	ids, _ := fake.HKeys(prefix + "conns")
	beats := map[string]bool{}
	for _, id := range ids {
		value := fake.HGet(prefix+"conns", id)
		if len(value) <= presence.GenerationSize {
			if harmed {
				return r
			}
			m.w.fail("%s: connection %s is %q", name, id, value)
			return r
		}
		l := lease{generation: value[:presence.GenerationSize], user: value[presence.GenerationSize:]}
		l.name = named[l.user]
		r.conns[id] = l
		r.users[l.user]++
		beats[id+l.generation] = true
	}
	if harmed {
		return r
	}
	leases, _ := fake.ZMembers(prefix + "beats")
	if len(leases) != len(beats) || slices.ContainsFunc(leases, func(l string) bool { return !beats[l] }) {
		m.w.fail("%s: leases %v do not agree with connections %v", name, leases, r.conns)
	}
	online, _ := fake.SMembers(prefix + "online")
	roster, _ := fake.ZMembers(prefix + "roster") // of a room that is no larger: everybody
	for what, list := range map[string][]string{"online": online, "users": users, "roster": roster} {
		if len(list) != len(r.users) || slices.ContainsFunc(list, func(user string) bool { return r.users[user] == 0 }) {
			m.w.fail("%s: %s has %v, which does not agree with connections %v", name, what, list, r.conns)
		}
	}
	refs, _ := fake.HKeys(prefix + "refs")
	counted := map[string]string{}
	for _, user := range refs {
		counted[user] = fake.HGet(prefix+"refs", user)
	}
	for user, n := range r.users {
		if n > 1 && counted[user] != strconv.Itoa(n) || n == 1 && counted[user] != "" {
			m.w.fail("%s: user %s has %d connections and a count of %q", name, user, n, counted[user])
		}
		delete(counted, user)
	}
	if len(counted) > 0 {
		m.w.fail("%s: counts of users who are not there: %v", name, counted)
	}
	for _, key := range []string{"conns", "beats", "online", "refs", "users", "roster", "version", "log"} {
		if fake.Exists(prefix+key) && fake.TTL(prefix+key) <= 0 {
			m.w.fail("%s: %s lives for ever", name, key)
		}
	}
	return r
}

// redis compares a room in Redis with the model.
func (m *model) redis(name string, r room, now time.Time) {
	w := m.w
	excused := m.troubled(name, ttl+ttl+settle+heartbeat+2*time.Second)
	for id, l := range r.conns {
		st := m.seats[name+" "+id]
		switch {
		case m.damaged(name, now):
		case st == nil:
			w.fail("%s: nobody speaks for connection %s: %v", name, id, l)
		case st.may(l.name, now) || excused:
		default:
			w.fail("%s: %s (%s) is there, as %s: may be %s, %v", name, l.name, id, l.generation, of(st.base), st.going)
		}
	}
	for _, st := range m.seats {
		if st.room != name {
			continue
		}
		who, must := m.must(st, now)
		if !must || m.recovering(st, now) {
			continue
		}
		if l := r.conns[st.conn]; l.name != who {
			w.fail("%s: %s (%s, %s) is not there: %v", name, who, st.speaker(), st.conn, l)
		}
	}
	last := &m.last[slices.Index(rooms, name)]
	if r.birth != "" && r.birth == last.birth && r.version < last.version {
		w.fail("%s: version %d after %d", name, r.version, last.version)
	}
	*last = r.life
}

// recovering reports whether a seat may be missing since Redis lost everything.
func (m *model) recovering(st *seat, now time.Time) bool {
	since := maxTime(m.of(st.room).lostAt, m.harmed[slices.Index(rooms, st.room)])
	if since.IsZero() {
		return false
	}
	if st.unplugged() {
		return now.Sub(since) < 2*heartbeat+settle+4*time.Second || st.firmAt.Before(since)
	}
	return now.Sub(since) < heartbeat+settle+2*time.Second || m.troubled(st.room, heartbeat+settle+2*time.Second) && now.Sub(since) < 30*time.Second
}

// of lists the names in a set.
func of(set map[string]bool) string {
	return fmt.Sprintf("%q", slices.Sorted(maps.Keys(set)))
}

// bounds notes the least and the greatest possible number of users.
func (m *model) bounds(name string, now time.Time) {
	least, most := map[string]bool{}, map[string]bool{}
	for _, st := range m.seats {
		if st.room != name {
			continue
		}
		if who, must := m.must(st, now); must && now.Sub(st.firmFrom) > time.Second && (!m.recovering(st, now) || !st.unplugged() && m.reached(st)) {
			least[st.session+who] = true
		}
		for who := range st.base {
			most[st.session+who] = who != ""
		}
		for who, until := range st.going {
			if now.Before(until) && who != "" {
				most[st.session+who] = true
			}
		}
		for _, o := range st.pending {
			if o.target != "" {
				most[st.session+o.target] = true
			}
		}
	}
	n := 0
	for _, there := range most {
		if there {
			n++
		}
	}
	list := append(m.low[name], bound{now, len(least), n})
	for len(list) > 0 && now.Sub(list[0].at) > 12*time.Second {
		list = list[1:]
	}
	m.low[name] = list
}

// occupancy is an answer of the API.
type occupancy struct {
	Users       int
	Connections int
	Version     int64
	Stale       bool
}

// occupancy asks a process about a room. It returns false if the process knows nothing.
func (p *proc) occupancy(name string) (o occupancy, ok bool) {
	a, err := p.ask(p.public, "/v1/rooms/"+name)
	if err != nil || a.status != http.StatusOK {
		return o, false
	}
	return o, json.Unmarshal([]byte(a.body), &o) == nil
}

// ask asks each replica about each room, and compares the answers with the bounds. The
// caller holds the lock, and ask gives it up meanwhile.
func (m *model) ask(now time.Time) {
	w := m.w
	for _, p := range slices.Clone(w.procs) {
		if p.dead || p.away || p.draining {
			continue
		}
		w.mu.Unlock()
		ready, err := p.ask(p.public, "/readyz")
		w.mu.Lock()
		if err == nil && ready.status == http.StatusOK {
			p.ready = true
		}
		for _, name := range rooms {
			if m.of(name).down || p.cut[w.nodeOf(name)] {
				continue
			}
			window := time.Second
			if m.troubled(name, 10*time.Second) {
				window = 8 * time.Second
			}
			w.mu.Unlock()
			o, ok := p.occupancy(name)
			w.mu.Lock()
			if (!ok || o.Stale) && p.ready && m.quiet(name) {
				w.fail("%s: replica %d does not know it, and nothing is the matter: %v, %+v", name, p.place, ok, o)
			}
			if !ok || o.Stale {
				continue
			}
			least, most := 1<<30, 0
			for _, b := range m.low[name] {
				if now.Sub(b.at) <= window {
					least, most = min(least, b.least), max(most, b.most)
				}
			}
			if o.Users < least || o.Users > most && !m.troubled(name, ttl+ttl+settle+heartbeat+2*time.Second) {
				w.fail("%s: replica %d says %d users, where there are %d to %d", name, p.place, o.Users, least, most)
			}
		}
	}
}

// compare fails unless everything agrees, now that all has come to rest.
func (m *model) compare() {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, st := range m.seats {
		s := st.sheet
		if s == nil {
			continue
		}
		if len(st.pending) > 0 {
			w.fail("visitor %d waits for the answer to %s since %v", s.v.n, st.pending[0].action, time.Since(st.pending[0].at))
		}
		if s.v.sheet != s {
			continue
		}
		switch {
		case !s.shows.known:
			w.fail("visitor %d has seen nothing", s.v.n)
		case s.shows.stale:
			w.fail("the page of visitor %d is stale", s.v.n)
		case !s.v.bare && s.sock == nil:
			w.fail("visitor %d is not connected", s.v.n)
		case !st.base[s.shows.as()]:
			w.fail("visitor %d is shown as %q, and may be %s", s.v.n, s.shows.as(), of(st.base))
		}
	}
	for _, name := range rooms {
		m.compareRoom(name)
	}
	viewers, members := map[*proc]int{}, map[*proc]int{}
	for _, p := range w.programs {
		if p.stream == nil {
			continue
		}
		viewers[p.stream.proc]++
		if p.user != "" {
			members[p.stream.proc]++
		}
	}
	for _, v := range w.visitors {
		if s := v.sheet; s != nil && s.sock != nil {
			viewers[s.sock.proc]++
			if s.shows.joined {
				members[s.sock.proc]++
			}
		}
	}
	for _, p := range slices.Clone(w.procs) {
		w.mu.Unlock()
		values, err := p.metrics()
		w.mu.Lock()
		switch {
		case err != nil:
			w.fail("no metrics of replica %d: %v", p.place, err)
		case int(values["presence_viewers"]) != viewers[p]:
			w.fail("replica %d has %v viewers, of whom there are %d", p.place, values["presence_viewers"], viewers[p])
		case int(values["presence_local_members"]) != members[p]:
			w.fail("replica %d has %v local members, of whom there are %d", p.place, values["presence_local_members"], members[p])
		}
	}
}

// compareRoom compares a room in Redis and at each replica with what pages show.
func (m *model) compareRoom(name string) {
	w := m.w
	r := m.read(name)
	want, users := map[string]string{}, map[string]bool{}
	for _, st := range m.seats {
		if st.room != name {
			continue
		}
		as := ""
		if st.sheet != nil {
			as = st.sheet.shows.as()
		} else if st.program != nil {
			as = st.program.name()
		}
		if as != "" {
			want[st.conn] = as
			users[st.session+as] = true
		}
	}
	for _, p := range w.programs {
		if p.room == name && p.on && p.kind != "put" && (p.stream == nil || p.seen == nil || p.seen.stale || p.seen.version != r.version) {
			w.fail("program %d: sees %s as %v, where there is %v", p.n, name, p.seen, r.sight())
		}
	}
	for id, l := range r.conns {
		if want[id] != l.name {
			w.fail("%s: %s is there by %s, and the page says %q", name, l.name, id, want[id])
		}
	}
	for id, who := range want {
		if r.conns[id] == (lease{}) {
			w.fail("%s: the page says that %s is there by %s", name, who, id)
		}
	}
	if registered, _ := w.having("presence:rooms").ZMembers("presence:rooms"); len(want) > 0 && !slices.Contains(registered, name) {
		w.fail("%s has people and is not among the rooms %v", name, registered)
	}
	for _, p := range slices.Clone(w.procs) {
		w.mu.Unlock()
		o, ok := p.occupancy(name)
		w.mu.Lock()
		if !ok || o.Stale || o.Users != len(users) || o.Connections != len(want) {
			w.fail("%s: replica %d says %+v, where there are %d users and %d connections", name, p.place, o, len(users), len(want))
		}
	}
}

package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"presence/test/memnet"
)

// apiKey is an API key with all rights.
const apiKey = "psk_simulated"

// program is a program that uses the API. It watches a room by an event stream, or is in
// one by such a stream or by PUTs.
type program struct {
	w    *world
	n    int
	kind string // watch, attend or put
	user string // unless it only watches
	addr net.Addr
	rng  *rand.Rand

	room string
	turn int // of what it does: what was begun in an earlier turn does not count
	on   bool
	seat *seat

	want    int       // the replica that the next request goes to, -1: any
	calls   int       // on their way
	doubt   time.Time // until then a PUT may be carried out whose answer never came
	ends    time.Time // it has asked to be ended, or somebody has
	stream  *stream
	seen    *sight // of the room, as it was told; nil: nothing yet
	updates int    // of metadata
}

// stream is an open event stream.
type stream struct {
	proc   *proc
	conn   *memnet.Conn
	heard  time.Time // when the first snapshot, or change, came
	quoted int64     // the version that the program said to have
}

// sight is a room as a program knows it.
type sight struct {
	version            int64
	users, connections int
	members            map[string]fellow
	stale              bool
	since              time.Time
}

// fellow is a member of a room as the API describes it.
type fellow struct {
	User        string          `json:"user"`
	Name        string          `json:"name"`
	Guest       bool            `json:"guest"`
	Meta        json.RawMessage `json:"meta"`
	Connections int             `json:"connections"`
	Since       string          `json:"since"`
}

// String makes fellows comparable.
func (f fellow) String() string {
	return fmt.Sprintf("%s %q %v %s %d %s", f.User, f.Name, f.Guest, f.Meta, f.Connections, f.Since)
}

// employ creates the programs of this run.
func (w *world) employ() {
	for n, p := range []program{{kind: "watch"}, {kind: "watch"}, {kind: "put", user: "p1"}, {kind: "put", user: "p2"}, {kind: "attend", user: "p2"}, {kind: "attend", user: "p3"}} {
		p.w, p.n, p.want = w, n, -1
		p.addr = &net.TCPAddr{IP: net.IPv4(10, 2, 0, byte(n+1)), Port: 50000}
		p.rng = rand.New(rand.NewPCG(w.plan.seed, uint64(200+n)))
		w.programs = append(w.programs, &p)
	}
}

// program returns the program of a kind that a step is about.
func (w *world) program(kind string, s step) *program {
	var some []*program
	for _, p := range w.programs {
		if p.kind == kind {
			some = append(some, p)
		}
	}
	return some[s.arg(0)%len(some)]
}

// name returns the name of the program's user.
func (p *program) name() string { return strings.ToUpper(p.user) }

// path returns the path of the program's connection.
func (p *program) path() string { return fmt.Sprintf("/v1/rooms/%s/connections/c%d", p.room, p.n) }

// call makes the program call the API. The lock must not be held.
func (p *program) call(method, path, body string) (*answer, error) {
	w := p.w
	w.mu.Lock()
	to := w.pick(p.rng, p.want)
	p.want = -1
	p.calls++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		p.calls--
	}()
	if to == nil {
		return nil, errNoServer
	}
	r := request(method, path, body)
	r.Header.Set("Authorization", "Bearer "+apiKey)
	return to.exchange(to.public, p.addr, r, 5*time.Second)
}

// sit takes the program's connection of a room.
func (p *program) sit(room string) {
	if p.room = room; p.user == "" {
		return
	}
	m := p.w.model
	p.seat = m.seatBy(room, p.user, m.keys.SpeakerConnectionID("key", fmt.Sprint("c", p.n)))
	p.seat.program, p.seat.kind = p, p.kind
	for name, until := range p.seat.going {
		if time.Now().Before(until) {
			p.seat.base[name] = true
		}
	}
}

// start makes the program watch or be in a room, instead of the one before.
func (p *program) start(s step) {
	room := rooms[s.arg(1)%len(rooms)]
	if p.on || p.calls > 0 {
		p.quit(s.arg(3)%2 == 0)
		if p.calls > 0 {
			return
		}
	}
	p.want = s.arg(2) % len(p.w.procs)
	p.sit(room)
	p.on, p.seen, p.ends = true, nil, time.Time{}
	p.turn++
	if p.kind == "put" {
		go p.keepPutting(p.turn)
		return
	}
	if p.seat != nil {
		p.seat.base[p.name()] = true
	}
	go p.keepOpen(p.turn)
}

// quit makes the program stop without leaving.
func (p *program) quit(abrupt bool) {
	if !p.on {
		return
	}
	p.on = false
	p.turn++
	p.hangUp(abrupt)
	bound := grace
	if p.kind == "put" {
		bound = ttl
	}
	if p.seat != nil {
		if p.calls > 0 {
			bound += 5 * time.Second
		}
		p.w.model.end(p.seat, bound+time.Second)
		p.seat = nil
	}
}

// hangUp closes the program's stream, if it has one.
func (p *program) hangUp(abrupt bool) {
	if s := p.stream; s != nil {
		p.stream = nil
		if abrupt {
			s.conn.Break()
		} else {
			_ = s.conn.Close()
		}
	}
}

// keepPutting joins by PUT, and renews.
func (p *program) keepPutting(turn int) {
	w := p.w
	for {
		w.mu.Lock()
		if p.turn != turn || p.calls > 0 {
			w.mu.Unlock()
			return
		}
		st, meta := p.seat, ""
		if p.updates > 0 {
			meta = fmt.Sprintf(`,"meta":{"n":%d}`, p.updates)
		}
		var o *op
		if !st.base[p.name()] {
			o = w.model.begin(st, "put", p.name())
		}
		body := fmt.Sprintf(`{"user":%q,"name":%q,"ttl":%d%s}`, p.user, p.name(), int(ttl.Seconds()), meta)
		path := p.path()
		w.mu.Unlock()
		a, err := p.call(http.MethodPut, path, body)
		w.mu.Lock()
		done := err == nil && a.status < 300
		if !done {
			p.doubt = time.Now().Add(ttl + 2*time.Second)
		}
		switch {
		case o == nil:
		case err != nil:
			w.model.unknown(o)
			o.seat.going[o.target] = p.doubt
		default:
			w.model.answered(o, done)
		}
		wait := ttl / 3
		if done && p.turn == turn {
			st.base = map[string]bool{p.name(): true}
			st.sure(p.name())
		} else if !done {
			wait = 500 * time.Millisecond
			if err == nil && a.status < 500 {
				w.fail("program %d: a PUT was answered %d", p.n, a.status)
			}
		}
		w.mu.Unlock()
		time.Sleep(wait)
	}
}

// leave ends the program's connection by a request.
func (p *program) leave(s step) {
	w := p.w
	if !p.on || p.calls > 0 || p.seat == nil {
		return
	}
	p.turn++ // a PUT does not follow
	p.on, p.ends = false, time.Now()
	p.want = s.arg(2) % len(w.procs)
	st, o, path, doubt := p.seat, w.model.begin(p.seat, "delete", ""), p.path(), p.doubt
	p.seat = nil
	go func() {
		a, err := p.call(http.MethodDelete, path, "")
		w.mu.Lock()
		defer w.mu.Unlock()
		defer p.hangUp(true)
		if err != nil || a.status != http.StatusNoContent {
			w.model.unknown(o)
			w.model.end(st, ttl+2*time.Second)
			return
		}
		w.model.answered(o, true)
		left := max(0, time.Until(doubt))
		w.model.end(st, left)
		if left > 0 {
			st.going[p.name()] = doubt
		}
	}()
}

// remove ends all connections of a program's user in its room.
func (p *program) remove(s step) {
	w := p.w
	if !p.on || p.seat == nil {
		return
	}
	p.want = s.arg(2) % len(w.procs)
	path := fmt.Sprintf("/v1/rooms/%s/members/%s", p.room, p.user)
	var same []*program
	for _, other := range w.programs {
		if other.user == p.user && other.room == p.room && other.on {
			if other.calls > 0 {
				return
			}
			same = append(same, other)
		}
	}
	for _, other := range same { // each stops: what was on its way may bring it back
		other.turn++
		other.on, other.ends = false, time.Now()
		w.model.end(other.seat, ttl+2*time.Second)
		other.seat = nil
	}
	w.model.removals[p.user] = time.Now()
	go func() {
		a, err := p.call(http.MethodDelete, path, "")
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, other := range same {
			if !other.on {
				other.hangUp(true)
			}
		}
		if err == nil && a.status >= 400 && a.status < 500 {
			w.fail("program %d: a removal was answered %d", p.n, a.status)
		}
	}()
}

// --- Event streams ----------------------------------------------------------

// keepOpen opens one stream after the other.
func (p *program) keepOpen(turn int) {
	w := p.w
	for {
		err := p.follow(turn)
		w.mu.Lock()
		if p.turn != turn {
			w.mu.Unlock()
			return
		}
		w.note("program %d: stream ended: %v", p.n, err)
		wait := time.Duration(p.rng.IntN(1000)) * time.Millisecond
		if errors.Is(err, errAtOnce) {
			wait = 0
		}
		w.mu.Unlock()
		time.Sleep(wait)
	}
}

var (
	errAtOnce = errors.New("go on at once with another")
	errOver   = errors.New("over")
)

// follow opens a stream and reads it to its end.
func (p *program) follow(turn int) error {
	w := p.w
	w.mu.Lock()
	to := w.pick(p.rng, p.want)
	p.want = -1
	path := "/v1/rooms/" + p.room + "/events"
	if p.user != "" {
		path += fmt.Sprintf("?join=c%d&user=%s&name=%s", p.n, p.user, p.name())
	}
	r := request(http.MethodGet, path, "")
	r.Header.Set("Authorization", "Bearer "+apiKey)
	s := &stream{proc: to}
	if p.seen != nil && !p.seen.stale && p.rng.IntN(3) > 0 {
		s.quoted = p.seen.version
		r.Header.Set("Last-Event-ID", strconv.FormatInt(p.seen.version, 10))
	} else {
		p.seen = nil
	}
	p.calls++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if s.conn != nil {
			to.forget(s.conn)
		}
		if p.stream == s {
			p.stream = nil
		}
	}()
	read, err := p.open(to, r, s)
	w.mu.Lock()
	p.calls--
	if err == nil && p.turn != turn {
		s.conn.Break()
		err = errOver
	}
	if err == nil {
		p.stream = s
	}
	w.mu.Unlock()
	if err != nil {
		return err
	}
	defer s.conn.Close()
	var name, data string
	for {
		line, err := read.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimSuffix(line, "\n")
		switch field, value, _ := strings.Cut(line, ": "); {
		case field == "event":
			name = value
		case field == "data":
			data = value
		case line == "" && name != "":
			w.mu.Lock()
			err := errOver
			if p.stream == s {
				err = p.told(s, name, data)
			}
			w.mu.Unlock()
			if err != nil {
				return err
			}
			name, data = "", ""
		}
	}
}

// open opens a stream, and returns a reader of its events.
func (p *program) open(to *proc, r *http.Request, s *stream) (*bufio.Reader, error) {
	if to == nil {
		return nil, errNoServer
	}
	c, err := to.dial(to.public, p.addr)
	if err != nil {
		return nil, err
	}
	s.conn = c
	timer := time.AfterFunc(5*time.Second, c.Break)
	defer timer.Stop()
	if err := r.Write(c); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		c.Break()
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		c.Break()
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	return bufio.NewReader(response.Body), nil
}

// told takes an event. An error means that the stream is over.
func (p *program) told(s *stream, name, data string) error {
	w := p.w
	var e struct {
		Version     int64
		Users       int
		Connections int
		Stale       bool
		Complete    bool
		Members     []fellow
		Joins       []fellow
		Updates     []fellow
		Leaves      []struct{ User, Reason string }
		Code        string
		Retry       string
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		w.fail("program %d was sent %s: %v", p.n, data, err)
		return errOver
	}
	w.note("program %d: %s %s", p.n, name, data)
	old := p.seen
	switch name {
	case "stale":
		if old != nil {
			old.stale = true
		}
		return nil
	case "end":
		return p.ended(e.Code, e.Retry)
	case "snapshot":
		p.seen = &sight{version: e.Version, users: e.Users, connections: e.Connections, stale: e.Stale, members: map[string]fellow{}, since: time.Now()}
		for _, f := range e.Members {
			p.seen.members[f.User] = f
		}
		if old != nil && old.version == e.Version && !e.Stale && !old.same(p.seen) {
			w.fail("program %d: version %d of %s was %v, and is %v", p.n, e.Version, p.room, old, p.seen)
		}
	case "diff":
		if old == nil {
			w.fail("program %d: a change, and nothing before", p.n)
			return errOver
		}
		if e.Version <= old.version {
			w.fail("program %d: version %d of %s after %d", p.n, e.Version, p.room, old.version)
		}
		for _, left := range e.Leaves {
			if _, there := old.members[left.User]; !there {
				w.fail("program %d: %s leaves %s, and was not there: %s", p.n, left.User, p.room, data)
			}
			delete(old.members, left.User)
			w.model.heard = append(w.model.heard, news{p.n, p.room, old.version, e.Version, left.User, left.Reason})
		}
		for _, f := range e.Updates {
			if _, there := old.members[f.User]; !there {
				w.fail("program %d: %s changes in %s, and was not there: %s", p.n, f.User, p.room, data)
			}
			old.members[f.User] = f
		}
		for _, f := range e.Joins {
			if _, there := old.members[f.User]; there {
				w.fail("program %d: %s joins %s, and was there: %s", p.n, f.User, p.room, data)
			}
			old.members[f.User] = f
		}
		old.version, old.users, old.connections, old.stale, old.since = e.Version, e.Users, e.Connections, false, time.Now()
	default:
		w.fail("program %d was sent the event %s", p.n, name)
		return errOver
	}
	if s.heard.IsZero() && !p.seen.stale {
		s.heard = time.Now()
	}
	connections := 0
	for _, f := range p.seen.members {
		connections += f.Connections
	}
	if p.seen.users != len(p.seen.members) || p.seen.connections != connections {
		w.fail("program %d: %s does not add up: %v, after %s %s", p.n, p.room, p.seen, name, data)
	}
	return nil
}

// ended takes the end of a stream, as the server announced it.
func (p *program) ended(code, retry string) error {
	if retry == "now" {
		return errAtOnce
	}
	w := p.w
	if p.on && time.Since(p.ends) > 10*time.Second {
		w.fail("program %d: its stream was ended: %s", p.n, code)
	}
	if p.on {
		p.on = false
		p.turn++
		if p.seat != nil {
			w.model.end(p.seat, ttl+2*time.Second)
			p.seat = nil
		}
	}
	return errOver
}

// same reports whether two sights are equal.
func (s *sight) same(other *sight) bool {
	if s.users != other.users || s.connections != other.connections || len(s.members) != len(other.members) {
		return false
	}
	for user, f := range s.members {
		if other.members[user].String() != f.String() {
			return false
		}
	}
	return true
}

// String lists the members.
func (s *sight) String() string {
	return fmt.Sprintf("%d: %d users, %d connections, stale %v, %v", s.version, s.users, s.connections, s.stale, s.members)
}

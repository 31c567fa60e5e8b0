package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// slots is the number of parts of a heartbeat interval, over which the renewals are
	// spread.
	slots = 20

	// maxDoubtful is how many joins of unknown outcome are remembered to be undone.
	// Joins beyond this number end when their leases run out.
	maxDoubtful = 10_000

	// releaseTimeout bounds a call that releases a connection, or shortens its lease.
	releaseTimeout = 5 * time.Second
)

// Socket is what a member needs of its connection to the browser.
type Socket interface {
	// Answered returns when the last ping that the browser has answered was sent; zero
	// if there is none. Other messages of the browser may be old when they are read.
	Answered() time.Time

	// Ping asks the browser for a sign of life, without waiting for it.
	Ping() error
}

// Ender is a [Socket] that is told when its member ends, although neither the user nor
// the browser ended it. Either Redis had lost the member, and err says why it was not
// put back, or err is [presence.ErrRemoved]. Ended must not block.
type Ender interface {
	Ended(m *Member, err error)
}

// Member is a connection that is in a room through a socket of this process. The
// replica renews its lease.
type Member struct {
	room   string
	conn   presence.Connection
	socket Socket

	cohort *cohort // guarded by members.mu, like the fields below; nil once removed
	index  int
	asked  time.Time // when it was last asked for a sign of life
	spared bool      // it counts as there without an answer: only Redis, which forgot everybody, does not know it
	left   bool      // its user is leaving, has left or has joined again: it is never put back
}

// User returns the user of the member's connection.
func (m *Member) User() presence.User { return m.conn.User }

// cohort is a group of members of one room that one script call renews.
type cohort struct {
	room    string
	slot    int
	members []*Member // nil where a member was removed
	free    []int     // indexes of the nils
	live    int
}

// tabKey identifies a tab in a room. A tab may have several sockets.
type tabKey struct{ room, id string }

func (m *Member) tab() tabKey { return tabKey{m.room, m.conn.ID} }

// claim is a generation that a call of unknown outcome may have given to a tab. It has
// to be undone.
type claim struct {
	tabKey

	generation string
}

// members holds the local members of all rooms.
type members struct {
	mu       sync.Mutex           // guards:
	tabs     map[tabKey][]*Member // more than one for a tab whose old socket has not closed yet
	slots    [slots]map[*cohort]bool
	filling  map[string]*cohort // room -> the cohort that newcomers join
	next     int                // slot of the next cohort
	suspect  map[*Member]bool   // Redis does not have them, or another socket has their connection
	doubtful map[claim]bool
	ledger   ledger
}

func newMembers(o Options) *members {
	m := &members{
		tabs: map[tabKey][]*Member{}, filling: map[string]*cohort{}, suspect: map[*Member]bool{},
		doubtful: map[claim]bool{}, ledger: newLedger(o),
	}
	for i := range m.slots {
		m.slots[i] = map[*cohort]bool{}
	}
	return m
}

// add adds m. If the same visit had a member before (former, or nil), m takes its
// place. The tab may have other members, whose sockets are about to close, or which the
// browser gave up before this one. When these sockets close it shows which member
// stays.
func (ms *members) add(m, former *Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	tab := m.tab()
	_, _ = ms.ledger.take(tab, m.conn.Address, false) // unlimited: Redis has accepted the tab already
	ms.tabs[tab] = append(ms.tabs[tab], m)
	if former != nil && former.cohort != nil {
		m.cohort, m.index = former.cohort, former.index
		m.cohort.members[m.index] = m
		former.cohort, former.left = nil, true
		ms.forgetLocked(former)
		return
	}
	c := ms.filling[m.room]
	if c == nil || c.live == store.BatchSize {
		c = &cohort{room: m.room, slot: ms.next}
		ms.next = (ms.next + 1) % slots
		ms.filling[m.room] = c
		ms.slots[c.slot][c] = true
	}
	m.cohort = c
	if last := len(c.free) - 1; last >= 0 {
		m.index, c.free = c.free[last], c.free[:last]
		c.members[m.index] = m
	} else {
		m.index = len(c.members)
		c.members = append(c.members, m)
	}
	c.live++
}

// remove takes out m, whose socket has closed, if it is still in.
func (ms *members) remove(m *Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.removeLocked(m)
}

// markLeaving notes that the user of a tab is about to leave or, if leaving failed, is not.
// While a leave is under way, nothing of the tab is put back.
func (ms *members) markLeaving(tab tabKey, is bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.tabs[tab] {
		m.left = is
	}
}

// removeTab takes out all members of a tab whose user has left. That includes old sockets
// of the tab.
func (ms *members) removeTab(tab tabKey) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range slices.Clone(ms.tabs[tab]) {
		m.left = true
		ms.removeLocked(m)
	}
	ms.ledger.lease(tab, time.Time{})
	ms.ledger.free(tab, false)
}

func (ms *members) removeLocked(m *Member) {
	c := m.cohort
	if c == nil {
		return
	}
	m.cohort = nil
	c.members[m.index] = nil
	c.free = append(c.free, m.index)
	filling := ms.filling[c.room]
	switch c.live--; {
	case c.live == 0:
		delete(ms.slots[c.slot], c)
		if filling == c {
			delete(ms.filling, c.room)
		}
	case filling == nil || filling.live > c.live:
		ms.filling[c.room] = c // newcomers fill the gaps first
	}
	ms.forgetLocked(m)
}

// forgetLocked removes m from everything except its cohort.
func (ms *members) forgetLocked(m *Member) {
	delete(ms.suspect, m)
	tab := m.tab()
	if rest := slices.DeleteFunc(ms.tabs[tab], func(o *Member) bool { return o == m }); len(rest) > 0 {
		ms.tabs[tab] = rest
	} else {
		delete(ms.tabs, tab)
		ms.ledger.free(tab, false)
	}
}

// ask asks m for a sign of life, because Redis does not have it or another socket has
// its connection. If m was not in doubt before, it can be spared: then it counts as
// there even if it does not answer soon, where soon counts from the first question.
func (ms *members) ask(m *Member, spare bool) {
	ms.mu.Lock()
	in := m.cohort != nil && !m.left
	if in {
		again := ms.suspect[m] && m.spared && spare
		m.spared = spare && (m.spared || !ms.suspect[m])
		ms.suspect[m] = true
		if !again {
			m.asked = time.Now()
		}
	}
	ms.mu.Unlock()
	if in {
		_ = m.socket.Ping() // if this fails, the next regular ping serves
	}
}

// trust notes that m is no longer in doubt.
func (ms *members) trust(m *Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.suspect, m)
}

// proven lists, for each room, the members in doubt that have given a sign of life
// since they were asked, and the spared members that were asked longer than patience
// ago.
func (ms *members) proven(patience time.Duration) map[string][]*Member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	byRoom := map[string][]*Member{}
	for m := range ms.suspect {
		if m.left {
			continue
		}
		if m.heardLocked() || m.spared && time.Since(m.asked) > patience {
			byRoom[m.room] = append(byRoom[m.room], m)
		}
	}
	return byRoom
}

// heard reports whether m has given a sign of life since it was asked.
func (ms *members) heard(m *Member) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return m.heardLocked()
}

func (m *Member) heardLocked() bool { return !m.socket.Answered().Before(m.asked) }

// has reports whether m is still in, and whether its user has left or is about to.
func (ms *members) has(m *Member) (in, left bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return m.cohort != nil, m.left
}

// newest returns the tab's newest member, or nil.
func (ms *members) newest(tab tabKey) *Member {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if all := ms.tabs[tab]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// count returns the number of tabs that are joined here.
func (ms *members) count() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.tabs)
}

// inSlot lists the members to renew in one slot. Each list is of one room and fits into
// one script call.
func (ms *members) inSlot(slot int) (lists [][]*Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for c := range ms.slots[slot] {
		lists = append(lists, c.all())
	}
	return lists
}

// inRoom lists the members of one room, in lists that fit into one script call.
func (ms *members) inRoom(room string) (lists [][]*Member) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, cohorts := range ms.slots {
		for c := range cohorts {
			if c.room == room {
				lists = append(lists, c.all())
			}
		}
	}
	return lists
}

// all lists the members of c. The caller holds members.mu.
func (c *cohort) all() []*Member {
	list := make([]*Member, 0, c.live)
	for _, m := range c.members {
		if m != nil {
			list = append(list, m)
		}
	}
	return list
}

// localRooms lists the rooms that have local members.
func (ms *members) localRooms() []string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	seen := map[string]bool{}
	var rooms []string
	for i := range ms.slots {
		for c := range ms.slots[i] {
			if !seen[c.room] {
				seen[c.room] = true
				rooms = append(rooms, c.room)
			}
		}
	}
	return rooms
}

// doubts lists the joins and leaves of unknown outcome.
func (ms *members) doubts() []claim {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.Collect(maps.Keys(ms.doubtful))
}

// doubt remembers that a call for this generation of a tab may or may not have taken
// place.
func (ms *members) doubt(tab tabKey, generation string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if len(ms.doubtful) < maxDoubtful {
		ms.doubtful[claim{tab, generation}] = true
	}
}

// forgetDoubt forgets a doubt that was settled.
func (ms *members) forgetDoubt(c claim) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.doubtful, c)
}

// Join makes conn.User present in room, and returns the room's occupancy afterwards.
// From then on the replica renews the lease, until Leave or Release. Before the replica
// puts the connection back into a Redis that lost it, it asks socket for a sign of
// life.
//
// former is the member that the same socket already has, or nil. The new member takes
// its place, and must have another generation, so that calls for the former which are
// still under way have no effect. After an error former is still there.
//
// A frame may be read late from a socket that the browser has given up. So the browser
// has to answer a ping through socket if another generation than former's has the
// connection, or if this process was stopped. If it does not answer, the error wraps
// [presence.ErrSuperseded].
//
// The other errors are those of [store.Store.Join], and [presence.ErrAddressRooms] and
// [presence.ErrAddressMembers] if conn.Address has reached a limit. If a join failed
// with [presence.ErrUnavailable] but has taken place, the replica undoes it.
func (r *Replica) Join(ctx context.Context, room string, conn presence.Connection, socket Socket, former *Member) (*Member, presence.Occupancy, error) {
	m, held, err := r.join(ctx, room, conn, socket, former, func() (store.Held, error) {
		generation := ""
		if former != nil {
			generation = former.conn.Generation
		}
		if r.links.outdated() && !Answers(ctx, socket) {
			return store.Held{}, presence.ErrSuperseded
		}
		held, err := r.store.Follow(ctx, room, conn, generation)
		if errors.Is(err, presence.ErrSuperseded) && Answers(ctx, socket) {
			return r.store.Join(ctx, room, conn)
		}
		return held, err
	})
	return m, held.Occupancy, err
}

// Attend is Join for a program's connection that has a socket: see
// [store.Store.Attend]. It also returns the connection as Redis has it.
func (r *Replica) Attend(ctx context.Context, room string, w store.Wanted, socket Socket) (*Member, store.Held, error) {
	if err := r.timely(); err != nil {
		return nil, store.Held{}, err
	}
	w.TTL = r.lease(w.Connection)
	return r.join(ctx, room, w.Connection, socket, nil, func() (store.Held, error) { return r.store.Attend(ctx, room, w) })
}

// CanAttend returns the error of Attend if a limit would keep conn out of room:
// [presence.ErrTooManyRooms], [presence.ErrAddressRooms] or
// [presence.ErrAddressMembers]. It takes no place, and does not check whether the room
// is full. While Redis can't be asked it returns nil.
func (r *Replica) CanAttend(ctx context.Context, room string, conn presence.Connection) error {
	if err := r.members.refusal(tabKey{room, conn.ID}, conn.Address); err != nil {
		return err
	}
	admits, err := r.store.Admits(ctx, room)
	switch {
	case err != nil:
		r.roomFailed(ctx, "", err)
	case !admits:
		return presence.ErrTooManyRooms
	}
	return nil
}

// refusal returns the reason why a tab that wants to join can't have a place; nil if it
// can.
func (ms *members) refusal(tab tabKey, address string) error {
	if address == "" {
		return nil
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.ledger.refusal(tab, address)
}

// lease returns how long a lease of conn lasts that begins now. If no time is left it
// returns a millisecond, since 0 stands for the member TTL elsewhere.
func (r *Replica) lease(conn presence.Connection) time.Duration {
	return max(conn.Lease(r.opts.MemberTTL), time.Millisecond)
}

// errOutdated is why a request that may be old is refused.
var errOutdated = fmt.Errorf("%w: this process was stopped for a while", presence.ErrUnavailable)

// timely returns an error if this process was stopped, so that the request it reads now
// may be old. The client may have turned to another replica since it sent the request.
func (r *Replica) timely() error {
	if r.links.outdated() {
		return errOutdated
	}
	return nil
}

// join is the common part of Join and Attend.
func (r *Replica) join(ctx context.Context, room string, conn presence.Connection, socket Socket, former *Member, call func() (store.Held, error)) (*Member, store.Held, error) {
	if err := r.members.reserve(tabKey{room, conn.ID}, conn.Address); err != nil {
		return nil, store.Held{}, err
	}
	defer r.members.unreserve(tabKey{room, conn.ID})
	held, err := call()
	if err != nil {
		if errors.Is(err, presence.ErrUnavailable) {
			r.members.doubt(tabKey{room, conn.ID}, conn.Generation)
		}
		return nil, held, err
	}
	r.saw(ctx, room, held.Birth)
	r.puts.forget(room, conn.ID)
	held.Connection.Address, held.Connection.Until = conn.Address, conn.Until
	return r.addMember(ctx, room, held.Connection, socket, former), held, nil
}

// Resume gives the connection conn.ID of room the generation of a new socket, and
// returns the new member. If there is no such connection it returns nil without an
// error, unless Redis may just have lost it: then the error is
// [presence.ErrUnavailable]. Resume does not use conn.User.
//
// It differs from Join in two ways. The limits of an address do not apply. After
// [presence.ErrUnavailable] nothing is undone: the caller may repeat Resume with the
// same generation, and must call Abandon if the socket closes before that.
func (r *Replica) Resume(ctx context.Context, room string, conn presence.Connection, socket Socket) (*Member, error) {
	asked := time.Now()
	was, birth, found, err := r.store.Resume(ctx, room, conn.ID, conn.Generation)
	if err == nil && !found {
		err = r.missing(ctx, room, birth, asked)
	}
	if err != nil || !found {
		return nil, err
	}
	r.saw(ctx, room, birth)
	r.puts.forget(room, conn.ID)
	conn.User = was.User
	return r.addMember(ctx, room, conn, socket, nil), nil
}

// addMember adds the member of a connection that Redis has just leased for the member TTL,
// in the place of former.
func (r *Replica) addMember(ctx context.Context, room string, conn presence.Connection, socket Socket, former *Member) *Member {
	m := &Member{room: room, conn: conn, socket: socket}
	r.members.add(m, former)
	if r.lease(conn) < r.opts.MemberTTL { // the lease in Redis is too long, also for a caller who has gone
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		r.beat(ctx, [][]*Member{{m}})
	}
	return m
}

// Adopt moves a user from the connection from of room, which has no socket and belongs
// to userID, to the tab of a new socket (conn). The user first joins through the tab,
// and then leaves through the other, so nobody sees a change. If there is no such
// connection Adopt returns nil without an error. It is like Resume, except that a
// repetition needs another generation.
func (r *Replica) Adopt(ctx context.Context, room, from, userID string, conn presence.Connection, socket Socket) (*Member, error) {
	was, found, err := r.findHTTP(ctx, room, from, userID)
	if err != nil || !found {
		return nil, err
	}
	conn.User = was.User
	held, err := r.store.Join(ctx, room, conn)
	if err != nil {
		if errors.Is(err, presence.ErrUnavailable) {
			r.members.doubt(tabKey{room, conn.ID}, conn.Generation)
		}
		return nil, err
	}
	conn.User = held.Connection.User
	m := r.addMember(ctx, room, conn, socket, nil)
	r.puts.forget(room, from)
	other := tabKey{room, from}
	if _, err := r.endTab(ctx, other, was.Generation); err != nil {
		r.members.doubt(other, was.Generation)
	}
	return m, nil
}

// findHTTP returns the connection id of room if it has no socket and belongs to userID.
func (r *Replica) findHTTP(ctx context.Context, room, id, userID string) (conn presence.Connection, found bool, err error) {
	conn, _, found, err = r.store.Find(ctx, room, id)
	return conn, found && conn.User.ID == userID && presence.IsHTTPGeneration(conn.Generation), err
}

// Leave ends m at once, and returns the room's occupancy afterwards. After an error m
// is still there and may leave again. If another generation has the connection, Leave
// ends it only when the browser answers a ping through m's socket, as with Join.
func (r *Replica) Leave(ctx context.Context, m *Member) (presence.Occupancy, error) {
	occupancy, err := r.endTab(ctx, m.tab(), m.conn.Generation)
	if errors.Is(err, presence.ErrSuperseded) && Answers(ctx, m.socket) {
		return r.endTab(ctx, m.tab(), "")
	}
	return occupancy, err
}

// answerPoll is the time between two checks whether the browser has answered.
const answerPoll = 50 * time.Millisecond

// Answers reports whether the browser answers a ping through socket before ctx ends. If
// it does, the browser still uses this socket, since a tab uses only one.
func Answers(ctx context.Context, socket Socket) bool {
	poll := time.NewTicker(answerPoll)
	defer poll.Stop()
	for asked := time.Now(); socket.Ping() == nil; {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false
		}
		if !socket.Answered().Before(asked) {
			return true
		}
	}
	return false
}

// endTab ends this generation of a tab, or with "" whichever generation has the
// connection.
func (r *Replica) endTab(ctx context.Context, tab tabKey, generation string) (presence.Occupancy, error) {
	r.members.markLeaving(tab, true)
	occupancy, err := r.store.Leave(ctx, tab.room, tab.id, generation)
	if err != nil {
		r.members.markLeaving(tab, false)
		return occupancy, err
	}
	r.members.removeTab(tab)
	return occupancy, nil
}

// Release says that m's socket is gone. It bounds its own time, since the request of
// the socket has ended. After an error the connection stays until its lease runs out.
func (r *Replica) Release(m *Member) error {
	r.members.remove(m)
	return r.release(m.room, m.conn)
}

// release says that the socket of conn is gone. The grace does not last beyond
// conn.Until.
func (r *Replica) release(room string, conn presence.Connection) error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	grace := conn.Lease(r.opts.LeaveGrace)
	err := r.store.ReleaseFor(ctx, room, conn.ID, conn.Generation, grace)
	r.endsSoon(room, grace)
	return err
}

// endsSoon makes the sweeper look at room when a lease ends that is shorter than the
// grace.
func (r *Replica) endsSoon(room string, lease time.Duration) {
	if lease < r.opts.LeaveGrace {
		r.sweeper.soon(room, lease)
	}
}

// Abandon says that a socket is gone that may have the connection conn of room, because
// the outcome of a Resume is not known. Otherwise it is like Release.
func (r *Replica) Abandon(room string, conn presence.Connection) error { return r.release(room, conn) }

package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"presence/internal/store"
	"presence/internal/terse"
)

// maxFailures is how many probes in a row must fail before Redis counts as away. So one
// late answer does not mark every page as stale.
const maxFailures = 2

const (
	// minSettle is the shortest settle time, whatever the heartbeat interval. In this
	// time all replicas must have noticed that Redis is back: it allows for three failed
	// tries of a call on a busy machine.
	minSettle = 600 * time.Millisecond

	// A replica probes this often in a settle time, so even the last replica notices that
	// Redis is back before the settle time of the first one ends. maxProbe bounds the
	// time for which the shared secret can be missing.
	probesPerSettle = 4
	maxProbe        = time.Second
)

// pageLoad is how long a page may have been loading in vain when Redis answers again.
// Such a page reloads one heartbeat interval later.
const pageLoad = 2 * time.Second

// minStop is the shortest gap that counts as a stop of this process. A busy machine
// causes shorter gaps.
const minStop = time.Second

// expiringTTLs is how many member TTLs the clock of Redis must be stepped ahead at least to
// end the keys of a room.
const expiringTTLs = 3

// phase is the state of Redis as this replica sees it.
type phase int

const (
	away     phase = iota // Redis does not answer
	settling              // Redis answers again; replicas put back what it lost
	present               // Redis answers, and its data can be trusted
)

// errNoContact is why a replica is not ready before Redis has answered once.
var errNoContact = errors.New("Redis has not answered yet")

// times are the durations by which a replica judges Redis.
type times struct {
	probe  time.Duration // between two probes
	settle time.Duration // from an answer until its data can be trusted
	start  time.Duration // from the first answer until leases that nobody renewed may be ended
	stop   time.Duration // a longer gap between two probes means that this process was stopped
	ttl    time.Duration // of leases
	brake  time.Duration // after a silence longer than ttl: from the end of settling until many leases may end at once
	visit  time.Duration // from an answer until every page without a socket has reloaded
}

// link knows whether a node of Redis answers and whether it still has its data.
type link struct {
	times

	epochs *epochs // shared by all links
	alone  bool    // no other replica can have anything to put back at the start

	outage terse.State // whether the node answers; limits log lines
	losses terse.Line  // limits log lines about lost data and stops

	mu       sync.Mutex // guards:
	node     store.Node
	phase    phase
	changed  chan struct{} // closed when the phase changes
	met      time.Time     // time of the first answer; zero: none yet
	failures int
	reason   error     // why the node is away
	ticked   time.Time // time of the last probe that was answered
	until    time.Time // end of settling
	empty    bool      // settling because Redis lost its data
	heldFrom time.Time // until this time some leases may not have been renewed
	heldTo   time.Time // until this time such leases are spared
	visitTo  time.Time // until this time connections without a socket are spared
	ahead    offset    // how far the node's clock is ahead of ours
	steadyAt time.Time // the clock was stepped; until this time replicas set their leases anew
	brakeTo  time.Time // until this time not many leases of a room may end at once
}

func newTimes(o Options) times {
	settle := max(o.HeartbeatInterval*3/10, min(minSettle, o.HeartbeatInterval/2))
	probe := min(settle/probesPerSettle, maxProbe)
	return times{
		probe:  probe,
		settle: settle,
		start:  o.MemberTTL * 2 / 3,
		stop:   max(settle+probe, o.MemberTTL/3, minStop),
		visit:  2*o.HeartbeatInterval + pageLoad,
		ttl:    o.MemberTTL,
		brake:  o.HeartbeatInterval,
	}
}

// ready returns nil unless Redis is away.
func (l *link) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase == away {
		return l.reason
	}
	return nil
}

// trusted returns nil when the node's data may be shown.
func (l *link) trusted() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.phase {
	case away:
		return l.reason
	case settling:
		return errSettling
	default:
		return nil
	}
}

// pending is like trusted. If the data may soon be shown, it also returns a channel that
// is closed when the phase changes. That is so while replicas put back what Redis lost,
// and at the start until it is known whether Redis answers at all.
func (l *link) pending() (soon <-chan struct{}, err error) {
	err = l.trusted()
	l.mu.Lock()
	defer l.mu.Unlock()
	if untried := l.met.IsZero() && l.failures == 0; untried || errors.Is(err, errSettling) {
		return l.changed, err
	}
	return nil, err
}

// enterLocked changes the phase and wakes the goroutines that wait for that.
func (l *link) enterLocked(p phase) {
	l.phase = p
	close(l.changed)
	l.changed = make(chan struct{})
}

// held returns for how long leases may have gone without renewal, and whether sweeps must
// spare them for that reason. sweep is false when nothing may be removed at all, because
// Redis is away or this process has been stopped for a while.
func (l *link) held() (since time.Duration, held, sweep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase == away || time.Since(l.ticked) > l.stop {
		return 0, false, false
	}
	return time.Since(l.heldFrom), time.Now().Before(l.heldTo), true
}

// visits returns for how much longer connections without a socket are spared. A page
// renews their leases when it reloads, which it could not do during an outage.
func (l *link) visits() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.visitTo))
}

// sees notes what the clock of Redis showed, in ms, at some instant between two times of
// our clock. It returns by how much that clock was stepped since the last time, or 0.
// After a step the deadlines of leases mean other times than before, so leases are spared
// until all replicas have set theirs anew. A step ahead by more than keys live ends the keys
// of rooms. Then the node has to settle, because only the replicas with members in a room
// notice that the room is lost.
func (l *link) sees(at, before, after int64) (step time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead, by := l.ahead.sees(at, before, after)
	if l.ahead = ahead; by != 0 {
		l.unsettleLocked()
	}
	step = time.Duration(by) * time.Millisecond
	if step >= expiringTTLs*l.ttl && l.phase != away {
		l.empty = l.phase == settling && l.empty
		l.enterLocked(settling)
		l.until = time.Now().Add(l.settle)
	}
	return step
}

// unsettle makes sweeps spare leases until all replicas have set theirs anew.
func (l *link) unsettle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsettleLocked()
}

func (l *link) unsettleLocked() {
	now := time.Now()
	l.heldFrom, l.steadyAt = now, now.Add(l.brake+l.settle)
	if l.heldTo.Before(l.steadyAt) {
		l.heldTo = l.steadyAt
	}
}

// unsteady reports whether the clock of Redis was stepped lately.
func (l *link) unsteady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.steadyAt)
}

// brakes returns for how much longer a sweep that would end many leases of a room at once
// has to wait. After a silence of all members it is more likely that nobody could be
// heard than that everybody has gone.
func (l *link) brakes() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.brakeTo))
}

// failed notes that Redis did not answer, and reports whether Redis has become away by
// that.
func (l *link) failed(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures++
	if l.phase == away {
		if l.reason = err; l.met.IsZero() {
			l.reason = fmt.Errorf("%w: %w", errNoContact, err)
			l.enterLocked(away) // whether Redis answers is now known
		}
		return l.met.IsZero() && l.failures == maxFailures
	}
	if l.failures < maxFailures {
		return false
	}
	l.reason = err
	l.enterLocked(away)
	return true
}

// gone reports whether enough calls have failed that Redis is known to be away; before
// the first answer, a single failure does not prove that.
func (l *link) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == away && l.failures >= maxFailures
}

// event is the result of a probe.
type event int

const (
	nothing event = iota
	contact       // the first answer
	back          // Redis answers again
	upset         // Redis lost its data without going away, or this process was stopped
	settled       // the data in Redis can be trusted again
)

// answered notes that the node answered with an epoch that was made this long ago (age).
//
// A young epoch at the first answer means that Redis is new, or that it lost its data so
// recently that other replicas are still putting back their members.
func (l *link) answered(epoch store.Epoch, age time.Duration) (what event, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := l.epochs.learn(epoch)
	now := time.Now()
	stopped := now.Sub(l.ticked)
	l.ticked, l.failures = now, 0
	what = upset
	switch {
	case l.met.IsZero():
		l.met = now
		if !l.alone && age >= 0 && age < l.settle {
			l.until = now.Add(max(l.settle-age, l.probe))
			l.enterLocked(settling)
		} else {
			l.enterLocked(present)
		}
		l.heldFrom, l.heldTo = now, now.Add(l.start)
		if l.alone || age >= 0 && age < l.settle {
			l.heldTo = now // nobody held a lease before, or all have taken new ones since
		}
		return contact, "first answer"
	case l.phase == away:
		what, why = back, "Redis answers again"
		if lost {
			why += ", without its data"
		}
	case lost:
		why = "Redis lost its data"
	case stopped > l.stop:
		why = fmt.Sprintf("this process was stopped for %v", stopped.Round(time.Millisecond))
	case l.phase == settling && !now.Before(l.until):
		l.enterLocked(present)
		return settled, ""
	default:
		return nothing, ""
	}
	l.empty = lost
	l.enterLocked(settling)
	l.until = now.Add(l.settle)
	l.heldFrom, l.heldTo = now, now.Add(l.settle)
	if stopped > l.ttl {
		l.brakeTo = now.Add(l.settle + l.brake)
	}
	if what == back || stopped > l.stop {
		l.visitTo = now.Add(l.visit)
	}
	return what, why
}

// at returns the node.
func (l *link) at() store.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.node
}

// clock returns what the node's clock shows now, in ms; 0 if that is not known.
func (l *link) clock() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ahead == 0 {
		return 0
	}
	return clock() + int64(l.ahead)
}

// jumped reports whether the node's clock, which showed now, in ms, a moment ago, has been
// stepped ahead since the last probe.
func (l *link) jumped(now int64) bool {
	expected := l.clock()
	return expected != 0 && now-expected > slew
}

// late reports whether, since this replica started, every other replica has had the time
// to put back what Redis lost.
func (l *link) late() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == present && time.Since(l.met) >= l.settle
}

// forgot reports whether Redis has just lost its data. Then Redis lost the members that a
// call does not find.
func (l *link) forgot() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == settling && l.empty
}

// regaining reports whether Redis answers again and has its data. A single room may be
// lost all the same, since a failover loses the newest writes.
func (l *link) regaining() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == settling && !l.empty
}

// runLink probes a node until ctx ends.
func (r *Replica) runLink(ctx context.Context, l *link) {
	tick := time.NewTicker(l.probe)
	defer tick.Stop()
	for {
		if l == r.links.only {
			r.links.runs()
		}
		r.probeOnce(ctx, l)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// probeOnce asks a node for its epoch and, if the node stores it, for the shared secret,
// and acts on the answer.
func (r *Replica) probeOnce(ctx context.Context, l *link) {
	node := l.at()
	before := clock()
	probed, err := r.store.Probe(ctx, node, rand.Text(), r.opts.Secret(l.late()))
	if err != nil {
		r.redisFailed(ctx, l, err)
		return
	}
	step := l.sees(probed.Now, before, clock())
	if probed.Secret != "" {
		r.opts.Shared(probed.Secret)
	}
	switch what, why := l.answered(probed.Epoch, probed.Age); what {
	case contact, back, upset:
		r.links.avoid()
		r.logAnswer(ctx, l, what, why)
		if what != contact {
			r.views.MarkStale(r.links.roomsOf(l))
		}
		if what == upset || l.forgot() {
			r.losses.unknown(r.links.roomsOf(l)) // we were stopped, or all rooms are lost
		}
		r.links.renew()
		if what == contact {
			r.views.Settled(r.links.roomsOf(l))
		}
	case settled:
		r.views.Settled(r.links.roomsOf(l))
		if node.Secret && probed.Secret == "" {
			r.probeOnce(ctx, l) // which offers our secret now
		}
	case nothing:
	}
	if step != 0 {
		r.stepped(ctx, l, step)
	}
}

// stepped reacts to a step of a node's clock. All leases are set anew, and sweeps shorten
// the leases that would now end too late.
func (r *Replica) stepped(ctx context.Context, l *link, by time.Duration) {
	r.metrics.steps.Inc()
	r.log.WarnContext(ctx, "the clock of redis was stepped", "by", by.String(), "node", l.at().Addr)
	r.sweeper.unsure(l)
	if l.trusted() != nil {
		r.views.MarkStale(r.links.roomsOf(l)) // keys may have ended
	}
	r.links.renew()
}

// logAnswer logs that a node answers or has lost its data. It limits how often it logs
// the latter.
func (r *Replica) logAnswer(ctx context.Context, l *link, what event, why string) {
	lasted, ended := l.outage.Works()
	log := r.log.With("node", l.at().Addr)
	switch {
	case what == contact:
		log.InfoContext(ctx, "redis answers", "why", why)
	case ended:
		log.InfoContext(ctx, "redis regained", "why", why, "after", lasted.Round(time.Millisecond).String())
		r.puts.extend(lasted, r.links.roomsOf(l))
	case what == upset:
		if leftOut, due := l.losses.Due(); due {
			log.WarnContext(ctx, "redis regained", "why", why, "left_out", leftOut)
		}
	}
}

// redisFailed notes that a call to a node failed. When that makes the node count as away,
// it marks the node's rooms as stale.
func (r *Replica) redisFailed(ctx context.Context, l *link, err error) {
	if ctx.Err() != nil || l == r.links.none && r.links.ready() == nil {
		return
	}
	away := l.failed(err)
	if l.gone() {
		r.links.avoid()
		if leftOut, due := l.outage.Fails(); due {
			r.log.WarnContext(ctx, "redis is away", "err", err, "node", l.at().Addr, "left_out", leftOut)
		}
	}
	if away {
		r.views.MarkStale(r.links.roomsOf(l))
	}
}

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

// maxFailures is how many probes in a row fail before Redis counts as away, so
// that one late answer does not mark every page.
const maxFailures = 2

const (
	// minSettle is what replicas need, with quick heartbeats too, to notice one
	// after the other that Redis is back: three failed tries of a call, and a
	// busy machine.
	minSettle = 600 * time.Millisecond

	// probesPerSettle keeps the last to notice well within the settling of the
	// first. maxProbe bounds for how long the shared secret can be missing.
	probesPerSettle = 4
	maxProbe        = time.Second
)

// pageLoad is how long a page may have been loading in vain when Redis answers again:
// it reloads a heartbeat interval later.
const pageLoad = 2 * time.Second

// minStop is the shortest gap that is taken for a stop of this process: a busy
// machine makes shorter ones.
const minStop = time.Second

// phase is how this replica stands with Redis.
type phase int

const (
	away     phase = iota // Redis does not answer
	settling              // it does again; replicas put back what it lost
	present               // it does
)

// errNoContact is why a replica is not ready before it has reached Redis.
var errNoContact = errors.New("Redis has not answered yet")

// times are those by which a replica judges Redis.
type times struct {
	probe  time.Duration // between two probes
	settle time.Duration // from an answer to trust in what Redis holds
	start  time.Duration // from the first answer to trust in leases nobody renewed
	stop   time.Duration // between two probes: this process was stopped, or as good as
	ttl    time.Duration // of leases
	brake  time.Duration // from an answer after a silence longer than that until many leases may end at once
	visit  time.Duration // from an answer until every page without a socket has reloaded
}

// link is the knowledge of whether a node of Redis answers and still has its data.
type link struct {
	times

	epochs *epochs // of all nodes
	alone  bool    // at the start nobody else has anything to put back

	outage terse.State // whether the node answers, for the log
	losses terse.Line  // of data, and of time

	mu       sync.Mutex // guards:
	node     store.Node
	phase    phase
	changed  chan struct{} // closed when the phase changes
	met      time.Time     // first answer; zero: none yet
	failures int
	reason   error     // why away
	ticked   time.Time // last probe
	until    time.Time // end of settling
	empty    bool      // settling, since Redis lost its data
	heldFrom time.Time // leases may have gone without renewal until then
	heldTo   time.Time // until then they get the benefit of the doubt
	visitTo  time.Time // until then those without a socket get it
	ahead    offset    // of the node's clock
	steadyAt time.Time // until then leases are set anew, since that clock was stepped
	brakeTo  time.Time // until then not many leases of one room end at once
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

// trusted returns nil when what Redis holds may be shown.
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

// pending is trusted, and where that may soon be so a channel that is closed when it may:
// while replicas put back what Redis lost, and at the start until it is known whether Redis
// answers at all.
func (l *link) pending() (soon <-chan struct{}, err error) {
	err = l.trusted()
	l.mu.Lock()
	defer l.mu.Unlock()
	if untried := l.met.IsZero() && l.failures == 0; untried || errors.Is(err, errSettling) {
		return l.changed, err
	}
	return nil, err
}

// enterLocked changes the phase and wakes those who await.
func (l *link) enterLocked(p phase) {
	l.phase = p
	close(l.changed)
	l.changed = make(chan struct{})
}

// held returns for how long leases may have gone without renewal, and whether
// they are to be spared for that. sweep is false when nothing may be removed at
// all, since this process itself has been stopped for a while.
func (l *link) held() (since time.Duration, held, sweep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase == away || time.Since(l.ticked) > l.stop {
		return 0, false, false
	}
	return time.Since(l.heldFrom), time.Now().Before(l.heldTo), true
}

// visits returns for how long connections without a socket are to be spared still: a
// page renews their leases when it reloads, and in an outage it could not.
func (l *link) visits() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.visitTo))
}

// sees notes what the clock of Redis showed, in ms, at some instant between two of ours,
// and returns by how much it was stepped since the last time; 0 if it was not. Then leases
// say something else than they did: they are spared until all replicas have set theirs anew.
func (l *link) sees(at, before, after int64) (step time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead, by := l.ahead.sees(at, before, after)
	if l.ahead = ahead; by != 0 {
		l.unsettleLocked()
	}
	return time.Duration(by) * time.Millisecond
}

// unsettle has leases spared until all replicas have set theirs anew.
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

// brakes returns for how long sweeps that would end many leases of a room at once wait
// still: after a silence of all it is more likely that nobody could be heard than that
// everybody has gone.
func (l *link) brakes() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.brakeTo))
}

// failed notes that Redis did not answer, and reports whether it is away by now
// and was not before.
func (l *link) failed(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures++
	if l.phase == away {
		if l.reason = err; l.met.IsZero() {
			l.reason = fmt.Errorf("%w: %w", errNoContact, err)
			l.enterLocked(away) // it is known now
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

// gone reports whether Redis is away, and not only late with its first answer.
func (l *link) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == away && l.failures >= maxFailures
}

// event is what a probe found out.
type event int

const (
	nothing event = iota
	contact       // the first answer
	back          // it answers again
	upset         // it lost its data without going away, or this process was stopped
	settled       // what Redis holds can be trusted again
)

// answered notes that the node answered with an epoch, which was made age ago.
//
// At the first answer a young epoch means that Redis is new, or lost its data so
// lately that others are still putting back what they hold.
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
			l.heldTo = now // nobody held a lease before, or has taken a new one since
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

// clock is what the clock of the node shows now, in ms; 0 where that is not known.
func (l *link) clock() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ahead == 0 {
		return 0
	}
	return clock() + int64(l.ahead)
}

// late reports whether every replica has had the time, since this one came, to put
// back what Redis lost.
func (l *link) late() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == present && time.Since(l.met) >= l.settle
}

// forgot reports whether members whom Redis does not know are among all those that
// it just lost.
func (l *link) forgot() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase == settling && l.empty
}

// regaining reports whether Redis answers again, with its data: a room may still be lost,
// since a failover leaves out what came last.
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

// probeOnce asks a node for its epoch and, if it has that, for the shared secret, and acts
// on the answer.
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
			r.probeOnce(ctx, l) // and offer one now
		}
	case nothing:
	}
	if step != 0 {
		r.stepped(ctx, l, step)
	}
}

// stepped has all leases set anew after the clock of a node was stepped, and those that end
// too late now set back.
func (r *Replica) stepped(ctx context.Context, l *link, by time.Duration) {
	r.metrics.steps.Inc()
	r.log.WarnContext(ctx, "the clock of redis was stepped", "by", by.String(), "node", l.at().Addr)
	r.sweeper.unsure(l)
	r.links.renew()
}

// logAnswer says that a node answers, or has lost its data, unless it does so all the
// time.
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

// redisFailed notes that a call to a node failed, and marks the node's rooms when that makes
// it count as away.
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

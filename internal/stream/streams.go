package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
)

const (
	// beat is the time between the keepalives of two slots of streams. Each stream gets a
	// keepalive every 12 s, so proxies see some bytes at least every 15 s.
	beat  = time.Second
	slots = 12

	// keepalive is a comment of the event-stream format.
	keepalive = ":\n\n"

	// openPatience is how long a new stream waits for the first read of its rooms.
	openPatience = 2 * time.Second

	// resumeTries is how often the log is read for a resumed stream, in case the room
	// changes in between.
	resumeTries = 3
)

// Options are the settings of [Streams].
type Options struct {
	// LeaveGrace is how long a member counts after its stream has ended. The client is
	// told to reconnect within a third of it. 0 means the default.
	LeaveGrace time.Duration

	// Registerer: nil means no metrics.
	Registerer prometheus.Registerer
}

// Streams are all event streams of a replica.
type Streams struct {
	rooms   *room.Rooms
	replica *replica.Replica
	opts    Options
	metrics *metrics

	sendBuffer int // smaller in tests

	running sync.WaitGroup // goroutines of streams

	mu       sync.Mutex // guards:
	n        int
	slots    [slots]map[*stream]bool // all streams, by the second in which they get keepalives
	next     int                     // slot of the next stream
	timed    map[*stream]bool        // streams that end at a set time
	feeds    map[feedKey]*feed
	seats    map[seat]*joined // the members that streams here have joined
	draining bool
	drained  chan struct{} // closed when a drain has begun and no stream is left
	stopped  bool

	doubtful chan struct{} // holds one token: doubts has entries
	doubtsMu sync.Mutex    // guards:
	doubts   map[*joined]Code
}

// New returns the streams of rooms. None is open yet. Streams that join a user make
// members of r. Streams live only while [Streams.Run] runs.
func New(rooms *room.Rooms, r *replica.Replica, opts Options) *Streams {
	if opts.LeaveGrace == 0 {
		opts.LeaveGrace = store.DefaultLeaveGrace
	}
	ss := &Streams{
		rooms: rooms, replica: r, opts: opts, sendBuffer: sendBuffer,
		timed: map[*stream]bool{}, feeds: map[feedKey]*feed{}, seats: map[seat]*joined{},
		drained: make(chan struct{}), doubtful: make(chan struct{}, 1), doubts: map[*joined]Code{},
	}
	for i := range ss.slots {
		ss.slots[i] = map[*stream]bool{}
	}
	ss.metrics = newMetrics(opts.Registerer, func() float64 { return float64(ss.Len()) })
	return ss
}

// Want is what a client asks for.
type Want struct {
	// Rooms are the rooms of the stream, at least one, each only once. Several says that
	// the client may ask for more than one; then events have no ids.
	Rooms   []string
	Several bool

	// Counts says that the client wants only numbers.
	Counts bool

	// After is the version of the one room that the client has; 0 for none.
	After int64

	// Join, if not nil, is the user that the stream joins to the one room. Its Generation
	// and TTL are not used. The user stays at most until Until.
	Join *store.Wanted

	// Until is when the client's right to observe ends, and the stream with it; zero:
	// never.
	Until time.Time

	// Ended, if not nil, is called once when the stream has ended, even if it was never
	// opened.
	Ended func()
}

// Serve opens a stream to the client of r and returns; the stream lives on. It sends the
// headers of w. With an error nothing was sent. The error is that of a limit that keeps
// the user from joining (see [replica.Replica.Attend]), [ErrStopped], or
// [http.ErrNotSupported] if the connection can't be taken over. If the user can't join
// for another reason, such as an outage, the stream opens, and the user joins when that
// is over.
func (ss *Streams) Serve(w http.ResponseWriter, r *http.Request, want Want) error {
	s := &stream{all: ss, ids: !want.Several, until: want.Until, why: TokenExpired, onEnd: want.Ended}
	draining, err := ss.register(s)
	if err != nil {
		s.tellEnd()
		return err
	}
	served := false
	defer func() {
		if !served {
			s.end()
			ss.running.Done()
		}
	}()
	ctx, cancel := context.WithTimeout(r.Context(), openPatience)
	defer cancel()
	var past *missed
	if !draining {
		var joined int64
		if want.Join != nil { // before entering: a room without viewers is then read after the join
			if joined, err = ss.join(ctx, s, want); err != nil {
				return err
			}
			ss.rooms.Heard(want.Rooms[0], joined)
		}
		for _, name := range want.Rooms {
			sub := ss.enterFeed(ctx, s, feedKey{name, want.Counts})
			sub.joined, sub.least = joined, max(joined, sub.viewer.HeardVersion())
			s.subs = append(s.subs, sub)
		}
		if want.After > 0 && s.ids && !want.Counts {
			past = ss.missed(ctx, want.Rooms[0], want.After)
		}
	}
	most := maxRetry
	if want.Join != nil {
		most = ss.opts.LeaveGrace / 3
	}
	head := headOf(w, r, most)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take the connection over: %w", errors.Join(http.ErrNotSupported, err))
	}
	served = true
	ss.begin(ctx, s, conn, head, past)
	go func() {
		defer ss.running.Done()
		s.wait()
	}()
	return nil
}

// ErrStopped is the error after this replica has ended all its streams.
var ErrStopped = errors.New("event streams have stopped")

// begin sends the first event of s.
func (ss *Streams) begin(ctx context.Context, s *stream, conn net.Conn, head []byte, past *missed) {
	s.begin(conn)
	if len(s.subs) == 0 { // draining
		s.finish(Draining)
		s.open(head, nil)
		return
	}
	for i, sub := range s.subs {
		for try := 1; !sub.feed.add(sub, head, past); try++ {
			if past = ss.missed(ctx, sub.feed.room, past.version); try == resumeTries {
				past.Whole = true
			}
		}
		if head = nil; i == 0 {
			past = nil
		}
	}
}

// headOf returns the head of the response, and the line that says when to reconnect.
func headOf(w http.ResponseWriter, r *http.Request, most time.Duration) []byte {
	Head(w)
	var head bytes.Buffer
	minor := 1
	if !r.ProtoAtLeast(1, 1) {
		minor = 0
	}
	fmt.Fprintf(&head, "HTTP/1.%d 200 OK\r\nDate: %s\r\n", minor, time.Now().UTC().Format(http.TimeFormat))
	_ = w.Header().Write(&head) // to memory
	head.WriteString("\r\n")
	head.WriteString(retryLine(most))
	return head.Bytes()
}

// Head sets the headers of a stream.
func Head(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx passes events on at once
	h.Set("Connection", "close")     // the end of the connection ends the stream
}

// missed reads what happened in a room since a version.
func (ss *Streams) missed(ctx context.Context, name string, version int64) *missed {
	reading, err := ss.rooms.Since(ctx, name, version)
	reading.Err = errors.Join(reading.Err, err)
	return &missed{version, reading}
}

// register adds s to the streams, and makes Run wait for its goroutine.
func (ss *Streams) register(s *stream) (draining bool, err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.stopped {
		return false, ErrStopped
	}
	ss.running.Add(1)
	ss.n++
	s.slot = ss.next
	ss.next = (ss.next + 1) % slots
	ss.slots[s.slot][s] = true
	if !s.until.IsZero() {
		ss.timed[s] = true
	}
	return ss.draining, nil
}

// unregister removes s from the streams.
func (ss *Streams) unregister(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.slots[s.slot], s)
	delete(ss.timed, s)
	if ss.n--; ss.n == 0 && ss.draining {
		ss.emptyLocked()
	}
}

// emptyLocked notes that a drain has ended.
func (ss *Streams) emptyLocked() {
	select {
	case <-ss.drained:
	default:
		close(ss.drained)
	}
}

// enterFeed makes s a viewer of a room.
func (ss *Streams) enterFeed(ctx context.Context, s *stream, key feedKey) *sub {
	ss.mu.Lock()
	f := ss.feeds[key]
	if f == nil {
		f = &feed{feedKey: key, all: ss}
		ss.feeds[key] = f
	}
	f.n++
	ss.mu.Unlock()
	return &sub{stream: s, feed: f, at: -1, viewer: ss.rooms.Enter(ctx, key.room, f)}
}

// leaveFeed undoes enterFeed.
func (ss *Streams) leaveFeed(f *feed) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if f.n--; f.n == 0 {
		delete(ss.feeds, f.feedKey)
	}
}

// join joins the user of s, and returns the version of the room at which the user is a
// member. While Redis is away or full, the join is tried again later.
func (ss *Streams) join(ctx context.Context, s *stream, want Want) (version int64, err error) {
	j := &joined{stream: s, room: want.Rooms[0], user: want.Join.Connection.User.ID, want: *want.Join}
	j.want.Connection.Until = want.Until
	s.joined = j
	if version, err = j.join(ctx); isLimit(err) {
		return 0, err
	} else if err != nil {
		ss.doubt(j, HasLeft)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if end := rotate(time.Now()); s.until.IsZero() || end.Before(s.until) {
		s.until, s.why = end, Rotated
	}
	ss.timed[s] = true
	return version, nil
}

// isLimit reports whether a join was refused because a limit is reached.
func isLimit(err error) bool {
	return errors.Is(err, presence.ErrRoomFull) || errors.Is(err, presence.ErrTooManyRooms) ||
		errors.Is(err, presence.ErrAddressRooms) || errors.Is(err, presence.ErrAddressMembers)
}

// Len returns the number of streams.
func (ss *Streams) Len() int {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.n
}

// Run sends keepalives, and ends streams whose time is up, until ctx ends. Then it closes
// all streams, and returns when they have ended.
func (ss *Streams) Run(ctx context.Context) error {
	var settles sync.WaitGroup
	settles.Go(func() { ss.settle(ctx) })
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for slot := 0; ; slot = (slot + 1) % slots {
		select {
		case <-tick.C:
			ss.keepAlive(slot, time.Now())
			continue
		case <-ctx.Done():
		}
		break
	}
	ss.mu.Lock()
	ss.stopped = true
	all := ss.allLocked()
	ss.mu.Unlock()
	for _, s := range all {
		s.close()
	}
	ss.running.Wait()
	settles.Wait()
	return nil
}

// allLocked lists all streams.
func (ss *Streams) allLocked() []*stream {
	all := make([]*stream, 0, ss.n)
	for _, part := range ss.slots {
		all = slices.AppendSeq(all, maps.Keys(part))
	}
	return all
}

// keepAlive sends keepalives to the streams of a slot, and ends streams whose time is up.
func (ss *Streams) keepAlive(slot int, now time.Time) {
	ss.mu.Lock()
	alive := slices.Collect(maps.Keys(ss.slots[slot]))
	over := map[*stream]Code{}
	for s := range ss.timed {
		if !now.Before(s.until) {
			over[s] = s.why
		}
	}
	var feeds []*feed
	if slot == 0 {
		feeds = slices.Collect(maps.Values(ss.feeds))
	}
	ss.mu.Unlock()
	for s, why := range over {
		s.finish(why)
	}
	for _, s := range alive {
		s.offer([]byte(keepalive))
	}
	for _, f := range feeds {
		f.forget()
	}
}

// Drain ends all streams, in random order and evenly over the given time, so that their
// clients do not all reconnect at once. If over is 0, it ends them at once. From then on
// every new stream is ended at once: the listener should accept connections until the
// balancer has stopped sending them.
//
// It returns nil when no stream is left, and an error that wraps ctx's if ctx ends first.
func (ss *Streams) Drain(ctx context.Context, over time.Duration) error {
	ss.mu.Lock()
	ss.draining = true
	if ss.n == 0 {
		ss.emptyLocked()
	}
	all := ss.allLocked()
	ss.mu.Unlock()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	start := time.Now()
	due := func(i int) time.Duration {
		return time.Duration(float64(over) * float64(i) / float64(len(all)))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := 0
	for {
		select {
		case <-ss.drained:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("drain: %d streams left: %w", ss.Len(), ctx.Err())
		case <-timer.C:
		}
		for elapsed := time.Since(start); next < len(all) && due(next) <= elapsed; next++ {
			all[next].finish(Draining)
		}
		if next < len(all) {
			timer.Reset(due(next) - time.Since(start))
		}
	}
}

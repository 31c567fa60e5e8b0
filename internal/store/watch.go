package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/presence"
	"presence/internal/terse"
)

const (
	// probeInterval is how often a listener sends itself a message.
	probeInterval = 500 * time.Millisecond

	// probeDeadline is how long a probe may be on its way before the subscription counts
	// as dead. After a failover, Redis can leave a subscriber connected to a server on
	// which nobody publishes, without any error.
	probeDeadline = 1500 * time.Millisecond

	// retryDelay is the wait between two attempts to subscribe.
	retryDelay = 250 * time.Millisecond

	// feedPatience is how long a feed is kept while none of its node's rooms are watched.
	feedPatience = time.Minute
)

// Event tells a watcher that a room has changed, or may have.
type Event struct {
	Room string

	// Resync says that messages may have been missed, so the room has to be read,
	// whatever its version. The other fields are then not set.
	Resync bool

	// Occupancy is the room's occupancy after the change.
	Occupancy presence.Occupancy

	// Names says that users came or went, and not just connections.
	Names bool
}

// message is an Event on the wire.
type message struct {
	Version     int64 `json:"version"`
	Users       int   `json:"users"`
	Connections int   `json:"connections"`
	Names       int   `json:"names"`
}

// errMessage is returned for a message that no script has published.
var errMessage = errors.New("not a change of a room")

// parseMessage reads a message of a script. It accepts unknown fields, so newer versions
// may add some.
func parseMessage(payload string) (Event, error) {
	var m message
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		return Event{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	if m.Version <= 0 || m.Users < 0 || m.Connections < 0 {
		return Event{}, errMessage
	}
	return Event{
		Occupancy: presence.Occupancy{Users: m.Users, Connections: m.Connections, Version: m.Version},
		Names:     m.Names != 0,
	}, nil
}

// Watch tells one listener about changes of the rooms that it asks for.
type Watch struct {
	store *Store
	log   *slog.Logger
	tell  func(Event)
	id    string // names this listener's probes

	ignored terse.Line // limits log lines about messages that no script published

	wake chan struct{} // holds one token: the set of rooms, or a feed, has changed

	mu    sync.Mutex // guards:
	rooms map[string]bool
}

// NewWatch returns a watch. It calls tell for every change of the rooms that are added to
// it, from one goroutine for each node of Redis, in the order of versions. tell must not
// block. Nothing happens before [Watch.Run].
func (s *Store) NewWatch(log *slog.Logger, tell func(Event)) *Watch {
	return &Watch{
		store: s,
		log:   log,
		tell:  tell,
		id:    rand.Text(),
		wake:  make(chan struct{}, 1),
		rooms: map[string]bool{},
	}
}

// Add begins to watch room. A Resync event follows once the watch receives the room's
// changes.
func (w *Watch) Add(room string) { w.set(room, true) }

// Remove ends watching room.
func (w *Watch) Remove(room string) { w.set(room, false) }

func (w *Watch) set(room string, on bool) {
	w.mu.Lock()
	if on {
		w.rooms[room] = true
	} else {
		delete(w.rooms, room)
	}
	w.mu.Unlock()
	w.rouse()
}

// rouse makes Run look at the rooms again.
func (w *Watch) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// wanted groups the watched rooms by the Redis node that publishes their changes.
func (w *Watch) wanted(ctx context.Context) map[string]map[string]bool {
	w.mu.Lock()
	rooms := make([]string, 0, len(w.rooms))
	for room := range w.rooms {
		rooms = append(rooms, room)
	}
	w.mu.Unlock()
	nodes := map[string]map[string]bool{}
	for _, room := range rooms {
		node, err := w.store.node(ctx, room)
		if err != nil {
			continue // no node has the slot now; the next tick tries again
		}
		if nodes[node] == nil {
			nodes[node] = map[string]bool{}
		}
		nodes[node][room] = true
	}
	return nodes
}

// Run listens until ctx ends, and returns when its goroutines have ended.
func (w *Watch) Run(ctx context.Context) error {
	feeds := map[string]*feed{}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		wanted := w.wanted(ctx)
		for node, rooms := range wanted {
			f := feeds[node]
			if f == nil {
				its, stop := context.WithCancel(ctx)
				f = &feed{watch: w, node: node, want: make(chan map[string]bool, 1), stop: stop}
				feeds[node] = f
				wg.Go(func() { f.run(its) })
			}
			f.wanted = time.Now()
			f.set(rooms)
		}
		for node, f := range feeds {
			switch {
			case wanted[node] != nil:
			case time.Since(f.wanted) > feedPatience: // the node may be gone for good
				f.stop()
				delete(feeds, node)
			default:
				f.set(nil)
			}
		}
		select {
		case <-w.wake:
		case <-tick.C: // slots may have moved to other nodes
		case <-ctx.Done():
			return nil
		}
	}
}

// feed is the subscription to one Redis node.
type feed struct {
	watch *Watch
	node  string
	stop  context.CancelFunc
	want  chan map[string]bool // holds the latest set of rooms; a newer one replaces it
	state terse.State          // whether its probes arrive; limits log lines

	wanted time.Time // when a room of the node was last watched
}

// set gives the feed the rooms that it should carry.
func (f *feed) set(rooms map[string]bool) {
	for {
		select {
		case f.want <- rooms:
			return
		default:
		}
		select {
		case <-f.want:
		default:
		}
	}
}

// run keeps a subscription until ctx ends.
func (f *feed) run(ctx context.Context) {
	var rooms map[string]bool
	for ctx.Err() == nil {
		for len(rooms) == 0 {
			select {
			case rooms = <-f.want:
			case <-ctx.Done():
				return
			}
		}
		var err error
		rooms, err = f.listen(ctx, rooms)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if leftOut, due := f.state.Fails(); due {
				f.watch.log.WarnContext(ctx, "subscription lost", "node", f.node, "err", err, "left_out", leftOut)
			}
			select {
			case <-time.After(retryDelay):
			case <-ctx.Done():
			}
		}
	}
}

// errSilent says that a probe did not arrive.
var errSilent = errors.New("a message to itself did not arrive")

// errMoved says that Redis ended the subscription to a room because another node has the
// room now.
var errMoved = errors.New("the room has moved to another node")

// listen subscribes to rooms and reports their changes, until the subscription fails or
// no room is left. It returns the set of rooms that was given last.
func (f *feed) listen(ctx context.Context, rooms map[string]bool) (map[string]bool, error) {
	s := f.watch.store
	sub, err := s.subscribe(ctx, f.node)
	if err != nil {
		return rooms, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	// A blocked Receive does not notice that its context has ended. Closing the
	// subscription ends it.
	heard := &hearing{feed: f, sub: sub, cancel: cancel, ending: map[string]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		heard.receive(ctx)
	}()
	defer func() {
		cancel(nil)
		_ = sub.Close()
		<-done
	}()

	on := map[string]bool{}
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		for room := range rooms {
			if !on[room] {
				// One at a time: a sharded subscription takes only one slot in a command.
				if err := s.listenTo(ctx, sub, s.keys.channel(room)); err != nil {
					return rooms, unavailable(err)
				}
				on[room] = true
			}
		}
		for room := range on {
			if !rooms[room] {
				heard.end(room)
				if err := s.listenNoMore(ctx, sub, s.keys.channel(room)); err != nil {
					return rooms, unavailable(err)
				}
				delete(on, room)
			}
		}
		if len(rooms) == 0 {
			return rooms, nil
		}
		if err := heard.probe(ctx, rooms); err != nil {
			return rooms, err
		}
		select {
		case rooms = <-f.want:
		case <-tick.C:
		case <-ctx.Done():
			return rooms, context.Cause(ctx)
		}
	}
}

// hearing is the state of one subscription.
type hearing struct {
	feed   *feed
	sub    *redis.PubSub
	cancel context.CancelCauseFunc

	room string // the probe channel is in this room's slot; owned by listen

	mu   sync.Mutex // guards:
	sent time.Time  // when the oldest probe that has not arrived was sent; zero: none
	last time.Time  // when the last probe was sent

	// ending is how often we ended the subscription to each room and Redis has not confirmed
	// it. The room may have been asked for again meanwhile.
	ending map[string]int
}

// end notes that the subscription to room is about to be ended.
func (h *hearing) end(room string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ending[room]++
}

// ended notes that the subscription to room has ended, and reports whether we ended it.
func (h *hearing) ended(room string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.ending[room] {
	case 0:
		return false
	case 1:
		delete(h.ending, room)
	default:
		h.ending[room]--
	}
	return true
}

// probe sends the next probe when it is time to, and returns an error if one is overdue.
func (h *hearing) probe(ctx context.Context, rooms map[string]bool) error {
	s := h.feed.watch.store
	if !rooms[h.room] {
		if h.room != "" {
			if err := s.listenNoMore(ctx, h.sub, s.keys.probe(h.room, h.feed.watch.id)); err != nil {
				return unavailable(err)
			}
		}
		for room := range rooms {
			h.room = room
			break
		}
		if err := s.listenTo(ctx, h.sub, s.keys.probe(h.room, h.feed.watch.id)); err != nil {
			return unavailable(err)
		}
		h.mu.Lock()
		h.sent, h.last = time.Time{}, time.Now() // the subscription may need a tick to take effect
		h.mu.Unlock()
		return nil
	}
	h.mu.Lock()
	sent, due := h.sent, time.Since(h.last) >= probeInterval
	h.mu.Unlock()
	if !sent.IsZero() && time.Since(sent) > probeDeadline {
		return errSilent
	}
	if !due {
		return nil
	}
	now := time.Now()
	h.mu.Lock()
	h.last = now
	if h.sent.IsZero() {
		h.sent = now
	}
	h.mu.Unlock()
	if err := s.send(ctx, s.keys.probe(h.room, h.feed.watch.id)); err != nil {
		// Redis takes no messages now, but the subscription may be fine.
		h.heard()
	}
	return nil
}

// heard notes that a probe has arrived.
func (h *hearing) heard() {
	h.mu.Lock()
	h.sent = time.Time{}
	h.mu.Unlock()
}

// receive reports messages until the subscription ends.
func (h *hearing) receive(ctx context.Context) {
	w := h.feed.watch
	stop := context.AfterFunc(ctx, func() { _ = h.sub.Close() })
	defer stop()
	for {
		got, err := h.sub.Receive(ctx)
		if err != nil {
			h.cancel(unavailable(err))
			return
		}
		switch m := got.(type) {
		case *redis.Subscription:
			room, ok := w.store.keys.roomOf(m.Channel)
			switch m.Kind {
			case "subscribe", "ssubscribe":
				if ok {
					w.tell(Event{Room: room, Resync: true})
				}
			case "unsubscribe", "sunsubscribe":
				if ok && !h.ended(room) && w.watches(room) {
					w.store.reload(ctx)
					w.rouse()
					h.cancel(fmt.Errorf("%s: %w", room, errMoved))
					return
				}
			}
		case *redis.Message:
			room, ok := w.store.keys.roomOf(m.Channel)
			if !ok {
				h.heard()
				if lasted, due := h.feed.state.Works(); due {
					w.log.InfoContext(ctx, "subscription regained", "node", h.feed.node, "after", lasted.Round(time.Millisecond).String())
				}
				continue
			}
			event, err := parseMessage(m.Payload)
			if err != nil {
				w.store.metrics.failed.WithLabelValues(notAScript).Inc()
				if leftOut, due := w.ignored.Due(); due {
					w.log.WarnContext(ctx, "message ignored", "room", room, "err", err, "left_out", leftOut)
				}
				continue
			}
			event.Room = room
			w.tell(event)
		}
	}
}

// watches reports whether room is still wanted.
func (w *Watch) watches(room string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rooms[room]
}

// send publishes a probe.
func (s *Store) send(ctx context.Context, channel string) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	payload := strconv.FormatInt(time.Now().UnixMilli(), 10)
	if s.opts.Sharded {
		return s.rdb.SPublish(ctx, channel, payload).Err()
	}
	return s.rdb.Publish(ctx, channel, payload).Err()
}

// node returns the address of the Redis node that publishes the changes of room; ""
// outside a Cluster.
func (s *Store) node(ctx context.Context, room string) (string, error) {
	cluster, ok := s.rdb.(*redis.ClusterClient)
	if !ok || !s.opts.Sharded {
		return "", nil
	}
	master, err := cluster.MasterForKey(ctx, s.keys.channel(room))
	if err != nil {
		return "", unavailable(err)
	}
	return master.Options().Addr, nil
}

// subscribe opens a subscription on node, without channels so far.
func (s *Store) subscribe(ctx context.Context, node string) (*redis.PubSub, error) {
	cluster, ok := s.rdb.(*redis.ClusterClient)
	if !ok || node == "" {
		return s.rdb.Subscribe(ctx), nil
	}
	var sub *redis.PubSub
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		if master.Options().Addr == node {
			sub = master.SSubscribe(ctx)
		}
		return nil
	})
	if sub == nil {
		s.reload(ctx)
		return nil, fmt.Errorf("node %s: %w", node, unavailable(errors.Join(err, errMoved)))
	}
	return sub, nil
}

// reload makes the client of a Cluster look up again which node has which slots.
func (s *Store) reload(ctx context.Context) {
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}

// listenTo adds a channel to a subscription.
func (s *Store) listenTo(ctx context.Context, sub *redis.PubSub, channel string) error {
	if s.opts.Sharded {
		return sub.SSubscribe(ctx, channel)
	}
	return sub.Subscribe(ctx, channel)
}

// listenNoMore removes a channel from a subscription.
func (s *Store) listenNoMore(ctx context.Context, sub *redis.PubSub, channel string) error {
	if s.opts.Sharded {
		return sub.SUnsubscribe(ctx, channel)
	}
	return sub.Unsubscribe(ctx, channel)
}

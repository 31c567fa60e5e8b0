package store

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"presence/internal/presence"
)

const (
	// DefaultMemberTTL is how long a connection counts after its last heartbeat. That is
	// three heartbeats, so a heartbeat that is late or lost removes nobody.
	DefaultMemberTTL = 30 * time.Second

	// DefaultLeaveGrace is how long a connection whose socket is gone still counts. A
	// refresh, or a move to another replica, takes less time.
	DefaultLeaveGrace = 10 * time.Second

	// DefaultCallTimeout bounds one round trip, repetitions included. A visitor who
	// presses Join gets an answer within 2 s, and this leaves room for the rest.
	DefaultCallTimeout = 1500 * time.Millisecond

	// DefaultPrefix is the first part of every key.
	DefaultPrefix = "presence"

	// BatchSize is the most connections that one script call takes. 500 renewals block
	// Redis for about half a millisecond. The arguments stay far below the number that
	// Lua can unpack (about 8,000 values in Redis, 5,000 in miniredis).
	BatchSize = 500

	// SweepSize is the most connections that one sweep of a room ends. To end one costs
	// Redis several times as much as a renewal, and nobody waits for a sweep. An entry of
	// the log of a large room can name that many users, so its readers learn of everybody
	// who leaves by a sweep.
	SweepSize = 50

	// keyTTLs says how long the keys of a room outlive its latest lease: this many times
	// the member TTL or the leave grace, whichever is longer.
	keyTTLs = 4

	// ReleasedGeneration is the generation of a connection whose socket is gone.
	// presence.NewGeneration never makes it.
	ReleasedGeneration = "...."
)

// Options are the settings of a [Store]. The zero value is for production.
type Options struct {
	// Prefix is the first part of every key; "" means DefaultPrefix. Several
	// installations may share one Redis under different prefixes.
	Prefix string

	// MemberTTL and LeaveGrace: 0 means the defaults.
	MemberTTL  time.Duration
	LeaveGrace time.Duration

	// CallTimeout bounds one round trip; 0 means DefaultCallTimeout.
	CallTimeout time.Duration

	// MaxRooms and MaxMembers limit the rooms that exist and the users of each;
	// 0 means no limit.
	MaxRooms   int
	MaxMembers int

	// Name is the name of the node when there is only one. The nodes of a Cluster have
	// addresses.
	Name string

	// Sharded says that changes are published by SPUBLISH, for a Redis Cluster.
	Sharded bool

	// Registerer receives the store's metrics; nil means none are kept.
	Registerer prometheus.Registerer
}

// Store keeps who is online in Redis.
type Store struct {
	rdb     redis.UniversalClient
	keys    keys
	opts    Options
	nodes   nodes
	lanes   []*lane
	notes   *notes
	metrics *metrics
}

// New returns a store on the Redis of rdb. Joins, leaves, resumes and releases wait until
// [Store.Run] runs. The caller closes rdb afterwards.
func New(rdb redis.UniversalClient, opts Options) *Store {
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	if opts.MemberTTL == 0 {
		opts.MemberTTL = DefaultMemberTTL
	}
	if opts.LeaveGrace == 0 {
		opts.LeaveGrace = DefaultLeaveGrace
	}
	if opts.CallTimeout == 0 {
		opts.CallTimeout = DefaultCallTimeout
	}
	s := &Store{rdb: rdb, keys: keys{opts.Prefix}, opts: opts, notes: newNotes(), metrics: newMetrics(opts.Registerer)}
	n := lanes
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		s.nodes.cluster, n = cluster, clusterLanes
		s.nodes.asked, s.nodes.lanes = map[string]string{}, map[string]int{}
	}
	for range n {
		s.lanes = append(s.lanes, newLane(s))
	}
	return s
}

// Run gathers and sends the changes that callers of Join, Leave, Resume and Release ask
// for, until ctx ends. It returns when its goroutines have ended and every waiting caller
// has got a result.
func (s *Store) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.runNotes(ctx) })
	for _, l := range s.lanes {
		g.Go(func() error { return l.run(ctx) })
	}
	return g.Wait()
}

// Probed is a node's answer to a probe.
type Probed struct {
	Epoch

	// Age is how long ago the epoch was made, by the clock of Redis. It is negative if
	// that is not known; then the epoch is old.
	Age time.Duration

	// Now is what the clock of the node shows, in ms.
	Now int64

	// Secret is the key of session cookies and ids. It is "" if there is none, if it
	// could not be read, or if another node has it.
	Secret string
}

// Probe asks a node for its epoch and, if the node stores it, for the secret, in one
// round trip. If there is no epoch, because the data are new or were lost, it makes one
// of fresh. If there is no secret, it stores secret, unless that is "".
//
// The error wraps [presence.ErrUnavailable], also when Redis answers but refuses writes
// for any reason other than being full.
func (s *Store) Probe(ctx context.Context, node Node, fresh, secret string) (Probed, error) {
	epoch := &call{script: epochScript, keys: []string{s.keys.epoch(node.Tag)}, args: []any{fresh}}
	known := &call{script: secretScript, keys: []string{s.keys.secret()}, args: []any{secret}}
	calls := []*call{epoch}
	if node.Secret {
		calls = append(calls, known)
	}
	if s.nodes.cluster == nil || s.owner(s.keys.schema()) == node.Addr {
		calls = append(calls, s.schemaCall()) // stores the schema again if Redis lost it
	}
	s.make(ctx, calls)
	if epoch.err != nil {
		return Probed{}, unavailable(epoch.err)
	}
	list, _ := epoch.reply.([]any)
	if len(list) != 3 {
		return Probed{}, unavailable(errReply)
	}
	probed := Probed{Epoch: Epoch{Tag: node.Tag}}
	probed.Text, _ = list[0].(string)
	age, _ := list[1].(int64)
	probed.Age = time.Duration(age) * time.Millisecond
	probed.Now, _ = list[2].(int64)
	if known.err == nil {
		probed.Secret, _ = known.reply.(string)
	}
	return probed, nil
}

// publish returns the command that publishes changes.
func (s *Store) publish() string {
	if s.opts.Sharded {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// args returns the arguments that every script of a room begins with, and reserves space
// for n more.
func (s *Store) args(room string, n int) []any {
	args := make([]any, 0, 3+n)
	spare := keyTTLs * max(s.opts.MemberTTL, s.opts.LeaveGrace)
	return append(args, s.publish(), s.keys.channel(room), spare.Milliseconds())
}

// roomCall returns a call of a script of a room. args begin with those of [Store.args].
func (s *Store) roomCall(script script, room string, args []any) *call {
	return &call{script: script, keys: s.keys.room(room), args: args}
}

// reply reads the elements of a script's reply, a list, one after the other. If an
// element has another type than asked for, err is set, and nothing more is read.
type reply struct {
	rest []any
	err  error
}

func replyOf(v any) *reply {
	list, ok := v.([]any)
	if !ok {
		return &reply{err: damaged(fmt.Errorf("%w: %T", errReply, v))}
	}
	return &reply{rest: list}
}

// next returns the next element.
func (r *reply) next() any {
	if r.err == nil && len(r.rest) == 0 {
		r.err = damaged(fmt.Errorf("%w: it is too short", errReply))
	}
	if r.err != nil {
		return nil
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reply) int() int64 {
	v := r.next()
	n, ok := v.(int64)
	if !ok && r.err == nil {
		r.err = damaged(fmt.Errorf("%w: %T instead of an integer", errReply, v))
	}
	return n
}

func (r *reply) text() string {
	v := r.next()
	text, ok := v.(string)
	if !ok && r.err == nil {
		r.err = damaged(fmt.Errorf("%w: %T instead of a string", errReply, v))
	}
	return text
}

func (r *reply) list() *reply {
	v := r.next()
	if r.err != nil {
		return r
	}
	return replyOf(v)
}

// more reports whether there is a further element.
func (r *reply) more() bool { return r.err == nil && len(r.rest) > 0 }

// occupancy reads the three numbers and the birth with which replies of changes begin.
func (r *reply) occupancy() (o presence.Occupancy, birth string) {
	o = presence.Occupancy{Users: int(r.int()), Connections: int(r.int()), Version: r.int()}
	return o, r.text()
}

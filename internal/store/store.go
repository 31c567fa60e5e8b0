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
	// DefaultMemberTTL is how long a connection counts after its last
	// heartbeat: three heartbeats, so that one late or lost removes nobody.
	DefaultMemberTTL = 30 * time.Second

	// DefaultLeaveGrace is how long a connection whose socket is gone still
	// counts: longer than a refresh or a move to another replica takes.
	DefaultLeaveGrace = 10 * time.Second

	// DefaultCallTimeout bounds one round trip, repetitions included. It leaves
	// room in the 2 s within which a visitor who presses Join has an answer.
	DefaultCallTimeout = 1500 * time.Millisecond

	// DefaultPrefix is the first part of every key.
	DefaultPrefix = "presence"

	// BatchSize is the most connections that one script call takes: 500
	// renewals block Redis for about half a millisecond, and the arguments
	// stay far below what Lua can unpack (about 8,000 values in Redis, 5,000 in
	// miniredis).
	BatchSize = 500

	// SweepSize is the most connections that one sweep of a room ends. The end of one
	// costs Redis several times a renewal, and a sweep has nobody who waits for it. An
	// entry of the log of a large room names as many users, so that its readers hear of
	// all who leave by sweeps.
	SweepSize = 50

	// keyTTLs is how many times the longer of member TTL and leave grace the keys of a
	// room outlive its latest lease.
	keyTTLs = 4

	// ReleasedGeneration is the generation of a connection whose socket is
	// gone. It is none that presence.NewGeneration makes.
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

	// Name is what the only node is called; the nodes of a Cluster have addresses.
	Name string

	// Sharded says that changes are published by SPUBLISH, as a Redis Cluster
	// wants it.
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

// New returns the store that lives in the Redis of rdb. Joins, leaves, resumes
// and releases wait until [Store.Run] runs. The caller closes rdb afterwards.
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

// Run gathers and sends what callers of Join, Leave, Resume and Release want,
// until ctx ends. It returns when its goroutines have ended and every caller
// that still waits has been told.
func (s *Store) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return s.runNotes(ctx) })
	for _, l := range s.lanes {
		g.Go(func() error { return l.run(ctx) })
	}
	return g.Wait()
}

// Probed is what a node answered.
type Probed struct {
	Epoch

	// Age is how long ago the epoch was made, by the clock of Redis. It is negative
	// where that is not known: long ago.
	Age time.Duration

	// Now is what the clock of the node shows, in ms.
	Now int64

	// Secret is the key of session cookies and ids, or "" if there is none, or it
	// could not be read, or another node has it.
	Secret string
}

// Probe asks a node for its epoch, and for the secret if it has that, in one round trip.
// Where there is no epoch, since the data is new or was lost, it makes one of fresh; where
// there is no secret, it puts secret in its place, unless that is "".
//
// The error wraps [presence.ErrUnavailable]: also when Redis answers, but refuses to
// be written to for another reason than that it is full.
func (s *Store) Probe(ctx context.Context, node Node, fresh, secret string) (Probed, error) {
	epoch := &call{script: epochScript, keys: []string{s.keys.epoch(node.Tag)}, args: []any{fresh}}
	known := &call{script: secretScript, keys: []string{s.keys.secret()}, args: []any{secret}}
	calls := []*call{epoch}
	if node.Secret {
		calls = append(calls, known)
	}
	if s.nodes.cluster == nil || s.owner(s.keys.schema()) == node.Addr {
		calls = append(calls, s.schemaCall()) // puts the schema back where Redis lost it
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

// publish is the command that publishes changes.
func (s *Store) publish() string {
	if s.opts.Sharded {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// args returns the arguments with which every script of a room begins, with space
// for n more.
func (s *Store) args(room string, n int) []any {
	args := make([]any, 0, 3+n)
	spare := keyTTLs * max(s.opts.MemberTTL, s.opts.LeaveGrace)
	return append(args, s.publish(), s.keys.channel(room), spare.Milliseconds())
}

// roomCall is one call of a script of a room. args begin with those of [Store.args].
func (s *Store) roomCall(script script, room string, args []any) *call {
	return &call{script: script, keys: s.keys.room(room), args: args}
}

// reply reads the elements of a script's reply, a list, one after the other. After
// the first that is of another kind than asked for, err says so and nothing is read.
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

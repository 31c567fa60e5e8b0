package replica

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// DefaultHeartbeatInterval is a third of the default member TTL.
	DefaultHeartbeatInterval = 10 * time.Second
)

// Options are the settings of a [Replica]. The zero value is for production.
type Options struct {
	// HeartbeatInterval: 0 means the default.
	HeartbeatInterval time.Duration

	// MemberTTL and LeaveGrace are the store's; 0 means its defaults.
	MemberTTL  time.Duration
	LeaveGrace time.Duration

	// MaxRoomsPerAddress limits in how many rooms people from one address may be
	// through this replica, and MaxMembersPerAddress how many they may be; 0 means
	// no limit. See [presence.Connection.Address].
	MaxRoomsPerAddress   int
	MaxMembersPerAddress int

	// Alone says that no other replica uses this Redis, and that none did before this one
	// started. So nobody has anything to put back at the start.
	Alone bool

	// Listed limits which rooms [Replica.Busiest] may list; nil means all rooms.
	Listed presence.Patterns

	// Secret returns the secret to store when Redis has none, or "". late says that every
	// replica that knows a secret has had the time to store it. Each time a probe reads a
	// secret from Redis, it calls Shared with it. Either may be nil.
	Secret func(late bool) string
	Shared func(secret string)

	// Self describes this replica to the other replicas.
	Self Self

	// Logger and Registerer: nil means no logs, no metrics.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Replica runs the loops of one process and holds its members. It implements
// [presence/internal/room.Trust].
type Replica struct {
	store   *store.Store
	opts    Options
	log     *slog.Logger
	metrics *metrics

	links    *links
	members  *members
	puts     *puts
	losses   *losses
	views    Views
	sweeper  *sweeper
	peers    *peers
	troubles *troubles
}

// New returns a replica on st, which must run for as long as the replica does.
// Nothing happens before [Replica.Run].
func New(st *store.Store, opts Options) *Replica {
	if opts.HeartbeatInterval == 0 {
		opts.HeartbeatInterval = DefaultHeartbeatInterval
	}
	if opts.MemberTTL == 0 {
		opts.MemberTTL = store.DefaultMemberTTL
	}
	if opts.LeaveGrace == 0 {
		opts.LeaveGrace = store.DefaultLeaveGrace
	}
	if opts.Secret == nil {
		opts.Secret = func(bool) string { return "" }
	}
	if opts.Shared == nil {
		opts.Shared = func(string) {}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Replica{store: st, opts: opts, log: opts.Logger, members: newMembers(opts), puts: newPuts(), losses: newLosses(), views: blind{}}
	r.links = newLinks(st, opts)
	r.sweeper = newSweeper(opts)
	r.peers = newPeers(opts)
	r.troubles = newTroubles()
	r.metrics = newMetrics(opts.Registerer, r)
	return r
}

// Run runs the loops until ctx ends, and returns when all have ended.
func (r *Replica) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.runLinks(ctx) })
	g.Go(func() error { return r.runHeartbeat(ctx) })
	g.Go(func() error { return r.runSweep(ctx) })
	return g.Wait()
}

// Ready returns nil when at least one node of Redis answers. Otherwise it returns the
// reason why this replica should get no visitors.
func (r *Replica) Ready() error { return r.links.ready() }

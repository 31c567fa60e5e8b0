// Package app is the server as a value: [New] checks and prepares, [App.Run]
// serves until its context ends and returns when everything has stopped. It is
// the only package that knows all the others.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"presence/internal/access"
	"presence/internal/controller"
	"presence/internal/forwarded"
	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/session"
	"presence/internal/socket"
	"presence/internal/store"
	"presence/internal/stream"
	"presence/internal/terse"
	"presence/templates"
	"presence/web"
)

const (
	// lameduckShare is the part of the shutdown timeout in which balancers notice
	// that this replica wants no new visitors. drainShare is the part in which
	// sockets are closed. The rest is for requests to finish.
	lameduckShare = 4.0 / 20
	drainShare    = 10.0 / 20

	// templateTTL is how long livetemplate keeps the template of a form post, which
	// nobody uses again.
	templateTTL = 5 * time.Second
)

// App is one replica: everything a process runs.
type App struct {
	config   Config
	parts    Parts
	log      *slog.Logger
	name     string // shown to visitors
	backend  string // likewise; empty where Redis is configured
	registry *prometheus.Registry

	embedded   *miniredis.Miniredis // nil where Redis is configured
	rdb        redis.UniversalClient
	store      *store.Store
	replica    *replica.Replica
	rooms      *room.Rooms
	streams    *stream.Streams
	cookies    *session.Cookies
	secret     *secret
	sockets    *socket.Upgrader
	controller *controller.Controller
	live       livetemplate.LiveHandler
	assets     *web.Assets

	draining atomic.Bool
	access   *access.Access

	tokenKeys *access.KeySet // nil where none are used
	limiter   *limiter       // of forms
	calls     calls          // of the API
	refused   *refused

	listener net.Listener // pages and API
	admin    net.Listener // nil where it is turned off
}

// New returns a server for config that listens already, but answers only while
// [App.Run] runs. The error wraps [ErrConfig] if a setting can't be used.
func New(config Config, log *slog.Logger) (*App, error) { return NewOf(Parts{}, config, log) }

// NewOf is [New] with parts in the place of the network and of livetemplate.
func NewOf(parts Parts, config Config, log *slog.Logger) (_ *App, err error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	a := &App{config: config, parts: parts.orReal(), log: log, name: config.ReplicaName, registry: prometheus.NewRegistry(), limiter: newLimiter(postRate), calls: newCalls(config.KeyRate), refused: newRefused()}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.name == "" {
		a.name = replicaName()
	}
	BuildInfo().register(a.registry)
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.assets = parts.Assets; a.assets == nil {
		if a.assets, err = web.Load(); err != nil {
			return nil, err
		}
	}
	secret := []byte(rand.Text()) // unless one is shared
	if config.SessionSecretFile != "" {
		text, err := readSecret("session-secret-file", config.SessionSecretFile, minSecret)
		if err != nil {
			return nil, err
		}
		secret = []byte(text)
	}
	a.cookies = session.New(secret)
	a.cookies.Framed = len(config.embedders()) > 0
	a.secret = newSecret(a.cookies, config.SessionSecretFile == "" && config.RedisURL != "")

	if err := a.openAccess(); err != nil {
		return nil, err
	}

	node, sharded, err := a.openRedis()
	if err != nil {
		return nil, err
	}
	a.store = store.New(a.rdb, store.Options{
		Name:       node,
		Prefix:     config.RedisPrefix,
		MemberTTL:  config.MemberTTL,
		LeaveGrace: config.LeaveGrace,
		MaxRooms:   config.MaxRooms,
		MaxMembers: config.MaxMembersPerRoom,
		Sharded:    sharded,
		Registerer: a.registry,
	})
	a.replica = replica.New(a.store, replica.Options{
		HeartbeatInterval: config.HeartbeatInterval,
		MemberTTL:         config.MemberTTL,
		LeaveGrace:        config.LeaveGrace,
		Alone:             a.embedded != nil,
		Self:              a.self(),
		Secret:            a.secret.offer,
		Shared:            a.secret.learn,
		Listed:            a.access.Anybody().Rooms(access.Observe),
		Logger:            log,
		Registerer:        a.registry,

		MaxRoomsPerAddress:   config.MaxRoomsPerIP,
		MaxMembersPerAddress: config.MaxMembersPerIP,
	})
	a.rooms = room.New(a.store, a.replica, room.Options{Coalesce: config.Coalesce, Logger: log, Registerer: a.registry})
	a.replica.Tell(a.rooms)
	a.streams = stream.New(a.rooms, a.replica, stream.Options{LeaveGrace: config.LeaveGrace, Registerer: a.registry})
	if err := a.makePages(); err != nil {
		return nil, err
	}
	return a, a.listen()
}

// openRedis connects to the Redis of the settings or starts the embedded one. node is the
// name of its only node; "" for a Cluster.
func (a *App) openRedis() (node string, sharded bool, err error) {
	if a.parts.Redis != nil {
		a.backend, a.rdb = "Redis", a.parts.Redis
		_, cluster := a.parts.Redis.(*redis.ClusterClient)
		return "redis", cluster, nil
	}
	if a.config.RedisURL == "" {
		a.embedded = miniredis.NewMiniRedis()
		a.embedded.ClockTTL(true)
		password := rand.Text() // other programs of this machine stay out
		a.embedded.RequireAuth(password)
		if err := a.embedded.StartAddr("127.0.0.1:0"); err != nil {
			return "", false, fmt.Errorf("start the embedded store: %w", err)
		}
		a.backend = "single replica, in memory"
		endpoint, err := store.ParseURL("redis://:" + password + "@" + a.embedded.Addr())
		if err != nil {
			return "", false, err
		}
		a.rdb = endpoint.Open("presence")
		return "embedded", false, nil
	}
	endpoint, err := a.config.endpoint()
	if err != nil {
		return "", false, err
	}
	a.rdb = endpoint.Open("presence-" + a.name)
	a.log.Info("using redis", "at", endpoint.String())
	return endpoint.Name(), endpoint.Sharded(), nil
}

// makePages makes the live pages and their sockets.
func (a *App) makePages() error {
	a.sockets = socket.New(socket.Options{
		Logger:         a.log,
		CheckOrigin:    a.originAllowed,
		Actions:        []string{"join", "leave"},
		MaxConnections: a.config.MaxConnections,
		MaxPerIP:       a.config.MaxConnectionsPerIP,
		RemoteIP:       forwarded.ClientKey,
		OnUpgrade: func(r *http.Request, c *socket.Conn) {
			controller.Attach(r, c)
			if controller.IsStranger(r) {
				a.secret.opened(c)
			}
		},
		Registerer: a.registry,
	})
	a.controller = controller.New(a.replica, a.rooms, controller.Options{
		Keys:    a.cookies.Keys,
		Replica: a.name,
		Backend: a.backend,
		Home:    a.home(),
		Origin:  forwarded.OwnOrigin,
		Refresh: a.config.HeartbeatInterval,
		Sockets: a.sockets,
		Pages:   a.parts.Pages,
		Logger:  a.log,

		MemberTTL:  a.config.MemberTTL,
		Guard:      a.cookies.Guard,
		Address:    forwarded.ClientKey,
		Allow:      func(r *http.Request) bool { return a.limiter.allow(forwarded.ClientKey(r)) },
		Registerer: a.registry,
	})
	options := append(templates.Options(a.assets),
		livetemplate.WithUpgrader(controller.Opened{}),
		livetemplate.WithAuthenticator(controller.Authenticator{}),
		livetemplate.WithTopicACL(controller.AllowTopic),
		livetemplate.WithMessageRateLimit(0, 0), // the sockets limit, without wedging forms
	)
	page, err := a.parts.Page("presence", options...)
	if err != nil {
		return fmt.Errorf("page of a room: %w", err)
	}
	if a.live, err = a.controller.LiveHandler(page, livetemplate.WithEphemeralSweepTTL(templateTTL)); err != nil {
		return fmt.Errorf("page of a room: %w", err)
	}
	return nil
}

// listen opens the listeners.
func (a *App) listen() (err error) {
	if a.listener, err = a.parts.Listen(a.config.Listen); err != nil {
		return bad("listen", a.config.Listen, cantListen(err, "choose another, such as -listen :8081"))
	}
	if a.config.AdminListen == "" {
		return nil
	}
	if a.admin, err = a.parts.Listen(a.config.AdminListen); err != nil {
		return bad("admin-listen", a.config.AdminListen, cantListen(err, "choose another, such as -admin-listen 127.0.0.1:9091, or none, -admin-listen="))
	}
	return nil
}

// cantListen says why there is no listener, and what to do if the port is taken.
func cantListen(err error, advice string) string {
	if errors.Is(err, syscall.EADDRINUSE) {
		return "another program listens there already: " + advice
	}
	return err.Error()
}

// Addr is where pages and API are served, for a test that let the system choose
// the port.
func (a *App) Addr() string { return a.listener.Addr().String() }

// AdminAddr is where the admin endpoints are served, or "".
func (a *App) AdminAddr() string {
	if a.admin == nil {
		return ""
	}
	return a.admin.Addr().String()
}

// Run serves until ctx ends, then stops gracefully within the shutdown timeout,
// and returns when all has stopped. It can be called once.
func (a *App) Run(ctx context.Context) error {
	defer a.close()

	// The deferred calls stop the visitors first, then the loops, then the store.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()

	var storeGroup, loopGroup, serverGroup errgroup.Group
	failed := make(chan error, 3)
	loopGroup.Go(func() error {
		// Before that nothing is written: it may be a Redis that this server can't use.
		if err := a.checkStore(loopCtx); err != nil {
			failed <- err // ends Run
			return nil    //nolint:nilerr // reported already
		}
		storeGroup.Go(func() error { return a.store.Run(storeCtx) })
		loopGroup.Go(func() error { return a.replica.Run(loopCtx) })
		loopGroup.Go(func() error { return a.rooms.Run(loopCtx) })
		return nil
	})
	loopGroup.Go(func() error { return a.sockets.Run(loopCtx) })
	loopGroup.Go(func() error { return a.streams.Run(loopCtx) })
	loopGroup.Go(func() error { return a.limiter.run(loopCtx) })
	loopGroup.Go(func() error { return a.calls.run(loopCtx) })
	if a.tokenKeys != nil {
		loopGroup.Go(func() error { return a.tokenKeys.Run(loopCtx) })
	}

	public, admin := a.server(a.routes()), a.server(a.adminRoutes())
	serve := func(s *http.Server, l net.Listener) {
		serverGroup.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	serve(public, a.listener)
	if a.admin != nil {
		serve(admin, a.admin)
	}
	a.announce(ctx)

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	a.drain(err == nil, public, admin)
	_ = serverGroup.Wait() // reports through failed
	stopLoops()
	err = errors.Join(err, loopGroup.Wait())
	stopStore()
	err = errors.Join(err, storeGroup.Wait())
	a.log.InfoContext(ctx, "stopped")
	return err
}

// checkInterval is how often Redis is asked at the start whether it can be used.
const checkInterval = time.Second

// checkStore waits until Redis answers, and returns an error if this server can't work
// with it. When ctx ends it returns nil: there is nothing left to do.
func (a *App) checkStore(ctx context.Context) error {
	var silent terse.Line
	for ctx.Err() == nil {
		err := a.store.Check(ctx)
		if !errors.Is(err, presence.ErrUnavailable) {
			return err
		}
		a.replica.Failed(ctx, "", err) // so that /readyz and pages say it at once
		if leftOut, due := silent.Due(); due && ctx.Err() == nil {
			a.log.WarnContext(ctx, "redis does not answer yet", "err", err, "left_out", leftOut)
		}
		select {
		case <-time.After(checkInterval):
		case <-ctx.Done():
		}
	}
	return nil
}

// announce says where to go.
func (a *App) announce(ctx context.Context) {
	if a.embedded != nil {
		a.log.InfoContext(ctx, "no -redis-url: using an embedded store, for this one replica and until it stops")
	}
	if !a.assets.Built() {
		a.log.WarnContext(ctx, "browser assets are not built in: pages load them from the npm CDN (run `make assets` to change that)")
	}
	_, port, _ := net.SplitHostPort(a.Addr())
	a.log.InfoContext(ctx, "serving", "url", "http://localhost:"+port, "listen", a.Addr(), "admin", a.AdminAddr(), "replica", a.name, "version", BuildInfo().Version)
}

// drain stops serving so that nobody notices it. Balancers are told first. Then
// sockets are closed, a few at a time and while new ones are still accepted, so that
// pages reconnect to other replicas. Then the listeners close.
//
// gently says that pages can reconnect elsewhere. After a failure it is false, and drain
// does not wait.
func (a *App) drain(gently bool, servers ...*http.Server) {
	timeout := a.config.ShutdownTimeout
	share := func(part float64) time.Duration { return time.Duration(part * float64(timeout)) }
	a.log.Info("draining", "sockets", a.sockets.Len(), "streams", a.streams.Len(), "timeout", timeout.String())
	a.draining.Store(true)

	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if gently && a.embedded == nil { // an embedded store has no second replica to go to
		select {
		case <-time.After(share(lameduckShare)):
		case <-ctx.Done():
		}
		a.drainOver(ctx, share(drainShare))
	} else {
		a.drainOver(ctx, 0)
	}
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			a.report("requests cut off", errors.Join(err, s.Close()))
		}
	}
	a.report("page handler not finished", a.live.Shutdown(ctx))
	a.report("visits not finished", a.controller.Wait(ctx))
}

// drainOver closes sockets and ends streams over the given time.
func (a *App) drainOver(ctx context.Context, over time.Duration) {
	var drains sync.WaitGroup
	drains.Go(func() { a.report("sockets not all closed", a.sockets.Drain(ctx, over)) })
	drains.Go(func() { a.report("streams not all ended", a.streams.Drain(ctx, over)) })
	drains.Wait()
}

// report logs an error of the stop, if there is one.
func (a *App) report(what string, err error) {
	if err != nil {
		a.log.Warn("stop not clean", "what", what, "err", err)
	}
}

// close releases what New opened.
func (a *App) close() {
	if a.live != nil {
		_ = a.live.Shutdown(context.Background()) // ends its goroutines; the error of an earlier call was logged
	}
	for _, l := range []net.Listener{a.listener, a.admin} {
		if l != nil {
			_ = l.Close() // closed already by the server in the normal case
		}
	}
	if a.rdb != nil {
		if err := a.rdb.Close(); err != nil {
			a.log.Warn("redis client not closed", "err", err)
		}
	}
	if a.embedded != nil {
		a.embedded.Close()
	}
}

// replicaName is a name that tells this process from the other replicas.
func replicaName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "replica"
	}
	return host + "-" + rand.Text()[:4]
}

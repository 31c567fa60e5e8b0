package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

const (
	// startTimeout is how long a process may take until it answers: a machine
	// that also compiles is slow.
	startTimeout = 30 * time.Second

	// drainTimeout is the -shutdown-timeout of replicas: nobody waits for a
	// balancer elsewhere.
	drainTimeout = 3 * time.Second

	// stopTimeout is how long a process may take to end when asked to.
	stopTimeout = drainTimeout + 5*time.Second

	// askInterval is how often a process is asked whether it answers.
	askInterval = 50 * time.Millisecond
)

// cluster is all that runs.
type cluster struct {
	settings
	out    io.Writer
	client *http.Client
	ports  *ports
	dir    string // of the binary, configurations and logs
	key    string // of the API, for this run

	redisAddr string
	embedded  *miniredis.Miniredis // nil where Redis is a process
	redis     *program             // nil where it is embedded
	replicas  []*program
	balancer  *program // nil where there is none
	missing   string   // why

	mu sync.Mutex // guards writing to out
}

func newCluster(s settings, out io.Writer) (*cluster, error) {
	dir, err := os.MkdirTemp("", "presence-cluster-")
	if err != nil {
		return nil, fmt.Errorf("folder for logs: %w", err)
	}
	return &cluster{
		settings: s, out: out, dir: dir, ports: newPorts(s.port),
		client: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}, nil
}

// run starts everything, supervises it until ctx ends, and stops it: replicas first,
// while Redis and the balancer still answer.
func (c *cluster) run(ctx context.Context) error {
	defer func() { _ = os.RemoveAll(c.dir) }() //nolint:gosec // made by newCluster; what remains is the system's to remove
	defer func() {
		if c.embedded != nil {
			c.embedded.Close()
		}
	}()
	if err := c.prepare(ctx); err != nil {
		return quiet(ctx, err)
	}

	// The deferred calls run backwards: they stop the replicas first.
	var around, servers sync.WaitGroup
	aroundCtx, stopAround := context.WithCancel(context.WithoutCancel(ctx))
	defer around.Wait()
	defer stopAround()
	serverCtx, stopServers := context.WithCancel(context.WithoutCancel(ctx))
	defer servers.Wait()
	defer stopServers()

	// start starts processes, which are stopped when until ends, and returns
	// when all answer.
	start := func(until context.Context, group *sync.WaitGroup, processes ...*program) error {
		for _, p := range processes {
			if err := p.start(); err != nil {
				return err
			}
			group.Go(func() { c.supervise(until, p) })
		}
		for _, p := range processes {
			if err := c.await(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}
	if c.redis != nil {
		if err := start(aroundCtx, &around, c.redis); err != nil {
			return quiet(ctx, err)
		}
	}
	if err := start(serverCtx, &servers, c.replicas...); err != nil {
		return quiet(ctx, err)
	}
	if c.balancer != nil {
		if err := start(aroundCtx, &around, c.balancer); err != nil {
			return quiet(ctx, err)
		}
	}
	c.overview()
	<-ctx.Done()
	c.say("\nStopping: replicas close their sockets, then the rest ends.")
	return nil
}

// quiet returns nil for an error that only says that ctx ended.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// prepare builds the server if needed, and lists the processes to run.
func (c *cluster) prepare(ctx context.Context) error {
	if c.server == "" {
		c.say("Building the server; the first time this takes a minute or two ...")
		c.server = filepath.Join(c.dir, "server")
		// As `make build` does, so that each builds what the other has not.
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", c.server, "presence/cmd/server") //nolint:gosec // our own program
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the server: %w\n%s", err, said)
		}
	}
	path, err := filepath.Abs(c.server)
	if err != nil {
		return err
	}
	c.server = path

	haproxy, missing := c.findHAProxy()
	c.missing = missing
	entry, err := c.ports.next()
	if err != nil {
		return err
	}
	if c.port != 0 && entry != c.port {
		c.say("Port %d is taken: using %d.", c.port, entry)
	}
	pages := make([]string, c.count) // without a balancer the first is the entry
	for i := range pages {
		port := entry
		if haproxy != "" || i > 0 {
			if port, err = c.ports.next(); err != nil {
				return err
			}
		}
		pages[i] = at(port)
	}
	for i, page := range pages {
		admin, err := c.ports.next()
		if err != nil {
			return err
		}
		c.replicas = append(c.replicas, c.replica(i+1, page, at(admin)))
	}
	if err := c.prepareRedis(); err != nil {
		return err
	}
	keys, err := c.makeKey(ctx)
	if err != nil {
		return err
	}
	for _, p := range c.replicas {
		p.args = append(p.args, "-redis-url", "redis://"+c.redisAddr, "-api-keys-file", keys)
		p.args = append(p.args, c.args...) // the last of two equal flags counts
	}
	if haproxy == "" {
		return nil
	}
	c.balancer, err = c.prepareHAProxy(haproxy, at(entry), pages)
	return err
}

// makeKey makes an API key for this run, and returns the file that lists it for replicas.
func (c *cluster) makeKey(ctx context.Context) (file string, err error) {
	cmd := exec.CommandContext(ctx, c.server, "-new-api-key", "run") //nolint:gosec // our own program
	cmd.Env = environ()
	printed, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("make an API key: %w", err)
	}
	key, line, _ := strings.Cut(string(printed), "\n")
	c.key, file = key, filepath.Join(c.dir, "keys")
	return file, os.WriteFile(file, []byte(line), 0o600) //nolint:gosec // in our own folder
}

// at is the address of a port of the loopback interface.
func at(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// replica describes a server process. Its pages show the same name.
func (c *cluster) replica(n int, listen, admin string) *program {
	name := fmt.Sprintf("replica-%d", n)
	return &program{
		name: name, url: "http://" + listen, addr: listen, admin: admin,
		path: c.server,
		args: []string{
			"-replica-name", name, "-listen", listen, "-admin-listen", admin, "-trusted-proxies", "127.0.0.0/8",
			"-shutdown-timeout", drainTimeout.String(), "-log-format", "text",
		},
		log:     filepath.Join(c.dir, name+".log"),
		answers: c.says200("http://" + admin + "/readyz"),
		loss:    "its visitors come back on the others",
	}
}

// prepareRedis makes Redis ready to start, or starts an embedded one.
func (c *cluster) prepareRedis() error {
	binary, _ := exec.LookPath("redis-server")
	if binary == "" {
		c.embedded = miniredis.NewMiniRedis()
		c.embedded.ClockTTL(true)
		if err := c.embedded.StartAddr("127.0.0.1:0"); err != nil {
			return fmt.Errorf("start the embedded store: %w", err)
		}
		c.redisAddr = c.embedded.Addr()
		return nil
	}
	port, err := c.ports.next()
	if err != nil {
		return err
	}
	c.redisAddr = at(port)
	c.redis = &program{
		name: "Redis", addr: c.redisAddr, path: binary,
		args: []string{
			"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
			"--dir", c.dir, "--maxmemory-policy", "noeviction",
		},
		log:     filepath.Join(c.dir, "redis.log"),
		answers: accepts(c.redisAddr),
		loss:    "pages show the last count, marked stale",
	}
	return nil
}

// says200 returns a function that reports whether a URL is answered with 200.
func (c *cluster) says200(url string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // one of our own processes
		if err != nil {
			return false
		}
		reply, err := c.client.Do(r) //nolint:gosec // likewise
		if err != nil {
			return false
		}
		_ = reply.Body.Close()
		return reply.StatusCode == http.StatusOK
	}
}

// accepts returns a function that reports whether a process listens on an address.
func accepts(addr string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
}

var (
	errEnded    = errors.New("it ended")
	errNoAnswer = fmt.Errorf("no answer within %v", startTimeout)
)

// await waits until a process that was started answers.
func (c *cluster) await(ctx context.Context, p *program) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	now := p.running()
	for !p.answers(ctx) {
		select {
		case <-now.Ended():
			return fmt.Errorf("%s: %w (%v):\n%s", p.name, errEnded, now.State(), p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w:\n%s", p.name, errNoAnswer, p.lastWords())
		case <-tick.C:
		}
	}
	return nil
}

// supervise does what an orchestrator does: when a process dies it says so, and starts
// the process again. When ctx ends it stops the process, and returns when the process has
// ended.
func (c *cluster) supervise(ctx context.Context, p *program) {
	for {
		now := p.running()
		select {
		case <-ctx.Done():
			now.Stop(stopTimeout)
			return
		case <-now.Ended():
		}
		if ctx.Err() != nil {
			return
		}
		again := "it stays away (-restart 0)"
		if c.restart > 0 {
			again = fmt.Sprintf("it starts again in %v", c.restart)
		}
		c.say("%s  %s (pid %d) died: %v; %s; %s", clock(), p.name, now.ID(), now.State(), p.loss, again)
		if c.restart == 0 {
			return
		}
		select {
		case <-time.After(c.restart):
		case <-ctx.Done():
			return
		}
		if err := p.start(); err != nil {
			c.say("%s  %s does not start: %v", clock(), p.name, err)
			return
		}
		if err := c.await(ctx, p); err == nil {
			c.say("%s  %s is back: %s", clock(), p.name, p.killCommand())
		}
	}
}

func clock() string { return time.Now().Format(time.TimeOnly) }

// say prints a line.
func (c *cluster) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

// overview says what runs and what can be done with it.
func (c *cluster) overview() {
	entry := c.replicas[0].url
	if c.balancer != nil {
		entry = c.balancer.url
	}
	_, port, _ := net.SplitHostPort(entry[len("http://"):])
	c.say("\n  Presence: %d replicas over one Redis\n\n  open       http://localhost:%s\n", len(c.replicas), port)
	line := func(name, addr string, p *program) {
		kill := "in this process"
		if p != nil {
			kill = p.killCommand()
		}
		if p != nil && p.admin != "" {
			kill = fmt.Sprintf("%-16s http://%s/metrics", kill, p.admin)
		}
		c.say("  %-10s %-24s %s", name, addr, kill)
	}
	for _, p := range c.replicas {
		line(p.name, p.url, p)
	}
	line("Redis", c.redisAddr, c.redis)
	if c.balancer != nil {
		line(c.balancer.name, c.balancer.addr, c.balancer)
	}
	if c.embedded != nil {
		c.say("             redis-server is not installed (apt-get install redis-server):\n             a store in memory takes its place")
	}
	if c.balancer == nil {
		c.say("  HAProxy    %s\n             open the replicas one by one", c.missing)
	}
	c.say("\n  logs       %s", c.dir)
	c.say("  API key    %s", c.key)
	after := ""
	if c.restart > 0 {
		after = fmt.Sprintf(", which is back after %v", c.restart)
	}
	c.say("  try        join, see at the foot of the page which replica serves it,\n             and kill that replica%s", after)
	if c.redis != nil {
		_, port, _ := net.SplitHostPort(c.redisAddr)
		c.say("             redis-cli -p %s SCARD 'presence:{lobby}:online'", port)
	}
	c.say("  stop       Ctrl-C\n")
}

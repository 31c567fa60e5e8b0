package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/app"
	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/test/memnet"
	"presence/test/outside"
)

// The settings of the replicas, about a third of the defaults: what takes long takes
// many probes of Redis, which is what a run spends its time on.
const (
	heartbeat = 4 * time.Second
	ttl       = 9 * time.Second
	grace     = 3 * time.Second
	settle    = 1200 * time.Millisecond
	silence   = 25 * time.Second // until a network that vanished is noticed
	kept      = 6 * heartbeat    // that a browser without JavaScript keeps who it is

	// glance is the time between two looks of the model at everything.
	glance = 250 * time.Millisecond

	// host is where all browsers go.
	host = "presence.test"
)

// rooms and names are those there are in a run. They are few, so that people meet.
var (
	rooms = []string{"lobby", "tea"}
	names = []string{"Ann", "Ben", "Cem", "Dee"}
)

func pathOf(room string) string {
	if room == "lobby" {
		return "/"
	}
	return "/rooms/" + room
}

// world is one run.
type world struct {
	t       *testing.T
	plan    plan
	redis   []*redistest.Fake      // one, or the masters of
	cluster *redistest.FakeCluster // nil: it is one Redis
	begun   time.Time

	change func(*app.Config) // of the processes; nil: nothing

	mu       sync.Mutex // guards all that follows, and the visitors and the model:
	procs    []*proc    // by place; a place has a new process after a kill or a drain
	visitors []*visitor
	programs []*program
	rng      *rand.Rand // of steps, which come one after another
	events   []event    // to come
	model    *model
	log      []string
	failure  string
	kind     string    // the same for failures that are alike
	over     bool      // nothing more can be said
	killed   time.Time // a replica, last
}

// newWorld returns a run that has not begun.
func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	w := &world{t: t, plan: p, begun: time.Now(), rng: rand.New(rand.NewPCG(p.seed, 2))}
	if p.masters > 0 {
		w.cluster = redistest.NewFakeCluster(t, p.masters)
		w.redis = w.cluster.Nodes
	} else {
		w.redis = []*redistest.Fake{redistest.NewFake(t)}
	}
	w.model = newModel(w)
	return w
}

// node is the number of the node that has a key.
func (w *world) node(key string) int {
	if w.cluster == nil {
		return 0
	}
	return w.cluster.NodeOf(key)
}

// nodeOf is the number of the node that has a room.
func (w *world) nodeOf(room string) int { return w.node("{" + room + "}") }

// having is the node that has a key.
func (w *world) having(key string) *redistest.Fake { return w.redis[w.node(key)] }

// event is something that takes place later.
type event struct {
	at time.Time
	do func()
}

// fail notes what is wrong. The first counts.
func (w *world) fail(format string, args ...any) {
	if w.failure == "" && !slices.ContainsFunc(known, func(kind string) bool { return strings.Contains(format, kind) }) {
		w.failure, w.kind = fmt.Sprintf(format, args...), format
		w.note("FAILED: %s", w.failure)
	}
}

// known are kinds of failures to go on after, each by some words of it.
var known = strings.FieldsFunc(os.Getenv("PRESENCE_SIM_KNOWN"), func(r rune) bool { return r == ',' })

// note writes a line into the story of the run.
func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%8.3f ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// after has do done in d, with the lock held.
func (w *world) after(d time.Duration, do func()) {
	w.events = append(w.events, event{time.Now().Add(d), do})
}

// calm returns a world of so many replicas that all work, in which only the test acts. change
// may be nil.
func calm(t *testing.T, replicas int, change func(*app.Config)) *world {
	t.Helper()
	w := newWorld(t, plan{seed: 1})
	w.change = change
	for place := range replicas {
		w.procs = append(w.procs, w.run(place))
	}
	t.Cleanup(w.end)
	time.Sleep(ttl)
	return w
}

// inLobby returns the name of the user of each connection in the lobby, as Redis has them.
func (w *world) inLobby() string {
	synctest.Wait()
	var names []string
	conns, _ := w.redis[0].HKeys("presence:{lobby}:conns")
	for _, conn := range conns {
		user := w.redis[0].HGet("presence:{lobby}:conns", conn)[presence.GenerationSize:]
		_, name, _ := strings.Cut(w.redis[0].HGet("presence:{lobby}:users", user), " ")
		name, _, _ = strings.Cut(name, "\n") // no metadata
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// proc is a replica as a process: with its own way to Redis and to browsers.
type proc struct {
	place  int
	links  []*redistest.Link // to each node of Redis
	public *memnet.Listener
	admin  *memnet.Listener
	stop   context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex // guards:
	conns map[*memnet.Conn]bool
	held  bool
	idle  map[*memnet.Listener]*line // of the watcher

	// Guarded by world.mu.
	dead     bool // or on its way to be
	draining bool
	back     time.Duration // after which another takes the place of a drained one
	ready    bool          // has been, once
	cut      []bool        // from which nodes of Redis
	away     bool          // isolated from all
	wasAway  bool          // once
	lossy    bool          // the reply to something is going to be lost
	started  time.Time     // when
}

// healthy reports whether nothing is the matter with p, and its way to a node of Redis.
func (p *proc) healthy(node int) bool {
	return !p.dead && !p.draining && !p.cut[node] && !p.away && p.ready
}

// run starts a process at a place.
func (w *world) run(place int) *proc {
	p := &proc{place: place, cut: make([]bool, len(w.redis)), done: make(chan struct{}), conns: map[*memnet.Conn]bool{}, idle: map[*memnet.Listener]*line{}, started: time.Now()}
	var client redis.UniversalClient
	if w.cluster != nil {
		client, p.links = w.cluster.Links(w.t)
	} else {
		p.links = []*redistest.Link{w.redis[0].Link(w.t)}
		client = p.links[0].Client
	}
	config := app.Default()
	config.RedisURL = "redis://10.0.0.99" // which is client
	config.APIKeysFile = keysFile
	config.HeartbeatInterval, config.MemberTTL, config.LeaveGrace = heartbeat, ttl, grace
	if w.change != nil {
		w.change(&config)
	}
	address := &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(place+1)), Port: 80}
	parts := app.Parts{Redis: client, Page: outside.NewPage, Assets: outside.Assets(), Pages: outside.Pages(), Listen: func(string) (net.Listener, error) {
		l := memnet.Listen(address)
		if p.public == nil {
			p.public = l
		} else {
			p.admin = l
		}
		return l, nil
	}}
	a, err := app.NewOf(parts, config, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.done)
		if err := a.Run(ctx); err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !p.dead {
				w.fail("replica %d ended: %v", place, err)
			}
		}
	}()
	return p
}

// dial connects to a process.
func (p *proc) dial(l *memnet.Listener, from net.Addr) (*memnet.Conn, error) {
	c, err := l.Dial(from)
	if err != nil {
		return nil, err
	}
	if from != watcher {
		c.Delay(time.Millisecond) // no network takes no time, and the order of things hangs on that
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		c.Hold(true)
	}
	p.conns[c] = true
	return c, nil
}

// hold has nothing arrive from browsers or at them.
func (p *proc) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	for c := range p.conns {
		c.Hold(held)
	}
}

// forget says that a connection is closed.
func (p *proc) forget(c *memnet.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// kill ends the process as kill -9 does.
func (p *proc) kill() {
	p.dead = true
	for _, link := range p.links {
		link.Cut()
		link.Hold(false)
	}
	_ = p.public.Close()
	_ = p.admin.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Break()
	}
	clear(p.conns)
	p.mu.Unlock()
	p.stop()
}

// ended reports whether the process has ended.
func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// pick is the replica that the balancer sends somebody to: the one that is wanted, if
// it takes visitors, or another; nil if there is none.
func (w *world) pick(rng *rand.Rand, want int) *proc {
	var open []*proc
	for _, p := range w.procs {
		if p != nil && !p.dead && !p.draining {
			open = append(open, p)
		}
	}
	if len(open) == 0 {
		return nil
	}
	for _, p := range open {
		if p.place == want {
			return p
		}
	}
	return open[rng.IntN(len(open))]
}

// answer is one of HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

// exchange sends a request to a process and reads the answer. It holds no lock.
func (p *proc) exchange(l *memnet.Listener, from net.Addr, r *http.Request, patience time.Duration) (*answer, error) {
	c, err := p.dial(l, from)
	if err != nil {
		return nil, err
	}
	defer p.forget(c)
	defer c.Close()
	r.Close = true
	return (&line{c, bufio.NewReaderSize(c, 1<<10)}).exchange(r, patience)
}

// line is a connection for requests.
type line struct {
	conn   *memnet.Conn
	reader *bufio.Reader
}

// exchange sends a request and reads the answer.
func (n *line) exchange(r *http.Request, patience time.Duration) (*answer, error) {
	timer := time.AfterFunc(patience, n.conn.Break)
	defer timer.Stop()
	if err := r.Write(n.conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(n.reader, r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &answer{response.StatusCode, response.Header, string(body)}, nil
}

// ask is exchange for the model itself, which asks all the time: it keeps its connections.
func (p *proc) ask(l *memnet.Listener, path string) (*answer, error) {
	r := request(http.MethodGet, path, "")
	p.mu.Lock()
	n := p.idle[l]
	delete(p.idle, l)
	p.mu.Unlock()
	if n == nil {
		c, err := p.dial(l, watcher)
		if err != nil {
			return nil, err
		}
		n = &line{c, bufio.NewReaderSize(c, 1<<10)}
	}
	a, err := n.exchange(r, 5*time.Second)
	if err != nil {
		_ = n.conn.Close()
		p.forget(n.conn)
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle[l] = n
	return a, nil
}

// request is one of a browser without cookies or headers.
func request(method, path, body string) *http.Request {
	r, err := http.NewRequestWithContext(context.Background(), method, "http://"+host+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	return r
}

// watcher is the address of the model itself.
var watcher net.Addr = &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 9999}

// metrics returns how many viewers and members a process says it has, by the names of metrics.
func (p *proc) metrics() (map[string]float64, error) {
	a, err := p.ask(p.admin, "/metrics?name[]=presence_viewers&name[]=presence_local_members")
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for line := range strings.Lines(a.body) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && strings.HasPrefix(name, "presence_") {
			values[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return values, nil
}

// sleep lets time pass, and looks at everything on the way.
func (w *world) sleep(d time.Duration) {
	for end := time.Now().Add(d); !w.failed(); {
		left := time.Until(end)
		time.Sleep(min(glance, max(left, 0)))
		synctest.Wait()
		w.look()
		if left <= glance {
			return
		}
	}
}

// look does what is due, and has the model look.
func (w *world) look() {
	w.mu.Lock()
	var due []event
	rest := w.events[:0]
	for _, e := range w.events {
		if e.at.After(time.Now()) {
			rest = append(rest, e)
		} else {
			due = append(due, e)
		}
	}
	w.events = rest
	for place, p := range w.procs {
		if p.draining && !p.dead && p.ended() {
			p.dead = true
			w.after(p.back, func() { w.restart(place) })
		}
	}
	for _, e := range due {
		e.do()
	}
	w.mu.Unlock()
	if len(due) > 0 {
		synctest.Wait()
	}
	w.model.look()
}

// trouble says that a fault of replicas takes place now.
func (w *world) trouble() { w.model.trouble = time.Now() }

// troubleOf says that a fault of a node of Redis takes place now.
func (w *world) troubleOf(node int) { w.model.nodes[node].trouble = time.Now() }

// outcome is what became of a run.
type outcome struct {
	failure string // "" if nothing is wrong
	kind    string // the same for failures of one kind
	story   []string
}

// simulate runs a plan.
func simulate(t *testing.T, p plan) (o outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, p)
		w.live()
		o = outcome{w.failure, w.kind, w.log}
	})
	return o
}

// live is a run from beginning to end.
func (w *world) live() {
	places := 2 + w.rng.IntN(2)
	w.mu.Lock()
	for place := range places {
		w.procs = append(w.procs, w.run(place))
	}
	w.visit()
	w.employ()
	w.mu.Unlock()
	for !w.ready() && !w.failed() {
		w.sleep(time.Second)
	}
	for _, s := range w.plan.steps {
		w.sleep(s.wait)
		if w.failed() {
			break
		}
		w.mu.Lock()
		w.note("%s", s)
		steps[s.what](w, s)
		w.mu.Unlock()
		synctest.Wait()
		w.look()
	}
	if !w.failed() {
		w.rest()
	}
	w.mu.Lock()
	for _, v := range w.visitors {
		v.close(false)
	}
	for _, p := range w.programs {
		p.quit(false)
	}
	w.mu.Unlock()
	if !w.failed() {
		w.rest()
	}
	w.end()
}

// ready reports whether all processes have come up, and know the secret that they
// share. They have half a minute for it.
func (w *world) ready() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.begun) > 30*time.Second {
		w.fail("not ready after %v", time.Since(w.begun))
	}
	return w.model.learn() && !slices.ContainsFunc(w.procs, func(p *proc) bool { return !p.ready })
}

// heal ends all faults.
func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.events) > 0 { // some begin others
		events := w.events
		w.events = nil
		for _, e := range events {
			e.do()
		}
	}
	for place, p := range w.procs {
		for _, link := range p.links {
			link.LoseReply("", 0)
		}
		p.lossy = false
		if p.dead {
			w.procs[place] = w.run(place)
			w.trouble()
		}
	}
}

// rest ends all faults, waits until everything must have come to rest, and compares.
func (w *world) rest() {
	w.heal()
	for w.draining() && !w.failed() {
		w.sleep(time.Second)
	}
	w.heal()
	w.mu.Lock()
	w.note("rest")
	trouble := w.model.trouble
	for _, s := range w.model.nodes {
		trouble = maxTime(trouble, s.trouble)
	}
	wait := max(
		heartbeat+settle+2*time.Second,
		time.Until(trouble)+ttl+ttl*2/3+heartbeat+settle+2*time.Second,
		time.Until(w.model.busy),
	)
	w.mu.Unlock()
	w.sleep(wait)
	if !w.failed() {
		w.model.compare()
	}
}

// draining reports whether some process is about to end.
func (w *world) draining() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.procs, func(p *proc) bool { return p.draining && !p.dead })
}

// failed reports whether something is wrong, or nothing more can be said.
func (w *world) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure != "" || w.over
}

// end stops everything.
func (w *world) end() {
	for _, f := range w.redis {
		f.Up()
	}
	w.mu.Lock()
	w.events = nil
	for _, p := range w.procs {
		p.hold(false)
		p.kill()
	}
	w.mu.Unlock()
	for _, p := range w.procs {
		<-p.done
	}
	time.Sleep(time.Minute) // for those that were killed before
}

// steps are all that can happen. They run with the lock held.
var steps map[string]func(*world, step)

func init() { //nolint:gochecknoinits // the steps name each other
	steps = map[string]func(*world, step){
		"rest": func(w *world, _ step) {
			w.mu.Unlock()
			w.rest()
			w.mu.Lock()
		},
		"open": func(w *world, s step) {
			w.visitors[s.arg(0)%len(w.visitors)].open(rooms[s.arg(1)%len(rooms)], s.arg(2)%len(w.procs))
		},
		"hasty":    func(w *world, s step) { w.visitors[s.arg(0)%len(w.visitors)].hasty(s) },
		"join":     func(w *world, s step) { w.visitor(s).press("join", names[s.arg(1)%len(names)], 1) },
		"leave":    func(w *world, s step) { w.visitor(s).press("leave", "", 1) },
		"twice":    func(w *world, s step) { w.visitor(s).twice(s) },
		"twonames": func(w *world, s step) { w.visitor(s).twoNames(s) },
		"close":    func(w *world, s step) { w.visitor(s).close(s.arg(1)%2 == 0) },
		"reload":   func(w *world, s step) { w.visitor(s).reload(s) },
		"form":     func(w *world, s step) { w.visitor(s).form(s) },
		"json":     func(w *world, s step) { w.visitor(s).json(s) },
		"hostile":  func(w *world, s step) { w.visitor(s).hostile(s) },
		"head":     func(w *world, s step) { w.visitor(s).head(s) },
		"forge":    func(w *world, s step) { w.visitor(s).forge(s) },
		"drop":     func(w *world, s step) { w.visitor(s).drop() },
		"vanish":   func(w *world, s step) { w.visitor(s).vanish() },
		"lossy":    func(w *world, s step) { w.visitor(s).lossy(s) },

		"watch":  func(w *world, s step) { w.program("watch", s).start(s) },
		"attend": func(w *world, s step) { w.program("attend", s).start(s) },
		"put":    func(w *world, s step) { w.program("put", s).start(s) },
		"hangup": func(w *world, s step) {
			w.program([]string{"attend", "watch", "put"}[s.arg(1)%3], s).quit(s.arg(2)%2 == 0)
		},
		"delete": func(w *world, s step) { w.program([]string{"attend", "put"}[s.arg(1)%2], s).leave(s) },
		"remove": func(w *world, s step) { w.program([]string{"attend", "put"}[s.arg(1)%2], s).remove(s) },
		"update": func(w *world, s step) { w.program("put", s).updates++ },

		"stall": func(w *world, s step) {
			p, node := w.procs[s.arg(0)%len(w.procs)], s.arg(2)%len(w.redis)
			w.troubleOf(node)
			p.cut[node] = true
			p.links[node].Hold(true)
			w.after(spans[s.arg(1)%len(spans)], func() {
				w.troubleOf(node)
				p.cut[node] = false
				p.links[node].Hold(false)
			})
		},
		"cut": func(w *world, s step) {
			p, node := w.procs[s.arg(0)%len(w.procs)], s.arg(2)%len(w.redis)
			if p.dead {
				return
			}
			w.troubleOf(node)
			p.cut[node] = true
			p.links[node].Cut()
			w.after(spans[s.arg(1)%len(spans)], func() {
				w.troubleOf(node)
				if !p.dead {
					p.cut[node] = false
					p.links[node].Mend()
				}
			})
		},
		"isolate": func(w *world, s step) {
			p := w.procs[s.arg(0)%len(w.procs)]
			w.trouble()
			p.away, p.wasAway = true, true
			for _, link := range p.links {
				link.Hold(true)
			}
			p.hold(true)
			w.after(spans[s.arg(1)%len(spans)], func() {
				w.trouble()
				p.away = false
				for _, link := range p.links {
					link.Hold(false)
				}
				p.hold(false)
			})
		},
		"flush": func(w *world, s step) {
			node := s.arg(0) % len(w.redis)
			if w.takesList(node) {
				return
			}
			w.model.lost(node)
			w.redis[node].FlushAll()
		},
		"rewind": func(w *world, s step) {
			node := s.arg(0) % len(w.redis)
			failOver := w.redis[node].Copy()
			w.after(spans[s.arg(1)%len(spans)], func() {
				if w.takesList(node) {
					return
				}
				w.model.rewind(node)
				failOver()
				if w.cluster != nil {
					w.cluster.FailOver(node)
				}
				for _, p := range w.procs {
					if !p.dead && !p.cut[node] { // the connections end with the server
						p.links[node].Cut()
						p.links[node].Mend()
					}
				}
			})
		},
		"move": func(w *world, s step) {
			if w.cluster == nil {
				return
			}
			key := "{" + rooms[s.arg(0)%len(rooms)] + "}"
			w.mu.Unlock() // nobody is to write meanwhile
			synctest.Wait()
			w.mu.Lock()
			if err := w.cluster.Move(key, s.arg(1)%len(w.redis)); err != nil {
				w.t.Fatal(err)
			}
		},
		"clock": func(w *world, s step) {
			node, by := s.arg(0)%len(w.redis), clocks[s.arg(1)%len(clocks)]
			w.troubleOf(node)
			if by > 4*ttl-time.Second { // keys end
				w.model.lost(node)
			}
			w.redis[node].Step(by)
		},
		"lose": func(w *world, s step) {
			room := s.arg(0) % len(rooms)
			key := "presence:{" + rooms[room] + "}:" + keys[s.arg(1)%len(keys)]
			w.note("lose %s", key)
			node := w.node(key)
			fake := w.redis[node]
			if !fake.Exists(key) {
				return
			}
			w.troubleOf(node)
			w.model.harmed[room] = time.Now()
			fake.Del(key)
			if s.arg(2)%3 == 0 {
				_, _ = fake.Lpush(key, "not what a server writes")
				fake.SetTTL(key, time.Minute)
			}
		},
		"down": func(w *world, s step) {
			w.down(s.arg(0)%len(w.redis), spans[s.arg(1)%len(spans)], false)
		},
		"empty": func(w *world, s step) {
			w.down(s.arg(0)%len(w.redis), spans[s.arg(1)%len(spans)], true)
		},
		"kill": func(w *world, s step) {
			place := s.arg(0) % len(w.procs)
			p := w.procs[place]
			lost := w.model.nodes[w.node("presence:rooms")].lostAt
			if p.dead || w.cluster != nil && time.Since(lost) < 2*heartbeat+settle {
				return // see takesList
			}
			w.trouble()
			w.killed = time.Now()
			p.kill()
			w.after(spans[s.arg(1)%len(spans)], func() { w.restart(place) })
		},
		"drain": func(w *world, s step) {
			place := s.arg(0) % len(w.procs)
			p := w.procs[place]
			others := 0
			for _, other := range w.procs {
				if other != p && !other.dead && !other.draining {
					others++
				}
			}
			if p.dead || p.draining || others == 0 {
				return
			}
			p.draining, p.back = true, spans[s.arg(1)%len(spans)]
			p.stop()
		},
	}
}

// clocks are by how much the clock of Redis is stepped, and keys of a room are those that
// may be lost.
var (
	clocks = []time.Duration{-2 * time.Minute, -10 * time.Second, -3 * time.Second, 3 * time.Second, 10 * time.Second, 20 * time.Second, time.Minute, time.Hour}
	keys   = []string{"online", "beats", "conns", "refs", "users", "roster", "version", "log"}
)

// spans are how long faults last: from what nobody notices to longer than a lease.
var spans = []time.Duration{
	100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
	3 * time.Second, 5 * time.Second, 8 * time.Second, 12 * time.Second,
}

// restart starts a process at a place whose last one has ended.
func (w *world) restart(place int) {
	if w.procs[place].dead {
		w.procs[place] = w.run(place)
		w.trouble()
	}
}

// takesList reports whether the loss of a node's data would take the list of rooms, just after
// somebody was killed who would have noted rooms in it again. On one Redis the rooms themselves
// would be lost, too.
func (w *world) takesList(node int) bool {
	return w.cluster != nil && node == w.node("presence:rooms") && time.Since(w.killed) < 2*ttl
}

// down ends a node of Redis, for a time, perhaps with all its data.
func (w *world) down(node int, d time.Duration, empty bool) {
	w.troubleOf(node)
	w.model.nodes[node].down = true
	w.redis[node].Down()
	w.after(d, func() {
		w.troubleOf(node)
		w.model.nodes[node].down = false
		if empty && !w.takesList(node) {
			w.model.lost(node)
			w.redis[node].FlushAll()
		}
		w.redis[node].Up()
	})
}

// visitor is the one that a step is about: somebody who has a page open, if there is
// anybody.
func (w *world) visitor(s step) *visitor {
	var open []*visitor
	for _, v := range w.visitors {
		if v.sheet != nil {
			open = append(open, v)
		}
	}
	if len(open) == 0 {
		open = w.visitors
	}
	return open[s.arg(0)%len(open)]
}

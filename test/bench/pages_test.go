package bench

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"presence/internal/controller"
	"presence/internal/redistest"
	"presence/templates"
	"presence/test/harness"
	"presence/web"
)

// What is measured of pages.
var (
	pageUpdate = figure{"processor time of an update of a page", "µs"}
	pageSeen   = figure{"updates of the average page", "% of changes"}
	pageMemory = figure{"resident memory of a page", "KB"}
)

// plainEnv makes this test binary the plain server, at the address that is its
// value, until it is killed.
const plainEnv = "PRESENCE_BENCH_PLAIN"

// plain is the pattern that this server grew out of: the same page by livetemplate
// alone, with its own sockets, and a map of who is there in the memory of the one
// process.
type plain struct {
	mu    sync.Mutex // guards:
	names []string
}

const topic = "room/lobby"

func (p *plain) shows(s controller.PresenceState) controller.PresenceState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Room, s.Known, s.Users, s.Connections = controller.Lobby, true, len(p.names), len(p.names)
	s.Roster = nil
	for _, name := range p.names {
		s.Roster = append(s.Roster, controller.Row{ID: "id of " + name, Name: name, Own: s.Joined && name == s.Username})
	}
	return s
}

// Mount shows the room.
func (p *plain) Mount(s controller.PresenceState, ctx *livetemplate.Context) (controller.PresenceState, error) {
	return p.shows(s), ctx.Subscribe(topic)
}

// Join adds the name.
func (p *plain) Join(s controller.PresenceState, ctx *livetemplate.Context) (controller.PresenceState, error) {
	s.Joined, s.Username = true, ctx.GetString("username")
	p.mu.Lock()
	p.names = append(p.names, s.Username)
	p.mu.Unlock()
	return p.shows(s), ctx.Publish(topic, "PresenceChanged", nil)
}

// Leave takes it away.
func (p *plain) Leave(s controller.PresenceState, ctx *livetemplate.Context) (controller.PresenceState, error) {
	p.mu.Lock()
	p.names = slices.DeleteFunc(p.names, func(name string) bool { return name == s.Username })
	p.mu.Unlock()
	s.Joined, s.Username = false, ""
	return p.shows(s), ctx.Publish(topic, "PresenceChanged", nil)
}

// PresenceChanged shows the room.
func (p *plain) PresenceChanged(s controller.PresenceState, _ *livetemplate.Context) (controller.PresenceState, error) {
	return p.shows(s), nil
}

func servePlain(addr string) error {
	slog.SetLogLoggerLevel(slog.LevelError) // no line for each page
	assets, err := web.Load()
	if err != nil {
		return err
	}
	page, err := livetemplate.New("presence", append(templates.Options(assets),
		livetemplate.WithOpenTopics(), livetemplate.WithMessageRateLimit(0, 0))...)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", page.Handle(&plain{}, livetemplate.AsState(&controller.PresenceState{})))
	mux.Handle("/metrics", promhttp.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	return http.ListenAndServe(addr, mux) //nolint:gosec // for as long as a benchmark takes
}

const (
	// between is the distance of two changes of the room: more than the window in
	// which changes are gathered, so that each is a push of its own.
	between = 150 * time.Millisecond

	// changing is for how long the room goes on changing.
	changing = 6 * time.Second

	// names is how many are in the room.
	names = 5
)

// pageServer is a server of pages: one of ours, or livetemplate by itself.
type pageServer struct{ url, admin string }

func startPages(t *testing.T, of string) pageServer {
	t.Helper()
	if of == lvt {
		url := "http://" + startServer(t, plainEnv)
		return pageServer{url, url}
	}
	redis := redistest.Start(t)
	r := harness.Start(t, "-redis-url", redis.URL())
	return pageServer{r.URL, r.AdminURL}
}

// open opens n pages.
func (s pageServer) open(t *testing.T, n int) []*harness.Visitor {
	t.Helper()
	return harness.OpenMany(t, n, func(int) (harness.Options, []string) { return harness.Options{}, []string{s.url} })
}

// pages has one visitor join and leave a room all the time while others look on, and
// measures the processor time for each update that a page was sent. Ours and livetemplate
// need most of their time for the same crowd on the same machine.
func pages(m *measure) {
	m.atUnit = "viewers"
	sizes := []int{100, 500, 4000}
	if m.quick {
		sizes = []int{500}
	}
	for _, viewers := range sizes {
		m.each([]string{ours, lvt}, func(round int, of string) {
			m.turn(of, round, float64(viewers), func(t *testing.T) map[figure]float64 {
				return watched(t, startPages(t, of), viewers)
			})
		})
	}
}

// watched measures one server.
func watched(t *testing.T, s pageServer, viewers int) map[figure]float64 {
	t.Helper()
	for i := range names - 1 {
		harness.Open(t, harness.Options{}, s.url).MustJoin(fmt.Sprint("Ann ", i))
	}
	restless := harness.Open(t, harness.Options{}, s.url).MustJoin("Ben")
	crowd := s.open(t, viewers)
	frames := func() (n int) {
		for _, v := range crowd {
			n += v.Frames()
		}
		return n
	}
	cpu, before, began := harness.Measure(t, s.admin).CPU, frames(), time.Now()
	changes := 0
	tick := time.NewTicker(between)
	defer tick.Stop()
	for joined := true; time.Since(began) < changing; joined = !joined {
		<-tick.C
		var err error
		if joined {
			err = restless.Leave()
		} else {
			err = restless.Join("Ben")
		}
		if err != nil && changes < 5 {
			t.Fatal(err)
		} else if err != nil {
			break // a server with more to do than it can: what it has done until now counts
		}
		changes++
	}
	got := frames() - before
	return map[figure]float64{
		pageUpdate: 1e6 * (harness.Measure(t, s.admin).CPU - cpu) / float64(got),
		pageSeen:   100 * float64(got) / float64(viewers*changes),
	}
}

// idlePages has pages open that are left alone for a minute, of all servers at once:
// memory is not shared.
func idlePages(m *measure) {
	m.atUnit = "pages"
	const each = 2000
	idle := time.Minute
	if m.quick {
		idle = 10 * time.Second
	}
	type open struct {
		pageServer
		of    string
		empty harness.Usage
	}
	var servers []open
	m.each([]string{ours, lvt}, func(_ int, of string) {
		s := startPages(m.t, of)
		s.open(m.t, 100) // what is allocated once
		servers = append(servers, open{s, of, harness.Measure(m.t, s.admin)})
		s.open(m.t, each)
	})
	time.Sleep(idle)
	for i, s := range servers {
		m.turn(s.of, i/2, each, func(t *testing.T) map[figure]float64 {
			return map[figure]float64{pageMemory: (harness.Measure(t, s.admin).Resident - s.empty.Resident) / 1e3 / each}
		})
	}
}

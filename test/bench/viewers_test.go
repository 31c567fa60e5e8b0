// Package bench measures what live pages and event streams cost a server, side by side
// with livetemplate by itself and with plain writes. It holds nothing but benchmarks.
package bench

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
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

// plainEnv makes this test binary the plain server, at the address that is its
// value, until it is killed.
const plainEnv = "PRESENCE_BENCH_PLAIN"

func TestMain(m *testing.M) {
	for env, serve := range map[string]func(addr string) error{plainEnv: servePlain, writerEnv: serveWriter} {
		if addr := os.Getenv(env); addr != "" {
			fmt.Fprintln(os.Stderr, serve(addr))
			os.Exit(1)
		}
	}
	if value := os.Getenv(crowdEnv); value != "" {
		beCrowd(value)
		return
	}
	os.Exit(m.Run())
}

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
	viewers = 500

	// between is the distance of two changes of the room: more than the window in
	// which changes are gathered, so that each is a push of its own.
	between = 150 * time.Millisecond

	// changing is for how long the room goes on changing.
	changing = 6 * time.Second
)

// BenchmarkViewers has one visitor join and leave a room all the time while others
// look on, and measures the server: processor time for each update that a page was
// sent (us/update), how many of the changes the average page saw before the next
// (seen/%), and memory for each open page (KB/page, resident). The server of this
// project and livetemplate by itself take turns; both need most of their time for
// the same crowd on the same machine, so only a comparison says something.
func BenchmarkViewers(b *testing.B) {
	for _, names := range []int{5, 100} {
		b.Run(fmt.Sprintf("names=%d/livetemplate", names), func(b *testing.B) {
			url := "http://" + startServer(b, plainEnv)
			watched(b, names, url, url)
		})
		b.Run(fmt.Sprintf("names=%d/presence", names), func(b *testing.B) {
			redis := redistest.Start(b)
			r := harness.Start(b, "-redis-url", redis.URL(), "-trusted-proxies", "127.0.0.0/8")
			watched(b, names, r.URL, r.AdminURL)
		})
	}
}

// watched measures one server.
func watched(b *testing.B, names int, url, admin string) {
	b.Helper()
	for i := range names - 1 {
		harness.Open(b, harness.Options{}, url).MustJoin(fmt.Sprint("Ann ", i))
	}
	restless := harness.Open(b, harness.Options{}, url).MustJoin("Ben")
	empty := harness.Measure(b, admin)
	crowd := harness.OpenMany(b, viewers, func(int) (harness.Options, []string) {
		return harness.Options{}, []string{url}
	})
	open := harness.Measure(b, admin)
	frames := func() (n int) {
		for _, v := range crowd {
			n += v.Frames()
		}
		return n
	}
	began, before := time.Now(), frames()
	changes := 0
	tick := time.NewTicker(between)
	defer tick.Stop()
	for joined := true; time.Since(began) < changing; joined = !joined {
		<-tick.C
		if joined {
			if err := restless.Leave(); err != nil {
				b.Fatal(err)
			}
		} else {
			restless.MustJoin("Ben")
		}
		changes++
	}
	got := frames() - before
	after := harness.Measure(b, admin)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(1e6*(after.CPU-open.CPU)/float64(got), "us/update")
	b.ReportMetric(100*float64(got)/float64(viewers*changes), "seen/%")
	b.ReportMetric((after.Resident-empty.Resident)/1e3/viewers, "KB/page")
}

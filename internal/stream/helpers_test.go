package stream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
	"presence/test/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lobby = "lobby"

// process is a replica with streams that a test can kill.
type process struct {
	*Streams

	t        testing.TB
	store    *store.Store
	replica  *replica.Replica
	rooms    *room.Rooms
	link     *redistest.Link
	registry *prometheus.Registry
	kill     func()
	pipes    *pipes
	url      string // of its TCP listener, or of its pipes
	client   *http.Client
}

// start starts a replica in a bubble. Its streams are reached through memory.
func start(t testing.TB, fake *redistest.Fake) *process {
	t.Helper()
	p := startOn(t, fake, store.Options{}, 0)
	time.Sleep(replica.DefaultHeartbeatInterval) // Redis is new: others might put back what they hold
	synctest.Wait()
	return p
}

// startOn starts a replica with other settings of the store, and with that coalescing
// window.
func startOn(t testing.TB, fake *redistest.Fake, so store.Options, coalesce time.Duration) *process {
	t.Helper()
	return startWith(t, fake, so, replica.Options{}, coalesce)
}

// startWith is startOn with other settings of the replica, too.
func startWith(t testing.TB, fake *redistest.Fake, so store.Options, ro replica.Options, coalesce time.Duration) *process {
	t.Helper()
	p := &process{t: t, registry: prometheus.NewRegistry(), link: fake.Link(t), pipes: newPipes(), url: "http://replica"}
	p.store = store.New(p.link.Client, so)
	p.replica = replica.New(p.store, ro)
	p.rooms = room.New(p.store, p.replica, room.Options{Coalesce: coalesce})
	p.replica.Tell(p.rooms)
	p.Streams = New(p.rooms, p.replica, Options{Registerer: p.registry})
	p.client = &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return p.pipes.dial() },
		DisableKeepAlives: true,
	}}
	server := &http.Server{Handler: http.HandlerFunc(p.handle)} //nolint:gosec // of a test
	ctx, cancel := context.WithCancel(context.Background())
	var loops, stores sync.WaitGroup
	loops.Go(func() { _ = p.replica.Run(ctx) })
	loops.Go(func() { _ = p.rooms.Run(ctx) })
	loops.Go(func() {
		// Keepalives come between the seconds at which rooms are swept: a write through
		// memory waits for its reader, and another of the same instant would be lost.
		time.Sleep(beat / 2)
		_ = p.Run(ctx)
	})
	storeCtx, stopStore := context.WithCancel(context.Background())
	stores.Go(func() { _ = p.store.Run(storeCtx) })
	loops.Go(func() { _ = server.Serve(p.pipes) })
	p.kill = sync.OnceFunc(func() {
		_ = server.Close()
		cancel()
		loops.Wait()
		stopStore()
		stores.Wait()
		p.client.CloseIdleConnections()
	})
	t.Cleanup(p.kill)
	return p
}

// listen makes the streams of p reachable over TCP, too.
func (p *process) listen() {
	p.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // of a test
	if err != nil {
		p.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(p.handle)} //nolint:gosec // of a test
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	p.t.Cleanup(func() {
		_ = server.Close()
		served.Wait()
	})
	p.url = "http://" + l.Addr().String()
	p.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// handle opens the stream that a query asks for.
func (p *process) handle(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	want := Want{Rooms: strings.Split(query.Get("rooms"), ","), Counts: query.Has("count")}
	want.Several = len(want.Rooms) > 1
	want.After, _ = strconv.ParseInt(query.Get("after"), 10, 64)
	if user := query.Get("user"); user != "" {
		want.Join = &store.Wanted{Connection: presence.Connection{
			ID: query.Get("join"), User: presence.User{ID: user, Name: query.Get("name")},
		}, SetName: query.Has("name")}
		if !query.Has("name") {
			want.Join.Connection.User.Name = user
		}
	}
	if ttl := query.Get("ttl"); ttl != "" {
		d, _ := time.ParseDuration(ttl)
		want.Until = time.Now().Add(d)
	}
	if err := p.Serve(w, r, want); err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, presence.ErrRoomFull) {
			status = http.StatusConflict
		}
		http.Error(w, err.Error(), status)
	}
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// event is an event that a client has received. A comment has the kind ": ".
type event struct {
	Kind string
	ID   string

	Room        string   `json:"room"`
	Version     int64    `json:"version"`
	Users       int      `json:"users"`
	Connections int      `json:"connections"`
	Stale       bool     `json:"stale"`
	AsOf        string   `json:"as_of"`
	Complete    bool     `json:"complete"`
	Members     []Member `json:"members"`
	Joins       []Member `json:"joins"`
	Updates     []Member `json:"updates"`
	Leaves      []Left   `json:"leaves"`
	Mode        string   `json:"mode"`
	Code        string   `json:"code"`
	Retry       string   `json:"retry"`
}

// client is a client that watches a stream.
type client struct {
	t    testing.TB
	body io.ReadCloser

	mu     sync.Mutex // guards:
	events []event
	retry  string
	ended  bool
	done   chan struct{}
}

// watch opens a stream.
func (p *process) watch(query string) *client {
	p.t.Helper()
	c, status := p.tryWatch(query)
	if status != http.StatusOK {
		p.t.Fatalf("a stream of %s is answered %d", query, status)
	}
	return c
}

func (p *process) tryWatch(query string) (*client, int) {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodGet, p.url+"/?"+query, nil) //nolint:noctx // the body is closed
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := p.client.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	c := &client{t: p.t, body: response.Body, done: make(chan struct{})}
	if response.StatusCode != http.StatusOK {
		c.close()
		return c, response.StatusCode
	}
	if response.Header.Get("Content-Type") != "text/event-stream" || !response.Close {
		p.t.Errorf("headers %v", response.Header)
	}
	go c.read()
	p.t.Cleanup(func() {
		c.close()
		<-c.done
	})
	return c, response.StatusCode
}

// raw opens a stream from which nothing is read.
func (p *process) raw(query string) net.Conn {
	p.t.Helper()
	conn, err := p.pipes.dial()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprintf(conn, "GET /?%s HTTP/1.1\r\nHost: replica\r\n\r\n", query); err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// readHead reads the response up to the first event, and no further.
func readHead(t testing.TB, conn net.Conn) {
	t.Helper()
	var b [1]byte
	var said strings.Builder
	for !strings.Contains(said.String(), "data: ") || !strings.HasSuffix(said.String(), "\n\n") {
		if _, err := conn.Read(b[:]); err != nil {
			t.Fatal(err)
		}
		said.WriteByte(b[0])
	}
}

// reading reads the rest of a stream.
func (p *process) reading(conn net.Conn) *client {
	c := &client{t: p.t, body: conn, done: make(chan struct{})}
	go c.read()
	p.t.Cleanup(func() {
		c.close()
		<-c.done
	})
	return c
}

// close ends the stream.
func (c *client) close() { _ = c.body.Close() }

// read takes events until the stream ends.
func (c *client) read() {
	defer close(c.done)
	lines := bufio.NewScanner(c.body)
	lines.Buffer(nil, 1<<20)
	var e event
	var data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if e.Kind != "" {
				if e.Kind != ": " {
					contract.Event(c.t, e.Kind, e.ID, data)
				}
				c.mu.Lock()
				c.events = append(c.events, e)
				c.mu.Unlock()
			}
			e = event{}
		case field == "":
			e.Kind = ": "
		case field == "retry":
			c.retry = value
		case field == "id":
			e.ID = value
		case field == "event":
			e.Kind = value
		case field == "data":
			data = value
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				c.t.Errorf("%q: %v", value, err)
			}
		default:
			c.t.Errorf("line %q", lines.Text())
		}
	}
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
}

// take returns the events since the last call, without comments.
func (c *client) take() []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := slices.DeleteFunc(c.events, func(e event) bool { return e.Kind == ": " })
	c.events = nil
	return events
}

// comments returns how many comments came since the last take.
func (c *client) comments() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Kind == ": " {
			n++
		}
	}
	return n
}

func (c *client) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// said returns an event in short.
func (e event) said() string {
	names := func(list []Member) string {
		var all []string
		for _, m := range list {
			all = append(all, m.Name)
		}
		return strings.Join(all, ",")
	}
	switch e.Kind {
	case "snapshot":
		if len(e.Members) > 10 {
			return fmt.Sprintf("snapshot %d of %d, complete %v", len(e.Members), e.Users, e.Complete)
		}
		if e.Stale {
			return fmt.Sprintf("snapshot %d [%s] stale", e.Users, names(e.Members))
		}
		return fmt.Sprintf("snapshot %d [%s]", e.Users, names(e.Members))
	case "diff":
		var left []string
		for _, l := range e.Leaves {
			left = append(left, l.User+" "+string(l.Reason))
		}
		return fmt.Sprintf("diff %d +[%s] ~[%s] -[%s]", e.Users, names(e.Joins), names(e.Updates), strings.Join(left, ","))
	case "count":
		return fmt.Sprintf("count %d", e.Users)
	case "mode":
		return "mode " + e.Mode
	case "stale":
		if e.Version == 0 {
			return "stale 0"
		}
		return "stale"
	case "end":
		return "end " + e.Code + " " + e.Retry
	default:
		return e.Kind
	}
}

// expect fails the test unless these are the events since the last call.
func (c *client) expect(want ...string) {
	c.t.Helper()
	synctest.Wait()
	c.expectNow(want...)
}

func (c *client) expectNow(want ...string) {
	c.t.Helper()
	var got []string
	for _, e := range c.take() {
		got = append(got, e.said())
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("got %q, want %q", got, want)
	}
}

// join makes a user present who has no stream.
func (p *process) join(name string) {
	p.t.Helper()
	_, err := p.store.Put(p.t.Context(), lobby, store.Wanted{
		Connection: presence.Connection{ID: "c-" + name, Generation: presence.NewHTTPGeneration(), User: presence.User{ID: name, Name: name}},
		TTL:        time.Hour,
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) part(name string) {
	p.t.Helper()
	if _, err := p.store.Leave(p.t.Context(), lobby, "c-"+name, ""); err != nil {
		p.t.Fatal(err)
	}
}

// joinMany makes the users with the numbers from first to last present.
func (p *process) joinMany(first, last int) {
	p.t.Helper()
	var wg sync.WaitGroup
	for n := first; n <= last; n++ {
		wg.Go(func() { p.join(fmt.Sprint("u", n)) })
	}
	wg.Wait()
}

func (p *process) partMany(first, last int) {
	p.t.Helper()
	var wg sync.WaitGroup
	for n := first; n <= last; n++ {
		wg.Go(func() { p.part(fmt.Sprint("u", n)) })
	}
	wg.Wait()
}

// window waits until changes have been shown.
func window() {
	time.Sleep(room.DefaultCoalesce + time.Millisecond)
	synctest.Wait()
}

// follower applies events, as a client does.
type follower struct {
	known    bool
	version  int64
	users    int
	conns    int
	complete bool
	members  map[string]Member
	counts   bool
}

// apply applies one event, and returns an error if the event is wrong.
func (f *follower) apply(e event) error {
	switch e.Kind {
	case "snapshot":
		f.members = map[string]Member{}
		for _, m := range e.Members {
			f.members[m.User] = m
		}
		f.known, f.complete = true, e.Complete
	case "diff":
		if !f.known || f.counts {
			return fmt.Errorf("a diff without a snapshot: %v", e.said())
		}
		for _, l := range e.Leaves {
			if _, ok := f.members[l.User]; !ok {
				return fmt.Errorf("%s leaves but was not there", l.User)
			}
			delete(f.members, l.User)
		}
		for _, m := range e.Updates {
			if _, ok := f.members[m.User]; !ok {
				return fmt.Errorf("%s changes but is not there", m.User)
			}
			f.members[m.User] = m
		}
		for _, m := range e.Joins {
			if _, ok := f.members[m.User]; ok {
				return fmt.Errorf("%s joins but is there already", m.User)
			}
			f.members[m.User] = m
		}
	case "mode":
		f.counts = e.Mode == "count"
		return nil
	case "count":
	default:
		return nil
	}
	if e.ID != "" && e.ID != strconv.FormatInt(e.Version, 10) {
		return fmt.Errorf("id %s of version %d", e.ID, e.Version)
	}
	if e.Version < f.version {
		return fmt.Errorf("version %d after %d", e.Version, f.version)
	}
	f.version, f.users, f.conns = e.Version, e.Users, e.Connections
	if e.Kind == "diff" || e.Kind == "snapshot" && e.Complete {
		conns := 0
		for _, m := range f.members {
			conns += m.Connections
		}
		if len(f.members) != e.Users || conns != e.Connections {
			return fmt.Errorf("%d members by %d connections where there are %d by %d", len(f.members), conns, e.Users, e.Connections)
		}
	}
	return nil
}

// text returns what a follower knows, for comparison.
func (f *follower) text() string {
	ids := slices.Sorted(maps.Keys(f.members))
	var all strings.Builder
	for _, id := range ids {
		m := f.members[id]
		fmt.Fprintf(&all, "%s=%s/%d ", id, m.Name, m.Connections)
	}
	return all.String()
}

// metric returns the value of a metric without labels, or the sum of those of which a
// label has that value.
func (p *process) metric(name, label string) (sum float64) {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/session"
	"presence/internal/socket"
	"presence/test/contract"
	"presence/test/outside"
)

func TestMain(m *testing.M) {
	outside.Begin()
	goleak.VerifyTestMain(
		m,
		// livetemplate starts this for every page and has no way to stop it.
		goleak.IgnoreAnyFunction("github.com/livetemplate/livetemplate.(*MemorySessionStore).cleanupLoop"),
		goleak.IgnoreCurrent(), // what is begun above
	)
}

// running is a server of the test's own.
type running struct {
	*App
	stop func() error // once; waits
	log  *bytes.Buffer
}

// start runs a server with config on free ports until the test ends.
func start(t *testing.T, change func(*Config)) *running {
	t.Helper()
	config := Default()
	config.Listen, config.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	config.ShutdownTimeout = 2 * time.Second
	if change != nil {
		change(&config)
	}
	if config.RedisURL != "" && config.HeartbeatInterval == Default().HeartbeatInterval {
		config.HeartbeatInterval = time.Second // replicas settle sooner
	}
	r := &running{log: &bytes.Buffer{}}
	var mu sync.Mutex
	// The layout of pages is examined once, not by each of the servers.
	a, err := NewOf(Parts{Assets: outside.Assets(), Pages: outside.Pages()}, config, slog.New(slog.NewTextHandler(lockedWriter{&mu, r.log}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.App = a
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			t.Log(r.log)
		}
	})
	return r
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (r *running) ready(t *testing.T) *running {
	t.Helper()
	redistest.Eventually(t, 5*time.Second, "the server is ready", func() bool { return r.App.ready() == nil })
	return r
}

func (r *running) url(path string) string { return "http://" + r.Addr() + path }

// browser is one, without JavaScript.
type browser struct {
	t *testing.T
	http.Client
}

func newBrowser(t *testing.T) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, Client: http.Client{Jar: jar, Timeout: 10 * time.Second, Transport: &contract.Transport{T: t}}}
	t.Cleanup(b.CloseIdleConnections)
	return b
}

// do makes a request as a browser does and returns status, header and body.
func (b *browser) do(method, address, body string, header ...string) (*http.Response, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.Do(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(text)
}

func (b *browser) get(address string) string {
	b.t.Helper()
	resp, body := b.do(http.MethodGet, address, "")
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("GET %s: %s", address, resp.Status)
	}
	return body
}

// post sends a form and returns the page that follows.
func (b *browser) post(address string, form url.Values) string {
	b.t.Helper()
	resp, body := b.do(http.MethodPost, address, form.Encode(), "Sec-Fetch-Site", "same-origin")
	if resp.StatusCode != http.StatusOK {
		b.t.Fatalf("POST %s: %s", address, resp.Status)
	}
	return body
}

func join(name string) url.Values {
	return url.Values{"lvt-action": {"join"}, "username": {name}, "join": {""}}
}

var leave = url.Values{"lvt-action": {"leave"}, "leave": {""}}

var inMark = regexp.MustCompile(`<mark[^>]*>(.*?)</mark>`)

// demand fails unless the page contains all of the parts.
func demand(t *testing.T, page string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(page, part) {
			t.Fatalf("the page lacks %q; it counts %q", part, inMark.FindString(page))
		}
	}
}

// redisURL is that of a fresh in-memory Redis, and the Redis.
func redisURL(t *testing.T) (string, *miniredis.Miniredis) {
	m := miniredis.RunT(t)
	m.ClockTTL(true)
	return "redis://" + m.Addr(), m
}

func TestFormsWorkOnEveryReplica(t *testing.T) {
	address, m := redisURL(t)
	onRedis := func(c *Config) { c.RedisURL = address }
	a, b := start(t, onRedis).ready(t), start(t, onRedis).ready(t)
	ann, ben := newBrowser(t), newBrowser(t)
	demand(t, ann.get(a.url("/")), "0 user(s) online", `<form method="POST"`, `name="username"`, `name="join"`)
	demand(t, ann.post(a.url("/"), join("Ann")), "1 user(s) online", "Logged in as <strong>Ann</strong>", `name="leave"`)
	demand(t, ben.post(b.url("/"), join("Ann")), "2 user(s) online")
	demand(t, ann.get(b.url("/")), "Logged in as <strong>Ann</strong>", "2 user(s) online")
	if n, _ := m.SMembers("presence:{lobby}:online"); len(n) != 2 {
		t.Fatalf("the SET has %d members", len(n))
	}
	demand(t, ann.post(b.url("/"), leave), "1 user(s) online", `name="join"`)
	demand(t, ann.get(a.url("/rooms/tea-break")), "0 user(s) online", "tea-break · Presence",
		`<meta property="og:url" content="`+a.url("/rooms/tea-break")+`">`, `<meta property="og:image" content="`+a.url("/assets/card."))
}

func TestVisitorWithoutJavaScriptSurvivesALossOfData(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, func(c *Config) { c.RedisURL, c.HeartbeatInterval = address, 500*time.Millisecond }).ready(t)
	ann := newBrowser(t)
	ann.post(a.url("/"), join("Ann"))
	m.FlushAll()
	redistest.Eventually(t, 5*time.Second, "the visitor is back at a reload", func() bool {
		page := ann.get(a.url("/"))
		return strings.Contains(page, "Logged in as <strong>Ann</strong>") && strings.Contains(page, "1 user(s) online")
	})
	demand(t, ann.post(a.url("/"), leave), `name="join"`)
	demand(t, ann.get(a.url("/")), "0 user(s) online", `name="join"`)
}

func TestRefusedNameIsKeptWithItsReason(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	for name, reason := range map[string]string{
		"":                      "Please type a name.",
		strings.Repeat("x", 41): "at most 40 characters",
		"a\u202eb":              "invisible characters",
		"{{x}}":                 "begin with",
	} {
		page := b.post(a.url("/"), join(name))
		demand(t, page, reason, `aria-invalid="true"`, `value="`+name+`"`, "0 user(s) online")
	}
	demand(t, b.get(a.url("/")), "0 user(s) online")
}

func TestTypedNamesArriveAsTheyWereTyped(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	b.get(a.url("/"))
	for i, name := range []string{"Infinity", "-Infinity", "1e-7", "1e21", "1e3", "007", "0x10", "true", "null", "=1", "1.0"} {
		// A socket of its own: one of them may send no more than 20 messages at once.
		s := b.open(a, fmt.Sprintf("/?tab=aaaaaaaaaaaaaa%02d", i))
		s.until(`"tree"`)
		// As the page script sends it, beside what the client makes of the field.
		s.send(`{"action":"join","data":{"username":null,"typed":"=` + name + `"}}`)
		if reply := s.until(`"action":"join"`); !strings.Contains(reply, `"`+name+`"`) {
			t.Errorf("%s by socket: %s", name, reply)
		}
		s.send(`{"action":"leave"}`)
		s.until(`"action":"leave"`)
		bare := newBrowser(t)
		demand(t, bare.post(a.url("/"), join(name)), "Logged in as <strong>"+html.EscapeString(name)+"</strong>")
		bare.post(a.url("/"), leave)
	}
}

func TestAddresses(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	for _, c := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/rooms/a.b", 404, "nothing here"},
		{"GET", "/rooms/" + strings.Repeat("x", 65), 404, "nothing here"},
		{"GET", "/rooms/a.b/", 404, "nothing here"},
		{"GET", "/rooms", 200, "Nobody is in any room"},
		{"GET", "/rooms/", 200, "Nobody is in any room"},
		{"GET", "/rooms/tea/", 200, "tea · Presence"},
		{"GET", "/rooms?room=+tea%0a", 200, "tea · Presence"},
		{"GET", "/rooms?room=lobby", 200, "lobby · Presence"},
		{"GET", "/rooms?room=a.b", 422, `value="a.b"`},
		{"GET", "/rooms?room=", 422, "Please type the name of a room."},
		{"GET", "/rooms?room=//example.org", 422, "No room can have this name."},
		{"GET", "/examples", 200, "<h1>Examples</h1>"},
		{"GET", "/examples/", 200, "<h1>Examples</h1>"},
		{"GET", "/examples/document.html", 200, "Looking at this document"},
		{"GET", "/examples/nothing", 404, ""},
		{"GET", "/robots.txt", 200, "Disallow: /rooms"},
		{"GET", "/nowhere", 404, "nothing here"},
		{"GET", "/favicon.ico", 200, "\x00\x00\x01\x00"},
		{"GET", "/metrics", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"POST", "/rooms/a.b", 404, "nothing here"},
		{"PUT", "/", 405, ""},
		{"DELETE", "/rooms/x", 405, ""},
		{"HEAD", "/", 200, ""},
		{"GET", "/livez", 200, "ok"},
		{"GET", "/readyz", 200, "ok"},
		{"GET", "/lbz", 200, "ok"},
		{"GET", "/v1/rooms/lobby", 200, `"users":0`},
		{"GET", "/v1/rooms/a.b", 404, "1 to 64 characters"},
		{"GET", "/v1/nothing", 404, `"status":404`},
	} {
		resp, body := b.do(c.method, a.url(c.path), "")
		if resp.StatusCode != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s: %s, %.200s", c.method, c.path, resp.Status, body)
		}
		for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy"} {
			if resp.Header.Get(h) == "" {
				t.Errorf("%s %s: no %s", c.method, c.path, h)
			}
		}
	}
	resp, _ := b.do("GET", a.url("/"), "")
	if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Vary") != "Accept" || resp.Header.Get("X-LiveTemplate-WebSocket") != "enabled" {
		t.Errorf("page header: %v", resp.Header)
	}
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/debug/pprof/cmdline"} {
		if resp, _ := b.do("GET", "http://"+a.AdminAddr()+path, ""); resp.StatusCode != 200 {
			t.Errorf("admin %s: %s", path, resp.Status)
		}
	}
	redistest.Eventually(t, 5*time.Second, "the replica knows itself", func() bool {
		_, body := b.do("GET", "http://"+a.AdminAddr()+"/replicas", "")
		var known struct{ Replicas []replica.Peer }
		if err := json.Unmarshal([]byte(body), &known); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return len(known.Replicas) == 1 && known.Replicas[0].This && known.Replicas[0].Settings["member-ttl"] == a.config.MemberTTL.String()
	})
}

func TestAPI(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	b.post(a.url("/rooms/r"), join("Ann"))
	_, body := b.do("GET", a.url("/v1/rooms/r"), "")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got["room"] != "r" || got["users"] != 1.0 || got["connections"] != 1.0 || got["stale"] != false || got["version"].(float64) < 1e15 || len(got) != 6 {
		t.Fatalf("answer %s", body)
	}
	if at, err := time.Parse(time.RFC3339, got["as_of"].(string)); err != nil || time.Since(at) > time.Minute {
		t.Fatalf("as_of: %v, %v", at, err)
	}
}

func TestForeignSitesAreRefused(t *testing.T) {
	a := start(t, func(c *Config) { c.AllowedOrigins = "https://friend.example" }).ready(t)
	b := newBrowser(t)
	for _, c := range []struct {
		header []string
		status int
	}{
		{[]string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "http://sub." + a.Addr(), "Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null", "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "https://friend.example", "Sec-Fetch-Site", "cross-site"}, 200},
		{[]string{"Origin", "http://" + a.Addr(), "Sec-Fetch-Site", "same-origin"}, 200},
	} {
		if resp, _ := b.do("POST", a.url("/"), join("Ann").Encode(), c.header...); resp.StatusCode != c.status {
			t.Errorf("post with %v: %s", c.header, resp.Status)
		}
	}
	for origin, status := range map[string]int{
		"":                                     101,
		"http://" + a.Addr():                   101,
		"https://" + a.Addr():                  101, // TLS may have ended at a proxy
		"https://friend.example":               101,
		"https://evil.example":                 403,
		"null":                                 403,
		"http://" + a.Addr() + ".evil.example": 403,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+a.Addr()+"/", header)
		if resp == nil || resp.StatusCode != status {
			t.Errorf("socket from %q: %v, %v", origin, resp, err)
		}
		if ws != nil {
			_ = ws.Close()
		}
	}
}

func TestDefaultPortsAreNoOtherOrigin(t *testing.T) {
	a := start(t, func(c *Config) { c.AllowedOrigins = "https://friend.example:443" }).ready(t)
	for _, c := range []struct {
		host, origin string
		allowed      bool
	}{
		{"example.org:443", "https://example.org", true},
		{"example.org:80", "http://example.org", true},
		{"Example.org", "https://example.org:443", true},
		{"example.org", "https://friend.example", true},
		{"example.org:8443", "https://example.org", false},
		{"example.org:443", "http://example.org", false},
	} {
		post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url("/"), strings.NewReader(join("Ann").Encode()))
		if err != nil {
			t.Fatal(err)
		}
		post.Host = c.host
		post.Header.Set("Origin", c.origin)
		post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultTransport.RoundTrip(post)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if allowed := resp.StatusCode != http.StatusForbidden; allowed != c.allowed {
			t.Errorf("a form from %s to %s: %s", c.origin, c.host, resp.Status)
		}
		header := http.Header{"Origin": {c.origin}, "Host": {c.host}}
		ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+a.Addr()+"/", header)
		if (err == nil) != c.allowed {
			t.Errorf("a socket from %s to %s: %v", c.origin, c.host, err)
		}
		if err == nil {
			_ = ws.Close()
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestLargeFormsAreRefused(t *testing.T) {
	a := start(t, nil).ready(t)
	if resp, _ := newBrowser(t).do("POST", a.url("/"), "username="+strings.Repeat("x", 20_000)); resp.StatusCode < 400 {
		t.Errorf("a form of 20 kB: %s", resp.Status)
	}
}

func TestManyFormsFromOneAddressAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(postRate)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.run(ctx) }()
		for range postBurst {
			if !l.allow("a") {
				t.Fatal("refused within the burst")
			}
		}
		if l.allow("a") || !l.allow("b") {
			t.Fatal("the limit is not one for each address")
		}
		time.Sleep(time.Second)
		if !l.allow("a") {
			t.Fatal("refused a second later")
		}
		time.Sleep(3 * forgetAddress)
		synctest.Wait()
		if len(l.buckets) != 0 {
			t.Fatalf("%d addresses are remembered for ever", len(l.buckets))
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// tabSocket is a browser's socket.
type tabSocket struct {
	t *testing.T
	*websocket.Conn
}

// open opens the socket of a tab of b.
func (b *browser) open(a *running, path string) *tabSocket {
	b.t.Helper()
	u, err := url.Parse(a.url(path))
	if err != nil {
		b.t.Fatal(err)
	}
	header := http.Header{}
	for _, c := range b.Jar.Cookies(u) {
		header.Add("Cookie", c.String())
	}
	ws, resp, err := websocket.DefaultDialer.DialContext(b.t.Context(), "ws://"+a.Addr()+path, header)
	if err != nil {
		b.t.Fatalf("open: %v, %v", resp, err)
	}
	b.t.Cleanup(func() { _ = ws.Close() })
	return &tabSocket{b.t, ws}
}

// until reads frames until one contains part, and returns it.
func (s *tabSocket) until(part string) string {
	s.t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(15 * time.Second))
	var seen []string
	for {
		_, frame, err := s.ReadMessage()
		if err != nil {
			s.t.Fatalf("waiting for %q: %v; saw %q", part, err, seen)
		}
		if seen = append(seen, string(frame)); strings.Contains(string(frame), part) {
			return string(frame)
		}
	}
}

func (s *tabSocket) send(frame string) {
	s.t.Helper()
	if err := s.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		s.t.Fatal(err)
	}
}

func TestSocketsSeeEachOtherAcrossReplicas(t *testing.T) {
	address, m := redisURL(t)
	onRedis := func(c *Config) { c.RedisURL, c.LeaveGrace = address, 500*time.Millisecond }
	a, b := start(t, onRedis).ready(t), start(t, onRedis).ready(t)
	ann, ben := newBrowser(t), newBrowser(t)
	ann.get(a.url("/"))
	ben.get(b.url("/"))
	watcher := ben.open(b, "/?tab=ben-ben-ben-ben-1")
	watcher.until(`"tree"`)
	tab := ann.open(a, "/?tab=ann-ann-ann-ann-1")
	tab.until(`"tree"`)
	tab.send(`{"action":"join","data":{"username":"Ann"},"submitter":"join"}`)
	if reply := tab.until(`"action":"join"`); !strings.Contains(reply, `"success":true`) || !strings.Contains(reply, "Ann") {
		t.Fatalf("reply %s", reply)
	}
	if push := watcher.until("Ann"); strings.Contains(push, "meta") {
		t.Fatalf("a push with meta: %s", push)
	}
	// The tab moves to the other replica and is who it was; nobody sees anything.
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	moved := ann.open(b, "/?tab=ann-ann-ann-ann-1")
	moved.until("Logged in as")
	// Another tab is nobody yet, and somebody else with the tab key is not Ann.
	if first := ann.open(b, "/?tab=ann-ann-ann-ann-2").until(`"tree"`); strings.Contains(first, "Logged in as") {
		t.Fatal("a new tab has joined by itself")
	}
	if first := ben.open(b, "/?tab=ann-ann-ann-ann-1").until(`"tree"`); strings.Contains(first, "Logged in as") {
		t.Fatal("a tab key from another browser is believed")
	}
	if err := moved.Close(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "the closed tab has left", func() bool {
		n, _ := m.SMembers("presence:{lobby}:online")
		return len(n) == 0
	})
}

func TestHostileFramesChangeNothing(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	b.get(a.url("/"))
	s := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	s.until(`"tree"`)
	for _, frame := range []string{
		`{"action":"Mount","data":{"room":"other"}}`, `{"action":"onConnect"}`, `{"action":"PresenceChanged"}`,
		`{"action":"presence_changed"}`, `{"action":"__navigate__","data":{"room":"x"}}`, `{"action":"upload_start"}`,
		`{"action":"","submitter":"join"}`, `[]`, `null`, `{`, `{"action":"join","data":"x"}`,
	} {
		s.send(frame)
	}
	s.send(`{"action":"__ping__"}`)
	if frame := s.until("pong"); frame != `{"pong":true}` {
		t.Fatalf("answer to a ping: %s", frame)
	}
	// Types that a form can't send must not crash, and join nobody.
	for _, value := range []string{`null`, `{"a":1}`, `["x"]`, `""`} {
		s.send(`{"action":"join","data":{"username":` + value + `}}`)
		if reply := s.until(`"action":"join"`); !strings.Contains(reply, `"success":false`) {
			t.Fatalf("username %s: %s", value, reply)
		}
	}
	s.send(`{"action":"join","data":{"username":42}}`)
	if reply := s.until(`"action":"join"`); !strings.Contains(reply, `"42"`) {
		t.Fatalf("the name 42: %s", reply)
	}
	s.send(`{"action":"leave"}`)
	s.until(`"action":"leave"`)
	s.send(`{"action":"join","data":{"username":true}}`)
	if reply := s.until(`"action":"join"`); !strings.Contains(reply, `"true"`) {
		t.Fatalf("the name true: %s", reply)
	}
}

func TestWithoutRedisPagesAreStaleAndJoinsFailInTime(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, func(c *Config) {
		c.RedisURL = address
		c.HeartbeatInterval, c.MemberTTL = 500*time.Millisecond, 5*time.Second
	}).ready(t)
	b := newBrowser(t)
	b.get(a.url("/"))
	s := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	s.until(`"tree"`)
	s.send(`{"action":"join","data":{"username":"Ann"}}`)
	s.until(`"action":"join"`)
	redistest.Eventually(t, 10*time.Second, "the replica has read the join", func() bool {
		_, body := b.do("GET", a.url("/v1/rooms/lobby"), "")
		return strings.Contains(body, `"users":1,`)
	})
	m.Close()
	s.until("how it was a while ago")
	if resp, body := b.do("GET", a.url("/readyz"), ""); resp.StatusCode != 503 || !strings.Contains(body, "redis") {
		t.Fatalf("readyz: %s %s", resp.Status, body)
	}
	if resp, _ := b.do("GET", a.url("/livez"), ""); resp.StatusCode != 200 {
		t.Fatalf("livez: %s", resp.Status)
	}
	if _, body := b.do("GET", a.url("/v1/rooms/lobby"), ""); !strings.Contains(body, `"users":1,`) || !strings.Contains(body, `"stale":true`) {
		t.Fatalf("API: %s", body)
	}
	if resp, _ := b.do("GET", a.url("/v1/rooms/unknown"), ""); resp.StatusCode != 503 {
		t.Fatalf("API of an unknown room: %s", resp.Status)
	}
	other := newBrowser(t)
	started := time.Now()
	page := other.post(a.url("/"), join("Ben"))
	if took := time.Since(started); took > 4*time.Second { // 2 s, and as much for a busy machine
		t.Errorf("the form was answered after %v", took)
	}
	demand(t, page, "This did not happen", `value="Ben"`, "1 user(s) online")
	demand(t, other.get(a.url("/rooms/new")), "– user(s) online")
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 5*time.Second, "everything is right again", func() bool {
		_, body := b.do("GET", a.url("/v1/rooms/lobby"), "")
		return strings.Contains(body, `"users":1,`) && strings.Contains(body, `"stale":false`)
	})
}

// A Redis that says nothing is no reason to wait for longer than 2 s, not even for a
// form, and not even when none has ever answered. And nobody is told to have left who
// has not.
func TestPressesAreAnsweredInTimeWhileRedisIsSilent(t *testing.T) {
	server := redistest.Start(t)
	onRedis := func(c *Config) { c.RedisURL = server.URL() }
	a := start(t, onRedis).ready(t)
	ann := newBrowser(t)
	ann.get(a.url("/"))
	tab := ann.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	tab.until(`"tree"`)
	tab.send(`{"action":"join","data":{"username":"Ann"}}`)
	tab.until(`"action":"join"`)
	server.Pause()
	defer server.Continue()
	fresh := start(t, onRedis)
	for action, at := range map[string]*running{"leave": a, "join": fresh} {
		began := time.Now()
		page := newBrowser(t).post(at.url("/"), url.Values{"lvt-action": {action}, "username": {"Ben"}})
		if took := time.Since(began); took > 4*time.Second { // 2 s, and as much for a busy machine
			t.Errorf("a form to %s was answered after %v", action, took)
		}
		demand(t, page, "This did not happen")
	}
	_ = tab.Close()
	again := ann.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	again.until(`"tree"`)
	again.send(`{"action":"leave"}`)
	if answer := again.until(`"action":"leave"`); !strings.Contains(answer, "This did not happen") {
		t.Errorf("the answer to a leave that can't be: %s", answer)
	}
	server.Continue()
	room := func() string {
		_, body := ann.do("GET", a.url("/v1/rooms/lobby"), "")
		return body
	}
	redistest.Eventually(t, 10*time.Second, "the room is fresh", func() bool { return strings.Contains(room(), `"stale":false`) })
	// Redis may have received the leave that got no answer, and carries it out when it
	// goes on. Otherwise Ann is still there and can leave again.
	if strings.Contains(room(), `"users":1,`) {
		again.until("Logged in as")
		again.send(`{"action":"leave"}`)
		again.until(`"action":"leave"`)
	}
	redistest.Eventually(t, 5*time.Second, "nobody is there", func() bool { return strings.Contains(room(), `"users":0,`) })
	demand(t, ann.get(a.url("/")), `name="username"`)
}

func TestStopClosesSocketsWithServiceRestartWhileStillServing(t *testing.T) {
	address, _ := redisURL(t)
	a := start(t, func(c *Config) { c.RedisURL, c.ShutdownTimeout = address, 6*time.Second }).ready(t)
	b := newBrowser(t)
	b.get(a.url("/"))
	s := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	s.until(`"tree"`)
	stopped := make(chan error, 1)
	go func() { stopped <- a.stop() }()
	redistest.Eventually(t, 10*time.Second, "balancers are told", func() bool {
		resp, _ := b.do("GET", a.url("/lbz"), "")
		return resp.StatusCode == 404
	})
	if resp, _ := b.do("GET", a.url("/readyz"), ""); resp.StatusCode != 503 {
		t.Fatalf("readyz while draining: %s", resp.Status)
	}
	b.get(a.url("/")) // a late visitor is served
	_ = s.SetReadDeadline(time.Now().Add(15 * time.Second))
	for {
		if _, _, err := s.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
				t.Fatalf("closed with %v", err)
			}
			break
		}
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}

func TestVisitorsAreKnownEvenBeforeRedisIs(t *testing.T) {
	address, m := redisURL(t)
	onRedis := func(c *Config) { c.RedisURL, c.HeartbeatInterval = address, 500*time.Millisecond }
	a := start(t, onRedis).ready(t)
	ann := newBrowser(t)
	ann.get(a.url("/"))
	tab := ann.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	tab.send(`{"action":"join","data":{"username":"Ann"}}`)
	tab.until(`"action":"join"`)
	m.SetError("LOADING")
	b := start(t, onRedis)
	page := ann.get(b.url("/"))
	demand(t, page, "Not up to date")
	early := ann.open(b, "/?tab=aaaaaaaaaaaaaaaa")
	early.until(`"tree"`)
	m.SetError("")
	_ = early.SetReadDeadline(time.Now().Add(15 * time.Second))
	for {
		if _, _, err := early.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
				t.Fatalf("the socket of a stranger ended with %v", err)
			}
			break
		}
	}
	ann.open(b, "/?tab=aaaaaaaaaaaaaaaa").until("Logged in as")
	demand(t, ann.get(b.url("/")), "1 user(s) online")
}

// The secret may become known between the moment when a browser is taken for a stranger and
// the opening of its socket.
func TestStrangerIsKnownBeforeTheSocketOpens(t *testing.T) {
	s := newSecret(session.New([]byte("another secret")), true)
	sockets := socket.New(socket.Options{OnUpgrade: func(_ *http.Request, c *socket.Conn) {
		s.learn("the secret of all replicas")
		s.opened(c)
	}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := sockets.Upgrade(w, r, nil)
		for err == nil {
			_, _, err = c.ReadMessage()
		}
	}))
	defer server.Close()
	ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	defer func() { _ = ws.Close() }()
	_ = ws.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
		t.Errorf("the socket of a stranger ended with %v", err)
	}
}

func TestSecretIsSharedThroughRedisAndPutBack(t *testing.T) {
	address, m := redisURL(t)
	onRedis := func(c *Config) { c.RedisURL, c.HeartbeatInterval = address, 500*time.Millisecond }
	a, b := start(t, onRedis).ready(t), start(t, onRedis).ready(t)
	same := func() bool { return a.cookies.Secret() == b.cookies.Secret() }
	redistest.Eventually(t, 10*time.Second, "both have one secret", same)
	before := a.cookies.Secret()
	m.FlushAll()
	redistest.Eventually(t, 10*time.Second, "the secret is back", func() bool {
		got, _ := m.Get("presence:secret")
		return got == before
	})
	c := start(t, onRedis).ready(t)
	redistest.Eventually(t, 10*time.Second, "a new replica has it too", func() bool { return c.cookies.Secret() == before })
}

// While any replica knows the secret it is put back, and a replica that does not know
// it yet makes none of its own.
func TestDeletedSecretIsPutBack(t *testing.T) {
	address, m := redisURL(t)
	onRedis := func(c *Config) { c.RedisURL, c.HeartbeatInterval = address, 2*time.Second }
	a := start(t, onRedis).ready(t)
	before := a.cookies.Secret()
	for range 3 {
		m.Del("presence:secret")
		b := start(t, onRedis)
		redistest.Eventually(t, 5*time.Second, "the secret is back", func() bool {
			got, _ := m.Get("presence:secret")
			if got != "" && got != before {
				t.Fatal("it was replaced by another")
			}
			return got == before
		})
		b.ready(t)
		if b.cookies.Secret() != before || a.cookies.Secret() != before {
			t.Fatal("not all have the secret that there was")
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A server that can't read the secret asks for it again, and until it knows one gives
// no cookies and is not ready.
func TestServerIsNotReadyWithoutTheSecret(t *testing.T) {
	address, m := redisURL(t)
	first := start(t, func(c *Config) { c.RedisURL = address }).ready(t)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	for name, lose := range map[string]func(){
		"wrong type": func() { m.Del("presence:secret"); _, _ = m.Push("presence:secret", "x") },
		"empty":      func() { _ = m.Set("presence:secret", "") },
	} {
		lose()
		a := start(t, func(c *Config) { c.RedisURL = address })
		b := newBrowser(t)
		redistest.Eventually(t, 5*time.Second, "it is ready", func() bool {
			resp, body := b.do("GET", a.url("/readyz"), "")
			if resp.StatusCode != 200 && !strings.Contains(body, "redis") {
				t.Fatalf("%s: not ready: %s", name, body)
			}
			return resp.StatusCode == 200
		})
		resp, _ := b.do("GET", a.url("/"), "")
		if len(resp.Cookies()) == 0 {
			t.Errorf("%s: ready, and gives no cookie", name)
		}
		if got, _ := m.Get("presence:secret"); got != a.cookies.Secret() {
			t.Errorf("%s: redis has the secret %q", name, got)
		}
	}
}

// Until the secret is known nobody can be told who they are, so nobody joins: a member
// that nobody knows could not leave.
func TestNobodyJoinsBeforeTheSecretIsKnown(t *testing.T) {
	a := start(t, func(*Config) {}).ready(t)
	a.secret.known, a.secret.once = make(chan struct{}), false // by now only requests look at them
	b := newBrowser(t)
	page := b.post(a.url("/"), join("Ann"))
	demand(t, page, "This did not happen", ">0 user(s) online")
	tab := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	tab.until(`"tree"`)
	tab.send(`{"action":"join","data":{"username":"Ann"}}`)
	tab.until("This did not happen")
	demand(t, newBrowser(t).get(a.url("/")), ">0 user(s) online")
}

func TestBadSettingsAreNamed(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"-listen":              func(c *Config) { c.Listen = "127.0.0.1:99999" },
		"-session-secret-file": func(c *Config) { c.SessionSecretFile = "/does/not/exist" },
		"-redis-password-file": func(c *Config) { c.RedisURL, c.RedisPasswordFile = "redis://h", "/does/not/exist" },
		"-redis-url":           func(c *Config) { c.RedisURL = "redis://user:geheim@h:x" },
	} {
		config := Default()
		config.Listen, config.AdminListen = "127.0.0.1:0", ""
		change(&config)
		_, err := New(config, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	file := t.TempDir() + "/secret"
	write := func(text string) string {
		if err := writeFile(file, text); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if _, err := readSecret("session-secret-file", write("too short\n"), minSecret); err == nil {
		t.Error("a short secret was accepted")
	}
	if got, err := readSecret("session-secret-file", write("long enough, I think\r\n"), minSecret); err != nil || got != "long enough, I think" {
		t.Errorf("readSecret = %q, %v", got, err)
	}
}

func TestHealthCheck(t *testing.T) {
	a := start(t, nil).ready(t)
	config := a.config
	config.AdminListen = a.AdminAddr()
	if err := CheckHealth(t.Context(), config); err != nil {
		t.Error(err)
	}
	config.AdminListen, config.Listen = "", strings.Replace(a.Addr(), "127.0.0.1", "", 1)
	if err := CheckHealth(t.Context(), config); err != nil {
		t.Error(err)
	}
	config.Listen = fmt.Sprintf(":%d", redistest.FreePort(t))
	if err := CheckHealth(t.Context(), config); err == nil {
		t.Error("nobody is healthy")
	}
}

func writeFile(name, text string) error { return os.WriteFile(name, []byte(text), 0o600) }

package browser

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"

	"presence/internal/redistest"
)

const tokenSecret = "a secret of the product and the server"

// product is another web application, whose pages use the browser module, and which
// gives its users tokens.
type product struct {
	site *site
	life atomic.Int64 // of tokens
	made atomic.Int64 // tokens
	last atomic.Value // token that is given again when life is 0
	URL  string
}

// newProduct starts a site, and a product beside it.
func newProduct(t *testing.T, flags ...string) *product {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(tokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &product{site: newSite(t, append([]string{"-token-secret-file", secret, "-api-origins", "*"}, flags...)...)}
	p.life.Store(int64(time.Hour))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if r.URL.Path == "/token" {
			p.made.Add(1)
			_, _ = fmt.Fprint(w, p.token(t, query.Get("user")))
			return
		}
		// The page of the product: it notes all that it is told.
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Product</title><link rel="icon" href="data:,">
<script>
	// Time passes faster by so much.
	const hurry = Number(new URLSearchParams(location.search).get("hurry") ?? 1), real = setTimeout;
	window.setTimeout = (then, wait) => real(then, wait / hurry);
</script>
<script type="module">
	import { presence } from %q;
	const user = %q;
	const token = user && (async () => (await fetch("/token?user=" + user)).text());
	window.seen = [];
	const note = (room, change) => seen.push({ ...room, change, at: Date.now() });
	const server = presence({ token });
	window.me = user ? server.join("doc", note) : server.watch("doc", note);
	window.server = server;
</script>`, query.Get("server")+"/assets/presence.js", html.EscapeString(query.Get("user")))
	}))
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

// token returns a token for a user.
func (p *product) token(t *testing.T, user string) string {
	t.Helper()
	life := time.Duration(p.life.Load())
	if life == 0 {
		return p.last.Load().(string)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": user, "exp": float64(time.Now().Add(life).UnixMilli()) / 1000,
		"presence": map[string]any{"rooms": map[string]any{"doc": []string{"observe", "join"}}},
	}).SignedString([]byte(tokenSecret))
	if err != nil {
		t.Error(err)
	}
	p.last.Store(token)
	return token
}

// visit opens the product's page, which uses the server at an address, as user; if user
// is "", it only watches.
func (p *product) visit(t *testing.T, b *browser, server, user string) *tab {
	t.Helper()
	return b.goTo(p.URL + "/?server=" + server + "&user=" + user)
}

// goTo opens a tab at an address.
func (b *browser) goTo(url string) *tab {
	b.t.Helper()
	tab := b.newTab()
	tab.navigate(url)
	return tab
}

// call calls the API of replica B as a user.
func (p *product) call(t *testing.T, method, path, user string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.site.b.URL+"/v1/rooms/doc/"+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.token(t, user))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// told is what the module has told a page.
type told struct {
	Users       int  `json:"users"`
	Connections int  `json:"connections"`
	Live        bool `json:"live"`
	Complete    bool `json:"complete"`
	Stale       bool `json:"stale"`
	Members     []struct {
		User string `json:"user"`
	} `json:"members"`
	Problem *struct {
		Code, Retry string
		Errors      []struct{ Pointer string }
	} `json:"problem"`
	At float64 `json:"at"`
}

// has reports whether exactly these users are present.
func (r told) has(users ...string) bool {
	var there []string
	for _, m := range r.Members {
		there = append(there, m.User)
	}
	return r.Users == len(users) && slices.Equal(slices.Sorted(slices.Values(there)), users)
}

// hears waits until cond holds for what the module has told the page.
func (tab *tab) hears(what string, cond func(told) bool) told {
	tab.t.Helper()
	var room told
	redistest.Eventually(tab.t, soon, "the page hears "+what, func() bool {
		now, err := try[*told](tab, "window.me?.room")
		if err != nil || now == nil {
			return false
		}
		room = *now
		return cond(room)
	})
	return room
}

// alwaysHeard fails the test if cond did not hold for everything that the page was told
// after cond first held.
func (tab *tab) alwaysHeard(what string, cond func(told) bool) {
	tab.t.Helper()
	all := eval[[]told](tab, "window.seen")
	first := slices.IndexFunc(all, cond)
	for _, room := range all[max(first, 0):] {
		if !cond(room) {
			tab.t.Errorf("the page was told %+v; want always: %s", room, what)
			return
		}
	}
}

func has(users ...string) func(told) bool {
	return func(r told) bool { return r.Live && r.has(users...) }
}

func annIsThere(r told) bool { return strings.Contains(fmt.Sprint(r.Members), "{ann}") }

func TestModuleOutlivesAReplica(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	balancer := newBalancer(t, p.site.a)
	ann, viewer := p.visit(t, newBrowser(t), balancer.URL, "ann"), p.visit(t, newBrowser(t), p.site.b.URL, "")
	ann.hears("of herself", has("ann"))
	viewer.hears("of Ann", has("ann"))
	ann.outage = true
	p.site.a.Kill()
	ann.hears("nothing", func(r told) bool { return !r.Live && r.has("ann") })
	balancer.switchTo(p.site.b)
	p.call(t, http.MethodPut, "connections/c1", "ben")
	ann.hears("of both", has("ann", "ben"))
	viewer.hears("of both", has("ann", "ben"))
	viewer.alwaysHeard("Ann is there", annIsThere)
	p.call(t, http.MethodDelete, "connections/c1", "ben")
	ann.hears("that Ben left", has("ann"))
	if reason := eval[string](ann, `seen.at(-1).change.leaves[0].reason`); reason != "left" {
		t.Errorf("Ben left because of %q", reason)
	}
}

// networkConditions are the parameters of emulateNetwork.
type networkConditions struct {
	Offline  bool    `json:"offline"`
	Latency  float64 `json:"latency"`
	Download float64 `json:"downloadThroughput"`
	Upload   float64 `json:"uploadThroughput"`
}

// emulateNetwork takes away a tab's network, and the page is told. cdproto does not have
// this command.
var emulateNetwork = cdp.Command[networkConditions, cdp.Empty]{Method: "Network.emulateNetworkConditions"}

func TestModuleOutlivesANetwork(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	ann, viewer := p.visit(t, newBrowser(t), p.site.a.URL, "ann"), p.visit(t, newBrowser(t), p.site.b.URL, "")
	ann.hears("of herself", has("ann"))
	viewer.hears("of Ann", has("ann"))
	ann.outage = true
	call(ann, emulateNetwork, networkConditions{Offline: true, Download: -1, Upload: -1})
	ann.hears("nothing", func(r told) bool { return !r.Live })
	p.call(t, http.MethodPut, "connections/c1", "ben")
	viewer.hears("of both", has("ann", "ben"))
	call(ann, emulateNetwork, networkConditions{Download: -1, Upload: -1})
	ann.hears("of both", has("ann", "ben"))
	viewer.alwaysHeard("Ann is there", annIsThere)
}

// A stream may end while the room is stale. The next stream begins with the whole room.
// If it were resumed and the room had not changed, no event would say that the room is
// right again.
func TestModuleIsNotStaleForever(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile("../../web/dist/presence.js")
	if err != nil {
		t.Fatal(err)
	}
	var streams atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /assets/presence.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write(module)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<!doctype html><html lang="en"><title>Product</title><link rel="icon" href="data:,">
<script type="module">
	import { presence } from "/assets/presence.js";
	window.me = presence().watch("doc");
</script>`)
	})
	mux.HandleFunc("GET /v1/rooms/doc/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "retry: 10\n\n")
		if r.Header.Get("Last-Event-ID") == "" {
			_, _ = io.WriteString(w, "id: 7\nevent: snapshot\ndata: {\"version\":7,\"users\":0,\"stale\":false,\"complete\":true,\"members\":[]}\n\n")
		}
		if streams.Add(1) == 1 {
			_, _ = io.WriteString(w, "event: stale\ndata: {\"version\":7,\"stale\":true}\n\n")
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	newBrowser(t).goTo(server.URL).hears("that it is right again", func(r told) bool {
		return streams.Load() > 1 && r.Live && !r.Stale
	})
}

// A network may fail without a sign, or the machine may have slept. Then the bytes that
// the server sends every 15 s do not come.
func TestModuleGivesASilentStreamUp(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	var streams atomic.Int64
	balancer := newBalancer(t, p.site.a, func(r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/events") {
			streams.Add(1)
		}
	})
	viewer := p.visit(t, newBrowser(t), p.site.b.URL, "")
	viewer.hears("of nobody", has())
	ann := newBrowser(t).goTo(p.URL + "/?hurry=30&user=ann&server=" + balancer.URL)
	ann.outage = true
	redistest.Eventually(t, soon, "the next stream is opened", func() bool { return streams.Load() > 1 })
	ann.hears("of herself, still", has("ann"))
	viewer.alwaysHeard("Ann is there", annIsThere)
	if all := eval[[]told](ann, "window.seen"); !slices.ContainsFunc(all, func(r told) bool { return !r.Live && r.has("ann") }) {
		t.Errorf("the page was told %+v; want that it is not live for a moment", all)
	}
}

func TestModuleOutlivesAFreeze(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	ann, viewer := p.visit(t, newBrowser(t), p.site.a.URL, "ann"), p.visit(t, newBrowser(t), p.site.b.URL, "")
	ann.hears("of herself", has("ann"))
	state := func(s page.SetWebLifecycleStateState) {
		call(ann, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: s})
	}
	state(page.SetWebLifecycleStateStateFrozen)
	p.call(t, http.MethodPut, "connections/c1", "ben")
	viewer.hears("of both", has("ann", "ben"))
	state(page.SetWebLifecycleStateStateActive)
	ann.hears("of both", has("ann", "ben"))
	viewer.alwaysHeard("Ann is there", annIsThere)
}

// While a machine sleeps its clock goes on, but no timer runs. The test moves the clock.
func TestModuleIsNotLiveAfterASleep(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	ann := p.visit(t, newBrowser(t), p.site.a.URL, "ann")
	ann.hears("of herself", has("ann"))
	sleep := func(d time.Duration, then string) bool {
		t.Helper()
		return eval[bool](ann, fmt.Sprintf(`(() => {
			const now = Date.now;
			Date.now = () => now() + %d;
			seen.length = 0;
			%s;
			return me.room.live;
		})()`, d.Milliseconds(), then))
	}
	for _, signal := range []struct {
		event string
		after time.Duration
	}{
		{`document.dispatchEvent(new Event("visibilitychange"))`, 21 * time.Second},
		{`document.dispatchEvent(new Event("resume"))`, 0},
		{`dispatchEvent(new Event("offline"))`, 0},
	} {
		if sleep(signal.after, signal.event) {
			t.Errorf("after %v and %s the page is live", signal.after, signal.event)
		}
		ann.hears("of herself again", has("ann"))
	}

	// The stream may deliver what was sent before the sleep.
	sleep(time.Minute, "")
	p.call(t, http.MethodPut, "connections/c1", "ben")
	ann.hears("of both", has("ann", "ben"))
	if first := eval[[]told](ann, "window.seen")[0]; first.Live {
		t.Errorf("after a minute the page was first told %+v; want that it is not live", first)
	}

	// Nothing comes, and the next stream is not opened either.
	sleep(time.Minute, "window.fetch = () => new Promise(() => {})")
	ann.hears("nothing", func(r told) bool { return !r.Live && r.has("ann", "ben") })
}

// An expired token does not end the presence if there is a new one, and nobody sees the
// change.
func TestModuleRenewsItsToken(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	viewer := p.visit(t, newBrowser(t), p.site.b.URL, "")
	viewer.hears("of nobody", has())
	p.life.Store(int64(4 * time.Second))
	ann := p.visit(t, newBrowser(t), p.site.a.URL, "ann")
	redistest.Eventually(t, soon, "a token is made", func() bool { return p.made.Load() > 0 })
	p.life.Store(int64(time.Hour))
	made := p.made.Load()
	redistest.Eventually(t, soon, "the next token is made", func() bool { return p.made.Load() > made })
	p.call(t, http.MethodPut, "connections/c1", "ben")
	ann.hears("of both", has("ann", "ben"))
	viewer.alwaysHeard("Ann is there", annIsThere)
	ann.alwaysHeard("live", func(r told) bool { return r.Live })
}

// After "never" the module does not reconnect.
func TestModuleStopsWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	p := newProduct(t, "-leave-grace=1s")
	p.life.Store(int64(time.Second))
	b := newBrowser(t)
	ann, viewer := p.visit(t, b, p.site.a.URL, "ann"), p.visit(t, newBrowser(t), p.site.b.URL, "")
	redistest.Eventually(t, soon, "a token is made", func() bool { return p.made.Load() > 0 })
	p.life.Store(0)   // the same is given again
	ann.outage = true // a refusal is an error of the network
	over := ann.hears("that it is over", func(r told) bool { return r.Problem != nil })
	if over.Live || over.Problem.Code != "unauthorized" || over.Problem.Retry != "never" {
		t.Errorf("without another token: %+v", over)
	}
	viewer.hears("of nobody", has())

	p.life.Store(int64(time.Hour))
	made := p.made.Load()
	ann.reload()
	ann.hears("of herself", has("ann"))
	p.call(t, http.MethodDelete, "connections/"+eval[string](ann, "me.connection"), "ann")
	over = ann.hears("that it is over", func(r told) bool { return r.Problem != nil })
	if over.Live || over.Problem.Code != "left" || over.Problem.Retry != "never" {
		t.Errorf("after a leave elsewhere: %+v", over)
	}
	viewer.hears("of nobody", has())
	if n := p.made.Load(); n != made+1 {
		t.Errorf("%d tokens were asked for since the reload, want 1", n-made)
	}

	eval[bool](ann, `(me = server.join("doc", undefined, { name: "x".repeat(41) })) && true`)
	over = ann.hears("that the name is not legal", func(r told) bool { return r.Problem != nil && r.Problem.Code == "invalid" })
	if errors := over.Problem.Errors; len(errors) != 1 || errors[0].Pointer != "/name" {
		t.Errorf("of the name it is told %+v", over.Problem)
	}
}

// A reload keeps the connection, and a duplicated tab gets another. Leaving takes effect
// at once.
func TestModuleKnowsItsTab(t *testing.T) {
	t.Parallel()
	p := newProduct(t, "-leave-grace=1m")
	ann, viewer := p.visit(t, newBrowser(t), p.site.a.URL, "ann"), p.visit(t, newBrowser(t), p.site.b.URL, "")
	ann.hears("of herself", has("ann"))
	viewer.hears("of Ann", has("ann"))
	before := eval[string](ann, "me.connection")
	ann.reload()
	ann.hears("of herself", has("ann"))
	if after := eval[string](ann, "me.connection"); after != before {
		t.Errorf("after a reload the connection is %q, was %q", after, before)
	}
	viewer.alwaysHeard("one connection", func(r told) bool { return r.Connections == 1 })

	copied := ann.double()
	viewer.hears("of two connections", func(r told) bool { return r.has("ann") && r.Connections == 2 })
	if other := eval[string](copied, "me.connection"); other == before {
		t.Error("a duplicated tab has the same connection")
	}
	eval[chromedp.Void](copied, "void me.leave().then((took) => { window.took = took; })")
	viewer.hears("of one connection", func(r told) bool { return r.has("ann") && r.Connections == 1 })
	redistest.Eventually(t, soon, "leave says that it was taken", func() bool { return eval[bool](copied, "window.took === true") })

	eval[chromedp.Void](ann, `addEventListener("pagehide", () => void me.leave())`)
	ann.navigate("about:blank")
	viewer.hears("of nobody", has())

	// A page that comes back from the browser's memory is there again.
	ben := p.visit(t, newBrowser(t), p.site.a.URL, "ben")
	viewer.hears("of Ben", has("ben"))
	connection := eval[string](ben, "me.connection")
	ben.navigate(p.URL + "/?server=" + p.site.a.URL + "&user=")
	ben.hears("of himself, still", has("ben"))
	eval[chromedp.Void](ben, "void history.back()")
	ben.hears("of himself, joined", func(r told) bool {
		joined, err := try[bool](ben, "Boolean(me.connection)")
		return err == nil && joined && r.Live && r.has("ben")
	})
	if back := eval[string](ben, "me.connection"); back != connection {
		t.Errorf("back, the connection is %q, was %q", back, connection)
	}
	viewer.hears("of one connection", func(r told) bool { return r.has("ben") && r.Connections == 1 })
}

// document is what the example of a document shows.
type document struct {
	People []string `json:"people"`
	Status string   `json:"status"`
	Leave  bool     `json:"leave"` // whether it can be pressed
}

// showsDocument waits until the example of a document shows these people and this status.
func (tab *tab) showsDocument(leave bool, status string, people ...string) {
	tab.t.Helper()
	var now document
	redistest.Eventually(tab.t, soon, fmt.Sprintf("the document shows %v, %q", people, status), func() bool {
		d, err := try[*document](tab, `({
			people: [...document.querySelectorAll("#people li")].map(({ innerText, title }) => innerText + "/" + title),
			status: document.getElementById("status").innerText,
			leave: !document.getElementById("leave").hidden,
		})`)
		if err != nil || d == nil {
			return false
		}
		now = *d
		return slices.Equal(now.People, people) && now.Status == status && now.Leave == leave
	})
}

func TestExamplesShowWhoIsThere(t *testing.T) {
	t.Parallel()
	axe := axe(t)
	p := newProduct(t)
	balancer := newBalancer(t, p.site.a)
	ann := newBrowser(t).goTo(balancer.URL + "/examples/document.html?room=doc#token=" + p.token(t, "ann"))
	viewer := newBrowser(t).goTo(p.site.b.URL + "/examples/document.html?room=doc")
	badge := newBrowser(t).goTo(p.site.b.URL + "/examples/badge.html?room=doc")
	const oneAvatar = "a\nann/ann"
	ann.showsDocument(true, "1 looking", oneAvatar)
	viewer.showsDocument(false, "1 looking", oneAvatar)
	badgeSays := func(text string) {
		t.Helper()
		redistest.Eventually(t, soon, "the badge says "+text, func() bool {
			now, err := try[string](badge, `document.getElementById("badge").innerText`)
			return err == nil && now == text
		})
	}
	badgeSays("1 online")
	ann.check(axe, "the example of a document")
	badge.check(axe, "the example of a badge")

	ann.outage = true
	p.site.a.Kill()
	ann.showsDocument(true, "1 looking · reconnecting…", oneAvatar)
	balancer.switchTo(p.site.b)
	ann.showsDocument(true, "1 looking", oneAvatar)
	ann.click("#leave")
	ann.showsDocument(false, "0 looking")
	viewer.showsDocument(false, "0 looking")
	badgeSays("0 online")
	badge.navigate(p.site.b.URL + "/examples/")
	badge.check(axe, "the list of examples")
}

// The browser prepares a page in case the visitor goes there. Until it is shown, nobody
// is present through it. The test simulates the signals that tell a page so.
func TestModuleWaitsUntilThePageIsShown(t *testing.T) {
	t.Parallel()
	p := newProduct(t)
	b := newBrowser(t)
	ann := b.newTab()
	call(ann, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `Object.defineProperty(document, "prerendering", { value: true, configurable: true })`,
	})
	ann.navigate(p.URL + "/?user=ann&server=" + p.site.a.URL)
	shown := eval[float64](ann, `(() => {
		if (!me) throw new Error("the module was not loaded");
		Object.defineProperty(document, "prerendering", { value: false });
		const now = performance.now();
		document.dispatchEvent(new Event("prerenderingchange"));
		return now;
	})()`)
	ann.hears("of herself", has("ann"))
	if asked := eval[float64](ann, `performance.getEntriesByName(new URL("/token?user=ann", location).href)[0].startTime`); asked < shown {
		t.Errorf("the token was asked for %v ms before the page was shown", shown-asked)
	}
}

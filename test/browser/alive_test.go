package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"presence/internal/redistest"
	"presence/test/harness"
)

// load opens a tab at an address. The page need not become live.
func (b *browser) load(url string) *tab {
	b.t.Helper()
	tab := b.newTab()
	tab.outage = true
	tab.navigate(url)
	return tab
}

// If the client is blocked, the page says so and reloads itself, which is its heartbeat.
// A joined user stays, typed text stays, and once the client can be loaded the page is
// live.
func TestPageWithoutTheClientReloadsItself(t *testing.T) {
	t.Parallel()
	const heartbeat, ttl = 2 * time.Second, 6 * time.Second
	site := newSite(t, "-heartbeat-interval", heartbeat.String(), "-member-ttl", ttl.String(), "-leave-grace", "1s")
	balancer := newBalancer(t, site.a)
	balancer.block("client.")
	ben := newBrowser(t).open(site.b.URL)
	ann := newBrowser(t).load(balancer.URL)
	document := func() float64 { return eval[float64](ann, "performance.timeOrigin") }
	// A document may end at any moment, so this is tried again.
	reloads := func(what string, holds string) {
		t.Helper()
		for range 2 {
			before := document()
			redistest.Eventually(t, soon, "the page was reloaded "+what, func() bool {
				ok, err := try[bool](ann, fmt.Sprintf("performance.timeOrigin !== %v && document.readyState === 'complete' && (%s)", before, holds))
				return err == nil && ok
			})
		}
	}
	status := `getComputedStyle(document.querySelector(".link > .is-reloading")).display !== "none"`
	reloads("and says that it will be", status+` && document.querySelector(".link > .is-reloading").textContent === "Not live: this page reloads itself"`)
	if address := eval[string](ann, "location.href"); address != balancer.URL+"/" {
		t.Errorf("the address is %s", address)
	}

	typeAnn := func() {
		t.Helper()
		for _, key := range []string{"A", "n", "n"} {
			ann.do(chromedp.KeyEvent(key))
		}
	}
	eval[chromedp.Void](ann, `document.querySelector("`+nameField+`").focus()`)
	typeAnn()
	ann.do(chromedp.KeyEvent(kb.ArrowLeft))
	reloads("with what was typed, and the caret", `(({ value, selectionStart }) => value === "Ann" && selectionStart === 2)(document.activeElement)`)

	ann.do(chromedp.KeyEvent(kb.Enter))
	ben.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
	joined := time.Now()
	ann.sees(soon, "joined", func(s sight) bool { return s.As == "Ann" && s.Link != "live" })
	harness.Observe(t, ttl+2*heartbeat, "the lease of a page that is no heartbeat would have ended")
	ben.alwaysSaw(joined, "Ann", func(s sight) bool { return s.shows("Ann") })

	balancer.block("nothing")
	ann.sees(soon, "live, and still joined", func(s sight) bool { return s.live() && s.As == "Ann" })
	alive := document()
	harness.Observe(t, 2*heartbeat, "a page that is not live would be reloaded")
	if document() != alive {
		t.Error("a live page was reloaded")
	}
	ann.leave()
	ben.sees(soon, "empty", func(s sight) bool { return s.shows() })
}

// The same happens to a page whose sockets are refused.
func TestPageWithoutSocketsReloadsItself(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-heartbeat-interval", "2s", "-member-ttl", "6s", "-leave-grace", "1s", "-max-connections", "1")
	ben := newBrowser(t).open(site.a.URL) // has the only one
	ann := newBrowser(t).load(site.a.URL)
	ann.sees(soon, "saying that it reloads itself", func(s sight) bool { return s.Link == "reloading" })
	ann.fill("Ann")
	ann.do(chromedp.KeyEvent(kb.Enter))
	ben.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
	since := time.Now()
	harness.Observe(t, 8*time.Second, "the lease of a page that is no heartbeat would have ended")
	ben.alwaysSaw(since, "Ann", func(s sight) bool { return s.shows("Ann") })
}

// frames records what was visible each time the browser painted.
const frames = `(() => {
	window.painted = [];
	const look = () => {
		const page = document.querySelector("[data-joined]");
		const visible = (selector) => Boolean(document.querySelector(selector)?.getClientRects().length);
		if (page) window.painted.push(["[name=join]", "[name=leave]", ".again"].filter(visible).join() + " " + (document.querySelector(".again b")?.textContent ?? ""));
		requestAnimationFrame(look);
	};
	requestAnimationFrame(look);
})()`

// After a reload a joined page shows no form to join, and nothing on it moves.
func TestReloadOfAJoinedPageIsCalm(t *testing.T) {
	t.Parallel()
	for name, width := range map[string]int64{"wide": 1200, "phone": 360} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := newSite(t)
			for i := range 5 {
				if err := site.person(t).Post("join", fmt.Sprintf("Guest %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			ann := newBrowser(t).newTab()
			ann.do(chromedp.EmulateViewport(width, 1600))
			call(ann, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: frames})
			ann.navigate(site.a.URL)
			ann.sees(soon, "live", sight.live)
			if moved := eval[[]string](ann, "observer.shifts"); len(moved) > 0 {
				t.Errorf("while the page came alive, this moved: %q", moved)
			}
			ann.join("Ann")
			for i, guest := range []string{"Guest 5", "Guest 6"} {
				// Of more than six the rows are smaller, and so move when one more comes.
				ann.sees(soon, "showing all", func(s sight) bool { return s.Users == 6+i && len(s.Names) == s.Users })
				ann.reload()
				ann.sees(soon, "live, and joined", func(s sight) bool { return s.live() && s.As == "Ann" })
				for _, seen := range eval[[]string](ann, "painted") {
					if seen != ".again Ann" && seen != "[name=leave] " {
						t.Errorf("painted was %q", seen)
					}
				}
				if moved := eval[[]string](ann, "observer.shifts"); len(moved) > 0 {
					t.Errorf("this moved: %q", moved)
				}
				if err := site.person(t).Post("join", guest); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Without JavaScript, a half-typed name stays for as long as typing takes.
func TestTypingGoesOnWithoutScripts(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-heartbeat-interval", "1s", "-member-ttl", "3s")
	tab := newBrowser(t).openWithoutScripts(site.a.URL)
	tab.fill("Nor")
	harness.Observe(t, 3*time.Second, "a page that refreshes itself would have by now")
	if s, _ := tab.now(); s.Typed != "Nor" || s.Caret != 3 {
		t.Errorf("the field has %q, the caret is at %d", s.Typed, s.Caret)
	}
	if text := eval[string](tab, `document.querySelector(".link").innerText.trim()`); text != "Not live: reload" {
		t.Errorf("the status is %q", text)
	}
	tab.click(".link a")
	tab.sees(soon, "loaded anew", func(s sight) bool { return s.Typed == "" })
	tab.join("Nora")
	if text := eval[string](tab, `document.querySelector(".link").innerText.trim()`); text != "Not live: this page reloads itself" {
		t.Errorf("the status is %q", text)
	}
	harness.Observe(t, 4*time.Second, "the lease of a page that is no heartbeat would have ended")
	tab.sees(soon, "still joined", func(s sight) bool { return s.As == "Nora" && s.shows("Nora") })
}

func TestTitleCounts(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL + "/rooms/tea?tab=1&a=b&tab=2&tab=3#c")
	if address := eval[string](tab, "location.href"); address != site.a.URL+"/rooms/tea?a=b#c" {
		t.Errorf("the address is %s", address)
	}
	for i := range 2 {
		want := fmt.Sprintf("%d online · tea · Presence", i)
		redistest.Eventually(t, soon, "the title is "+want, func() bool { return eval[string](tab, "document.title") == want })
		person := harness.NewReader(t, harness.Options{Room: "/rooms/tea"}, site.b.URL)
		if err := person.Post("join", "Ann"); err != nil {
			t.Fatal(err)
		}
	}
	// No other number on the page is older than that.
	if foot := eval[string](tab, `document.querySelector(".rooms").textContent`); strings.ContainsAny(foot, "0123456789") {
		t.Errorf("the rooms are %q", foot)
	}
}

func TestRoomsLeadToRooms(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	if err := harness.NewReader(t, harness.Options{Room: "/rooms/tea"}, site.a.URL).Post("join", "Ann"); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func(*browser, string) *tab{"": (*browser).load, " without scripts": (*browser).openWithoutScripts} {
		tab := open(newBrowser(t), site.a.URL+"/rooms/")
		tab.outage = true // a name that no room can have is a status that the console tells
		at := func(path string) {
			t.Helper()
			redistest.Eventually(t, soon, "the page is "+path+name, func() bool {
				address, err := try[string](tab, "location.pathname + location.search")
				return err == nil && address == path
			})
		}
		at("/rooms")
		redistest.Eventually(t, soon, "the room is listed", func() bool {
			tab.navigate(site.a.URL + "/rooms")
			return strings.Contains(eval[string](tab, "document.body.innerText"), "tea\n1 online")
		})
		tab.click(`.busy a`)
		at("/rooms/tea")
		tab.navigate(site.a.URL + "/rooms")
		tab.click("#room")
		for _, key := range []string{"a", ".", kb.Enter} {
			tab.do(chromedp.KeyEvent(key))
		}
		at("/rooms?room=a.")
		redistest.Eventually(t, soon, "the field has the focus, and the wrong name"+name, func() bool {
			ok, err := try[bool](tab, `document.activeElement.id === "room" && document.activeElement.value === "a."`)
			return err == nil && ok
		})
		eval[chromedp.Void](tab, `document.activeElement.select()`)
		for _, key := range []string{"b", "-", "c", kb.Enter} {
			tab.do(chromedp.KeyEvent(key))
		}
		at("/rooms/b-c")
	}
}

package browser

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	browserdomain "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"presence/internal/redistest"
	"presence/internal/socket"
	"presence/test/harness"
)

// grace is short in tests that wait until it is over.
const grace = time.Second

func TestReloadChangesNothing(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-leave-grace", "5s")
	alice, bob := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL).join("Bob")
	both := func(s sight) bool { return s.shows("Alice", "Bob") }
	bob.sees(soon, "showing both", both)
	start := time.Now()
	for range 3 {
		alice.reload()
		alice.sees(soon, "live and joined", func(s sight) bool { return s.live() && s.As == "Alice" && both(s) })
		alice.alwaysSaw(start, "showing both", both)
		if address := eval[string](alice, "location.href"); address != site.a.URL+"/" {
			t.Errorf("the address is %s; want %s/", address, site.a.URL)
		}
	}
	bob.alwaysSaw(start, "showing both", both)
}

func TestClosedTabLeavesAfterTheGrace(t *testing.T) {
	t.Parallel()
	for name, closeTab := range map[string]func(*tab) time.Time{
		"closed":  (*tab).close,
		"crashed": (*tab).crash,
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, "-leave-grace", grace.String())
			alice, bob := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL)
			bob.sees(soon, "showing Alice", func(s sight) bool { return s.shows("Alice") })
			closed := closeTab(alice)
			gone := bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
			// How much longer it took is up to the browser, which closes at leisure.
			t.Logf("left after %v", gone.after(closed))
			bob.alwaysSaw(closed, "Alice until the grace is over, then nobody", func(s sight) bool {
				return s.shows("Alice") || s.shows() && s.after(closed) >= grace
			})
		})
	}
}

// crash ends the tab's process, and returns the time just before.
func (tab *tab) crash() time.Time {
	before := time.Now()
	// The answer dies with the process.
	ctx, cancel := context.WithTimeout(tab.ctx, 100*time.Millisecond)
	defer cancel()
	_, _ = chromedp.Call(ctx, page.Crash, cdp.Empty{})
	return before
}

func TestTwoTabsUnderOneNameAreOneUser(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-leave-grace", grace.String())
	bob, alice := newBrowser(t).open(site.b.URL), newBrowser(t)
	first, second := alice.open(site.a.URL).join("Alice"), alice.open(site.b.URL).join("Alice")
	bob.sees(soon, "showing one user on two connections", func(s sight) bool {
		return s.shows("Alice") && s.Aside == "on 2 connections"
	})
	closed := first.close()
	bob.sees(soon, "showing one user on one connection", func(s sight) bool {
		return s.shows("Alice") && s.Aside == ""
	})
	bob.alwaysSaw(closed, "showing Alice", func(s sight) bool { return s.shows("Alice") })
	second.leave()
	bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
}

func TestTwoBrowsersUnderOneNameAreTwoUsers(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	first, second := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL).join("Alice")
	for _, tab := range []*tab{first, second} {
		tab.sees(soon, "showing two users", func(s sight) bool { return s.shows("Alice", "Alice") && s.As == "Alice" })
	}
	// On every screen they are told apart by the same words.
	const rows = `[...document.querySelectorAll("[data-key]")].map((row) => [row.dataset.key, row.querySelector(".name").innerText, row.querySelector(".tag").innerText].join(" "))`
	const own = `[...document.querySelectorAll("[data-key]:has(small)")].map((row) => row.dataset.key)`
	told := eval[[]string](first, rows)
	if other := eval[[]string](second, rows); !slices.Equal(told, other) || len(strings.Fields(told[0])) != 3 || strings.Fields(told[0])[2] == strings.Fields(told[1])[2] {
		t.Errorf("the rows are %q and %q", told, other)
	}
	if a, b := eval[[]string](first, own), eval[[]string](second, own); len(a) != 1 || len(b) != 1 || a[0] == b[0] {
		t.Errorf("marked as one's own are %q and %q", a, b)
	}
	first.leave()
	second.sees(soon, "showing the other, and still joined", func(s sight) bool { return s.shows("Alice") && s.As == "Alice" })
	if left := eval[[]string](second, rows); len(left) != 1 || len(strings.Fields(left[0])) != 2 || len(eval[[]string](second, own)) != 1 {
		t.Errorf("the row of the only Alice is %q", left)
	}
}

// TestDuplicatedTabIsAnother also runs where pages have no Web Locks and find duplicates
// in another way.
func TestDuplicatedTabIsAnother(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]string{"secure": "127.0.0.1", "plain": plainHost} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t)
			url := strings.Replace(site.a.URL, "127.0.0.1", host, 1)
			alice := newBrowser(t).open(url).join("Alice")
			if secure := eval[bool](alice, "isSecureContext"); secure != (name == "secure") {
				t.Fatalf("the page counts as secure: %v", secure)
			}
			copied := alice.duplicate()
			copied.sees(soon, "nobody's", func(s sight) bool { return s.shows("Alice") && s.As == "" })
			copied.join("Bea")
			both := func(s sight) bool { return s.shows("Alice", "Bea") }
			alice.sees(soon, "showing both, and Alice's", func(s sight) bool { return both(s) && s.As == "Alice" })
			start := time.Now()
			for tab, name := range map[*tab]string{alice: "Alice", copied: "Bea"} {
				tab.reload()
				tab.sees(soon, "still "+name+"'s", func(s sight) bool { return s.live() && both(s) && s.As == name })
			}
			copied.alwaysSaw(start, "showing both", both)
			copied.leave()
			alice.sees(soon, "showing Alice alone", func(s sight) bool { return s.shows("Alice") && s.As == "Alice" })
		})
	}
}

// TestHiddenTabStaysAndCatchesUp hides a tab, with its window, for longer than a tab may
// answer no ping.
func TestHiddenTabStaysAndCatchesUp(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-leave-grace", grace.String())
	alice, bob := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL).join("Bob")
	both := func(s sight) bool { return s.shows("Alice", "Bob") }
	for _, tab := range []*tab{alice, bob} {
		tab.sees(soon, "showing both", both)
	}
	window := call(alice, browserdomain.GetWindowForTarget, browserdomain.GetWindowForTargetParams{}).WindowID
	become := func(state browserdomain.WindowState, visibility string) {
		t.Helper()
		call(alice, browserdomain.SetWindowBounds, browserdomain.SetWindowBoundsParams{
			WindowID: window, Bounds: &browserdomain.Bounds{WindowState: state},
		})
		redistest.Eventually(t, soon, "the page is "+visibility, func() bool {
			return eval[string](alice, "document.visibilityState") == visibility
		})
	}
	become(browserdomain.WindowStateMinimized, "hidden")
	hidden := time.Now()
	harness.Observe(t, socket.DefaultPingInterval+socket.DefaultPongTimeout+grace+2*time.Second, "somebody who answers no ping would be gone by now")
	bob.alwaysSaw(hidden, "showing both", both)
	bob.leave()
	become(browserdomain.WindowStateNormal, "visible")
	alice.sees(soon, "live, joined, and alone", func(s sight) bool { return s.live() && s.As == "Alice" && s.shows("Alice") })
	bob.alwaysSaw(hidden, "showing Alice", func(s sight) bool { return s.Users >= 1 })
}

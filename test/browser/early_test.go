package browser

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"presence/test/harness"
)

// slow delays the page script until the test lets it through.
type slow struct {
	*balancer
	through func()
}

func newSlow(t *testing.T, to *harness.Replica) *slow {
	t.Helper()
	come := make(chan struct{})
	s := &slow{through: sync.OnceFunc(func() { close(come) })}
	s.balancer = newBalancer(t, to, func(r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/assets/page") && strings.HasSuffix(r.URL.Path, ".js") {
			select {
			case <-come:
			case <-r.Context().Done():
			}
		}
	})
	t.Cleanup(s.through)
	return s
}

// early opens a page whose script has not arrived, and returns before the page is loaded.
func (b *browser) early(url string) *tab {
	b.t.Helper()
	tab := b.newTab()
	eval[chromedp.Void](tab, `void (location.href = "`+url+`")`)
	tab.sees(soon, "there", func(s sight) bool { return s.Served != "" })
	return tab
}

func TestFormSentBeforeTheScriptCame(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	site := newSite(t, "-heartbeat-interval", "1s", "-member-ttl", ttl.String(), "-leave-grace", grace.String())
	net := newSlow(t, site.a)
	bob := newBrowser(t).open(site.b.URL)
	alice := newBrowser(t)
	tab := alice.early(net.URL + "/?x=%20y#z")
	tab.join("Alice")
	bob.sees(soon, "showing Alice", func(s sight) bool { return s.shows("Alice") })
	start := time.Now()
	net.through()
	joined := func(s sight) bool { return s.As == "Alice" && s.shows("Alice") }
	tab.sees(soon, "live, and Alice's", func(s sight) bool { return s.live() && joined(s) })
	harness.Observe(t, ttl+2*time.Second, "a user who is not renewed would be gone")
	tab.alwaysSaw(start, "being Alice's", func(s sight) bool { return s.As == "Alice" })
	bob.alwaysSaw(start, "showing Alice, once", func(s sight) bool { return s.shows("Alice") && s.Aside == "" || s.Aside == "on 2 connections" })
	if address := eval[string](tab, "location.href"); address != net.URL+"/?x=+y#z" {
		t.Errorf("the address is %s", address)
	}
	tab.reload()
	tab.sees(soon, "live, and still Alice's", func(s sight) bool { return s.live() && joined(s) })

	// A second tab of the browser is nobody's.
	second := alice.open(net.URL + "/")
	second.sees(soon, "nobody's", func(s sight) bool { return s.As == "" && s.Users == 1 })

	tab.leave()
	left := time.Now()
	bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
	for range 3 {
		tab.reload()
		tab.sees(soon, "nobody's", func(s sight) bool { return s.live() && s.As == "" && s.shows() })
	}
	harness.Observe(t, ttl, "somebody who comes back would be there")
	bob.alwaysSaw(left.Add(time.Second), "empty", func(s sight) bool { return s.shows() })
}

func TestTwoFormsSentBeforeTheirScriptsCame(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-heartbeat-interval", "1s", "-member-ttl", "3s", "-leave-grace", grace.String())
	net := newSlow(t, site.a)
	browser := newBrowser(t)
	alice, bea := browser.early(net.URL+"/"), browser.early(net.URL+"/")
	alice.join("Alice")
	bea.join("Bea")
	net.through()
	for tab, name := range map[*tab]string{alice: "Alice", bea: "Bea"} {
		tab.sees(soon, "live, and "+name+"'s", func(s sight) bool { return s.live() && s.As == name && s.Users == 2 })
	}
	harness.Observe(t, 5*time.Second, "a user who is not renewed would be gone")
	for tab, name := range map[*tab]string{alice: "Alice", bea: "Bea"} {
		tab.sees(soon, "still "+name+"'s", func(s sight) bool { return s.live() && s.As == name && s.Users == 2 })
	}
}

func TestLeavePressedBeforeTheScriptCame(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-heartbeat-interval", "1s", "-member-ttl", "3s", "-leave-grace", grace.String())
	net := newSlow(t, site.a)
	bob := newBrowser(t).open(site.b.URL)
	tab := newBrowser(t).early(net.URL + "/")
	tab.join("Alice")
	tab.leave()
	bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
	left := time.Now()
	net.through()
	tab.sees(soon, "live, and nobody's", func(s sight) bool { return s.live() && s.As == "" })
	harness.Observe(t, 4*time.Second, "somebody who comes back would be there")
	bob.alwaysSaw(left, "empty", func(s sight) bool { return s.shows() })
}

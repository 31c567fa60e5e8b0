package browser

import (
	"testing"
	"time"

	"presence/test/harness"
)

func TestReplicaIsKilledAndNobodyLeaves(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	balancer := newBalancer(t, site.a)
	alice, bob := newBrowser(t).open(balancer.URL).join("Alice"), newBrowser(t).open(site.b.URL).join("Bob")
	both := func(s sight) bool { return s.shows("Alice", "Bob") }
	alice.sees(soon, "showing both", both)
	bob.sees(soon, "showing both", both)
	alice.outage = true

	killed := time.Now()
	site.a.Kill()
	alice.sees(soon, "reconnecting", func(s sight) bool { return s.Link == "reconnecting" })
	balancer.switchTo(site.b)
	back := alice.sees(soon, "live again, and joined", func(s sight) bool { return s.live() && s.As == "Alice" && both(s) })
	t.Logf("back %v after the kill", back.after(killed))

	if err := site.person(t).Post("join", "Cleo"); err != nil {
		t.Fatal(err)
	}
	for _, tab := range []*tab{alice, bob} {
		tab.sees(soon, "showing who came later", func(s sight) bool { return s.shows("Alice", "Bob", "Cleo") })
		tab.alwaysSaw(killed, "showing both, and joined", func(s sight) bool { return s.Users >= 2 && s.As != "" })
	}
}

func TestAllReplicasAreKilledAndEverybodyIsBack(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]bool{"Redis remembers": false, "Redis forgets": true} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t)
			alice, bob := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL).join("Bob")
			both := func(s sight) bool { return s.Users == 2 && len(s.Names) == 2 }
			alice.outage, bob.outage = true, true
			for _, tab := range []*tab{alice, bob} {
				tab.sees(soon, "showing both", both)
			}
			site.a.Kill()
			site.b.Kill()
			if forget {
				site.redis.Kill()
				site.redis.Restart()
			}
			for _, tab := range []*tab{alice, bob} {
				tab.sees(soon, "reconnecting, with the last count", func(s sight) bool { return s.Link == "reconnecting" && both(s) })
			}
			site.a.Restart()
			first := time.Now()
			site.b.Restart()
			for tab, name := range map[*tab]string{alice: "Alice", bob: "Bob"} {
				back := tab.sees(20*time.Second-time.Since(first), "live, joined, and showing both", func(s sight) bool {
					return s.live() && s.As == name && both(s)
				})
				t.Logf("%s: all right %v after the first replica was", name, back.after(first))
			}
		})
	}
}

func TestRedisIsKilledAndThePageSaysSo(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	alice, bob := newBrowser(t).open(site.a.URL).join("Alice"), newBrowser(t).open(site.b.URL)
	bob.sees(soon, "showing Alice", func(s sight) bool { return s.shows("Alice") })

	killed := time.Now()
	site.redis.Kill()
	for _, tab := range []*tab{alice, bob} {
		tab.sees(soon, "stale", func(s sight) bool { return s.Stale && s.shows("Alice") })
	}
	bob.fill("Bob")
	bob.press(joinButton)
	answer := bob.sees(soon, "saying that it did not happen", func(s sight) bool { return s.Notice != "" })
	took := answer.after(bob.clicked())
	t.Logf("Join was answered after %v", took)
	if took > 4*time.Second { // 2 s, and as much for a busy machine
		t.Errorf("Join was answered after %v; want 2 s at most", took)
	}
	if answer.Typed != "Bob" || answer.As != "" || !answer.shows("Alice") {
		t.Errorf("after Join without Redis: %+v", answer)
	}

	site.redis.Restart()
	back := time.Now()
	for _, tab := range []*tab{alice, bob} {
		s := tab.sees(10*time.Second, "all right", func(s sight) bool { return s.live() && s.shows("Alice") && s.Notice == "" })
		t.Logf("all right %v after Redis was", s.after(back))
		tab.alwaysSaw(killed, "showing Alice", func(s sight) bool { return s.shows("Alice") })
	}
	alice.alwaysSaw(killed, "joined", func(s sight) bool { return s.As == "Alice" })
	if s, _ := bob.now(); s.Typed != "Bob" {
		t.Errorf("the name in the field is %q; want it kept", s.Typed)
	}
	bob.press(joinButton)
	alice.sees(soon, "showing both", func(s sight) bool { return s.shows("Alice", "Bob") })
}

// Ann lost her network for longer than the grace, and Ben took the only place. She did
// not press Leave, so her page asks again until there is a place.
func TestRefusedPageIsBackWhenThereIsAPlace(t *testing.T) {
	t.Parallel()
	site := newSite(t, "-max-members-per-room=1", "-leave-grace=1s")
	cable := harness.NewProxy(t, site.a.Addr)
	ann, ben := newBrowser(t).open(cable.URL).join("Ann"), newBrowser(t).open(site.b.URL)
	ann.outage = true
	cable.Refuse()
	ben.sees(soon, "showing that Ann is gone", func(s sight) bool { return s.live() && s.Users == 0 })
	ben.join("Ben")
	cable.Restore()
	ann.sees(2*soon, "saying that there is no place", func(s sight) bool { return s.live() && s.As == "" && s.Notice != "" })
	left := time.Now()
	ben.leave()
	back := ann.sees(2*soon, "joined again", func(s sight) bool { return s.As == "Ann" && s.Notice == "" })
	t.Logf("back %v after the place was free", back.after(left))

	nobody := func(s sight) bool { return s.Users == 0 }
	ann.leave()
	ben.sees(soon, "showing nobody", nobody)
	since := time.Now()
	harness.Observe(t, 8*time.Second, "a page that still asked would be joined by now")
	ben.alwaysSaw(since, "nobody", nobody)
}

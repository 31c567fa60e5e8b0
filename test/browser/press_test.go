package browser

import (
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"presence/internal/redistest"
	"presence/test/harness"
)

// ways are the ways in which people press a button.
var ways = map[string]func(tab *tab, button string){
	"pointer": (*tab).press,
	"keyboard": func(tab *tab, button string) {
		tab.t.Helper()
		tab.calm()
		if button == joinButton {
			button = nameField
		}
		eval[chromedp.Void](tab, `document.querySelector("`+button+`").focus()`)
		tab.do(chromedp.KeyEvent(kb.Enter))
	},
}

// offline takes the tab's network away, or gives it back. The browser notices.
func (tab *tab) offline(yes bool) {
	tab.t.Helper()
	tab.outage = true
	call(tab, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{{Offline: yes, DownloadThroughput: -1, UploadThroughput: -1}},
	})
}

// A button that is pressed without a connection takes effect once there is one again,
// whether the page knew that there was none or not.
func TestPressWithoutConnectionIsSentWhenThereIsOne(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*harness.Proxy){
		"broken": (*harness.Proxy).Refuse,
		"silent": (*harness.Proxy).Silence,
	} {
		for way, press := range ways {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				site := newSite(t)
				cable := harness.NewProxy(t, site.a.Addr)
				ann, ben := newBrowser(t).open(cable.URL), newBrowser(t).open(site.b.URL)
				ann.outage = true
				for _, step := range []struct {
					button string
					users  int
				}{{joinButton, 1}, {leaveButton, 0}} {
					if step.button == joinButton {
						ann.fill("Ann")
					}
					cut(cable)
					if name == "broken" {
						ann.sees(soon, "reconnecting", func(s sight) bool { return s.Link == "reconnecting" })
					}
					press(ann, step.button)
					harness.Observe(t, 2*time.Second, "it would have been lost by now")
					if s, _ := ann.now(); s.Unsent != "" {
						t.Errorf("%q is said after two seconds", s.Unsent)
					}
					cable.Restore()
					done := func(s sight) bool { return s.Users == step.users }
					ben.sees(soon, "showing that it was done", done)
					ann.sees(soon, "showing it, too", func(s sight) bool { return done(s) && (s.As == "Ann") == (step.users == 1) })
				}
			})
		}
	}
}

// An action that could not be sent within ten seconds is not sent later, and the page
// says so.
func TestPressThatCanNotBeSentIsGivenUp(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	cable := harness.NewProxy(t, site.a.Addr)
	ann, ben := newBrowser(t).open(cable.URL), newBrowser(t).open(site.b.URL)
	ann.outage = true
	ann.fill("Ann")
	cable.Refuse()
	ann.sees(soon, "reconnecting", func(s sight) bool { return s.Link == "reconnecting" })
	pressed := time.Now()
	ann.press(joinButton)
	said := ann.sees(soon, "saying that it was not sent", func(s sight) bool { return s.Unsent != "" })
	if took := said.after(pressed); took < 9*time.Second || took > 15*time.Second {
		t.Errorf("it was given up after %v, want 10 s", took)
	}
	cable.Restore()
	kept := ann.sees(soon, "live", sight.live)
	if kept.Typed != "Ann" || kept.Unsent != "Not sent: no connection. Please try again when this page is live." {
		t.Errorf("the field has %q, and %q is said", kept.Typed, kept.Unsent)
	}
	ben.alwaysSaw(pressed, "nobody", func(s sight) bool { return s.shows() })
	ann.press(joinButton)
	ann.sees(soon, "joined, with no more said", func(s sight) bool { return s.As == "Ann" && s.Unsent == "" })
}

// The browser may know that it is offline before the page does.
func TestPressWhileTheBrowserIsOffline(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ann, ben := newBrowser(t).open(site.a.URL), newBrowser(t).open(site.b.URL)
	ann.fill("Ann")
	ann.offline(true)
	eval[chromedp.Void](ann, `dispatchEvent(new Event("offline"))`) // which a machine without a network does not send
	ann.sees(soon, "no longer live", func(s sight) bool { return s.Link == "reconnecting" })
	ann.press(joinButton)
	harness.Observe(t, 3*time.Second, "it would have been lost by now")
	ann.offline(false)
	ben.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
	ann.sees(soon, "joined", func(s sight) bool { return s.As == "Ann" && s.live() })

	// What was sent into the void may arrive after all. So nothing is claimed of it, and
	// the page shows what became of it.
	ann.offline(true)
	ann.press(leaveButton)
	ann.sees(15*time.Second, "in doubt", func(s sight) bool {
		return s.Unsent == "No answer yet: the connection is lost. This page will show whether it happened."
	})
	ann.offline(false)
	certain := ann.sees(soon, "certain again", func(s sight) bool { return s.live() && s.Unsent == "" })
	ben.sees(soon, "showing the same", func(s sight) bool { return s.shows("Ann") == (certain.As == "Ann") })
}

// A visitor who presses twice means one press, although Leave appears where Join was.
func TestSecondPressDoesNothing(t *testing.T) {
	t.Parallel()
	for way, twice := range map[string]func(tab *tab, button string){
		"pointer": func(tab *tab, button string) {
			x, y := tab.middle(button)
			for range 4 {
				tab.do(chromedp.MouseClickXY(x, y))
				harness.Observe(tab.t, 150*time.Millisecond, "the next click comes")
			}
		},
		"the button that came": func(tab *tab, button string) {
			tab.click(button)
			tab.click(leaveButton)
		},
		"keyboard": func(tab *tab, _ string) {
			for range 4 {
				tab.do(chromedp.KeyEvent(kb.Enter))
				harness.Observe(tab.t, 150*time.Millisecond, "the next press comes")
			}
		},
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			site := newSite(t)
			ann, ben := newBrowser(t).open(site.a.URL), newBrowser(t).open(site.b.URL)
			start := time.Now()
			ann.fill("Ann")
			twice(ann, joinButton)
			ann.sees(soon, "joined", func(s sight) bool { return s.As == "Ann" })
			ben.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
			harness.Observe(t, time.Second, "a second press would have been answered")
			joined := false
			ann.alwaysSaw(start, "Ann, since she joined", func(s sight) bool {
				joined = joined || s.As == "Ann"
				return !joined || s.As == "Ann"
			})
			// A pointer takes the focus to wherever it clicks.
			if focus := eval[string](ann, `document.activeElement.textContent`); way == "keyboard" && focus != "Logged in as Ann" {
				t.Errorf("the focus is on %q", focus)
			}
			// A press that is meant is obeyed.
			ann.leave()
			if !eval[bool](ann, `document.activeElement === document.querySelector("`+nameField+`")`) {
				t.Error("after Leave the focus is not in the field")
			}
			ben.sees(soon, "empty", func(s sight) bool { return s.shows() })
		})
	}
}

func TestEmptyNameTakesTheFocusToTheField(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ann := newBrowser(t).open(site.a.URL)
	focused := `document.activeElement === document.querySelector("` + nameField + `")`
	ann.press(joinButton)
	ann.sees(soon, "asking for a name", func(s sight) bool { return s.Error == "Please type a name." })
	if !eval[bool](ann, focused) {
		t.Error("the focus is not in the field")
	}
	bare := newBrowser(t).openWithoutScripts(site.a.URL)
	bare.press(joinButton)
	bare.sees(soon, "asking for a name", func(s sight) bool { return s.Error == "Please type a name." })
	if !eval[bool](bare, focused) {
		t.Error("without JavaScript the focus is not in the field")
	}
}

// Leave can be pressed soon after Join: the button looks busy until then.
func TestLeaveSoonAfterJoin(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ann, ben := newBrowser(t).open(site.a.URL), newBrowser(t).open(site.b.URL)
	ann.fill("Ann")
	ann.calm()
	eval[chromedp.Void](ann, `void (() => {
		const button = (name) => document.querySelector("button[name=" + name + "]");
		const busy = () => getComputedStyle(button("leave")).opacity !== "1";
		let since = 0;
		const look = () => {
			if (!button("leave")) return requestAnimationFrame(look);
			since ||= busy() ? performance.now() : -Infinity;
			if (busy()) return requestAnimationFrame(look);
			button("leave").click();
			window.busyFor = performance.now() - since;
		};
		button("join").click();
		look();
	})()`)
	took := 0.0
	redistest.Eventually(t, soon, "Leave is pressed", func() bool {
		took = eval[float64](ann, "Math.min(window.busyFor ?? 0, 1e9)")
		return took > 0
	})
	if took < 200 || took > 1e8 { // the first look comes late on a busy machine
		t.Errorf("Leave looked busy for %.0f ms, want 500; 1e9: not at first", took)
	}
	ben.sees(soon, "showing Ann, and that she left", func(s sight) bool { return s.shows() })
	ann.sees(soon, "not joined", func(s sight) bool { return s.As == "" })
}

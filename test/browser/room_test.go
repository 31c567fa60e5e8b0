package browser

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"presence/internal/redistest"
)

// reads waits until an element has this text.
func (tab *tab) reads(selector, want string) {
	tab.t.Helper()
	redistest.Eventually(tab.t, soon, selector+" says "+want, func() bool {
		text, err := try[string](tab, `document.querySelector("`+selector+`").innerText.trim()`)
		return err == nil && text == want
	})
}

// remember makes the page remember texts that it shows only for a while.
const remember = `(() => {
	window.told = [];
	new MutationObserver(() => {
		for (const part of document.querySelectorAll(".trace span, .change b, .said")) window.told.push(part.textContent);
	}).observe(document.body, { childList: true, subtree: true });
})()`

// tells waits until an element has shown something, even if it is gone by now.
func (tab *tab) tells(want string) {
	tab.t.Helper()
	redistest.Eventually(tab.t, soon, "the page tells "+want, func() bool {
		told, err := try[[]string](tab, "told")
		return err == nil && slices.Contains(told, want)
	})
}

// The arrivals and leaves of others are named for a while beside the list, and counted
// beside the number. The visitor's own are not.
func TestWhoCameAndLeftIsToBeSeen(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ann, ben := newBrowser(t).open(site.a.URL), site.person(t)
	ann.join("Ann")
	ann.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
	ann.reads(".trace", "")
	eval[chromedp.Void](ann, remember)
	if err := ben.Post("join", "Ben"); err != nil {
		t.Fatal(err)
	}
	ann.tells("Ben came")
	ann.tells("+1")
	if err := ben.Post("leave", ""); err != nil {
		t.Fatal(err)
	}
	ann.tells("Ben left")
	ann.tells("−1")
	ann.reads(".trace", "") // it passes
}

// The number stands alone, and fills its half of a window together with the list.
func TestPageFillsTheWindow(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).newTab()
	tab.do(chromedp.EmulateViewport(1280, 800))
	tab.navigate(site.a.URL)
	filled := func(what string) {
		t.Helper()
		found := eval[[]string](tab, `(() => {
			const box = (selector) => document.querySelector(selector).getBoundingClientRect();
			const [now, who, number, mark] = [".now", ".who", ".number", "mark"].map(box);
			const wrong = [];
			if (document.documentElement.scrollHeight > 800) wrong.push("it does not fit");
			if (now.bottom < 640 || who.bottom < 640) wrong.push("the cards end above");
			if (who.right < 1200 || now.left > 80) wrong.push("there is room beside the cards");
			if (number.height < 120 || number.bottom > mark.bottom) wrong.push("the number is not large, above its words");
			if (mark.width > 200 || mark.width < 100) wrong.push("more than the words is to be seen");
			return wrong;
		})()`)
		for _, text := range found {
			t.Errorf("%s: %s", what, text)
		}
	}
	tab.sees(soon, "live", sight.live)
	filled("nobody")
	tab.join("Ann")
	tab.sees(soon, "showing Ann", func(s sight) bool { return s.shows("Ann") })
	filled("one")
	large := eval[float64](tab, `document.querySelector("[data-key] i").offsetWidth`)
	site.crowd(t, 30)
	tab.sees(soon, "showing all", func(s sight) bool { return len(s.Names) == 31 })
	filled("many")
	if small := eval[float64](tab, `document.querySelector("[data-key] i").offsetWidth`); large < 100 || small > 32 {
		t.Errorf("an avatar is %v wide for one and %v for many", large, small)
	}
	tab.printed()
}

// printed fails unless the printed page has the number and the names, dark on white, and
// nothing to press or to fill in.
func (tab *tab) printed() {
	tab.t.Helper()
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
	found := eval[[]string](tab, `(() => {
		const wrong = [];
		const all = (selector) => [...document.querySelectorAll(selector)];
		const seen = (element) => element.checkVisibility() && element.getClientRects().length > 0;
		const light = (colour) => Math.max(...colour.match(/[\d.]+/g).slice(0, 3)) > (colour.startsWith("color(") ? 0.3 : 90);
		for (const element of all("button, input, form, nav")) if (seen(element)) wrong.push("to be seen: " + element.outerHTML);
		for (const selector of [".number", "h1", ".roster .name"]) if (!all(selector).every(seen)) wrong.push("not to be seen: " + selector);
		document.querySelector("[data-stale]").dataset.stale = true; // what is stale is printed, too
		for (const element of all(".number, mark, h1, h2, .aside, .name, .tag, footer p"))
			if (seen(element) && light(getComputedStyle(element).color)) wrong.push("too light: " + element.className);
		for (const element of all("body, .page, .now, .who, .person"))
			if (!/^(rgba\(0, 0, 0, 0\)|rgb\(255, 255, 255\))$/.test(getComputedStyle(element).backgroundColor)) wrong.push("not on white: " + element.className);
		if (document.body.offsetHeight > document.querySelector(".page").offsetHeight) wrong.push("an empty sheet follows");
		return wrong;
	})()`)
	for _, text := range found {
		tab.t.Errorf("on paper: %s", text)
	}
}

// The name of the last join is filled in on the next page, but not sent. Another person
// who uses the browser can delete it.
func TestNameIsKeptForTheNextRoom(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	ann := newBrowser(t)
	ann.open(site.a.URL).join("Ann")
	next := ann.open(site.a.URL + "/rooms/tea")
	next.sees(soon, "offering the name", func(s sight) bool { return s.Typed == "Ann" && s.As == "" })
	next.reads(".kept", "The name you joined with last. Forget it")
	next.alwaysSaw(next.clicked(), "nobody in the room", func(s sight) bool { return s.shows() })
	next.click("button[name=forget]")
	next.sees(soon, "empty, with the focus in the field", func(s sight) bool { return s.Typed == "" && s.Caret == 0 })
	if hidden := eval[bool](next, `document.querySelector(".kept").hidden`); !hidden {
		t.Error("a name is offered that is forgotten")
	}
	next.reload()
	next.sees(soon, "empty", func(s sight) bool { return s.live() && s.Typed == "" })
}

// A shared link contains the room and nothing else, because the rest of an address may be
// secret.
func TestSharing(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	want := site.a.URL + "/rooms/tea"
	tab := newBrowser(t).open(want + "?secret=1#x")
	eval[chromedp.Void](tab, `void Object.defineProperty(navigator, "clipboard", { value: { writeText: async (text) => { window.copied = text; } } })`)
	eval[chromedp.Void](tab, remember)
	tab.click("button[name=share]")
	tab.tells("Link copied")
	if copied := eval[string](tab, "copied"); copied != want {
		t.Errorf("copied was %s", copied)
	}
	tab.reads(".said", "") // it passes
	eval[chromedp.Void](tab, `void (navigator.share = async (what) => { window.shared = what; })`)
	tab.click("button[name=share]")
	if shared := eval[map[string]string](tab, "shared"); shared["url"] != want || shared["title"] != "tea · Presence" {
		t.Errorf("shared was %q", shared)
	}
	bare := newBrowser(t).openWithoutScripts(want)
	if shown := eval[bool](bare, `document.querySelector("[name=share]").getClientRects().length > 0`); shown {
		t.Error("without JavaScript there is a button that does nothing")
	}
}

func TestSecondWindowAndNewRoom(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL + "/rooms/tea")
	ctx, cancel := context.WithTimeout(tab.ctx, soon)
	defer cancel()
	opened := chromedp.WaitNewTarget(ctx, func(info *target.Info) bool { return strings.HasSuffix(info.URL, "/rooms/tea") })
	tab.click("a.window")
	if _, ok := <-opened; !ok {
		t.Error("no second window")
	}
	tab.click("a.new")
	own := regexp.MustCompile(`^/rooms/[a-z]+-[a-z]+-[0-9]{3}$`)
	redistest.Eventually(t, soon, "the page is of a new room", func() bool {
		at, err := try[string](tab, "location.pathname")
		return err == nil && own.MatchString(at)
	})
}

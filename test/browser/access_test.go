package browser

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// axe returns the script of axe-core, which npm installs together with the files that
// pages load.
func axe(t *testing.T) string {
	t.Helper()
	const path = "../../web/node_modules/axe-core/axe.min.js"
	source, err := os.ReadFile(path)
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("axe-core is not installed, and CI must not go without it: %v", err)
	default:
		t.Skip("axe-core is not installed: run `npm ci` in web/")
	}
	return string(source)
}

// media emulates a person's preference, such as prefers-color-scheme: dark.
func (tab *tab) media(feature, value string) {
	tab.t.Helper()
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: feature, Value: value}},
	})
}

// check fails if axe finds something, by any of its rules that are not experimental. The
// contrast of 7:1 is included.
func (tab *tab) check(axe, what string) {
	tab.t.Helper()
	tab.calm() // for a moment after a press buttons look busy
	for _, scheme := range []string{"light", "dark"} {
		tab.media("prefers-color-scheme", scheme)
		eval[chromedp.Void](tab, "void (() => { window.axe ?? (0, eval)("+quoted(axe)+"); })()")
		// Not at once: on a busy machine axe lets the page answer nothing for seconds.
		eval[chromedp.Void](tab, `void (window.found = null, setTimeout(() => (async () => {
			// axe can't judge text on a gradient. This is the end of it that is worst for text.
			document.body.style.background = "var(--glow)";
			const rules = Object.fromEntries(axe.getRules().filter(({ tags }) => !tags.includes("experimental")).map(({ ruleId }) => [ruleId, { enabled: true }]));
			const { violations, incomplete, passes } = await axe.run(document, { rules });
			document.body.style.background = "";
			const unsure = incomplete.filter(({ id }) => id.startsWith("color-contrast"));
			window.found = [...violations, ...unsure].flatMap(({ id, help, nodes }) => nodes.map(({ html, any }) => [id, help, html, any[0]?.message].join("; ")));
			if (!passes.some(({ id }) => id === "color-contrast-enhanced")) window.found.push("the contrast was not looked at");
		})().catch((error) => { window.found = [String(error)]; })))`)
		var found []string
		redistest.Eventually(tab.t, 2*soon, "axe is done with "+what, func() bool {
			var err error
			found, err = try[[]string](tab, "window.found")
			return err == nil && found != nil
		})
		for _, text := range found {
			tab.t.Errorf("%s, %s: %s", what, scheme, text)
		}
	}
}

func TestNothingStandsInTheWayOfAnybody(t *testing.T) {
	t.Parallel()
	source := axe(t)
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL)
	tab.outage = true // some of these pages are errors
	tab.check(source, "an empty room")
	tab.submit(wrong)
	tab.sees(soon, "refusing a name", func(s sight) bool { return s.Error != "" })
	eval[chromedp.Void](tab, `document.querySelector(".unsent").textContent = "Not sent: no connection."`)
	tab.check(source, "a name that is refused, and a press that was not sent")

	tab.join("Ann")
	newBrowser(t).open(site.b.URL).join("Ann") // has a tag
	tab.sees(soon, "showing both", func(s sight) bool { return s.shows("Ann", "Ann") })
	tab.check(source, "a joined page")
	site.crowd(t, presence.RosterSize)
	zoe := newBrowser(t).open(site.a.URL).join("Zoe")
	zoe.outage = true
	zoe.check(source, "a crowd")

	site.redis.Kill()
	zoe.sees(soon, "stale", func(s sight) bool { return s.Stale })
	zoe.press(leaveButton)
	zoe.sees(soon, "saying that it did not happen", func(s sight) bool { return s.Notice != "" })
	zoe.check(source, "a stale page with a notice")
	site.a.Kill()
	zoe.sees(soon, "reconnecting", func(s sight) bool { return s.Link == "reconnecting" })
	zoe.check(source, "a page that reconnects")

	for path, what := range map[string]string{"/rooms": "the rooms", "/rooms?room=a.b": "a room that can't be", "/nowhere": "a notice"} {
		tab.navigate(site.b.URL + path)
		tab.check(source, what)
	}
}

// Screen readers do not read drawings aloud.
func TestHeadingIsTheNameOfTheRoom(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL)
	var headings []string
	for _, node := range call(tab, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Role != nil && string(node.Role.Value) == `"heading"` {
			headings = append(headings, string(node.Name.Value))
		}
	}
	if got := fmt.Sprint(headings); got != `["lobby" "Who is here" "Rooms"]` {
		t.Errorf("the headings are read as %s", got)
	}
}

// If people choose all colours themselves, the logo and the dot of the status remain
// visible.
func TestForcedColoursKeepLogoAndStatus(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL)
	tab.media("forced-colors", "active")
	for what, box := range map[string]string{
		"logo":   `(({ x, y, height }) => [x, y + height / 2 - 13, 26, 26])(document.querySelector(".brand").getBoundingClientRect())`,
		"status": `(({ x, y, height }) => [x + 9, y + height / 2 - 6, 12, 12])(document.querySelector(".is-live").getBoundingClientRect())`,
	} {
		at := eval[[]float64](tab, box)
		shot := call(tab, page.CaptureScreenshot, page.CaptureScreenshotParams{
			Clip: &page.Viewport{X: at[0], Y: at[1], Width: at[2], Height: at[3], Scale: 1},
		})
		picture, err := png.Decode(bytes.NewReader(shot.Data))
		if err != nil {
			t.Fatal(err)
		}
		colours := map[color.Color]int{}
		for y := range picture.Bounds().Dy() {
			for x := range picture.Bounds().Dx() {
				colours[picture.At(x, y)]++
			}
		}
		if len(colours) < 3 {
			t.Errorf("the %s is of %d colours", what, len(colours))
		}
	}
}

// quoted returns text as a JavaScript string.
func quoted(text string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`", "${", "\\${").Replace(text) + "`"
}

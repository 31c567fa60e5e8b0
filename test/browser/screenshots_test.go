package browser

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"presence/test/harness"
)

// names are the names of people in pictures.
var names = []string{
	"Amara", "Bjørn", "Chiara", "Dmitri", "Esperanza", "Farid", "Grace", "Haruki", "Inés", "Joon-ho", "Kofi",
	"Lucía", "Magnus", "Nadia", "Omar", "Grace", "Quinn", "Ravi", "Saoirse", "Tomás", "Yuki",
}

// card is what is shown where people share a link to a room.
//
//go:embed card.html
var card string

// TestScreenshots takes the pictures of the documentation, and that of shared links:
//
//	make pictures
func TestScreenshots(t *testing.T) {
	if !*screenshots {
		t.Skip("without -screenshots")
	}
	site := newSite(t, "-coalesce", "10ms", "-replica-name", "replica-2")
	join := func(name string, options harness.Options) {
		t.Helper()
		if err := harness.NewReader(t, options, site.a.URL).Post("join", name); err != nil {
			t.Fatal(err)
		}
	}
	var crowd []string
	for i := range 128 {
		crowd = append(crowd, names[i%len(names)])
		if round := i / len(names); round > 0 {
			crowd[i] += fmt.Sprintf(" %c.", 'A'+round)
		}
	}
	for room, names := range map[string][]string{
		"":                 names,
		"/rooms/standup":   {"Lena", "Mateo", "Nia", "Pavel"},
		"/rooms/tea-break": {"Olu", "Priya", "Ximena"},
		"/rooms/all-hands": crowd,
	} {
		for i, name := range names {
			options := harness.Options{Room: room, Browser: harness.NewBrowser()}
			join(name, options)
			if i%5 == 0 {
				options.Room += "?tab=the-second-of-two"
				join(name, options) // some have a second tab open
			}
		}
	}
	lobby := newBrowser(t).open(site.b.URL).join("Leilani")
	lobby.sees(soon, "showing all", func(s sight) bool { return len(s.Names) == len(names)+1 })
	allHands := newBrowser(t).open(site.b.URL + "/rooms/all-hands").join("Leilani")
	allHands.sees(soon, "showing the first of all", func(s sight) bool { return s.Users == len(crowd)+1 && len(s.Names) == 100 })
	for _, tab := range []*tab{lobby, allHands} {
		tab.reload() // the rooms are those of the moment
		tab.sees(soon, "joined", func(s sight) bool { return s.As == "Leilani" && s.live() })
		eval[chromedp.Void](tab, `scrollTo(0, 0)`)
	}
	join("Zainab", harness.Options{Browser: harness.NewBrowser()})
	lobby.reads(".trace", "Zainab came")

	phone := []chromedp.EmulateViewportOption{chromedp.EmulateScale(2), chromedp.EmulateMobile}
	lobby.picture("light", "light", 1280, 800)
	lobby.picture("dark", "dark", 1280, 800)
	lobby.picture("phone", "light", 360, 740, phone...)
	allHands.picture("crowd", "light", 1280, 800)

	drawn := newBrowser(t).newTab()
	frame := call(drawn, page.GetFrameTree, cdp.Empty{}).FrameTree.Frame.ID
	call(drawn, page.SetDocumentContent, page.SetDocumentContentParams{FrameID: frame, HTML: card})
	drawn.picture("../../web/src/card", "light", 1200, 630)
}

// picture takes a picture of what is in view.
func (tab *tab) picture(name, scheme string, width, height int64, options ...chromedp.EmulateViewportOption) {
	tab.t.Helper()
	call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	tab.do(chromedp.EmulateViewport(width, height, options...))
	image, err := chromedp.Run(tab.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		tab.t.Fatal(err)
	}
	path := filepath.Join("../../docs/screenshots", name+".png")
	if err := os.WriteFile(path, image, 0o644); err != nil { //nolint:gosec // a picture for everybody
		tab.t.Fatal(err)
	}
	tab.t.Logf("%s: %d KB", path, len(image)>>10)
}

package browser

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"presence/test/harness"
)

// TestScreenshots takes the pictures of the documentation:
//
//	go test ./test/browser -run Screenshots -screenshots
func TestScreenshots(t *testing.T) {
	if !*screenshots {
		t.Skip("without -screenshots")
	}
	const folder = "../../docs/screenshots"
	site := newSite(t, "-coalesce", "10ms")
	join := func(name string, options harness.Options) {
		t.Helper()
		if err := harness.NewReader(t, options, site.a.URL).Post("join", name); err != nil {
			t.Fatal(err)
		}
	}
	for room, names := range map[string][]string{
		"":                 {"Amara", "Bjørn", "Chiara", "Dmitri", "Esperanza", "Farid", "Grace", "Haruki", "Inés", "Joon-ho", "Kofi", "Lucía", "Magnus", "Nadia", "Omar", "Grace", "Quinn", "Ravi", "Saoirse", "Tomás", "Yuki"},
		"/rooms/standup":   {"Lena", "Mateo", "Nia", "Pavel"},
		"/rooms/tea-break": {"Olu", "Priya", "Ximena"},
		"/rooms/design":    {"Uma", "Viktor"},
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
	tab := newBrowser(t).open(site.b.URL).join("Leilani")
	tab.sees(soon, "showing all", func(s sight) bool { return len(s.Names) == 22 })
	tab.reload() // the rooms are those of the moment
	tab.sees(soon, "joined", func(s sight) bool { return s.As == "Leilani" && s.live() })
	// A name of this machine would tell nobody anything.
	eval[chromedp.Void](tab, `document.querySelector(".served code").textContent = "replica-2"`)

	for _, picture := range []struct {
		name, scheme  string
		width, height int64
		options       []chromedp.EmulateViewportOption
	}{
		{"light", "light", 1200, 720, nil},
		{"dark", "dark", 1200, 720, nil},
		{"phone", "light", 360, 740, []chromedp.EmulateViewportOption{chromedp.EmulateScale(2), chromedp.EmulateMobile}},
	} {
		call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: picture.scheme}},
		})
		tab.do(chromedp.EmulateViewport(picture.width, picture.height, picture.options...))
		image, err := chromedp.Run(tab.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(folder, picture.name+".png")
		if err := os.WriteFile(path, image, 0o644); err != nil { //nolint:gosec // a picture for everybody
			t.Fatal(err)
		}
		t.Logf("%s: %d KB", path, len(image)>>10)
	}
}

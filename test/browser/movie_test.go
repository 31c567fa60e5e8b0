package browser

import (
	"bytes"
	_ "embed"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"presence/internal/redistest"
	"presence/test/apng"
	"presence/test/harness"
)

// stage is what is around the two windows of the moving picture.
//
//go:embed stage.html
var stage string

// TestMovie makes the moving picture of the documentation:
//
//	make pictures
//
// Two people are in a room, on two replicas; one replica is killed. It is filmed as it
// happens, in its own time.
func TestMovie(t *testing.T) {
	if !*screenshots {
		t.Skip("without -screenshots")
	}
	redis := redistest.Start(t)
	replica := func(name string) *harness.Replica {
		return harness.Start(t, "-redis-url", redis.URL(), "-replica-name", name, "-trusted-proxies", "127.0.0.0/8", "-coalesce", "10ms")
	}
	first, second := replica("replica-1"), replica("replica-2")
	entry := harness.StartHAProxy(t, first.Addr, second.Addr).URL

	f := &film{t: t, stage: newBrowser(t).newTab(), left: newBrowser(t).newTab(), right: newBrowser(t).newTab()}
	f.stage.do(chromedp.EmulateViewport(stageWidth, stageHeight))
	frame := call(f.stage, page.GetFrameTree, cdp.Empty{}).FrameTree.Frame.ID
	call(f.stage, page.SetDocumentContent, page.SetDocumentContentParams{FrameID: frame, HTML: stage})
	for tab, name := range map[*tab]string{f.left: "replica-1", f.right: "replica-2"} {
		tab.outage = true
		tab.do(chromedp.EmulateViewport(windowWidth, windowHeight, chromedp.EmulateMobile)) // without a scrollbar
		call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: "light"}, {Name: "prefers-reduced-motion", Value: "no-preference"},
		}})
		attempts := 0
		redistest.Eventually(t, soon, "the window is at "+name, func() bool {
			// Replicas take turns request by request, and each load may have the same
			// number of requests. So each time another number of them is added.
			for range attempts {
				eval[chromedp.Void](tab, `fetch("/livez")`)
			}
			attempts++
			tab.navigate(entry)
			return strings.Contains(tab.sees(soon, "live", sight.live).Served, name)
		})
	}
	newBrowser(t).open(second.URL).join("Chiara")
	f.right.join("Ben")
	all := []string{"Chiara", "Ben", "Ann"}
	f.left.sees(soon, "showing both", func(s sight) bool { return s.shows(all[:2]...) })
	eval[chromedp.Void](f.right, `scrollTo(0, 0)`)

	f.say("Two windows of one room, on two replicas.")
	f.roll(1500 * time.Millisecond)
	eval[chromedp.Void](f.left, `document.querySelector("`+nameField+`").focus({ preventScroll: true })`)
	for _, letter := range "Ann" {
		call(f.left, input.InsertText, input.InsertTextParams{Text: string(letter)})
		f.roll(250 * time.Millisecond)
	}
	f.left.press(joinButton)
	f.until("everywhere", func() bool { return f.left.see().shows(all...) && f.right.see().shows(all...) })
	eval[chromedp.Void](f.left, `scrollTo(0, 0)`)
	f.say("Ann joins, and Ben sees it at once.")
	f.roll(3 * time.Second)

	f.say("<code>kill -9 replica-1</code>")
	f.roll(1200 * time.Millisecond)
	killed := time.Now()
	first.Kill()
	f.until("live again", func() bool {
		s := f.left.see()
		return s.live() && strings.Contains(s.Served, "replica-2")
	})
	back := time.Since(killed)
	f.say(fmt.Sprintf("replica-1 is gone. Ann’s page is back after %.1f s, and the count stayed.", back.Seconds()))
	f.roll(5 * time.Second)
	for tab, name := range map[*tab]string{f.left: "Ann", f.right: "Ben"} {
		tab.alwaysSaw(killed, "all, and joined", func(s sight) bool { return s.shows(all...) && s.As == name })
	}

	var file bytes.Buffer
	if _, err := f.movie.WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	const path = "../../docs/screenshots/killed.png"
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil { //nolint:gosec // a picture for everybody
		t.Fatal(err)
	}
	t.Logf("%s: %d KB", path, file.Len()>>10)
}

// Where the windows are on the stage, as in stage.html.
const (
	stageWidth, stageHeight   = 1048, 904
	windowWidth, windowHeight = 488, 780
	leftX, rightX, windowY    = 24, 536, 64
)

// film is a moving picture of two windows.
type film struct {
	t                  *testing.T
	stage, left, right *tab
	caption, around    string // of the stage, and what it was drawn from
	scene              image.Image
	movie              apng.Movie
}

// see returns what is visible, or nothing.
func (tab *tab) see() sight { s, _ := tab.now(); return s }

// say sets the caption.
func (f *film) say(html string) { f.caption = html }

// roll films for a time.
func (f *film) roll(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		f.shoot()
	}
}

// until films until something holds.
func (f *film) until(what string, cond func() bool) {
	f.t.Helper()
	redistest.Eventually(f.t, soon, what, func() bool { f.shoot(); return cond() })
}

// shoot adds one frame, which is shown for as long as it took.
func (f *film) shoot() {
	f.t.Helper()
	began := time.Now()
	var around strings.Builder
	around.WriteString(f.caption)
	for i, tab := range []*tab{f.left, f.right} {
		id := []string{"left", "right"}[i]
		s := tab.see()
		served := strings.TrimPrefix(s.Served, "Served by ")
		class := ""
		if s.Link == "reconnecting" {
			class, served = "gone", served+" is gone"
		}
		fmt.Fprintf(&around, "|%s|%s|%s", id, served, class)
		eval[chromedp.Void](f.stage, fmt.Sprintf("void Object.assign(document.getElementById(%q), { textContent: %q, className: %q })", id, served, class))
	}
	if f.scene == nil || around.String() != f.around {
		eval[chromedp.Void](f.stage, "document.getElementById('caption').innerHTML = "+quoted(f.caption)+"; undefined")
		f.scene, f.around = f.stage.shot(), around.String()
	}
	whole := image.NewRGBA(image.Rect(0, 0, stageWidth, stageHeight))
	draw.Draw(whole, whole.Bounds(), f.scene, image.Point{}, draw.Src)
	for x, tab := range map[int]*tab{leftX: f.left, rightX: f.right} {
		draw.Draw(whole, image.Rect(x, windowY, x+windowWidth, windowY+windowHeight), tab.shot(), image.Point{}, draw.Src)
	}
	if err := f.movie.Add(whole, max(50*time.Millisecond, time.Since(began))); err != nil {
		f.t.Fatal(err)
	}
}

// shot is a picture of what is in view.
func (tab *tab) shot() image.Image {
	tab.t.Helper()
	shot := call(tab, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	picture, err := png.Decode(bytes.NewReader(shot.Data))
	if err != nil {
		tab.t.Fatal(err)
	}
	return picture
}

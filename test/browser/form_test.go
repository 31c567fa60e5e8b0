package browser

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func TestTypingGoesOnWhileOthersJoin(t *testing.T) {
	t.Parallel()
	const pushes = 50
	site := newSite(t, "-coalesce", "10ms")
	tab := newBrowser(t).open(site.a.URL)
	start := time.Now()

	// Others join until the typing is done.
	ctx, enough := context.WithCancel(t.Context())
	joined := make(chan int, 1)
	go func() {
		total := 0
		defer func() { joined <- total }()
		for ctx.Err() == nil {
			if err := site.person(t).Post("join", fmt.Sprintf("Guest %d", total+1)); err != nil {
				t.Errorf("a guest could not join: %v", err)
				return
			}
			total++
		}
	}()
	total := sync.OnceValue(func() int { enough(); return <-joined })
	defer total()

	// Each key comes after another push.
	users := -1
	push := func() {
		users = tab.sees(soon, "pushed to", func(s sight) bool { return s.Users > users }).Users
	}
	press := func(keys ...string) {
		for _, key := range keys {
			push()
			tab.do(chromedp.KeyEvent(key))
		}
	}
	const before, inserted, after = "Bartholomew ", "van der ", "Berg-Okonkwo"
	tab.click(nameField)
	press(strings.Split(before+after, "")...)
	press(slices.Repeat([]string{kb.ArrowLeft}, len(after))...)
	press(strings.Split(inserted, "")...)
	typed := func(s sight) bool { return s.Typed == before+inserted+after && s.Caret == len(before+inserted) }
	tab.sees(soon, "showing what was typed, and the caret in its place", typed)
	for range pushes - len(before+after+after+inserted) {
		push()
	}
	last := tab.sees(soon, fmt.Sprintf("counting %d", total()), func(s sight) bool { return s.Users == total() })
	if !typed(last) {
		t.Errorf("at the end: %+v", last)
	}
	tab.alwaysSaw(start, "the focus where it was", func(s sight) bool { return s.Caret >= 0 || s.Typed == "" })
	tab.do(chromedp.KeyEvent(kb.Enter))
	tab.sees(soon, "joined", func(s sight) bool { return s.As == before+inserted+after && s.Users == total()+1 })
}

// wrong is a name that is refused, and reason is how the explanation begins.
const wrong, reason = "Who\u202ever", "A name can't contain"

func TestErrorStaysUntilCorrected(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL)
	tab.submit(wrong)
	refused := func(s sight) bool {
		return strings.HasPrefix(s.Error, reason) && s.Typed == wrong && s.As == ""
	}
	tab.sees(soon, "showing what is wrong", refused)
	since := time.Now()
	for i := range 5 {
		if err := site.person(t).Post("join", fmt.Sprintf("Guest %d", i+1)); err != nil {
			t.Fatal(err)
		}
		tab.sees(soon, "pushed to", func(s sight) bool { return s.Users == i+1 })
	}
	tab.alwaysSaw(since, "the error, and what was typed", refused)
	tab.join("Who").sees(soon, "showing no error", func(s sight) bool { return s.Error == "" && s.Users == 6 })
	tab.leave()
	tab.sees(soon, "as if new", func(s sight) bool { return s.Error == "" && s.Typed == "" })
}

func TestNamesAreText(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	alice, bob := newBrowser(t).open(site.a.URL), newBrowser(t).open(site.b.URL)
	for _, name := range []string{
		"<img src=x onerror=alert(1)>", "\"><script>alert(1)</script>",
		"O'Neil & \"Söhne\"", "&amp;&lt;", "a{{b}}", "${a}`b`",
		"🦊 Zoë", "محمد",
		"42", "true", "null", "007", "1e3", "1.50", "-0", "9007199254740993",
		"Infinity", "-Infinity", "1e-7", "1e+21", "=42",
	} {
		alice.submit(name)
		alice.sees(soon, "joined as "+name, func(s sight) bool { return s.As == name && s.shows(name) })
		bob.sees(soon, "showing "+name, func(s sight) bool { return s.shows(name) })
		if strings.Contains(name, "<") {
			// A page that is loaded anew comes from the server as a whole.
			bob.reload()
			bob.sees(soon, "showing "+name+" at once", func(s sight) bool { return s.shows(name) && s.live() })
		}
		for _, tab := range []*tab{alice, bob} {
			if n := eval[int](tab, `document.querySelectorAll(".page :is(img, svg, script, style)").length`); n != 0 {
				t.Errorf("%s: %d elements that nobody put there", name, n)
			}
		}
		alice.leave()
		bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
	}
}

func TestPageWorksWithoutScripts(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).openWithoutScripts(site.a.URL)
	bob := newBrowser(t).open(site.b.URL)

	tab.submit("")
	tab.sees(soon, "asking for a name", func(s sight) bool { return s.Error == "Please type a name." })
	tab.submit(wrong)
	tab.sees(soon, "showing what is wrong, and what was typed", func(s sight) bool {
		return strings.HasPrefix(s.Error, reason) && s.Typed == wrong
	})
	tab.join("Nora")
	bob.sees(soon, "showing Nora", func(s sight) bool { return s.shows("Nora") })
	tab.navigate(site.b.URL)
	tab.sees(soon, "joined on the other replica too", func(s sight) bool { return s.As == "Nora" && s.shows("Nora") })
	tab.leave()
	bob.sees(soon, "empty", func(s sight) bool { return s.shows() })
}

// On plain HTTP, browsers say least about where a form comes from.
func TestFormsWorkWithoutScriptsOnPlainHTTP(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).openWithoutScripts(strings.Replace(site.a.URL, "127.0.0.1", plainHost, 1))
	tab.join("Nora")
	tab.leave()
}

package browser

import (
	"fmt"
	"strings"
	"testing"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/test/harness"
)

// crowd makes n other visitors join, and returns the one who came first.
func (s *site) crowd(t *testing.T, n int) *harness.Visitor {
	t.Helper()
	var first *harness.Visitor
	for i := range n {
		person := s.person(t)
		if err := person.Post("join", fmt.Sprintf("Guest %d", i+1)); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = person
		}
	}
	return first
}

// A user who is not in the roster is shown all the same, first, and is counted once.
func TestOneFindsOneselfInACrowd(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	first := site.crowd(t, presence.RosterSize)
	zoe := newBrowser(t).open(site.a.URL).join("Zoe")
	other := newBrowser(t).open(site.a.URL)
	// is waits for what the part of a page with the names begins and ends with.
	is := func(tab *tab, begin, end string) {
		t.Helper()
		var text string
		redistest.Eventually(t, soon, "the names are "+begin+" to "+end, func() bool {
			text = strings.Join(strings.Fields(eval[string](tab, `document.querySelector(".who").innerText`)), " ")
			return strings.HasPrefix(text, "Who is here "+begin) && strings.HasSuffix(text, end)
		})
		if n := eval[int](tab, `document.querySelectorAll("[data-key]").length`); n != presence.RosterSize {
			t.Errorf("%d rows have a key", n)
		}
	}
	is(zoe, "Zoe you Guest 1 Guest 2", "Guest 100 and 1 more, you included")
	is(other, "Guest 1 Guest 2", "Guest 100 and 1 more")
	zoe.reload()
	zoe.sees(soon, "live, and joined", func(s sight) bool { return s.live() && s.As == "Zoe" })
	is(zoe, "Zoe you Guest 1 Guest 2", "Guest 100 and 1 more, you included")
	bare := newBrowser(t).openWithoutScripts(site.a.URL)
	bare.join("Yan")
	is(bare, "Yan you Guest 1 Guest 2", "Guest 100 and 2 more, you included")
	if err := first.Post("leave", ""); err != nil {
		t.Fatal(err)
	}
	is(zoe, "Guest 2 Guest 3", "Zoe you and 1 more")
	zoe.leave()
	is(zoe, "Guest 2 Guest 3", "Guest 100 Yan")
}

func TestFirstLettersAreWhole(t *testing.T) {
	t.Parallel()
	site := newSite(t)
	tab := newBrowser(t).open(site.a.URL)
	for name, want := range map[string]string{"ßen": "ß", "ǆep": "ǅ", "🇳🇱 Jan": "🇳🇱", "éva": "É"} {
		tab.join(name)
		const row = `document.querySelector("[data-key] i")`
		redistest.Eventually(t, soon, name+" is listed", func() bool { return eval[bool](tab, row+" !== null") })
		shown := eval[string](tab, `(({ content, textTransform }) => content + textTransform)(getComputedStyle(`+row+`, "::before"))`)
		if shown != `"`+want+`"none` {
			t.Errorf("the first letter of %s is %s, want %q", name, shown, want)
		}
		tab.leave()
	}
}

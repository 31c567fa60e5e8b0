package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"presence/internal/redistest"
)

//go:embed observer.js
var observer string

const (
	// soon is for what takes no longer than a push: long enough for a busy
	// machine. What is promised in less is measured.
	soon = 20 * time.Second

	// callTimeout bounds one call of the browser, which a page in between two
	// documents may leave without an answer.
	callTimeout = 5 * time.Second
)

// browser is one person's browser: the memory that its tabs share.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // of Chromium
	id  cdp.BrowserContextID
}

// newBrowser returns a browser that has visited nothing. It ends with the test.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	ctx := shared.start(t)
	made, err := chromedp.CallBrowser(ctx, target.CreateBrowserContext, target.CreateBrowserContextParams{})
	if err != nil {
		t.Fatalf("new browser: %v", err)
	}
	id := made.BrowserContextID
	t.Cleanup(func() {
		_, err := chromedp.CallBrowser(ctx, target.DisposeBrowserContext, target.DisposeBrowserContextParams{BrowserContextID: id})
		if err != nil {
			t.Logf("end of a browser: %v", err)
		}
	})
	return &browser{t: t, ctx: ctx, id: id}
}

// sight is what the page shows at one instant: see observer.js.
type sight struct {
	At     float64  `json:"at"` // ms since 1970
	Users  int      `json:"users"`
	Names  []string `json:"names"`
	Aside  string   `json:"aside"`
	As     string   `json:"as"` // whom one is logged in as
	Stale  bool     `json:"stale"`
	Link   string   `json:"link"`
	Error  string   `json:"error"`
	Notice string   `json:"notice"`
	Typed  string   `json:"typed"`
	Caret  int      `json:"caret"` // in the name field, -1 without focus
	Served string   `json:"served"`
	Unsent string   `json:"unsent"` // what is said of a form that could not be sent
	Again  string   `json:"again"`  // what stands in the place of the form on a reload
}

// shows reports whether exactly these names are listed, and counted.
func (s sight) shows(names ...string) bool {
	return s.Users == len(names) && slices.Equal(s.Names, names)
}

// live reports whether the page receives changes.
func (s sight) live() bool { return s.Link == "live" && !s.Stale }

// after returns how long after an instant this became visible.
func (s sight) after(instant time.Time) time.Duration {
	const perMs = float64(time.Millisecond)
	return time.Duration(s.At*perMs - float64(instant.UnixNano())).Round(time.Millisecond)
}

// tab is one tab. A test may use a tab from one goroutine at a time.
type tab struct {
	t      *testing.T
	b      *browser
	ctx    context.Context //nolint:containedctx // of the tab
	cancel context.CancelFunc

	// outage is set by tests that break the network on purpose, so that its
	// errors are not held against the page.
	outage bool

	mu       sync.Mutex // guards:
	problems []problem
}

// problem is something that must not happen on any page.
type problem struct {
	network bool
	text    string
}

// open opens a tab at an address, and returns when the page is live.
func (b *browser) open(url string) *tab {
	b.t.Helper()
	tab := b.newTab()
	tab.navigate(url)
	tab.sees(soon, "live", sight.live)
	return tab
}

// openWithoutScripts opens a tab that runs no scripts.
func (b *browser) openWithoutScripts(url string) *tab {
	b.t.Helper()
	tab := b.newTab()
	call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	tab.navigate(url)
	return tab
}

func (b *browser) newTab() *tab {
	b.t.Helper()
	return b.attach(chromedp.WithExistingBrowserContext(b.id)) // with the browser's own cookies
}

// attach returns a new or an existing tab, as the option says.
func (b *browser) attach(which chromedp.ContextOption) *tab {
	b.t.Helper()
	tab := &tab{t: b.t, b: b}
	tab.ctx, tab.cancel = chromedp.NewContext(b.ctx, which, chromedp.WithListener(tab.listen))
	b.t.Cleanup(tab.end)
	if err := chromedp.Do(tab.ctx); err != nil {
		b.t.Fatalf("new tab: %v", err)
	}
	call(tab, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: observer})
	return tab
}

// end closes the tab, and fails the test if something went wrong on its pages.
func (tab *tab) end() {
	tab.t.Helper()
	if tab.t.Failed() {
		tab.report()
	}
	tab.cancel()
	tab.mu.Lock()
	defer tab.mu.Unlock()
	for _, p := range tab.problems {
		if !p.network || !tab.outage {
			tab.t.Errorf("on the page: %s", p.text)
		}
	}
}

// report logs what was visible last.
func (tab *tab) report() {
	if tab.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(tab.ctx, callTimeout)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`observer.history.slice(-12).map((s) => JSON.stringify(s)).join("\n")`))
	tab.t.Logf("the last to be seen (%v):\n%s", err, text)
}

// listen collects problems. It runs on chromedp's goroutine.
func (tab *tab) listen(event any) {
	var p problem
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		p.text = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			p.text += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type != runtime.ConsoleAPICalledTypeError && e.Type != runtime.ConsoleAPICalledTypeAssert {
			return
		}
		words := []string{"console." + string(e.Type) + ":"}
		for _, arg := range e.Args {
			words = append(words, string(arg.Value)+arg.Description)
		}
		p.text = strings.Join(words, " ")
		p.network = strings.Contains(p.text, "WebSocket") || strings.Contains(p.text, "Failed to fetch")
	case *log.EventEntryAdded:
		if e.Entry.Level != log.EntryLevelError {
			return
		}
		p.text = fmt.Sprintf("%s error: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		p.network = e.Entry.Source == log.EntrySourceNetwork || strings.HasPrefix(e.Entry.Text, "WebSocket connection to")
	case *page.EventJavascriptDialogOpening:
		p.text = "dialog: " + e.Message
	default:
		return
	}
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.problems = append(tab.problems, p)
}

// call calls the browser about a tab.
func call[P, R any](tab *tab, command cdp.Command[P, R], params P) R {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, callTimeout)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	if err != nil {
		tab.t.Fatalf("%s: %v", command.Method, err)
	}
	return result
}

// do takes steps in a tab.
func (tab *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, 2*soon)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		tab.t.Fatal(err)
	}
}

func (tab *tab) navigate(url string) { tab.t.Helper(); tab.do(chromedp.Navigate(url)) }

func (tab *tab) reload() { tab.t.Helper(); tab.do(chromedp.Reload()) }

// try evaluates an expression, which may fail between two documents.
func try[T any](tab *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(tab.ctx, callTimeout)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}

// eval evaluates an expression in the page.
func eval[T any](tab *tab, expression string) T {
	tab.t.Helper()
	value, err := try[T](tab, expression)
	if err != nil {
		tab.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// now returns what is visible, and whether there is a page at all.
func (tab *tab) now() (sight, bool) {
	// In a page that runs no scripts the observer is not there yet.
	s, err := try[*sight](tab, observer+"window.observer.now()")
	if err != nil || s == nil {
		return sight{}, false
	}
	return *s, true
}

// sees waits until cond holds for what is visible, and returns that.
func (tab *tab) sees(limit time.Duration, what string, cond func(sight) bool) sight {
	tab.t.Helper()
	var s sight
	redistest.Eventually(tab.t, limit, "the page is "+what, func() bool {
		now, ok := tab.now()
		s = now
		return ok && cond(s)
	})
	return s
}

// history returns everything that was visible since a time, on the present document.
func (tab *tab) history(since time.Time) []sight {
	tab.t.Helper()
	all := eval[[]sight](tab, "observer.history")
	// The last one before it was still there at the time.
	first := slices.IndexFunc(all, func(s sight) bool { return s.after(since) >= 0 })
	if first < 0 {
		first = len(all)
	}
	return all[max(0, first-1):]
}

// alwaysSaw fails the test if cond did not hold for everything that was visible since a
// time.
func (tab *tab) alwaysSaw(since time.Time, what string, cond func(sight) bool) {
	tab.t.Helper()
	for _, s := range tab.history(since) {
		if !cond(s) {
			text, _ := json.Marshal(s)
			tab.t.Errorf("seen at some time: %s; want always: %s", text, what)
			return
		}
	}
}

// click presses the middle of an element, as soon as one is visible.
func (tab *tab) click(selector string) {
	tab.t.Helper()
	tab.do(chromedp.MouseClickXY(tab.middle(selector)))
}

// middle returns the position of an element, as soon as one is visible.
func (tab *tab) middle(selector string) (x, y float64) {
	tab.t.Helper()
	quoted, _ := json.Marshal(selector)
	var middle []float64
	redistest.Eventually(tab.t, soon, selector+" can be clicked", func() bool {
		var err error
		middle, err = try[[]float64](tab, fmt.Sprintf(`(() => {
			const element = document.querySelector(%s);
			if (!element) return null;
			element.scrollIntoView({ block: "nearest" });
			const box = element.getBoundingClientRect();
			const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
			return element.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
		})()`, quoted))
		return err == nil && len(middle) == 2
	})
	return middle[0], middle[1]
}

// clicked returns when the page was clicked last.
func (tab *tab) clicked() time.Time {
	tab.t.Helper()
	return time.UnixMicro(int64(1000 * eval[float64](tab, "observer.clicked")))
}

const (
	nameField   = "input[name=username]"
	joinButton  = "button[name=join]"
	leaveButton = "button[name=leave]"
)

// fill replaces the text in the name field.
func (tab *tab) fill(text string) {
	tab.t.Helper()
	tab.click(nameField)
	// Again, should the page reload itself just then.
	redistest.Eventually(tab.t, soon, "the field holds what was typed", func() bool {
		const selected = `(field => { field?.focus(); field?.select(); return Boolean(field); })(document.querySelector("` + nameField + `"))`
		if !eval[bool](tab, selected) {
			return false
		}
		if text == "" {
			tab.do(chromedp.KeyEvent("\b"))
		} else {
			call(tab, input.InsertText, input.InsertTextParams{Text: text})
		}
		return eval[string](tab, `document.querySelector("`+nameField+`")?.value ?? "reloaded"`) == text
	})
}

// press presses a button, but not so soon after the last press that the page would ignore
// it as an accident.
func (tab *tab) press(button string) {
	tab.t.Helper()
	tab.calm()
	tab.click(button)
}

// calm waits until the page ignores no press.
func (tab *tab) calm() {
	tab.t.Helper()
	redistest.Eventually(tab.t, soon, "a press counts", func() bool {
		calm, err := try[bool](tab, "window.observer?.calm() ?? true")
		return err == nil && calm
	})
}

// submit types a name and presses Join.
func (tab *tab) submit(name string) {
	tab.t.Helper()
	tab.fill(name)
	tab.press(joinButton)
}

// join joins under a name, and returns when the page says so.
func (tab *tab) join(name string) *tab {
	tab.t.Helper()
	tab.submit(name)
	tab.sees(soon, "joined as "+name, func(s sight) bool { return s.As == name })
	return tab
}

// leave leaves, and returns when the page says so.
func (tab *tab) leave() {
	tab.t.Helper()
	tab.press(leaveButton)
	tab.sees(soon, "left", func(s sight) bool { return s.As == "" })
}

// duplicate opens a copy of the tab, and returns when that is live.
func (tab *tab) duplicate() *tab {
	tab.t.Helper()
	duplicate := tab.double()
	duplicate.sees(soon, "live", sight.live)
	return duplicate
}

// double opens a copy of the tab, as the browser's menu does: with the same session
// storage.
func (tab *tab) double() *tab {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, soon)
	defer cancel()
	opened := chromedp.WaitNewTarget(ctx, func(*target.Info) bool { return true })
	eval[chromedp.Void](tab, `void window.open(location.href, "_blank", "popup")`)
	id, ok := <-opened
	if !ok {
		tab.t.Fatal("no new tab")
	}
	return tab.b.attach(chromedp.WithTargetID(id))
}

// close closes the tab, and returns the time just before.
func (tab *tab) close() time.Time {
	before := time.Now()
	tab.cancel()
	return before
}

package chaos

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"presence/test/harness"
)

const (
	// names is how many each visitor uses.
	names = 3

	// patience is how long a visitor waits for an answer, or for a page to
	// become live.
	patience = 4 * time.Second

	// pingEvery and pongTimeout are the client's, scaled as the servers' times
	// are, with some air for a busy machine.
	pingEvery   = 1500 * time.Millisecond
	pongTimeout = 1500 * time.Millisecond
)

// nobody is the name for a page that is not joined.
const nobody = ""

// person is a visitor with one browser and some tabs of one room.
type person struct {
	w     *world
	index int
	habit habit
	room  string

	browser  *harness.Browser
	browsers int
	tabs     []*tab

	// mu is held while somebody without JavaScript asks for a page, which their
	// browser also does by itself.
	mu sync.Mutex
}

// tab is a place for one of a person's tabs. It may be open or not, and has one visitor
// after another.
type tab struct {
	p       *person
	slot    int
	visitor *harness.Visitor // nil: closed

	// may is what the page may be joined as: more than one name while nobody
	// knows whether something took place.
	may map[string]bool

	// What happened since the beginning of the round, for screens.
	lives   []*harness.Visitor
	broken  []span // while what the visitor did might have ended the presence
	left    []leaving
	closed  time.Time // when a page of the tab was last closed for good
	unknown bool      // something had no answer
	loads   []load
}

// leaving is a leave that was answered. After that time the name has to be gone, until
// the visitor tries to join again (zero: not yet).
type leaving struct {
	name        string
	after, till time.Time
}

// load is a page load of a visitor without JavaScript.
type load struct {
	begun, ended time.Time
	ok           bool
	sight        harness.Sight
}

// newCrowd returns all people, with no page open yet.
func newCrowd(w *world) []*person {
	var all []*person
	for _, group := range crowd {
		for i := range group.people {
			p := &person{w: w, index: len(all), habit: group.habit, room: roomFor(group.habit, i)}
			p.meetBrowser()
			for slot := range group.tabs {
				p.tabs = append(p.tabs, &tab{p: p, slot: slot, may: map[string]bool{nobody: true}})
			}
			all = append(all, p)
		}
	}
	return all
}

// rooms are the rooms that people use, each on a different master. Nobody stays in the
// nook for long.
var rooms = []string{"lobby", "garden", "nook"}

func roomFor(h habit, i int) string {
	switch n := i % 6; {
	case n == 5 && h != steady:
		return rooms[2]
	case n >= 4:
		return rooms[1]
	default:
		return rooms[0]
	}
}

// meetBrowser gives the person a new browser from now on.
func (p *person) meetBrowser() {
	p.browser = harness.NewBrowser()
	p.browsers++
}

// name returns the nth name of the person in this browser. Nobody else uses it, so a name
// stands for one user.
func (p *person) name(n int) string { return fmt.Sprintf("P%02d.%d%c", p.index, p.browsers, 'a'+n) }

func (p *person) String() string { return fmt.Sprintf("P%02d (%s, %s)", p.index, p.habit, p.room) }

func (p *person) options() harness.Options {
	o := harness.Options{
		Browser: p.browser, Names: p.habit == looker,
		PingEvery: pingEvery, PongTimeout: pongTimeout, Patience: patience,
	}
	if p.room != rooms[0] {
		o.Room = "/rooms/" + p.room
	}
	return o
}

// forgetRound begins a new round.
func (tb *tab) forgetRound() {
	tb.lives, tb.broken, tb.left, tb.loads, tb.unknown = nil, nil, nil, nil, false
	if tb.visitor != nil {
		tb.lives = append(tb.lives, tb.visitor)
	}
}

// act does what is due, one thing after another, until the round is over.
func (p *person) act(deeds []deed, begun time.Time) {
	for _, d := range deeds {
		waitUntil(begun.Add(d.at))
		if time.Since(begun) > roundLength {
			return
		}
		tb := p.tabs[d.tab]
		var outcome string
		if p.habit == plain {
			outcome = tb.doPlain(d)
		} else {
			outcome = tb.do(d)
		}
		tb.done()
		p.w.note("%v tab %d: %s %c: %s, so may be %v", p, tb.slot, d.act, 'a'+d.first, outcome, tb.mayList())
	}
}

func (tb *tab) mayList() string {
	if tb.visitor == nil {
		return "closed"
	}
	list := slices.Sorted(maps.Keys(tb.may))
	return "[" + strings.ReplaceAll(strings.Join(list, " or "), " or ", ", ") + "]"
}

// be makes names the only ones under which the page may be joined.
func (tb *tab) be(names ...string) {
	tb.may = map[string]bool{}
	tb.maybe(names...)
}

// maybe adds names under which the page may be joined.
func (tb *tab) maybe(names ...string) {
	for _, name := range names {
		tb.may[name] = true
	}
}

// breaks notes that from now on, until done, the visitor may be absent by choice.
func (tb *tab) breaks() { tb.broken = append(tb.broken, span{from: time.Now()}) }

func (tb *tab) done() {
	for i := range tb.broken {
		if tb.broken[i].to.IsZero() {
			tb.broken[i].to = time.Now()
		}
	}
}

// joins notes that from now on the visitor may be there again.
func (tb *tab) joins() {
	for i := range tb.left {
		if tb.left[i].till.IsZero() {
			tb.left[i].till = time.Now()
		}
	}
}

// visit opens the page in the tab.
func (tb *tab) visit(o harness.Options, bases ...string) {
	tb.visitor = harness.Visit(tb.p.w.t, o, bases...)
	tb.lives = append(tb.lives, tb.visitor)
}

// arrive opens the page in a new tab.
func (tb *tab) arrive() {
	tb.be(nobody)
	tb.visit(tb.p.options(), tb.p.w.balancer.URL)
}

// again opens the page in the tab that was used last.
func (tb *tab) again() {
	tb.visitor = tb.visitor.Revisit()
	tb.lives = append(tb.lives, tb.visitor)
}

func (tb *tab) shut(how func(*harness.Visitor)) {
	tb.breaks()
	how(tb.visitor)
	tb.closed = time.Now()
	tb.visitor = nil
	tb.be(nobody)
}

// live waits until the page is live.
func (tb *tab) live() bool {
	if tb.visitor == nil {
		tb.arrive()
	}
	_, ok := tb.visitor.Await(patience, func(s harness.Sight) bool { return s.Socket })
	return ok
}

// do does one act with JavaScript, and returns its outcome.
func (tb *tab) do(d deed) string {
	first, other := tb.p.name(d.first), tb.p.name(d.other)
	switch d.act {
	case join, joinTwice, joinAsOther, leave, leaveTwice:
		if !tb.live() {
			return "the page is not live"
		}
	case reload, comeBack, elsewhere, shut, crash, arrive, earlyForm, newBrowser:
	}
	switch d.act {
	case join:
		if tb.p.habit == steady {
			if first = tb.p.name(0); tb.may[first] {
				return "is there"
			}
		}
		return tb.join(first, func() (error, error) { err := tb.visitor.Join(first); return err, err }, first)
	case joinTwice:
		return tb.join(first, func() (error, error) { return tb.visitor.JoinTwice(first, first) }, first)
	case joinAsOther:
		return tb.join(first, func() (error, error) { return tb.visitor.JoinTwice(first, other) }, other)
	case leave:
		return tb.leave(func() (error, error) { err := tb.visitor.Leave(); return err, err })
	case leaveTwice:
		return tb.leave(func() (error, error) { return tb.visitor.LeaveTwice() })
	case reload:
		if tb.visitor == nil {
			return "is closed"
		}
		tb.again()
		return "reloads"
	case comeBack:
		if tb.visitor == nil {
			return "is closed"
		}
		tb.visitor.Crash()
		tb.again()
		return "comes back"
	case elsewhere:
		if tb.visitor == nil {
			return "is closed"
		}
		where := d.first % len(tb.p.w.replicas)
		tb.visitor.Goto(tb.p.w.replicas[where].URL, tb.p.w.balancer.URL)
		tb.again()
		return fmt.Sprintf("goes to replica %d", where+1)
	case shut, crash:
		if tb.visitor == nil {
			return "is closed"
		}
		tb.shut(map[act]func(*harness.Visitor){shut: (*harness.Visitor).Close, crash: (*harness.Visitor).Crash}[d.act])
		return "is gone"
	case arrive:
		if tb.visitor != nil {
			tb.shut((*harness.Visitor).Close)
		}
		tb.arrive()
		return "arrives"
	case earlyForm:
		if tb.visitor != nil {
			tb.shut((*harness.Visitor).Close)
		}
		return tb.joinEarly(first)
	case newBrowser: // of those without JavaScript
	}
	return "does nothing"
}

// join does one or two joins. last is the name of the last one.
func (tb *tab) join(first string, press func() (error, error), last string) string {
	tb.joins()
	if !tb.may[first] || !tb.may[last] || len(tb.may) > 1 {
		tb.breaks()
	}
	one, two := press()
	switch {
	case two == nil:
		tb.be(last)
	case one == nil:
		tb.be(first, last)
	default:
		tb.maybe(first, last)
	}
	return tb.answered(one, two)
}

// leave does one or two leaves. Only a joined page has the button.
func (tb *tab) leave(press func() (error, error)) string {
	now := tb.visitor.Now()
	if !now.Joined {
		return "is not joined"
	}
	tb.breaks()
	one, two := press()
	if one == nil || two == nil {
		tb.be(nobody)
		after := time.Now()
		// The page that was closed before may have had the same name.
		if gone := tb.closed.Add(grace + time.Second); gone.After(after) {
			after = gone
		}
		tb.left = append(tb.left, leaving{name: now.Name, after: after})
	} else {
		tb.maybe(nobody)
	}
	return tb.answered(one, two)
}

// answered returns the outcome of an action. A person who got no answer reloads the page.
func (tb *tab) answered(one, two error) string {
	if one == nil && two == nil {
		return "ok"
	}
	if one == nil || two == nil {
		return fmt.Sprintf("%v, then %v", one, two)
	}
	if errors.Is(two, harness.ErrNotLive) {
		tb.unknown = true
		if tb.visitor.Now().Socket {
			tb.again()
			return two.Error() + "; reloads"
		}
	}
	return two.Error()
}

// joinEarly opens the page and joins by its form before the page script has run.
func (tb *tab) joinEarly(name string) string {
	form := harness.NewReader(tb.p.w.t, tb.p.options(), tb.p.w.balancer.URL)
	outcome := "joins"
	tb.joins()
	err := form.Load()
	if err == nil {
		err = form.Post("join", name)
	}
	tb.be(name)
	if now := form.Now(); err != nil || !now.Joined || now.Name != name {
		tb.maybe(nobody)
		tb.unknown = true
		outcome = fmt.Sprintf("may have joined: %v, %v", err, now)
	}
	tb.visitor = form.Awaken()
	tb.lives = append(tb.lives, tb.visitor)
	return outcome
}

// doPlain does one act without JavaScript, and returns its outcome.
func (tb *tab) doPlain(d deed) string {
	p := tb.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.act == newBrowser {
		tb.breaks()
		p.meetBrowser()
		tb.visitor = nil
	}
	if d.act == shut {
		tb.breaks()
		tb.visitor = nil // its last page is not renewed any more
		return "is gone"
	}
	if tb.visitor == nil {
		// Who comes back soon is joined again by the cookie.
		tb.maybe(nobody)
		if d.act == newBrowser {
			tb.be(nobody)
		}
		tb.visitor = harness.NewReader(p.w.t, p.options(), p.w.balancer.URL)
		tb.loaded(time.Now(), tb.visitor.Load())
	}
	first, other := p.name(d.first), p.name(d.other)
	switch d.act {
	case join:
		return tb.post("join", first)
	case joinTwice:
		return tb.postBoth("join", first, first)
	case joinAsOther:
		return tb.postBoth("join", first, other)
	case leave, leaveTwice:
		if !tb.visitor.Now().Joined {
			return "is not joined"
		}
		if d.act == leave {
			return tb.post("leave", nobody)
		}
		return tb.postBoth("leave", nobody, nobody)
	case reload, comeBack, elsewhere, shut, crash, arrive, earlyForm, newBrowser:
	}
	return "looks"
}

// post presses a button without JavaScript.
func (tb *tab) post(action, name string) string {
	tb.breaks()
	begun := time.Now()
	err := tb.visitor.Post(action, name)
	tb.done()
	tb.loaded(begun, err)
	return tb.posted(err, name)
}

// postBoth presses a button twice without waiting, so both forms are sent. Only the next
// page shows which was the last.
func (tb *tab) postBoth(action, first, other string) string {
	tb.breaks()
	sent := make(chan error)
	twin := harness.NewReader(tb.p.w.t, tb.p.options(), tb.p.w.balancer.URL)
	go func() { sent <- twin.Post(action, first) }()
	err := tb.visitor.Post(action, other)
	err = errors.Join(err, <-sent)
	tb.done()
	begun := time.Now()
	err = errors.Join(err, tb.visitor.Load())
	tb.loaded(begun, err)
	outcome := tb.posted(err, other)
	if first != other {
		tb.maybe(first, other)
	}
	return outcome
}

// posted returns the outcome of pressing a button. name is what the page should show.
func (tb *tab) posted(err error, name string) string {
	now := tb.visitor.Now()
	switch {
	case err != nil:
		tb.maybe(name)
		return err.Error()
	case joinedAs(now) == name && !now.Stale:
		tb.be(name)
		return "ok"
	default:
		tb.maybe(name)
		return fmt.Sprintf("the page says %v", now)
	}
}

// loaded notes what came of loading a page.
func (tb *tab) loaded(begun time.Time, err error) {
	tb.loads = append(tb.loads, load{begun: begun, ended: time.Now(), ok: err == nil, sight: tb.visitor.Now()})
}

// refresh loads the page again, as browsers without JavaScript do by themselves.
func (p *person) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tb := range p.tabs {
		if tb.visitor == nil {
			continue
		}
		// Pages that could not be loaded for so long let the presence end.
		if last := tb.lastGood(); time.Since(last) > ttl-time.Second {
			tb.maybe(nobody)
		}
		begun := time.Now()
		tb.loaded(begun, tb.visitor.Load())
	}
}

// lastGood returns when the last page that arrived was requested.
func (tb *tab) lastGood() time.Time {
	for _, l := range slices.Backward(tb.loads) {
		if l.ok && !l.sight.Stale {
			return l.begun
		}
	}
	return time.Now() // not in this round: nothing is known
}

// joinedAs returns the name under which the page says that the visitor is joined.
func joinedAs(s harness.Sight) string {
	if s.Joined {
		return s.Name
	}
	return nobody
}

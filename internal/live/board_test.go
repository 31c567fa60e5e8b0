package live_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/controller"
	"presence/internal/live"
	"presence/internal/presence"
	"presence/internal/room"
	"presence/templates"
	"presence/test/page"
	"presence/web"
)

func template(tb testing.TB) *livetemplate.Template {
	tb.Helper()
	assets, err := web.Load()
	if err != nil {
		tb.Fatal(err)
	}
	t, err := livetemplate.New("presence", templates.Options(assets)...)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// testRoom is a room whose views the test makes.
type testRoom struct {
	View  room.View // the newest
	Woken int       // how often livetemplate was asked to look again
	Shown int       // how often all pages had been sent what was new

	tb       testing.TB
	pages    *live.Pages
	audience room.Audience // nil: no page was opened yet
}

// newRoom returns a room with pages of the template.
func newRoom(tb testing.TB, template *livetemplate.Template) *testRoom {
	tb.Helper()
	pages, err := live.New(template, controller.LiveOptions(nil))
	if err != nil {
		tb.Fatal(err)
	}
	return &testRoom{View: room.View{Stale: true, Sequence: 1}, tb: tb, pages: pages}
}

// Show brings all pages up to View.
func (r *testRoom) Show() {
	if r.audience != nil {
		r.audience.Show(r.View, func() { r.Shown++ })
	}
}

// sender receives what is sent to a page.
type sender interface {
	Send(frame []byte, sent func()) error
}

// testPage is an open page of a room.
type testPage struct {
	*live.Page
	sender

	Seen int64 // Sequence of the view that it says it has shown

	room *testRoom
}

// Open opens a page whose frames go to to.
func (r *testRoom) Open(to sender) *testPage {
	p := &testPage{sender: to, room: r}
	p.Page = r.pages.Open("lobby", p)
	r.audience = p.Audience()
	return p
}

func (p *testPage) View() room.View    { return p.room.View }
func (p *testPage) Saw(view room.View) { p.Seen = view.Sequence }

func (p *testPage) Wake() {
	p.room.Woken++
	receives := make(chan bool)
	go func() {
		p.Unresolved()
		close(receives)
	}()
	select {
	case <-receives:
	case <-time.After(10 * time.Second):
		p.room.tb.Error("livetemplate is called with a lock held that its own goroutines wait for")
	}
}

// members returns users as members with one connection each.
func members(users []presence.User) []presence.Member {
	list := make([]presence.Member, len(users))
	for i, user := range users {
		list[i] = presence.Member{User: user, Connections: 1}
	}
	return list
}

// whole returns the state of a page that shows view to user. more has the other fields.
func whole(view room.View, user presence.User, more controller.PresenceState) controller.PresenceState {
	if user.ID != "" {
		more.Joined, more.Username, more.UserID = true, user.Name, user.ID
	}
	return more.Shows(view)
}

// browser is a browser that applies the frames it is sent.
type browser struct {
	tb     testing.TB
	known  page.Tree
	frames int
	bytes  int
}

func (b *browser) Send(text []byte, sent func()) error {
	if sent != nil {
		defer sent()
	}
	var frame struct{ Tree page.Tree }
	if err := json.Unmarshal(text, &frame); err != nil {
		b.tb.Errorf("%s: %v", text, err)
		return nil
	}
	b.frames++
	b.bytes += len(text)
	if b.known == nil {
		b.known = frame.Tree
	} else if err := page.Merge(b.known, frame.Tree); err != nil {
		b.tb.Errorf("%s: %v", text, err)
	}
	return nil
}

// visitor is a visitor with an open page, and what livetemplate knows about it.
type visitor struct {
	*testPage

	shows *browser

	page  *livetemplate.Template
	state controller.PresenceState // the visitor's own fields
	user  presence.User            // no ID: not joined
	known bool                     // whether that is known
}

// open opens the page of a room, as livetemplate does.
func open(tb testing.TB, lobby *testRoom, t *livetemplate.Template) *visitor {
	tb.Helper()
	clone, err := t.Clone()
	if err != nil {
		tb.Fatal(err)
	}
	b := &browser{tb: tb}
	v := &visitor{shows: b, testPage: lobby.Open(b), page: clone, known: true}
	v.state = controller.PresenceState{
		Room: "lobby", Replica: "replica-1", Rooms: []controller.RoomLink{{Name: "lobby", Path: "/", Here: true}},
	}
	return v
}

// render makes livetemplate render the page and send what has changed.
func (v *visitor) render() {
	var out bytes.Buffer
	if err := v.page.ExecuteUpdates(&out, v.state); err != nil {
		v.room.tb.Fatal(err)
	}
	if err := v.Receive([]byte(`{"tree":` + out.String() + `,"meta":{"success":true}}`)); err != nil {
		v.room.tb.Fatal(err)
	}
}

func (v *visitor) is(user presence.User) {
	v.user = user
	v.state.Joined, v.state.Username, v.state.UserID = user.ID != "", user.Name, user.ID
}

// wants fails unless the page equals the one that livetemplate makes of the room.
func (v *visitor) wants(t *testing.T, all *livetemplate.Template, view room.View, what string) {
	t.Helper()
	clone, err := all.Clone()
	if err != nil {
		t.Fatal(err)
	}
	view.Stale = view.Stale || !v.known
	var out bytes.Buffer
	if err := clone.ExecuteUpdates(&out, whole(view, v.user, v.state)); err != nil {
		t.Fatal(err)
	}
	var want page.Tree
	if err := json.Unmarshal(out.Bytes(), &want); err != nil {
		t.Fatal(err)
	}
	if got, want := page.HTML(v.shows.known), page.HTML(want); got != want {
		t.Fatalf("%s: the page shows\n%s\nwant\n%s", what, got, want)
	}
}

// Whatever happens in a room, and in whatever order its pages learn of it: once they are
// up to date, each page equals what livetemplate would have rendered.
func TestPagesShowWhatThereIsToSee(t *testing.T) {
	tmpl := template(t)
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		lobby := newRoom(t, tmpl)
		var users []presence.User
		var visitors []*visitor
		var told room.View // what the next view will bring
		now, version, next := time.Now(), int64(1), 0
		change := func() presence.Occupancy {
			version++
			return presence.Occupancy{Users: len(users), Connections: len(users) + int(version%3), Version: version}
		}
		newUser := func() presence.User {
			next++
			// Names that try to be taken for something else.
			return presence.User{ID: fmt.Sprint("id-", next), Name: []string{
				"Ann", fmt.Sprintf(`"0":"id-%d"`, next+2), fmt.Sprint("id-", next+2), `","3":""}`, "<b>", "4711081547",
			}[next%6]}
		}
		told.Occupancy = change()
		var past []string
		did := func(what string) { past = append(past, what) }
		story := func() string { return fmt.Sprintf("seed %d, %q", seed, past[max(0, len(past)-5):]) }
		for range 120 {
			switch n := rnd.IntN(12); {
			case n < 2 && len(visitors) < 8:
				did("a page opens")
				v := open(t, lobby, tmpl)
				if rnd.IntN(3) == 0 {
					v.known = false
					v.Resolved(false, "")
				}
				if rnd.IntN(3) == 0 {
					lobby.Show() // before the first frame
				}
				v.render()
				visitors = append(visitors, v)
			case n == 2 && len(visitors) > 0:
				did("a page closes")
				i := rnd.IntN(len(visitors))
				visitors[i].Close()
				visitors = slices.Delete(visitors, i, i+1)
			case n == 3 && len(users) < 120:
				did("others join")
				for range 1 + rnd.IntN(30) {
					users = append(users, newUser())
				}
				told.Occupancy = change()
			case n == 4 && len(users) > 0:
				did("others leave")
				for range 1 + rnd.IntN(len(users)) {
					i := rnd.IntN(len(users))
					users = slices.Delete(users, i, i+1)
				}
				told.Occupancy = change()
			case n < 7 && len(visitors) > 0:
				v := visitors[rnd.IntN(len(visitors))]
				i := slices.Index(users, v.user)
				user := presence.User{}
				if v.user.ID == "" {
					did("a visitor joins")
					user = newUser()
					users = append(users, user)
				} else {
					did("a visitor leaves")
					if i >= 0 {
						users = slices.Delete(users, i, i+1)
					}
				}
				told.Occupancy = change()
				v.is(user)
				v.known = true
				v.Acted(user.ID, told.Occupancy, now)
				v.render()
				for _, want := range []string{fmt.Sprintf(">%d user(s)", len(users)), fmt.Sprintf(`data-stale="%t"`, lobby.View.Stale)} {
					if got := page.HTML(v.shows.known); !strings.Contains(got, want) {
						t.Fatalf("%s: the page does not show %s at once:\n%s", story(), want, got)
					}
				}
			case n == 7 && len(visitors) > 0:
				did("it is known who a visitor is")
				v := visitors[rnd.IntN(len(visitors))]
				if !v.known {
					v.known = true
					if len(users) > 0 {
						v.is(users[rnd.IntN(len(users))])
					}
					v.Resolved(true, v.user.ID)
					v.render()
					v.wants(t, tmpl, lobby.View, story())
				}
			case n == 8:
				did("Redis goes or comes")
				lobby.View.Stale = !lobby.View.Stale
				lobby.View.Sequence++
				lobby.Show()
			default:
				did("the room is read")
				lobby.View = room.View{AsOf: now, Sequence: lobby.View.Sequence + 1}
				lobby.View.Occupancy = told.Occupancy
				lobby.View.Members = members(users[:min(len(users), presence.ListSize)])
				lobby.Show()
				if rnd.IntN(4) == 0 {
					lobby.Show() // a reminder
				}
				for i, v := range visitors {
					v.wants(t, tmpl, lobby.View, fmt.Sprintf("%s, visitor %d", story(), i))
					if v.known && v.Seen != lobby.View.Sequence {
						t.Fatalf("%s: visitor %d has seen %d of %d", story(), i, v.Seen, lobby.View.Sequence)
					}
				}
			}
			now = now.Add(time.Millisecond)
		}
	}
}

// If Redis could not tell who a visitor is, the page asks again whenever there is
// something new to show. A notice of an outage disappears when the outage is over.
func TestPagesThatWaitForRedisAreWoken(t *testing.T) {
	tmpl := template(t)
	lobby := newRoom(t, tmpl)
	read := func(stale bool) {
		lobby.View = room.View{AsOf: time.Now(), Stale: stale, Sequence: lobby.View.Sequence + 1}
		lobby.Woken = 0
	}
	unknown, noticed, other := open(t, lobby, tmpl), open(t, lobby, tmpl), open(t, lobby, tmpl)
	unknown.known = false
	unknown.Resolved(false, "")
	read(true)
	for _, v := range []*visitor{unknown, noticed, other} {
		v.render()
	}
	noticed.Noticed()
	if lobby.Woken != 0 {
		t.Errorf("%d pages were woken from a goroutine of livetemplate", lobby.Woken)
	}
	for _, c := range []struct {
		what  string
		read  func()
		woken int
	}{
		{"a reminder", func() { lobby.Woken = 0 }, 1},
		{"a change while Redis is away", func() { read(true) }, 1},
		{"Redis is back", func() { read(false) }, 2},
		{"a change", func() { read(false) }, 1},
		{"it is known who everybody is", func() {
			unknown.known = true
			unknown.Resolved(true, "")
			read(false)
		}, 0},
	} {
		c.read()
		lobby.Show()
		if lobby.Woken != c.woken {
			t.Errorf("%s: %d pages were woken, want %d", c.what, lobby.Woken, c.woken)
		}
		for _, v := range []*visitor{unknown, noticed, other} {
			v.wants(t, tmpl, lobby.View, c.what)
		}
	}
}

// deaf is a browser whose socket takes nothing until the test says so.
type deaf struct {
	browser

	held []func()
}

func (d *deaf) Send(text []byte, sent func()) error {
	if sent != nil {
		d.held = append(d.held, sent)
	}
	return d.browser.Send(text, nil)
}

// A change counts as shown when the sockets of nearly all pages have taken it. Of forty,
// two may hang. It is reported once, even if no page is open.
func TestShownIsWhenNearlyAllHaveIt(t *testing.T) {
	tmpl := template(t)
	lobby := newRoom(t, tmpl)
	page := lobby.Open(&browser{tb: t})
	page.Close()
	lobby.Show()
	if lobby.Shown != 1 {
		t.Errorf("an empty room was shown %d times", lobby.Shown)
	}
	lobby.Shown = 0
	all := make([]*deaf, 40)
	for i := range all {
		all[i] = &deaf{browser: browser{tb: t}}
		if err := lobby.Open(all[i]).Receive([]byte(`{"tree":{},"meta":{}}`)); err != nil {
			t.Fatal(err)
		}
	}
	lobby.View = room.View{AsOf: time.Now(), Sequence: lobby.View.Sequence + 1}
	lobby.Show()
	for i, d := range all {
		if want := min(1, i/38); lobby.Shown != want {
			t.Fatalf("%d of %d sockets have it, and it was shown %d times, want %d", i, len(all), lobby.Shown, want)
		}
		for _, sent := range d.held {
			sent()
		}
	}
	if lobby.Shown != 1 {
		t.Errorf("shown %d times", lobby.Shown)
	}
}

// A page that takes long to be sent a change delays only the pages of its own room.
func TestManyPagesAreEachSentAChangeOnce(t *testing.T) {
	lobby := newRoom(t, template(t))
	all := make([]*receiver, 1001)
	pages := make([]*testPage, len(all))
	for i := range all {
		all[i] = &receiver{}
		pages[i] = lobby.Open(all[i])
		if err := pages[i].Receive([]byte(`{"tree":{},"meta":{}}`)); err != nil {
			t.Fatal(err)
		}
	}
	for change := range int64(2) {
		lobby.View = room.View{AsOf: time.Now(), Sequence: lobby.View.Sequence + 1}
		lobby.View.Users, lobby.View.Version = int(change)+1, change+1
		lobby.Show()
		for i, page := range pages {
			if got := all[i].frames.Load(); got != change+2 || page.Seen != lobby.View.Sequence {
				t.Fatalf("page %d was sent %d frames, want %d, and has seen view %d of %d", i, got, change+2, page.Seen, lobby.View.Sequence)
			}
		}
	}
	if lobby.Shown != 2 {
		t.Errorf("2 changes were shown %d times", lobby.Shown)
	}
}

// A page that takes long to be sent what is new holds up the pages of its room alone.
func TestRoomsAreShownSideBySide(t *testing.T) {
	pages, err := live.New(template(t), controller.LiveOptions(nil))
	if err != nil {
		t.Fatal(err)
	}
	hangs, goOn := make(chan bool), make(chan bool)
	open := func(name string, send func()) *testRoom {
		shown := &testRoom{View: room.View{Stale: true, Sequence: 1}, tb: t, pages: pages}
		page := &testPage{sender: sending(send), room: shown}
		page.Page = pages.Open(name, page)
		shown.audience = page.Audience()
		if err := page.Receive([]byte(`{"tree":{},"meta":{}}`)); err != nil {
			t.Fatal(err)
		}
		shown.View = room.View{AsOf: time.Now(), Sequence: 2}
		return shown
	}
	sent := 0
	slow := open("slow", func() {
		if sent++; sent == 2 {
			close(hangs)
			<-goOn
		}
	})
	others := 0
	other := open("other", func() { others++ })
	var wg sync.WaitGroup
	wg.Go(slow.Show)
	<-hangs
	other.Show()
	if others != 2 {
		t.Errorf("the page of another room was sent %d frames, want 2", others)
	}
	close(goOn)
	wg.Wait()
}

type sending func()

func (send sending) Send([]byte, func()) error {
	send()
	return nil
}

package sim

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/app"
)

// plain is a browser without JavaScript, with the replicas that it uses.
type plain struct {
	*world

	cookies map[string]cookie
}

// plainly runs a test of a browser without JavaScript with two replicas, in a bubble.
// change may be nil.
func plainly(t *testing.T, change func(*app.Config), test func(t *testing.T, b *plain)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, &plain{world: calm(t, 2, change), cookies: map[string]cookie{}})
	})
}

// do sends a request for the lobby to a replica, and keeps the cookies of the response.
// If form is not nil, it posts it.
func (b *plain) do(place int, form url.Values) *answer {
	b.t.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	r := request(method, "/", form.Encode())
	r.Header.Set("Accept", "text/html")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, c := range b.cookies {
		if time.Now().Before(c.until) {
			r.AddCookie(&http.Cookie{Name: name, Value: c.value})
		}
	}
	p := b.procs[place]
	got, err := p.exchange(p.public, watcher, r, time.Minute)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range (&http.Response{Header: got.header}).Cookies() {
		b.cookies[c.Name] = cookie{c.Value, time.Now().Add(time.Duration(c.MaxAge) * time.Second)}
	}
	return got
}

// get loads the page.
func (b *plain) get(place int) string {
	b.t.Helper()
	got := b.do(place, nil)
	if got.status != http.StatusOK {
		b.t.Fatalf("%d %s", got.status, got.body)
	}
	return got.body
}

// post sends a form. The response must redirect to the page.
func (b *plain) post(place int, form url.Values) {
	b.t.Helper()
	if got := b.do(place, form); got.status != http.StatusSeeOther {
		b.t.Fatalf("%d %s", got.status, got.body)
	}
}

// join and leave press the buttons, join at the first replica.
func (b *plain) join(name string) {
	b.t.Helper()
	b.post(0, url.Values{"join": {""}, "username": {name}})
}

func (b *plain) leave(place int) {
	b.t.Helper()
	b.post(place, url.Values{"leave": {""}})
}

// rows matches the names that a page lists.
var rows = regexp.MustCompile(`<li [^>]*data-key=`)

// shows fails the test unless the page says that the visitor is there as name ("": not
// joined), and counts and lists that many users.
func shows(t *testing.T, page, name string, users string) {
	t.Helper()
	if got := read(page); got.as() != name || got.stale {
		t.Errorf("the page shows the visitor as %+v, want %q", got, name)
	}
	listed := map[int]string{0: "0", 1: "1"}[len(rows.FindAllString(page, -1))]
	if !strings.Contains(page, users+" user(s) online") || listed != users {
		t.Errorf("the page does not count %s, or lists %s", users, listed)
	}
}

// The page that follows a form shows what the form did. That holds when somebody looks at
// the room and no message about the change has come yet, and at another replica than the
// one that got the form. It also holds for a page that brings back a visitor whose lease
// had ended.
func TestPageAfterAFormShowsWhatTheFormDid(t *testing.T) {
	for what, elsewhere := range map[string]int{"the same replica": 0, "another replica": 1} {
		t.Run(what, func(t *testing.T) {
			plainly(t, nil, func(t *testing.T, b *plain) {
				var strangers []*http.Cookie
				for _, p := range b.procs {
					p.open(t, "/", strangers)
				}
				b.get(0)
				b.redis[0].Mute(true)
				b.join("Ann")
				shows(t, b.get(elsewhere), "Ann", "1")
				time.Sleep(6 * time.Second) // all replicas read the room from time to time
				b.leave(0)
				shows(t, b.get(elsewhere), "", "0")
				b.join("Ann")
				time.Sleep(ttl + 8*time.Second) // no longer than the cookie lasts
				if who := b.inLobby(); who != "" {
					t.Fatalf("%s is there", who)
				}
				shows(t, b.get(elsewhere), "Ann", "1")
			})
		})
	}
}

// remove makes an operator remove the user who is in the lobby.
func (b *plain) remove() {
	b.t.Helper()
	users, _ := b.redis[0].HKeys("presence:{lobby}:users")
	for _, user := range users {
		r := request(http.MethodDelete, "/v1/rooms/lobby/members/"+user, "")
		r.Header.Set("Authorization", "Bearer "+apiKey)
		got, err := b.procs[0].exchange(b.procs[0].public, watcher, r, time.Minute)
		if err != nil || got.status != http.StatusNoContent {
			b.t.Fatal(got, err)
		}
	}
}

// A removed visitor is told so once, and a reload does not put the visitor back. If the
// visitor then joins by the form, reloads put them back like anybody else.
func TestRemovedVisitorWithoutJavaScript(t *testing.T) {
	plainly(t, nil, func(t *testing.T, b *plain) {
		const told = "You are no longer in this room: you have been removed."
		b.get(0)
		b.join("Ann")
		shows(t, b.get(1), "Ann", "1")
		b.remove()
		page := b.get(1)
		if shows(t, page, "", "0"); !strings.Contains(page, told) {
			t.Error("the visitor is not told of having been removed")
		}
		page = b.get(0)
		if shows(t, page, "", "0"); strings.Contains(page, told) {
			t.Error("the visitor is told twice of having been removed")
		}
		b.join("Ann")
		shows(t, b.get(1), "Ann", "1")
		b.get(1) // the page's reload renews the lease
		for range 2 {
			time.Sleep(ttl + 8*time.Second)
			if who := b.inLobby(); who != "" {
				t.Fatalf("%s is there", who)
			}
			shows(t, b.get(1), "Ann", "1")
		}
	})
}

// A visitor who can't be put back, because the room is full by then, is told so.
func TestVisitorWithoutJavaScriptFindsTheRoomFull(t *testing.T) {
	plainly(t, func(c *app.Config) { c.MaxMembersPerRoom = 1 }, func(t *testing.T, b *plain) {
		b.get(0)
		b.join("Ann")
		time.Sleep(ttl + 8*time.Second)
		other := &plain{world: b.world, cookies: map[string]cookie{}}
		other.get(0)
		other.join("Ben")
		page := b.get(1)
		if shows(t, page, "", "1"); !strings.Contains(page, "You are no longer in this room. This room is full.") {
			t.Error("the visitor is not told that the room is full")
		}
		other.leave(0)
		shows(t, b.get(1), "Ann", "1")
	})
}

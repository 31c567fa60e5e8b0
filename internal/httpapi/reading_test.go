package httpapi

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

func TestOccupancyAndItsTag(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, fake *redistest.Fake) {
		s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "room", "lobby", "users", "0", "connections", "0", "version", "0", "stale", "false", "as_of", "2000-01-01T00:00:03.000Z")
		s.look("lobby")
		s.put("lobby", "c1", "u1")
		a := s.want(200, "GET", "/v1/rooms/lobby", "") // though nobody has been shown it yet
		a.has(t, "users", "1", "connections", "1")
		tag := fmt.Sprintf(`W/"%s"`, a.field("version"))
		if h := a.Header(); h.Get("ETag") != tag || h.Get("Cache-Control") != "no-cache, private" || h.Get("Vary") != "Authorization, Origin" || h.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", h)
		}
		if h := s.want(200, "GET", "/v1/rooms/public", "", "Authorization", "").Header(); h.Get("Cache-Control") != "no-cache" {
			t.Errorf("without credentials %v", h)
		}
		for _, same := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*", tag + ` , "y"`} {
			if a := s.want(304, "GET", "/v1/rooms/lobby", "", "If-None-Match", same); a.Body.Len() > 0 || a.Header().Get("ETag") != tag || a.Header().Get("Vary") == "" {
				t.Errorf("If-None-Match %s: %v %s", same, a.Header(), a.Body)
			}
		}
		for _, other := range []string{`W/"1"`, "x", `W/""`, ",", ""} {
			s.want(200, "GET", "/v1/rooms/lobby", "", "If-None-Match", other)
		}
		s.put("lobby", "c2", "u2")
		s.want(200, "GET", "/v1/rooms/lobby", "", "If-None-Match", tag)
		s.want(200, "HEAD", "/v1/rooms/lobby", "")

		// Redis is away: what was known, marked, without a tag.
		time.Sleep(time.Second)
		fake.Down()
		time.Sleep(10 * time.Second)
		a = s.want(200, "GET", "/v1/rooms/lobby", "", "If-None-Match", "*")
		if a.has(t, "users", "2", "stale", "true"); a.Header().Get("ETag") != "" {
			t.Errorf("a stale answer has the tag %s", a.Header().Get("ETag"))
		}
		fake.Up()
	})
}

// While Redis is away, known rooms are returned, marked as stale; all else says that it can't
// be known, and when to ask again.
func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, fake *redistest.Fake) {
		s.look("lobby")
		s.put("lobby", "c1", "u1")
		s.put("lobby", "c2", "u2")
		s.put("tea", "c1", "u1")
		for i := range 300 {
			s.put("large", fmt.Sprint("c", i), fmt.Sprint("u", i))
		}
		s.look("large")
		time.Sleep(time.Second)
		fake.Down()
		time.Sleep(10 * time.Second)
		for _, c := range []struct {
			status             int
			method, path, body string
			fields             []string
		}{
			{200, "GET", "/v1/rooms/lobby", "", []string{"users", "2", "stale", "true"}},
			{200, "GET", "/v1/rooms/lobby/members?limit=1", "", []string{"users", "2", "stale", "true", "members.0.user", "u1", "members.1", "none"}},
			{503, "GET", "/v1/rooms/lobby/members/u2", "", nil}, // which has no mark
			{503, "GET", "/v1/rooms/lobby/members/u3", "", nil},
			{200, "POST", "/v1/query", `{"rooms":["lobby"],"users":["u1","u9"]}`, []string{"rooms.0.stale", "true", "users.0.rooms.0", "lobby", "users.1.rooms", "[]"}},
			{200, "GET", "/v1/rooms/large", "", []string{"users", "300", "stale", "true"}},
			{200, "POST", "/v1/query", `{"rooms":["lobby","large"]}`, []string{"rooms.1.users", "300", "users", "[]"}},
			{503, "GET", "/v1/rooms/large/members", "", nil},
			{503, "GET", "/v1/rooms/large/members/u1", "", nil},
			{503, "POST", "/v1/query", `{"rooms":["large"],"users":["u1"]}`, nil},
			{503, "GET", "/v1/rooms/tea", "", nil},
			{503, "GET", "/v1/rooms/tea/members", "", nil},
			{503, "GET", "/v1/rooms/tea/members/u1", "", nil},
			{503, "POST", "/v1/query", `{"rooms":["lobby","tea"]}`, nil},
			{503, "GET", "/v1/rooms", "", nil},
			{503, "GET", "/v1/rooms/lobby/changes?after=0", "", nil},
			{503, "PUT", "/v1/rooms/lobby/connections/c1", `{"user":"u1"}`, nil},
			{503, "PATCH", "/v1/rooms/lobby/connections/c1", `{"name":"x"}`, nil},
			{503, "DELETE", "/v1/rooms/lobby/connections/c1", "", nil},
			{503, "POST", "/v1/rooms/lobby/connections/c1/leave", "", nil},
			{503, "POST", "/v1/heartbeats", `{"connections":[{"room":"lobby","connection":"c1"}]}`, nil},
			{503, "DELETE", "/v1/rooms/lobby/members/u1", "", nil},
		} {
			began := time.Now()
			a := s.want(c.status, c.method, c.path, c.body)
			a.has(t, c.fields...)
			if c.status == 503 && (a.Header().Get("Retry-After") == "" || a.field("code") != "unavailable" || a.field("retry") != "backoff") {
				t.Errorf("%s %s: %v %s", c.method, c.path, a.Header(), a.Body)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%s %s takes %v", c.method, c.path, took)
			}
		}
		fake.Up()
	})
}

// Rooms that the caller may not see change neither a list of rooms nor the place where its
// next page begins.
func TestListOfRoomsTellsNothingOfOthers(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		s.put("public-1", "c1", "u1")
		s.put("public-2", "c1", "u1")
		time.Sleep(3 * time.Second)
		list := func() string {
			var all strings.Builder
			for _, query := range []string{"", "limit=1", "prefix=p", "prefix=q", "prefix=public-2", "cursor=" + cursorOf("a"), "cursor=" + cursorOf("public-1")} {
				all.WriteString(s.want(200, "GET", "/v1/rooms?"+query, "", "Authorization", "").Body.String())
			}
			return all.String()
		}
		before := list()
		for i := range 1200 {
			if _, err := s.store.Put(t.Context(), fmt.Sprintf("hidden-%04d", i), store.Wanted{Connection: presence.Connection{ID: "c1", Generation: "g", User: presence.User{ID: "u1", Name: "u1"}}, TTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		s.want(200, "GET", "/v1/rooms?prefix=hidden&limit=1", "").has(t, "rooms.0.room", "hidden-0000")
		if after := list(); after != before {
			t.Errorf("with rooms that may not be seen the lists are\n%s, without them\n%s", after, before)
		}
	})
}

func TestRoomsAreListedByName(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		s.want(200, "GET", "/v1/rooms", "").has(t, "rooms", "[]", "next", "null")
		var want []string
		for i := range 25 {
			want = append(want, fmt.Sprintf("room-%02d", i))
			s.put(want[i], "c1", "u1")
		}
		s.put("public-1", "c1", "u1")
		s.put("public-1", "c2", "u2")
		s.put("public-1", "c3", "u2")
		s.put("z", "c1", "u1")
		s.want(204, "DELETE", "/v1/rooms/z/connections/c1", "")
		time.Sleep(3 * time.Second)
		list := func(query string, headers ...string) (rooms []string, pages int) {
			for cursor := ""; ; {
				a := s.want(200, "GET", "/v1/rooms?"+query+"&cursor="+cursor, "", headers...)
				for i := range a.body["rooms"].([]any) {
					rooms = append(rooms, a.field(fmt.Sprintf("rooms.%d.room", i)))
				}
				pages++
				if cursor = a.field("next"); cursor == "null" {
					return rooms, pages
				}
				if strings.Trim(cursor, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
					t.Fatalf("cursor %q", cursor)
				}
			}
		}
		for _, limit := range []int{1, 5, 13, 26, 1000} {
			rooms, pages := list(fmt.Sprint("prefix=&limit=", limit))
			if all := append([]string{"public-1"}, want...); !slices.Equal(rooms, all) || pages != (26+limit-1)/limit {
				t.Errorf("limit %d: %d pages with %v", limit, pages, rooms)
			}
		}
		if rooms, _ := list("prefix=room-1&limit=3"); !slices.Equal(rooms, want[10:20]) {
			t.Errorf("with a prefix: %v", rooms)
		}
		if rooms, pages := list("limit=1", "Authorization", ""); !slices.Equal(rooms, []string{"public-1"}) || pages > 3 {
			t.Errorf("everybody sees %v, on %d pages", rooms, pages)
		}
		if rooms, _ := list("limit=2", as(token("u", time.Hour, `,"presence":{"rooms":{"room-2*":["observe"],"room-03":["join"]}}`))...); !slices.Equal(rooms, append([]string{"public-1"}, want[20:25]...)) {
			t.Errorf("a token sees %v", rooms)
		}
		s.want(200, "GET", "/v1/rooms?prefix=public", "").has(t, "rooms.0.users", "2", "rooms.0.connections", "3")
	})
}

// lister lists all members of a room, page by page.
type lister struct {
	s      *server
	room   string
	limit  int
	seen   map[string]int
	order  []string
	cursor string
	done   bool
}

func (l *lister) next() {
	a := l.s.want(200, "GET", fmt.Sprintf("/v1/rooms/%s/members?limit=%d&cursor=%s", l.room, l.limit, l.cursor), "")
	for i := range a.body["members"].([]any) {
		user := a.field(fmt.Sprintf("members.%d.user", i))
		l.seen[user]++
		l.order = append(l.order, user)
	}
	l.cursor = a.field("next")
	l.done = l.cursor == "null"
}

func (s *server) list(room string, limit int) *lister {
	return &lister{s: s, room: room, limit: limit, seen: map[string]int{}}
}

func TestSmallRoomIsListedInOrder(t *testing.T) {
	for _, watched := range []bool{false, true} {
		bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
			if watched {
				s.look("lobby")
			}
			var want []string
			for i := range 256 {
				want = append(want, fmt.Sprint("u", (i*37)%256))
				s.put("lobby", fmt.Sprint("c", i), want[i])
			}
			time.Sleep(time.Second)
			for _, limit := range []int{1, 100, 256, 1000} {
				l := s.list("lobby", limit)
				pages := 0
				for ; !l.done; pages++ {
					l.next()
				}
				if !slices.Equal(l.order, want) || pages != (256+limit-1)/limit {
					t.Errorf("limit %d: %d pages, %v", limit, pages, l.order)
				}
			}
			// Others come and go meanwhile: each user who stays is listed once, in order.
			l := s.list("lobby", 10)
			for i := 0; !l.done; i++ {
				if l.next(); i*10 >= len(want) {
					continue
				}
				s.want(204, "DELETE", "/v1/rooms/lobby/members/"+want[i*10], "")
				s.put("lobby", fmt.Sprint("new", i), fmt.Sprint("n", i))
			}
			var order []string
			for i, user := range want {
				if i%10 > 0 {
					order = append(order, user)
				}
			}
			got := slices.DeleteFunc(l.order, func(user string) bool { return !slices.Contains(order, user) })
			if !slices.Equal(got, order) {
				t.Errorf("while others come and go: %v", got)
			}
		})
	}
}

// 700 members come over pages, also while the room grows beyond what is kept in order and
// shrinks again.
func TestAllMembersAreListed(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		join := func(room string, from, to int) {
			var lost []store.Lost
			for i := from; i < to; i++ {
				lost = append(lost, store.Lost{Connection: presence.Connection{
					ID: fmt.Sprint("c", i), Generation: presence.NewGeneration(), User: presence.User{ID: fmt.Sprint("u", i), Name: fmt.Sprint("U", i)},
				}, TTL: time.Hour})
			}
			if _, errs := s.store.Restore(t.Context(), room, lost); slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
				t.Fatal(errs)
			}
			time.Sleep(time.Second) // it is heard of
		}
		join("lobby", 0, 700)
		l := s.list("lobby", 100)
		for !l.done {
			l.next()
		}
		if len(l.seen) != 700 || len(l.order) != 700 {
			t.Errorf("%d of 700 are listed, in %d places", len(l.seen), len(l.order))
		}
		for _, watched := range []bool{false, true} {
			name := fmt.Sprint("r", watched)
			if watched {
				s.look(name)
			}
			join(name, 0, 240)
			l = s.list(name, 50)
			l.next()
			l.next()
			join(name, 240, 700) // it grows
			l.next()
			for i := 300; i < 700; i++ { // and shrinks
				s.want(204, "DELETE", fmt.Sprintf("/v1/rooms/%s/members/u%d", name, i), "")
			}
			for !l.done {
				l.next()
			}
			for i := range 240 {
				if l.seen[fmt.Sprint("u", i)] == 0 {
					t.Fatalf("u%d is not listed", i)
				}
			}
		}
	})
}

func TestMemberAndQuery(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		s.look("lobby")
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c1", `{"user":"a@b|c:d.e+f=g~h","name":"Ann","meta":{"x":1}}`)
		s.put("lobby", "c2", "a@b|c:d.e+f=g~h")
		s.put("tea", "c1", "ben")
		s.put("lobby", "c3", "ben")
		path := "/v1/rooms/lobby/members/" + url.PathEscape("a@b|c:d.e+f=g~h")
		s.want(200, "GET", path, "").has(t, "user", "a@b|c:d.e+f=g~h", "name", "Ann", "connections", "2", "meta.x", "1", "since", "2000-01-01T00:00:03.000Z", "room", "null")
		s.want(404, "GET", "/v1/rooms/tea/members/nobody", "").has(t, "code", "not_present")
		a := s.want(200, "POST", "/v1/query", `{"rooms":["tea","lobby","empty","tea"],"users":["ben","nobody","ben"]}`)
		a.has(t, "rooms.0.room", "tea", "rooms.0.users", "1", "rooms.1.connections", "3", "rooms.2.users", "0", "rooms.3.room", "tea", "rooms.4", "none",
			"users.0.rooms", `["tea","lobby"]`, "users.1.rooms", "[]", "users.2.user", "ben", "users.3", "none")
		s.want(200, "POST", "/v1/query", `{}`).has(t, "rooms", "[]", "users", "[]")
		s.want(401, "POST", "/v1/query", `{"rooms":["public","lobby"]}`, "Authorization", "")
		s.want(200, "POST", "/v1/query", `{"rooms":["public"]}`, "Authorization", "")
		s.want(403, "POST", "/v1/query", `{"rooms":["other","lobby"]}`, as(otherKey)...)
	})
}

func TestChangesAreFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		s.want(200, "GET", "/v1/rooms/lobby/changes?after=0", "").has(t, "room", "lobby", "version", "0", "changes", "[]")
		var versions []string
		for i := range 10 {
			a := s.put("lobby", fmt.Sprint("c", i), fmt.Sprint("u", i))
			versions = append(versions, a.field("version"))
		}
		last := versions[9]
		after := "0"
		for i := 0; i < 10; i += 3 {
			a := s.want(200, "GET", "/v1/rooms/lobby/changes?limit=3&after="+after, "")
			a.has(t, "version", last, "changes.0.version", versions[i], "changes.0.users", fmt.Sprint(i+1), "changes.0.joins.0.user", fmt.Sprint("u", i),
				"changes.0.updates", "[]", "changes.0.leaves", "[]")
			after = a.field(fmt.Sprintf("changes.%d.version", len(a.body["changes"].([]any))-1))
		}
		s.want(200, "GET", "/v1/rooms/lobby/changes?after="+last, "").has(t, "changes", "[]")
		s.want(410, "GET", "/v1/rooms/lobby/changes?after=9007199254740991", "").has(t, "code", "gone", "retry", "never")
		s.want(410, "GET", "/v1/rooms/lobby/changes?after=7", "")
		time.Sleep(3 * time.Minute) // the room is empty, and its log is over
		s.want(410, "GET", "/v1/rooms/lobby/changes?after="+last, "")
	})
}

// The clock of the bubble stands still between requests: an answer can be a view that is
// older than what was told before.
func TestAnswersNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		a, b := started(newServer(t, fake, store.Options{})), started(newServer(t, fake, store.Options{}))
		a.look("lobby")
		b.look("lobby")
		version := ""
		for i := range 100 {
			by, at := a, b
			if i%2 == 0 {
				by, at = b, a
			}
			told := by.put("lobby", fmt.Sprint("c", i%3), fmt.Sprint("u", i)).field("version")
			if told <= version {
				t.Fatalf("version %s after %s", told, version)
			}
			version = told
			for _, path := range []string{"/v1/rooms/lobby", "/v1/rooms/lobby/members"} {
				if got := by.want(200, "GET", path, "").field("version"); got != told {
					t.Fatalf("after %s, GET %s has %s", told, path, got)
				}
			}
			by.want(200, "POST", "/v1/query", `{"rooms":["lobby"]}`).has(t, "rooms.0.version", told)
			synctest.Wait() // the message has arrived
			at.want(200, "GET", "/v1/rooms/lobby", "").has(t, "version", told)
		}
	})
}

package app

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/redistest"
)

// routesOf are the routes of the public listener, as metrics know them.
func routesOf(t *testing.T, a *running) []string {
	t.Helper()
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]bool{}
	for _, family := range families {
		if family.GetName() != "presence_http_responses_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "route" {
					routes[label.GetValue()] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(routes))
}

// stranger asks in the name of somebody who has no right in most rooms.
type stranger struct {
	*browser
	a      *running
	header []string
	calls  int
}

// ask returns all that a request is answered: status, header and body, with room in place
// of the room's name.
func (s *stranger) ask(method, path, body, room string, header ...string) (status int, answer string) {
	s.t.Helper()
	s.calls++ // each from an address of its own: limits are not what is tested
	header = append(header, "X-Forwarded-For", fmt.Sprintf("10.0.%d.%d", s.calls/250, s.calls%250))
	header = append(header, s.header...)
	fill := strings.NewReplacer("ROOM", room)
	resp, text := s.do(method, s.a.url(fill.Replace(path)), fill.Replace(body), header...)
	resp.Header.Del("Date")
	var lines strings.Builder
	_ = resp.Header.Write(&lines) // into memory
	return resp.StatusCode, strings.ReplaceAll(fmt.Sprintf("%d\n%s\n%s", resp.StatusCode, &lines, text), room, "ROOM")
}

// A room that is not public looks the same, by any route, with somebody in it and with
// nobody, to all who may not see it; and lists are as if there were none.
func TestStrangersLearnNothingOfRoomsThatAreNotPublic(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"keys":   keyLine + fmt.Sprintf("open sha256:%x rooms=open-* rights=read,write\n", sha256.Sum256([]byte("psk_open"))),
		"secret": "a secret of a test, long enough\n",
	} {
		if err := writeFile(dir+"/"+file, text); err != nil {
			t.Fatal(err)
		}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "42", "exp": time.Now().Add(time.Hour).Unix(),
		"presence": map[string]any{"rooms": map[string][]string{"open-*": {"observe", "join"}}},
	}).SignedString([]byte("a secret of a test, long enough"))
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, func(c *Config) {
		c.APIKeysFile, c.TokenSecretFile = dir+"/keys", dir+"/secret"
		c.PublicRooms, c.TrustedProxies, c.APIOrigins = "open-*", "127.0.0.1", "*"
		c.HeartbeatInterval, c.MemberTTL = time.Second, 4*time.Second // rooms are ranked sooner
	}).ready(t)
	callers := map[string]*stranger{
		"nobody":  {browser: newBrowser(t), a: a},
		"a key":   {browser: newBrowser(t), a: a, header: []string{"Authorization", "Bearer psk_open"}},
		"a token": {browser: newBrowser(t), a: a, header: []string{"Authorization", "Bearer " + token}},
	}
	for _, s := range callers {
		s.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	put := func(room, connection string) {
		t.Helper()
		if resp, body := newBrowser(t).do("PUT", a.url("/v1/rooms/"+room+"/connections/"+connection), `{"user":"`+connection+`","ttl":300}`, "Authorization", "Bearer "+testKey); resp.StatusCode != 201 {
			t.Fatal(resp.Status, body)
		}
	}
	lists := func(s *stranger) string {
		var all strings.Builder
		for _, path := range []string{"/rooms", "/rooms/open-1", "/v1/rooms", "/v1/rooms?limit=1", "/v1/rooms?prefix=s", "/nowhere"} {
			_, answer := s.ask("GET", path, "", "none")
			for line := range strings.Lines(answer) {
				if !strings.HasPrefix(line, "Set-Cookie: ") {
					all.WriteString(line)
				}
			}
		}
		return all.String()
	}
	put("open-1", "c1")
	listed := func() bool {
		return strings.Contains(lists(callers["nobody"]), `href="/rooms/open-1"><span class="name">open-1</span> <b>1 online`) && strings.Contains(lists(callers["nobody"]), `"room":"open-1"`)
	}
	redistest.Eventually(t, 10*time.Second, "the public room is listed", listed)
	before := map[string]string{}
	for name, s := range callers {
		before[name] = lists(s)
	}
	for i := range 13 {
		for j := range 2 {
			put(fmt.Sprintf("secret-%d", i), fmt.Sprintf("c%d", j))
		}
	}
	redistest.Eventually(t, 10*time.Second, "the other rooms are in the index, and busy", func() bool {
		_, body := callers["nobody"].do("GET", a.url("/v1/rooms?prefix=secret"), "", "Authorization", "Bearer "+testKey)
		busy, err := a.store.Busiest(t.Context(), 13)
		return strings.Count(body, `"users":2`) == 13 && err == nil && len(busy) == 13 && busy[12].Users == 2
	})
	put("open-2", "c1") // is ranked with them
	redistest.Eventually(t, 10*time.Second, "rooms have been ranked since", func() bool { return strings.Contains(lists(callers["nobody"]), "<b>1 online</b></a></li>\n      <li>") })
	if resp, body := callers["nobody"].do("DELETE", a.url("/v1/rooms/open-2/connections/c1"), "", "Authorization", "Bearer "+testKey); resp.StatusCode != 204 {
		t.Fatal(resp.Status, body)
	}
	redistest.Eventually(t, 10*time.Second, "it is gone again", func() bool { return lists(callers["nobody"]) == before["nobody"] })
	for name, s := range callers {
		if after := lists(s); after != before[name] {
			t.Errorf("%s sees in the lists\n%s\nand before\n%s", name, after, before[name])
		}
	}

	bodies := map[string][]string{
		"/v1/query":      {`{"rooms":["ROOM"],"users":["c0"]}`, `{"rooms":["open-1","ROOM"]}`},
		"/v1/heartbeats": {`{"connections":[{"room":"ROOM","connection":"c0"}]}`},
		"/v1/rooms/{room}/connections/{connection}":       {`{"user":"c0"}`, `{"name":"Ann"}`},
		"/v1/rooms/{room}/connections/{connection}/leave": {"{}"},
		"/rooms/{room}": {join("Ann").Encode(), leave.Encode()},
	}
	const everything = "room=ROOM&rooms=ROOM&prefix=ROOM&after=0&limit=1&users=c0&user=c0"
	headers := [][]string{
		nil,
		{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="},
		{"Origin", "https://evil.example", "Access-Control-Request-Method", "PUT"},
		{"If-None-Match", "*", "Last-Event-ID", "1", "Accept", "text/event-stream"},
		{"Accept", "application/json", "Sec-Fetch-Site", "same-origin"},
	}
	paths := 0
	for _, route := range routesOf(t, a) {
		path := strings.NewReplacer("{room}", "ROOM", "{user}", "c0", "{connection}", "c0", "{$}", "").Replace(route)
		if route == otherRoute {
			path = "/v1/rooms/ROOM/nothing"
		}
		for at, path := range []string{path, path + "?" + everything, path + "?join=c0&user=c0", strings.TrimSuffix(path, "/") + "/"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				for i, header := range headers {
					if i > 0 && (at > 0 || !strings.Contains(path, "ROOM")) {
						continue
					}
					sent := []string{""}
					if method != "GET" && method != "HEAD" {
						sent = append(sent, bodies[route]...)
					}
					for _, body := range sent {
						for name, s := range callers {
							if i > 0 && name != "nobody" {
								continue
							}
							paths++
							full, answer := s.ask(method, path, body, "secret-1", header...)
							_, empty := s.ask(method, path, body, "secret-z", header...)
							if answer != empty {
								t.Errorf("%s asks %s %s %s with %q of a room with somebody in it:\n%s\nand of one without:\n%s", name, method, path, body, header, answer, empty)
							}
							if strings.HasPrefix(path, "/rooms/ROOM") && method != "OPTIONS" && full != 404 && full != 403 && full != 405 {
								t.Errorf("%s asks %s %s: %d", name, method, path, full)
							}
						}
					}
				}
			}
		}
	}
	if paths < 1000 {
		t.Errorf("only %d requests were tried", paths)
	}
	if _, body := callers["nobody"].do("GET", a.url("/v1/rooms/secret-1"), "", "Authorization", "Bearer "+testKey); !strings.Contains(body, `"users":2`) {
		t.Errorf("the room was changed: %s", body)
	}
}

func TestRoomsThatAreNotPublicNeedARight(t *testing.T) {
	a := start(t, func(c *Config) { c.PublicRooms = "open-*, tea" }).ready(t)
	b := newBrowser(t)
	key := a.RunKey()
	for _, test := range []struct {
		method, path, key string
		status            int
		part              string
	}{
		{"GET", "/", "", 404, "nothing here"},
		{"GET", "/", key, 404, "nothing here"}, // no credentials open a page
		{"POST", "/", "", 404, "nothing here"},
		{"PUT", "/", "", 404, "nothing here"},
		{"GET", "/rooms/lobby", "", 404, `<a href="/rooms">`},
		{"GET", "/rooms/teas", "", 404, "nothing here"},
		{"GET", "/rooms/tea", "", 200, `<a class="brand" href="/rooms"`},
		{"GET", "/rooms/tea/", "", 200, "tea · Presence"},
		{"GET", "/rooms/teas/", "", 404, "nothing here"},
		{"GET", "/rooms/open-", "", 200, "open- · Presence"},
		{"GET", "/rooms", "", 200, "Nobody is in any room that everybody may see."},
		{"GET", "/rooms?room=teas", "", 404, "nothing here"},
		{"GET", "/v1/rooms/tea", "", 200, `"users":0`},
		{"GET", "/v1/rooms/lobby", "", 401, `"code":"unauthorized"`},
		{"GET", "/v1/rooms/lobby", key, 200, `"users":0`},
		{"GET", "/v1/rooms/lobby/events", "", 401, `"code":"unauthorized"`},
		{"GET", "/v1/events?rooms=tea,lobby", "", 401, `"code":"unauthorized"`},
		{"GET", "/v1/rooms", "", 200, `"rooms":[]`},
	} {
		var header []string
		if test.key != "" {
			header = []string{"Authorization", "Bearer " + test.key}
		}
		if resp, body := b.do(test.method, a.url(test.path), "", header...); resp.StatusCode != test.status || !strings.Contains(body, test.part) {
			t.Errorf("%s %s: %s without %s: %s", test.method, test.path, resp.Status, test.part, body)
		}
	}
}

func TestWithoutPagesTheAPIStays(t *testing.T) {
	a := start(t, func(c *Config) { c.Page = false }).ready(t)
	b := newBrowser(t)
	for _, path := range []string{"/", "/rooms", "/rooms/", "/rooms/tea", "/rooms/tea/", "/rooms/a.b", "/rooms?room=tea", "/rooms/tea/x", "/examples", "/examples/", "/examples/badge.html"} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			resp, body := b.do(method, a.url(path), "")
			if resp.StatusCode != 404 || !strings.Contains(body, "no pages") || strings.Contains(body, "<a ") {
				t.Errorf("%s %s: %s %s", method, path, resp.Status, body)
			}
		}
	}
	for path, status := range map[string]int{"/v1/rooms/tea": 200, "/v1/rooms": 200, "/v1/nothing": 404, "/readyz": 200, "/lbz": 200, "/robots.txt": 200, "/assets/presence.js": 200, "/openapi.json": 200, "/asyncapi.json": 200} {
		if resp, body := b.do("GET", a.url(path), ""); resp.StatusCode != status {
			t.Errorf("GET %s: %s %s", path, resp.Status, body)
		}
	}
}

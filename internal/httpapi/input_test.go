package httpapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// Each request that can't be meant is told where it is wrong, and changes nothing.
func TestBadInput(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		const c1, members, beats = "/v1/rooms/lobby/connections/c1", "/v1/rooms/lobby/members", "/v1/heartbeats"
		s.want(201, "PUT", c1, `{"user":"u","name":"U","meta":{"k":"v"}}`)
		long := strings.Repeat("x", 129)
		version := s.want(200, "GET", "/v1/rooms/lobby", "").field("version")
		for _, c := range []struct {
			method, path, body string
			pointers           string
		}{
			{"GET", "/v1/rooms?limit=0", "", "/limit"},
			{"GET", "/v1/rooms?limit=1001", "", "/limit"},
			{"GET", "/v1/rooms?limit=-1", "", "/limit"},
			{"GET", "/v1/rooms?limit=1&limit=1", "", "/limit"},
			{"GET", "/v1/rooms?limit=1e2", "", "/limit"},
			{"GET", "/v1/rooms?limit=99999999999999999999", "", "/limit"},
			{"GET", "/v1/rooms?prefix=a.b&cursor=!", "", "/cursor /prefix"},
			{"GET", "/v1/rooms?prefix=" + long, "", "/prefix"},
			{"GET", "/v1/rooms?cursor=" + cursorOf("a b"), "", "/cursor"},
			{"GET", "/v1/rooms?limit=%zz", "", ""},
			{"GET", members + "?limit=x", "", "/limit"},
			{"GET", members + "?cursor=x", "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("lobby"), "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("s -1 5"), "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("s 99999999999999999999 5"), "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("s 7 x"), "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("o 7 a b"), "", "/cursor"},
			{"GET", members + "?cursor=" + cursorOf("o +7 a"), "", "/cursor"},
			{"GET", members + "?cursor=AB%3D", "", "/cursor"},
			{"GET", members + "?cursor=%0a", "", "/cursor"},
			{"GET", "/v1/rooms?cursor=" + cursorOf("lobby") + "%0d%0a", "", "/cursor"},
			{"GET", members + "/a%20b", "", "/user"},
			{"GET", members + "/" + long, "", "/user"},
			{"GET", "/v1/rooms/lobby/changes", "", "/after"},
			{"GET", "/v1/rooms/lobby/changes?after=", "", "/after"},
			{"GET", "/v1/rooms/lobby/changes?after=-1", "", "/after"},
			{"GET", "/v1/rooms/lobby/changes?after=x&limit=257", "", "/limit /after"},
			{"GET", "/v1/rooms/lobby/changes?after=9007199254740992", "", "/after"},
			{"GET", "/v1/rooms/lobby/changes?after=1.0", "", "/after"},
			{"POST", "/v1/query", "", ""},
			{"POST", "/v1/query", "[]", ""},
			{"POST", "/v1/query", "{", ""},
			{"POST", "/v1/query", "{} {}", ""},
			{"POST", "/v1/query", `{"rooms":"lobby"}`, "/rooms"},
			{"POST", "/v1/query", `{"rooms":["a b"],"users":["a b",""]}`, "/rooms/0 /users/0 /users/1"},
			{"POST", "/v1/query", `{"rooms":[7]}`, "/rooms"},
			{"POST", "/v1/query", `{"rooms":[null]}`, "/rooms/0"},
			{"POST", "/v1/query", `{"Rooms":["lobby"]}`, "/Rooms"},
			{"POST", "/v1/query", `{"rooms":[],"rooms":[]}`, "/rooms"},
			{"POST", "/v1/query", `{"rooms":[` + strings.TrimSuffix(strings.Repeat(`"a",`, 101), ",") + `]}`, "/rooms"},
			{"POST", "/v1/query", `{"users":[` + strings.TrimSuffix(strings.Repeat(`"a",`, 101), ",") + `]}`, "/users"},
			{"PUT", c1, "", ""},
			{"PUT", c1, "null", ""},
			{"PUT", c1, "user=u", ""},
			{"PUT", c1, "\xff", ""},
			{"PUT", c1, `{"user":"u"}}`, ""},
			{"PUT", c1, `{"user":"u",}`, ""},
			{"PUT", c1, `{"user":"u"`, ""},
			{"PUT", c1, `{"user" "u"}`, ""},
			{"PUT", c1, strings.Repeat("[", 12000), ""},
			{"PUT", c1, `{"user":"u","meta":` + strings.Repeat(`{"a":`, 3000), ""},
			{"PUT", c1, `{}`, "/user"},
			{"PUT", c1, `{"user":null}`, "/user"},
			{"PUT", c1, `{"user":"."}`, "/user"},
			{"PUT", c1, `{"user":"a b"}`, "/user"},
			{"PUT", c1, `{"user":""}`, "/user"},
			{"PUT", c1, `{"user":7}`, "/user"},
			{"PUT", c1, `{"user":"u","USER":"v"}`, "/USER"},
			{"PUT", c1, `{"user":"u","user":"v"}`, "/user"},
			{"PUT", c1, `{"user":"u","a/b~c":1}`, "/a~1b~0c"},
			{"PUT", c1, `{"user":"u","name":""}`, "/name"},
			{"PUT", c1, `{"user":"u","name":"\u0000"}`, "/name"},
			{"PUT", c1, `{"user":"u","name":["x"]}`, "/name"},
			{"PUT", c1, `{"user":"u","name":"a\nb"}`, "/name"},
			{"PUT", c1, `{"user":"u","name":"` + strings.Repeat("x", 41) + `"}`, "/name"},
			{"PUT", c1, `{"user":"u","meta":[]}`, "/meta"},
			{"PUT", c1, `{"user":"u","meta":"{}"}`, "/meta"},
			{"PUT", c1, `{"user":"u","meta":7}`, "/meta"},
			{"PUT", c1, `{"user":"u","meta":{"a":"` + strings.Repeat("x", 1024) + `"}}`, "/meta"},
			{"PUT", c1, `{"user":"u","meta":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + "}", "/meta"},
			{"PUT", c1, `{"user":"u","ttl":4}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":301}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":5.5}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":"30"}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":-30}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":1e400}`, "/ttl"},
			{"PUT", c1, `{"user":"u","ttl":true}`, "/ttl"},
			{"PUT", "/v1/rooms/lobby/connections/a%20b", `{"user":"u"}`, "/connection"},
			{"PUT", "/v1/rooms/lobby/connections/a%2Fb", `{"user":"u"}`, "/connection"},
			{"PUT", "/v1/rooms/lobby/connections/%2E%2E", `{"user":"u"}`, "/connection"},
			{"PUT", "/v1/rooms/lobby/connections/" + long, `{"user":"u"}`, "/connection"},
			{"PUT", "/v1/rooms/lobby/connections/%00", `{"user":"u"}`, "/connection"},
			{"PUT", "/v1/rooms/lobby/connections/%C3%A9", `{"ttl":1}`, "/connection /user /ttl"},
			{"PATCH", c1, `{"user":"v"}`, "/user"},
			{"PATCH", c1, `{"name":"","meta":1}`, "/name /meta"},
			{"PATCH", c1, `[]`, ""},
			{"PATCH", c1, ``, ""},
			{"PATCH", c1, `{"meta":{"l":"` + strings.Repeat("x", 1010) + `"}}`, "/meta"},
			{"PATCH", "/v1/rooms/lobby/connections/a%20b", `{}`, "/connection"},
			{"DELETE", "/v1/rooms/lobby/connections/a%20b", ``, "/connection"},
			{"DELETE", members + "/a%20b", ``, "/user"},
			{"POST", c1 + "/leave", `x`, ""},
			{"POST", c1 + "/leave", `{"user":"u"}`, "/user"},
			{"POST", "/v1/rooms/lobby/connections/a%20b/leave", ``, "/connection"},
			{"POST", beats, ``, ""},
			{"POST", beats, `{}`, "/connections"},
			{"POST", beats, `{"connections":null}`, "/connections"},
			{"POST", beats, `{"connections":{}}`, "/connections"},
			{"POST", beats, `{"connections":[null,7,[],{}]}`, "/connections/0 /connections/1 /connections/2 /connections/3/room /connections/3/connection"},
			{"POST", beats, `{"connections":[{"room":"lobby","connection":"c1"},{"room":"a b","connection":""}]}`, "/connections/1/room /connections/1/connection"},
			{"POST", beats, `{"connections":[{"room":"lobby","connection":7}]}`, "/connections/0/connection"},
			{"POST", beats, `{"connections":[{"room":"lobby","connection":"c1","ttl":5}]}`, "/connections/0/ttl"},
			{"POST", beats, `{"connections":[],"ttl":0}`, "/ttl"},
		} {
			a := s.want(422, c.method, c.path, c.body)
			var problem struct {
				Type, Title, Code, Detail, Retry string
				Status                           int
				Errors                           []Fault
			}
			if err := json.Unmarshal(a.Body.Bytes(), &problem); err != nil {
				t.Fatal(err)
			}
			var pointers []string
			for _, f := range problem.Errors {
				if pointers = append(pointers, f.Pointer); f.Detail == "" || !strings.HasSuffix(f.Detail, ".") {
					t.Errorf("%s %s %.99s: %q is no sentence", c.method, c.path, c.body, f.Detail)
				}
			}
			if got := strings.Join(pointers, " "); got != c.pointers || len(pointers) == 0 {
				t.Errorf("%s %s %.99s: faults at %q, want %q", c.method, c.path, c.body, got, c.pointers)
			}
			if problem.Type != "urn:presence:problem:invalid" || problem.Code != "invalid" || problem.Status != 422 || problem.Retry != "never" || problem.Title == "" ||
				a.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: %s", c.method, c.path, a.Body)
			}
		}
		s.sees("lobby", `u=U{"k":"v"}*1`)
		s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "version", version)
	})
}

// However many mistakes a request has, the answer lists the first ones.
func TestFaultsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		list := func(n int, element string) string {
			return "[" + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + "]"
		}
		for _, c := range []struct{ method, path, body, first string }{
			{"POST", "/v1/query", `{"rooms":[]` + strings.Repeat(`,"x":1`, 5000) + `}`, "/x"},
			{"POST", "/v1/query", `{"rooms":` + list(100, `"a b"`) + `,"users":` + list(100, `""`) + `}`, "/rooms/0"},
			{"PUT", "/v1/rooms/lobby/connections/c1", `{"user":7` + strings.Repeat(`,"x":1`, 500) + `}`, "/x"},
			{"POST", "/v1/heartbeats", `{"connections":` + list(900, `{"x":1,"y":2}`) + `}`, "/connections/0/x"},
		} {
			a := s.want(422, c.method, c.path, c.body)
			var problem struct{ Errors []Fault }
			if err := json.Unmarshal(a.Body.Bytes(), &problem); err != nil {
				t.Fatal(err)
			}
			if n := len(problem.Errors); n != 50 || problem.Errors[0].Pointer != c.first {
				t.Errorf("%s %s: %d errors, the first %+v; want 50, the first at %s", c.method, c.path, n, problem.Errors[:1], c.first)
			}
		}
	})
}

// What is looked at first is answered first: the room, who asks, the right, size and kind
// of the body, and what it says.
func TestOrderOfAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		large := strings.Repeat("x", 600<<10)
		multipart := []string{"Content-Type", `Multipart/Form-Data; boundary="x"`}
		for _, route := range []struct {
			method, path string
			right        bool // of reading alone it is none
		}{
			{"GET", "/v1/rooms/%s", true},
			{"GET", "/v1/rooms/%s/members?limit=x", true},
			{"GET", "/v1/rooms/%s/members/a%%20b", true},
			{"GET", "/v1/rooms/%s/changes?after=x", true},
			{"PUT", "/v1/rooms/%s/connections/a%%20b", false},
			{"PATCH", "/v1/rooms/%s/connections/a%%20b", false},
			{"DELETE", "/v1/rooms/%s/connections/a%%20b", false},
			{"POST", "/v1/rooms/%s/connections/a%%20b/leave", false},
			{"DELETE", "/v1/rooms/%s/members/a%%20b", false},
		} {
			at := func(room string) string { return fmt.Sprintf(route.path, room) }
			headers := func(authorization string) []string {
				return append([]string{"Authorization", authorization}, multipart...)
			}
			s.want(404, route.method, at("a.b"), large, headers("Bearer psk_bad")...).has(t, "code", "no_such_room")
			for _, bad := range []string{"Bearer psk_bad", "Bearer x.y.z", "Basic x", "Bearer"} {
				s.want(401, route.method, at("public"), large, headers(bad)...).has(t, "code", "unauthorized")
			}
			if a := s.want(401, route.method, at("lobby"), large, headers("")...); a.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s %s: %v", route.method, route.path, a.Header())
			}
			s.want(403, route.method, at("lobby"), large, headers("Bearer "+otherKey)...).has(t, "code", "forbidden")
			if !route.right {
				s.want(403, route.method, at("lobby"), large, headers("Bearer "+readKey)...)
			}
			if route.method == "PUT" || route.method == "PATCH" || route.method == "POST" {
				s.want(413, route.method, at("lobby"), large, multipart...).has(t, "code", "too_large")
				s.want(415, route.method, at("lobby"), "x", multipart...).has(t, "code", "unsupported_media_type")
				for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", "x", "a/b; c"} {
					s.want(422, route.method, at("lobby"), "x", "Content-Type", kind)
				}
			}
		}
		for _, path := range []string{"/v1/query", "/v1/heartbeats"} {
			s.want(401, "POST", path, large, append(multipart, as("psk_bad")...)...)
			s.want(413, "POST", path, large, multipart...)
			s.want(415, "POST", path, "x", multipart...)
			s.want(422, "POST", path, "x")
		}
		s.want(401, "GET", "/v1/rooms?limit=x", "", as("psk_bad")...)
	})
}

// A body without a length is not read beyond its limit either.
func TestBodyOfUnknownLength(t *testing.T) {
	for _, c := range []struct {
		limit, size int64
		want        Code
	}{{1 << 10, 1 << 10, ""}, {1 << 10, 1<<10 + 1, TooLarge}} {
		r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(strings.Repeat(" ", int(c.size)-2)+"{}"))
		r.ContentLength = -1
		_, err := readObject(httptest.NewRecorder(), r, c.limit)
		var wrong *mistake
		if errors.As(err, &wrong); wrong != nil && wrong.code != c.want || (wrong == nil) != (c.want == "") {
			t.Errorf("%d bytes: %v", c.size, err)
		}
	}
}

// What is counted of metadata is what was sent, without blanks.
func TestMetadataAreAsLongAsWhatWasSent(t *testing.T) {
	for _, text := range []string{
		`{"a":"` + strings.Repeat("\u2028", 338) + `"}`, `{"a":"` + strings.Repeat("\u2029", 338) + `"}`,
		`{"a":"\\u2028\\\\u2029` + "\u2028" + `\\"}`, `{"a":"<&>"}`,
	} {
		meta, err := decodeMeta(text)
		got, err2 := encodeMeta(meta)
		if err := errors.Join(err, err2); err != nil || got != text {
			t.Errorf("%.80q is taken for %.80q: %v", text, got, err)
		}
	}
}

func TestMergePatch(t *testing.T) { // the examples of RFC 7396, appendix A, of objects
	for _, c := range []struct{ object, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, ``},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{``, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		object, err := decodeMeta(c.object)
		patch, err2 := decodeMeta(c.patch)
		got, err3 := encodeMeta(merge(object, patch))
		if err := errors.Join(err, err2, err3); err != nil || got != c.want {
			t.Errorf("%s with %s: %s, %v", c.object, c.patch, got, err)
		}
	}
}

// FuzzCursor holds: a cursor is refused, or is exactly that of a place.
func FuzzCursor(f *testing.F) {
	for _, text := range []string{"", "s 1 2", "o 1700000000000000 user", "o -1 x", "x", "s 18446744073709551615 0"} {
		f.Add(cursorOf(text))
	}
	f.Add("=")
	f.Add("AA\n")
	f.Fuzz(func(t *testing.T, cursor string) {
		r := httptest.NewRequest(http.MethodGet, "/?cursor="+url.QueryEscape(cursor), nil)
		q := queryOf(r)
		p := q.place()
		if len(q.faults) == 0 && cursor != "" && cursorOf(p.String()) != cursor {
			t.Errorf("%q is taken for %q", cursor, p)
		}
	})
}

// FuzzObject holds: what is taken for an object is one for others, too, with the same
// fields, each of which comes once.
func FuzzObject(f *testing.F) {
	for _, text := range []string{`{}`, `{"user":"u","name":null,"meta":{"a":[1,2]},"ttl":5}`, `{"a":1,"a":2}`, ` { "ttl" : 1e1 } `, `{"meta":{"\ud800":1}}`, "{\"\u2028\":1}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := newObject(body, "user", "name", "meta", "ttl")
		var other map[string]json.RawMessage
		otherErr := json.Unmarshal(body, &other)
		if err != nil {
			return
		}
		if otherErr != nil || len(other) != len(o.fields) {
			t.Fatalf("%q: %v, %d fields against %d", body, otherErr, len(o.fields), len(other))
		}
		o.text("user")
		if name := o.name(); name != "" {
			if clean, err := presence.CleanName(name); err != nil || clean != name {
				t.Errorf("name %q: %v", name, err)
			}
		}
		if ttl := o.ttl(time.Minute); ttl < minTTL*time.Second || ttl > maxTTL*time.Second {
			t.Errorf("ttl %v", ttl)
		}
		meta, err := encodeMeta(o.metadata())
		if err != nil || meta == "" {
			return
		}
		again, err := decodeMeta(meta)
		text, err2 := encodeMeta(again)
		if err != nil || err2 != nil || text != meta || len(meta) > maxMeta || strings.Contains(meta, "\n") {
			t.Errorf("metadata %q are %q the second time: %v, %v", meta, text, err, err2)
		}
	})
}

// FuzzRequest holds: nothing that a client sends makes a 5xx, an answer that is no JSON or
// no event stream, a stream that does not end with its client, or a room whose keys do not
// fit together.
func FuzzRequest(f *testing.F) {
	routes := []string{
		"GET /v1/rooms", "GET /v1/rooms/{room}", "GET /v1/rooms/{room}/members", "GET /v1/rooms/{room}/members/{id}",
		"DELETE /v1/rooms/{room}/members/{id}", "GET /v1/rooms/{room}/changes", "PUT /v1/rooms/{room}/connections/{id}",
		"PATCH /v1/rooms/{room}/connections/{id}", "DELETE /v1/rooms/{room}/connections/{id}",
		"POST /v1/rooms/{room}/connections/{id}/leave", "POST /v1/heartbeats", "POST /v1/query",
		"GET /v1/rooms/{room}/events", "GET /v1/events", "HEAD /v1/rooms/{room}/events", "HEAD /v1/rooms/{room}",
	}
	who := []string{"Bearer " + key, "Bearer " + readKey, "Bearer " + token("42", time.Hour, everywhere), ""}
	f.Add(uint8(6), uint8(0), "lobby", "c1", "", `{"user":"u","name":"N","meta":{"a":1},"ttl":5}`, "application/json", "")
	f.Add(uint8(6), uint8(2), "lobby", "c1", "", `{"meta":{"a":"\u2028"}}`, "", "")
	f.Add(uint8(7), uint8(0), "lobby", "c1", "", `{"name":null,"meta":{"a":null}}`, "", "")
	f.Add(uint8(9), uint8(3), "lobby", "c1", "", `{"token":"a.b.c"}`, "text/plain", "")
	f.Add(uint8(10), uint8(0), "", "", "", `{"ttl":5,"connections":[{"room":"lobby","connection":"c1"},{"room":"lobby","connection":"c1"}]}`, "text/plain", "")
	f.Add(uint8(11), uint8(1), "", "", "", `{"rooms":["lobby"],"users":["u"]}`, "multipart/form-data", "")
	f.Add(uint8(2), uint8(0), "lobby", "", "limit=1&cursor="+cursorOf("s 5 7"), "", "", "")
	f.Add(uint8(5), uint8(0), "lobby", "", "after=0&limit=256", "", "", "")
	f.Add(uint8(0), uint8(0), "", "", "prefix=l&limit=1000", "", "", "")
	f.Add(uint8(1), uint8(0), "lobby", "", "", "", "", `W/"1", *`)
	f.Add(uint8(12), uint8(0), "lobby", "", "join=s1&user=u1&name=N", "", "", "1700000000000000")
	f.Add(uint8(12), uint8(2), "lobby", "", "mode=count&after=0&join=s1", "", "", "x")
	f.Add(uint8(12), uint8(3), "public", "", "access_token=x", "", "", "")
	f.Add(uint8(13), uint8(0), "", "", "rooms=lobby,a,b&mode=count", "", "", "-1")
	fake := redistest.NewFake(f)
	s := newServer(f, fake, store.Options{})
	redistest.Eventually(f, 10*time.Second, "the replica trusts Redis", func() bool { return s.replica.Trusted("lobby") == nil })
	for i := range 5 {
		s.put("lobby", fmt.Sprint("c", i), fmt.Sprint("u", i))
	}
	f.Fuzz(func(t *testing.T, route, as uint8, room, id, query, body, kind, known string) {
		method, path, _ := strings.Cut(routes[int(route)%len(routes)], " ")
		path = strings.NewReplacer("{room}", url.PathEscape(room), "{id}", url.PathEscape(id)).Replace(path)
		u, err := url.Parse("http://x" + path)
		if err != nil || slices.Contains([]string{".", "..", ""}, room) || slices.Contains([]string{".", "..", ""}, id) {
			return // which the program sees to
		}
		u.RawQuery = query
		r := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(body))
		r.URL, r.Header = u, http.Header{"Content-Type": {kind}, "Last-Event-Id": {known}, "If-None-Match": {known}}
		if credential := who[int(as)%len(who)]; credential != "" {
			r.Header.Set("Authorization", credential)
		}
		w := &taken{ResponseRecorder: httptest.NewRecorder()}
		s.ServeHTTP(w, r)
		switch {
		case w.client != nil:
			first := make([]byte, 1<<10)
			n, err := w.client.Read(first)
			if err != nil || !strings.HasPrefix(string(first[:n]), "HTTP/1.1 200 OK\r\n") {
				t.Errorf("%s %s?%s: %q, %v", method, path, query, first[:n], err)
			}
			_ = w.client.Close()
			redistest.Eventually(t, 10*time.Second, "the stream has ended", func() bool { return s.streams.Len() == 0 })
		case w.Code >= 500 || w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()):
			t.Errorf("%s %s?%s %q: %d %s", method, path, query, body, w.Code, w.Body)
		}
		for _, name := range []string{room, "lobby"} {
			if presence.CheckRoom(name) != nil {
				continue
			}
			if p := s.store.Pick(t.Context(), nil, name)[0]; p.Err != nil || p.Users < 0 || p.Connections < p.Users {
				t.Errorf("%s %s?%s %q leaves %s with %+v", method, path, query, body, name, p)
			}
		}
	})
}

// taken is a response whose connection may be taken over.
type taken struct {
	*httptest.ResponseRecorder

	client net.Conn // nil: it was not
}

// Hijack hands the server's end of a connection out.
func (w *taken) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	server, client := net.Pipe()
	w.client = client
	return server, nil, nil
}

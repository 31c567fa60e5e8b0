package httpapi

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/redistest"
	"presence/internal/store"
)

func TestPutJoinsAndRenews(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		const c1 = "/v1/rooms/lobby/connections/c1"
		a := s.want(201, "PUT", c1, `{"user":"42","name":" Ada ","meta":{"b": 1, "a": [1.0, "<é>"]},"ttl":30}`)
		a.has(t, "room", "lobby", "connection", "c1", "user", "42", "expires_in", "30", "renew_in", "10", "users", "1", "connections", "1")
		s.want(200, "PUT", c1, `{"user":"42","ttl":5}`).has(t, "expires_in", "5", "renew_in", "1.667", "version", a.field("version"))
		s.sees("lobby", `42=Ada{"a":[1,"\u003cé\u003e"],"b":1}*1`)
		s.want(200, "PUT", c1, `{"user":"42","name":null,"meta":null,"ttl":null}`).has(t, "expires_in", "30", "version", a.field("version"))
		s.want(200, "PUT", c1, `{"user":"42","name":"Ada L","meta":{}}`)
		s.sees("lobby", "42=Ada L*1")
		// A second connection of the user, and one that another user takes over.
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c2", `{"user":"42"}`).has(t, "users", "1", "connections", "2")
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c2", `{"user":"43"}`).has(t, "users", "2", "connections", "2")
		s.want(201, "PUT", c1, `{"user":"44"}`).has(t, "users", "2", "connections", "2")
		s.sees("lobby", "43=43*1 44=44*1")
		last := s.want(200, "GET", "/v1/rooms/lobby/changes?after="+a.field("version"), "")
		last.has(t, "changes.3.leaves.0.user", "42", "changes.3.leaves.0.reason", "left", "changes.3.joins.0.user", "44", "changes.4", "none")
	})
}

func TestLeaseEndsUnlessItIsRenewed(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		for i, ttl := range []int{5, 20, 300} {
			s.want(201, "PUT", fmt.Sprintf("/v1/rooms/lobby/connections/c%d", i), fmt.Sprintf(`{"user":"u%d","ttl":%d}`, i, ttl))
		}
		s.put("lobby", "c3", "u3") // 30 s
		for _, at := range []struct {
			after int
			left  string
		}{{4, "u0=u0*1 u1=u1*1 u2=u2*1 u3=u3*1"}, {6, "u1=u1*1 u2=u2*1 u3=u3*1"}, {21, "u2=u2*1 u3=u3*1"}, {29, "u2=u2*1 u3=u3*1"}, {31, "u2=u2*1"}, {299, "u2=u2*1"}, {301, ""}} {
			time.Sleep(time.Until(time.Date(2000, 1, 1, 0, 0, at.after, 0, time.UTC)))
			s.sees("lobby", at.left)
		}
		a := s.want(200, "GET", "/v1/rooms/lobby", "")
		s.put("lobby", "c", "u")
		time.Sleep(31 * time.Second)
		s.want(200, "GET", "/v1/rooms/lobby/changes?after="+a.field("version"), "").has(t, "changes.1.leaves.0.reason", "timeout")
	})
}

func TestLeaveDeleteAndRepeats(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		const c1 = "/v1/rooms/lobby/connections/c1"
		member := token("ann", time.Hour, everywhere)
		leaves := []func(){
			func() { s.want(204, "DELETE", c1, "") },
			func() { s.want(204, "POST", c1+"/leave", "") },
			func() { s.want(204, "POST", c1+"/leave", "{}") },
		}
		for _, leave := range leaves {
			s.put("lobby", "c1", "ann")
			leave()
			s.sees("lobby", "")
			leave() // again
			s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "users", "0", "connections", "0")
		}
		// The beacon of a browser has no header, and a type of its own.
		s.want(201, "PUT", c1, "{}", as(member)...)
		s.put("lobby", "c1", "bob") // of another speaker: not that connection
		beacon := []string{"Authorization", "", "Content-Type", "text/plain;charset=UTF-8"}
		s.want(204, "POST", c1+"/leave", fmt.Sprintf(`{"token":%q}`, member), beacon...)
		s.sees("lobby", "bob=bob*1")
		s.want(401, "POST", c1+"/leave", `{"token":"x"}`, beacon...)
		s.want(401, "POST", c1+"/leave", `{"token":""}`, beacon...)
		s.want(401, "POST", c1+"/leave", `{"token":`, beacon...)
		s.want(401, "POST", c1+"/leave", `{"token":"psk_test"}`, beacon...)
		s.want(401, "POST", c1+"/leave", "", beacon...)
		s.want(401, "POST", c1+"/leave", strings.Repeat(" ", 20<<10), beacon...)
		s.want(401, "POST", c1+"/leave", "x", "Authorization", "", "Content-Type", "multipart/form-data; boundary=x")
		s.want(413, "POST", c1+"/leave", strings.Repeat(" ", 20<<10))
		s.want(403, "POST", c1+"/leave", fmt.Sprintf(`{"token":%q}`, token("ann", time.Hour, `,"presence":{"rooms":{"*":["observe"]}}`)), beacon...)
		s.sees("lobby", "bob=bob*1")
	})
}

func TestTokenSpeaksForOneUser(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		const c1 = "/v1/rooms/lobby/connections/c1"
		plain := as(token("ann", time.Hour, everywhere))
		named := as(token("ben", time.Hour, `,"name":"Ben B","presence":{"rooms":{"lobby":["join"]},"meta":{"role":"x"}}`))
		s.want(201, "PUT", c1, `{}`, plain...).has(t, "user", "ann")
		s.want(201, "PUT", c1, `{}`, named...).has(t, "user", "ben", "users", "2")
		s.sees("lobby", `ann=ann*1 ben=Ben B{"role":"x"}*1`)
		s.want(200, "PUT", c1, `{"user":"ann","name":"Ann"}`, plain...)
		s.want(200, "PUT", c1, `{"user":"ben","name":" Ben  B ","meta":{"role":"y"}}`, named...)
		s.want(200, "PUT", c1, `{}`, named...)
		s.sees("lobby", `ann=Ann*1 ben=Ben B{"role":"y"}*1`)
		for _, refused := range []struct {
			method, body string
			who          []string
		}{
			{"PUT", `{"user":"bob"}`, plain},
			{"PUT", `{"user":"a b","ttl":1}`, plain},
			{"PUT", `{"user":""}`, plain},
			{"PUT", `{"name":"Eve"}`, named},
			{"PATCH", `{"name":"Eve"}`, named},
		} {
			s.want(403, refused.method, c1, refused.body, refused.who...).has(t, "code", "forbidden")
		}
		s.want(422, "PUT", c1, `{"user":7}`, plain...)
		s.want(403, "PUT", "/v1/rooms/tea/connections/c1", `{}`, named...)
		s.want(403, "DELETE", "/v1/rooms/lobby/members/ann", "", plain...)
		s.want(403, "GET", "/v1/rooms/lobby", "", named...)
		s.want(200, "PATCH", c1, `{"name":null,"meta":{"n":1}}`, named...).has(t, "name", "Ben B", "meta.n", "1", "meta.role", "y")
		s.want(200, "PATCH", c1, `{"name":null}`, plain...).has(t, "name", "ann")
		s.want(204, "DELETE", c1, "", plain...)
		s.sees("lobby", `ben=Ben B{"n":1,"role":"y"}*1`)
	})
}

func TestLeaseDoesNotOutliveItsToken(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		short := token("ann", 12*time.Second, everywhere)
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c1", `{"ttl":60}`, as(short)...).has(t, "expires_in", "12", "renew_in", "4")
		time.Sleep(9 * time.Second)
		s.want(200, "PUT", "/v1/rooms/lobby/connections/c1", `{}`, as(short)...).has(t, "expires_in", "3", "renew_in", "1")
		s.want(200, "POST", "/v1/heartbeats", `{"connections":[{"room":"lobby","connection":"c1"}]}`, as(short)...).has(t, "renewed", "1", "renew_in", "1")
		time.Sleep(2 * time.Second)
		s.sees("lobby", "ann=ann*1")
		time.Sleep(2 * time.Second)
		s.sees("lobby", "")
		s.want(401, "PUT", "/v1/rooms/lobby/connections/c1", `{}`, as(short)...)
	})
}

func TestDefaultNames(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		long := strings.Repeat("x", 41) // no legal name
		c := "/v1/rooms/lobby/connections/"
		s.want(422, "PUT", c+"c1", fmt.Sprintf(`{"user":%q}`, long)).has(t, "errors.0.pointer", "/name")
		s.want(201, "PUT", c+"c1", fmt.Sprintf(`{"user":%q,"name":"Long"}`, long))
		s.want(200, "PUT", c+"c1", fmt.Sprintf(`{"user":%q}`, long))
		s.want(201, "PUT", c+"c2", fmt.Sprintf(`{"user":%q}`, long)) // is there already
		s.want(422, "PATCH", c+"c1", `{"name":null}`).has(t, "errors.0.pointer", "/name")
		s.sees("lobby", long+"=Long*2")
		bad := as(token("eve", time.Hour, `,"name":"\t"`+everywhere))
		s.want(422, "PUT", c+"c1", `{}`, bad...).has(t, "errors.0.pointer", "/name")
	})
}

func TestPatchIsAMergePatch(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		const c1 = "/v1/rooms/lobby/connections/c1"
		s.want(404, "PATCH", c1, `{"name":"x"}`).has(t, "code", "not_present")
		s.want(201, "PUT", c1, `{"user":"u","meta":{"a":"b","c":{"d":1,"e":2},"n":[1]}}`)
		for _, step := range []struct{ patch, want string }{
			{`{}`, `u=u{"a":"b","c":{"d":1,"e":2},"n":[1]}*1`},
			{`{"meta":{"a":null,"c":{"e":null,"f":{"g":null}},"n":[null]}}`, `u=u{"c":{"d":1,"f":{}},"n":[null]}*1`},
			{`{"meta":{"c":"x","n":{"o":1e2}},"name":"U U"}`, `u=U U{"c":"x","n":{"o":1e2}}*1`},
			{`{"meta":{"c":null,"n":null}}`, `u=U U*1`},
			{`{"meta":{"z":12345678901234567890}}`, `u=U U{"z":12345678901234567890}*1`},
			{`{"meta":null,"name":null}`, `u=u*1`},
		} {
			s.want(200, "PATCH", c1, step.patch)
			text := s.want(200, "GET", "/v1/rooms/lobby/members", "").Body.String()
			if _, meta, found := strings.Cut(step.want, "{"); found {
				meta = "{" + strings.TrimSuffix(meta, "*1")
				if !strings.Contains(text, `"meta":`+meta+",") {
					t.Errorf("after %s there is %s, want %s", step.patch, text, meta)
				}
			} else {
				s.sees("lobby", step.want)
			}
		}
		// 1024 bytes are allowed, after merging; one more is not.
		fits := func(n int) string { return fmt.Sprintf(`{"meta":{"k":%q}}`, strings.Repeat("x", n-len(`{"k":""}`))) }
		s.want(200, "PATCH", c1, fits(1024))
		s.want(422, "PATCH", c1, fits(1025)).has(t, "errors.0.pointer", "/meta")
		s.want(422, "PATCH", c1, `{"meta":{"l":1}}`)
		s.want(200, "PATCH", c1, `{"meta":{"k":1,"l":1}}`)
		put := func(n int) string { return `{"user":"u",` + fits(n)[1:] }
		s.want(200, "PUT", c1, put(1024))
		s.want(422, "PUT", c1, put(1025)).has(t, "errors.0.pointer", "/meta")
	})
}

func TestHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		for i := range 30 {
			s.put(fmt.Sprintf("r%d", i%7), fmt.Sprint("c", i), fmt.Sprint("u", i))
		}
		s.want(201, "PUT", "/v1/rooms/other/connections/mine", `{"user":"o"}`, as(otherKey)...)
		beat := func(ttl string, n int) string {
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf(`{"room":"r%d","connection":"c%d"}`, i%7, i))
			}
			return fmt.Sprintf(`{%s"connections":[%s]}`, ttl, strings.Join(list, ","))
		}
		s.want(200, "POST", "/v1/heartbeats", beat("", 31)).has(t, "renewed", "30", "renew_in", "10", "lost.0.connection", "c30", "lost.0.room", "r2", "lost.1", "none")
		s.want(200, "POST", "/v1/heartbeats", beat(`"ttl":60,`, 30)).has(t, "renewed", "30", "renew_in", "20", "lost", "[]")
		s.want(200, "POST", "/v1/heartbeats", `{"connections":[]}`).has(t, "renewed", "0", "lost", "[]")
		// What one may not renew is lost, also what is another's; twice is twice.
		s.want(200, "POST", "/v1/heartbeats", beat("", 30), as(otherKey)...).has(t, "renewed", "0", "lost.29.connection", "c29")
		s.want(200, "POST", "/v1/heartbeats", beat("", 30), as(token("u1", time.Hour, everywhere))...).has(t, "renewed", "0", "lost.29.connection", "c29")
		s.want(200, "POST", "/v1/heartbeats", `{"connections":[{"room":"other","connection":"mine"},{"room":"other","connection":"mine"}]}`, as(otherKey)...).has(t, "renewed", "2", "lost", "[]")
		time.Sleep(50 * time.Second)
		s.sees("other", "")
		s.sees("r6", "u6=u6*1 u13=u13*1 u20=u20*1 u27=u27*1")
		time.Sleep(15 * time.Second)
		s.sees("r6", "")
		s.want(200, "POST", "/v1/heartbeats", beat("", 1000)).has(t, "renewed", "0", "lost.999.connection", "c999")
		s.want(422, "POST", "/v1/heartbeats", beat("", 1001)).has(t, "errors.0.pointer", "/connections")
		s.want(401, "POST", "/v1/heartbeats", beat("", 1), "Authorization", "")
		s.want(413, "POST", "/v1/heartbeats", strings.Repeat(" ", 512<<10)+beat("", 1))
	})
}

func TestRemoveEndsAUser(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		s.look("lobby")
		for i := range 5 {
			s.put("lobby", fmt.Sprint("c", i), "eve")
		}
		s.put("lobby", "d", "ann")
		before := s.want(200, "GET", "/v1/rooms/lobby", "").field("version")
		s.want(403, "DELETE", "/v1/rooms/lobby/members/eve", "", as(readKey)...)
		s.want(401, "DELETE", "/v1/rooms/lobby/members/eve", "", "Authorization", "")
		s.want(204, "DELETE", "/v1/rooms/lobby/members/eve", "")
		s.sees("lobby", "ann=ann*1")
		s.want(200, "GET", "/v1/rooms/lobby/changes?after="+before, "").has(t, "changes.0.leaves.0.user", "eve", "changes.0.leaves.0.reason", "removed")
		s.want(204, "DELETE", "/v1/rooms/lobby/members/eve", "")
		s.want(204, "DELETE", "/v1/rooms/nobody/members/eve", "")
		s.want(422, "DELETE", "/v1/rooms/lobby/members/a%20b", "")
		s.want(200, "POST", "/v1/heartbeats", `{"connections":[{"room":"lobby","connection":"c0"}]}`).has(t, "renewed", "0")
		s.put("lobby", "c0", "eve") // not by itself
		s.sees("lobby", "ann=ann*1 eve=eve*1")
	})
}

func TestLimitsOfRoomsAndAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(newServer(t, redistest.NewFake(t), store.Options{MaxRooms: 8, MaxMembers: 2}))
		s.put("lobby", "c1", "a")
		s.put("lobby", "c2", "b")
		s.want(409, "PUT", "/v1/rooms/lobby/connections/c3", `{"user":"c"}`).has(t, "code", "room_full", "retry", "backoff")
		s.want(200, "PUT", "/v1/rooms/lobby/connections/c1", `{"user":"a"}`)
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c3", `{"user":"b"}`)
		for path, status := range map[string]int{"/v1/rooms/lobby/events?join=c4&user=c": 409, "/v1/rooms/lobby/events?join=c4&user=b": 200, "/v1/rooms/lobby/events": 200, "/v1/rooms/tea/events?join=c4&user=c": 200} {
			s.want(status, "HEAD", path, "")
			if status == 409 {
				s.want(status, "GET", path, "").has(t, "code", "room_full")
			}
		}
		s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "users", "2", "connections", "3") // HEAD joins nobody
		who := as(token("t", time.Hour, everywhere))
		for i := range 5 {
			s.want(201, "PUT", fmt.Sprintf("/v1/rooms/r%d/connections/c1", i), `{}`, who...)
		}
		s.want(409, "PUT", "/v1/rooms/r5/connections/c1", `{}`, who...).has(t, "code", "too_many_rooms") // of the address
		refused := func(code, path string, headers ...string) {
			t.Helper()
			get := s.want(map[string]int{"too_many_rooms": 409, "rate_limited": 429}[code], "GET", path, "", headers...)
			get.has(t, "code", code)
			if head := s.do("HEAD", path, "", headers...); head.Code != get.Code {
				t.Errorf("HEAD %s: %d, and GET is %d", path, head.Code, get.Code)
			}
		}
		refused("too_many_rooms", "/v1/rooms/r5/events?join=c1", who...)
		s.want(200, "HEAD", "/v1/rooms/r4/events?join=c1", "", who...)
		s.put("r5", "c1", "a")
		s.put("r6", "c1", "a")
		s.want(409, "PUT", "/v1/rooms/r7/connections/c1", `{"user":"a"}`).has(t, "code", "too_many_rooms")
		refused("too_many_rooms", "/v1/rooms/r7/events?join=c1&user=a")
		for i := range 45 { // the most of an address, with those above
			s.want(200, "HEAD", "/v1/rooms/r0/events?join=more", "", who...) // holds no place
			s.want(201, "PUT", fmt.Sprintf("/v1/rooms/r0/connections/d%d", i), `{}`, who...)
		}
		refused("rate_limited", "/v1/rooms/r0/events?join=more", who...)
		s.want(200, "HEAD", "/v1/rooms/r0/events?join=d7", "", who...)
		s.want(200, "HEAD", "/v1/rooms/r0/events", "", who...)
	})
}

// A replica remembers what was put through it when Redis loses its data, for the time
// that is left.
func TestPutsSurviveALossOfData(t *testing.T) {
	bubble(t, func(_ *testing.T, s *server, fake *redistest.Fake) {
		s.look("lobby")
		s.want(201, "PUT", "/v1/rooms/lobby/connections/c1", `{"user":"u1","name":"One","meta":{"a":1},"ttl":120}`)
		s.want(201, "PUT", "/v1/rooms/tea/connections/c2", `{"user":"u2","ttl":20}`)
		s.want(200, "PATCH", "/v1/rooms/lobby/connections/c1", `{"name":"Uno"}`)
		time.Sleep(5 * time.Second)
		fake.FlushAll()
		time.Sleep(13 * time.Second)
		s.sees("lobby", `u1=Uno{"a":1}*1`)
		s.sees("tea", "u2=u2*1")
		time.Sleep(6 * time.Second)
		s.sees("tea", "")
		time.Sleep(95 * time.Second)
		s.sees("lobby", `u1=Uno{"a":1}*1`)
		time.Sleep(8 * time.Second)
		s.sees("lobby", "")
	})
}

// Whatever is repeated, late or in another order, there is no second user, no second
// connection and no negative count, and what was said last holds.
func TestRepeatsInAnyOrder(t *testing.T) {
	for seed := range uint64(5) {
		bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
			s.look("lobby")
			random := rand.New(rand.NewPCG(seed, 0))
			there := map[string]string{} // connection -> user
			for range 400 {
				c, u := fmt.Sprint("c", random.IntN(6)), fmt.Sprint("u", random.IntN(4))
				path := "/v1/rooms/lobby/connections/" + c
				switch random.IntN(9) {
				case 0, 1, 2:
					s.put("lobby", c, u)
					there[c] = u
				case 3:
					s.want(204, "DELETE", path, "")
					delete(there, c)
				case 4:
					s.want(204, "POST", path+"/leave", "")
					delete(there, c)
				case 5:
					s.want(204, "DELETE", "/v1/rooms/lobby/members/"+u, "")
					for c, user := range there {
						if user == u {
							delete(there, c)
						}
					}
				case 6:
					want := 404
					if there[c] != "" {
						want = 200
					}
					s.want(want, "PATCH", path, fmt.Sprintf(`{"name":"N%d"}`, random.IntN(3)))
				case 7:
					a := s.want(200, "POST", "/v1/heartbeats", fmt.Sprintf(`{"connections":[{"room":"lobby","connection":%q}]}`, c))
					if renewed := a.field("renewed") == "1"; renewed != (there[c] != "") {
						t.Fatalf("%s is renewed: %v", c, renewed)
					}
				case 8:
					time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				}
				users := map[string]bool{}
				for _, u := range there {
					users[u] = true
				}
				s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "users", fmt.Sprint(len(users)), "connections", fmt.Sprint(len(there)))
				if t.Failed() {
					return
				}
			}
		})
	}
}

// Many who join, leave and rename as one at the same time leave one, or none.
func TestOneConnectionAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		codes := make(chan int, 200)
		for i := range 200 {
			go func() {
				path := "/v1/rooms/lobby/connections/c1"
				switch i % 4 {
				case 0:
					codes <- s.do("PUT", path, fmt.Sprintf(`{"user":"u%d"}`, i%3)).Code
				case 1:
					codes <- s.do("DELETE", path, "").Code
				case 2:
					codes <- s.do("PATCH", path, fmt.Sprintf(`{"name":"N%d"}`, i)).Code
				case 3:
					codes <- s.do("POST", "/v1/heartbeats", `{"connections":[{"room":"lobby","connection":"c1"}]}`).Code
				}
			}()
		}
		for range cap(codes) {
			if code := <-codes; code >= 500 || code == http.StatusUnprocessableEntity {
				t.Errorf("%d", code)
			}
		}
		s.put("lobby", "c1", "u")
		s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "users", "1", "connections", "1")
		s.want(204, "DELETE", "/v1/rooms/lobby/connections/c1", "")
		s.want(200, "GET", "/v1/rooms/lobby", "").has(t, "users", "0", "connections", "0")
	})
}

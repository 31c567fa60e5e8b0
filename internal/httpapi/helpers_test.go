package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"presence/internal/access"
	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
	"presence/internal/stream"
	"presence/test/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(everything{m}) }

// everything are all tests. They fail where openapi.json describes an answer that none of
// them got. Those of internal/app call too often, and watch.
type everything struct{ *testing.M }

// Run runs them.
func (e everything) Run() int {
	code := e.M.Run()
	some := flag.Lookup("test.run").Value.String() + flag.Lookup("test.skip").Value.String() + flag.Lookup("test.list").Value.String()
	if code != 0 || some != "" {
		return code
	}
	for _, answer := range contract.Unseen() {
		if !strings.HasSuffix(answer, " 429") {
			fmt.Println("no test is answered", answer)
			code = 1
		}
	}
	return code
}

// The keys of the tests: one for everything, one to read, one for a single room.
const (
	key      = "psk_test"
	readKey  = "psk_read"
	otherKey = "psk_other"
	secret   = "0123456789abcdef0123456789abcdef"
)

// server is the API of one replica.
type server struct {
	*http.ServeMux
	t       testing.TB
	rooms   *room.Rooms
	replica *replica.Replica
	store   *store.Store
	streams *stream.Streams
}

// bubble runs a test on the API of a replica of its own, where minutes take no time.
func bubble(t *testing.T, test func(t *testing.T, s *server, fake *redistest.Fake)) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		test(t, started(newServer(t, fake, store.Options{})), fake)
	})
}

// started returns s when it has reached Redis.
func started(s *server) *server {
	synctest.Wait()
	return s
}

// newServer returns the API of a replica. It ends with the test.
func newServer(t testing.TB, fake *redistest.Fake, so store.Options) *server {
	s := &server{ServeMux: http.NewServeMux(), t: t, store: store.New(fake.Client(t), so)}
	s.replica = replica.New(s.store, replica.Options{MaxMembersPerAddress: 50, MaxRoomsPerAddress: 5})
	s.rooms = room.New(s.store, s.replica, room.Options{})
	s.replica.Tell(s.rooms)
	s.streams = stream.New(s.rooms, s.replica, stream.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.store.Run(ctx) })
	wg.Go(func() { _ = s.replica.Run(ctx) })
	wg.Go(func() { _ = s.rooms.Run(ctx) })
	wg.Go(func() { _ = s.streams.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	line := func(key, rest string) string {
		return fmt.Sprintf("%s sha256:%x %s\n", strings.TrimPrefix(key, "psk_"), sha256.Sum256([]byte(key)), rest)
	}
	keys, err := access.ParseKeys(line(key, "rooms=* rights=read,write") + line(readKey, "rooms=* rights=read") + line(otherKey, "rooms=other rights=read,write"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := access.New(access.Options{Keys: keys, TokenSecret: []byte(secret), PublicRooms: []string{"public*"}})
	if err != nil {
		t.Fatal(err)
	}
	New(s.rooms, s.replica, Options{
		Access:    who,
		Keys:      func(context.Context) (presence.Keys, bool) { return presence.NewKeys([]byte(secret)), true },
		MemberTTL: store.DefaultMemberTTL, Streams: s.streams, MaxMembers: so.MaxMembers,
		Address: func(r *http.Request) string { return r.RemoteAddr },
	}).Routes(func(pattern string, h http.HandlerFunc) { s.HandleFunc(pattern, h) })
	return s
}

// token is a member token of a user, with other claims.
func token(user string, lasts time.Duration, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"exp":%d%s}`, user, time.Now().Add(lasts).Unix(), claims))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// everywhere are the claims of a token for all rooms.
const everywhere = `,"presence":{"rooms":{"*":["observe","join"]}}`

// answered is what a request was answered.
type answered struct {
	*httptest.ResponseRecorder
	body map[string]any
}

// do sends a request. Headers are pairs; the credential is key unless there is one.
func (s *server) do(method, path, body string, headers ...string) answered {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
		}
	}
	a := answered{ResponseRecorder: httptest.NewRecorder()}
	s.ServeHTTP(a, r)
	contract.Exchange(s.t, r, []byte(body), a.Code, a.Header(), a.Body.Bytes())
	if a.Body.Len() > 0 {
		if err := json.Unmarshal(a.Body.Bytes(), &a.body); err != nil {
			s.t.Fatalf("%s %s: %v: %s", method, path, err, a.Body)
		}
	}
	return a
}

// as are the headers of a request with another credential.
func as(credential string) []string { return []string{"Authorization", "Bearer " + credential} }

// want fails the test unless a request is answered with that status.
func (s *server) want(status int, method, path, body string, headers ...string) answered {
	s.t.Helper()
	a := s.do(method, path, body, headers...)
	if a.Code != status {
		s.t.Fatalf("%s %s %.200s: %d, want %d: %s", method, path, body, a.Code, status, a.Body)
	}
	return a
}

// put has a user be in a room.
func (s *server) put(room, connection, user string) answered {
	s.t.Helper()
	a := s.do("PUT", "/v1/rooms/"+room+"/connections/"+connection, fmt.Sprintf(`{"user":%q}`, user))
	if a.Code != http.StatusOK && a.Code != http.StatusCreated {
		s.t.Fatalf("PUT %s %s: %d %s", connection, user, a.Code, a.Body)
	}
	return a
}

// field returns a value of the answer as text: "users", or "changes.0.leaves.0.reason".
func (a answered) field(path string) string {
	var v any = a.body
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(at) {
				return "none"
			}
			v = at[i]
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return strings.Trim(string(text), `"`)
}

// has fails the test unless the answer has fields, in pairs of path and value.
func (a answered) has(t testing.TB, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := a.field(pairs[i]); got != pairs[i+1] {
			t.Errorf("%s is %s, want %s, in %s", pairs[i], got, pairs[i+1], a.Body)
		}
	}
}

// roster is who is in a room, with names, metadata and numbers of connections.
func (s *server) roster(room string) string {
	s.t.Helper()
	a := s.want(200, "GET", "/v1/rooms/"+room+"/members?limit=1000", "")
	var who []string
	for i := range a.body["members"].([]any) {
		at := fmt.Sprintf("members.%d.", i)
		one := a.field(at+"user") + "=" + a.field(at+"name")
		if meta := a.field(at + "meta"); meta != "null" {
			one += meta
		}
		who = append(who, one+"*"+a.field(at+"connections"))
	}
	if a.field("users") != fmt.Sprint(len(who)) {
		s.t.Errorf("%s users, but %d members", a.field("users"), len(who))
	}
	return strings.Join(who, " ")
}

// sees fails the test unless who is in a room is that.
func (s *server) sees(room, want string) {
	s.t.Helper()
	if got := s.roster(room); got != want {
		s.t.Errorf("in %s are %q, want %q", room, got, want)
	}
}

// onlooker is an audience.
type onlooker struct{}

// Show shows nothing.
func (*onlooker) Show(_ room.View, shown func()) { shown() }

// look has somebody look at a room until the test ends.
func (s *server) look(name string) {
	v := s.rooms.Enter(s.t.Context(), name, &onlooker{})
	s.t.Cleanup(v.Exit)
}

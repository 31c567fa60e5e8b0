package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/client"
)

func TestReading(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, ctx := w.client(key), t.Context()
		begin, err := c.Room(ctx, "lobby")
		if err != nil || begin.Room != "lobby" || begin.Users != 0 || begin.Stale || time.Since(begin.AsOf).Abs() > time.Minute {
			t.Errorf("%+v, %v", begin, err)
		}
		meta := json.RawMessage(`{"color":"teal"}`)
		if lease, err := c.Put(ctx, "lobby", "c1", client.Presence{User: "42", Name: "Ada", Meta: meta, TTL: 30 * time.Second}); err != nil || !lease.Came ||
			lease.Room != "lobby" || lease.Connection != "c1" || lease.User != "42" || lease.Users != 1 || lease.Connections != 1 || lease.Version == 0 ||
			lease.ExpiresIn != 30*time.Second || lease.RenewIn != 10*time.Second {
			t.Errorf("%+v, %v", lease, err)
		}
		if again, err := c.Put(ctx, "lobby", "c1", client.Presence{User: "42"}); err != nil || again.Came {
			t.Errorf("%+v, %v", again, err)
		}
		w.put("lobby", "u2")
		w.put("tea", "u2")
		if m, err := c.Member(ctx, "lobby", "42"); err != nil || m.User != "42" || m.Name != "Ada" || string(m.Meta) != string(meta) || m.Connections != 1 || m.Since.IsZero() {
			t.Errorf("%+v, %v", m, err)
		}
		if err := c.Remove(ctx, "lobby", "u2"); err != nil {
			t.Error(err)
		}
		var told []string
		for change, err := range c.Changes(ctx, "lobby", begin.Version) {
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range change.Joins {
				told = append(told, fmt.Sprint(change.Users, " +", m.User))
			}
			for _, l := range change.Leaves {
				told = append(told, fmt.Sprint(change.Users, " -", l.User, " ", l.Reason))
			}
		}
		if want := []string{"1 +42", "2 +u2", "1 -u2 removed"}; !slices.Equal(told, want) {
			t.Errorf("changes %q, want %q", told, want)
		}
		for _, err := range c.Changes(ctx, "lobby", 5) {
			if code(err) != client.Gone {
				t.Errorf("changes since long ago: %v", err)
			}
		}
		found, err := c.Query(ctx, []string{"lobby", "tea"}, []string{"42", "nobody"})
		if err != nil || len(found.Rooms) != 2 || found.Rooms[1].Room != "tea" || found.Rooms[1].Users != 1 ||
			len(found.Users) != 2 || !slices.Equal(found.Users[0].Rooms, []string{"lobby"}) || len(found.Users[1].Rooms) != 0 {
			t.Errorf("%+v, %v", found, err)
		}
		time.Sleep(20 * time.Second) // until the index has been written
		var rooms []string
		for r, err := range c.Rooms(ctx, "te") {
			if err != nil {
				t.Fatal(err)
			}
			rooms = append(rooms, fmt.Sprint(r))
		}
		if want := []string{"{tea 1 1}"}; !slices.Equal(rooms, want) {
			t.Errorf("rooms %q, want %q", rooms, want)
		}
		if err := c.Leave(ctx, "lobby", "c1"); err != nil {
			t.Error(err)
		}
		if _, err := c.Member(ctx, "lobby", "42"); code(err) != client.NotPresent {
			t.Error(err)
		}
	})
}

// All members of a room are listed that has more than a page of them.
func TestMembersOfALargeRoom(t *testing.T) {
	const n = 1100
	bubble(t, 1, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { w.put("lobby", fmt.Sprint("u", i)) })
		}
		wg.Wait()
		seen := map[string]bool{}
		for m, err := range w.client(key).Members(t.Context(), "lobby") {
			if err != nil {
				t.Fatal(err)
			}
			if seen[m.User] {
				t.Errorf("%s comes twice", m.User)
			}
			seen[m.User] = true
		}
		if len(seen) != n {
			t.Errorf("%d members of %d", len(seen), n)
		}
		for _, err := range w.client(key).Members(t.Context(), "lobby") {
			if err != nil {
				t.Error(err)
			}
			break // a loop may end before the pages do
		}
		few := w.follow(w.client(""), client.WatchOptions{})
		time.Sleep(time.Second + 37*time.Millisecond) // not at the instant of a keepalive, which delays events
		w.put("lobby", "x")
		time.Sleep(time.Second)
		few.mu.Lock()
		defer few.mu.Unlock()
		if few.view.Users != n+1 || few.view.Complete || len(few.view.Members) != 0 || len(few.said) != 3 {
			t.Errorf("%d users, complete %v, %d members: %.100q", few.view.Users, few.view.Complete, len(few.view.Members), few.said)
		}
	})
}

// A list goes on until there is no next page, and tells each user once.
func TestPages(t *testing.T) {
	script(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		pages := map[string]string{
			"": `{"members":[{"user":"a"},{"user":"b"}],"next":"x"}`, "x": `{"members":[],"next":"y"}`, "y": `{"members":[{"user":"b"},{"user":"c"}]}`,
		}
		if r.URL.Path != "/below/v1/rooms/lobby/members" || r.URL.Query().Get("limit") != "1000" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte(pages[r.URL.Query().Get("cursor")]))
	}, func(t *testing.T, s *scripted) {
		var users []string
		for m, err := range s.client.Members(t.Context(), "lobby") {
			if err != nil {
				t.Fatal(err)
			}
			users = append(users, m.User)
		}
		if want := []string{"a", "b", "c"}; !slices.Equal(users, want) {
			t.Errorf("%q, want %q", users, want)
		}
	})
}

// code is that of the problem that err is; "" if it is none.
func code(err error) client.Code {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.Code
	}
	return ""
}

func TestProblems(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		ctx := t.Context()
		all, reader, nobody := w.client(key), w.client(readKey), w.client("")
		put := func(c *client.Client, room string, p client.Presence) error {
			_, err := c.Put(ctx, room, "c1", p)
			return err
		}
		for want, err := range map[client.Code]error{
			client.Unauthorized: put(nobody, "lobby", client.Presence{User: "u"}),
			client.Forbidden:    put(reader, "lobby", client.Presence{User: "u"}),
			client.NoSuchRoom:   put(all, "a/b", client.Presence{User: "u"}),
			client.Invalid:      put(all, "lobby", client.Presence{TTL: time.Second}),
		} {
			p, ok := errors.AsType[*client.Problem](err)
			if !ok || p.Code != want || p.Retry != client.RetryNever || p.Status == 0 || p.Title == "" || p.Detail == "" || p.Type != "urn:presence:problem:"+string(want) {
				t.Errorf("%s: %+v", want, err)
			}
			if want == client.Invalid && (len(p.Errors) != 2 || !strings.Contains(err.Error(), "/ttl") || !strings.Contains(err.Error(), "/user")) {
				t.Errorf("%v", err)
			}
		}
		_, err := all.Update(ctx, "lobby", "c1", client.Patch{})
		if code(err) != client.NotPresent {
			t.Error(err)
		}
		w.fake.Down()
		time.Sleep(time.Minute)
		p, ok := errors.AsType[*client.Problem](put(all, "lobby", client.Presence{User: "u"}))
		if !ok || p.Code != client.Unavailable || p.Retry != client.RetryBackoff || p.RetryAfter != 2*time.Second {
			t.Errorf("without Redis: %+v", p)
		}
	})
}

// No name of a user or a room leads a request somewhere else.
func TestNamesThatWouldLeadElsewhere(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		c, ctx := w.client(key), t.Context()
		w.put("lobby", "u1")
		for _, name := range []string{"", ".", "..", "a/../u1", "u1/", "%2e%2e", "u1?x=y", "../lobby/members/u1", "ü", "a b", "\x00"} {
			if err := c.Remove(ctx, "lobby", name); err == nil {
				t.Errorf("%q is removed", name)
			}
			if err := c.Remove(ctx, name, "u1"); err == nil {
				t.Errorf("u1 is removed from %q", name)
			}
			if m, err := c.Member(ctx, "lobby", name); err == nil {
				t.Errorf("%q is %+v", name, m)
			}
			if _, err := c.Join(ctx, name, "c", client.Presence{User: "x"}); err == nil {
				t.Errorf("joined %q", name)
			}
			for e, err := range c.Watch(ctx, name, client.WatchOptions{}) {
				if err == nil {
					t.Errorf("watches %q: %v", name, e)
				}
			}
		}
		if o, err := c.Room(ctx, "lobby"); err != nil || o.Users != 1 {
			t.Errorf("%+v, %v", o, err)
		}
	})
}

// What is answered by others than a presence server.
func TestOtherServers(t *testing.T) {
	for _, c := range []struct {
		answer func(http.ResponseWriter)
		want   string
		retry  client.Retry
	}{
		{func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, "502 Bad Gateway", client.RetryBackoff},
		{func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "404 Not Found", client.RetryNever},
		{func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(http.StatusMovedPermanently)
		}, "https://elsewhere.example/", client.RetryNever},
		{func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("{"))
		}, "503", client.RetryBackoff},
	} {
		script(t, func(_ int, w http.ResponseWriter, _ *http.Request) { c.answer(w) }, func(t *testing.T, s *scripted) {
			_, err := s.client.Room(t.Context(), "lobby")
			p, ok := errors.AsType[*client.Problem](err)
			if !ok || p.Retry != c.retry || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v", c.want, err)
			}
			if s.calls() != 1 {
				t.Errorf("%q: %d calls", c.want, s.calls())
			}
		})
	}
	script(t, func(_ int, w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, func(t *testing.T, s *scripted) {
		if _, err := s.client.Room(t.Context(), "lobby"); err == nil {
			t.Error("a page is a room")
		}
		for _, err := range s.client.Watch(t.Context(), "lobby", client.WatchOptions{}) {
			if p, ok := errors.AsType[*client.Problem](err); !ok || p.Retry != client.RetryNever {
				t.Errorf("a page is watched: %v", err)
			}
		}
	})
}

func TestNew(t *testing.T) {
	for _, address := range []string{"", "presence.example", "ftp://presence.example", "http://", "http://a b/", "/v1"} {
		if _, err := client.New(address, client.Options{}); err == nil {
			t.Errorf("%q is an address", address)
		}
	}
}

package client_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"presence/client"
)

// sign makes a member token of a user, for all rooms.
func sign(user string, expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":%q,"exp":%d,"presence":{"rooms":{"*":["observe","join"]}}}`, user, expires.Unix()))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// join has u1 be in the lobby.
func (w *world) join(ctx context.Context, c *client.Client, p client.Presence) *client.Connection {
	w.t.Helper()
	p.User = "u1"
	j, err := c.Join(ctx, "lobby", "c1", p)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// goesOn fails the test unless a connection is still renewed.
func goesOn(t *testing.T, j *client.Connection) {
	t.Helper()
	synctest.Wait()
	select {
	case <-j.Done():
		t.Errorf("the connection has ended: %v", j.Err())
	default:
	}
}

// goesOnByCalls joins for ten minutes, and fails the test unless the connection goes on, by so
// many calls, until the context ends.
func goesOnByCalls(t *testing.T, s *scripted, least, most int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	j, err := s.client.Join(ctx, "lobby", "c1", client.Presence{User: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Minute)
	goesOn(t, j)
	if s.calls() < least || s.calls() > most {
		t.Errorf("%d calls in 10 minutes", s.calls())
	}
	cancel()
	if <-j.Done(); !errors.Is(j.Err(), context.Canceled) {
		t.Error(j.Err())
	}
}

func TestJoinUntilLeave(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		for _, ttl := range []time.Duration{0, 5 * time.Second} {
			f := w.follow(w.client(""), client.WatchOptions{})
			f.expect("snapshot 0")
			j := w.join(t.Context(), w.client(key), client.Presence{Name: "Ann", Meta: json.RawMessage(`{"a":1}`), TTL: ttl})
			f.expect("diff 1 +u1")
			time.Sleep(2 * time.Minute)
			goesOn(t, j)
			f.expect()
			if err := j.Leave(t.Context()); err != nil {
				t.Error(err)
			}
			if <-j.Done(); j.Err() != nil {
				t.Error(j.Err())
			}
			f.expect("diff 0 -u1:left")
			if err := j.Leave(t.Context()); err != nil {
				t.Error(err)
			}
			f.stop()
		}
	})
}

func TestJoinUntilItsContextEnds(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 0")
		ctx, cancel := context.WithCancel(t.Context())
		j := w.join(ctx, w.client(key), client.Presence{TTL: 10 * time.Second})
		f.expect("diff 1 +u1")
		cancel()
		if <-j.Done(); !errors.Is(j.Err(), context.Canceled) {
			t.Error(j.Err())
		}
		time.Sleep(12 * time.Second)
		f.expect("diff 0 -u1:timeout")
	})
}

// A lease that ran out, since the server could not be reached, is joined anew, as the user was
// last.
func TestJoinAgain(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 0")
		j := w.join(t.Context(), w.client(key), client.Presence{Name: "Ann", Meta: json.RawMessage(`{"a":1}`), TTL: 10 * time.Second})
		name := "Ben"
		if m, err := j.Update(t.Context(), client.Patch{Name: &name, Meta: json.RawMessage(`{"b":2}`)}); err != nil || m.Name != "Ben" || string(m.Meta) != `{"a":1,"b":2}` {
			t.Errorf("%+v, %v", m, err)
		}
		for _, r := range w.replicas {
			r.leave(true)
			r.cut()
		}
		time.Sleep(2 * time.Minute)
		for _, r := range w.replicas {
			r.leave(false)
		}
		time.Sleep(time.Minute)
		goesOn(t, j)
		f.sees(w.client(key))
		if f.view.Members[0].Name != "Ben" || string(f.view.Members[0].Meta) != `{"a":1,"b":2}` {
			t.Errorf("%+v", f.view.Members)
		}
		if err := j.Leave(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Nobody is seen to leave when Redis loses its data or is away for a while, and the
// connection goes on.
func TestJoinThroughTheLossOfData(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		f := w.follow(w.client(""), client.WatchOptions{CountsOnly: true})
		f.expect("count 0")
		j := w.join(t.Context(), w.client(key), client.Presence{Name: "Ann", TTL: 30 * time.Second})
		f.expect("count 1")
		for range 10 {
			time.Sleep(17 * time.Second)
			w.fake.FlushAll()
		}
		w.fake.Down()
		time.Sleep(time.Minute)
		w.fake.Up()
		time.Sleep(2 * time.Minute)
		goesOn(t, j)
		f.mu.Lock()
		if slices.Contains(f.said, "count 0") {
			t.Errorf("was seen to leave: %q", f.said)
		}
		f.mu.Unlock()
		if m, err := w.client(key).Member(t.Context(), "lobby", "u1"); err != nil || m.Name != "Ann" {
			t.Errorf("%+v, %v", m, err)
		}
		if err := j.Leave(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A user who was removed does not come back by itself, and neither does a connection that
// another program has ended.
func TestJoinThatOthersEnd(t *testing.T) {
	for what, end := range map[string]func(ctx context.Context, c *client.Client) error{
		"removed": func(ctx context.Context, c *client.Client) error { return c.Remove(ctx, "lobby", "u1") },
		"left":    func(ctx context.Context, c *client.Client) error { return c.Leave(ctx, "lobby", "c1") },
	} {
		bubble(t, 2, func(t *testing.T, w *world) {
			f := w.follow(w.client(""), client.WatchOptions{})
			f.expect("snapshot 0")
			j := w.join(t.Context(), w.client(key), client.Presence{TTL: 30 * time.Second})
			f.expect("diff 1 +u1")
			time.Sleep(time.Minute)
			if err := end(t.Context(), w.client(key)); err != nil {
				t.Error(err)
			}
			f.expect("diff 0 -u1:" + what)
			time.Sleep(time.Minute)
			select {
			case <-j.Done():
			default:
				t.Fatal("the connection goes on")
			}
			if !errors.Is(j.Err(), client.ErrEnded) {
				t.Error(j.Err())
			}
		})
	}
}

// A connection that is not found once, while its lease can't have run out, is about to be put
// back: it is neither given up nor joined anew.
func TestJoinThatIsNotFoundOnce(t *testing.T) {
	script(t, func(call int, w http.ResponseWriter, r *http.Request) {
		switch {
		case call == 0 && r.Method == http.MethodPut:
			_, _ = w.Write([]byte(`{"expires_in":30,"renew_in":10}`))
		case r.Method == http.MethodPut:
			t.Error("joins anew")
		case call == 3:
			_, _ = w.Write([]byte(`{"renewed":0,"renew_in":10,"lost":[{"room":"lobby","connection":"c1"}]}`))
		default:
			_, _ = w.Write([]byte(`{"renewed":1,"renew_in":10,"lost":[]}`))
		}
	}, func(t *testing.T, s *scripted) {
		goesOnByCalls(t, s, 60, 90)
	})
}

// What keeps a connection from being renewed is tried again, later and later, but before the
// lease ends; a server that hangs, too.
func TestJoinWithAServerInTrouble(t *testing.T) {
	script(t, func(call int, w http.ResponseWriter, r *http.Request) {
		switch {
		case call == 0 || call%3 == 0:
			_, _ = w.Write([]byte(`{"expires_in":30,"renew_in":10,"renewed":1,"lost":[]}`))
		case call%3 == 1:
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	}, func(t *testing.T, s *scripted) {
		goesOnByCalls(t, s, 60, 150)
	})
}

// A connection ends with the last token that there is for it.
func TestJoinByTokens(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		last := time.Now().Add(2 * time.Minute)
		c := w.with(client.Options{Token: func(context.Context) (string, error) {
			expires := time.Now().Add(30 * time.Second)
			if expires.After(last) {
				expires = last
			}
			return sign("u1", expires), nil
		}})
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 0")
		j, err := c.Join(t.Context(), "lobby", "c1", client.Presence{})
		if err != nil {
			t.Fatal(err)
		}
		f.expect("diff 1 +u1")
		<-j.Done()
		if took := time.Until(last); code(j.Err()) != client.Unauthorized || took.Abs() > 10*time.Second {
			t.Errorf("%v, %v before the last token", j.Err(), took)
		}
		time.Sleep(2 * time.Second)
		f.expect("diff 0 -u1:timeout")
	})
}

func TestHeartbeats(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		w.put("lobby", "u1")
		w.put("tea", "u2")
		r, err := w.client(key).Heartbeats(t.Context(), 30*time.Second, client.Place{"lobby", "u1"}, client.Place{"tea", "u2"}, client.Place{"tea", "u1"})
		if err != nil || r.Renewed != 2 || r.RenewIn != 10*time.Second || len(r.Lost) != 1 || r.Lost[0] != (client.Place{"tea", "u1"}) {
			t.Errorf("%+v, %v", r, err)
		}
		if r, err := w.client(key).Heartbeats(t.Context(), 0); err != nil || r.Renewed != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

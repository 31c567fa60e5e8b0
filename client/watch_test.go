package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"presence/client"
	"presence/test/memnet"
)

func TestWatch(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c, ctx := w.client(key), t.Context()
		w.put("lobby", "u1")
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 1 +u1")
		w.put("lobby", "u2")
		f.expect("diff 2 +u2")
		name := "Ben"
		if _, err := c.Update(ctx, "lobby", "u2", client.Patch{Name: &name, Meta: []byte(`{"a":1}`)}); err != nil {
			t.Error(err)
		}
		f.expect(`diff 2 ~u2=Ben{"a":1}`)
		name = ""
		if _, err := c.Update(ctx, "lobby", "u2", client.Patch{Name: &name, Meta: []byte(`{"a":null}`)}); err != nil {
			t.Error(err)
		}
		f.expect("diff 2 ~u2=u2")
		if err := c.Leave(ctx, "lobby", "u1"); err != nil {
			t.Error(err)
		}
		f.expect("diff 1 -u1:left")
		f.sees(c)
		f.stop()
		if err := f.ended(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A stream that breaks goes on with another: without a snapshot, on another replica.
func TestWatchGoesOnWhereItWas(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c := w.client(key)
		w.put("lobby", "u1")
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 1 +u1")
		w.replicas[0].cut()
		w.replicas[1].cut()
		w.put("lobby", "u2")
		w.put("lobby", "u3")
		time.Sleep(5 * time.Second)
		f.expect("diff 3 +u2 +u3")
		w.replicas[0].kill()
		if err := c.Leave(t.Context(), "lobby", "u1"); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		f.expect("diff 2 -u1:left")
		f.sees(c)
	})
}

// A drained replica sends its streams elsewhere, at once.
func TestWatchWhileAReplicaDrains(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		w.put("lobby", "u1")
		w.replicas[1].leave(true)
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 1 +u1")
		w.replicas[0].leave(true)
		w.replicas[1].leave(false)
		w.replicas[0].stop()
		<-w.replicas[0].done
		w.put("lobby", "u2")
		f.expect("diff 2 +u2")
		if want := []string{"presence: the stream has ended: draining, 0s"}; !slices.Equal(f.lost, want) {
			t.Errorf("lost %q, want %q", f.lost, want)
		}
	})
}

func TestWatchWhileRedisIsAway(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		w.put("lobby", "u1")
		f := w.follow(w.client(""), client.WatchOptions{})
		f.expect("snapshot 1 +u1")
		w.fake.Down()
		time.Sleep(10 * time.Second)
		f.expect("stale 0 stale")
		if !f.view.Stale || f.view.Users != 1 || len(f.view.Members) != 1 || time.Since(f.view.AsOf) < 5*time.Second {
			t.Errorf("%+v", f.view)
		}
		// The stream ends, and goes on when Redis is there again: nothing has changed in the
		// room, but it is no longer stale.
		w.replicas[0].leave(true)
		w.replicas[1].leave(true)
		w.replicas[0].cut()
		w.replicas[1].cut()
		w.fake.Up()
		time.Sleep(30 * time.Second)
		w.replicas[0].leave(false)
		w.replicas[1].leave(false)
		time.Sleep(time.Minute)
		f.expect("snapshot 1 +u1")
		f.sees(w.client(key))
	})
}

// Whatever happens to streams, replicas and Redis, a view is the room in the end.
func TestAViewIsTheRoom(t *testing.T) {
	for seed := range uint64(2) {
		bubble(t, 2, func(t *testing.T, w *world) {
			rng := rand.New(rand.NewPCG(seed, 1))
			c, ctx := w.client(key), t.Context()
			var all []*follower
			for range 3 {
				all = append(all, w.follow(w.client(""), client.WatchOptions{}))
			}
			for range 120 {
				user := fmt.Sprint("u", rng.IntN(12))
				switch rng.IntN(8) {
				case 0, 1, 2:
					w.put("lobby", user)
				case 3, 4:
					_ = c.Leave(ctx, "lobby", user)
				case 5:
					name := fmt.Sprint("Ann ", rng.IntN(9))
					_, _ = c.Update(ctx, "lobby", user, client.Patch{Name: &name}) // who may not be there
				case 6:
					w.replicas[rng.IntN(2)].cut()
				case 7:
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
				}
				time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			for _, f := range all {
				f.sees(c)
			}
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}

func TestWatchOfCountsAndOfRooms(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.put("lobby", "u1")
		f := w.follow(w.client(""), client.WatchOptions{CountsOnly: true})
		f.expect("count 1")
		w.put("lobby", "u2")
		f.expect("count 2")
		if f.view.Users != 2 || f.view.Complete || !f.view.Known {
			t.Errorf("%+v", f.view)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		views := map[string]*client.View{}
		for e, err := range w.client("").WatchRooms(ctx, []string{"lobby", "tea"}, client.WatchOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			views[e.Room] = &client.View{}
			views[e.Room].Apply(e)
			if len(views) == 2 {
				break
			}
		}
		if views["lobby"].Users != 2 || views["tea"].Users != 0 || !views["tea"].Complete {
			t.Errorf("%+v", views)
		}
		o, err := w.client("").Room(ctx, "lobby")
		if err != nil {
			t.Fatal(err)
		}
		after := w.follow(w.client(""), client.WatchOptions{After: o.Version})
		after.expect()
		w.put("lobby", "u3")
		after.expect("diff 3 +u3")
	})
}

// A stream can be somebody's presence, for longer than any single stream lasts.
func TestWatchAsPresence(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		c := w.client(key)
		others := w.follow(w.client(""), client.WatchOptions{})
		others.expect("snapshot 0")
		f := w.follow(c, client.WatchOptions{Join: "c1", User: "u1", Name: "Ann"})
		f.expect("snapshot 1 +u1")
		others.expect("diff 1 +u1")
		time.Sleep(6 * time.Minute)
		f.expect()
		others.expect()
		if len(f.lost) == 0 {
			t.Errorf("the stream was never rotated: %q", f.lost)
		}
		if err := c.Remove(t.Context(), "lobby", "u1"); err != nil {
			t.Error(err)
		}
		end, ok := errors.AsType[*client.EndError](f.ended())
		if !ok || end.Code != client.Removed || end.Retry != client.RetryNever {
			t.Error(f.err)
		}
		others.expect("diff 0 -u1:removed")
	})
}

func TestWatchThatMayNotBe(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		n := 0
		for _, err := range w.client(readKey).Watch(t.Context(), "lobby", client.WatchOptions{Join: "c", User: "u"}) {
			if n++; code(err) != client.Forbidden {
				t.Error(err)
			}
		}
		for _, err := range w.client("psk_unknown").Watch(t.Context(), "lobby", client.WatchOptions{}) {
			if n++; code(err) != client.Unauthorized {
				t.Error(err)
			}
		}
		if n != 2 {
			t.Errorf("%d errors", n)
		}
	})
}

// A stream by a token that has expired goes on by another, if there is one.
func TestWatchByTokens(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var mu sync.Mutex
		made, most := 0, 3
		var token string
		var expires time.Time
		c := w.with(client.Options{Token: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			if made < most && time.Until(expires) < 20*time.Second {
				made++
				expires = time.Now().Add(time.Minute)
				token = sign("u1", expires)
			}
			return token, nil
		}})
		f := w.follow(c, client.WatchOptions{Join: "c1"})
		f.expect("snapshot 1 +u1")
		end, ok := errors.AsType[*client.EndError](f.ended())
		if !ok || end.Code != client.TokenExpired || made != most {
			t.Errorf("%v after %d tokens", f.err, made)
		}
		f.mu.Lock() // the user leaves when the last token expires, as the stream ends
		f.said = slices.DeleteFunc(f.said, func(said string) bool { return said == "diff 0 -u1:timeout" })
		f.mu.Unlock()
		f.expect()
	})
}

// scripted is a server that answers as a test says, in a bubble.
type scripted struct {
	client *client.Client
	http   *http.Client

	mu sync.Mutex // guards:
	n  int
}

func (s *scripted) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// script runs a test on a server that answers as a test says. Calls are counted from 0.
func script(t *testing.T, answer func(call int, w http.ResponseWriter, r *http.Request), test func(*testing.T, *scripted)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{}
		l := memnet.Listen(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80})
		var answers sync.WaitGroup                                                                      // which may take longer than the test
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // of a test
			answers.Add(1)
			defer answers.Done()
			s.mu.Lock()
			call := s.n
			s.n++
			s.mu.Unlock()
			_, _ = io.Copy(io.Discard, r.Body) // else the end of a call is not noticed
			answer(call, w, r)
		})}
		var served sync.WaitGroup
		served.Go(func() { _ = server.Serve(l) })
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return l.Dial(&net.TCPAddr{IP: net.IPv4(10, 1, 1, 1), Port: 1})
		}}
		t.Cleanup(func() {
			transport.CloseIdleConnections()
			_ = server.Close()
			served.Wait()
			answers.Wait()
		})
		s.http = &http.Client{Transport: transport, Timeout: 5 * time.Second}
		s.client = s.with(t, client.Options{})
		test(t, s)
	})
}

// with returns a client of the server.
func (s *scripted) with(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	o.HTTPClient = s.http
	c, err := client.New("http://presence.test/below", o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tell sends a part of a stream.
func tell(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	_, _ = w.Write([]byte(text))
	_ = http.NewResponseController(w).Flush()
}

// watched runs a watch for a while, and returns what it yielded, and how long it waited
// between streams.
func (s *scripted) watched(t *testing.T, d time.Duration) (said []string, waits []time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	o := client.WatchOptions{Lost: func(_ error, wait time.Duration) { waits = append(waits, wait) }}
	for e, last := range s.client.Watch(ctx, "lobby", o) {
		if err = last; err == nil {
			said = append(said, short(e))
		}
	}
	return said, waits, err
}

// Tries come later and later, and never sooner than the server wants.
func TestWatchBacksOff(t *testing.T) {
	script(t, func(call int, w http.ResponseWriter, _ *http.Request) {
		switch call {
		case 0:
			tell(w, "retry: 1000\n\nevent: count\ndata: {\"users\":1}\n\n")
		case 5:
			w.Header().Set("Retry-After", "100")
			fallthrough
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}, func(t *testing.T, s *scripted) {
		said, waits, err := s.watched(t, 10*time.Minute)
		if !slices.Equal(said, []string{"count 1"}) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q, %v", said, err)
		}
		if len(waits) < 10 {
			t.Fatalf("waits %v", waits)
		}
		for i, wait := range waits {
			most := min(time.Second<<i, 30*time.Second)
			if i == 5 {
				if wait != 100*time.Second {
					t.Errorf("waits %v after Retry-After: 100", wait)
				}
			} else if wait < most/2 || wait > most {
				t.Errorf("wait %d is %v, not %v to %v", i, wait, most/2, most)
			}
		}
	})
}

// A server that ends each stream at once, since it is about to stop, is not asked in a loop.
func TestWatchOfADrainingServer(t *testing.T) {
	const end = "retry: 1000\n\nevent: end\ndata: {\"code\":\"draining\",\"retry\":\"now\"}\n\n"
	script(t, func(_ int, w http.ResponseWriter, _ *http.Request) { tell(w, end) }, func(t *testing.T, s *scripted) {
		_, _, _ = s.watched(t, 5*time.Minute)
		if s.calls() < 10 || s.calls() > 40 {
			t.Errorf("%d streams in 5 minutes", s.calls())
		}
	})
}

// A stream that nothing was told by for long has lived all the same: the next comes at once,
// and each time.
func TestWatchOfAnIdleRoomThatIsRotated(t *testing.T) {
	script(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
		tell(w, "retry: 3000\n\n")
		for range 6 {
			time.Sleep(12 * time.Second)
			tell(w, ":\n\n")
		}
		tell(w, "event: end\ndata: {\"code\":\"rotated\",\"retry\":\"now\"}\n\n")
	}, func(t *testing.T, s *scripted) {
		_, waits, _ := s.watched(t, 30*time.Minute)
		if len(waits) < 20 || slices.Max(waits) != 0 {
			t.Errorf("waits %v", waits)
		}
	})
}

// A stream of which nothing is heard is given up; one that only has a slow reader is not.
func TestWatchOfASilentStream(t *testing.T) {
	script(t, func(call int, w http.ResponseWriter, r *http.Request) {
		tell(w, "retry: 1000\n\nid: 7\nevent: count\ndata: {\"users\":1}\n\n")
		if call > 0 && r.Header.Get("Last-Event-ID") != "7" {
			t.Errorf("goes on after %q", r.Header.Get("Last-Event-ID"))
		}
		<-r.Context().Done()
	}, func(t *testing.T, s *scripted) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		var lost []string
		o := client.WatchOptions{Lost: func(err error, _ time.Duration) {
			lost = append(lost, fmt.Sprint(err, " after ", time.Since(began)))
		}}
		for _, err := range s.client.Watch(ctx, "lobby", o) {
			if err != nil || len(lost) > 0 {
				break
			}
			time.Sleep(2 * time.Minute)
		}
		if want := "presence client: nothing was heard of the stream for 45s after 2m45s"; len(lost) != 1 || lost[0] != want {
			t.Errorf("lost %q, want %q", lost, want)
		}
	})
}

// The token has to be renewed while the loop body runs. When it has run, the loop may end, or
// the stream has ended for good: then no other stream follows.
func TestWatchOfASlowReaderWithAToken(t *testing.T) {
	for _, breaks := range []bool{true, false} {
		script(t, func(_ int, w http.ResponseWriter, r *http.Request) {
			tell(w, "event: count\ndata: {\"users\":1}\n\nevent: end\ndata: {\"code\":\"removed\",\"retry\":\"never\"}\n\n")
			<-r.Context().Done()
		}, func(t *testing.T, s *scripted) {
			c := s.with(t, client.Options{Token: func(context.Context) (string, error) {
				return sign("u1", time.Now().Add(time.Minute)), nil
			}})
			var last error
			for _, err := range c.Watch(t.Context(), "lobby", client.WatchOptions{Join: "c1"}) {
				if last = err; err == nil {
					time.Sleep(50 * time.Second)
				}
				if breaks {
					break
				}
			}
			end, ended := errors.AsType[*client.EndError](last)
			if s.calls() != 1 || !breaks && (!ended || end.Code != client.Removed) {
				t.Errorf("%d streams, and the last error is %v", s.calls(), last)
			}
		})
	}
}

// What is no event is ignored, or ends the stream; nothing of it ends the watch.
func TestWatchOfNonsense(t *testing.T) {
	for text, want := range map[string]string{
		"event: count\r\ndata: {\"users\":1}\r\n\r\n":                          "count 1",
		"event:count\ndata:{\"users\":\ndata: 1}\nfoo: bar\nbaz\n\n":           "count 1",
		"event: count\ndata: {\"users\":1}\n":                                  "", // is not complete
		"event: count\n\ndata: {\"users\":1}\n\n":                              "", // has no kind
		"event: new\ndata: {\"users\":1}\n\nevent: count\ndata: {}\n\n":        "count 0",
		"event: count\ndata: {\"users\":\"x\"}\n\nevent: count\ndata: {}\n\n":  "",
		"event: count\ndata: {\n\nevent: count\ndata: {}\n\n":                  "",
		"event: end\ndata: {\n\n":                                              "",
		"event: end\ndata: {}\n\n":                                             "",
		"event: count\ndata: " + strings.Repeat("x", 17<<20) + "\n\n":          "",
		"retry: -1\nretry: x\nretry:\n\nevent: count\ndata: {\"users\":1}\n\n": "count 1",
	} {
		script(t, func(call int, w http.ResponseWriter, _ *http.Request) {
			if call > 0 {
				tell(w, "event: end\ndata: {\"code\":\"left\",\"retry\":\"never\"}\n\n")
				return
			}
			tell(w, text)
		}, func(t *testing.T, s *scripted) {
			said, _, err := s.watched(t, time.Hour)
			if got := strings.Join(said, ", "); got != want {
				t.Errorf("%.60q says %q, want %q", text, got, want)
			}
			if end, ok := errors.AsType[*client.EndError](err); !ok || end.Code != client.HasLeft {
				t.Errorf("%.60q: %v", text, err)
			}
		})
	}
}

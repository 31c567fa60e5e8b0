package stream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/store"
)

// startTCP starts a replica whose streams are reached over TCP. Its room has been read,
// and has that many users with that much metadata.
func startTCP(t testing.TB, users, meta int) *process {
	t.Helper()
	p := startWith(t, redistest.NewFake(t), store.Options{}, replica.Options{Alone: true}, 10*time.Millisecond)
	p.listen()
	for i := range users {
		p.put(fmt.Sprint("u", i), fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", meta)))
	}
	redistest.Eventually(t, 10*time.Second, "the room is known", func() bool {
		view, err := p.rooms.Look(t.Context(), lobby)
		return err == nil && !view.Stale
	})
	return p
}

// put makes a user present, with metadata.
func (p *process) put(user, meta string) {
	p.t.Helper()
	_, err := p.store.Put(p.t.Context(), lobby, store.Wanted{
		Connection: presence.Connection{ID: "c-" + user, Generation: presence.NewHTTPGeneration(), User: presence.User{ID: user, Name: user, Meta: meta}},
		TTL:        time.Hour, SetMeta: true,
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// dial opens a stream of the lobby from which nothing is read, over that version of HTTP.
func (p *process) dial(proto string) *net.TCPConn {
	p.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://")) //nolint:noctx // on this machine
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprintf(conn, "GET /?rooms=lobby %s\r\nHost: replica\r\n\r\n", proto); err != nil {
		p.t.Fatal(err)
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// A peer does not read while much happens. When it reads again, it gets the whole room,
// and the event whose sending had begun is complete. No other stream waits for it.
func TestSlowReadersOverTCP(t *testing.T) {
	p := startTCP(t, 20, 900)
	p.sendBuffer = 32 << 10
	slow := p.dial("HTTP/1.1")
	_ = slow.SetReadBuffer(4 << 10)
	quick := p.watch("rooms=lobby")
	await := func(c *client, f *follower, user string) (snapshots, diffs int) {
		redistest.Eventually(t, 20*time.Second, user+" is seen", func() bool {
			for _, e := range c.take() {
				if err := f.apply(e); err != nil {
					t.Fatal(err)
				}
				switch e.Kind {
				case "snapshot":
					snapshots++
				case "diff":
					diffs++
				}
			}
			_, ok := f.members[user]
			return ok
		})
		return snapshots, diffs
	}
	redistest.Eventually(t, 10*time.Second, "there are two streams", func() bool { return p.Len() == 2 })
	var eyes follower
	for i := range 400 {
		p.put(fmt.Sprint("u", i%20), fmt.Sprintf(`{"x":%q}`, strings.Repeat("y", 900)+fmt.Sprint(i)))
		time.Sleep(time.Millisecond) //nolint:forbidigo // more than one window passes
	}
	p.put("last", "")
	if snapshots, diffs := await(quick, &eyes, "last"); snapshots != 1 || diffs < 10 {
		t.Errorf("the quick stream was sent %d snapshots and %d diffs", snapshots, diffs)
	}
	if _, err := bufio.NewReaderSize(slow, 16).ReadString(' '); err != nil {
		t.Fatal(err)
	}
	body := &client{t: t, body: slow, done: make(chan struct{})}
	skipHead(t, slow)
	go body.read()
	t.Cleanup(func() {
		body.close()
		<-body.done
	})
	var f follower
	if snapshots, diffs := await(body, &f, "last"); snapshots != 2 {
		t.Errorf("the slow stream was sent %d snapshots and %d diffs", snapshots, diffs)
	}
	if f.text() != eyes.text() || f.version != eyes.version {
		t.Errorf("the slow stream has\n%d %s\nthe quick one\n%d %s", f.version, f.text(), eyes.version, eyes.text())
	}
}

// skipHead reads to the end of the head of an answer.
func skipHead(t testing.TB, r io.Reader) {
	t.Helper()
	var b [1]byte
	for head := ""; !strings.HasSuffix(head, "\r\n\r\n"); head += string(b[:]) {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHTTP10(t *testing.T) {
	p := startTCP(t, 1, 1)
	conn := p.dial("HTTP/1.0")
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.0 200 OK\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	skipHead(t, r)
	for line := ""; line != "event: snapshot\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

// A peer that sends more than its request, closes its half or resets does no harm to
// other streams.
func TestPeersThatMisbehave(t *testing.T) {
	p := startTCP(t, 1, 1)
	talks := p.dial("HTTP/1.1")
	half := p.dial("HTTP/1.1")
	resets := p.dial("HTTP/1.1")
	good := p.dial("HTTP/1.1")
	redistest.Eventually(t, 10*time.Second, "there are four streams", func() bool { return p.Len() == 4 })
	_, _ = good.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	_, _ = talks.Write(make([]byte, 1<<20))
	_ = half.CloseWrite()
	_ = resets.SetLinger(0)
	_ = resets.Close()
	redistest.Eventually(t, 10*time.Second, "one stream is left", func() bool { return p.Len() == 1 })
}

package system

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"presence/test/harness"
)

func TestFullRoom(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url, "-max-members-per-room", "2")
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	members := join(t, 2, harness.Options{}, r[0].URL)
	late := harness.Open(t, harness.Options{}, r[1].URL)
	watcher.SeesUsers(5*time.Second, 2)
	from := time.Now()
	var refusal *harness.RefusalError
	if err := late.Join("Late"); !errors.As(err, &refusal) {
		t.Errorf("join of a full room: %v, want a refusal", err)
	}
	if now := late.Now(); !strings.Contains(now.Notice, "full") || now.Typed != "Late" || now.Joined {
		t.Errorf("the page shows %v and %q in the field", now, now.Typed)
	}
	if err := members[0].Leave(); err != nil {
		t.Fatalf("leave: %v", err)
	}
	late.MustJoin("Late")
	watcher.SeesUsers(5*time.Second, 2)
	neverAbove(t, from, 2, watcher, late)
}

// A replica is frozen while Redis loses its data and others take the places of its
// members. Their pages say so, and the members do not come back when a place is free.
func TestPlaceLostInAFullRoom(t *testing.T) {
	t.Parallel()
	server, url := startRedis(t)
	r := start(t, 2, brisk, url, "-max-members-per-room", "2")
	members := join(t, 2, harness.Options{}, r[0].URL)
	others := []*harness.Visitor{harness.Open(t, harness.Options{}, r[1].URL), harness.Open(t, harness.Options{}, r[1].URL)}
	allSee(t, 5*time.Second, 2, others...)
	r[0].Pause()
	if err := server.Client(t).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for i, v := range others {
		v.MustJoin(fmt.Sprint("Ben ", i))
	}
	allSee(t, 5*time.Second, 2, others...)
	r[0].Continue()
	for _, v := range members {
		v.Sees(5*time.Second, "not joined any more, and why", func(s harness.Sight) bool {
			return !s.Joined && strings.Contains(s.Notice, "no longer in this room")
		})
	}
	from := time.Now()
	if err := others[0].Leave(); err != nil {
		t.Fatalf("leave: %v", err)
	}
	allSee(t, 5*time.Second, 1, members...)
	harness.Observe(t, 2*brisk.heartbeat, "somebody who comes back by himself would show by now")
	for _, v := range append(members, others...) {
		if now := v.Now(); now.Users != 1 {
			t.Errorf("a page shows %v", now)
		}
	}
	neverAbove(t, from, 2, members...)
	members[0].MustJoin("Ann 1")
	allSee(t, 5*time.Second, 2, members...)
}

// Redis has no memory left. Users who are there stay, reload and leave, only newcomers
// are refused, and all replicas are ready all the time.
func TestFullRedis(t *testing.T) {
	t.Parallel()
	server, url := startRedis(t)
	h := newHousehold(t, brisk, url)
	late := harness.Open(t, harness.Options{}, h.replicas[0].URL)
	rdb := server.Client(t)
	fill := func(maxmemory string) {
		t.Helper()
		if err := rdb.ConfigSet(t.Context(), "maxmemory", maxmemory).Err(); err != nil {
			t.Fatal(err)
		}
	}
	from := time.Now()
	fill("1")
	t.Cleanup(func() { rdb.ConfigSet(t.Context(), "maxmemory", "0") })
	var refusal *harness.RefusalError
	if err := late.Join("Late"); !errors.As(err, &refusal) || !strings.Contains(late.Now().Notice, "full") {
		t.Errorf("join: %v, want a refusal; the page shows %v", err, late.Now())
	}
	h.members[0].Reload()
	for end := time.Now().Add(brisk.ttl + 2*brisk.heartbeat); time.Now().Before(end); {
		for _, r := range h.replicas {
			if code := status(t, r.URL+"/readyz"); code != http.StatusOK {
				t.Fatalf("/readyz answers %d", code)
			}
		}
		harness.Observe(t, 250*time.Millisecond, "an outage would show by now")
	}
	for _, v := range h.members[1:] {
		always(t, v, from, "fresh", func(s harness.Sight) bool { return !s.Stale })
	}
	neverBelow(t, from, len(h.members), h.members[1:]...)
	neverLoggedOut(t, from, h.members[1:]...)
	if err := h.members[5].Leave(); err != nil {
		t.Errorf("leave: %v", err)
	}
	allSee(t, 5*time.Second, len(h.members)-1, h.members[1:]...)
	fill("0")
	late.MustJoin("Late")
	allSee(t, 5*time.Second, len(h.members), late)
}

func TestFullReplica(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 1, brisk, url, "-max-connections", "2")
	inside := join(t, 2, harness.Options{}, r[0].URL)
	outside := harness.Visit(t, harness.Options{}, r[0].URL)
	if _, live := outside.Await(2*time.Second, func(s harness.Sight) bool { return s.Socket }); live {
		t.Fatal("a socket too many was served")
	}
	if n := closedWith(t, time.Time{}, 1013, outside); n == 0 {
		t.Error("no page said to try again later")
	}
	inside[0].Close()
	outside.Sees(10*time.Second, "live as soon as there is a place", func(s harness.Sight) bool { return s.Socket })
	outside.MustJoin("Ann")
	inside[1].SeesUsers(5*time.Second, 2)
}

// Whatever a client sends, others are not affected, and the sender gets the code that RFC
// 6455 has for it.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 2, brisk, url)
	watcher := harness.Open(t, harness.Options{}, r[1].URL)
	harness.Open(t, harness.Options{}, r[0].URL).MustJoin("Ann")
	watcher.SeesUsers(5*time.Second, 1)
	from := time.Now()
	text := func(frames ...string) [][]byte {
		list := make([][]byte, len(frames))
		for i, frame := range frames {
			list[i] = []byte(frame)
		}
		return list
	}
	still := harness.Options{Still: true}
	for name, c := range map[string]struct {
		kind   int
		frames [][]byte
		code   int // 0: the connection stays
	}{
		"binary":    {websocket.BinaryMessage, text(`{"action":"join","data":{"username":"Eve"}}`), 1003},
		"huge":      {websocket.TextMessage, [][]byte{bytes.Repeat([]byte(" "), 100_000)}, 1009},
		"not UTF-8": {websocket.TextMessage, text("{\"action\":\"join\",\"data\":{\"username\":\"\xff\"}}"), 1007},
		"forged": {websocket.TextMessage, text(
			``, `{`, `null`, `[]`, `7`, `{"action":7}`, `{"action":"join","data":[]}`, `{"action":"Join","data":{"username":"Eve"}}`,
			`{"action":"Mount"}`, `{"action":"OnConnect"}`, `{"action":"PresenceChanged","data":{"Users":99}}`,
			`{"action":"presenceChanged"}`, `{"action":"__navigate__","data":{"tab":"aaaaaaaaaaaaaaaaaaaaaa"}}`,
			`{"action":"join","ACTION":"leave","data":{"username":null}}`,
		), 0},
		"flood": {websocket.TextMessage, text(strings.Split(strings.Repeat(`{"action":"join","data":{}}|`, 400), "|")...), 1008},
	} {
		eve := harness.Open(t, still, r[0].URL)
		for _, frame := range c.frames {
			if eve.Send(c.kind, frame) != nil {
				break // closed already
			}
		}
		if c.code == 0 {
			if err := eve.Join(""); err == nil {
				t.Errorf("%s: then a join without a name was accepted", name)
			}
			eve.SeesUsers(5*time.Second, 1) // a page may open a moment before its replica hears of Ann
			neverAbove(t, from, 1, eve)
			if now := eve.Now(); now.Joined || !now.Socket {
				t.Errorf("%s: the page shows %v", name, now)
			}
			continue
		}
		eve.Await(5*time.Second, func(s harness.Sight) bool { return !s.Socket })
		if n := closedWith(t, time.Time{}, c.code, eve); n != 1 {
			t.Errorf("%s: %d sockets ended, want 1", name, n)
		}
	}
	neverBelow(t, from, 1, watcher)
	neverAbove(t, from, 1, watcher)
	harness.Open(t, harness.Options{}, r[0].URL).MustJoin("Ben")
	watcher.SeesUsers(5*time.Second, 2)
}

// A peer that never reads is dropped, and meanwhile delays nobody.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	_, url := startRedis(t)
	r := start(t, 1, brisk, url)
	watcher := harness.Open(t, harness.Options{Names: true}, r[0].URL)
	slow := dialDeaf(t, r[0].Addr)
	defer func() { _ = slow.Close() }()
	send := func(name string) error {
		_ = slow.SetWriteDeadline(time.Now().Add(2 * time.Second))
		return slow.WriteJSON(map[string]any{"action": "join", "data": map[string]any{"username": name}})
	}
	if err := send("Slow"); err != nil {
		t.Fatal(err)
	}
	watcher.SeesUsers(5*time.Second, 1)
	begin := time.Now()
	// Every answer repeats what was typed, so that much has to be sent to it.
	long := strings.Repeat("x", 7000)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(110 * time.Millisecond) // within the limit of messages
		defer tick.Stop()
		for time.Since(begin) < time.Minute && send(long) == nil {
			<-tick.C
		}
	}()
	ben := harness.Open(t, harness.Options{}, r[0].URL)
	for waiting, i := true, 0; waiting; i++ {
		select {
		case <-gone:
			waiting = false
		default:
			name := fmt.Sprint("Ben ", i)
			ben.MustJoin(name)
			took := watcher.Sees(5*time.Second, name, func(s harness.Sight) bool { return s.Socket && !s.Stale && strings.Contains(s.Names, name) })
			within(t, took, time.Second, "seeing a join beside a slow reader")
			if err := ben.Leave(); err != nil {
				t.Fatalf("leave: %v", err)
			}
			if time.Since(begin) > 50*time.Second {
				t.Fatal("the slow reader is still there")
			}
			harness.Observe(t, time.Second, "the next join")
		}
	}
	t.Logf("given up after %v", time.Since(begin).Round(time.Millisecond))
	within(t, watcher.SeesUsers(10*time.Second, 0), brisk.grace+time.Second, "the leave of the slow reader")
}

// dialDeaf opens a page's socket that reads almost nothing from the network.
func dialDeaf(t *testing.T, addr string) *websocket.Conn {
	t.Helper()
	dialer := &websocket.Dialer{NetDial: func(network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr) //nolint:noctx // loopback: at once
		if err != nil {
			return nil, err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(1) // the kernel makes it some 2 KiB
		}
		return c, nil
	}}
	conn, resp, err := dialer.Dial("ws://"+addr+"/?tab=deafdeafdeafdeafdeaf", http.Header{"Origin": {"http://" + addr}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return conn
}

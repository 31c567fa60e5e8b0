package app

import (
	"bufio"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"presence/internal/access"
	"presence/internal/redistest"
	"presence/test/contract"
)

// events opens an event stream and returns its lines, without those that say when to
// come back.
func (r *running) events(t *testing.T, path string, header ...string) *bufio.Scanner {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: &contract.Transport{T: t}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %s %v", path, resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	if lines.Scan(); !strings.HasPrefix(lines.Text(), "retry: ") {
		t.Errorf("%s begins with %q", path, lines.Text())
	}
	lines.Scan()
	return lines
}

// event reads the next event, and returns its id, kind and data.
func event(t *testing.T, lines *bufio.Scanner) (id, kind, data string) {
	t.Helper()
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data = value
		case "":
			if kind != "" {
				return id, kind, data
			}
		}
	}
	t.Fatalf("the stream ended: %v", lines.Err())
	return "", "", ""
}

func TestProgramsWatchAndArePresentByAStream(t *testing.T) {
	a := start(t, nil).ready(t)
	key := []string{"Authorization", "Bearer " + a.RunKey()}
	eyes := a.events(t, "/v1/rooms/lobby/events")
	if _, kind, data := event(t, eyes); kind != "snapshot" || !strings.Contains(data, `"users":0`) || !strings.Contains(data, `"members":[]`) {
		t.Errorf("%s %s", kind, data)
	}
	first := a.events(t, "/v1/rooms/lobby/events?join=c1&user=u1&name=Ann", key...)
	after, kind, data := event(t, first)
	if kind != "snapshot" || !strings.Contains(data, `"user":"u1","name":"Ann","connections":1`) {
		t.Errorf("%s %s", kind, data)
	}
	if id, kind, data := event(t, eyes); id != after || kind != "diff" || !strings.Contains(data, `"joins":[{"user":"u1"`) || !strings.Contains(data, `"updates":[],"leaves":[]`) {
		t.Errorf("%s %s %s", id, kind, data)
	}
	a.events(t, "/v1/rooms/lobby/events?join=c2&user=u2", key...)
	for what, path := range map[string]string{"Last-Event-ID": "?after=1", "Accept": "?after=" + after} {
		lines := a.events(t, "/v1/rooms/lobby/events"+path, what, after)
		if _, kind, data := event(t, lines); kind != "diff" || !strings.Contains(data, `"user":"u2","name":"u2"`) {
			t.Errorf("after what was known: %s %s", kind, data)
		}
	}
	for _, id := range []string{"x", "-1", "9007199254740993", "1e3"} {
		if _, kind, _ := event(t, a.events(t, "/v1/rooms/lobby/events", "Last-Event-ID", id)); kind != "snapshot" {
			t.Errorf("after %s: %s", id, kind)
		}
	}
	if _, kind, data := event(t, a.events(t, "/v1/rooms/lobby/events?mode=count")); kind != "count" || !strings.Contains(data, `"users":2`) {
		t.Errorf("%s %s", kind, data)
	}
	both := a.events(t, "/v1/events?rooms=lobby,kitchen,lobby")
	for _, room := range []string{"lobby", "kitchen"} {
		if id, kind, data := event(t, both); id != "" || kind != "snapshot" || !strings.Contains(data, `"room":"`+room+`"`) {
			t.Errorf("%s %s %s", id, kind, data)
		}
	}
	b := newBrowser(t)
	if resp, body := b.do(http.MethodDelete, a.url("/v1/rooms/lobby/connections/c1"), "", key...); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE of a stream's connection: %s %s", resp.Status, body)
	}
	for kind != "end" {
		_, kind, data = event(t, first)
	}
	if data != `{"code":"left","retry":"never"}` {
		t.Errorf("%s", data)
	}
}

func TestStreamsThatCannotBe(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	key := []string{"Authorization", "Bearer " + a.RunKey()}
	var rooms strings.Builder
	rooms.WriteString("a")
	for i := range 51 {
		rooms.WriteString(",r" + strings.Repeat("x", i))
	}
	for path, want := range map[string]int{
		"/v1/rooms/a.b/events":                                404,
		"/v1/events?rooms=a,a.b":                              404,
		"/v1/events?rooms=a,,b":                               404,
		"/v1/rooms/lobby/events?after=x":                      422,
		"/v1/rooms/lobby/events?after=":                       422,
		"/v1/rooms/lobby/events?after=-1":                     422,
		"/v1/rooms/lobby/events?after=9007199254740992":       422,
		"/v1/rooms/lobby/events?after=1&after=1":              422,
		"/v1/rooms/lobby/events?after=%zz":                    422,
		"/v1/rooms/lobby/events?after=1;mode=count":           422,
		"/v1/rooms/lobby/events?mode=x":                       422,
		"/v1/rooms/lobby/events?mode=count&mode=x":            422,
		"/v1/rooms/lobby/events?join=c&user=u&user=v":         422,
		"/v1/rooms/lobby/events?join=c&join=d&user=u":         422,
		"/v1/rooms/lobby/events?join=":                        422,
		"/v1/rooms/lobby/events?join=c":                       422,
		"/v1/rooms/lobby/events?join=a%20b&user=u":            422,
		"/v1/rooms/lobby/events?join=c&user=u&name=":          422,
		"/v1/rooms/lobby/events?join=c&user=u&name=%E2%80%AE": 422,
		"/v1/events":                         422,
		"/v1/events?rooms=":                  422,
		"/v1/events?rooms=a&mode=%zz":        422,
		"/v1/events?rooms=" + rooms.String(): 422,
		"/v1/events?rooms=a&join=c&user=u":   422,
	} {
		if resp, body := b.do(http.MethodGet, a.url(path), "", key...); resp.StatusCode != want {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	if resp, _ := b.do(http.MethodGet, a.url("/v1/rooms/lobby/events?join=c&user=u"), ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a join without a key: %s", resp.Status)
	}
	if resp, _ := b.do(http.MethodGet, a.url("/v1/rooms/lobby/events"), "", "Authorization", "Bearer x"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("with a bad token: %s", resp.Status)
	}
	resp, body := b.do(http.MethodHead, a.url("/v1/rooms/lobby/events?join=c&user=u"), "", key...)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || body != "" {
		t.Errorf("HEAD: %s %v", resp.Status, resp.Header)
	}
	if n := a.streams.Len(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
	if rooms, _ := b.do(http.MethodGet, a.url("/v1/rooms/lobby"), ""); rooms.StatusCode != http.StatusOK {
		t.Errorf("%s", rooms.Status)
	}
}

// As many different rooms as may be are watched from one address; their places are free
// again when the streams have ended.
func TestWatchedRoomsAreLimitedByAddress(t *testing.T) {
	a := start(t, nil).ready(t)
	var rooms []string
	for i := range access.MaxWatched {
		rooms = append(rooms, "r"+strings.Repeat("x", i%50)+strings.Repeat("y", i/50))
	}
	var all []*http.Response
	for part := range slices.Chunk(rooms, 50) {
		resp, err := http.Get(a.url("/v1/events?rooms=" + strings.Join(part, ","))) //nolint:noctx // closed below
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		all = append(all, resp)
	}
	b := newBrowser(t)
	if resp, _ := b.do(http.MethodGet, a.url("/v1/rooms/lobby/events"), ""); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one room more: %s", resp.Status)
	}
	head := func(path string, want int) {
		t.Helper()
		if resp, _ := b.do(http.MethodHead, a.url(path), ""); resp.StatusCode != want {
			t.Errorf("HEAD %s: %s, want %d", path, resp.Status, want)
		}
	}
	head("/v1/rooms/lobby/events", http.StatusTooManyRequests)
	head("/v1/rooms/"+rooms[0]+"/events", http.StatusOK)
	for _, resp := range all {
		resp.Body.Close()
	}
	redistest.Eventually(t, 5*time.Second, "all streams have ended", func() bool { return a.streams.Len() == 0 })
	for part := range slices.Chunk(rooms, 50) {
		head("/v1/events?rooms="+strings.Join(part, ","), http.StatusOK)
	}
	head("/v1/rooms/lobby/events", http.StatusOK) // HEAD watches nothing
	event(t, a.events(t, "/v1/rooms/lobby/events"))
}

package contract

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// errors are what a test has found.
type found []string

func (*found) Helper() {}

func (f *found) Errorf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

const (
	occupancy = `{"room":"lobby","users":0,"connections":0,"version":0,"stale":false,"as_of":"2026-01-01T00:00:00.000Z"}`
	lease     = `{"room":"lobby","connection":"c1","user":"u1","expires_in":30,"renew_in":10,"users":1,"connections":1,"version":7}`
	gone      = `{"type":"urn:presence:problem:gone","title":"T","status":410,"code":"gone","detail":"D","retry":"never"}`
	invalid   = `{"type":"urn:presence:problem:invalid","title":"T","status":422,"code":"invalid","detail":"D","retry":"never","errors":[{"pointer":"/ttl","detail":"D"}]}`
	nowhere   = `{"type":"urn:presence:problem:not_found","title":"T","status":404,"code":"not_found","detail":"D","retry":"never"}`
	notTaken  = `{"type":"urn:presence:problem:method_not_allowed","title":"T","status":405,"code":"method_not_allowed","detail":"D","retry":"never"}`
)

// What is against the documents is found, and nothing else.
func TestExchange(t *testing.T) {
	json := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}
	tagged := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-cache"}, "Vary": {"Authorization, Origin"}, "Etag": {`W/"0"`}}
	trouble := http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"}}
	const room, c1 = "/v1/rooms/lobby", "/v1/rooms/lobby/connections/c1"
	for name, c := range map[string]struct {
		method, path, sent string
		status             int
		header             http.Header
		body               string
		want               string // part of what is found; "": nothing
	}{
		"numbers":             {"GET", room, "", 200, tagged, occupancy, ""},
		"HEAD":                {"HEAD", room, "", 200, tagged, "", ""},
		"a field more":        {"GET", room, "", 200, tagged, strings.Replace(occupancy, "{", `{"more":1,`, 1), "additional properties 'more' not allowed"},
		"a field less":        {"GET", room, "", 200, tagged, strings.Replace(occupancy, `"users":0,`, "", 1), "missing property 'users'"},
		"another time":        {"GET", room, "", 200, tagged, strings.Replace(occupancy, ".000Z", "+01:00", 1), "as_of"},
		"another type":        {"GET", room, "", 200, http.Header{"Content-Type": {"text/plain"}}, occupancy, `not of the type "text/plain"`},
		"a tag that is none":  {"GET", room, "", 200, http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-cache"}, "Vary": {"Authorization"}, "Etag": {`"x"`}}, occupancy, "ETag"},
		"without a header":    {"GET", room, "", 200, json, occupancy, "Vary is missing"},
		"another status":      {"GET", room, "", 202, json, occupancy, "is never answered 202"},
		"a bad name":          {"GET", "/v1/rooms/a.b", "", 200, tagged, occupancy, "room: "},
		"a list":              {"GET", "/v1/rooms?limit=5&prefix=&cursor=abc", "", 200, json, `{"rooms":[]}`, ""},
		"too much":            {"GET", "/v1/rooms?limit=1001", "", 200, json, `{"rooms":[]}`, "limit: "},
		"a parameter more":    {"GET", "/v1/rooms?all=1", "", 200, json, `{"rooms":[]}`, "does not describe the parameter all"},
		"a parameter less":    {"GET", room + "/changes", "", 200, json, `{"room":"lobby","version":0,"changes":[]}`, "after is missing"},
		"a join":              {"PUT", c1, `{"user":"u1","ttl":30}`, 201, json, lease, ""},
		"a bad join":          {"PUT", c1, `{"user":"u1","ttl":4}`, 201, json, lease, "ttl"},
		"a join of too much":  {"PUT", c1, `{"user":"u1","age":4}`, 201, json, lease, "'age' not allowed"},
		"a bad id":            {"PUT", "/v1/rooms/lobby/connections/%2e%2e", `{"user":"u1"}`, 201, json, lease, "connection: "},
		"a join of nothing":   {"PUT", c1, "", 201, json, lease, "EOF"},
		"a leave":             {"POST", c1 + "/leave", "", 204, json, "", ""},
		"a leave with a body": {"POST", c1 + "/leave", "", 204, json, "{}", "has no body"},
		"a refusal":           {"PUT", c1, `{"ttl":4}`, 422, trouble, invalid, ""},
		"of no reason":        {"PUT", c1, `{"ttl":4}`, 422, trouble, strings.Replace(invalid, `,"errors":[{"pointer":"/ttl","detail":"D"}]`, "", 1), "missing property 'errors'"},
		"of another status":   {"GET", room + "/changes?after=1", "", 410, trouble, strings.Replace(gone, "410", "404", 1), "status"},
		"of another code":     {"GET", room + "/changes?after=1", "", 410, trouble, nowhere, "value must be 'gone'"},
		"without Retry-After": {"GET", room, "", 503, trouble, strings.NewReplacer("gone", "unavailable", "410", "503", "never", "backoff").Replace(gone), "Retry-After is missing"},
		"nowhere":             {"GET", "/v1/nothing", "", 404, trouble, nowhere, ""},
		"nowhere with 200":    {"GET", "/v1/nothing", "", 200, json, "{}", "is answered 404"},
		"not taken":           {"POST", room, "", 405, http.Header{"Content-Type": {"application/problem+json"}, "Allow": {"GET, HEAD"}}, notTaken, ""},
		"taken after all":     {"POST", room, "", 405, http.Header{"Content-Type": {"application/problem+json"}, "Allow": {"GET, HEAD, POST"}}, notTaken, "the address takes [GET HEAD]"},
		"events":              {"GET", "/v1/events?rooms=a,b", "", 200, http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-store, no-transform"}}, "", ""},
		"events of no room":   {"GET", "/v1/events?rooms=a,b.c", "", 200, http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-store, no-transform"}}, "", "rooms: "},
	} {
		var f found
		Exchange(&f, httptest.NewRequest(c.method, c.path, nil), []byte(c.sent), c.status, c.header, []byte(c.body))
		if got := strings.Join(f, "\n"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestEvents(t *testing.T) {
	const diff = `{"room":"lobby","version":7,"users":0,"connections":0,"joins":[],"updates":[],"leaves":[{"user":"u1","reason":"closed"}]}`
	for name, c := range map[string]struct{ text, want string }{
		"what is said":     {"retry: 5\n\nid: 7\nevent: diff\ndata: " + diff + "\n\n:\n\nevent: end\ndata: {\"code\":\"left\",\"retry\":\"never\"}\n\n", ""},
		"several rooms":    {"event: diff\ndata: " + diff + "\n\n", ""},
		"another id":       {"id: 8\nevent: diff\ndata: " + diff + "\n\n", "the id is not the version 7"},
		"another reason":   {"event: diff\ndata: " + strings.Replace(diff, "closed", "gone", 1) + "\n\n", "reason"},
		"a field less":     {"event: diff\ndata: " + strings.Replace(diff, `"joins":[],`, "", 1) + "\n\n", "missing property 'joins'"},
		"another event":    {"event: hello\ndata: {}\n\n", "there is no such message"},
		"another line":     {"hello: 1\n\n", "line "},
		"a wrong ending":   {"event: end\ndata: {\"code\":\"left\",\"retry\":\"now\"}\n\n", "oneOf"},
		"an id of nothing": {"id: 0\nevent: end\ndata: {\"code\":\"left\",\"retry\":\"never\"}\n\n", "the message has no id"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store, no-transform")
			_, _ = w.Write([]byte(c.text)) // an error shows below
		}))
		var f found
		client := http.Client{Transport: &Transport{T: &f, Base: server.Client().Transport}}
		resp, err := client.Get(server.URL + "/v1/rooms/lobby/events") //nolint:noctx // of a test
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := resp.Write(&b); err != nil || !strings.Contains(b.String(), c.text) {
			t.Errorf("%s: %q, %v", name, b.String(), err)
		}
		server.Close()
		if got := strings.Join(f, "\n"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

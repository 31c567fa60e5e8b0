package harness

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/internal/redistest"
)

// Key makes an API key that may do everything, and returns it with the flags of
// servers that accept it.
func Key(t testing.TB) (key string, flags []string) {
	t.Helper()
	key = "psk_" + rand.Text()
	hash := sha256.Sum256([]byte(key))
	file := filepath.Join(t.TempDir(), "api-keys")
	line := fmt.Sprintf("tests sha256:%s rooms=* rights=read,write\n", hex.EncodeToString(hash[:]))
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, []string{"-api-keys-file", file}
}

// Program is a backend that calls the API with a key.
type Program struct {
	URL string // of a replica or a balancer
	Key string

	t testing.TB
}

// NewProgram returns one.
func NewProgram(t testing.TB, url, key string) *Program {
	return &Program{t: t, URL: url, Key: key}
}

// Call makes a request for a path below /v1, and returns the status and the body.
func (p *Program) Call(method, path, body string) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, p.URL+"/v1"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+p.Key)
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// Must is Call, and fails the test if the status is not 2xx. It reads the answer into
// out, unless that is nil. It may be called from any goroutine.
func (p *Program) Must(method, path, body string, out any) {
	p.t.Helper()
	status, answer, err := p.Call(method, path, body)
	switch {
	case err != nil:
		p.t.Errorf("%s %s: %v", method, path, err)
	case status/100 != 2:
		p.t.Errorf("%s %s: %d %s", method, path, status, answer)
	case out != nil:
		if err := json.Unmarshal([]byte(answer), out); err != nil {
			p.t.Errorf("%s %s: %v in %s", method, path, err, answer)
		}
	}
}

// Put puts a user into a room, through a connection of the same name. fields are more
// fields of the body, such as `,"ttl":30`.
func (p *Program) Put(room, user, fields string) {
	p.t.Helper()
	p.Must(http.MethodPut, "/rooms/"+room+"/connections/"+user, fmt.Sprintf(`{"user":%q%s}`, user, fields), nil)
}

// Delete ends the connection that Put made.
func (p *Program) Delete(room, user string) {
	p.t.Helper()
	p.Must(http.MethodDelete, "/rooms/"+room+"/connections/"+user, "", nil)
}

// Member is one user of a room, as in answers of the API.
type Member struct {
	User        string          `json:"user"`
	Name        string          `json:"name"`
	Meta        json.RawMessage `json:"meta"`
	Connections int             `json:"connections"`
	Since       string          `json:"since"`
}

// Leave is the end of a user in a room.
type Leave struct {
	User   string `json:"user"`
	Reason string `json:"reason"`
}

// Event is one of an event stream.
type Event struct {
	At   time.Time
	Kind string // its name; "" is a comment

	Version     int64    `json:"version"`
	Users       int      `json:"users"`
	Connections int      `json:"connections"`
	Stale       bool     `json:"stale"`
	Complete    bool     `json:"complete"`
	Members     []Member `json:"members"`
	Joins       []Member `json:"joins"`
	Updates     []Member `json:"updates"`
	Leaves      []Leave  `json:"leaves"`
	Mode        string   `json:"mode"`
	Code        string   `json:"code"`
	Retry       string   `json:"retry"`
}

// View is what a follower knows of the room at one instant.
type View struct {
	Version int64
	Users   int
	Stale   bool
	Counts  bool // the room is large: only its numbers are known
	Members map[string]Member
}

// Text has the members with their names and times, in one order.
func (v View) Text() string {
	var all strings.Builder
	for _, user := range slices.Sorted(maps.Keys(v.Members)) {
		m := v.Members[user]
		fmt.Fprintf(&all, "%s=%s%s/%d since %s\n", user, m.Name, m.Meta, m.Connections, m.Since)
	}
	return all.String()
}

// Follower is a program that follows a room by its event stream, and resumes the
// stream when it ends. It checks every event: a user who leaves must be there, a user
// who joins must not, and numbers must be right.
type Follower struct {
	t      testing.TB
	key    string
	path   string
	tell   func(View) // may be nil
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards:
	bases   []string
	cut     context.CancelFunc // ends the stream that is open
	streams int                // that were opened
	events  []Event
	view    View
	known   bool
}

// Follow follows room with key, or without credentials if that is "", at the first of
// the base URLs. When a stream ends it goes to the next one. It returns when the room is
// known. query is added to the address. tell, if not nil, is called for each view of a
// room with all its members.
func Follow(t testing.TB, key, room, query string, tell func(View), bases ...string) *Follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{
		t: t, key: key, path: "/v1/rooms/" + room + "/events?" + query, tell: tell,
		cancel: cancel, ended: make(chan struct{}), bases: slices.Clone(bases), cut: func() {},
	}
	go f.run(ctx)
	t.Cleanup(f.Close)
	f.Sees(answerTimeout, "the room", func(v View) bool { return !v.Stale })
	return f
}

// Close ends the follower.
func (f *Follower) Close() {
	f.cancel()
	<-f.ended
}

// Goto makes the follower continue at other base URLs, at once.
func (f *Follower) Goto(bases ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bases = slices.Clone(bases)
	f.cut()
}

func (f *Follower) run(ctx context.Context) {
	defer close(f.ended)
	for ctx.Err() == nil {
		again, err := f.stream(ctx)
		if !again {
			return
		}
		f.mu.Lock()
		if err != nil {
			f.bases = append(f.bases[1:], f.bases[0])
		}
		f.mu.Unlock()
		select {
		case <-time.After(firstWait): // sooner than the server asks for: tests need not wait so long
		case <-ctx.Done():
		}
	}
}

// stream opens one stream and applies its events. It reports whether to open another.
// The error says that the stream could not be opened.
func (f *Follower) stream(ctx context.Context) (again bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	f.cut = cancel
	base, version := f.bases[0], f.view.Version
	f.mu.Unlock()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+f.path, nil)
	if err != nil {
		return false, err
	}
	if f.key != "" {
		r.Header.Set("Authorization", "Bearer "+f.key)
	}
	if version > 0 {
		r.Header.Set("Last-Event-ID", strconv.FormatInt(version, 10))
	}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return true, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return true, fmt.Errorf("the stream answers %s", resp.Status) //nolint:err113 // of a test
	}
	f.mu.Lock()
	f.streams++
	f.mu.Unlock()
	return f.read(resp.Body), nil
}

// read takes events until the stream ends.
func (f *Follower) read(body io.Reader) (again bool) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	kind, id, data := "", "", ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "" && kind != "":
			e := Event{At: time.Now(), Kind: kind}
			err := json.Unmarshal([]byte(data), &e)
			if err == nil && id != "" && id != strconv.FormatInt(e.Version, 10) {
				err = fmt.Errorf("the id is %s", id) //nolint:err113 // of a test
			}
			if err == nil {
				err = f.take(e)
			}
			if err != nil {
				f.t.Errorf("follower of %s: event %s %s: %v", f.path, kind, data, err)
			}
			if e.Retry == "never" {
				return false
			}
			kind, id, data = "", "", ""
		case lines.Text() == "":
		case field == "":
			_ = f.take(Event{At: time.Now()})
		case field == "id":
			id = value
		case field == "event":
			kind = value
		case field == "data":
			data = value
		}
	}
	return true
}

// take applies an event, and returns the mistake in it, if there is one.
func (f *Follower) take(e Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	v := &f.view
	switch e.Kind {
	case "snapshot":
		f.known, v.Members = true, map[string]Member{}
		for _, m := range e.Members {
			v.Members[m.User] = m
		}
	case "diff":
		if err := f.applyLocked(e); err != nil {
			return err
		}
	case "mode":
		v.Counts = e.Mode == "count"
		return nil
	case "count":
	case "stale":
		v.Stale = true
		return nil
	default:
		return nil
	}
	if e.Version < v.Version && e.Kind != "snapshot" {
		return fmt.Errorf("it comes after version %d", v.Version) //nolint:err113 // of a test
	}
	v.Version, v.Users, v.Stale = e.Version, e.Users, e.Stale
	if e.Kind == "count" || e.Kind == "snapshot" && !e.Complete {
		return nil
	}
	connections := 0
	for _, m := range v.Members {
		connections += m.Connections
	}
	if len(v.Members) != e.Users || connections != e.Connections {
		return fmt.Errorf("that makes %d users with %d connections", len(v.Members), connections) //nolint:err113 // of a test
	}
	if f.tell != nil && !v.Stale {
		f.tell(*v)
	}
	return nil
}

// applyLocked applies a diff: leaves, then updates, then joins.
func (f *Follower) applyLocked(e Event) error {
	var wrong []error
	if !f.known || f.view.Counts {
		wrong = append(wrong, errors.New("there is no snapshot before it")) //nolint:err113 // of a test
	}
	members := maps.Clone(f.view.Members)
	is := func(user string, there bool) {
		if _, ok := members[user]; ok != there {
			wrong = append(wrong, fmt.Errorf("%s is there: %v", user, ok)) //nolint:err113 // of a test
		}
	}
	for _, l := range e.Leaves {
		is(l.User, true)
		delete(members, l.User)
	}
	for _, m := range e.Updates {
		is(m.User, true)
		members[m.User] = m
	}
	for _, m := range e.Joins {
		is(m.User, false)
		members[m.User] = m
	}
	f.view.Members = members
	return errors.Join(wrong...)
}

// Now is what the follower knows.
func (f *Follower) Now() View {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view
	v.Members = maps.Clone(v.Members)
	v.Stale = v.Stale || !f.known && !v.Counts
	return v
}

// Sees waits until the follower's view meets cond, and returns how long that took. It
// fails the test when that does not happen within limit.
func (f *Follower) Sees(limit time.Duration, what string, cond func(View) bool) time.Duration {
	f.t.Helper()
	begin := time.Now()
	redistest.Eventually(f.t, limit, "the stream tells of "+what, func() bool { return cond(f.Now()) })
	return time.Since(begin)
}

// SeesUsers waits until the room has that many users, as Sees does.
func (f *Follower) SeesUsers(limit time.Duration, users int) time.Duration {
	f.t.Helper()
	return f.Sees(limit, fmt.Sprintf("%d user(s)", users), func(v View) bool { return !v.Stale && v.Users == users })
}

// Events are the events of one kind that came since an instant; "" is comments.
func (f *Follower) Events(from time.Time, kind string) []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []Event
	for _, e := range f.events {
		if e.Kind == kind && !e.At.Before(from) {
			list = append(list, e)
		}
	}
	return list
}

// Streams is how many streams were opened so far.
func (f *Follower) Streams() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.streams
}

package app

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"golang.org/x/time/rate"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// quick has leases run out within a second, and heartbeats in between.
func quick(address string) func(*Config) {
	return func(c *Config) {
		c.RedisURL = address
		c.HeartbeatInterval, c.MemberTTL, c.LeaveGrace = 300*time.Millisecond, 1200*time.Millisecond, 300*time.Millisecond
	}
}

// metric is the value of one that the replica reports.
func (r *running) metric(t *testing.T, name string) string {
	t.Helper()
	_, text := newBrowser(t).do(http.MethodGet, "http://"+r.AdminAddr()+"/metrics", "")
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("there is no %s", name)
	}
	return found[1]
}

// online is who is in the lobby, as Redis has it: the names of all connections.
func online(m *miniredis.Miniredis) string {
	var names []string
	keys, _ := m.HKeys("presence:{lobby}:conns")
	for _, key := range keys {
		user := m.HGet("presence:{lobby}:conns", key)[presence.GenerationSize:]
		_, name, _ := strings.Cut(m.HGet("presence:{lobby}:users", user), " ")
		name, _, _ = strings.Cut(name, "\n") // metadata, or the mark of a guest
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// never fails the test when bad holds at some time within d.
func never(t *testing.T, d time.Duration, what string, bad func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if bad() {
			t.Fatalf("%s", what)
		}
	}
}

// A double click on Join, under one name or two, is one person, who leaves for good
// and, after a loss of data, comes back once.
func TestDoubleClickOnJoinIsOnePerson(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, quick(address)).ready(t)
	b := newBrowser(t)
	b.get(a.url("/"))
	tab := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	tab.until(`"tree"`)
	for i := range 5 {
		tab.send(fmt.Sprintf(`{"action":"join","data":{"username":"N%d"}}`, i+1))
	}
	for range 5 {
		tab.until(`"action":"join"`)
	}
	if n := a.metric(t, "presence_local_members"); n != "1" {
		t.Errorf("%s local members", n)
	}
	m.FlushAll()
	redistest.Eventually(t, 5*time.Second, "the person is back", func() bool { return online(m) == "N5" })
	never(t, 2*time.Second, "the person is back as somebody else", func() bool { return online(m) != "N5" })
	tab.send(`{"action":"leave"}`)
	tab.until(`"action":"leave"`)
	never(t, 2*time.Second, "somebody is there who has left", func() bool { return online(m) != "" })
	if n := a.metric(t, "presence_local_members"); n != "0" {
		t.Errorf("%s local members after the leave", n)
	}
}

// Posts can join and leave, by the action's or the button's name, literally; nothing
// else is done, whatever they name, and no visit without a socket looks at a room.
func TestPostsJoinAndLeaveAndNothingElse(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, quick(address)).ready(t)
	const form, parts, data = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "application/json"
	part := func(name, value string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	for _, c := range []struct {
		kind, query, body string
		joined            bool
	}{
		{form, "", "lvt-action=join&username=Ann&join=", true},
		{form, "", "lvt-action=join&username=Ann", true},
		{form, "", "username=Ann&join=", true},
		{form, "", "username=Ann&join=1", true},
		{form, "", "username=Ann&lvt-submitter=join", true},
		{form + "; charset=utf-8", "?username=Eve&lvt-action=OnConnect&leave=", "username=Ann&join=", true},
		{parts, "", part("lvt-action", "join") + part("username", "Ann") + "--b--", true},
		{parts, "", part("join", "") + part("username", "Ann") + "--b--", true},
		{data, "", `{"action":"join","data":{"username":"Ann"}}`, true},
		{data, "", `{"submitter":"join","data":{"username":"Ann"}}`, true},

		{form, "", "lvt-action=OnConnect&username=Ann", false},
		{form, "", "lvt-action=onConnect&username=Ann", false},
		{form, "", "lvt-action=on_connect&username=Ann&join=", false},
		{form, "", "lvt-action=Join&username=Ann&join=", false},
		{form, "", "lvt-action=join&lvt-action=join&username=Ann", false},
		{form, "", "lvt-action=join&username=Ann&username=Ben", false},
		{form, "", "lvt-action=PresenceChanged&username=Ann", false},
		{form, "", "lvt-action=Mount&username=Ann", false},
		{form, "", "lvt-submitter=OnConnect&username=Ann", false},
		{form, "", "OnConnect=&username=Ann", false},
		{form, "", "on_connect=&username=Ann", false},
		{form, "", "join=&leave=&username=Ann", false},
		{form, "", "username=Ann", false},
		{form, "", "%zz", false},
		{form, "", "", false},
		{form, "?lvt-action=join&username=Ann", "x=y", false},
		{form, "?join=&username=Ann", "", false},
		{parts, "", part("lvt-action", "OnConnect") + part("username", "Ann") + "--b--", false},
		{parts, "", "no parts", false},
		{data, "", `{"action":"OnConnect","data":{"username":"Ann"}}`, false},
		{data, "", `{"ACTION":"join","data":{"username":"Ann"}}`, false},
		{data, "", `{"action":"__ping__"}`, false},
		{data, "", `{"action":["join"],"data":{"username":"Ann"}}`, false},
		{data, "", `{"action":"join","data":"Ann"}`, false},
		{data, "", `null`, false},
		{data, "", `{`, false},
		{"text/plain", "", `{"action":"join","data":{"username":"Ann"}}`, false},
		{"", "", `{"action":"join","data":{"username":"Ann"}}`, false},
	} {
		b := newBrowser(t)
		b.get(a.url("/"))
		resp, body := b.do(http.MethodPost, a.url("/"+c.query), c.body, "Content-Type", c.kind)
		want, names := http.StatusBadRequest, ""
		if c.joined {
			want, names = http.StatusOK, "Ann"
		}
		if resp.StatusCode != want || !c.joined && !strings.Contains(body, "This form can&#39;t be read") {
			t.Errorf("%s %s %q: %s %.300s", c.kind, c.query, c.body, resp.Status, body)
		}
		if got := online(m); got != names {
			t.Errorf("%s %s %q: %q is there, want %q", c.kind, c.query, c.body, got, names)
		}
		b.post(a.url("/"), leave)
		if got := online(m); got != "" {
			t.Fatalf("%s %s %q: %q is there after the leave", c.kind, c.query, c.body, got)
		}
	}
	if n := a.metric(t, "presence_viewers"); n != "0" {
		t.Errorf("%s viewers", n)
	}
	if n := a.metric(t, "presence_local_members"); n != "0" {
		t.Errorf("%s local members", n)
	}
	for _, accept := range []string{"text/html", "application/json"} {
		if resp, _ := newBrowser(t).do(http.MethodPost, a.url("/"), "join=&username="+strings.Repeat("x", 20_000), "Accept", accept); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a form of 20 kB: %s", resp.Status)
		}
	}
}

// keep sets a cookie in the jar of b.
func (b *browser) keep(a *running, cookie *http.Cookie) {
	b.t.Helper()
	u, err := url.Parse(a.url("/"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.Jar.SetCookies(u, []*http.Cookie{cookie})
}

// kept is the cookie in which b keeps under which name it is in the lobby; nil if it
// keeps none.
func (b *browser) kept(a *running) *http.Cookie {
	b.t.Helper()
	u, err := url.Parse(a.url("/"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == "presence-in-lobby" {
			return c
		}
	}
	return nil
}

// A page that is loaded puts back only what this browser had, by what we gave it.
func TestLoadingAPageJoinsNobody(t *testing.T) {
	address, m := redisURL(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret that all replicas share"), 0o600); err != nil {
		t.Fatal(err)
	}
	replica := func() *running {
		return start(t, func(c *Config) { c.RedisURL, c.SessionSecretFile = address, secret }).ready(t)
	}
	a := replica()
	ann, eve := newBrowser(t), newBrowser(t)
	demand(t, ann.post(a.url("/"), join("Ann")), "Logged in as <strong>Ann</strong>")
	had := ann.kept(a)
	if had == nil {
		t.Fatal("the browser keeps nothing")
	}
	ann.get(a.url("/")) // renewed, and still a cookie that counts
	had = ann.kept(a)
	// Redis loses all, and with it goes the replica that would put her back.
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	m.FlushAll()
	a = replica()
	redistest.Eventually(t, 5*time.Second, "the replica trusts Redis", func() bool {
		_, body := eve.do(http.MethodGet, a.url("/v1/rooms/lobby"), "")
		return strings.Contains(body, `"users":0,`) && strings.Contains(body, `"stale":false`)
	})
	parts := strings.Split(had.Value, ".")
	for what, value := range map[string]string{
		"a name": "Eve", "of another browser": had.Value, "without a signature": parts[0] + "." + parts[1] + ".",
		"another name": parts[0] + ".RXZl." + parts[2], "another time": "9" + parts[0] + "." + parts[1] + "." + parts[2], "nothing": "",
	} {
		eve.keep(a, &http.Cookie{Name: had.Name, Value: value})
		if page := eve.get(a.url("/")); strings.Contains(page, "Logged in") {
			t.Errorf("%s: joined by a page load", what)
		}
	}
	ann.keep(a, &http.Cookie{Name: "presence-in-tea", Value: had.Value})
	if page := ann.get(a.url("/rooms/tea")); strings.Contains(page, "Logged in") {
		t.Error("joined another room by a page load")
	}
	for range 3 {
		resp, _ := ann.do(http.MethodHead, a.url("/"), "", "Upgrade", "websocket", "Connection", "Upgrade")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD: %s", resp.Status)
		}
	}
	if got := online(m); got != "" {
		t.Errorf("%q is there", got)
	}
	demand(t, ann.get(a.url("/")), "Logged in as <strong>Ann</strong>", "1 user(s) online")
	// Leaving counts also when Redis does not know any more who was there.
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	m.FlushAll()
	a = replica()
	ann.post(a.url("/"), leave)
	if page := ann.get(a.url("/")); strings.Contains(page, "Logged in") || online(m) != "" {
		t.Errorf("%q is there after the leave", online(m))
	}
}

// What a browser keeps is of no use after its time, and puts back no more often than
// forms may be posted.
func TestPuttingBackIsLimitedAsFormsAre(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, func(c *Config) { c.RedisURL = address }).ready(t)
	ann := newBrowser(t)
	ann.post(a.url("/"), join("Ann"))
	// Nothing but her cookie knows of her.
	conns, err := m.HKeys("presence:{lobby}:conns")
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range conns {
		if _, err := a.replica.End(t.Context(), "lobby", conn); err != nil {
			t.Fatal(err)
		}
	}
	a.limiter.mu.Lock()
	a.limiter.buckets["127.0.0.1"] = &bucket{Limiter: rate.NewLimiter(0, 0), used: time.Now().Add(time.Hour)}
	a.limiter.mu.Unlock()
	if page := ann.get(a.url("/")); strings.Contains(page, "Logged in") || online(m) != "" {
		t.Error("put back beyond the limit")
	}
	a.limiter.mu.Lock()
	delete(a.limiter.buckets, "127.0.0.1")
	a.limiter.mu.Unlock()
	demand(t, ann.get(a.url("/")), "Logged in as <strong>Ann</strong>")
}

func TestOneAddressFillsNeitherTheRoomsNorARoom(t *testing.T) {
	a := start(t, func(c *Config) {
		c.TrustedProxies, c.MaxRoomsPerIP, c.MaxMembersPerIP = "127.0.0.1", 2, 3
	}).ready(t)
	from := func(b *browser, method, path, address string, form url.Values) string {
		t.Helper()
		_, body := b.do(method, a.url(path), form.Encode(), "X-Forwarded-For", address)
		return body
	}
	const rooms, members = "are in too many rooms", "Too many people at your network address"
	all := make([]*browser, 5)
	for i := range all {
		all[i] = newBrowser(t)
	}
	for i, c := range []struct{ path, address, want string }{
		{"/", "2001:db8::1", "Logged in as"},
		{"/rooms/tea", "2001:db8::ffff:2", "Logged in as"},
		{"/rooms/third", "2001:db8::3", rooms},
		{"/", "2001:db8::4", "Logged in as"},
		{"/", "2001:db8::5", members},
	} {
		if body := from(all[i], http.MethodPost, c.path, c.address, join("Ann")); !strings.Contains(body, c.want) {
			t.Errorf("%s from %s: no %q", c.path, c.address, c.want)
		}
	}
	for _, other := range []string{"2001:db8:0:1::1", "192.0.2.1"} {
		demand(t, from(newBrowser(t), http.MethodPost, "/rooms/third", other, join("Ben")), "Logged in as")
	}
	from(all[1], http.MethodPost, "/rooms/tea", "2001:db8::2", leave)
	demand(t, from(all[4], http.MethodPost, "/rooms/third", "2001:db8::5", join("Cid")), "Logged in as")

	// A socket counts as its tab does, however often it joins, and until it closes.
	b := newBrowser(t)
	b.get(a.url("/"))
	tab := b.open(a, "/?tab=aaaaaaaaaaaaaaaa")
	tab.until(`"tree"`)
	for range 5 {
		tab.send(`{"action":"join","data":{"username":"Dan"}}`)
		if reply := tab.until(`"action":"join"`); !strings.Contains(reply, `"success":true`) {
			t.Fatalf("reply %s", reply)
		}
	}
	for i, want := range []string{`"success":true`, `"success":true`, members} {
		tab := b.open(a, fmt.Sprintf("/?tab=bbbbbbbbbbbbbbb%d", i))
		tab.until(`"tree"`)
		tab.send(`{"action":"join","data":{"username":"Dan"}}`)
		if reply := tab.until(`"action":"join"`); !strings.Contains(reply, want) {
			t.Fatalf("reply %s, want %s", reply, want)
		}
	}
}

// mark is the user as whom a form joined, by the address of the page that followed.
func mark(t *testing.T, page *http.Response) string {
	t.Helper()
	user := page.Request.URL.Query().Get("adopt")
	if page.StatusCode != http.StatusOK || user == "" {
		t.Fatalf("%s at %s, without a mark", page.Status, page.Request.URL)
	}
	return user
}

// early sends a form as a page does whose script has not come yet, and returns the mark
// of the page that follows.
func (b *browser) early(a *running, name string) string {
	b.t.Helper()
	resp, page := b.do(http.MethodPost, a.url("/"), join(name).Encode())
	demand(b.t, page, "Logged in as <strong>"+name+"</strong>")
	return mark(b.t, resp)
}

// arrive does what the client does for a tab: it asks by HEAD, and opens a socket.
func (b *browser) arrive(a *running, address string) *tabSocket {
	b.t.Helper()
	b.do(http.MethodHead, a.url(address), "")
	return b.open(a, address)
}

// A form that was sent before the script came has joined for the tab that sent it, and
// for no other: it stays, and is gone for good once it leaves.
func TestFormBeforeTheScriptStaysAndLeavesForGood(t *testing.T) {
	address, m := redisURL(t)
	a, other := start(t, quick(address)).ready(t), start(t, quick(address)).ready(t)
	b := newBrowser(t)
	user := b.early(a, "Ann")
	const second = "/?tab=bbbbbbbbbbbbbbbb"
	for _, address := range []string{second, second + "&adopt=", second + "&adopt=aaaaaaaaaaaaaaaa"} {
		if frame := b.open(a, address).until(`"tree"`); strings.Contains(frame, "Logged in") {
			t.Errorf("%s is joined: %s", address, frame)
		}
	}
	first := "/?tab=aaaaaaaaaaaaaaaa&adopt=" + user
	tab := b.arrive(other, first)
	tab.until("Logged in as")
	if b.kept(a) != nil {
		t.Error("the browser keeps what its tab knows")
	}
	never(t, 3*time.Second, "the person is not there once", func() bool { return online(m) != "Ann" })
	if err := tab.Close(); err != nil { // a lost connection
		t.Fatal(err)
	}
	tab = b.arrive(a, first)
	tab.until("Logged in as")
	tab.send(`{"action":"leave"}`)
	tab.until(`"action":"leave"`)
	_ = tab.Close()
	b.get(a.url("/"))
	b.arrive(other, first).until(`"tree"`)
	never(t, 2*time.Second, "somebody is there who has left", func() bool { return online(m) != "" })
}

// Two tabs of a browser send forms under two names before their scripts come: neither
// becomes the other. The script of the one whose connection the other has taken joins
// again by its name.
func TestTwoFormsBeforeTheScriptAreTwoPeople(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, quick(address)).ready(t)
	b := newBrowser(t)
	ann, ben := b.early(a, "Ann"), b.early(a, "Ben")
	first := b.arrive(a, "/?tab=aaaaaaaaaaaaaaaa&adopt="+ann)
	if frame := first.until(`"tree"`); strings.Contains(frame, "Logged in") {
		t.Fatalf("Ann's tab is somebody: %s", frame)
	}
	b.arrive(a, "/?tab=bbbbbbbbbbbbbbbb&adopt="+ben).until("Logged in as")
	first.send(`{"action":"join","data":{"username":"Ann"}}`)
	first.until(`"action":"join"`)
	for _, name := range []string{"Ann", "Ben"} {
		if !strings.Contains(online(m), name) {
			t.Errorf("%s is not there: %s", name, online(m))
		}
	}
	never(t, 2*time.Second, "it is not two", func() bool { return strings.Count(online(m), " ") != 1 })
}

// Who leaves by a form while the tab is still to become the browser's connection leaves
// that too; somebody else of the browser stays.
func TestLeaveByFormEndsWhatTheTabWasToBecome(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, quick(address)).ready(t)
	b := newBrowser(t)
	ann := b.early(a, "Ann")
	resp, _ := b.do(http.MethodPost, a.url("/?tab=aaaaaaaaaaaaaaaa&adopt="+ann), leave.Encode())
	if got := online(m); got != "" || resp.Request.URL.Query().Has("adopt") {
		t.Errorf("%q is there, at %s", got, resp.Request.URL)
	}
	b.early(a, "Ben")
	b.do(http.MethodPost, a.url("/?tab=aaaaaaaaaaaaaaaa&adopt="+ann), leave.Encode())
	if got := online(m); got != "Ben" {
		t.Errorf("%q is there, want Ben", got)
	}
	// A form that leaves, or is refused, marks nothing.
	for form, refused := range map[string]url.Values{"a leave": leave, "a bad name": join("{{x}}")} {
		if resp, _ := b.do(http.MethodPost, a.url("/?adopt="+ann), refused.Encode()); form == "a leave" && resp.Request.URL.Query().Has("adopt") {
			t.Errorf("%s: %s", form, resp.Request.URL)
		}
	}
}

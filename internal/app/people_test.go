package app

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

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
		value := m.HGet("presence:{lobby}:conns", key)
		names = append(names, value[strings.LastIndex(value, " ")+1:])
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

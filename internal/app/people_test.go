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

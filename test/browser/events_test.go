package browser

import (
	_ "embed"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/redistest"
	"presence/test/harness"
)

// follow is a page that follows rooms by EventSource, as its authors would.
//
//go:embed follow.html
var follow string

// followed is a room as the page knows it.
type followed struct {
	Names   []string `json:"names"`   // of who is there, by user
	Changes []string `json:"changes"` // all so far, as "+user", "~user", "-user"
	Kinds   []string `json:"kinds"`   // of the events since it was looked at last
	Wrong   []string `json:"wrong"`   // changes that did not fit
	State   int      `json:"state"`   // of the EventSource
	Ends    []string `json:"ends"`    // the codes of all ends
}

// look returns a room of the page. With anew it restarts the page's counts of events.
func look(tab *tab, room string, anew bool) followed {
	tab.t.Helper()
	return eval[followed](tab, fmt.Sprintf(`(() => {
		const room = %s;
		const users = Object.keys(room.members).sort();
		const seen = {
			names: users.map((user) => room.members[user].name), changes: room.changes, wrong: room.wrong,
			kinds: room.told.slice(room.from ?? 0).map((event) => event.kind),
			ends: room.told.filter((event) => event.kind === "end").map((event) => event.code),
			state: room.source.readyState,
		};
		if (%v) room.from = room.told.length;
		return seen;
	})()`, room, anew))
}

// A page of another origin follows a room by EventSource alone, and is present by a
// second stream. Both stay right through a killed replica, a drain and a Redis that loses
// its data. The second one ends for good when its user is removed.
func TestEventSourceStaysRight(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(follow))
	}))
	t.Cleanup(origin.Close)
	key, flags := harness.Key(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "ann", "name": "Ann", "exp": time.Now().Add(time.Hour).Unix(),
		"presence": map[string]any{"rooms": map[string]any{"lobby": []string{"observe", "join"}}},
	}).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	site := newSite(t, append(flags, "-token-secret-file", secret, "-api-origins", origin.URL, "-trusted-proxies", "127.0.0.0/8",
		"-shutdown-timeout", "3s", "-heartbeat-interval", "2s", "-member-ttl", "10s", "-leave-grace", "6s")...)
	entry := harness.StartHAProxy(t, site.a.Addr, site.b.Addr).URL
	reader := harness.NewReader(t, harness.Options{Room: "/rooms/else"}, entry)
	leadsTo := func(name string) {
		t.Helper()
		redistest.Eventually(t, soon, "the balancer leads to "+name, func() bool {
			return reader.Load() == nil && (name == "a replica" || reader.Now().Replica == name)
		})
	}
	leadsTo("a replica")

	tab := newBrowser(t).newTab()
	tab.outage = true
	tab.navigate(origin.URL)
	eval[bool](tab, fmt.Sprintf("(window.eyes = follow(%q), true)", entry+"/v1/rooms/lobby/events"))
	// both waits until the page has these people, and returns both of its rooms.
	both := func(what string, names ...string) (eyes, own followed) {
		t.Helper()
		redistest.Eventually(t, soon, "the page knows of "+what, func() bool {
			eyes, own = look(tab, "eyes", false), look(tab, "own", false)
			return slices.Equal(eyes.Names, names) && slices.Equal(own.Names, names)
		})
		return eyes, own
	}
	redistest.Eventually(t, soon, "the first stream is open", func() bool {
		return len(look(tab, "eyes", false).Kinds) > 0
	})
	first, second := site.a, site.b
	if second.Metric("presence_streams") > 0 {
		first, second = second, first
	}
	eval[bool](tab, fmt.Sprintf("(window.own = follow(%q), true)", entry+"/v1/rooms/lobby/events?join=tab&access_token="+token))
	program := harness.NewProgram(t, second.URL, key)
	program.Put("lobby", "ben", `,"name":"Ben","ttl":60`)
	program.Put("lobby", "cem", `,"name":"Cem","ttl":60`)
	both("the first to come", "Ann", "Ben", "Cem")
	// only fails the test if the page was told of the rooms by other events than these.
	only := func(when string, eyes, own followed, kinds ...string) {
		t.Helper()
		for what, room := range map[string]followed{"eyes": eyes, "own": own} {
			for _, kind := range room.Kinds {
				if !slices.Contains(kinds, kind) {
					t.Errorf("%s: %s was sent %v, want nothing but %v", when, what, room.Kinds, kinds)
					break
				}
			}
		}
		look(tab, "eyes", true)
		look(tab, "own", true)
	}
	look(tab, "eyes", true)
	look(tab, "own", true)

	first.Kill()
	program.Delete("lobby", "ben")
	program.Put("lobby", "dan", `,"name":"Dan","ttl":60`)
	program.Must(http.MethodPatch, "/rooms/lobby/connections/cem", `{"name":"Cem C."}`, nil)
	eyes, own := both("what happened while a replica was dead", "Ann", "Cem C.", "Dan")
	only("after a kill", eyes, own, "diff")

	first.Restart()
	firstName := harness.NewReader(t, harness.Options{}, first.URL)
	if err := firstName.Load(); err != nil {
		t.Fatal(err)
	}
	leadsTo(firstName.Now().Replica)
	second.Terminate()
	program = harness.NewProgram(t, first.URL, key)
	program.Put("lobby", "eva", `,"name":"Eva","ttl":60`)
	program.Delete("lobby", "dan")
	<-second.Ended()
	program.Put("lobby", "fay", `,"name":"Fay","ttl":60`)
	eyes, own = both("what happened during a drain", "Ann", "Cem C.", "Eva", "Fay")
	if !slices.Contains(eyes.Ends, "draining") || !slices.Contains(own.Ends, "draining") {
		t.Errorf("the drain ended streams with %v and %v", eyes.Ends, own.Ends)
	}
	only("after a drain", eyes, own, "diff", "end")

	program.Put("lobby", "cem", `,"ttl":60`) // the replica that took it is gone
	if answer := site.redis.Do("flushall"); answer != "OK" {
		t.Fatal(answer)
	}
	for _, room := range []string{"eyes", "own"} {
		redistest.Eventually(t, soon, "a snapshot tells "+room+" that the room is right again", func() bool {
			kinds := look(tab, room, false).Kinds
			return len(kinds) > 0 && kinds[len(kinds)-1] == "snapshot"
		})
	}
	eyes, own = both("who was there before", "Ann", "Cem C.", "Eva", "Fay")
	only("after a flush", eyes, own, "stale", "snapshot")

	program.Delete("lobby", "eva")
	program.Must(http.MethodDelete, "/rooms/lobby/members/ann", "", nil)
	redistest.Eventually(t, soon, "the page's own stream is closed", func() bool { return look(tab, "own", false).State == 2 })
	redistest.Eventually(t, soon, "its user is gone", func() bool {
		eyes = look(tab, "eyes", false)
		return slices.Equal(eyes.Names, []string{"Cem C.", "Fay"})
	})
	own = look(tab, "own", false)
	if n := len(own.Ends); own.Ends[n-1] != "removed" {
		t.Errorf("the stream ended with %v", own.Ends)
	}
	if eyes.State != 1 || len(eyes.Wrong)+len(own.Wrong) > 0 {
		t.Errorf("state %d, wrong %v and %v", eyes.State, eyes.Wrong, own.Wrong)
	}
	// Each net change once; what comes in one window has no order among its own.
	slices.Sort(eyes.Changes)
	if got, want := strings.Join(eyes.Changes, " "), "+ann +ben +cem +dan +eva +fay -ann -ben -dan -eva ~cem"; got != want {
		t.Errorf("the changes are\n%s, want\n%s", got, want)
	}
}

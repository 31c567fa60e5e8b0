package app

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"

	"presence/internal/redistest"
)

// identitySecret signs the tokens of these tests.
const identitySecret = "a secret of a test, long enough"

// withTokens has a server take tokens of [bearer], and keeps rooms private but open-*.
func withTokens(t *testing.T, change func(*Config)) func(*Config) {
	t.Helper()
	file := t.TempDir() + "/secret"
	if err := writeFile(file, identitySecret); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) {
		if change != nil {
			change(c)
		}
		c.TokenSecretFile, c.PublicRooms = file, "open-*,lobby"
	}
}

// bearer is a token for user, under name unless that is "", with rights in rooms, for so
// long.
func bearer(t *testing.T, user, name string, life time.Duration, rooms map[string][]string) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": user, "exp": time.Now().Add(life).Unix(), "presence": map[string]any{"rooms": rooms, "meta": map[string]string{"color": "teal"}}}
	if name != "" {
		claims["name"] = name
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(identitySecret))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// both are the rights to watch and to join.
var both = []string{"observe", "join"}

// members is what the API tells the bearer of token of a room.
func (r *running) members(t *testing.T, room, token string) string {
	t.Helper()
	resp, body := newBrowser(t).do(http.MethodGet, r.url("/v1/rooms/"+room+"/members"), "", "Authorization", "Bearer "+token)
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, body)
	}
	return body
}

// tells fails unless the API soon tells the bearer of token all of parts of a room.
func (r *running) tells(t *testing.T, room, token string, parts ...string) {
	t.Helper()
	body := ""
	redistest.Eventually(t, 5*time.Second, fmt.Sprintf("%s has %q", room, parts), func() bool {
		body = r.members(t, room, token)
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(body, part) })
	})
}

// still has b not follow redirects.
func (b *browser) still() *browser {
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

// A token in the address is answered once by the address without it, and by cookies that
// live as long as it; with them the page is that of the token's user, without JavaScript,
// through sockets, streams and PUT, and one user.
func TestPageOfATokenIsThatOfItsUser(t *testing.T) {
	a := start(t, withTokens(t, nil)).ready(t)
	token := bearer(t, "42", "Ada", time.Hour, map[string][]string{"team-1": both, "team-2": {"observe"}})
	b := newBrowser(t)
	resp, _ := b.still().do(http.MethodGet, a.url("/rooms/team-1?x=1&access_token="+token+"&y=a%20b"), "")
	h := resp.Header
	if resp.StatusCode != http.StatusSeeOther || h.Get("Location") != "/rooms/team-1?x=1&y=a%20b" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", resp.Status, h)
	}
	for _, c := range resp.Cookies() {
		if !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode || c.MaxAge < 3500 || c.MaxAge > 3600 {
			t.Errorf("cookie %+v", c)
		}
	}
	b.CheckRedirect = nil
	page := b.get(a.url("/rooms/team-1"))
	demand(t, page, "Join as Ada", `data-as="42"`, `data-joined="false"`)
	if strings.Contains(page, `name="username"`) {
		t.Error("the name can be chosen")
	}
	demand(t, b.post(a.url("/rooms/team-1"), join("Eve")), "Logged in as <strong>Ada</strong>", `data-key="42"`)
	demand(t, b.get(a.url("/rooms/team-1")), "Logged in as <strong>Ada</strong>")
	const present = `"user":"42","name":"Ada","meta":{"color":"teal"},"connections":` // and no guest
	a.tells(t, "team-1", token, present+"1")
	tab := b.open(a, "/rooms/team-1?tab=aaaaaaaaaaaaaaaa")
	tab.until("Join as")
	tab.send(`{"action":"join","data":{"username":"Eve"}}`)
	tab.until("Logged in as")
	if resp, body := newBrowser(t).do(http.MethodPut, a.url("/v1/rooms/team-1/connections/c1"), "{}", "Authorization", "Bearer "+token); resp.StatusCode != http.StatusCreated || !strings.Contains(body, `"users":1,"connections":3`) {
		t.Errorf("%s %s", resp.Status, body)
	}
	event(t, a.events(t, "/v1/rooms/team-1/events?join=c2", "Authorization", "Bearer "+token))
	other := newBrowser(t) // another device
	demand(t, other.get(a.url("/rooms/team-1?access_token="+token)), "Join as Ada")
	if resp, body := other.do(http.MethodPost, a.url("/rooms/team-1"), `{"action":"join","data":{}}`, "Content-Type", "application/json", "Accept", "application/json"); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
	a.tells(t, "team-1", token, `"users":1,"connections":5`, present+"5")
	demand(t, b.post(a.url("/rooms/team-1"), leave), "Join as Ada")
	a.tells(t, "team-1", token, `"users":1,"connections":4`)

	// The other room that the token names may be watched, not joined.
	demand(t, b.get(a.url("/rooms/team-2")), "You may watch this room, but not join it.", `data-as="42"`)
	demand(t, b.post(a.url("/rooms/team-2"), join("Ada")), "You may watch this room, but not join it.", `data-joined="false"`)
	a.tells(t, "team-2", token, `"users":0`)
	// In others the token is nothing: there a browser is what it was before.
	if resp, _ := b.do(http.MethodGet, a.url("/rooms/team-3"), ""); resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
	demand(t, b.get(a.url("/rooms/open-1")), `name="username"`, `data-as=""`)
}

// Tokens that are no good, or not for the room, are refused on pages, also in public rooms,
// without a cookie; and what was sent is in no log.
func TestPagesRefuseTokens(t *testing.T) {
	a := start(t, withTokens(t, nil)).ready(t)
	rooms := map[string][]string{"team-1": both, "open-*": both, "join-only": {"join"}}
	good := bearer(t, "42", "Ada", time.Hour, rooms)
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "42", "exp": time.Now().Add(time.Hour).Unix()}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "no token": "x", "tampered": good[:len(good)-4] + "AAAA", "alg none": none, "undecodable": "%zz",
		"expired": bearer(t, "42", "Ada", -time.Second, rooms), "twice": good + "&access_token=" + good,
		"an API key": "psk_x", "long": bearer(t, "42", strings.Repeat("a", 3000), time.Hour, rooms), "huge": strings.Repeat("a", 12_000),
	}
	b := newBrowser(t).still()
	refused := func(what string, status int, address string, header ...string) {
		t.Helper()
		resp, page := b.do(http.MethodGet, a.url(address), "", header...)
		if resp.StatusCode != status || len(resp.Cookies()) > 0 || !strings.Contains(page, "</html>") || strings.Contains(page, good) {
			t.Errorf("%s: %s %v\n%s", what, resp.Status, resp.Header, page)
		}
		if len(header) == 0 && resp.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: what the page loads is told its address", what)
		}
		for _, word := range []string{"oken", "JSON", "HS256", "secret", "claim", "presence.rooms"} { // of operators
			if strings.Contains(page, word) {
				t.Errorf("%s: the page says %q to a visitor:\n%s", what, word, page)
			}
		}
	}
	for what, token := range bad {
		for _, room := range []string{"team-1", "open-1"} {
			refused(what, http.StatusUnauthorized, "/rooms/"+room+"?access_token="+token)
		}
		if what != "twice" && what != "long" {
			refused("a cookie that is "+what, http.StatusUnauthorized, "/rooms/team-1", "Cookie", "presence-as-team-1="+token)
		}
	}
	refused("no right", http.StatusForbidden, "/rooms/team-2?access_token="+good)
	refused("the right to join alone", http.StatusForbidden, "/rooms/join-only?access_token="+good)
	refused("a cookie of another room", http.StatusForbidden, "/rooms/team-2", "Cookie", "presence-as-team-2="+good)
	for address, status := range map[string]int{
		"/rooms/team-2": http.StatusNotFound, "/rooms/a.b?access_token=" + good: http.StatusNotFound,
		"/rooms?access_token=" + good: http.StatusOK, "/nowhere?access_token=" + good: http.StatusNotFound,
		"//evil.example/rooms/team-1?access_token=" + good: http.StatusNotFound,
	} {
		resp, _ := b.do(http.MethodGet, a.url(address), "", "Cookie", "presence-as="+good)
		if resp.StatusCode != status && !strings.HasPrefix(resp.Header.Get("Location"), "/evil") {
			t.Errorf("%s: %s, %s", address, resp.Status, resp.Header.Get("Location"))
		}
	}
	if resp, _ := b.do(http.MethodGet, a.url("/rooms/team-1/?access_token="+good+"&x=1"), ""); resp.Header.Get("Location") != "/rooms/team-1?x=1" {
		t.Errorf("with a slash: %s %s", resp.Status, resp.Header.Get("Location"))
	}
	if _, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+a.Addr()+"/rooms/team-2?tab=aaaaaaaaaaaaaaaa", http.Header{"Cookie": {"presence-as-team-2=" + good}}); err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a socket: %v", err)
	}
	_, metrics := newBrowser(t).do(http.MethodGet, "http://"+a.AdminAddr()+"/metrics", "")
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(a.log.String(), `msg="token of a visitor refused" reason=bad_token detail=`) {
		t.Error("the operator is not told why")
	}
	if told := metrics + a.log.String(); strings.Contains(told, good[:40]) || strings.Contains(told, "access_token") {
		t.Error("what was sent is told")
	}
}

// A guest and a user of one name are two, and told apart; the user's tabs are one user, on
// every replica, and come back as that one when Redis has lost all.
func TestUsersAndGuestsOfOneNameStayApart(t *testing.T) {
	address, m := redisURL(t)
	change := withTokens(t, func(c *Config) {
		c.RedisURL, c.HeartbeatInterval, c.MemberTTL, c.LeaveGrace = address, time.Second, 6*time.Second, 6*time.Second
	})
	a, other := start(t, change).ready(t), start(t, change).ready(t)
	token := bearer(t, "42", "Ada", time.Hour, map[string][]string{"lobby": both})
	guest, b := newBrowser(t), newBrowser(t)
	demand(t, guest.post(a.url("/"), join("Ada")), "Logged in as")
	demand(t, b.get(a.url("/?access_token="+token)), "Join as Ada")
	tabs := []*tabSocket{b.open(a, "/?tab=aaaaaaaaaaaaaaaa"), b.open(other, "/?tab=bbbbbbbbbbbbbbbb")}
	for _, tab := range tabs {
		tab.until("Join as")
		tab.send(`{"action":"join","data":{"username":"Ada"}}`)
		tab.until("Logged in as")
	}
	apart := func() bool {
		body := a.members(t, "lobby", token)
		return strings.Contains(body, `"users":2,"connections":3`) && strings.Contains(body, `"user":"42","name":"Ada","meta":{"color":"teal"},"connections":2`) && strings.Count(body, `"name":"Ada","guest":true,"connections":1`) == 1
	}
	keepGuest := func() { demand(t, guest.get(a.url("/")), "Logged in as") }
	redistest.Eventually(t, 5*time.Second, "a guest and a user", func() bool { keepGuest(); return apart() })
	_ = tabs[0].Close()
	b.open(other, "/?tab=aaaaaaaaaaaaaaaa").until("Logged in as") // reconnects elsewhere
	redistest.Eventually(t, 5*time.Second, "nothing has changed", func() bool { keepGuest(); return apart() })
	m.FlushAll()
	redistest.Eventually(t, 20*time.Second, "all are put back as who they were", func() bool { keepGuest(); return apart() })

	// The user's tab is nothing to a browser without the token, and a guest's none to it.
	stranger := newBrowser(t)
	stranger.Jar.SetCookies(mustParse(t, a.url("/")), cookiesBut(t, b, a, "presence-as"))
	if frame := stranger.open(a, "/?tab=bbbbbbbbbbbbbbbb").until(`"tree"`); strings.Contains(frame, "Logged in as") {
		t.Error("a tab is the user's without the token")
	}
	demand(t, stranger.get(a.url("/")), `name="username"`)
}

// cookiesBut are the cookies of b but those whose names begin with prefix.
func cookiesBut(t *testing.T, b *browser, a *running, prefix string) (kept []*http.Cookie) {
	t.Helper()
	for _, c := range b.Jar.Cookies(mustParse(t, a.url("/"))) {
		if !strings.HasPrefix(c.Name, prefix) {
			kept = append(kept, c)
		}
	}
	return kept
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Without a name in the token its user chooses one; with one that can't be used nobody does.
func TestNamesOfTokens(t *testing.T) {
	a := start(t, withTokens(t, nil)).ready(t)
	rooms := map[string][]string{"team-1": both}
	free := bearer(t, "a|b@c", "", time.Hour, rooms)
	b := newBrowser(t)
	demand(t, b.get(a.url("/rooms/team-1?access_token="+free)), `name="username"`, `data-as="a|b@c"`)
	resp, page := b.do(http.MethodPost, a.url("/rooms/team-1"), join("Eve").Encode())
	demand(t, page, "Logged in as <strong>Eve</strong>")
	// The page that follows is adopted by its tab, also where the id is not of our making.
	b.open(a, "/rooms/team-1?tab=aaaaaaaaaaaaaaaa&adopt="+mark(t, resp)).until("Logged in as")
	a.tells(t, "team-1", free, `"users":1,"connections":1`, `"user":"a|b@c","name":"Eve"`)
	b = newBrowser(t)
	demand(t, b.get(a.url("/rooms/team-1?access_token="+bearer(t, "43", "\u202e", time.Hour, rooms))), "Join as 43")
	demand(t, b.post(a.url("/rooms/team-1"), join("Eve")), "can&#39;t be used here", `data-joined="false"`)
}

// Named origins may frame the pages, with cookies that work there; by default none may.
func TestEmbedders(t *testing.T) {
	for embedders, want := range map[string]string{"": "frame-ancestors 'none'", "https://product.example, http://localhost:3000": "frame-ancestors https://product.example http://localhost:3000"} {
		a := start(t, withTokens(t, func(c *Config) { c.AllowedEmbedders, c.TrustedProxies = embedders, "127.0.0.1" })).ready(t)
		token := bearer(t, "42", "Ada", time.Hour, map[string][]string{"lobby": both})
		b := newBrowser(t).still()
		for _, address := range []string{"/", "/?access_token=" + token, "/rooms/team-1", "/?access_token=x"} {
			for _, scheme := range []string{"http", "https"} {
				resp, _ := b.do(http.MethodGet, a.url(address), "", "X-Forwarded-Proto", scheme)
				if policy := resp.Header.Get("Content-Security-Policy"); !strings.HasSuffix(policy, "; "+want) {
					t.Errorf("%s: %s", address, policy)
				}
				for _, c := range resp.Cookies() {
					framed := embedders != ""
					if c.Partitioned != framed || (c.SameSite == http.SameSiteNoneMode) != framed || (c.SameSite == http.SameSiteLaxMode) == framed || c.Secure != (framed || scheme == "https") || !c.HttpOnly {
						t.Errorf("%s over %s, %q may embed: %+v", address, scheme, embedders, c)
					}
				}
			}
		}
	}
	for _, embedders := range []string{"*", "product.example", "https://product.example/", "https://*.example", "https://a.example;script-src", "'self'", "https://a.example https://b.example"} {
		c := Default()
		c.AllowedEmbedders = embedders
		if err := c.Validate(); err == nil || !strings.Contains(fmt.Sprint(err), "-allowed-embedders") {
			t.Errorf("%s: %v", embedders, err)
		}
	}
}

// Who chose the name on a page is a guest to programs, in events and in lists; who came by
// a program is none, under the same name.
func TestGuestsAreTold(t *testing.T) {
	a := start(t, nil).ready(t)
	key := []string{"Authorization", "Bearer " + a.RunKey()}
	eyes := a.events(t, "/v1/rooms/lobby/events")
	event(t, eyes)
	newBrowser(t).post(a.url("/"), join("Ada"))
	if _, kind, data := event(t, eyes); kind != "diff" || !strings.Contains(data, `"name":"Ada","guest":true,"connections":1`) {
		t.Errorf("a guest: %s %s", kind, data)
	}
	if resp, body := newBrowser(t).do(http.MethodPut, a.url("/v1/rooms/lobby/connections/c1"), `{"user":"42","name":"Ada"}`, key...); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, body)
	}
	if _, kind, data := event(t, eyes); kind != "diff" || !strings.Contains(data, `"user":"42","name":"Ada","connections":1`) {
		t.Errorf("a program's user: %s %s", kind, data)
	}
	_, members := newBrowser(t).do(http.MethodGet, a.url("/v1/rooms/lobby/members"), "")
	_, _, snapshot := event(t, a.events(t, "/v1/rooms/lobby/events"))
	for _, body := range []string{members, snapshot} {
		if strings.Count(body, `"guest":true`) != 1 || strings.Contains(body, `"guest":false`) {
			t.Errorf("not one guest: %s", body)
		}
	}
}

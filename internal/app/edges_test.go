package app

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/web"
)

func TestWrongMethods(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	for _, c := range []struct {
		path, allow string
		methods     []string
	}{
		{"/livez", "GET, HEAD", []string{"POST", "PUT", "DELETE", "OPTIONS", "PURGE"}},
		{"/readyz", "GET, HEAD", []string{"POST", "PATCH"}},
		{"/lbz", "GET, HEAD", []string{"POST", "PUT"}},
		{"/v1/rooms/lobby", "GET, HEAD", []string{"POST", "PUT", "PATCH", "DELETE", "TRACE"}},
		{"/v1/rooms/a.b", "GET, HEAD", []string{"PUT"}},
		{"/", "GET, HEAD, POST", []string{"PUT", "DELETE"}},
		{"/rooms/x", "GET, HEAD, POST", []string{"PATCH", "PURGE"}},
		{a.assets.URL("page.js"), "GET, HEAD", []string{"POST", "DELETE"}},
	} {
		for _, method := range c.methods {
			resp, body := b.do(method, a.url(c.path), "")
			if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != c.allow || !strings.Contains(body, c.allow) {
				t.Errorf("%s %s: %s, Allow %q, %.100s", method, c.path, resp.Status, resp.Header.Get("Allow"), body)
			}
			if strings.HasPrefix(c.path, "/v1") {
				demandProblem(t, resp, body, "method_not_allowed", "never")
			}
		}
	}
	for path, code := range map[string]string{
		"/v1": "not_found", "/v1/": "not_found", "/v1/nothing": "not_found", "/v1/rooms/a/b": "not_found", "/v1/rooms/a.b": "no_such_room",
	} {
		resp, body := b.do("GET", a.url(path), "")
		demandProblem(t, resp, body, code, "never")
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
}

// HEAD is answered as GET is, on each route that takes GET, but that it sets no cookie.
func TestHeadIsGetWithoutABody(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	key := "Bearer " + a.RunKey()
	addresses := []struct{ path, accept string }{
		{"/", "text/html"},
		{"/", "application/json"},
		{"/?tab=aaaaaaaaaaaaaaaa", "text/html"},
		{"/rooms/x", "text/html"},
		{"/rooms/x", "*/*, application/x+json;q=1"},
		{"/rooms/x", "*/*"},
		{"/rooms/x", ""},
		{"/rooms/a.b", "text/html"},
		{"/rooms/x?access_token=x", "text/html"},
		{"/rooms/x/", "text/html"},
		{"/rooms/", "text/html"},
		{"/rooms", "text/html"},
		{"/rooms?room=x", "text/html"},
		{"/rooms?room=a.b", "text/html"},
		{web.Examples, "text/html"},
		{"/nothing", "text/html"},
		{"/robots.txt", ""},
		{web.Favicon, ""},
		{a.assets.URL("page.js"), ""},
		{"/openapi.json", ""},
		{"/asyncapi.json", ""},
		{"/livez", ""},
		{"/readyz", ""},
		{"/lbz", ""},
		{"/v1/rooms", ""},
		{"/v1/rooms/x", ""},
		{"/v1/rooms/a.b", ""},
		{"/v1/rooms/x/members", ""},
		{"/v1/rooms/x/members/u", ""},
		{"/v1/rooms/x/changes?after=1", ""},
		{"/v1/rooms/x/changes?after=x", ""},
		{"/v1/nothing", ""},
		{"/v1/rooms/x/connections/c", ""},
		{"/v1/rooms/x/connections/c/leave", ""},
		{"/v1/heartbeats", ""},
		{"/v1/query", ""},
		{"/v1/rooms/x/events?join=c", ""},
		{"/v1/events", ""},
	}
	for _, at := range addresses {
		ask := func(method string) (int, string) {
			resp, _ := b.still().do(method, a.url(at.path), "", "Accept", at.accept, "Accept-Encoding", "gzip", "Authorization", key)
			for _, name := range []string{"Date", "Content-Length", "Set-Cookie"} {
				resp.Header.Del(name)
			}
			var lines strings.Builder
			_ = resp.Header.Write(&lines) // to memory
			return resp.StatusCode, lines.String()
		}
		gets, get := ask(http.MethodGet)
		heads, head := ask(http.MethodHead)
		if heads != gets || head != get {
			t.Errorf("%s as %q:\nHEAD %d\n%s\nGET %d\n%s", at.path, at.accept, heads, head, gets, get)
		}
	}
	mux := http.NewServeMux() // knows which of the routes the addresses have
	for _, route := range routesOf(t, a) {
		if route == "/" {
			route = "/{$}"
		}
		if route != otherRoute {
			mux.Handle(route, http.NotFoundHandler())
		}
	}
	asked := map[string]bool{otherRoute: true, "/": true}
	for _, at := range addresses {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url(at.path), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, pattern := mux.Handler(r)
		asked[pattern] = true
	}
	for _, route := range routesOf(t, a) {
		if !asked[route] {
			t.Errorf("%s was not asked", route)
		}
	}
}

// demandProblem fails the test unless an answer is a problem of that code.
func demandProblem(t *testing.T, resp *http.Response, body, code, retry string) {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %.100s", resp.Header.Get("Content-Type"), body)
		return
	}
	if p["type"] != "urn:presence:problem:"+code || p["code"] != code || p["retry"] != retry ||
		p["status"] != float64(resp.StatusCode) || p["title"] == "" || p["detail"] == "" {
		t.Errorf("want the problem %s, got %s", code, body)
	}
}

func TestTooLargeIs413HoweverItIsSent(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	large := strings.Repeat("x", 20_000)
	for kind, body := range map[string]string{
		"application/x-www-form-urlencoded":  "lvt-action=join&username=" + large,
		"application/json":                   `{"action":"join","data":{"username":"` + large + `"}}`,
		"multipart/form-data; boundary=edge": "--edge\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\n" + large + "\r\n--edge--\r\n",
	} {
		if resp, page := b.do("POST", a.url("/"), body, "Content-Type", kind); resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(page, "too large") {
			t.Errorf("%s: %s", kind, resp.Status)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url("/"), io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind) // and no length
		resp, err := b.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s in chunks: %s", kind, resp.Status)
		}
	}
	// A length that is a lie.
	for _, length := range []string{"1000000", "20000000000"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %s\r\n\r\n%s", length, large)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("Content-Length %s: %s", length, resp.Status)
		}
	}
}

func TestOnlyOperatorsAreToldWhatRedisSays(t *testing.T) {
	address, m := redisURL(t)
	a := start(t, func(c *Config) { c.RedisURL, c.HeartbeatInterval = address, 500*time.Millisecond }).ready(t)
	b := newBrowser(t)
	const said = "WRONGPASS invalid password of user at redis-7.internal"
	m.SetError(said)
	redistest.Eventually(t, 5*time.Second, "it is not ready", func() bool { return a.replica.Ready() != nil })
	if resp, body := b.do("GET", a.url("/readyz"), ""); resp.StatusCode != 503 || body != "redis\n" {
		t.Errorf("the public is told %s %q", resp.Status, body)
	}
	if resp, body := b.do("GET", "http://"+a.AdminAddr()+"/readyz", ""); resp.StatusCode != 503 || !strings.HasPrefix(body, "redis: ") || !strings.Contains(body, said) {
		t.Errorf("operators are told %s %q", resp.Status, body)
	}
	for _, path := range []string{"/", "/rooms/x", "/v1/rooms/x", "/lbz", "/livez"} {
		if _, body := b.do("GET", a.url(path), ""); strings.Contains(body, "WRONGPASS") || strings.Contains(body, "internal") {
			t.Errorf("%s tells %s", path, body)
		}
	}
	config := a.config
	config.Listen, config.AdminListen = a.Addr(), a.AdminAddr()
	if err := CheckHealth(t.Context(), config); err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("the health check asks the wrong listener: %v", err)
	}
	m.SetError("")
}

func TestWrongPasswordIsToldNowhere(t *testing.T) {
	address, m := redisURL(t)
	m.RequireAuth("right")
	a := start(t, func(c *Config) { c.RedisURL = strings.Replace(address, "redis://", "redis://:geheim@", 1) })
	b := newBrowser(t)
	redistest.Eventually(t, 5*time.Second, "Redis has refused", func() bool {
		_, body := b.do("GET", "http://"+a.AdminAddr()+"/readyz", "")
		return strings.HasPrefix(body, "redis: ")
	})
	for _, address := range []string{a.url("/readyz"), "http://" + a.AdminAddr() + "/readyz", a.url("/v1/rooms/x")} {
		if _, body := b.do("GET", address, ""); strings.Contains(body, "geheim") {
			t.Errorf("%s tells %s", address, body)
		}
	}
}

// forged is what an attacker would have a page say.
const forged = "Your account is locked"

func TestPagesSayNothingThatARequestHasWritten(t *testing.T) {
	a := start(t, nil).ready(t)
	flashes := url.Values{"notice": {forged}, "nameerr": {forged}, "typed": {forged}}.Encode()
	cookies := "lvt-flash=" + flashes + "; lvt-flash=notice=" + url.QueryEscape(forged) + "; livetemplate-id=x"
	query := "/?notice=" + url.QueryEscape(forged) + "&username=" + url.QueryEscape(forged) + "&lvt-flash=" + url.QueryEscape(forged) + "&_general=" + url.QueryEscape(forged)
	for what, send := range map[string]func(b *browser) string{
		"a cookie": func(b *browser) string { _, s := b.do("GET", a.url("/"), "", "Cookie", cookies); return s },
		"a cookie, as JSON": func(b *browser) string {
			_, s := b.do("GET", a.url("/"), "", "Cookie", cookies, "Accept", "application/json")
			return s
		},
		"a query":             func(b *browser) string { return b.get(a.url(query)) },
		"a post with a query": func(b *browser) string { return b.post(a.url(query), join("")) },
		"a post with a cookie": func(b *browser) string {
			_, s := b.do("POST", a.url("/"), join("").Encode(), "Cookie", cookies)
			return s
		},
		"a leave": func(b *browser) string { _, s := b.do("POST", a.url("/"), leave.Encode(), "Cookie", cookies); return s },
		"other fields": func(b *browser) string {
			form := join("")
			for _, name := range []string{"notice", "nameerr", "flash", "_general", "_rate_limit", "Notice"} {
				form.Set(name, forged)
			}
			return b.post(a.url("/"), form)
		},
		"an address": func(b *browser) string { _, s := b.do("GET", a.url("/rooms/"+url.PathEscape(forged)), ""); return s },
		"a method":   func(b *browser) string { _, s := b.do("LOCKED", a.url("/livez"), ""); return s },
	} {
		if page := send(newBrowser(t)); strings.Contains(page, "locked") || strings.Contains(page, "LOCKED") {
			t.Errorf("%s is shown: %s", what, page)
		}
	}
}

func TestVisitorsAreToldNoErrorsOfLibraries(t *testing.T) {
	a := start(t, nil).ready(t)
	for _, c := range []struct{ kind, body string }{
		{"application/x-www-form-urlencoded", "username=%zz&lvt-action=join"},
		{"application/x-www-form-urlencoded", "a;b=1"},
		{"application/x-www-form-urlencoded", "lvt-action=__navigate__"},
		{"application/x-www-form-urlencoded", "lvt-action=__ping__"},
		{"application/x-www-form-urlencoded", "lvt-action=Mount"},
		{"application/x-www-form-urlencoded", ""},
		{"application/json", `{"action":`},
		{"application/json", `{"action":"join"} x`},
		{"application/json", `[` + strings.Repeat("[", 5000)},
		{"application/json", `{"action":7}`},
		{"application/json", "{\"action\":\"\xff\"}"},
		{"application/json", `{"action":"join","data":7}`},
		{"multipart/form-data", "x"},
		{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\nAnn"},
		{"multipart/form-data; boundary=b", "--b\r\nnonsense"},
		{"multipart/form-data; boundary=\"", "--b--"},
		{"text/html; =", "x"},
	} {
		for _, accept := range []string{"text/html", "application/json"} {
			resp, page := newBrowser(t).do("POST", a.url("/"), c.body, "Content-Type", c.kind, "Accept", accept)
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(page, "<h1>This form") {
				t.Errorf("%s %.40q, Accept %s: %s %.200s", c.kind, c.body, accept, resp.Status, page)
			}
			for _, word := range []string{"failed to", "invalid", "multipart", "parse", "unexpected", "EOF", "action", "mime", "WebSocket"} {
				if _, text, _ := strings.Cut(page, "<main>"); strings.Contains(text, word) {
					t.Errorf("%s %.40q: the page says %q: %s", c.kind, c.body, word, text)
				}
			}
		}
	}
	// What is no text comes back as something that is.
	if page := newBrowser(t).post(a.url("/"), join("a\xffb")); !strings.Contains(page, `value="a`+"\ufffd"+`b"`) || !strings.Contains(page, "not valid text") {
		t.Error("a name that is no text does not come back as one")
	}
}

func TestFailuresOfThePageAreToldInOurWords(t *testing.T) {
	a := start(t, nil)
	for status, title := range map[int]string{500: "Something went wrong", 503: "Something went wrong", 400: "This form can"} {
		failing := a.ownWords(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "template: presence:7: nil pointer", status)
		}))
		w := httptest.NewRecorder()
		failing.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != status || strings.Contains(w.Body.String(), "nil pointer") || !strings.Contains(w.Body.String(), title) || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%d: %d %s", status, w.Code, w.Body)
		}
	}
}

func TestNumbersInJSONAreNamesAsTheyWereTyped(t *testing.T) {
	a := start(t, nil).ready(t)
	for _, number := range []string{"1e3", "1e-7", "1.50", "-0", "9007199254740993"} {
		b := newBrowser(t)
		_, reply := b.do("POST", a.url("/"), `{"action":"join","data":{"username":`+number+`}}`, "Content-Type", "application/json", "Accept", "application/json")
		if !strings.Contains(reply, `"`+number+`"`) {
			t.Errorf("%s: %s", number, reply)
		}
	}
}

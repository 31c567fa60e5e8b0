package app

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/access"
	"presence/web"
)

// testKey is an API key, and keyLine its line in a file.
const (
	testKey = "psk_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	keyLine = "test sha256:e37d38ab41043fe00ac943a1346bb7bc9f649c1d6551c75d61a27bd61d865fdb rooms=* rights=read,write\n"
)

func TestPagesOfOtherOriginsMayCallTheAPI(t *testing.T) {
	b := newBrowser(t)
	for setting, origins := range map[string]map[string]string{ // origin → Access-Control-Allow-Origin
		"": {"https://shop.example": "", "https://friend.example": ""}, // which may post forms, no more
		"https://shop.example, https://b.example:8443": {
			"https://shop.example": "https://shop.example", "https://b.example:8443": "https://b.example:8443",
			"https://evil.example": "", "http://shop.example": "", "https://shop.example.evil.example": "", "https://b.example": "", "null": "", "": "",
		},
		"https://shop.example:443": {"https://shop.example": "https://shop.example"},
		"*":                        {"https://shop.example": "*", "null": "*", "": ""},
	} {
		a := start(t, func(c *Config) { c.APIOrigins, c.AllowedOrigins = setting, "https://friend.example" }).ready(t)
		for origin, want := range origins {
			var header []string
			if origin != "" {
				header = []string{"Origin", origin}
			}
			check := func(method, path string, status int, wantHeaders map[string]string) {
				t.Helper()
				h := header
				if method == http.MethodOptions {
					h = append(slices.Clip(h), "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "authorization")
				}
				resp, body := b.do(method, a.url(path), "", h...)
				if resp.StatusCode != status {
					t.Errorf("%s %s from %q with -api-origins %q: %s %s", method, path, origin, setting, resp.Status, body)
				}
				if got := resp.Header.Values("Access-Control-Allow-Origin"); strings.Join(got, ";") != want {
					t.Errorf("%s %s from %q with -api-origins %q: Access-Control-Allow-Origin %q, want %q", method, path, origin, setting, got, want)
				}
				if got := strings.Join(resp.Header.Values("Vary"), ", "); !strings.Contains(got, "Authorization, Origin") {
					t.Errorf("%s %s: Vary %q", method, path, got)
				}
				if resp.Header.Get("Access-Control-Allow-Credentials") != "" || resp.Header.Get("Set-Cookie") != "" {
					t.Errorf("%s %s: with cookies: %v", method, path, resp.Header)
				}
				for name, value := range wantHeaders {
					if want == "" {
						value = ""
					}
					if got := resp.Header.Get(name); got != value {
						t.Errorf("%s %s: %s %q, want %q", method, path, name, got, value)
					}
				}
			}
			exposed := map[string]string{"Access-Control-Expose-Headers": "ETag, Retry-After", "Access-Control-Allow-Methods": ""}
			for path, status := range map[string]int{"/v1/rooms/lobby": 200, "/v1/rooms/a.b": 404, "/v1/nothing": 404} {
				check(http.MethodGet, path, status, exposed) // errors can be read, too
			}
			if origin == "" {
				continue
			}
			for _, path := range []string{"/v1/rooms/lobby", "/v1/rooms/a.b"} { // before any check
				check(http.MethodOptions, path, 204, map[string]string{
					"Access-Control-Allow-Methods": "GET, HEAD",
					"Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, If-None-Match",
					"Access-Control-Max-Age":       "7200", "Access-Control-Expose-Headers": "",
				})
			}
			check(http.MethodOptions, "/v1/nothing", 404, nil)
			for _, path := range []string{"/", "/rooms/lobby", "/rooms"} {
				if resp, _ := b.do(http.MethodGet, a.url(path), "", header...); resp.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("the page %s may be read by %s", path, origin)
				}
			}
		}
	}
}

func TestAPIIsCalledFromAnyOriginAndFormsAreNot(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	for _, header := range [][]string{
		{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		{"Origin", "null", "Sec-Fetch-Site", "cross-site", "Authorization", "Bearer " + testKey},
	} {
		for path, status := range map[string]int{"/v1/nothing": 404, "/": 403, "/rooms/r": 403, "/v1x": 403} {
			if resp, _ := b.do("POST", a.url(path), join("Ann").Encode(), header...); resp.StatusCode != status {
				t.Errorf("POST %s with %v: %s", path, header, resp.Status)
			}
		}
	}
}

// limitedByKeys returns an App that knows the keys of lines, and a handler that answers each call
// that the App does not limit with 204.
func limitedByKeys(t *testing.T, lines string, keyRate int) (*App, http.Handler) {
	t.Helper()
	keys, err := access.ParseKeys(lines)
	if err != nil {
		t.Fatal(err)
	}
	who, err := access.New(access.Options{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	a := &App{access: who, calls: newCalls(keyRate)}
	return a, a.limited(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
}

func TestCallsWithoutAKeyAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := limitedByKeys(t, keyLine, 0)
		call := func(address, authorization string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby", nil)
			r.RemoteAddr = address
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		const address = "[2001:db8:0:1::1]:1234"
		for i := range postBurst {
			authorization := ""
			if i%2 == 1 {
				authorization = "Bearer psk_of-nobody" // what is no good does not help
			}
			if w := call(address, authorization); w.Code != http.StatusNoContent {
				t.Fatalf("call %d: %d", i, w.Code)
			}
		}
		for _, same := range []string{address, "[2001:db8:0:1:ffff::2]:5678"} { // one network of 64 bits
			for _, authorization := range []string{"", "Bearer psk_of-nobody", "Bearer x.y.z", "Basic x"} {
				w := call(same, authorization)
				demandProblem(t, w.Result(), w.Body.String(), "rate_limited", "backoff")
				if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" {
					t.Errorf("from %s with %q: %d, Retry-After %q", same, authorization, w.Code, w.Header().Get("Retry-After"))
				}
			}
		}
		for range 2 * postBurst {
			if w := call(address, "Bearer "+testKey); w.Code != http.StatusNoContent {
				t.Fatalf("with a key: %d", w.Code)
			}
		}
		if w := call("[2001:db8:0:2::1]:1234", ""); w.Code != http.StatusNoContent {
			t.Errorf("another network: %d", w.Code)
		}
		time.Sleep(time.Second)
		for i := range postRate {
			if w := call(address, ""); w.Code != http.StatusNoContent {
				t.Fatalf("call %d of the next second: %d", i, w.Code)
			}
		}
		if w := call(address, ""); w.Code != http.StatusTooManyRequests {
			t.Errorf("more than %d in a second: %d", postRate, w.Code)
		}
	})
}

func TestCallsAreLimitedByTokenAndByKey(t *testing.T) {
	lines := keyLine + fmt.Sprintf("other sha256:%x rooms=* rights=read\n", sha256.Sum256([]byte("psk_other")))
	synctest.Test(t, func(t *testing.T) {
		const keyRate = 10
		a, h := limitedByKeys(t, lines, keyRate)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.calls.run(ctx) }()
		n := 0
		call := func(path, authorization string) int { // each from another network
			n++
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.RemoteAddr = fmt.Sprintf("[2001:db8:%x::1]:1234", n)
			if authorization != "" {
				r.Header.Set("Authorization", "Bearer "+authorization)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code == http.StatusTooManyRequests {
				demandProblem(t, w.Result(), w.Body.String(), "rate_limited", "backoff")
				if w.Header().Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			}
			return w.Code
		}
		exhaust := func(path, authorization string, want int) {
			t.Helper()
			for i := range want {
				if code := call(path, authorization); code != http.StatusNoContent {
					t.Fatalf("call %d of %s: %d", i, authorization, code)
				}
			}
			if code := call(path, authorization); code != http.StatusTooManyRequests {
				t.Errorf("call %d of %s: %d", want, authorization, code)
			}
		}
		const path = "/v1/rooms/lobby/events"
		exhaust(path, "a.b.c", postBurst)
		if code := call(path+"?access_token=a.b.c", ""); code != http.StatusTooManyRequests {
			t.Errorf("the same token in the address: %d", code)
		}
		exhaust(path+"?access_token=d.e.f", "", postBurst)
		exhaust(path, testKey, bursts*keyRate)
		for _, other := range []string{"", "g.h.i", "psk_other"} {
			if code := call(path, other); code != http.StatusNoContent {
				t.Errorf("another sender, %q: %d", other, code)
			}
		}
		time.Sleep(time.Second)
		exhaust(path, "a.b.c", postRate)
		exhaust(path, testKey, keyRate)
		time.Sleep(3 * forgetAddress)
		synctest.Wait()
		for _, l := range []*limiter{a.calls.addresses, a.calls.tokens, a.calls.keys} {
			if len(l.buckets) > 0 {
				t.Errorf("%d senders are remembered", len(l.buckets))
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestKeyRateIsASetting(t *testing.T) {
	for keyRate, want := range map[int]int{0: 404, 1: 429} {
		a := start(t, func(c *Config) { c.KeyRate = keyRate }).ready(t)
		b := newBrowser(t)
		status := 0
		for range 20 { // which take less than the seconds for which they would be allowed
			resp, _ := b.do("GET", a.url("/v1/rooms/lobby/members/nobody"), "", "Authorization", "Bearer "+a.RunKey())
			status = max(status, resp.StatusCode)
		}
		if status != want {
			t.Errorf("-key-rate %d: %d", keyRate, status)
		}
	}
}

func TestTokenSecretIsTheFileWithoutItsNewline(t *testing.T) {
	for text, want := range map[string]string{
		"a secret of a test":       "a secret of a test",
		"a secret of a test\n":     "a secret of a test",
		"a secret of a test\r\n":   "a secret of a test",
		"a secret of a test\n\n":   "a secret of a test\n",
		"\na secret of a test \n":  "\na secret of a test ",
		"a secret of a test\r":     "a secret of a test\r",
		"a secret \n of a test\n":  "a secret \n of a test",
		"\x00\xff secret of tests": "\x00\xff secret of tests",
	} {
		file := t.TempDir() + "/secret"
		if err := writeFile(file, text); err != nil {
			t.Fatal(err)
		}
		if got, err := readTokenSecret(file); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestBadKeysAndTokenSecretsAreNamedWithoutWhatTheyHold(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		text string
		set  func(*Config, string)
		want string
	}{
		"-api-keys-file":          {"# keys\nbilling sha256:geheim rooms=* rights=read\n", func(c *Config, file string) { c.APIKeysFile = file }, "line 2: the second field must be sha256:"},
		"-token-secret-file":      {"geheim\n", func(c *Config, file string) { c.TokenSecretFile = file }, "at least 16 bytes"},
		"-token-secret-file, 15":  {"geheim geheim 5\n", func(c *Config, file string) { c.TokenSecretFile = file }, "at least 16 bytes"},
		"-api-keys-file, away":    {"", func(c *Config, file string) { c.APIKeysFile = file + ".away" }, "no such file"},
		"-token-secret-file, dir": {"", func(c *Config, _ string) { c.TokenSecretFile = dir }, "is a directory"},
	} {
		file := dir + "/" + strings.ReplaceAll(name, " ", "")
		if err := writeFile(file, test.text); err != nil {
			t.Fatal(err)
		}
		config := Default()
		config.Listen, config.AdminListen = "127.0.0.1:0", ""
		test.set(&config, file)
		_, err := New(config, slog.New(slog.DiscardHandler))
		flagName, _, _ := strings.Cut(name, ",")
		if err == nil || !strings.Contains(err.Error(), "bad setting: "+flagName+" ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOrderOfAnswers(t *testing.T) {
	dir := t.TempDir()
	reader := "psk_reader"
	hash := sha256.Sum256([]byte(reader))
	if err := writeFile(dir+"/keys", keyLine+"reader sha256:"+hex.EncodeToString(hash[:])+" rooms=* rights=read\n"); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(dir+"/secret", "a secret of a test, long enough\n"); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "42", "name": "Ann", "exp": time.Now().Add(time.Hour).Unix()}).
		SignedString([]byte("a secret of a test, long enough"))
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, func(c *Config) { c.APIKeysFile, c.TokenSecretFile = dir+"/keys", dir+"/secret" }).ready(t)
	b := newBrowser(t)
	for _, test := range []struct {
		method, path, authorization string
		status                      int
		code                        string
	}{
		{"GET", "/v1/nothing", "Bearer bad", 404, "not_found"},
		{"PATCH", "/v1/rooms/lobby", "Bearer bad", 405, "method_not_allowed"},
		{"GET", "/v1//rooms", "", 404, "not_found"}, // is no other address
		{"PUT", "/v1/rooms//members", "", 404, "not_found"},
		{"GET", "/v1/./rooms", "", 404, "not_found"},
		{"GET", "/v1/rooms/../members", "Bearer bad", 404, "no_such_room"},
		{"GET", "/v1/rooms/.", "Bearer bad", 404, "no_such_room"},
		{"GET", "/v1/rooms/%2e%2e", "Bearer bad", 404, "no_such_room"},
		{"DELETE", "/v1/rooms/lobby/members/..", "Bearer bad", 401, "unauthorized"},
		{"DELETE", "/v1/rooms/lobby/members/..", "Bearer " + testKey, 422, "invalid"},
		{"POST", "/v1/rooms/lobby/connections/../leave", "Bearer " + testKey, 422, "invalid"},
		{"GET", "/v1/rooms/a.b", "Bearer bad", 404, "no_such_room"},
		{"GET", "/v1/rooms/a.b/members?limit=x", "Bearer bad", 404, "no_such_room"},
		{"GET", "/v1/rooms/a.b/events?join=..", "", 404, "no_such_room"},
		{"GET", "/v1/events?rooms=lobby,a.b", "Bearer bad", 404, "no_such_room"},
		{"GET", "/v1/rooms/lobby", "Bearer bad", 401, "unauthorized"}, // in a public room, too
		{"GET", "/v1/rooms/lobby", "Bearer psk_bad", 401, "unauthorized"},
		{"GET", "/v1/rooms", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/members?limit=x", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/members/..%2f", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/changes?after=x", "Bearer bad", 401, "unauthorized"},
		{"POST", "/v1/query", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/events?rooms=lobby&mode=x", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/events?mode=x", "Bearer bad", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/events?mode=x&access_token=bad", "", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/events?mode=x&access_token=" + testKey, "", 401, "unauthorized"},
		{"GET", "/v1/rooms/lobby/events?join=..", "", 401, "unauthorized"}, // no right
		{"GET", "/v1/rooms/lobby/events?join=..", "Bearer " + reader, 403, "forbidden"},
		{"GET", "/v1/rooms/lobby/events?join=..", "Bearer " + token, 403, "forbidden"},
		{"GET", "/v1/rooms/lobby/events?join=..&access_token=" + token, "", 403, "forbidden"},
		{"GET", "/v1/rooms/lobby/events?join=..&user=..", "Bearer " + testKey, 422, "invalid"},
		{"GET", "/v1/rooms/lobby/events?mode=x", "Bearer " + token, 422, "invalid"},
		{"GET", "/v1/rooms/lobby/members?limit=x", "", 422, "invalid"},
		{"GET", "/v1/rooms/lobby/members?limit=x&access_token=bad", "", 422, "invalid"}, // no place for a token
		{"GET", "/v1/rooms/lobby/changes?after=x", "Bearer " + token, 422, "invalid"},
	} {
		var header []string
		if test.authorization != "" {
			header = []string{"Authorization", test.authorization}
		}
		resp, body := b.do(test.method, a.url(test.path), "", header...)
		if resp.StatusCode != test.status {
			t.Errorf("%s %s with %q: %s, want %d: %s", test.method, test.path, test.authorization, resp.Status, test.status, body)
			continue
		}
		demandProblem(t, resp, body, test.code, "never")
		if (resp.Header.Get("WWW-Authenticate") != "") != (test.status == 401) {
			t.Errorf("%s %s: WWW-Authenticate %q", test.method, test.path, resp.Header.Get("WWW-Authenticate"))
		}
		for _, secret := range []string{testKey, token, reader} {
			if strings.Contains(body, secret) {
				t.Errorf("%s %s: credentials are told", test.method, test.path)
			}
		}
	}
	// HEAD is GET without a body: the token in its address counts.
	for token, status := range map[string]int{token: 200, "bad": 401} {
		if resp, _ := b.do(http.MethodHead, a.url("/v1/rooms/lobby/events?access_token="+token), ""); resp.StatusCode != status {
			t.Errorf("HEAD with the token %.10s in the address: %s", token, resp.Status)
		}
	}
	for _, secret := range []string{"psk_", token, "access_token"} {
		if lines := a.linesOf(t, secret); len(lines) > 0 {
			t.Errorf("credentials are logged: %s", lines[0])
		}
	}
}

// Pages of other products take the module from here, whatever else they may.
func TestModuleIsForPagesOfAnyOrigin(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	resp, body := b.do("GET", a.url(web.Module), "", "Origin", "https://elsewhere.example")
	h := resp.Header
	if resp.StatusCode != 200 || !strings.Contains(body, "presence") || h.Get("Content-Type") != "text/javascript; charset=utf-8" ||
		h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Cross-Origin-Resource-Policy") != "cross-origin" || h.Get("Cache-Control") != "no-cache" {
		t.Errorf("%s, %v", resp.Status, h)
	}
	if resp, _ := b.do("GET", a.url(web.Module), "", "If-None-Match", h.Get("ETag")); resp.StatusCode != http.StatusNotModified {
		t.Errorf("the same again: %s", resp.Status)
	}
	resp, _ = b.do("GET", a.url(a.assets.URL("page.js")), "", "Origin", "https://elsewhere.example")
	if h := resp.Header; h.Get("Access-Control-Allow-Origin") != "" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
		t.Errorf("another asset: %v", h)
	}
}

// The keys that sign tokens are rotated while the server runs.
func TestTokensOfAKeySet(t *testing.T) {
	file := t.TempDir() + "/keys.json"
	made := map[string]ed25519.PrivateKey{}
	for _, kid := range []string{"1", "2"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		made[kid] = key
	}
	publish := func(kids ...string) {
		t.Helper()
		var keys []string
		for _, kid := range kids {
			x := base64.RawURLEncoding.EncodeToString(made[kid][ed25519.SeedSize:])
			keys = append(keys, fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, kid, x))
		}
		if err := writeFile(file, `{"keys":[`+strings.Join(keys, ",")+`]}`); err != nil {
			t.Fatal(err)
		}
	}
	token := func(kid, audience string) string {
		t.Helper()
		unsigned := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"sub": "42", "exp": time.Now().Add(time.Hour).Unix(), "aud": audience,
			"presence": map[string]any{"rooms": map[string][]string{"lobby": {"join"}}},
		})
		unsigned.Header["kid"] = kid
		text, err := unsigned.SignedString(made[kid])
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	publish("1")
	a := start(t, func(c *Config) { c.TokenJWKS, c.TokenAudience = file, "presence" }).ready(t)
	if a.RunKey() != "" {
		t.Error("a key was made for the run, though tokens are taken")
	}
	b := newBrowser(t)
	put := func(when, token string, want int) {
		t.Helper()
		if resp, body := b.do("PUT", a.url("/v1/rooms/lobby/connections/c1"), "{}", "Authorization", "Bearer "+token); resp.StatusCode != want {
			t.Errorf("%s: %s %s", when, resp.Status, body)
		}
	}
	put("a good token", token("1", "presence"), 201)
	put("for others", token("1", "others"), 401)
	put("of a key that is not published", token("2", "presence"), 401)
	publish("2")
	a.Reload(t.Context())
	put("of a key that is published now", token("2", "presence"), 200)
	put("of a key that was withdrawn", token("1", "presence"), 401)
	if err := writeFile(file, "geheim"); err != nil {
		t.Fatal(err)
	}
	a.Reload(t.Context())
	put("while the set is none", token("2", "presence"), 200)
	if len(a.linesOf(t, "it must be a JSON Web Key Set")) == 0 {
		t.Error("the log does not say what is wrong with the set")
	}
	for _, secret := range []string{"geheim", token("2", "presence")[:60]} {
		if lines := a.linesOf(t, secret); len(lines) > 0 {
			t.Errorf("the log tells %q: %s", secret, lines[0])
		}
	}
}

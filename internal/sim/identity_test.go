package sim

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/app"
)

// No visit outlives its token. The socket ends with the token, and the user leaves at
// once, whether the user came by a socket or by a form. The page says what to do. A
// visitor who may look at the room as a guest stays as a guest, does not join by itself,
// and may join.
func TestPageEndsWithItsToken(t *testing.T) {
	const secret, life = "a secret of a test, long enough", 40 * time.Second
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, public := range map[string]bool{"/rooms/team-1": false, "/rooms/open-1": true} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := calm(t, 1, func(c *app.Config) { c.TokenSecretFile, c.PublicRooms = file, "open-*" })
				p := w.procs[0]
				jar := map[string]*http.Cookie{}
				expire := map[string]time.Time{}
				cookies := func() (list []*http.Cookie) {
					for name, c := range jar {
						if time.Now().Before(expire[name]) {
							list = append(list, c)
						}
					}
					return list
				}
				do := func(method, path, body string) *answer {
					t.Helper()
					r := request(method, path, body)
					r.Header.Set("Accept", "text/html")
					if body != "" {
						r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					}
					for _, c := range cookies() {
						r.AddCookie(c)
					}
					got, err := p.exchange(p.public, watcher, r, time.Minute)
					if err != nil {
						t.Fatal(err)
					}
					for _, c := range (&http.Response{Header: got.header}).Cookies() {
						jar[c.Name], expire[c.Name] = c, time.Now().Add(time.Duration(c.MaxAge)*time.Second)
					}
					return got
				}
				connections := func() int {
					synctest.Wait()
					conns, _ := w.redis[0].HKeys("presence:{" + strings.TrimPrefix(path, "/rooms/") + "}:conns")
					return len(conns)
				}

				end := time.Now().Add(life)
				token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
					"sub": "42", "name": "Ada", "exp": end.Unix(), "presence": map[string]any{"rooms": map[string][]string{"*": {"observe", "join"}}},
				}).SignedString([]byte(secret))
				if err != nil {
					t.Fatal(err)
				}
				if got := do(http.MethodGet, path+"?access_token="+token, ""); got.status != http.StatusSeeOther || got.header.Get("Location") != path {
					t.Fatalf("%d %v", got.status, got.header)
				}
				if got := do(http.MethodGet, path, ""); got.status != http.StatusOK || !strings.Contains(got.body, "Join as Ada") {
					t.Fatalf("%d %s", got.status, got.body)
				}
				tab := p.open(t, path, cookies())
				tab.join("Ada")
				do(http.MethodPost, path, url.Values{"join": {""}}.Encode())
				for time.Until(end) > time.Second { // without a script the page reloads itself
					time.Sleep(time.Second)
					do(http.MethodGet, path, "")
					if n := connections(); n != 2 {
						t.Fatalf("%d connections %v before the end", n, time.Until(end))
					}
				}
				time.Sleep(time.Until(end) + time.Second)
				if n := connections(); n != 0 {
					t.Errorf("%d connections after the end", n)
				}
				select {
				case <-tab.done:
				default:
					t.Error("the socket is open")
				}

				const words = "Your access to this room has ended"
				status := map[bool]int{true: http.StatusOK, false: http.StatusUnauthorized}[public]
				if got := do(http.MethodHead, path+"?tab=aaaaaaaaaaaaaaaa", ""); got.status != status {
					t.Errorf("the page is told %d", got.status)
				}
				if got := do(http.MethodGet, path, ""); got.status != status || !strings.Contains(got.body, words) || strings.Contains(got.body, "Join as Ada") {
					t.Errorf("%d %s", got.status, got.body)
				}
				if !public {
					if got := do(http.MethodPost, path, url.Values{"join": {""}, "username": {"Ada"}}.Encode()); got.status != status || connections() != 0 {
						t.Errorf("a form: %d", got.status)
					}
					return
				}
				tab = p.open(t, path, cookies())
				if !tab.got(words) || tab.got("Logged in as") || connections() != 0 {
					t.Errorf("%q", tab.frames)
				}
				tab.join("Ada")
				users, _ := w.redis[0].HKeys("presence:{open-1}:users")
				if len(users) != 1 || users[0] == "42" {
					t.Errorf("the guest who joined is %q", users)
				}
			})
		})
	}
}

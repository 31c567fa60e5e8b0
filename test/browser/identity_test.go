package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/redistest"
)

// bearer returns a token for Ada in a room, which expires after life.
func bearer(t *testing.T, room string, life time.Duration) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "42", "name": "Ada", "exp": time.Now().Add(life).Unix(),
		"presence": map[string]any{"rooms": map[string][]string{room: {"observe", "join"}}},
	}).SignedString([]byte(tokenSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A visitor who comes with a token is the token's user, joins without typing a name, and
// stays joined over a reload and a killed replica. When the token has expired, the page
// says what to do. A page of another origin that may frame ours shows our page to the
// same visitor.
func TestPageWithAnIdentity(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(tokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	var framed atomic.Value
	product := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Product</title><link rel="icon" href="data:,"><iframe src=%q></iframe>`, framed.Load())
	}))
	t.Cleanup(product.Close)
	// Another site than the replicas, which are at 127.0.0.1.
	origin := strings.Replace(product.URL, "127.0.0.1", "localhost", 1)
	site := newSite(t, "-token-secret-file", secret, "-public-rooms", "lobby", "-allowed-embedders", origin)
	way := newBalancer(t, site.a)
	browser := newBrowser(t)
	tab := browser.open(way.URL + "/rooms/team-1?access_token=" + bearer(t, "team-1", time.Hour))
	if at := eval[string](tab, "location.href"); at != way.URL+"/rooms/team-1" {
		t.Errorf("the address is %s", at)
	}
	if seen := eval[string](tab, "document.cookie"); seen != "" {
		t.Errorf("a script reads %q", seen)
	}
	tab.click(joinButton)
	joined := func(s sight) bool { return s.As == "Ada" && s.live() && s.shows("Ada") }
	tab.sees(soon, "joined", joined)
	tab.reload()
	tab.sees(soon, "joined after a reload", joined)
	tab.outage = true
	way.switchTo(site.b)
	site.a.Kill()
	tab.sees(soon, "joined at another replica", joined)

	framed.Store(way.URL + "/rooms/team-2?access_token=" + bearer(t, "team-2", time.Hour))
	frame := browser.newTab()
	frame.navigate(origin)
	redistest.Eventually(t, soon, "the page in the frame has a socket, too", func() bool { return site.b.Metric("presence_socket_connections") == 2 })

	tab.navigate(way.URL + "/rooms/team-1?access_token=" + bearer(t, "team-1", 3*time.Second))
	redistest.Eventually(t, soon, "the page says that the access has ended", func() bool {
		title, err := try[string](tab, "document.querySelector('h1')?.textContent")
		return err == nil && title == "Your access to this room has ended"
	})
}

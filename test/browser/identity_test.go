package browser

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/redistest"
)

// A visitor who comes with a token is its user, joins without typing a name, and stays joined
// over a reload and a killed replica. When the token expires the user leaves and the page
// says what to do, and the tab does not join again as a guest.
func TestPageWithAnIdentity(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(tokenSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	site := newSite(t, "-token-secret-file", secret, "-public-rooms", "lobby")
	way := newBalancer(t, site.a)
	token := func(life time.Duration) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"sub": "42", "name": "Ada", "exp": time.Now().Add(life).Unix(),
			"presence": map[string]any{"rooms": map[string][]string{"team-1": {"observe", "join"}}},
		}).SignedString([]byte(tokenSecret))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	tab := newBrowser(t).open(way.URL + "/rooms/team-1?access_token=" + token(time.Hour))
	if at := eval[string](tab, "location.href"); at != way.URL+"/rooms/team-1" {
		t.Errorf("the address is %s", at)
	}
	if seen := eval[string](tab, "document.cookie"); seen != "" {
		t.Errorf("a script reads %q", seen)
	}
	tab.click(".you [name=join]")
	joined := func(s sight) bool { return s.As == "Ada" && s.live() && s.shows("Ada") }
	tab.sees(soon, "joined", joined)
	tab.reload()
	tab.sees(soon, "joined after a reload", joined)
	tab.outage = true
	way.switchTo(site.b)
	site.a.Kill()
	tab.sees(soon, "joined at another replica", joined)

	last := time.Now()
	tab.navigate(way.URL + "/rooms/team-1?access_token=" + token(3*time.Second))
	tab.sees(soon, "joined with a new token", joined)
	redistest.Eventually(t, soon, "the page says that the access has ended", func() bool {
		title, err := try[string](tab, "document.querySelector('h1')?.textContent")
		return err == nil && title == "Your access to this room has ended"
	})
	if took := time.Since(last); took < 2*time.Second {
		t.Errorf("the access has ended after %v", took)
	}
	resp, err := http.Get(site.b.URL + "/rooms/team-1") //nolint:noctx // in a test
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("others are told %s", resp.Status)
	}
}

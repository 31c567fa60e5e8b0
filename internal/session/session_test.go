package session

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// visit makes a request with the given cookies and returns the session and the
// cookie that was set, if any.
func visit(c *Cookies, https bool, cookies ...*http.Cookie) (string, *http.Cookie) {
	r := httptest.NewRequest(http.MethodGet, "http://h/", nil)
	if https {
		r.TLS = &tls.ConnectionState{}
	}
	for _, cookie := range cookies {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	id := c.Ensure(w, r)
	if set := w.Result().Cookies(); len(set) > 0 {
		return id, set[0]
	}
	return id, nil
}

func TestSessionSurvivesAndMovesBetweenReplicas(t *testing.T) {
	a, b := New([]byte("shared")), New([]byte("shared"))
	id, cookie := visit(a, false)
	if cookie == nil || !cookie.HttpOnly || cookie.Secure || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Name != "presence" {
		t.Fatalf("cookie %+v", cookie)
	}
	if again, set := visit(b, false, cookie); again != id || set != nil {
		t.Fatalf("another replica says %q, sets %v; want %q", again, set, id)
	}
	if other, _ := visit(a, false); other == id {
		t.Fatal("two browsers have one session")
	}
}

func TestForgedCookiesAreReplaced(t *testing.T) {
	c := New([]byte("secret"))
	id, cookie := visit(c, false)
	_, foreign := visit(New([]byte("other secret")), false)
	for _, value := range []string{"", "x", id, id + ".", id + "." + strings.Repeat("A", 22), strings.Repeat("x", 5000), foreign.Value} {
		got, set := visit(c, false, &http.Cookie{Name: cookie.Name, Value: value})
		if got == id || set == nil {
			t.Errorf("cookie %.40q was believed", value)
		}
	}
}

func TestSecureCookie(t *testing.T) {
	c := New([]byte("secret"))
	id, cookie := visit(c, true)
	if cookie.Name != "__Host-presence" || !cookie.Secure || cookie.Path != "/" || cookie.Domain != "" {
		t.Fatalf("cookie %+v", cookie)
	}
	if again, set := visit(c, true, cookie); again != id || set != nil {
		t.Fatal("a secure cookie is not believed")
	}
	plain := *cookie
	plain.Name = "presence"
	if got, _ := visit(c, true, &plain); got == id {
		t.Fatal("over TLS a cookie that anybody may have set is believed")
	}
}

func TestNewSecretEndsOldSessions(t *testing.T) {
	c := New([]byte("one"))
	id, cookie := visit(c, false)
	before := c.Keys().UserID(id, "Ann")
	c.SetSecret([]byte("two"))
	if got, set := visit(c, false, cookie); got == id || set == nil || c.Keys().UserID(id, "Ann") == before {
		t.Fatal("the old secret is still in use")
	}
}

func FuzzOpen(f *testing.F) {
	c := New([]byte("secret"))
	_, cookie := visit(c, false)
	f.Add(cookie.Value)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, value string) {
		if id, ok := c.open(value); ok && value != id+"."+c.sign(id) {
			t.Fatalf("open(%q) = %q", value, id)
		}
	})
}

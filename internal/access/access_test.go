package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	testKey    = "psk_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	testSecret = "a secret of a test, long enough to be one"
)

// line is a line of the keys file for key.
func line(name, key, rooms, rights string) string {
	hash := sha256.Sum256([]byte(key))
	return name + " sha256:" + hex.EncodeToString(hash[:]) + " rooms=" + rooms + " rights=" + rights + "\n"
}

// sign returns a token with the claims, signed with the secret of the tests.
func sign(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// open returns an Access with the keys of a file and the secret of the tests.
func open(t *testing.T, file string, o Options) *Access {
	t.Helper()
	keys, err := ParseKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	o.Keys = keys
	if o.TokenSecret == nil {
		o.TokenSecret = []byte(testSecret)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request is one with an Authorization header, unless that is empty.
func request(authorization string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func TestEachCredentialGrantsItsRights(t *testing.T) {
	a := open(t, line("backend", testKey, "lobby,team-*", "write"), Options{PublicRooms: []string{"open"}})
	token := sign(t, jwt.MapClaims{
		"sub": "42", "exp": time.Now().Add(time.Hour).Unix(),
		"presence": map[string]any{"rooms": map[string]any{"lobby": []string{"observe", "join", "remove"}, "team-*": []string{"observe"}}},
	})
	all := Observe | Join | Remove
	for name, want := range map[string]struct {
		authorization string
		speaker       string
		rights        map[string]Right
	}{
		"nobody": {"", "", map[string]Right{"open": Observe}},
		"key":    {"Bearer " + testKey, "key", map[string]Right{"open": Observe, "lobby": Join | Remove, "team-1": Join | Remove}},
		"token":  {"bearer " + token, "token:42", map[string]Right{"open": Observe, "lobby": Observe | Join, "team-1": Observe}},
	} {
		g, err := a.Grant(request(want.authorization), false)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if g.Speaker != want.speaker {
			t.Errorf("%s: speaker %q, want %q", name, g.Speaker, want.speaker)
		}
		for _, room := range []string{"open", "lobby", "team-1", "team-", "team", "lobby2", "Lobby"} {
			for right := Observe; right <= all; right <<= 1 {
				rights := want.rights[room]
				if room == "team-" {
					rights = want.rights["team-1"]
				}
				if got := g.May(right, room); got != (rights&right != 0) {
					t.Errorf("%s: May(%v, %s) = %v", name, right, room, got)
				}
			}
		}
	}
}

// kind is how err refuses.
func kind(t *testing.T, err error) (Kind, Reason) {
	t.Helper()
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("%v is no refusal", err)
	}
	return refusal.Kind, refusal.Reason
}

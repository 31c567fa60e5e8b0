package presence

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckRoom(t *testing.T) {
	for room, legal := range map[string]bool{
		"lobby": true, "A-b_9": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a/b": false, "..": false, "a b": false, "ü": false, "a{b}": false, "*": false, "a:b": false,
	} {
		if err := CheckRoom(room); (err == nil) != legal || err != nil && !errors.Is(err, ErrInvalidRoom) {
			t.Errorf("CheckRoom(%q) = %v", room, err)
		}
	}
}

func FuzzCheckRoom(f *testing.F) {
	f.Add("lobby")
	f.Add("a}b")
	f.Fuzz(func(t *testing.T, room string) {
		if CheckRoom(room) == nil && (len(room) > 64 || strings.ContainsAny(room, "{}:/*?[] \x00.")) {
			t.Fatalf("CheckRoom(%q) = nil", room)
		}
	})
}

func TestCheckID(t *testing.T) {
	for id, legal := range map[string]bool{
		"42": true, "-": true, "...": true, ".a": true, "a_b.c:d@e|f+g=h~i-J9": true, strings.Repeat("x", 128): true,
		"": false, ".": false, "..": false, strings.Repeat("x", 129): false,
		"a b": false, "a/b": false, "a%b": false, "ü": false, "a\x00": false, "a\n": false, "a,b": false, "{a}": false, "*": false,
	} {
		if err := CheckID(id); (err == nil) != legal || err != nil && !errors.Is(err, ErrInvalidID) {
			t.Errorf("CheckID(%q) = %v", id, err)
		}
	}
}

func TestIsTabKey(t *testing.T) {
	for key, legal := range map[string]bool{
		strings.Repeat("a", 15): false, strings.Repeat("a", 16): true, strings.Repeat("-", 64): true,
		strings.Repeat("a", 65): false, strings.Repeat("a", 16) + ".": false,
	} {
		if IsTabKey(key) != legal {
			t.Errorf("IsTabKey(%q) = %v", key, !legal)
		}
	}
}

func TestKeys(t *testing.T) {
	k := NewKeys([]byte("secret"))
	seen := map[string]bool{}
	for _, id := range []string{
		k.UserID("s1", "Ann"), k.UserID("s2", "Ann"), k.UserID("s1", "Ben"),
		k.ConnectionID("s1", "Ann"), k.ConnectionID("s1", ""), NewKeys([]byte("other")).UserID("s1", "Ann"),
		k.SpeakerConnectionID("s1", "Ann"), k.SpeakerConnectionID("key", "c1"), k.SpeakerConnectionID("key", "c2"),
		k.SpeakerConnectionID("token:1", "c1"), k.SpeakerConnectionID("token:1c", "1"), NewKeys([]byte("other")).SpeakerConnectionID("key", "c1"),
	} {
		if len(id) != IDSize || seen[id] || !isToken(id, IDSize, IDSize) {
			t.Errorf("id %q", id)
		}
		seen[id] = true
	}
	if k.UserID("s1", "Ann") != NewKeys([]byte("secret")).UserID("s1", "Ann") {
		t.Error("two replicas with one secret disagree")
	}
	if a, b := NewGeneration(), NewGeneration(); len(a) != GenerationSize || !isToken(a, 4, 4) || a == b && NewGeneration() == a {
		t.Errorf("generations %q, %q", a, b)
	}
	if h := NewHTTPGeneration(); len(h) != GenerationSize || !IsHTTPGeneration(h) || isToken(h, 4, 4) {
		t.Errorf("generation without a socket: %q", h)
	}
	for range 10_000 {
		if g := NewGeneration(); IsHTTPGeneration(g) || strings.Contains(g, ".") {
			t.Fatalf("a socket has the generation %q", g)
		}
	}
}

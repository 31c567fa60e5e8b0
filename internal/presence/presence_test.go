package presence

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestCleanName(t *testing.T) {
	for raw, want := range map[string]string{
		"Alice":                           "Alice",
		"  Alice \t":                      "Alice",
		"Alice  \u00a0 B":                 "Alice B",
		"42":                              "42",
		"Ame\u0301lie":                    "Amélie",
		"李小龍":                             "李小龍",
		"<b>&\"'":                         "<b>&\"'",
		"🦊 fox":                           "🦊 fox",
		"❤\ufe0f":                         "❤\ufe0f",
		"{x}":                             "{x}",
		"a {{x}}":                         "a {{x}}",
		strings.Repeat("ö", 40):           strings.Repeat("ö", 40),
		"":                                "type a name",
		" \u3000 ":                        "type a name",
		strings.Repeat("x", 41):           "at most 40",
		"a\x00b":                          "control",
		"a\nb":                            "control",
		"a\u202eb":                        "control",
		"a\u2066b":                        "control",
		"a\u200bb":                        "control",
		"a\u200db":                        "control",
		"\ufeffa":                         "", // a byte order mark at the start is trimmed by nobody
		"a\u2028b":                        "control",
		"a\ue000b":                        "control",
		"\u3164":                          "invisible",
		"a\xffb":                          "not valid text",
		"e\u0301\u0302\u0303\u0304\u0305": "accents",
		"{{x}}":                           "{{",
		"{{":                              "{{",
		"a<root>b":                        "<root>",
		"a</ROOT>":                        "<root>",
	} {
		got, err := CleanName(raw)
		var refused *NameError
		switch {
		case err == nil && got != want:
			t.Errorf("CleanName(%q) = %q, want %q", raw, got, want)
		case err != nil && (!errors.As(err, &refused) || !strings.Contains(err.Error(), want)):
			t.Errorf("CleanName(%q): %v, want %q", raw, err, want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, s := range []string{"Alice", " a  b ", "{{x}}", "e\u0301", "a\u202eb", "\xff", "❤\ufe0f", "ﷺ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := CleanName(raw)
		if err != nil {
			return
		}
		if n := utf8.RuneCountInString(name); n < 1 || n > MaxName || !utf8.ValidString(name) || !norm.NFC.IsNormalString(name) {
			t.Fatalf("CleanName(%q) = %q", raw, name)
		}
		for _, r := range name {
			if unicode.Is(unicode.C, r) {
				t.Fatalf("CleanName(%q) = %q with %U", raw, name, r)
			}
		}
		if again, err := CleanName(name); err != nil || again != name {
			t.Fatalf("CleanName(%q) = %q, and of that %q, %v", raw, name, again, err)
		}
	})
}

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
}

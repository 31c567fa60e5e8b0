package presence

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPatternsApartAndUnder(t *testing.T) {
	for _, test := range []struct{ patterns, prefix, want string }{
		{"", "", "[]"},
		{"lobby", "", "[{lobby false}]"},
		{"*", "", "[{ true}]"},
		{"b,a*,*,a,c", "", "[{ true}]"},
		{"tea,team-*,team-1,team-10*,lobby,tea,a*", "", "[{a true} {lobby false} {tea false} {team-* true}]"},
		{"a,a*", "", "[{a true}]"},
		{"*", "te", "[{te true}]"},
		{"team-*,tea,t,lobby", "te", "[{tea false} {team- true}]"},
		{"team-*,lobby", "team-1", "[{team-1 true}]"},
		{"team-1,lobby", "team-12", "[]"},
	} {
		ps, err := ParsePatterns(strings.FieldsFunc(test.patterns, func(r rune) bool { return r == ',' }))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(ps.Under(test.prefix).Apart()); got != strings.ReplaceAll(test.want, "-*", "-") {
			t.Errorf("%s under %q: %s, want %s", test.patterns, test.prefix, got, test.want)
		}
	}
}

// FuzzPatterns holds: patterns that were told apart, or narrowed, stand for the rooms that
// they stood for, each pattern for others, in the order of their names.
func FuzzPatterns(f *testing.F) {
	f.Add("team-*,tea,lobby", "te", "team-1")
	f.Add("*", "", "lobby")
	f.Add("a,a*,ab,ab*,b", "a", "abc")
	f.Fuzz(func(t *testing.T, list, prefix, room string) {
		ps, err := ParsePatterns(strings.Split(list, ","))
		if err != nil || prefix != "" && CheckRoom(prefix) != nil {
			return
		}
		if CheckRoom(room) != nil {
			return
		}
		want := ps.Match(room) && strings.HasPrefix(room, prefix)
		got := ps.Under(prefix).Apart()
		if got.Match(room) != want {
			t.Errorf("%v under %q as %v: %q is one of them: %v, want %v", ps, prefix, got, room, !want, want)
		}
		if ps.All() && !ps.Match(room) {
			t.Errorf("%v are all, without %q", ps, room)
		}
		if !slices.IsSortedFunc(got, func(a, b Pattern) int { return strings.Compare(a.Text, b.Text) }) {
			t.Errorf("%v is not in order", got)
		}
		for i := range got {
			for j := range got {
				if i != j && got[i].Match(got[j].Text) {
					t.Errorf("%v and %v are not apart", got[i], got[j])
				}
			}
		}
	})
}

// FuzzPattern holds: a pattern stands for the rooms that it says.
func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"lobby", "team-*", "*", "", "**", "a*b", "é*", strings.Repeat("x", 64) + "*"} {
		f.Add(seed, "team-1")
	}
	f.Fuzz(func(t *testing.T, text, room string) {
		p, err := ParsePattern(text)
		if err != nil {
			return
		}
		prefix, isPrefix := strings.CutSuffix(text, "*")
		if want := room == text || isPrefix && strings.HasPrefix(room, prefix); p.Match(room) != want {
			t.Errorf("%q stands for %q: %v", text, room, !want)
		}
		if strings.ContainsAny(prefix, "* \n.") || slices.Contains([]rune(text), '\uFFFD') {
			t.Errorf("the pattern %q was accepted", text)
		}
	})
}

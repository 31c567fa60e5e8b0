package presence

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

// A Pattern stands for rooms: for one by its name, or for all whose names begin with a
// prefix. It is written as the name, or as the prefix followed by *.
type Pattern struct {
	Text   string // name or prefix; only a prefix may be empty
	Prefix bool
}

// ErrInvalidPattern is returned for a pattern that [ParsePattern] refuses.
var ErrInvalidPattern = errors.New("a pattern is the name of a room, or a prefix of names followed by *")

// ParsePattern reads a pattern. A prefix may be empty: then it stands for all rooms. The
// error is [ErrInvalidPattern].
func ParsePattern(s string) (Pattern, error) {
	text, isPrefix := strings.CutSuffix(s, "*")
	if isPrefix && text == "" || CheckRoom(text) == nil {
		return Pattern{text, isPrefix}, nil
	}
	return Pattern{}, ErrInvalidPattern
}

// Match reports whether p stands for room.
func (p Pattern) Match(room string) bool {
	return room == p.Text || p.Prefix && strings.HasPrefix(room, p.Text)
}

// Patterns stand for the rooms of each of them.
type Patterns []Pattern

// AllRooms stand for every room.
func AllRooms() Patterns { return Patterns{{Prefix: true}} }

// ParsePatterns reads patterns. The error is [ErrInvalidPattern].
func ParsePatterns(list []string) (Patterns, error) {
	var all Patterns
	for _, s := range list {
		p, err := ParsePattern(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Match reports whether one of ps stands for room.
func (ps Patterns) Match(room string) bool {
	for _, p := range ps {
		if p.Match(room) {
			return true
		}
	}
	return false
}

// All reports whether one of ps stands for every room.
func (ps Patterns) All() bool { return slices.Contains(ps, Pattern{Prefix: true}) }

// Apart returns patterns that stand for the same rooms, in the order of the names. No two
// of them stand for the same room.
func (ps Patterns) Apart() Patterns {
	sorted := slices.Clone(ps)
	slices.SortFunc(sorted, func(a, b Pattern) int {
		if a.Text == b.Text && a.Prefix != b.Prefix {
			if a.Prefix {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Text, b.Text)
	})
	apart := sorted[:0]
	for _, p := range sorted {
		// A pattern that covers p comes before p, and covers all patterns in between.
		if last := len(apart) - 1; last < 0 || !apart[last].Match(p.Text) {
			apart = append(apart, p)
		}
	}
	return apart
}

// Under returns patterns for the rooms of ps whose names begin with prefix.
func (ps Patterns) Under(prefix string) Patterns {
	var under Patterns
	for _, p := range ps {
		switch {
		case strings.HasPrefix(p.Text, prefix):
			under = append(under, p)
		case p.Prefix && strings.HasPrefix(prefix, p.Text):
			under = append(under, Pattern{prefix, true})
		}
	}
	return under
}

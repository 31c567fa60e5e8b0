package access

import (
	"errors"
	"strings"

	"presence/internal/presence"
)

// A pattern stands for rooms: for one by its name, or for all whose names begin with
// a prefix.
type pattern struct {
	text string // name or prefix
	any  bool   // it is a prefix
}

// errPattern says what a pattern is.
var errPattern = errors.New("a pattern is the name of a room, or a prefix of names followed by *")

// parsePattern reads a pattern. A prefix may be empty: then it stands for all rooms.
func parsePattern(s string) (pattern, error) {
	prefix, isPrefix := strings.CutSuffix(s, "*")
	if isPrefix && prefix == "" || presence.CheckRoom(prefix) == nil {
		return pattern{prefix, isPrefix}, nil
	}
	return pattern{}, errPattern
}

// match reports whether room is one of those that p stands for.
func (p pattern) match(room string) bool {
	return room == p.text || p.any && strings.HasPrefix(room, p.text)
}

// patterns stand for the rooms of each of them.
type patterns []pattern

func parsePatterns(list []string) (patterns, error) {
	var all patterns
	for _, s := range list {
		p, err := parsePattern(s)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// match reports whether room is one of those that ps stand for.
func (ps patterns) match(room string) bool {
	for _, p := range ps {
		if p.match(room) {
			return true
		}
	}
	return false
}

// A rule grants rights in the rooms of a pattern.
type rule struct {
	pattern pattern
	rights  Right
}
